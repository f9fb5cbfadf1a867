"""Deadbands and triggers that servers look at, points that they tell with others: what they hide, what they refuse, and a drift that asyncua alone would hide for ever."""

from __future__ import annotations

import json
from typing import Any

from cloud import Cloud
from gateway import ID, Gateway
from points import Points
from stage import Stage, free_port
from wait import expect, wait_for

WITHIN = 15
SERVERS = {"asyncua": "opcua_peer.py", "node-opcua": "opcua_node_peer.js"}


def filters(stage: Stage) -> None:
    """asyncua and node-opcua: an absolute deadband, a percentage and a text that are refused, a trigger, a point told with another."""
    cloud = Cloud(stage, ID)
    peers, sections = {}, ""
    for name, program in SERVERS.items():
        port = free_port()
        peers[name] = stage.helper(name, program, port=port, nodes=["Band", "Share", "Quiet", "Lead", "Held"], folder=str(stage.folder / name))
        sections += f'[[opcua]]\nendpoint = "opc.tcp://127.0.0.1:{port}/"\nsecurity = "None"\n'
        sections += f'  [[opcua.device]]\n  id = "{name}"\n  publishing = "100ms"\n  sampling = "50ms"\n  deadband_on = "server"\n'
        for point, key in (("Band", "deadband = 0.5"), ("Share", 'deadband = "10%"'), ("Quiet", 'trigger = "status"'), ("Label", "deadband = 0.5"),
                           ("Lead", ""), ("Held", 'triggered_by = "Lead"\n  queue = 1')):
            sections += f'  [[opcua.device.point]]\n  name = "{point}"\n  node = "nsu=urn:fieldgate:peers;s={point}"\n  {key}\n'
    gateway = Gateway(stage, f"{cloud.section()}\n{sections}").start()
    cloud.wait_online()
    for name, peer in peers.items():
        points = Points(cloud, name)
        points.wait_values({"Band": 1.0, "Share": 1.0, "Quiet": 1.0, "Label": "boiler", "Lead": 1.0, "Held": 1.0}, WITHIN)
        mark = cloud.observer.mark()
        for value in (1.3, 1.6):
            peer.ask("write", names=["Band", "Share", "Quiet"], value=value)
            points.wait_values({"Share": value}, WITHIN, mark)
        # asyncua 2.1.0 measures from the last value instead of the last one it told: silence is looked into.
        points.wait_values({"Band": 1.6}, WITHIN, mark)
        peer.ask("write", names=["Band"], value=5.0)
        points.wait_values({"Band": 5.0}, 3, mark)
        bands: list[Any] = [value for _, p, value, _ in points.readings(mark) if p == "Band"]
        expect(bands == [1.6, 5.0], f"{name}: what came of the deadband: {bands}")
        expect("Quiet" not in points.latest(mark), f"{name}: a value came though the status had not changed")
        mark = cloud.observer.mark()
        for value in (2.0, 3.0):
            peer.ask("write", names=["Held", "Share"], value=value)
            points.wait_values({"Share": value}, WITHIN, mark)
        linked = "Held" not in points.latest(mark)
        peer.ask("write", names=["Lead"], value=2.0)
        points.wait_values({"Lead": 2.0, "Held": 3.0}, WITHIN, mark)
        told = [value for _, p, value, _ in points.readings(mark) if p == "Held"]
        refused = f"{name}: the server can't tell 1 points with others as asked" in json.dumps(gateway.status())
        expect(linked != refused and (refused or told == [3.0]), f"{name}: what came of the trigger: {told}, said to be refused: {refused}")
        stage.figure(f"{name}_links", 0 if refused else 1)
    wait_for("what node-opcua refuses, in status", 10, lambda: "node-opcua: the server doesn't filter 2 points as asked" in json.dumps(gateway.status()))
