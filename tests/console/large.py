"""A plant of 10,000 devices with 20,000 points: how large pages are and how long they take, and what watching costs."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cloud import Cloud
from gateway import ID, Gateway
from leaf import Bundle
from stage import Stage, free_port
from visitor import Visitor, Watching, setup_code
from wait import expect, wait_for

# 10,000 devices and 20,000 points; most are field devices, since a leaf costs a certificate and the disk's word for it.
LEAVES, LINKS, PER_LINK, POINTS = 99, 99, 100, 2
# Of one more device on a link of its own.
MANY_POINTS = 200
MOST_BYTES = 300_000
FIRST_PAGE = 1.0
ONE_CONSOLE = 3.0
TEN_CONSOLES = 0.95
MEASURED = 10.0
ROUNDS = 3
# Looks at a gateway that comes to rest, of MEASURED each.
LOOKS = 12
WINDOW = 64


def section() -> str:
    """Field devices that don't answer: what the pages show of them is the same."""
    port, text, device = free_port(), [], 0
    point = '    [[modbus.device.point]]\n    name = "point-{0}"\n    at = "holding:{0}"\n    type = "u16"\n    access = "rw"\n'
    for link in range(LINKS + 1):
        text.append(f'[[modbus]]\nurl = "tcp://127.0.0.1:{port}"\n')
        per_link, points = (PER_LINK, POINTS) if link else (1, MANY_POINTS)
        for unit in range(1, per_link + 1):
            text.append(f'  [[modbus.device]]\n  id = "field-{device:04}"\n  unit = {unit}\n  interval = "60s"\n')
            text += [point.format(n) for n in range(points)]
            device += 1
    return "".join(text)


def processor(pid: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share(gateway: Gateway, seconds: float) -> float:
    """Percent of a core over so long."""
    pid, began = gateway.running().pid, time.monotonic()
    before = processor(pid)
    time.sleep(seconds)
    return (processor(pid) - before) * 100 / (time.monotonic() - began)


def sizes(stage: Stage, visitor: Visitor) -> None:
    """Every page of a plant like that."""
    pages = [
        "/console", "/console/devices", "/console/devices?q=leaf-0", "/console/device/field-0000", "/console/device/leaf-00001",
        "/console/links", "/console/links/1", "/console/links/2", "/console/buffer", "/console/charts", "/console/charts?span=day", "/console/enrol",
        "/console/policy", "/console/audit", "/console/configuration", "/console/logs?level=trace",
    ]
    slowest, largest = 0.0, 0
    for page in pages:
        answer = visitor.ask("GET", page)
        expect(answer.status == 200, f"{page} answered {answer.status}")
        print(f"   {page}: {len(answer.body) / 1000:.1f} kB, {answer.seconds * 1000:.0f} ms", flush=True)
        expect(len(answer.body) <= MOST_BYTES, f"{page} is {len(answer.body)} bytes, at most {MOST_BYTES}")
        slowest, largest = max(slowest, answer.seconds), max(largest, len(answer.body))
    stage.figure("slowest page, ms", slowest * 1000)
    stage.figure("largest page, kB", largest / 1000)


def large(stage: Stage) -> None:
    """Judges the times and loads of an optimised build; of another it prints them."""
    judged = not stage.options.debug_build
    cloud = Cloud(stage, ID)
    gateway = Gateway(stage, "[broker.limits]\nmessage_rate = 0\n\n" + cloud.section() + section())
    names = gateway.folder / "names.csv"
    names.write_text("".join(["id\n", "sender\n", *(f"leaf-{n:05}\n" for n in range(LEAVES))]))
    bundles = gateway.folder / "bundles"
    gateway.verb("device", "add", "--csv", str(names), "--out", str(bundles), seconds=120)
    sender = Bundle("sender", *(bundles / "sender" / name for name in ("ca.pem", "cert.pem", "key.pem")))
    gateway.start(120)
    visitor = Visitor(gateway).set_up(setup_code(gateway))
    first = visitor.ask("GET", "/console")
    expect(first.status == 200, f"/console answered {first.status}")
    stage.figure("first page, ms", first.seconds * 1000)
    expect(not judged or first.seconds <= FIRST_PAGE, f"the first page took {first.seconds:.2f} s, at most {FIRST_PAGE}")
    sizes(stage, visitor)

    idle = settled(gateway)
    stage.figure("idle, % of a core", idle)
    for page in ("/console/live", "/console/devices/live", "/console/buffer/live", "/console/charts/live", "/console/links/live"):
        watching = visitor.watch(page)
        cost = share(gateway, MEASURED) - idle
        watching.close()
        stage.figure(f"{page}, % of a core", cost)
        expect(not judged or cost <= ONE_CONSOLE, f"{page} takes {cost:.1f} % of a core, at most {ONE_CONSOLE}")

    leaf = gateway.leaf(sender).connect()
    cloud.wait_online()
    rates: dict[int, list[float]] = {0: [], 10: []}
    for _ in range(ROUNDS):
        for count in rates:
            watching = [visitor.watch("/console/live") for _ in range(count)]
            rates[count].append(rate(leaf))
            end(watching)
    ratio = max(rates[10]) / max(rates[0])
    stage.figure("messages/s, nobody looks", max(rates[0]))
    stage.figure("messages/s, ten consoles", max(rates[10]))
    expect(not judged or ratio >= TEN_CONSOLES, f"with ten consoles {ratio:.2f} of the rate without")


def settled(gateway: Gateway) -> float:
    """% of a core at rest: after a start with so many devices there is work left for a while."""
    before = share(gateway, MEASURED)
    for _ in range(LOOKS):
        now = share(gateway, MEASURED)
        if now >= before - 0.5:
            return min(before, now)
        before = now
    expect(False, f"the gateway does not come to rest: {before:.1f} % of a core")
    return before


def rate(leaf: object) -> float:
    """Messages a second of one device that keeps some unacknowledged."""
    began, open_, count = time.monotonic(), [], 0
    topic = f"devices/{leaf.device}/telemetry/load"
    while (spent := time.monotonic() - began) < MEASURED / 2:
        open_.append(leaf.client.publish(topic, b"x" * 64, qos=1))
        count += 1
        if len(open_) >= WINDOW:
            first = open_.pop(0)
            wait_for("an acknowledgement", 20, first.is_published, every=0.0005)
    return count / spent


def end(watching: list[Watching]) -> None:
    for one in watching:
        one.close()
