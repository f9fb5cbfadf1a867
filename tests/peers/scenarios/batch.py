"""Many messages in one publish: opened by a consumer that knows the format from its page alone."""

from __future__ import annotations

import random
import time

from batches import Line, Once
from cloud import ROOT, USER, Cloud
from gateway import ID, Gateway
from scenarios.load import LEAVES, RATE, UPSTREAM_WINDOW, Ground, Plan, is_load, nothing_lost, start_and_probe
from stage import Stage
from wait import expect, wait_for

BATCHES = 'batch = "zstd"'
NO_BATCHES = f"user {USER}\ntopic deny {ROOT}/{ID}/batch\ntopic readwrite #\n"


def cut_and_killed(stage: Stage) -> None:
    """`batch = "zstd"` in 5 and 3.1.1, the line cut and kill -9 under load: lost 0, in order, what comes twice can be dropped."""
    for protocol in (5, 4):
        under_load(stage.part(f"mqtt-{protocol}"), protocol)


def under_load(stage: Stage, protocol: int) -> None:
    plan = Plan(seconds=30 if stage.options.long else 7, away_from=1.5, away=1.5)
    ground = Ground.prepare(stage, plan, protocol=protocol, upstream=BATCHES)
    probe = ground.gateway.add_device("probe")
    pick = random.Random(stage.options.seed)
    ground.start()
    ground.wait_until(plan.away_from)
    ground.cut()
    ground.wait_until(plan.away_from + plan.away)
    ground.mend()
    ground.wait_until(time.monotonic() - ground.started + pick.uniform(0.3, 1.0))
    ground.gateway.kill()
    start_and_probe(ground, probe, 0)
    verdict, historical = ground.judge({**ground.finish(), "probe": [0]})
    nothing_lost(verdict, LEAVES * RATE * plan.seconds + 1)
    expect(historical > 0, "no message is marked as history, though the cloud was away")
    bound = 2 * UPSTREAM_WINDOW
    expect(verdict.resent_by_gateway <= bound, f"{verdict.resent_by_gateway} re-sends of the gateway, more than {bound}")

    seen = ground.cloud.observer
    alone = [message.topic for message in seen.messages if is_load(message) and message.line is None]
    expect(not alone, f"{len(alone)} messages came singly")
    states = [message for message in seen.messages if message.topic.endswith("/state")]
    expect(states and not any(message.line for message in states), "states came in batches")
    once_each([message.line for message in seen.messages if message.line])
    messages, size = (sum(column) for column in zip(*seen.batches, strict=True))
    stage.figure("messages_per_batch", messages / len(seen.batches))
    stage.figure("bytes_per_message", size / messages)
    expect(messages > 3 * len(seen.batches), f"{messages} messages in {len(seen.batches)} batches")


def once_each(lines: list[Line]) -> None:
    """A consumer that drops what it has had by its number is left with each message once, in order."""
    once, last = Once(), {}
    names = set()
    for line in filter(once.is_new, lines):
        number = (line.boot, line.seq)
        expect((line.device, *number) not in names, f"{line.device} {number} came through twice")
        expect(number > last.get(line.device, (0, 0)), f"{line.device} {number} came after {last.get(line.device)}")
        names.add((line.device, *number))
        last[line.device] = number


def refused(stage: Stage) -> None:
    """mosquitto's ACL refuses batches: their messages come singly, in order, and nothing is put aside."""
    cloud = Cloud(stage, ID, acl=NO_BATCHES)
    gateway = Gateway(stage, cloud.section(5, extra=BATCHES))
    bundle = gateway.add_device("press-1")
    gateway.start()
    cloud.wait_online()
    leaf = gateway.leaf(bundle).connect()
    topic = cloud.topic("devices/press-1/telemetry/peers")
    for n in range(40):
        expect(leaf.telemetry(str(n)) == 0, "a message was not acknowledged")
    cloud.observer.wait("the last message", 10, lambda m: m.topic == topic and m.payload == b"39")
    came = [message.payload for message in cloud.observer.messages if message.topic == topic]
    expect(came == [str(n).encode() for n in range(40)], f"came: {came}")
    expect(not cloud.observer.batches, "a batch came through")
    wait_for("the gateway to say so", 5, lambda: gateway.log_says("the upstream takes no batches"))
    expect(gateway.metric("fieldgate_upstream_batches_total") == 3, "how many batches were tried")
