"""Kills, power cuts and a disk that fails: what was acknowledged is on the disk, really."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scenarios.load import LEAVES, RATE, UPSTREAM_WINDOW, WINDOW, Ground, Plan, nothing_lost, start_and_probe
from stage import HERE, Stage, command
from wait import expect, wait_for

IMAGE = "192M"
# _IOR('X', 125, __u32); 2: the journal is not written out, as when the power goes.
EXT4_IOC_SHUTDOWN, NOLOGFLUSH = 0x8004587D, 2
STARTS_WITHIN = 2.0
CUTS, CUTS_LONG = 4, 100
KILLS, KILLS_LONG = 4, 200
CUT_TAKES, KILL_TAKES = 2.4, 1.35
FAILS_FOR = 5
RESUMES_WITHIN = 5


class Disk:
    """A file system of its own, whose power can be cut."""

    def __init__(self, stage: Stage) -> None:
        expect(os.geteuid() == 0, "this scenario mounts a file system and needs root")
        self.image, self.point = stage.folder / "disk.img", stage.folder / "disk"
        with self.image.open("wb") as image:
            image.truncate(int(IMAGE.removesuffix("M")) << 20)
        self._must("mkfs.ext4", "-q", "-F", str(self.image))
        self.point.mkdir()
        self._mount()
        stage.at_end(self._unmount)

    def cut(self) -> None:
        """From now on nothing reaches the disk, and what had not reached it is gone."""
        descriptor = os.open(self.point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def power_on(self) -> None:
        """Mounts it again, once nobody has it open any more."""
        self._unmount()
        self._mount()

    def _mount(self) -> None:
        self._must("mount", "-o", "loop", str(self.image), str(self.point))

    def _unmount(self) -> None:
        wait_for("the disk to be unmounted", 10, lambda: command(["umount", str(self.point)]).returncode == 0)

    @staticmethod
    def _must(*argv: str) -> None:
        done = command(argv)
        expect(done.returncode == 0, f"`{' '.join(argv)}` failed: {done.stderr.strip()}")


class Faults:
    """The preloaded library that makes calls of the gateway fail."""

    def __init__(self, stage: Stage, disk: Disk) -> None:
        self.folder = stage.folder / "faults"
        self.folder.mkdir()
        self.library = self.folder / "faults.so"
        done = command(["cc", "-shared", "-fPIC", "-O1", "-o", str(self.library), str(HERE / "faults.c"), "-ldl"])
        expect(done.returncode == 0, f"the C compiler can't make the faults: {done.stderr}")
        (self.folder / "on").symlink_to(disk.point)

    def prefix(self) -> list[str]:
        """What stands before the gateway's command line."""
        return ["env", f"LD_PRELOAD={self.library}", f"FAULTS={self.folder}"]

    def begin(self, fault: str) -> None:
        (self.folder / fault).touch()

    def end(self, fault: str) -> None:
        (self.folder / fault).unlink()


def intact(disk: Disk, scratch: Path) -> None:
    """Both databases, as the cut left them, pass SQLite's own check; on copies, so that nothing is repaired by looking."""
    for name in ("queue.db", "state.db"):
        for file in (disk.point / "data").glob(f"{name}*"):
            shutil.copy(file, scratch / file.name)
        with sqlite3.connect(scratch / name) as database:
            found = database.execute("PRAGMA integrity_check").fetchone()[0]
        database.close()
        expect(found == "ok", f"{name} is corrupt after a power cut: {found}")
        for file in scratch.glob(f"{name}*"):
            file.unlink()


Strike = Callable[[Ground], None]


# What the line to the cloud is at a strike: mostly away.
AWAY = ("mend", "cut", "cut", "cut", "cut")
# There, silent or away.
MIXED = ("mend", "mend", "silence", "silence", "cut")


def strike_again_and_again(ground: Ground, times: int, strike: Strike, lines: Sequence[str]) -> tuple[list[int], float]:
    """Load, and at random moments a `strike` that ends the gateway; a probe's acknowledged messages, and the slowest start."""
    stage = ground.stage
    probe = ground.gateway.add_device("probe")
    pick = random.Random(stage.options.seed)
    slowest, line = 0.0, "mend"
    ground.start()
    for number in range(times):
        before, line = line, pick.choice(lines)
        if before == "cut" and line == "silence":
            ground.cloud.relay.ask("mend")
        if line != before or line == "silence":
            ground.cloud.relay.ask(line)
        ground.wait_until(time.monotonic() - ground.started + pick.uniform(0.3, 2.0))
        strike(ground)
        slowest = max(slowest, start_and_probe(ground, probe, number))
    ground.cloud.relay.ask("mend")
    stage.figure("start_to_first_puback_s", slowest)
    return list(range(times)), slowest


def survives(stage: Stage, ground: Ground, times: int, strike: Strike, lines: Sequence[str] = AWAY) -> None:
    """Nothing acknowledged is lost over `times` strikes, and what comes twice is bounded by the windows."""
    probes, slowest = strike_again_and_again(ground, times, strike, lines)
    # Each strike is a pause for the leaves.
    verdict, _ = ground.judge({**ground.finish(behind=ground.plan.seconds), "probe": probes})
    stage.figure("strikes", times)
    nothing_lost(verdict, LEAVES * RATE * ground.plan.seconds + times)
    windows = times * LEAVES * WINDOW
    expect(verdict.resent_by_leaf <= windows, f"{verdict.resent_by_leaf} re-sends of leaves, more than their windows of {windows}")
    bound = (times + 1) * UPSTREAM_WINDOW
    expect(verdict.resent_by_gateway <= bound, f"{verdict.resent_by_gateway} re-sends of the gateway, more than {bound}")
    expect(not ground.gateway.log_says("set aside"), "a queue.db was set aside")
    ground.gateway.verb("audit", "--verify")  # fails where its chain is broken
    expect(slowest <= STARTS_WITHIN, f"the first PUBACK came {slowest:.2f} s after the start")


def lasting(times: int, each: float) -> Plan:
    """A load that goes on a little longer than so many strikes of `each` seconds with their start."""
    return Plan(seconds=int(times * each) + 4, away_from=0, away=0)


def kills(stage: Stage) -> None:
    """kill -9 again and again under load, the cloud there or away: nothing acknowledged is lost."""
    times = KILLS_LONG if stage.options.long else KILLS
    survives(stage, Ground.prepare(stage, lasting(times, KILL_TAKES)), times, lambda ground: ground.gateway.kill())


def kills_with_either(stage: Stage) -> None:
    """The same with `acknowledge = "either"`, the cloud there, silent or away."""
    times = KILLS_LONG if stage.options.long else KILLS
    ground = Ground.prepare(stage, lasting(times, KILL_TAKES), sections='[buffer]\nacknowledge = "either"\n')
    survives(stage, ground, times, lambda ground: ground.gateway.kill(), MIXED)
    # With the line whole and nobody else there, the cloud is quick enough.
    leaf = ground.gateway.leaf(ground.gateway.add_device("quick")).connect()

    def passed() -> bool:
        expect(leaf.publish("devices/quick/telemetry/t", "1") == 0, "a message was not acknowledged")
        return ground.gateway.metric("fieldgate_buffer_passed_messages_total") > 0

    wait_for("a message that was never written", 30, passed)


def power_cut(stage: Stage) -> None:
    """The power goes again and again under load: nothing acknowledged is lost. The same without waiting for the disk loses some."""
    times = CUTS_LONG if stage.options.long else CUTS
    part = stage.part("sync")
    disk = Disk(part)
    scratch = part.folder / "scratch"
    scratch.mkdir()

    def strike(ground: Ground) -> None:
        cut_off(disk, ground)
        intact(disk, scratch)

    survives(part, Ground.prepare(part, lasting(times, CUT_TAKES), disk.point / "data"), times, strike)
    stage.figure("lost_without_sync", lost_without_sync(stage.part("no-sync")))


def cut_off(disk: Disk, ground: Ground) -> None:
    """The power goes, and comes back."""
    disk.cut()
    ground.gateway.kill()
    disk.power_on()


def lost_without_sync(stage: Stage) -> int:
    """What one cut costs a gateway whose syncs do nothing: this harness sees what it is made to see."""
    disk = Disk(stage)
    faults = Faults(stage, disk)
    faults.begin("nosync")
    ground = Ground.prepare(stage, lasting(1, CUT_TAKES), disk.point / "data", faults.prefix())
    ground.cloud.relay.ask("cut")
    ground.start()
    ground.wait_until(1.5)
    cut_off(disk, ground)
    acknowledged = ground.load.ask("report", seconds=20)["leaves"]
    counted = sum(last - first + 1 for leaf in acknowledged.values() for first, last in leaf["acknowledged"])
    file = ground.gateway.data_dir / "queue.db"
    kept = 0
    if file.exists():
        with sqlite3.connect(file) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for lane in sorted(tables & {"lane_0", "lane_1", "lane_2"}):
                kept += database.execute(f"SELECT count(*) FROM {lane}").fetchone()[0]
        database.close()
    arrived = sum(1 for message in ground.cloud.observer.messages if message.topic.endswith("/telemetry/load"))
    lost = counted - kept - arrived
    expect(lost > 0, f"syncs did nothing, and of {counted} acknowledged messages {kept} are on the disk and {arrived} at the cloud: "
                     "this power cut cuts nothing")
    return lost


def io_errors(stage: Stage) -> None:
    """Writes and syncs fail with EIO for 5 s: no PUBACK meanwhile, 503, and work goes on when the disk is back."""
    disk = Disk(stage)
    faults = Faults(stage, disk)
    plan = Plan(seconds=13, away_from=0, away=0)
    ground = Ground.prepare(stage, plan, disk.point / "data", faults.prefix())
    ground.start()
    ground.wait_until(3)
    faults.begin("eio")
    # What was durable at this moment may still be answered.
    time.sleep(0.5)
    before = ground.load.ask("progress")["acknowledged"]
    wait_for("/healthz to be 503", FAILS_FOR, lambda: ground.gateway.http("/healthz") == 503)
    ground.wait_until(time.monotonic() - ground.started + FAILS_FOR)
    during = ground.load.ask("progress")["acknowledged"]
    expect(during == before, f"{during - before} messages were acknowledged while the disk failed")
    faults.end("eio")
    back = time.monotonic()
    wait_for("an acknowledgement after the disk's return", RESUMES_WITHIN, lambda: ground.load.ask("progress")["acknowledged"] > during)
    stage.figure("resumed_s", time.monotonic() - back)
    wait_for("/healthz to be 200", RESUMES_WITHIN, lambda: ground.gateway.http("/healthz") == 200)
    verdict, _ = ground.judge(ground.finish())
    nothing_lost(verdict, LEAVES * RATE * plan.seconds)
    ground.gateway.verb("audit", "--verify")
