"""An OPC UA server made by open62541 (`opcua_server.c`, built by `run --long`), with the requests of opcua_peer.py that recovery needs."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import answering

STARTS_WITHIN = 5


def open_server(given: dict[str, Any]) -> subprocess.Popen[str]:
    """The server, once it serves. The port of one that was killed is free a moment later."""
    argv = [given["server"], str(given["port"]), str(given.get("count", 0)), str(int(given.get("counting", False))), *given.get("certificate", [])]
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        server = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        if server.stdout.readline() == "ready\n":
            return server
        server.kill()
        if time.monotonic() > deadline:
            raise SystemExit(f"the server did not start: code {server.wait()}")
        time.sleep(0.05)


async def main() -> None:
    given = answering.arguments()
    server = open_server(given)

    def order(line: str) -> None:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(f"{line}\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        if answer != "ok\n":
            raise ValueError(f"`{line}` was answered `{answer.strip()}`")

    def each(word: str, names: list[str], value: float | None = None) -> None:
        for name in names:
            order(f"{word} {name}" if value is None else f"{word} {name} {value!r}")

    def add(names: list[str], value: float = 1.0) -> None:
        each("add", names, value)

    add(given.get("nodes", []))
    handlers = {
        "add": add,
        "write": lambda names, value: each("write", names, value),
        "remove": lambda names: each("remove", names),
        "pid": lambda: server.pid,
    }
    await answering.answer_all(handlers)
    # Its input ends with us, and it with its input.


if __name__ == "__main__":
    answering.run(main)
