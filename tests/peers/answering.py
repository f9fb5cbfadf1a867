"""The helper's side of `stage.Helper`: requests as JSON lines on standard input, answers on standard output."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from collections.abc import Callable
from typing import Any

Handlers = dict[str, Callable[..., Any]]


def arguments() -> dict[str, Any]:
    """What `Stage.helper` was given."""
    return json.loads(sys.argv[1])


def say(answer: dict[str, Any]) -> None:
    """One answer."""
    print(json.dumps(answer), flush=True)


async def answer_all(handlers: Handlers) -> None:
    """Says that the helper is ready, answers requests, and returns when the harness is gone."""
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say({"value": "ready"})
    while line := await reader.readline():
        request = json.loads(line)
        try:
            value = handlers[request.pop("op")](**request)
            say({"value": await value if inspect.isawaitable(value) else value})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})


def run(main: Callable[[], Any]) -> None:
    """Runs the helper's `main` and leaves at once, whatever its servers still wait for."""
    asyncio.run(_until_end(main))


async def _until_end(main: Callable[[], Any]) -> None:
    await main()
    sys.stdout.flush()
    os._exit(0)
