"""A gateway without upstream, one gateway per data directory, and the orderly stop."""

from __future__ import annotations

import json
import time

from cloud import Cloud
from gateway import ID, Gateway
from stage import Stage, command
from wait import expect, wait_for

STOPS_WITHIN = 10


def without_upstream(stage: Stage) -> None:
    """No [upstream]: leaves connect and talk locally; a second gateway on the same data is refused; SIGTERM ends with 0."""
    gateway = Gateway(stage)
    bundle = gateway.add_device("leaf-1")
    gateway.start()
    expect(gateway.http("/healthz") == 200, "/healthz of a local-only gateway is not 200")
    expect(gateway.http("/metrics") == 200, "/metrics of a local-only gateway is not 200")
    leaf = gateway.leaf(bundle).connect()
    expect(leaf.subscribe("devices/leaf-1/#").value == 1, "a leaf may not subscribe to its own topics")
    leaf.telemetry("local", "peers")
    wait_for("the leaf's own message", 5, lambda: any(m.payload == b"local" for m in leaf.messages))
    expect(leaf.subscribe("$fieldgate/ca").value == 1, "a leaf may not subscribe to $fieldgate/ca")
    wait_for("the trust bundle", 5, lambda: any(m.topic == "$fieldgate/ca" for m in leaf.messages))
    bundle_text = next(m.payload.decode() for m in leaf.messages if m.topic == "$fieldgate/ca")
    expect(bundle_text == bundle.ca.read_text(), "$fieldgate/ca and ca.pem differ")
    gateway.status()
    json.loads(gateway.verb("buffer", "status", "--json"))
    second = command(gateway.argv("run"), seconds=20, cwd=gateway.folder)
    expect(second.returncode != 0, "a second gateway started on the same data directory")
    began = time.monotonic()
    code = gateway.stop(STOPS_WITHIN + 2)
    stage.figure("stopped_s", time.monotonic() - began)
    expect(code == 0, f"SIGTERM ended the gateway with {code}\n{gateway.log_tail()}")
    expect(leaf.disconnected.wait(5), "the leaf did not see the gateway go")


def stops_and_goes_on(stage: Stage) -> None:
    """SIGTERM in the middle of traffic: exit 0 in time, offline state upstream, and nothing acknowledged is lost."""
    cloud = Cloud(stage, ID)
    gateway = Gateway(stage, cloud.section())
    bundle = gateway.add_device("leaf-1")
    gateway.start()
    cloud.wait_online()
    leaf = gateway.leaf(bundle).connect()
    cloud.relay.ask("cut")
    for n in range(200):
        leaf.telemetry(str(n), "drain")
    mark = cloud.observer.mark()
    cloud.relay.ask("mend")
    topic = cloud.topic("devices/leaf-1/telemetry/drain")
    cloud.observer.wait("the first of what was stored", 15, lambda m: m.topic == topic, mark)
    began = time.monotonic()
    code = gateway.stop(STOPS_WITHIN + 2)
    stage.figure("stopped_s", time.monotonic() - began)
    expect(code == 0, f"SIGTERM ended the gateway with {code}\n{gateway.log_tail()}")
    state = cloud.topic("state")
    cloud.observer.wait("the gateway's state, offline", 5, lambda m: m.topic == state and m.json()["online"] is False, mark)
    gateway.start()
    everything = {str(n) for n in range(200)}
    wait_for(
        "all acknowledged messages after a stop and a start", 15,
        lambda: everything <= {m.payload.decode() for m in cloud.observer.messages if m.topic == topic}, every=0.2,
    )
