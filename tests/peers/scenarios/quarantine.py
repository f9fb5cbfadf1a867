"""What the cloud refuses for good is kept aside, and goes up when the cloud has thought better of it."""

from __future__ import annotations

import json
from typing import Any

from cloud import ROOT, USER, Cloud
from gateway import ID, Gateway
from stage import Stage, command
from wait import expect, wait_for

EVERYTHING = f"user {USER}\ntopic readwrite #\n"
NOT_PRESS_2 = f"user {USER}\ntopic deny {ROOT}/{ID}/devices/press-2/telemetry/#\ntopic readwrite #\n"


def kept(gateway: Gateway, *only: str) -> list[dict[str, Any]]:
    return json.loads(gateway.verb("buffer", "quarantine", "list", "--json", *only))


def ledger(gateway: Gateway, device: str) -> dict[str, int]:
    rows = json.loads(gateway.verb("buffer", "status", "--json"))["devices"]
    return next(row for row in rows if row["device"] == device)


def quarantine(stage: Stage) -> None:
    """mosquitto's ACL refuses a device's messages: kept aside, its neighbour's go on; after the ACL is mended a retry delivers."""
    cloud = Cloud(stage, ID, acl=NOT_PRESS_2)
    gateway = Gateway(stage, cloud.section(5))
    good, refused = gateway.add_device("press-1"), gateway.add_device("press-2")
    gateway.start()
    cloud.wait_online()
    one, two = gateway.leaf(good).connect(), gateway.leaf(refused).connect()
    topics = {n: cloud.topic(f"devices/press-{n}/telemetry/t") for n in (1, 2)}
    for n in range(20):
        expect(two.publish("devices/press-2/telemetry/t", str(n)) == 0, "a message was not acknowledged")
        expect(one.publish("devices/press-1/telemetry/t", str(n)) == 0, "a neighbour's message was not acknowledged")
    cloud.observer.wait("the neighbour's last message", 10, lambda m: m.topic == topics[1] and m.payload == b"19")
    wait_for("twenty messages aside", 10, lambda: len(kept(gateway)) == 20)
    expect(not [m for m in cloud.observer.messages if m.topic == topics[2]], "a refused message came through")

    entries = kept(gateway, "--device", "press-2", "--reason", "0x87")
    expect(len(entries) == 20 and not kept(gateway, "--device", "press-1"), f"kept aside: {kept(gateway)}")
    expect([e["topic"] for e in entries] == ["devices/press-2/telemetry/t"] * 20, f"topics: {entries}")
    table = gateway.verb("buffer", "quarantine", "list")
    expect("not authorized (0x87)" in table and "press-2" in table, f"the table: {table}")

    # Still refused: they come back, and the sums hold.
    gateway.verb("buffer", "quarantine", "retry", str(entries[0]["id"]))
    again = wait_for("the refused one aside again", 10, lambda: (found := kept(gateway)) and len(found) == 20 and found)
    expect(again[-1]["seq"] == entries[0]["seq"] and again[-1]["id"] > entries[-1]["id"], f"came back as {again[-1]}")

    # Over a restart of the gateway, too.
    mark = cloud.observer.mark()
    gateway.stop()
    offline = cloud.observer.wait("the last state", 10, lambda m: m.topic == cloud.topic("state"), since=mark)
    gateway.start()
    cloud.wait_online(since=cloud.observer.messages.index(offline) + 1)
    cloud.change_acl(EVERYTHING)
    gateway.verb("buffer", "quarantine", "drop", str(again[-1]["id"]))
    said = gateway.verb("buffer", "quarantine", "retry", "--all")
    expect("19 messages" in said, f"retry said: {said}")
    last = str(19).encode()
    cloud.observer.wait("the last retried message", 10, lambda m: m.topic == topics[2] and m.payload == last)
    came = [m for m in cloud.observer.messages if m.topic == topics[2]]
    expect([m.payload for m in came] == [str(n).encode() for n in range(1, 20)], f"came: {[m.payload for m in came]}")
    expect([m.seq for m in came] == [e["seq"] for e in entries[1:]], "under other numbers than their own")
    expect(not kept(gateway), "something is still kept aside")
    row = wait_for("an empty buffer", 10, lambda: (row := ledger(gateway, "press-2"))["waiting"] == 0 and row)
    expect(row["received"] == row["delivered"] + row["quarantined"] and row["quarantined"] == 1, f"ledger: {row}")

    # A number that is not there is said.
    done = command(gateway.argv("buffer", "quarantine", "retry", "1"), cwd=gateway.folder)
    expect(done.returncode == 1 and "not kept aside" in done.stderr, f"an unknown number: {done.stderr}")
    audit = gateway.verb("audit", "--lines", "50")
    expect("quarantine_retried" in audit and "quarantine_dropped" in audit, f"audit: {audit}")
