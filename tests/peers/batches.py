"""A consumer of batches, written from gateway/docs/batches.md alone: opens them, drops what comes twice.

As a program it prints what a gateway sends: `batches.py HOST PORT [ROOT]`.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
import zstandard
from paho.mqtt.enums import CallbackAPIVersion

# Nothing from a gateway is larger before compression.
LARGEST = 1 << 20
# Twice the gateway's window.
KEPT = 8192


class Malformed(Exception):
    """It is not what the page says."""


@dataclass(frozen=True)
class Line:
    """One message of a batch."""

    device: str
    boot: int
    seq: int
    ts: int
    topic: str
    payload: bytes
    hist: bool
    identity: str | None
    content_type: str | None
    user: list[tuple[str, str]]
    expiry: int | None


def open_batch(payload: bytes) -> Iterator[Line]:
    """The messages of a batch, in order."""
    try:
        text = zstandard.ZstdDecompressor().decompress(payload, max_output_size=LARGEST)
    except zstandard.ZstdError as error:
        raise Malformed(f"not a batch: {error}") from None
    if text and not text.endswith(b"\n"):
        raise Malformed("the last line has no end")
    for line in text.split(b"\n")[:-1]:
        document = json.loads(line)
        if document.get("v") != 1:
            raise Malformed(f"a line of version {document.get('v')}")
        yield Line(
            device=document["device"],
            boot=document["boot"],
            seq=document["seq"],
            ts=document["ts"],
            topic=document["topic"],
            payload=content(document),
            hist=document.get("hist", False),
            identity=document.get("id"),
            content_type=document.get("content_type"),
            user=[(key, value) for key, value in document.get("user", [])],
            expiry=document.get("expiry"),
        )


def content(document: dict[str, Any]) -> bytes:
    """The payload, in whichever of the three forms."""
    forms = [form for form in ("json", "text", "base64") if form in document]
    if len(forms) != 1:
        raise Malformed(f"a line with {forms or 'no'} payload")
    value = document[forms[0]]
    match forms[0]:
        case "json":
            return json.dumps(value).encode()
        case "text":
            return value.encode()
        case _:
            return base64.b64decode(value, validate=True)


class Once:
    """Lets each message through once, by its name: (device, boot, seq)."""

    def __init__(self) -> None:
        # As many as can come again, and as many more; in the order in which they came.
        self.names: dict[tuple[str, int, int], None] = {}

    def is_new(self, line: Line) -> bool:
        name = (line.device, line.boot, line.seq)
        if name in self.names:
            return False
        self.names[name] = None
        if len(self.names) > KEPT:
            del self.names[next(iter(self.names))]
        return True


def main() -> None:
    host, port, root = [*sys.argv[1:3], *sys.argv[3:4], "fieldgate"][:3]
    once = Once()

    def received(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        prefix, _, last = message.topic.rpartition("/")
        if last != "batch":
            print(f"{message.topic} {message.payload!r}")
            return
        for line in open_batch(message.payload):
            if once.is_new(line):
                print(f"{prefix}/{line.topic} {line.payload!r}", flush=True)

    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_connect = lambda client, *_: client.subscribe(f"{root}/+/#", qos=1)
    client.on_message = received
    client.connect(host, int(port))
    client.loop_forever()


if __name__ == "__main__":
    main()
