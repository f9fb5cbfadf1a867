"""Reads the telemetry of a field device as the cloud sees it: values and errors per point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from cloud import Cloud, Message
from wait import Failed, wait_for


def documents(message: Message) -> list[dict[str, Any]]:
    """The one or many documents of a message (DESIGN section 5)."""
    content = message.json()
    return content if isinstance(content, list) else [content]


def same(seen: Any, wanted: Any) -> bool:
    """Equal, floats within what an f32 holds."""
    if isinstance(wanted, float) and isinstance(seen, (int, float)) and not isinstance(seen, bool):
        return math.isclose(seen, wanted, rel_tol=1e-6, abs_tol=1e-6)
    return type(seen) is type(wanted) and seen == wanted


class Points:
    """The points of one device, from a position of the observer's history on."""

    def __init__(self, cloud: Cloud, device: str) -> None:
        self.observer = cloud.observer
        self.topic = cloud.topic(f"devices/{device}/telemetry/points")
        self.device = device

    def readings(self, since: int) -> Iterator[tuple[Message, str, Any, str | None]]:
        """(message, point, value, error) in order of arrival; value is nothing where there is an error."""
        for message in self.observer.messages[since:]:
            if message.topic != self.topic:
                continue
            for document in documents(message):
                if not isinstance(document.get("ts"), int):
                    raise Failed(f"telemetry of {self.device} without `ts`: {document}")
                for point, value in document.get("values", {}).items():
                    yield message, point, value, None
                for point, error in document.get("errors", {}).items():
                    yield message, point, None, error

    def latest(self, since: int = 0) -> dict[str, Any]:
        """The last good value of each point that is not in error now."""
        found: dict[str, Any] = {}
        for _, point, value, error in self.readings(since):
            if error is None:
                found[point] = value
            else:
                found.pop(point, None)
        return found

    def wait_values(self, wanted: dict[str, Any], seconds: float, since: int = 0) -> None:
        """Until every point has had its wanted value."""
        def holds() -> bool:
            latest = self.latest(since)
            return all(point in latest and same(latest[point], value) for point, value in wanted.items())
        try:
            wait_for("these values", seconds, holds, every=0.1)
        except Failed:
            latest = self.latest(since)
            missing = {p: (latest.get(p, "nothing"), v) for p, v in wanted.items() if p not in latest or not same(latest[p], v)}
            raise Failed(f"waited {seconds:g} s in vain for values of {self.device}; (seen, wanted): {missing}") from None

    def wait_reading(self, what: str, seconds: float, since: int, wanted: Callable[[str, Any, str | None], bool]) -> Message:
        """The message of the first reading (point, value, error) that is `wanted`."""
        def found() -> Message | None:
            return next((m for m, p, v, e in self.readings(since) if wanted(p, v, e)), None)
        return wait_for(f"{what} of {self.device}", seconds, found, every=0.05)
