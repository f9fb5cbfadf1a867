"""Commands to a leaf device: each delivered once and answered once, whatever the leaf does."""

from __future__ import annotations

import json
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cloud import ROOT, Cloud
from gateway import ID, Gateway
from leaf import Bundle
from stage import Stage
from wait import expect

ANSWERS = {
    "number": b"42",
    "text": b"done",
    "document": b'{"speed": 3}',
    "refusal": b'{"status": "rejected", "reason": "door open"}',
}


class Worker:
    """A leaf that answers its commands by name, and keeps quiet for any other name."""

    def __init__(self, gateway: Gateway, bundle: Bundle, version: mqtt.MQTTProtocolVersion) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.leaf = gateway.leaf(bundle, version=version)
        self.leaf.client.on_message = self._work
        self.leaf.connect()
        expect(self.leaf.subscribe(f"devices/{bundle.device}/commands/+/+").value == 1, "a leaf may not subscribe to its commands")

    def _work(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.received.append((message.topic, message.payload))
        answer = ANSWERS.get(message.topic.split("/")[3])
        if answer is not None:
            client.publish(f"{message.topic}/result", answer, qos=1)

    def executions(self, rid: str) -> int:
        return sum(topic.endswith(f"/{rid}") for topic, _ in self.received)


def to_a_leaf(stage: Stage) -> None:
    """Commands to paho leaves: plain and full answers, no answer, repeated ids, response topics; each answered once."""
    cloud = Cloud(stage, ID)
    gateway = Gateway(stage, cloud.section()).start()
    cloud.wait_online()
    for version, name in ((mqtt.MQTTv5, "worker-v5"), (mqtt.MQTTv311, "worker-v311")):
        worker = Worker(gateway, gateway.add_device(name), version)
        answers(cloud, name, worker)
        silence(stage, cloud, name, worker)
        repetition(cloud, name, worker)
        response_topic(cloud, name)
    offline(cloud, gateway)
    answered_once(cloud)


def answers(cloud: Cloud, device: str, worker: Worker) -> None:
    """What the leaf answers becomes the outcome."""
    wanted: dict[str, dict[str, Any]] = {
        "number": {"status": "ok", "value": 42},
        "text": {"status": "ok", "value": "done"},
        "document": {"status": "ok", "value": {"speed": 3}},
        "refusal": {"status": "rejected", "reason": "door open"},
    }
    for name, outcome in wanted.items():
        cloud.command(device, name, {"go": name}, f"{name}-1")
        answer = cloud.result(device, name, f"{name}-1")
        expect(answer == {"rid": f"{name}-1", **outcome}, f"{device}'s answer to {name} arrived as {answer}")
    delivered = dict(worker.received)[f"devices/{device}/commands/number/number-1"]
    expect(json.loads(delivered) == {"go": "number"}, f"{device} got the command as {delivered!r}")


def silence(stage: Stage, cloud: Cloud, device: str, worker: Worker) -> None:
    """No answer: a time-out after `timeout_ms`, or after the message expiry; a late answer is no second one."""
    began = time.monotonic()
    cloud.command(device, "mute", {"timeout_ms": 1500}, "mute-1")
    answer = cloud.result(device, "mute", "mute-1")
    took = time.monotonic() - began
    expect(answer["status"] == "timeout", f"a command without answer was answered {answer}")
    expect(1.2 <= took <= 3.5, f"a time-out of 1.5 s came after {took:.1f} s")
    stage.figure(f"timeout_of_1500ms_{device}_s", took)
    worker.leaf.publish(f"devices/{device}/commands/mute/mute-1/result", "too late")
    expiring = Properties(PacketTypes.PUBLISH)
    expiring.MessageExpiryInterval = 2
    cloud.command(device, "mute", {}, "mute-2", expiring)
    answer = cloud.result(device, "mute", "mute-2")
    expect(answer["status"] == "timeout", f"an expired command was answered {answer}")


def repetition(cloud: Cloud, device: str, worker: Worker) -> None:
    """The same id again is not executed again; the next id is."""
    for _ in range(3):
        cloud.command(device, "number", {}, "again")
    cloud.result(device, "number", "again")
    cloud.command(device, "number", {}, "next")
    cloud.result(device, "number", "next")
    expect(worker.executions("again") == 1, f"{device} executed one id {worker.executions('again')} times")
    expect(worker.executions("next") == 1, f"{device} executed another id {worker.executions('next')} times")


def response_topic(cloud: Cloud, device: str) -> None:
    """Without an id in the topic: the answer goes to the response topic with its correlation data."""
    asking: Any = Properties(PacketTypes.PUBLISH)
    asking.ResponseTopic = f"{ROOT}/answers/{device}"
    asking.CorrelationData = b"\x00corr"
    cloud.command(device, "number", {}, properties=asking)
    seen = cloud.observer.wait("an answer on the response topic", 10, lambda m: m.topic == asking.ResponseTopic)
    answer = seen.json()
    expect(answer["status"] == "ok" and answer["value"] == 42 and answer["rid"], f"the response topic got {answer}")
    expect(getattr(seen.properties, "CorrelationData", None) == b"\x00corr", f"the correlation data came back as {seen.properties}")


def offline(cloud: Cloud, gateway: Gateway) -> None:
    """A device that is not connected and one that does not exist are answered too."""
    gateway.add_device("absent")
    for device in ("absent", "never-heard-of"):
        cloud.command(device, "number", {"timeout_ms": 1000}, "nobody")
        answer = cloud.result(device, "number", "nobody")
        expect(answer["status"] in ("failed", "timeout", "rejected"), f"a command for `{device}` was answered {answer}")


def answered_once(cloud: Cloud) -> None:
    """A last command is answered; by then no command has two answers. Repeated ids may be told their answer again."""
    cloud.command("worker-v5", "number", {}, "last")
    cloud.result("worker-v5", "number", "last")
    counts: dict[str, int] = {}
    for message in cloud.observer.messages:
        if message.topic.endswith("/result") or "/answers/" in message.topic:
            counts[message.topic] = counts.get(message.topic, 0) + 1
    twice = {topic: count for topic, count in counts.items() if count != 1 and "/again/" not in topic}
    expect(not twice, f"commands answered more than once: {twice}")
    repeated = [count for topic, count in counts.items() if "/again/" in topic]
    expect(len(repeated) == 2 and max(repeated) <= 3, f"ids sent three times were answered {repeated} times")
