"""Ten leaf devices under load, made by paho, in a helper process with one thread for all of them.

Each leaf makes `rate` numbered messages a second, whether or not it is connected, and publishes them in order with QoS 1
and at most `window` unacknowledged. After a reconnect paho sends the unacknowledged ones again, in their order, before
any new one. Which counters were acknowledged is recorded exactly.
"""

from __future__ import annotations

import asyncio
import json
import select
import ssl
import threading
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

import answering
from history import ranges

TICK = 0.01
RETRY = 0.1
PAYLOAD = 120


class LoadLeaf:
    """One device: what is due, what is on its way, what was acknowledged."""

    def __init__(self, given: dict[str, Any], port: int, rate: int, total: int, window: int) -> None:
        self.device = given["device"]
        self.topic = f"devices/{self.device}/telemetry/load"
        self.port, self.rate, self.total, self.window = port, rate, total, window
        self.next = 0
        self.waiting: dict[int, int] = {}
        self.acknowledged: set[int] = set()
        self.connects = 0
        self.retry_at = 0.0
        self.refusals: dict[str, int] = {}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(given["ca"])
        context.load_cert_chain(given["cert"], given["key"])
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self.device, protocol=given["version"])
        self.client.max_inflight_messages_set(0)
        self.client.tls_set_context(context)
        self.client.connect_timeout = 2
        self.client.on_publish = self._on_publish
        self.client.on_connect = self._on_connect
        self.client.connect_async("127.0.0.1", port, keepalive=30)

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        counter = self.waiting.pop(mid, None)
        if counter is None or reason.is_failure:
            self._refused(f"acknowledgement of {counter}: {reason}")
        else:
            self.acknowledged.add(counter)

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refused(f"connect: {reason}")
        else:
            self.connects += 1

    def _refused(self, why: str) -> None:
        self.refusals[why] = self.refusals.get(why, 0) + 1

    def connect_if_due(self, now: float) -> None:
        """Tries to connect, at most every `RETRY` seconds."""
        if self.socket() is not None or now < self.retry_at:
            return
        self.retry_at = now + RETRY
        try:
            self.client.reconnect()
        except OSError:
            pass  # nobody listens at the moment; tried again

    def publish_due(self, elapsed: float) -> None:
        """Publishes what is due and fits the window."""
        due = min(self.total, int(self.rate * elapsed))
        while self.next < due and len(self.waiting) < self.window and self.client.is_connected():
            text = json.dumps({"n": self.next, "at": time.monotonic()})
            info = self.client.publish(self.topic, text.ljust(PAYLOAD), qos=1)
            self.waiting[info.mid] = self.next
            self.next += 1

    def read(self) -> None:
        """Handles all that has arrived, also what TLS has read ahead."""
        self.client.loop_read()
        while (raw := self.socket()) is not None and raw.pending():
            self.client.loop_read()

    def socket(self) -> ssl.SSLSocket | None:
        """The connection to select on; nothing while there is none."""
        raw = self.client.socket()
        return raw if isinstance(raw, ssl.SSLSocket) else None

    def done(self) -> bool:
        return len(self.acknowledged) == self.total


class Load:
    """All leaves, in one thread."""

    def __init__(self, given: dict[str, Any]) -> None:
        total = given["rate"] * given["seconds"]
        self.leaves = [LoadLeaf(leaf, given["port"], given["rate"], total, given["window"]) for leaf in given["leaves"]]
        self.started = 0.0
        self.finished = threading.Event()
        self.stopping = threading.Event()
        self.error: str | None = None
        self.slowest_turn = 0.0
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> float:
        """Starts to publish; returns when."""
        self.started = time.monotonic()
        self.thread.start()
        return self.started

    def _run(self) -> None:
        try:
            misc_at = 0.0
            while not self.stopping.is_set():
                began = time.monotonic()
                self._turn(began)
                if began >= misc_at:
                    misc_at = began + 1
                    for leaf in self.leaves:
                        leaf.client.loop_misc()
                self.slowest_turn = max(self.slowest_turn, time.monotonic() - began - TICK)
                if all(leaf.done() for leaf in self.leaves):
                    self.finished.set()
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"

    def _turn(self, now: float) -> None:
        for leaf in self.leaves:
            leaf.connect_if_due(now)
            leaf.publish_due(now - self.started)
        by_socket = {raw: leaf for leaf in self.leaves if (raw := leaf.socket()) is not None}
        to_write = [raw for raw, leaf in by_socket.items() if leaf.client.want_write()]
        readable, writable, _ = select.select(list(by_socket), to_write, [], TICK)
        for raw in writable:
            by_socket[raw].client.loop_write()
        for raw in readable:
            by_socket[raw].read()

    def progress(self) -> dict[str, Any]:
        """How far it is."""
        if self.error:
            raise RuntimeError(self.error)
        return {
            "connected": sum(leaf.client.is_connected() for leaf in self.leaves),
            "published": sum(leaf.next for leaf in self.leaves),
            "acknowledged": sum(len(leaf.acknowledged) for leaf in self.leaves),
            "finished": self.finished.is_set(),
        }

    def report(self) -> dict[str, Any]:
        """Ends, and tells everything."""
        self.stopping.set()
        self.thread.join(10)
        leaves = {
            leaf.device: {
                "acknowledged": ranges(leaf.acknowledged),
                "published": leaf.next,
                "connects": leaf.connects,
                "refusals": leaf.refusals,
            }
            for leaf in self.leaves
        }
        return {"leaves": leaves, "slowest_turn": self.slowest_turn, "cpu": time.process_time()}


async def main() -> None:
    load = Load(answering.arguments())
    await answering.answer_all({"start": load.start, "progress": load.progress, "report": lambda: asyncio.to_thread(load.report)})


if __name__ == "__main__":
    answering.run(main)
