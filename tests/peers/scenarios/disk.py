"""A full disk: no acknowledgement without durability, and work goes on when there is space again."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from pathlib import Path

from cloud import Cloud
from gateway import ID, Gateway
from history import Arrival, judge, numbers_of
from stage import Helper, Stage, command
from wait import Failed, expect, wait_for

SIZE = "24m"
RESUMES_WITHIN = 10
RATE, SECONDS = 200, 40
# With the default, drop-oldest, a full disk makes the store evict and count; here nothing acknowledged may go.
REFUSE = '[buffer]\noverflow = "refuse"\n'
# What an operator must be able to read.
TOLD = r"disk|full|space"


def full_and_back(stage: Stage) -> None:
    """data_dir on a disk that fills up, overflow = "refuse": it stops acknowledging, says so, and goes on with space."""
    expect(os.geteuid() == 0, "this scenario mounts a tmpfs and needs root")
    disk = mount(stage, SIZE)
    cloud = Cloud(stage, ID)
    gateway = Gateway(stage, f"{cloud.section()}\n{REFUSE}", data_dir=disk / "data")
    bundle = gateway.add_device("leaf-1")
    gateway.start()
    cloud.wait_online()
    leaf = {"device": bundle.device, "ca": str(bundle.ca), "cert": str(bundle.cert), "key": str(bundle.key), "version": 5}
    load = stage.helper("leaves", "load_peer.py", port=gateway.port, rate=RATE, seconds=SECONDS, window=20, leaves=[leaf])
    cloud.relay.ask("cut")
    load.ask("start")
    wait_for("the first acknowledgements", 10, lambda: load.ask("progress")["acknowledged"] > RATE)
    filler = disk / "somebody-elses-file"
    fill(filler)
    still_at = wait_stalled(gateway, load, filler)
    stage.figure("acknowledged_before_full", still_at)
    wait_for("`status` to tell of the full disk", 10, lambda: refuses(gateway), every=0.5)
    expect(gateway.http("/healthz") == 503, "/healthz is not 503 with a full disk")
    expect(gateway.log_says(TOLD), f"the log does not tell of the full disk:\n{gateway.log_tail()}")
    filler.unlink()
    freed = time.monotonic()
    wait_for("an acknowledgement after space returned", RESUMES_WITHIN, lambda: load.ask("progress")["acknowledged"] > still_at)
    stage.figure("resumed_s", time.monotonic() - freed)
    wait_for("`status` to be healthy again", RESUMES_WITHIN, lambda: not refuses(gateway), every=0.5)
    cloud.relay.ask("mend")
    wait_for("the end of the load", SECONDS + 30, lambda: load.ask("progress")["finished"], every=0.5)
    report = load.ask("report", seconds=20)["leaves"][bundle.device]
    acknowledged = numbers_of(report["acknowledged"])
    everything_arrives(stage, cloud, acknowledged)


def refuses(gateway: Gateway) -> bool:
    """Whether `status` says that the buffer takes nothing, and why."""
    buffer = gateway.status()["buffer"]
    return buffer["healthy"] is False and re.search(TOLD, buffer["reason"], re.IGNORECASE) is not None


def mount(stage: Stage, size: str) -> Path:
    """A small file system of its own, unmounted at the end."""
    point = stage.folder / "disk"
    point.mkdir()
    done = command(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(point)])
    expect(done.returncode == 0, f"can't mount a tmpfs for the full disk: {done.stderr.strip()}")

    def unmount() -> None:
        done = command(["umount", str(point)])
        expect(done.returncode == 0, f"can't unmount {point}: {done.stderr.strip()}")

    stage.at_end(unmount)
    return point


def fill(file: Path) -> None:
    """Writes until nothing more fits, in ever smaller pieces."""
    with file.open("ab", buffering=0) as output:
        for piece in (1 << 20, 1 << 12, 1 << 9, 1):
            try:
                while output.write(b"\0" * piece):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def wait_stalled(gateway: Gateway, load: Helper, filler: Path) -> int:
    """Until acknowledgements have stopped for 3 s while the file system is kept full; how many there were.

    SQLite still finds room in pages that it had allocated, so some acknowledgements after the filling are honest.
    """
    deadline = time.monotonic() + 25
    count, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        gateway.running()
        fill(filler)
        now = int(load.ask("progress")["acknowledged"])
        if now != count:
            count, since = now, time.monotonic()
        elif time.monotonic() - since >= 3:
            return count
        time.sleep(0.1)
    raise Failed("waited 25 s in vain for acknowledgements to stop on a full disk")


def everything_arrives(stage: Stage, cloud: Cloud, acknowledged: set[int]) -> None:
    """What was acknowledged before, during and after reaches the cloud, in order."""
    topic = cloud.topic("devices/leaf-1/telemetry/load")

    def arrivals() -> list[Arrival]:
        mine = [message for message in cloud.observer.messages if message.topic == topic]
        return [Arrival(m.boot or 0, m.seq or 0, json.loads(m.payload)["n"]) for m in mine]

    wait_for("all acknowledged messages at the cloud", 30, lambda: acknowledged <= {a.counter for a in arrivals()}, every=0.5)
    verdict = judge(acknowledged, arrivals())
    stage.figure("acknowledged", verdict.acknowledged)
    stage.figure("lost", verdict.lost)
    expect(verdict.lost == 0 and verdict.out_of_order_seq == 0, f"after the full disk: {verdict}")
    expect(verdict.out_of_order_counter == 0, f"after the full disk: {verdict}")
