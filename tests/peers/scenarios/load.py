"""Load while the cloud goes away: nothing acknowledged may be lost or overtaken."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as mqtt

from cloud import Cloud, Message
from gateway import ID, Gateway
from history import Arrival, Verdict, judge, numbers_of
from leaf import Bundle, Leaf
from stage import Helper, Stage
from wait import Failed, expect, wait_for

LEAVES, RATE, WINDOW = int(os.environ.get("FIELDGATE_PEERS_LEAVES", "10")), 200, 20
UPSTREAM_WINDOW = 4096
RETRY_MAX = 5
# After the load's time, and without an acknowledgement, in seconds.
PATIENCE = 45


@dataclass(frozen=True)
class Plan:
    """How long, and when the cloud is away."""

    seconds: int
    away_from: float
    away: float

    @staticmethod
    def of(stage: Stage) -> Plan:
        return Plan(60, 20, 20) if stage.options.long else Plan(20, 7, 6)


@dataclass
class Ground:
    """A gateway under load with its cloud."""

    stage: Stage
    plan: Plan
    cloud: Cloud
    gateway: Gateway
    load: Helper
    started: float = 0.0

    @staticmethod
    def prepare(stage: Stage, plan: Plan | None = None, data_dir: Path | None = None, prefix: Sequence[str] = (),
                upstream: str = "", sections: str = "", protocol: int = 5) -> Ground:
        """`upstream`: more keys of that section; `sections`: more sections."""
        plan = plan or Plan.of(stage)
        cloud = Cloud(stage, ID)
        gateway = Gateway(stage, f"{cloud.section(protocol, extra=upstream)}\n{sections}", data_dir=data_dir)
        gateway.prefix = list(prefix)
        leaves = [given(gateway.add_device(f"leaf-{n:02}"), n) for n in range(LEAVES)]
        gateway.start()
        cloud.wait_online()
        load = stage.helper("leaves", "load_peer.py", port=gateway.port, rate=RATE, seconds=plan.seconds, window=WINDOW, leaves=leaves)
        return Ground(stage, plan, cloud, gateway, load)

    def start(self) -> None:
        self.started = self.load.ask("start")

    def wait_until(self, elapsed: float) -> None:
        """Lets the load run until this time of it; the gateway and the load must live."""
        while (left := self.started + elapsed - time.monotonic()) > 0:
            self.gateway.running()
            self.load.ask("progress")
            time.sleep(min(left, 0.25))

    def cut(self) -> None:
        self.cloud.relay.ask("cut")

    def mend(self) -> None:
        """Mends the line; the cloud's return is noticed within `retry_max`, the first message follows within 1 s."""
        before = len(self.cloud.relay.ask("accepted"))
        mended = self.cloud.relay.ask("mend")
        wait_for("the gateway's return to the cloud", RETRY_MAX + 1, lambda: len(self.cloud.relay.ask("accepted")) > before)
        connected = self.cloud.relay.ask("accepted")[before]
        first = self.cloud.observer.wait("telemetry after the cloud's return", 10, lambda m: m.at > connected and is_load(m))
        self.stage.figure("noticed_s", connected - mended)
        self.stage.figure("first_message_s", first.at - connected)
        expect(connected - mended <= RETRY_MAX + 0.5, f"the cloud's return was noticed after {connected - mended:.1f} s")
        expect(first.at - connected <= 1, f"the first message came {first.at - connected:.2f} s after the connection")

    def finish(self, behind: float = 0) -> dict[str, list[int]]:
        """Waits until every leaf has all its acknowledgements, as long as some still come; the acknowledged counters per device.

        `behind`: so many seconds more for what the leaves could not publish in time."""
        progress, last = self.load.ask("progress"), time.monotonic()
        longest = self.started + self.plan.seconds + PATIENCE + behind
        while not progress["finished"]:
            time.sleep(0.25)
            self.gateway.running()
            before, progress = progress["acknowledged"], self.load.ask("progress")
            now = time.monotonic()
            last = now if progress["acknowledged"] > before else last
            if now - last > PATIENCE or now > longest:
                report = self.load.ask("report", seconds=20)["leaves"]
                odd = {device: leaf["refusals"] for device, leaf in report.items() if leaf["refusals"]}
                raise Failed(f"not all was acknowledged, the last {now - last:.0f} s ago; so far {progress}, refusals {odd}")
        self.stage.figure("acknowledged_after_s", time.monotonic() - self.started)
        report = self.load.ask("report", seconds=20)
        self.stage.figure("connects", sum(leaf["connects"] for leaf in report["leaves"].values()))
        self.stage.figure("slowest_turn_ms", report["slowest_turn"] * 1e3)
        return {device: sorted(numbers_of(leaf["acknowledged"])) for device, leaf in report["leaves"].items()}

    def judge(self, acknowledged: dict[str, list[int]], patience: float = 15) -> tuple[Verdict, int]:
        """Waits for what was acknowledged, as long as something still arrives; the verdict over all devices.

        `patience`: after the last one, in seconds."""
        missing = {(device, counter) for device, counters in acknowledged.items() for counter in counters}
        looked, last = 0, time.monotonic()
        while missing and time.monotonic() - last < patience:
            while looked < len(self.cloud.observer.messages):
                message = self.cloud.observer.messages[looked]
                looked += 1
                if is_load(message):
                    missing.discard((device_of(message), json.loads(message.payload)["n"]))
                    last = time.monotonic()
            time.sleep(0.1)
        expect(not self.cloud.observer.lost_connection, "the observer lost its connection to mosquitto: no verdict possible")
        arrivals: dict[str, list[Arrival]] = {device: [] for device in acknowledged}
        historical, delays = 0, []
        for message in filter(is_load, self.cloud.observer.messages):
            expect(message.boot is not None and message.seq is not None, f"telemetry without fg-boot or fg-seq on {message.topic}")
            content = json.loads(message.payload)
            arrivals[device_of(message)].append(Arrival(message.boot or 0, message.seq or 0, content["n"]))
            historical += message.hist
            if not message.hist:
                delays.append(message.at - content["at"])
        total = Verdict()
        for device, counters in acknowledged.items():
            total += judge(counters, arrivals[device])
        for name, value in vars(total).items():
            self.stage.figure(name, value)
        self.stage.figure("historical", historical)
        delays.sort()
        if delays:
            self.stage.figure("live_p50_ms", delays[len(delays) // 2] * 1e3)
            self.stage.figure("live_p99_ms", delays[len(delays) * 99 // 100] * 1e3)
        return total, historical


def given(bundle: Bundle, n: int) -> dict[str, object]:
    """A leaf for the load helper; every other one speaks 3.1.1."""
    version = mqtt.MQTTv5 if n % 2 else mqtt.MQTTv311
    return {"device": bundle.device, "ca": str(bundle.ca), "cert": str(bundle.cert), "key": str(bundle.key), "version": version}


def is_load(message: Message) -> bool:
    return message.topic.endswith("/telemetry/load")


def device_of(message: Message) -> str:
    return message.topic.split("/")[3]


def nothing_lost(verdict: Verdict, expected: int) -> None:
    expect(verdict.acknowledged >= expected, f"only {verdict.acknowledged} of {expected} messages were acknowledged")
    expect(verdict.lost == 0, f"{verdict.lost} acknowledged messages never reached the cloud")
    expect(verdict.out_of_order_seq == 0, f"{verdict.out_of_order_seq} messages out of order by (fg-boot, fg-seq)")
    expect(verdict.out_of_order_counter == 0, f"{verdict.out_of_order_counter} messages out of order by the devices' counters")
    expect(verdict.numbers_reused == 0, f"{verdict.numbers_reused} messages reuse a (fg-boot, fg-seq) of another")


def cloud_away(stage: Stage) -> None:
    """10 leaves × 200 messages/s QoS 1, the cloud away in the middle: nothing lost, nothing out of order."""
    ground = Ground.prepare(stage)
    ground.start()
    ground.wait_until(ground.plan.away_from)
    ground.cut()
    ground.wait_until(ground.plan.away_from + ground.plan.away)
    stage.figure("rss_while_away_mb", ground.gateway.resident_mb())
    ground.mend()
    verdict, historical = ground.judge(ground.finish())
    nothing_lost(verdict, LEAVES * RATE * ground.plan.seconds)
    expect(historical > 0, "no message is marked fg-hist, though the cloud was away")
    expect(verdict.resent_by_leaf == 0, f"{verdict.resent_by_leaf} messages sent again by leaves that had no reason to")
    bound = UPSTREAM_WINDOW
    expect(verdict.resent_by_gateway <= bound, f"{verdict.resent_by_gateway} re-sends of the gateway, more than its window of {bound}")


def start_and_probe(ground: Ground, probe: Bundle, counter: int) -> float:
    """Starts the gateway, and measures from the process's start to a probe leaf's PUBACK."""
    started = ground.gateway.launch().started_at
    payload = json.dumps({"n": counter, "at": started})

    def acknowledged() -> bool:
        ground.gateway.running()
        leaf = Leaf(probe, ground.gateway.port)
        try:
            if leaf.try_connect(5) != "Success":
                return False
            reason = leaf.telemetry(payload, "load", seconds=10)
            return reason is not None and not reason.is_failure
        except ssl.SSLError:
            return False
        finally:
            leaf.close()

    wait_for("a PUBACK after the restart", 30, acknowledged)
    return time.monotonic() - started
