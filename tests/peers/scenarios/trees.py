"""Topic trees that were there before the gateway: forwarded, fetched, and mapped to telemetry."""

from __future__ import annotations

import time

from paho.mqtt import client as mqtt

from cloud import Cloud, Observer
from gateway import ID, Gateway
from stage import Stage
from wait import expect, wait_for

TREES = """
[[upstream.forward]]
filter = "plant/#"

[[upstream.forward]]
filter = "alarms/+"
prefix = "site-3"
retain = false

[[upstream.fetch]]
filter = "recipes/#"
prefix = "fieldgate/office"

[[policy]]
who = "line-hmi"
allow = "publish"
filter = "plant/#"

[[policy]]
who = "line-hmi"
allow = "publish"
filter = "alarms/#"

[[policy]]
who = "line-hmi"
allow = "subscribe"
filter = "recipes/#"
"""
MAP = """
[[broker.map]]
topic = "old/{device}/#"
stream = "raw"
"""


def trees(stage: Stage) -> None:
    """plant/# goes up, recipes/# comes down, old/ID/# becomes telemetry; nothing is lost over kill -9 of the gateway and an outage."""
    for protocol, version in ((5, mqtt.MQTTv5), (4, mqtt.MQTTv311)):
        both_ways(stage.part(f"mqtt-{protocol}"), protocol, version)


def both_ways(stage: Stage, protocol: int, version: mqtt.MQTTProtocolVersion) -> None:
    cloud = Cloud(stage, ID)
    office = cloud.observer.client
    # Retained before the gateway was ever there.
    office.publish("fieldgate/office/recipes/7", b"flour", qos=1, retain=True).wait_for_publish(5)
    gateway = Gateway(stage, cloud.section(protocol) + TREES + MAP)
    hmi_bundle, press = gateway.add_device("line-hmi", role="app"), gateway.add_device("press-1")
    gateway.start()
    cloud.wait_online()
    hmi = gateway.leaf(hmi_bundle, version=version).connect()
    old = gateway.leaf(press, version=version).connect()

    # Up, with bytes, order and retain flag as they were.
    seen = cloud.observer
    site = Observer(cloud.ports["plain"], "site-3/#", "observer-of-site-3")
    stage.at_end(site.close)
    for n in range(50):
        expect(hmi.publish("plant/belt/speed", str(n)) == 0, "a forwarded message was not acknowledged with success")
    speeds = cloud.topic("plant/belt/speed")
    seen.wait("the last speed", 10, lambda m: m.topic == speeds and m.payload == b"49")
    expect([m.payload for m in seen.messages if m.topic == speeds] == [str(n).encode() for n in range(50)], "speeds out of order")
    expect(all(m.seq for m in seen.messages if m.topic == speeds) or protocol == 4, "forwarded messages without fg-seq")

    # Down: what was retained, and what comes now.
    expect(hmi.subscribe("recipes/#").value in (0, 1), "the program may not subscribe to what is fetched")
    wait_for("the retained recipe", 10, lambda: any(m.topic == "recipes/7" and m.payload == b"flour" and m.retain for m in hmi.messages))
    office.publish("fieldgate/office/recipes/8", b"sugar", qos=1).wait_for_publish(5)
    wait_for("the new recipe", 10, lambda: any(m.topic == "recipes/8" and m.payload == b"sugar" for m in hmi.messages))

    # A device that knows only its own topic.
    expect(old.publish("old/press-1/temp/inlet", "71") == 0, "a mapped message was not acknowledged with success")
    mapped = cloud.topic("devices/press-1/telemetry/raw/temp/inlet")
    seen.wait("the mapped message", 10, lambda m: m.topic == mapped)

    # Away: kept over a crash.
    cloud.relay.ask("cut")
    for n in range(50, 100):
        hmi.publish("plant/belt/speed", str(n))
    expect(hmi.publish("alarms/fire", "42") == 0, "an alarm was not acknowledged with success")
    gateway.kill()
    mark = seen.mark()
    office.publish("fieldgate/office/recipes/9", b"salt", qos=1, retain=True).wait_for_publish(5)
    gateway.start()
    cloud.relay.ask("mend")
    began = time.monotonic()
    site.wait("the alarm below its own prefix", 20, lambda m: m.topic == "site-3/alarms/fire" and m.payload == b"42")
    wait_for(
        "the speeds of the outage", 20,
        lambda: {str(n).encode() for n in range(50, 100)} <= {m.payload for m in seen.messages[mark:] if m.topic == speeds},
    )
    stage.figure(f"outage_drained_s_{protocol}", time.monotonic() - began)
    again = gateway.leaf(hmi_bundle, version=version).connect()
    again.subscribe("recipes/#")
    wait_for("the recipe of the outage", 10, lambda: any(m.topic == "recipes/9" and m.payload == b"salt" for m in again.messages))
