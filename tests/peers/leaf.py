"""A leaf device made by paho, with the certificate that `device add` gave it."""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from wait import expect, wait_for


@dataclass(frozen=True)
class Bundle:
    """What `device add ID --out DIR` writes."""

    device: str
    ca: Path
    cert: Path
    key: Path

    def context(self, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """A client's TLS settings: this certificate, and only this CA."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        context.load_cert_chain(self.cert, self.key)
        context.maximum_version = highest
        return context


class Leaf:
    """One paho client on the gateway's mTLS port. It doesn't come back by itself: a scenario connects it."""

    def __init__(self, bundle: Bundle, port: int, version: mqtt.MQTTProtocolVersion = mqtt.MQTTv5, client_id: str | None = None,
                 client: mqtt.Client | None = None, context: ssl.SSLContext | None = None) -> None:
        self.device = bundle.device
        self.port = port
        self.version = version
        self.messages: list[mqtt.MQTTMessage] = []
        self.connack: ReasonCode | None = None
        self.disconnected = threading.Event()
        self.disconnect_reason: ReasonCode | None = None
        self._acknowledged: dict[int, ReasonCode] = {}
        self._granted: dict[int, list[ReasonCode]] = {}
        name = bundle.device if client_id is None else client_id
        self.client = client or mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=version, reconnect_on_failure=False
        )
        self.client.tls_set_context(context or bundle.context())
        self.client.connect_timeout = 5
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_publish = self._on_publish
        self.client.on_subscribe = self._on_subscribe
        self.client.on_message = lambda _client, _data, message: self.messages.append(message)

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self.connack = reason

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self.disconnect_reason = reason
        self.disconnected.set()

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        self._acknowledged[mid] = reason

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, reasons: list[ReasonCode], _properties: Any) -> None:
        self._granted[mid] = reasons

    def try_connect(self, seconds: float = 10) -> ReasonCode | str:
        """Connects; the CONNACK's reason, or in words why there was none."""
        self.connack = None
        self.disconnected.clear()
        try:
            self.client.connect("127.0.0.1", self.port, keepalive=30)
        except OSError as error:
            return f"{type(error).__name__}: {error}"
        self.client.loop_start()
        wait_for(f"a CONNACK or the end of {self.device}'s connection", seconds, lambda: self.connack or self.disconnected.is_set())
        return self.connack if self.connack is not None else f"closed: {self.disconnect_reason}"

    def connect(self, seconds: float = 10) -> Leaf:
        """Connects, which must succeed."""
        reason = self.try_connect(seconds)
        expect(reason == "Success", f"{self.device} could not connect: {reason}")
        return self

    def publish(self, topic: str, payload: bytes | str, qos: int = 1, properties: Properties | None = None,
                seconds: float = 10) -> ReasonCode | None:
        """Publishes and waits for the acknowledgement; its reason code (3.1.1: always success), nothing with QoS 0."""
        info = self.client.publish(topic, payload, qos=qos, properties=properties)
        wait_for(f"the acknowledgement of {self.device}'s message on {topic}", seconds, lambda: info.mid in self._acknowledged)
        return self._acknowledged.pop(info.mid)

    def telemetry(self, payload: bytes | str, stream: str = "peers", **how: Any) -> ReasonCode | None:
        """Publishes below the device's own telemetry."""
        return self.publish(f"devices/{self.device}/telemetry/{stream}", payload, **how)

    def subscribe(self, topic_filter: str, seconds: float = 10) -> ReasonCode:
        """Subscribes with QoS 1; the reason code."""
        _, mid = self.client.subscribe(topic_filter, qos=1)
        assert mid is not None
        wait_for(f"{self.device}'s SUBACK", seconds, lambda: mid in self._granted)
        return self._granted.pop(mid)[0]

    def close(self) -> None:
        """Leaves the broker and ends paho's thread."""
        self.client.disconnect()
        self.client.loop_stop()
