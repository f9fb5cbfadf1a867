"""A disk of 8 MB and a cloud that is away: it lives within them, and counts what had to give way."""

from __future__ import annotations

import json
import os
import time

from cloud import Message
from scenarios.disk import mount
from scenarios.load import LEAVES, RATE, Ground, Plan, device_of
from stage import Stage
from wait import expect, wait_for

SIZE = "8m"
# 16 MiB.
GROWS_BY_MB = 16.8
ROW = ("received", "delivered", "waiting", "expired", "evicted", "quarantined")


def offline(stage: Stage) -> None:
    """The whole data_dir on 8 MB, the cloud away, load: alive, memory stays, lost is exactly what the ledger and the gap markers count."""
    expect(os.geteuid() == 0, "this scenario mounts a tmpfs and needs root")
    plan = Plan(60 if stage.options.long else 15, 0, 0)
    ground = Ground.prepare(stage, plan, data_dir=mount(stage, SIZE) / "data")
    gateway, cloud = ground.gateway, ground.cloud
    # A debug build's own pages come in as they are used.
    kind = "RssAnon" if stage.options.debug_build else "VmRSS"
    before = most = gateway.settled_mb(2, kind)
    ground.cut()
    ground.start()
    while time.monotonic() < ground.started + plan.seconds:
        most = max(most, gateway.resident_mb(kind))
        time.sleep(0.1)
    acknowledged = ground.finish()
    grown = max(most, gateway.resident_mb(kind)) - before
    stage.figure("grown_mb", grown)
    rows = ledger(ground)
    for name in ROW:
        stage.figure(name, sum(row[name] for row in rows))
    cloud.relay.ask("mend")

    def told() -> int:
        events = [message.json() for message in cloud.observer.messages if message.topic.endswith("/events")]
        return sum(event["count"] for event in events if event["event"] == "gap")

    def is_online(leaf: str) -> bool:
        states = [message.json() for message in cloud.observer.messages if message.topic.endswith(f"/{leaf}/state")]
        return bool(states) and states[-1]["online"]

    wait_for("an empty buffer", 60, lambda: not any(row["waiting"] for row in ledger(ground)), every=0.5)
    # By the ledger all has been delivered; the observer is slower than mosquitto.
    verdict, _ = ground.judge(acknowledged, patience=5)
    evicted = sum(row["evicted"] for row in ledger(ground))
    wait_for(f"gap markers of {evicted} messages", 60, lambda: told() == evicted, every=0.5)
    wait_for("the states of the leaves", 60, lambda: all(is_online(leaf) for leaf in acknowledged), every=0.5)
    missing = sum(missing_numbers(cloud.observer.messages).values())
    stage.figure("missing_numbers", missing)
    stage.figure("told", told())
    expect(verdict.acknowledged >= LEAVES * RATE * plan.seconds, f"only {verdict.acknowledged} messages were acknowledged")
    expect(verdict.out_of_order_seq == verdict.out_of_order_counter == verdict.numbers_reused == 0, f"what arrived: {verdict}")
    expect(evicted > 0, "the disk was large enough for everything: nothing was tried")
    expect(missing == evicted == told(), f"{missing} numbers never arrived, {evicted} evicted by the ledger, {told()} by the gap markers")
    # The others are states.
    expect(evicted - LEAVES <= verdict.lost <= evicted, f"{verdict.lost} messages of the load never arrived, {evicted} were evicted")
    expect(grown <= GROWS_BY_MB, f"memory grew by {grown:.1f} MB, {GROWS_BY_MB} are allowed")


def missing_numbers(messages: list[Message]) -> dict[str, int]:
    """How many `fg-seq` of each leaf are missing: they are given without a gap, from one on."""
    numbers: dict[str, set[int]] = {}
    for message in messages:
        if "/devices/leaf-" in message.topic:
            numbers.setdefault(device_of(message), set()).add(message.seq or 0)
    return {leaf: max(seen) - len(seen) for leaf, seen in numbers.items()}


def ledger(ground: Ground) -> list[dict[str, int]]:
    """The rows of `buffer status`, whose sums must be right at any moment."""
    rows = json.loads(ground.gateway.verb("buffer", "status", "--json"))["devices"]
    for row in rows:
        expect(row["received"] == sum(row[name] for name in ROW[1:]), f"the ledger's sums are wrong: {row}")
    return rows
