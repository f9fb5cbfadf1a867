"""Waiting: every wait has a deadline and says what it waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Failed(Exception):
    """A scenario's expectation did not hold."""


def wait_for(what: str, seconds: float, condition: Callable[[], T | None | bool], every: float = 0.02) -> T:
    """Polls `condition` until it gives something true and returns that; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result  # type: ignore[return-value]
        if time.monotonic() >= deadline:
            raise Failed(f"waited {seconds:g} s in vain for {what}")
        time.sleep(every)


def expect(holds: object, text: str) -> None:
    """Fails with `text` unless `holds`."""
    if not holds:
        raise Failed(text)
