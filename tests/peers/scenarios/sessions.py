"""Persistent sessions of paho clients over kill -9: QoS 1 loses nothing, QoS 2 arrives exactly once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MessageState
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway import Gateway
from leaf import Bundle
from stage import Stage
from wait import expect, wait_for

RATE, WINDOW = 200, 20


class Client(mqtt.Client):
    """A paho whose second attempt to connect doesn't forget what it knew at the first: that a message is past its PUBREC.
    paho 2.1 would publish it anew then, without DUP, and nobody could tell it from another one (MQTT 5, 4.3.3)."""

    def _messages_reconnect_reset_out(self) -> None:
        past = [message for message in self._out_messages.values() if message.state == MessageState.MQTT_MS_RESEND_PUBREL]
        super()._messages_reconnect_reset_out()
        for message in past:
            message.state = MessageState.MQTT_MS_RESEND_PUBREL


class Persistent:
    """A paho client with a session that outlives its connections. It comes back by itself."""

    def __init__(self, bundle: Bundle, port: int, client_id: str) -> None:
        self.received: list[int] = []
        self.present: list[bool] = []
        self.port = port
        self._granted = threading.Event()
        self._sent: list[tuple[int, mqtt.MQTTMessageInfo]] = []
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        self.client.tls_set_context(bundle.context())
        self.client.reconnect_delay_set(0.05, 0.2)
        self.client.max_inflight_messages_set(WINDOW)
        self.client.on_connect = lambda _c, _d, flags, _r, _p: self.present.append(flags.session_present)
        self.client.on_subscribe = lambda *_: self._granted.set()
        self.client.on_message = lambda _c, _d, message: self.received.append(int(message.payload))

    def connect(self) -> Persistent:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        seen = len(self.present)
        self.client.connect("127.0.0.1", self.port, keepalive=30, clean_start=False, properties=properties)
        self.client.loop_start()
        wait_for("a CONNACK", 10, lambda: len(self.present) > seen)
        return self

    def subscribe(self, topic_filter: str, qos: int) -> Persistent:
        self.client.subscribe(topic_filter, qos)
        expect(self._granted.wait(10), "no SUBACK")
        return self

    def leave(self) -> None:
        """Loses the connection without a word, and doesn't come back by itself."""
        self.client.loop_stop()
        socket = self.client.socket()
        if socket is not None:
            socket.close()

    def publish(self, topic: str, number: int, qos: int) -> None:
        self._sent.append((number, self.client.publish(topic, str(number), qos)))

    def acknowledged(self) -> set[int]:
        """What the gateway has acknowledged; with QoS 2, to the end."""
        # `is_published` raises for what was given while the line was down, and is sent later all the same.
        return {number for number, info in self._sent if info._published}

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def survive_kills(stage: Stage) -> None:
    """kill -9 under QoS 1 and QoS 2 traffic between persistent sessions: nothing acknowledged is lost, nothing of QoS 2 twice."""
    kills, seconds = (20, 60) if stage.options.long else (4, 12)
    pick = random.Random(stage.options.seed)
    gateway = Gateway(stage, '[[policy]]\nwho = "reader"\nallow = "subscribe"\nfilter = "devices/+/telemetry/#"\n\n'
                      "[broker.limits]\nmessage_rate = 0\n")
    reader_bundle = gateway.add_device("reader", role="app")
    leaf_bundles = {qos: gateway.add_device(f"leaf-{qos}") for qos in (1, 2)}
    gateway.start()

    def persistent(bundle: Bundle, client_id: str) -> Persistent:
        client = Persistent(bundle, gateway.port, client_id)
        stage.at_end(client.close)
        return client.connect()

    readers = {qos: persistent(reader_bundle, f"reader/{qos}").subscribe(f"devices/leaf-{qos}/telemetry/#", qos) for qos in (1, 2)}
    leaves = {qos: persistent(bundle, bundle.device) for qos, bundle in leaf_bundles.items()}
    sent, next_kill, killed = 0, 0.5, 0
    began = time.monotonic()
    away: Persistent | None = None
    while (now := time.monotonic() - began) < seconds:
        while sent < now * RATE:
            # What paho is given while it is away, it sends all at once when it is back, beyond any Receive Maximum.
            if not all(leaf.client.is_connected() for leaf in leaves.values()):
                break
            sent += 1
            for qos, leaf in leaves.items():
                leaf.publish(f"devices/leaf-{qos}/telemetry/n", sent, qos)
        if killed < kills and now >= next_kill:
            # Every other time one of the readers is away when it happens.
            if killed % 2 == 1:
                away = readers[pick.choice((1, 2))]
                away.leave()
                time.sleep(0.2)
            gateway.kill()
            gateway.start()
            killed += 1
            next_kill += (seconds - 1) / kills * pick.uniform(0.7, 1.0)
            if away is not None:
                away.connect()
                away = None
        time.sleep(0.005)
    expect(killed == kills, f"only {killed} of {kills} kills took place")
    for qos, leaf in leaves.items():
        wait_for(f"all acknowledgements of QoS {qos}", 30, lambda leaf=leaf: len(leaf.acknowledged()) == sent)
    for qos, reader in readers.items():
        wanted = leaves[qos].acknowledged()
        wait_for(f"all messages of QoS {qos}", 30, lambda reader=reader, wanted=wanted: wanted <= set(reader.received))
        times = Counter(reader.received)
        repeated = sum(count - 1 for count in times.values())
        stage.figure(f"qos{qos}_acknowledged", len(wanted))
        stage.figure(f"qos{qos}_repeated", repeated)
        expect(all(reader.present[1:]), f"a session of QoS {qos} was not there after a kill: {reader.present}")
        expect(all(leaves[qos].present[1:]), f"the session of leaf-{qos} was not there after a kill")
        firsts = list(dict.fromkeys(reader.received))
        if qos == 2:
            expect(repeated == 0, f"{repeated} messages of QoS 2 arrived twice")
            late = next((at for at in range(1, len(firsts)) if firsts[at] < firsts[at - 1]), None)
            expect(late is None, f"messages of QoS 2 arrived out of order: {firsts[max(0, (late or 0) - 30):(late or 0) + 30]}")
        expect(len(firsts) == sent, f"{sent - len(firsts)} messages of QoS {qos} are missing")
    stage.figure("kills", killed)
