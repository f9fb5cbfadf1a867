"""Wrong configurations are refused with their places; wrong surroundings are lived with and told."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from cloud import PASSWORD, Cloud
from gateway import ID, Gateway
from points import Points
from stage import Stage, command, free_port
from wait import expect, wait_for

BAD_CONFIGURATION = 78

# Each line marked `#!key` holds one mistake, to be found under that key.
TEN_MISTAKES = """
[gateway]
id = "line 4"                        #!id
data_dir = "data"

[broker]
listen = ["8883"]                    #!listen
lissten = ["127.0.0.1:8883"]         #!lissten

[upstream]
url = "http://cloud.example"         #!url
protocol = 6                         #!protocol
keep_alive = 30                      #!keep_alive

[buffer]
max_size = "a lot"                   #!max_size
overflow = "drop-newest"             #!overflow

[[modbus]]
url = "tcp://127.0.0.1:502"
  [[modbus.device]]
  id = "press-1"
  unit = 1
    [[modbus.device.point]]
    name = "temperature"
    at = "holding:70000"             #!at
    type = "f32"
    [[modbus.device.point]]
    name = "pressure"
    at = "holding:10"
    type = "f31"                     #!type
"""
LOCATED = re.compile(r"^gateway\.toml:(\d+):(\d+): ([\w.\[\]-]+): (.+)$", re.MULTILINE)


def ten_mistakes(stage: Stage) -> None:
    """Ten different mistakes give ten located messages on standard error and exit code 78."""
    gateway = Gateway(stage)
    text = TEN_MISTAKES.lstrip("\n")
    wanted = {number: line.split("#!")[1] for number, line in enumerate(text.splitlines(), 1) if "#!" in line}
    expect(len(wanted) == 10, f"this scenario has {len(wanted)} mistakes")
    (gateway.folder / "gateway.toml").write_text(text)
    for verb in ("run", "check"):
        done = command(gateway.argv(verb), cwd=gateway.folder)
        expect(done.returncode == BAD_CONFIGURATION, f"`{verb}` ended with {done.returncode}: {done.stdout}{done.stderr}")
        said = done.stderr if verb == "run" else done.stdout + done.stderr
        found = [(int(line), key.split(".")[-1]) for line, _column, key, _why in LOCATED.findall(said)]
        expect(sorted(found) == sorted(wanted.items()), f"`{verb}` located {found}, wanted {sorted(wanted.items())}; it said:\n{said}")
    stage.figure("located", len(wanted))
    done = command(gateway.argv("check", "--json"), cwd=gateway.folder)
    json.loads(done.stdout)
    expect(done.returncode == BAD_CONFIGURATION, f"`check --json` ended with {done.returncode}")
    gateway.write("")
    gateway.verb("check")


def objects(value: Any) -> list[dict[str, Any]]:
    """Every object in a JSON document, outermost first."""
    if isinstance(value, list):
        return [found for item in value for found in objects(item)]
    if isinstance(value, dict):
        return [value, *(found for item in value.values() for found in objects(item))]
    return []


def status_of(gateway: Gateway, device: str) -> str:
    """What `status --json` says about a device: the innermost objects that name it."""
    named = [found for found in objects(gateway.status()) if device in found.values()]
    return json.dumps(named[-1]) if named else ""


def keeps_running(stage: Stage) -> None:
    """A wrong upstream password and unreachable PLCs: the gateway runs, and `status` and the log say so."""
    cloud = Cloud(stage, ID)
    modbus_port, gone_modbus, gone_opcua = free_port(), free_port(), free_port()
    stage.helper("modbus", "modbus_peer.py", port=modbus_port)
    point = '  [[modbus.device.point]]\n  name = "ticks"\n  at = "input:0"\n  type = "u16"\n'
    sections = "".join(
        f'[[modbus]]\nurl = "tcp://127.0.0.1:{port}"\n  [[modbus.device]]\n  id = "{device}"\n  unit = 1\n  interval = "200ms"\n{point}'
        for device, port in (("press-here", modbus_port), ("press-gone", gone_modbus))
    )
    sections += (
        f'[[opcua]]\nendpoint = "opc.tcp://127.0.0.1:{gone_opcua}/"\nsecurity = "None"\n  [[opcua.device]]\n  id = "boiler-gone"\n'
        '  [[opcua.device.point]]\n  name = "level"\n  node = "ns=2;s=Level"\n'
    )
    gateway = Gateway(stage, f"{cloud.section(password='wrong')}\n{sections}").start()
    leaf = gateway.leaf(gateway.add_device("leaf-1")).connect()
    leaf.telemetry("stored", "peers")
    refused = r"not.?authori[sz]ed|bad.?user|password|credentials|refused"
    wait_for("`status` to tell of the refused password", 15, lambda: upstream_says(gateway, refused), every=0.5)
    wait_for("the log to tell of the refused password", 5, lambda: gateway.log_says(r"upstream.*(" + refused + ")"))
    told_of_gone(gateway, "press-gone", gone_modbus)
    told_of_gone(gateway, "boiler-gone", gone_opcua)
    back = repaired(stage, cloud, gateway)
    points = Points(cloud, "press-here")
    points.wait_reading("values of the PLC that is there", 10, back, lambda p, value, _e: p == "ticks" and value is not None)
    for device in ("press-gone", "boiler-gone"):
        Points(cloud, device).wait_reading("bad quality", 15, 0, lambda _p, _v, error: bool(error and error.startswith("Bad")))


def told_of_gone(gateway: Gateway, device: str, port: int) -> None:
    """`status` tells of the device, the log of it or of its link."""
    gone = r'"online": false|BadNoCommunication|refused|unreachable|offline'
    wait_for(f"`status` to tell of {device}", 20, lambda: re.search(gone, status_of(gateway, device)), every=0.5)
    wait_for(f"the log to tell of {device} or its link", 5, lambda: gateway.log_says(rf"{port}|{device}"))


def upstream_says(gateway: Gateway, pattern: str) -> bool:
    """Whether the upstream part of the status has text like `pattern`."""
    return re.search(pattern, json.dumps(gateway.status().get("upstream")), re.IGNORECASE) is not None


def repaired(stage: Stage, cloud: Cloud, gateway: Gateway) -> int:
    """The password file is mended: the gateway connects by itself and delivers what it had stored."""
    mark = cloud.observer.mark()
    mended = time.monotonic()
    (cloud.folder / "gateway.password").write_text(f"{PASSWORD}\n")
    topic = cloud.topic("devices/leaf-1/telemetry/peers")
    cloud.observer.wait("what was stored while the password was wrong", 15, lambda m: m.topic == topic, mark)
    stage.figure("delivered_after_repair_s", time.monotonic() - mended)
    gateway.running()
    return mark
