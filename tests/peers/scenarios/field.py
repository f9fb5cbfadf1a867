"""Field devices: values, errors, commands and restarts, the same checks for Modbus and OPC UA."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pki
from cloud import Cloud
from gateway import ID, Gateway
from points import Points, same
from stage import Helper, Stage, free_port
from wait import expect, wait_for

BACK_WITHIN = 10
AWAY_WITHIN = 15


@dataclass
class Field:
    """A field device as the checks see it."""

    via: str
    device: str
    values: dict[str, Any]
    counter: str
    missing: str
    writable: str
    locked: str
    too_high: float
    start: Callable[[], Helper]
    written: Callable[[Helper], Any]
    # A method that adds two numbers, where the protocol has methods.
    method: str | None = None


def modbus(stage: Stage) -> None:
    """A pymodbus device: typed values, writes, refusals, killed and restarted."""
    port = free_port()
    point = '  [[modbus.device.point]]\n  name = "{}"\n  at = "{}"\n  type = "{}"\n{}'
    points = [
        ("running", "coil:0", "bool", ""),
        ("door", "discrete:0", "bool", ""),
        ("ticks", "input:0", "u16", ""),
        ("small", "holding:0", "i16", ""),
        ("word", "holding:1", "u16", ""),
        ("long", "holding:2", "i32", ""),
        ("wide", "holding:4", "u32", ""),
        ("real", "holding:6", "f32", 'order = "CDAB"\n'),
        ("double", "holding:8", "f64", ""),
        ("scaled", "holding:0", "i16", "scale = 0.1\noffset = 200.0\n"),
        ("setpoint", "holding:20", "f32", 'access = "rw"\nrange = [0.0, 90.0]\n'),
        ("missing", "holding:900", "u16", ""),
    ]
    section = f'[[modbus]]\nurl = "tcp://127.0.0.1:{port}"\n  [[modbus.device]]\n  id = "press-1"\n  unit = 1\n  interval = "200ms"\n'
    values = {
        "running": True, "door": False, "small": -1234, "word": 54321, "long": -123456789, "wide": 4000000000,
        "real": 21.5, "double": 3.141592653589793, "scaled": 76.6, "setpoint": 10.0,
    }
    field = Field(
        "modbus", "press-1", values, "ticks", "missing", "setpoint", "word", 500.0,
        start=lambda: stage.helper("modbus", "modbus_peer.py", port=port), written=lambda peer: peer.ask("setpoint"),
    )
    play(stage, field, section + "".join(point.format(*one) for one in points))


def opcua_without_security(stage: Stage) -> None:
    """An asyncua server with security None and anonymous: values, writes, refusals, killed and restarted."""
    port = free_port()
    section = f'[[opcua]]\nendpoint = "opc.tcp://127.0.0.1:{port}/"\nsecurity = "None"\n'
    play(stage, opcua(lambda: stage.helper("opcua", "opcua_peer.py", port=port)), section + OPCUA_POINTS)


def opcua_signed_and_encrypted(stage: Stage) -> None:
    """The same over Basic256Sha256, SignAndEncrypt, user name and strict trust."""
    port = free_port()
    pair = pki.opcua_application(stage.folder / "opcua", "server", "urn:fieldgate:peers:server")
    password = stage.folder / "op.password"
    password.write_text("secret\n")
    password.chmod(0o600)
    section = (
        f'[[opcua]]\nendpoint = "opc.tcp://127.0.0.1:{port}/"\nsecurity = "Basic256Sha256"\nmode = "SignAndEncrypt"\n'
        f'auth = {{ username = "op", password_file = "{password}" }}\ntrust = "strict"\n'
    )
    trusted = stage.folder / "gateway" / "data" / "opcua" / "trusted"

    def start() -> Helper:
        return stage.helper(
            "opcua", "opcua_peer.py", port=port, cert=str(pair.cert), key=str(pair.key), user="op", password="secret"
        )

    def trust() -> None:
        trusted.mkdir(parents=True, exist_ok=True)
        shutil.copy(pair.cert.with_suffix(".der"), trusted / "server.der")

    play(stage, opcua(start), section + OPCUA_POINTS, prepare=trust)


OPCUA_POINTS = """  [[opcua.device]]
  id = "boiler-7"
  publishing = "200ms"
  sampling = "100ms"
""" + "".join(
    f'  [[opcua.device.point]]\n  name = "{name}"\n  node = "nsu=urn:fieldgate:peers;s={node}"\n{extra}'
    for name, node, extra in (
        ("level", "Level", 'access = "rw"\nrange = [0.0, 100.0]\n'),
        ("ticks", "Ticks", ""),
        ("running", "Running", ""),
        ("label", "Label", ""),
        ("locked", "Locked", ""),
        ("pose", "Pose", 'access = "rw"\n'),
        ("missing", "Missing", ""),
    )
) + '  [[opcua.device.method]]\n  name = "sum"\n  node = "nsu=urn:fieldgate:peers;/Sum"\n  object = "i=85"\n'


POSE = {"X": 1.5, "Steps": [1, 2], "Label": "left"}


def opcua(start: Callable[[], Helper]) -> Field:
    return Field(
        "opcua", "boiler-7", {"level": 12.5, "running": True, "label": "boiler", "locked": 1.0, "pose": POSE}, "ticks", "missing", "level", "locked",
        500.0, start=start, written=lambda peer: peer.ask("read", name="Level"), method="sum",
    )


def play(stage: Stage, field: Field, section: str, prepare: Callable[[], None] | None = None) -> None:
    """All checks on one field device."""
    cloud = Cloud(stage, ID)
    peer = field.start()
    gateway = Gateway(stage, f"{cloud.section()}\n{section}")
    if prepare:
        prepare()
    gateway.start()
    cloud.wait_online()
    points = Points(cloud, field.device)
    began = time.monotonic()
    points.wait_values(field.values, 15)
    stage.figure("first_values_s", time.monotonic() - began)
    numbered_and_online(cloud, field, points)
    commands(cloud, field, peer)
    peer = away_and_back(stage, cloud, field, points, peer)
    mark = cloud.observer.mark()
    answer = order(cloud, field, "after-restart", field.writable, 7.5, mark)
    expect(answer["status"] == "ok" and field.written(peer) == 7.5, f"a write after the restart was answered {answer}")
    answered_once(cloud, field)


def numbered_and_online(cloud: Cloud, field: Field, points: Points) -> None:
    """Telemetry carries the gateway's numbers; a missing point is bad and harms no other; the device is online."""
    seen = points.wait_reading("an error of the missing point", 10, 0, lambda p, _v, error: p == field.missing and error is not None)
    errors = {error for _, point, _, error in points.readings(0) if point == field.missing}
    expect(all(error and error.startswith("Bad") for error in errors), f"the missing point of {field.device} reads {errors}")
    expect(seen.seq is not None and seen.boot is not None, f"telemetry of {field.device} without fg-seq or fg-boot")
    points.wait_reading("a second count", 5, 0, lambda p, value, _e: p == field.counter and value is not None and value > 1)
    topic = cloud.topic(f"devices/{field.device}/state")
    state = cloud.observer.wait("the state of a field device", 10, lambda m: m.topic == topic and m.json()["online"] is True)
    expect(state.json()["via"] == field.via, f"the state of {field.device} says via {state.json().get('via')}")
    topic = cloud.topic(f"devices/{field.device}/birth")
    birth = cloud.observer.wait("the birth of a field device", 10, lambda m: m.topic == topic).json()
    told = {point["name"]: point["access"] for point in birth["points"]}
    expect(told.get(field.writable) == "rw" and told.get(field.missing) == "r", f"the birth of {field.device}: {birth}")


def order(cloud: Cloud, field: Field, rid: str, point: str, value: Any, since: int = 0) -> dict[str, Any]:
    """Sends a write command and returns its answer."""
    cloud.command(field.device, "write", {"point": point, "value": value}, rid)
    return cloud.result(field.device, "write", rid, since=since)


def commands(cloud: Cloud, field: Field, peer: Helper) -> None:
    """Writes change the device and are read back; what is not allowed is rejected and changes nothing."""
    answer = order(cloud, field, "w1", field.writable, 42.5)
    expect(answer["rid"] == "w1" and answer["status"] == "ok" and same(answer.get("value"), 42.5), f"a write was answered {answer}")
    expect(field.written(peer) == 42.5, f"the device holds {field.written(peer)} after a write of 42.5")
    for rid, point, value in (
        ("too-high", field.writable, field.too_high),
        ("not-a-number", field.writable, "warm"),
        ("read-only", field.locked, 1),
        ("unknown", "no-such-point", 1),
    ):
        answer = order(cloud, field, rid, point, value)
        expect(answer["status"] == "rejected" and answer.get("reason"), f"the write `{rid}` was answered {answer}")
    expect(field.written(peer) == 42.5, f"a rejected write changed the device to {field.written(peer)}")
    cloud.command(field.device, "read", {"points": [field.writable, field.locked]}, "r1")
    answer = cloud.result(field.device, "read", "r1")
    read = answer.get("value") or {}
    expect(answer["status"] == "ok" and same(read.get(field.writable), 42.5), f"a read was answered {answer}")
    if field.method:
        for rid, arguments, status in (("c1", [40.5, 2], "ok"), ("c2", [1], "rejected"), ("c3", [1, "x"], "rejected")):
            cloud.command(field.device, "call", {"method": field.method, "arguments": arguments}, rid)
            answer = cloud.result(field.device, "call", rid)
            expect(answer["status"] == status and (status != "ok" or answer.get("value") == 42.5), f"the call `{rid}` was answered {answer}")
    if "pose" in field.values:
        other = {"X": -2.5, "Steps": [3], "Label": "right"}
        for rid, pose, status in (
            ("p1", other, "ok"), ("p2", {"X": 1.0, "Steps": []}, "rejected"), ("p3", {**other, "Z": 1.0}, "rejected"), ("p4", POSE, "ok")
        ):
            answer = order(cloud, field, rid, "pose", pose)
            expect(answer["status"] == status and (status != "ok" or answer.get("value") == pose), f"the structure `{rid}` was answered {answer}")
    cloud.command(field.device, "dance", {}, "d1")
    answer = cloud.result(field.device, "dance", "d1")
    expect(answer["status"] == "rejected", f"an unknown command was answered {answer}")


def away_and_back(stage: Stage, cloud: Cloud, field: Field, points: Points, peer: Helper) -> Helper:
    """Killed: bad quality and offline, never a stale value; restarted: values again within ten seconds."""
    mark = cloud.observer.mark()
    peer.kill()
    points.wait_reading("bad quality while it is away", AWAY_WITHIN, mark, lambda p, _v, error: p == field.counter and bool(error))
    topic = cloud.topic(f"devices/{field.device}/state")
    cloud.observer.wait("the state of a field device, offline", AWAY_WITHIN, lambda m: m.topic == topic and not m.json()["online"], mark)
    away = cloud.observer.mark()
    answer = order(cloud, field, "while-away", field.writable, 5.0, away)
    expect(answer["status"] in ("failed", "timeout"), f"a write to a device that is away was answered {answer}")
    stale = [(point, value) for _, point, value, error in points.readings(away) if error is None]
    expect(not stale, f"values of {field.device} were reported while it was away: {stale}")
    peer = field.start()
    back = time.monotonic()
    points.wait_reading("values again", BACK_WITHIN, away, lambda p, value, _e: p == field.counter and value is not None)
    stage.figure("values_back_s", time.monotonic() - back)
    points.wait_values(field.values, BACK_WITHIN, away)
    cloud.observer.wait("the state of a field device, online again", 10, lambda m: m.topic == topic and m.json()["online"], away)
    wait_for("counting after the restart", 5, lambda: points.latest(away).get(field.counter, 0) > 1)
    return peer


def answered_once(cloud: Cloud, field: Field) -> None:
    """No command has had a second answer by now."""
    results: dict[str, int] = {}
    for message in cloud.observer.messages:
        if message.topic.startswith(cloud.topic(f"devices/{field.device}/commands/")) and message.topic.endswith("/result"):
            results[message.topic] = results.get(message.topic, 0) + 1
    twice = {topic: count for topic, count in results.items() if count != 1}
    expect(not twice, f"commands answered more than once: {twice}")
