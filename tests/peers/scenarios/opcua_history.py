"""The gap of an outage is filled from the history of an asyncua server: nothing is missing, and every point stays in order."""

from __future__ import annotations

import time
from typing import Any

from cloud import Cloud, Message
from gateway import ID, Gateway
from points import Points
from stage import Stage, free_port
from wait import expect, wait_for

WITHIN = 20
AWAY = 4
# More than one page of an answer.
STEPS = 2500


def fills(stage: Stage) -> None:
    """The line to asyncua cut twice for 4 s: a counter and 2,500 values of a second point are whole and in order."""
    port, line = free_port(), free_port()
    cloud = Cloud(stage, ID)
    relay = stage.helper("relay", "relay.py", port=line, target=port)
    server = stage.helper("asyncua", "opcua_peer.py", port=port, nodes=["Steps", "Plain"], history=["Ticks", "Steps"])
    sections = f'[[opcua]]\nendpoint = "opc.tcp://127.0.0.1:{line}/"\nsecurity = "None"\n'
    sections += '  [[opcua.device]]\n  id = "boiler-7"\n  publishing = "100ms"\n  sampling = "50ms"\n  queue = 100\n  history = true\n'
    for point in ("Ticks", "Steps", "Plain"):
        sections += f'  [[opcua.device.point]]\n  name = "{point}"\n  node = "nsu=urn:fieldgate:peers;s={point}"\n'
    gateway = Gateway(stage, f"{cloud.section()}\n{sections}").start()
    cloud.wait_online()
    points = Points(cloud, "boiler-7")
    points.wait_values({"Steps": 1.0, "Plain": 1.0}, WITHIN)
    points.wait_reading("a count", WITHIN, 0, lambda p, v, _e: p == "Ticks" and v is not None and v >= 3)
    for begin in (10, 10 + STEPS):
        mark = cloud.observer.mark()
        relay.ask("cut")
        points.wait_reading("bad quality", WITHIN, mark, lambda p, _v, e: p == "Ticks" and e is not None)
        server.ask("step", name="Steps", first=begin, count=STEPS)
        server.ask("write", names=["Plain"], value=float(begin))
        time.sleep(AWAY)
        relay.ask("mend")
        last = begin + STEPS - 1
        points.wait_reading("the last step", WITHIN, mark, lambda p, v, _e, last=last: p == "Steps" and v == last)
        points.wait_values({"Plain": float(begin)}, WITHIN, mark)
        filled = [value for message, p, value, _ in points.readings(mark) if p == "Ticks" and value is not None and marked(message)]
        expect(len(filled) >= AWAY * 2, f"{len(filled)} counts of the outage were filled in: {filled}")
        here = cloud.observer.mark()
        points.wait_reading("a live count", WITHIN, here, lambda p, v, _e: p == "Ticks" and v is not None)
    whole(points)
    notes = wait_for("the point without history in status", 10, lambda: [n for n in str(gateway.status()).split("'") if "keeps no history" in n])
    expect("`Plain`" in notes[0] and "1 points" in notes[0], f"what is said of the gap that stays: {notes}")
    stage.figure("steps", STEPS * 2)


def marked(message: Message) -> bool:
    """Whether the message says, in both ways, that it is of the past."""
    content: Any = message.json()
    documents = content if isinstance(content, list) else [content]
    inside = {document.get("hist", False) for document in documents}
    outside = message.hist
    expect(inside == {outside}, f"`hist` and `fg-hist` differ: {inside} and {outside}")
    return outside


def whole(points: Points) -> None:
    """Each count once and after the one before it, each step likewise."""
    counts = [value for _, p, value, _ in points.readings(0) if p == "Ticks" and value is not None]
    wrong = [(one, other) for one, other in zip(counts, counts[1:], strict=False) if other not in (one + 1, one)]
    expect(not wrong, f"counts that don't follow each other: {wrong[:10]} of {len(counts)}")
    steps = [value for _, p, value, _ in points.readings(0) if p == "Steps" and value is not None]
    once = [value for value, before in zip(steps, [None, *steps], strict=False) if value != before]
    wanted = [1.0, *(float(step) for step in range(10, 10 + 2 * STEPS))]
    expect(once == wanted, f"{len(once)} steps of {len(wanted)}; the first that differ: {[p for p in zip(once, wanted, strict=False) if p[0] != p[1]][:5]}")
