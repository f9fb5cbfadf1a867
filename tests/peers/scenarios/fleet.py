"""A hundred connected devices under load while one is revoked and the issuing CA is rotated; rotations killed half way."""

from __future__ import annotations

import json
import random
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import Gateway
from leaf import Bundle
from scenarios.certificates import PEM, mqtt_over_tls, s_client, verify
from scenarios.external import VERSIONS, comes_in
from scenarios.load import given
from stage import Helper, Stage, command, free_port, listens
from wait import expect, wait_for

DEVICES, RATE, WINDOW = 100, 10, 20
WITHIN = 1.0


@dataclass
class Fleet:
    """A gateway and a hundred devices, which publish 1,000 messages a second together."""

    stage: Stage
    gateway: Gateway
    bundles: list[Bundle]
    load: Helper

    @staticmethod
    def prepare(stage: Stage) -> Fleet:
        gateway = Gateway(stage).start()
        with ThreadPoolExecutor(4) as pool:
            bundles = list(pool.map(gateway.add_device, (f"leaf-{n:03}" for n in range(DEVICES))))
        leaves = [given(bundle, n) for n, bundle in enumerate(bundles)]
        # Longer than any scenario: the load ends with it.
        load = stage.helper("leaves", "load_peer.py", port=gateway.port, rate=RATE, seconds=600, window=WINDOW, leaves=leaves)
        return Fleet(stage, gateway, bundles, load)

    def start(self) -> None:
        self.load.ask("start")
        wait_for("all devices connected", 30, lambda: self.progress()["connected"] == DEVICES)
        self.runs(3)

    def progress(self) -> dict[str, Any]:
        self.gateway.running()
        return self.load.ask("progress")

    def runs(self, seconds: float) -> None:
        """Lets the load run; the messages of that time must be acknowledged."""
        before = self.progress()["acknowledged"]
        wait_for("the acknowledgements of further messages", seconds * 3 + 10,
                 lambda: self.progress()["acknowledged"] >= before + seconds * RATE * (DEVICES - 2) * 0.9, every=0.1)

    def report(self) -> dict[str, dict[str, Any]]:
        report = self.load.ask("report", seconds=20)
        self.stage.figure("slowest_turn_ms", report["slowest_turn"] * 1e3)
        return report["leaves"]


def one_revoked(stage: Stage) -> None:
    """One of 100 revoked under load: closed within 1 s, never back, sessions offered or not; the others notice nothing."""
    fleet = Fleet.prepare(stage)
    gateway, victims = fleet.gateway, (fleet.bundles[50], fleet.bundles[51])
    sessions = Sessions(stage, gateway, victims[0])
    fleet.start()

    gateway.verb("device", "revoke", victims[0].device)
    returned = time.monotonic()
    wait_for("the end of the revoked device's session", WITHIN, lambda: fleet.progress()["connected"] == DEVICES - 1, every=0.005)
    stage.figure("closed_after_s", time.monotonic() - returned)
    sessions.refused()
    fleet.runs(20 if stage.options.long else 2)
    expect(fleet.progress()["connected"] == DEVICES - 1, "another device was disconnected, or the revoked one came back")

    gateway.verb("device", "revoke", victims[1].device)
    gateway.kill()
    gateway.start()
    wait_for("the others' return after kill -9", 30, lambda: fleet.progress()["connected"] == DEVICES - 2, every=0.1)
    sessions.refused()
    for version in VERSIONS:
        expect(not comes_in(gateway, victims[1], version), f"revoked just before kill -9, and back over {version.name}")
    fleet.runs(20 if stage.options.long else 2)
    expect(fleet.progress()["connected"] == DEVICES - 2, "somebody was disconnected, or came back")
    connects = {device: leaf["connects"] for device, leaf in fleet.report().items()}
    wanted = {bundle.device: 1 if bundle in victims else 2 for bundle in fleet.bundles}
    odd = {device: times for device, times in connects.items() if times != wanted[device]}
    expect(not odd, f"connected more or less often than once before and once after the kill: {odd}")


class Sessions:
    """TLS sessions of a device from before it was revoked, to be offered afterwards."""

    def __init__(self, stage: Stage, gateway: Gateway, bundle: Bundle) -> None:
        self.gateway, self.bundle = gateway, bundle
        self.python: dict[ssl.TLSVersion, tuple[ssl.SSLContext, ssl.SSLSession | None]] = {}
        self.files: dict[str, Path] = {}
        for version in VERSIONS:
            context = bundle.context(version)
            context.minimum_version = version
            self.python[version] = (context, mqtt_over_tls(gateway, bundle, context, None)[1])
        other = free_port()
        server = stage.child("s_server", ["openssl", "s_server", "-accept", str(other), "-cert", str(bundle.cert), "-key", str(bundle.key), "-www"])
        wait_for("openssl s_server", 10, lambda: server.alive() and listens(other))
        for flag in ("-tls1_2", "-tls1_3"):
            ours, theirs = stage.folder / f"ours{flag}.pem", stage.folder / f"theirs{flag}.pem"
            said = s_client(gateway, bundle, flag, "-sess_out", str(ours))
            expect("Verify return code: 0" in said, f"openssl s_client {flag} was refused before the revocation: {said[-500:]}")
            expect(not ours.exists(), f"the gateway gave a session {flag} to be resumed")
            # It gives none, so what is offered is a ticket of another server.
            got = command(["openssl", "s_client", "-connect", f"127.0.0.1:{other}", flag, "-sess_out", str(theirs), "-ign_eof"],
                          text="GET / HTTP/1.0\r\n\r\n")
            expect(theirs.exists(), f"openssl s_server gave no ticket: {got.stdout[-500:]}{got.stderr[-500:]}")
            said = s_client(gateway, bundle, flag, "-sess_in", str(theirs))
            expect("New, " in said and "Reused, " not in said, f"a ticket of another server was resumed: {said[-500:]}")
            self.files[flag] = theirs
        server.kill()

    def refused(self) -> None:
        """Neither with a new handshake nor by its sessions does it come in."""
        for version, (context, session) in self.python.items():
            for offered in (None, session):
                came, reused = connects(self.gateway, self.bundle, context, offered)
                expect(not came and not reused, f"a revoked device came in over {version.name}, resumed: {reused}")
        for flag, file in self.files.items():
            said = s_client(self.gateway, self.bundle, flag, "-sess_in", str(file))
            expect("Reused, " not in said, f"openssl resumed a revoked device's session: {said[-500:]}")


def connects(gateway: Gateway, bundle: Bundle, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool, bool]:
    """Whether its CONNECT was accepted, and whether the TLS session was resumed."""
    try:
        return True, mqtt_over_tls(gateway, bundle, context, session)[0]
    except Exception:  # refused in the handshake or with a CONNACK
        return False, False


def rotated_under_load(stage: Stage) -> None:
    """The issuing CA and the server certificate replaced under 1,000 messages/s: no disconnect, shown within 1 s."""
    fleet = Fleet.prepare(stage)
    gateway, old = fleet.gateway, fleet.gateway.add_device("of-the-first")

    def shown() -> list[str]:
        return PEM.findall(s_client(gateway, old, "-showcerts"))

    before = shown()
    expect(len(before) == 2, f"the listener shows {len(before)} certificates")
    fleet.start()
    for generation in range(2, 5 if stage.options.long else 3):
        was = shown()
        gateway.verb("ca", "rotate")
        returned = time.monotonic()
        after = wait_for("the new chain", WITHIN, lambda: (chain := shown()) != was and chain)
        stage.figure("shown_after_s", time.monotonic() - returned)
        expect(after[0] != was[0] and after[1] != was[1], "not both the server's certificate and its CA are new")
        newer = gateway.add_device(f"of-the-next-{generation}")
        for bundle in (old, newer):
            verify("sslclient", newer.ca, bundle.cert)
            for version in VERSIONS:
                expect(comes_in(gateway, bundle, version), f"{bundle.device} was refused over {version.name}")
        fleet.runs(15 if stage.options.long else 3)
    expect(fleet.progress()["connected"] == DEVICES, "somebody was disconnected")
    odd = {device: leaf["connects"] for device, leaf in fleet.report().items() if leaf["connects"] != 1}
    expect(not odd, f"connected more than once: {odd}")


def rotations_killed(stage: Stage) -> None:
    """kill -9 at random moments of `ca rotate`, of the gateway and of the verb alone: the old or the new, never neither."""
    gateway = Gateway(stage)
    first = gateway.add_device("first")
    newest = first
    pick = random.Random(stage.options.seed)
    began = time.monotonic()
    gateway.verb("ca", "rotate")
    alone = time.monotonic() - began
    gateway.start()
    began = time.monotonic()
    gateway.verb("ca", "rotate")
    online = time.monotonic() - began
    generations, rotated, times = 3, 0, 60 if stage.options.long else 24
    expect(issuing(gateway) == generations, "two undisturbed rotations did not make two CAs")
    for n in range(times):
        running = n % 2 == 0
        if not running:
            expect(gateway.stop() == 0, "the gateway did not stop in order")
        rotating = subprocess.Popen(gateway.argv("ca", "rotate"), cwd=gateway.folder, stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stage.at_end(rotating.kill)
        time.sleep(pick.uniform(0, 2 * (online if running else alone)))  # the moment of the kill
        if running:
            gateway.kill()
        else:
            rotating.kill()
        rotating.wait(timeout=20)
        gateway.start()
        now = issuing(gateway)
        expect(now in (generations, generations + 1), f"kill {n}: {generations} issuing CAs have become {now}")
        rotated += now - generations
        generations = now
        for bundle in (first, newest):
            expect(comes_in(gateway, bundle, VERSIONS[n % 2]), f"kill {n}: {bundle.device} was refused: {gateway.log_tail(5)}")
        if n % 6 == 5:
            newest = gateway.add_device(f"after-{n}")
            verify("sslclient", newest.ca, newest.cert)
    stage.figure("kills", times)
    stage.figure("new_state", rotated)
    expect(0 < rotated < times, "every kill came on the same side of the change")
    said = command(gateway.argv("audit", "--verify"), cwd=gateway.folder)
    expect(said.returncode == 0, f"the audit log is not whole after the kills: {said.stderr}")


def issuing(gateway: Gateway) -> int:
    """How many issuing CAs there are; the newest must be able to sign."""
    authorities = [ca for ca in json.loads(gateway.verb("ca", "show", "--json"))["authorities"] if ca["kind"] == "issuing"]
    newest = max(authorities, key=lambda ca: ca["generation"])
    expect(newest["key_present"], f"issuing CA {newest['generation']} has no key")
    return len(authorities)
