"""Thousands of OPC UA nodes at 20 ms, signed and encrypted, every value into the store: how many come, what they cost, and that none is missing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pki
from cloud import Cloud
from gateway import ID, Gateway
from points import documents
from stage import Stage, free_port
from wait import expect, wait_for

NODES = 5000
EVERY_MS = 20
SECONDS = 20
DEVICES = 5
URI = "urn:fieldgate:peers:open62541"


def cpu_seconds(pid: int) -> float:
    """What the process has used, by itself and for the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate(stage: Stage) -> None:
    """open62541: 5,000 nodes at 20 ms over Basic256Sha256, the cloud away; then it comes back, and each node's values are counted."""
    nodes, seconds = int(os.environ.get("FIELDGATE_PEERS_NODES", NODES)), float(os.environ.get("FIELDGATE_PEERS_SECONDS", SECONDS))
    port = free_port()
    pair = pki.opcua_application(stage.folder / "opcua", "server", URI)
    server = stage.helper(
        "open62541", "opcua_c_peer.py", port=port, server=os.environ["FIELDGATE_PEERS_OPEN62541"], count=nodes, counting=True,
        certificate=[str(pair.cert.with_suffix(".der")), str(pair.key), URI],
    )
    cloud = Cloud(stage, ID)
    sections = f'[buffer]\nmax_size = "8GiB"\n[[opcua]]\nendpoint = "opc.tcp://127.0.0.1:{port}/"\nsecurity = "Basic256Sha256"\ntrust = "first-use"\n'
    share = nodes // DEVICES
    for device in range(DEVICES):
        sections += f'  [[opcua.device]]\n  id = "rack-{device}"\n  publishing = "100ms"\n  sampling = "{EVERY_MS}ms"\n  queue = 100\n'
        for number in range(device * share, (device + 1) * share):
            sections += f'  [[opcua.device.point]]\n  name = "n{number}"\n  node = "nsu=urn:fieldgate:peers;s=N{number}"\n'
    gateway = Gateway(stage, f"{cloud.section()}\n{sections}").start()
    cloud.wait_online()
    topics = [cloud.topic(f"devices/rack-{device}/telemetry/points") for device in range(DEVICES)]
    wait_for("values of each device", 20, lambda: {m.topic for m in cloud.observer.messages}.issuperset(topics))
    cloud.relay.ask("cut")
    pid = gateway.running().pid
    used, serving, began, from_ms = cpu_seconds(pid), cpu_seconds(server.ask("pid")), time.monotonic(), time.time() * 1000
    time.sleep(seconds)
    used, serving, lasted = cpu_seconds(pid) - used, cpu_seconds(server.ask("pid")) - serving, time.monotonic() - began
    until_ms = time.time() * 1000
    overruns = [link["overruns"] for link in gateway.status()["links"]]
    server.kill()
    resident = gateway.resident_mb()
    cloud.relay.ask("mend")
    counted: dict[str, list[float]] = {}
    values = 0

    def drained() -> bool:
        return gateway.metric("fieldgate_buffer_messages") == 0

    wait_for("the buffer to be empty", 300, drained, every=0.5)
    last = [-2, -1]

    def quiet() -> bool:
        last[0], last[1] = last[1], cloud.observer.mark()
        return last[0] == last[1]

    wait_for("the observer to have heard all", 300, quiet, every=3)
    for message in cloud.observer.messages:
        if message.topic in topics:
            for document in documents(message):
                # The server's clock is ours. Before, items are still being made, one request after the other.
                if from_ms <= document["ts"] < until_ms:
                    values += len(document["values"])
                    for name, value in document["values"].items():
                        counted.setdefault(name, []).append(value)
    missing = sum(1 for of in counted.values() for one, other in zip(of, of[1:], strict=False) if other - one > 1)
    backwards = sum(1 for of in counted.values() for one, other in zip(of, of[1:], strict=False) if other < one)
    stage.figure("values_per_s", round(values / lasted))
    stage.figure("cpu_percent_of_a_core", round(100 * used / lasted, 1))
    stage.figure("cpu_us_per_value", round(1e6 * used / values, 2))
    stage.figure("server_cpu_percent", round(100 * serving / lasted, 1))
    stage.figure("rss_mb", round(resident, 1))
    stage.figure("gaps", missing)
    expect(len(counted) == share * DEVICES, f"{len(counted)} points of {share * DEVICES}")
    expect(backwards == 0, f"{backwards} values came after later ones")
    expect(missing == 0, f"{missing} gaps in the values of {len(counted)} points; overruns of the link: {overruns}")
