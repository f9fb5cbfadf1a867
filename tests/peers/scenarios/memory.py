"""Memory at rest, and the size of the binary that is shipped."""

from __future__ import annotations

import os
from pathlib import Path

from cloud import Cloud
from gateway import ID, Gateway
from points import Points
from scenarios.field import OPCUA_POINTS
from stage import Stage, command, free_port
from wait import expect

IDLE_MB = 40
# Without the program's own pages, which in a debug build are several times as many.
IDLE_HEAP_MB = 20
DIST_MB = 25
LEAVES = 5


def idle_with_ten_devices(stage: Stage) -> None:
    """RSS of `run` at rest with five leaf devices, four Modbus devices and one OPC UA device connected: below 40 MB, and 20 without the program's pages."""
    gateway, _cloud = ten_devices(stage, "gateway", stage.options.binary)
    idle, heap = gateway.settled_mb(5), gateway.settled_mb(1, "RssAnon")
    stage.figure("idle_rss_mb", idle)
    stage.figure("idle_heap_mb", heap)
    if stage.options.long:
        dist = build_dist(stage)
        size = dist.stat().st_size / 1e6
        stage.figure("dist_binary_mb", size)
        gateway.stop()
        expect(size < DIST_MB, f"the dist binary without demo has {size:.1f} MB, {DIST_MB} are allowed")
        shipped, _cloud = ten_devices(stage, "dist", dist)
        stage.figure("dist_idle_rss_mb", shipped.settled_mb(5))
    expect(heap < IDLE_HEAP_MB, f"the idle gateway takes {heap:.1f} MB besides its program, {IDLE_HEAP_MB} are allowed")
    expect(stage.options.debug_build or idle < IDLE_MB, f"the idle gateway takes {idle:.1f} MB, {IDLE_MB} are allowed")


def ten_devices(stage: Stage, name: str, binary: Path) -> tuple[Gateway, Cloud]:
    """A gateway with ten devices, all of them connected."""
    stage = stage.part(name)
    cloud = Cloud(stage, ID)
    modbus_port, opcua_port = free_port(), free_port()
    stage.helper("modbus", "modbus_peer.py", port=modbus_port)
    stage.helper("opcua", "opcua_peer.py", port=opcua_port)
    presses = [f"press-{n}" for n in range(4)]
    sections = "".join(
        f'[[modbus]]\nurl = "tcp://127.0.0.1:{modbus_port}"\n'
        f'  [[modbus.device]]\n  id = "{press}"\n  unit = 1\n'
        '    [[modbus.device.point]]\n    name = "small"\n    at = "holding:0"\n    type = "i16"\n'
        for press in presses
    )
    sections += f'[[opcua]]\nendpoint = "opc.tcp://127.0.0.1:{opcua_port}/"\nsecurity = "None"\n{OPCUA_POINTS}'
    gateway = Gateway(stage, f"{cloud.section()}\n{sections}", binary=binary, name=name)
    bundles = [gateway.add_device(f"leaf-{n}") for n in range(LEAVES)]
    gateway.start()
    cloud.wait_online()
    for bundle in bundles:
        gateway.leaf(bundle).connect().telemetry("here", "peers")
    for press in presses:
        Points(cloud, press).wait_values({"small": -1234}, 15)
    Points(cloud, "boiler-7").wait_values({"level": 12.5}, 15)
    return gateway, cloud


def build_dist(stage: Stage) -> Path:
    """`cargo build --profile dist --no-default-features`; the binary."""
    done = command(
        ["cargo", "build", "--profile", "dist", "--no-default-features", "--bin", "fieldgate"], seconds=1800, cwd=stage.options.repository
    )
    expect(done.returncode == 0, f"the dist profile does not build: {done.stderr[-2000:]}")
    binary = stage.options.cargo_target / "dist" / "fieldgate"
    expect(os.access(binary, os.X_OK), f"the build left no {binary}")
    return binary
