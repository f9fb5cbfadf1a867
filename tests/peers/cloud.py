"""The cloud: mosquitto over TLS, and an observer that subscribes to it directly, past the relay.

Listeners of the one mosquitto: `password` (TLS, user name and password), `certificate` (TLS, client certificate) and
`plain` (the observer's and the scenarios' way in). Its queues are unlimited, so that it never drops what the gateway delivered.
"""

from __future__ import annotations

import base64
import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import pki
from batches import Line, open_batch
from stage import Helper, Stage, command, free_port, listens
from wait import Failed, expect, wait_for

ROOT = "fieldgate"
USER, PASSWORD = "gateway", "correct horse"


class Message(NamedTuple):
    """What arrived at the cloud, our own user properties apart from the device's."""

    at: float
    topic: str
    payload: bytes
    retain: bool
    seq: int | None
    boot: int | None
    ts: int | None
    hist: bool
    identity: str | None
    properties: Properties | None
    # Of a batch.
    line: Line | None

    def json(self) -> Any:
        return json.loads(self.payload)


@dataclass(frozen=True)
class Envelope:
    """The 3.1.1 wrapping, unwrapped."""

    seq: int
    boot: int
    ts: int
    hist: bool
    identity: str | None
    form: str
    content: Any

    @staticmethod
    def of(payload: bytes) -> Envelope:
        """Fails on anything that DESIGN section 5 doesn't allow."""
        document = json.loads(payload)
        expect(document.get("v") == 1, f"envelope without v = 1: {document}")
        forms = [form for form in ("json", "text", "base64") if form in document]
        expect(len(forms) == 1, f"envelope with {forms or 'no'} payload: {document}")
        unknown = set(document) - {"v", "seq", "boot", "ts", "hist", "id", *forms}
        expect(not unknown, f"envelope with unknown keys {unknown}")
        content = document[forms[0]]
        if forms[0] == "base64":
            content = base64.b64decode(content, validate=True)
        hist = bool(document.get("hist", False))
        return Envelope(document["seq"], document["boot"], document["ts"], hist, document.get("id"), forms[0], content)


class Batch(NamedTuple):
    """A batch that arrived."""

    messages: int
    bytes: int


class Observer:
    """Everything that arrives below a filter, in order, with the time of its reception; batches opened."""

    def __init__(self, port: int, topic_filter: str, client_id: str = "observer") -> None:
        self.messages: list[Message] = []
        self.batches: list[Batch] = []
        self.lost_connection = False
        self._topics: dict[str, str] = {}
        self._closing = False
        self._subscribed = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        self.client.on_message = self._received
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_disconnect = self._disconnected
        connecting = Properties(PacketTypes.CONNECT)
        connecting.ReceiveMaximum = 65_535
        # No keep-alive: a backlog of minutes keeps the answers to pings waiting.
        self.client.connect("127.0.0.1", port, keepalive=0, clean_start=True, properties=connecting)
        self.client.on_connect = lambda client, *_: client.subscribe(topic_filter, qos=1)
        self.client.loop_start()
        expect(self._subscribed.wait(10), "waited 10 s in vain for the observer's subscription")

    def _received(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        root, _, last = message.topic.rpartition("/")
        if last == "batch" and root.count("/") == 1:
            self._received_batch(root, message.payload)
        else:
            self._received_single(message)

    def _received_batch(self, root: str, payload: bytes) -> None:
        """As single messages, those that come again included."""
        now, lines = time.monotonic(), list(open_batch(payload))
        self.batches.append(Batch(len(lines), len(payload)))
        for line in lines:
            topic = f"{root}/{line.topic}"
            topic = self._topics.setdefault(topic, topic)
            self.messages.append(
                Message(now, topic, line.payload, False, line.seq, line.boot, line.ts, line.hist, line.identity, None, line)
            )

    def _received_single(self, message: mqtt.MQTTMessage) -> None:
        ours: dict[str, str] = {}
        properties: Any = message.properties
        theirs = []
        for name, value in getattr(properties, "UserProperty", ()):
            if name.startswith("fg-"):
                ours[name] = value
            else:
                theirs.append((name, value))
        if ours:
            # paho appends on assignment to a property that may repeat.
            del properties.UserProperty
            if theirs:
                properties.UserProperty = theirs
        seq, boot, ts = (int(ours[key]) if key in ours else None for key in ("fg-seq", "fg-boot", "fg-ts"))
        topic = self._topics.setdefault(message.topic, message.topic)
        kept = None if properties is None or properties.isEmpty() else properties
        hist, identity = ours.get("fg-hist") == "1", ours.get("fg-id")
        identity = self._topics.setdefault(identity, identity) if identity else None
        self.messages.append(
            Message(time.monotonic(), topic, message.payload, message.retain, seq, boot, ts, hist, identity, kept, None)
        )

    def _disconnected(self, *_: object) -> None:
        self.lost_connection = not self._closing

    def close(self) -> None:
        self._closing = True
        self.client.disconnect()
        self.client.loop_stop()

    def mark(self) -> int:
        """A position: messages from here on are new."""
        return len(self.messages)

    def wait(self, what: str, seconds: float, wanted: Callable[[Message], bool], since: int = 0) -> Message:
        """The first message from `since` on that is `wanted`; looks at each message once."""
        looked = since

        def found() -> Message | None:
            nonlocal looked
            while looked < len(self.messages):
                message = self.messages[looked]
                looked += 1
                if wanted(message):
                    return message
            if self.lost_connection:
                raise Failed("the observer lost its connection to mosquitto: nothing it saw can be judged")
            return None

        return wait_for(what, seconds, found)


class Cloud:
    """mosquitto with its certificates, its observer and the relay in front of one of its listeners."""

    def __init__(self, stage: Stage, gateway_id: str, listener: str = "password", acl: str | None = None) -> None:
        """`acl`: what the gateway may do at the `password` listener, in mosquitto's words; without, everything."""
        self.stage = stage
        self.gateway_id = gateway_id
        self.folder = stage.folder / "cloud"
        self.authority = pki.Authority(self.folder, "peers cloud CA")
        self.pair = self.authority.server("mosquitto")
        self.client_pair = self.authority.client("gateway-client")
        self.ports = {name: free_port() for name in ("plain", "password", "certificate")}
        self.acl = self.folder / "acl"
        self._start_mosquitto(acl)
        self.observer = Observer(self.ports["plain"], f"{ROOT}/#")
        stage.at_end(self.observer.close)
        self.listener = listener
        self.relay_port = free_port()
        self.relay: Helper = stage.helper("relay", "relay.py", port=self.relay_port, target=self.ports[listener])

    def _start_mosquitto(self, acl: str | None) -> None:
        passwords = self.folder / "passwords"
        passwords.touch(mode=0o600)
        made = command(["mosquitto_passwd", "-b", str(passwords), USER, PASSWORD])
        expect(made.returncode == 0, f"mosquitto_passwd failed: {made.stderr}")
        tls = f"cafile {self.authority.pem}\ncertfile {self.pair.cert}\nkeyfile {self.pair.key}\n"
        # With 0, unlimited, 2.0.11 ends the connection after each PUBACK that says "not authorized".
        rights, queued = "", 0
        if acl is not None:
            self.write_acl(acl)
            rights, queued = f"acl_file {self.acl}\nlog_type information\n", 1_000_000
        config = self.folder / "mosquitto.conf"
        config.write_text(
            # As root it would become the user mosquitto, who can't read this folder.
            "user root\nper_listener_settings true\npersistence false\nset_tcp_nodelay true\n"
            f"max_queued_messages {queued}\n"
            "max_queued_bytes 0\nmax_inflight_messages 1000\n"
            "log_dest stderr\nlog_type error\nlog_type warning\nlog_type notice\n"
            f"listener {self.ports['plain']} 127.0.0.1\nallow_anonymous true\n"
            f"listener {self.ports['password']} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n{rights}{tls}"
            f"listener {self.ports['certificate']} 127.0.0.1\nallow_anonymous false\nrequire_certificate true\n"
            f"use_identity_as_username true\n{tls}"
        )
        self.mosquitto = self.stage.child("mosquitto", ["mosquitto", "-c", str(config)])
        wait_for("mosquitto's listeners", 10, self._listens)

    def write_acl(self, acl: str) -> None:
        self.acl.write_text(acl)
        self.acl.chmod(0o600)

    def change_acl(self, acl: str) -> None:
        """mosquitto reads the file again before it reads any other packet."""
        self.write_acl(acl)
        said = "Reloading config"
        before = self.mosquitto.log.read_text().count(said)
        self.mosquitto.process.send_signal(signal.SIGHUP)
        wait_for("mosquitto to read its ACL again", 10, lambda: self.mosquitto.log.read_text().count(said) > before)

    def _listens(self) -> bool:
        expect(self.mosquitto.alive(), f"mosquitto ended at its start: {self.mosquitto.log.read_text()}")
        return all(listens(port) for port in self.ports.values())

    def section(self, protocol: int = 5, password: str = PASSWORD, extra: str = "") -> str:
        """`[upstream]` of gateway.toml, leading to the relay."""
        lines = [
            "[upstream]",
            f'url = "mqtts://127.0.0.1:{self.relay_port}"',
            f"protocol = {protocol}",
            f'ca = "{self.authority.pem}"',
            'retry_max = "5s"',
        ]
        if self.listener == "password":
            file = self.folder / "gateway.password"
            file.write_text(f"{password}\n")
            file.chmod(0o600)
            lines += [f'username = "{USER}"', f'password_file = "{file}"']
        else:
            lines += [f'cert = "{self.client_pair.cert}"', f'key = "{self.client_pair.key}"']
        return "\n".join([*lines, extra, ""])

    def topic(self, local: str) -> str:
        """The upstream name of a local topic."""
        return f"{ROOT}/{self.gateway_id}/{local}"

    def wait_online(self, seconds: float = 15, since: int = 0) -> Message:
        """The gateway's own state says that it is connected."""
        state = self.topic("state")
        return self.observer.wait("the gateway's state upstream", seconds, lambda m: m.topic == state and bool(m.payload), since)

    def command(self, device: str, name: str, payload: Any, rid: str | None = None, properties: Properties | None = None) -> None:
        """Sends a command down, QoS 1."""
        topic = self.topic(f"devices/{device}/commands/{name}") + (f"/{rid}" if rid else "")
        self.observer.client.publish(topic, json.dumps(payload), qos=1, properties=properties).wait_for_publish(5)

    def results(self, device: str, name: str, rid: str, since: int = 0) -> list[Message]:
        """All answers to a command so far."""
        topic = self.topic(f"devices/{device}/commands/{name}/{rid}/result")
        return [message for message in self.observer.messages[since:] if message.topic == topic]

    def result(self, device: str, name: str, rid: str, seconds: float = 10, since: int = 0) -> dict[str, Any]:
        """The answer to a command."""
        topic = self.topic(f"devices/{device}/commands/{name}/{rid}/result")
        found = self.observer.wait(f"the answer to {name} {rid} of {device}", seconds, lambda m: m.topic == topic, since)
        return found.json()
