"""A clock that is wrong, from outside: libfaketime moves the gateway's time while messages wait."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cloud import Cloud
from gateway import ID, Gateway
from scenarios.doors import PASSWORD, configure
from stage import Stage, command, free_port
from wait import Failed, expect, wait_for

YEAR = 31_556_952
TEN_YEARS = 10 * YEAR
# What is older is dropped, by running time; looked at every 3.75 s.
MAX_AGE, LOOKED_AT = 60, 5
COUNT = 100
SECTIONS = """
[buffer]
max_age = "{max_age}s"

[[broker.user]]
name = "line"
password_hash_file = "line.hash"

[[policy]]
who = "user:line"
allow = "publish"
filter = "devices/#"
"""


class Clock:
    """The wall clock of one process. What counts running time, CLOCK_MONOTONIC, is left alone, as in a machine whose clock is set."""

    def __init__(self, stage: Stage) -> None:
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        expect(libraries, "libfaketime is not installed: apt-get install faketime")
        self.library, self.file = libraries[0], stage.folder / "clock"
        self.set(0)

    def set(self, seconds: int) -> None:
        """So many seconds off, within a second."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self.file)

    def prefix(self) -> list[str]:
        """What stands before the gateway's command line."""
        how = ["FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_CACHE_DURATION=1", "NO_FAKE_STAT=1"]
        return ["env", f"LD_PRELOAD={self.library}", f"FAKETIME_TIMESTAMP_FILE={self.file}", *how]


class Line:
    """A program that publishes numbers for a device and counts what was acknowledged."""

    def __init__(self, stage: Stage, port: int) -> None:
        self.port, self.count = port, 0
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="line/1", protocol=mqtt.MQTTv5)
        self.client.username_pw_set("line", PASSWORD)
        stage.at_end(self.client.loop_stop)

    def connect(self) -> None:
        def connected() -> bool:
            try:
                self.client.connect("127.0.0.1", self.port, keepalive=30)
            except OSError:
                return False
            return True

        wait_for("the plain listener", 10, connected)
        self.client.loop_start()
        wait_for("a CONNACK", 10, self.client.is_connected)

    def publish(self) -> None:
        """As many as always; every fifth lives for an hour."""
        hour = Properties(PacketTypes.PUBLISH)
        hour.MessageExpiryInterval = 3600
        for n in range(self.count, self.count + COUNT):
            sent = self.client.publish("devices/press-1/telemetry/t", str(n), qos=1, properties=hour if n % 5 == 0 else None)
            sent.wait_for_publish(10)
            expect(sent.is_published(), f"message {n} was not acknowledged")
        self.count += COUNT

    def leave(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def ledger(gateway: Gateway) -> dict[str, int]:
    rows = json.loads(gateway.verb("buffer", "status", "--json"))["devices"]
    return next(row for row in rows if row["device"] == "press-1")


def stays(what: str, seconds: float, condition: Callable[[], bool]) -> None:
    """Fails as soon as `condition` doesn't hold."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not condition():
            raise Failed(f"for {seconds:g} s was to hold: {what}")
        time.sleep(0.25)


def ten_years(stage: Stage) -> None:
    """libfaketime: the clock ten years ahead, ten behind, a boot in 1970, all while messages wait: none is dropped, all arrive in order."""
    cloud, clock, plain = Cloud(stage, ID, listener="plain"), Clock(stage), free_port()
    gateway = Gateway(stage)
    done = command(gateway.argv("user", "hash", "--out", "line.hash"), cwd=gateway.folder, text=f"{PASSWORD}\n")
    expect(done.returncode == 0, f"`user hash` ended with {done.returncode}: {done.stderr}")
    upstream = f'[upstream]\nurl = "mqtt://127.0.0.1:{cloud.relay_port}"\nretry_max = "1s"\n'
    configure(gateway, f'plain = ["127.0.0.1:{plain}"]', upstream + SECTIONS.format(max_age=MAX_AGE))
    gateway.prefix = clock.prefix()
    line = Line(stage, plain)

    def all_wait() -> bool:
        row = ledger(gateway)
        return row["waiting"] == line.count and row["expired"] == row["evicted"] == 0

    gateway.start()
    cloud.wait_online()
    cloud.relay.ask("cut")
    line.connect()
    began = time.monotonic()
    line.publish()
    for off in (TEN_YEARS, -TEN_YEARS):
        clock.set(off)
        stays("everything waits, nothing is expired or evicted", LOOKED_AT, all_wait)
        line.publish()
    line.leave()

    # A box without a clock: it boots in 1970, after a power failure.
    gateway.kill()
    clock.set(60 - int(time.time()))
    gateway.start()
    line.connect()
    line.publish()
    stays("everything waits after the boot in 1970", LOOKED_AT, all_wait)
    line.leave()
    expect(gateway.stop() == 0, "SIGTERM did not end it in order")

    clock.set(0)
    mark = cloud.observer.mark()
    gateway.start()
    expect(all_wait(), f"with the right clock again: {ledger(gateway)}")
    waited = time.monotonic() - began
    expect(waited < MAX_AGE - 10, f"this machine is too slow to judge: the first message has waited for {waited:.0f} s")
    cloud.relay.ask("mend")
    topic, last = cloud.topic("devices/press-1/telemetry/t"), str(line.count - 1).encode()
    cloud.observer.wait("the last message", 15, lambda m: m.topic == topic and m.payload == last, since=mark)
    came = [message for message in cloud.observer.messages if message.topic == topic]
    numbers = list(dict.fromkeys(int(message.payload) for message in came))
    expect(numbers == list(range(line.count)), f"{len(numbers)} of {line.count} came, in this order: {numbers[:20]}…")
    # The clock was wrong indeed.
    off = [(message.ts or 0) / 1000 - time.time() for message in came if int(message.payload) % COUNT == COUNT - 1]
    years, since_1970 = [round(seconds / YEAR) for seconds in off], round(time.time() / YEAR)
    expect(years == [0, 10, -10, -since_1970], f"the gateway's clock was off by years: {years}")
    left = [message.properties.MessageExpiryInterval for message in came if int(message.payload) % 5 == 0]
    expect(all(3500 <= seconds <= 3600 for seconds in left), f"of an hour is left: {sorted(set(left))}")
    wait_for("an empty buffer", 10, lambda: ledger(gateway)["waiting"] == 0)
    row = ledger(gateway)
    expect(row["received"] == row["delivered"] == line.count, f"the ledger: {row}")
    stage.figure("messages", line.count)
    stage.figure("waited_s", waited)
