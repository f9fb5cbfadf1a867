"""Certificates that the gateway's own CA did not issue, made by OpenSSL's command line alone."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from gateway import Gateway
from leaf import Bundle
from scenarios.certificates import mqtt_over_tls
from scenarios.enrolment import audited
from stage import Stage, command
from wait import Failed, expect, wait_for

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
CLOSED_WITHIN = 1.0


def openssl(folder: Path, *argv: str) -> str:
    done = command(["openssl", *argv], cwd=folder)
    expect(done.returncode == 0, f"`openssl {' '.join(argv)}`: {done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Corp:
    """A CA in a folder of its own."""

    folder: Path

    @staticmethod
    def made(folder: Path) -> Corp:
        folder.mkdir()
        openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key",
                "-out", "ca.pem", "-subj", "/O=Corp/CN=Device CA", "-days", "400", "-addext", "keyUsage=critical,keyCertSign")
        return Corp(folder)

    def device(self, name: str, device: str, trust: Path, usage: str = "clientAuth", begins: str = "20260101000000Z",
               ends: str = "20990101000000Z") -> Bundle:
        """A certificate with that DNS name, with which `device` connects."""
        folder, file = self.folder, name.replace(".", "-")
        openssl(folder, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{file}.key",
                "-out", f"{file}.csr", "-subj", f"/CN={name}")
        (folder / "ca.cnf").write_text(
            "[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=.\ndatabase=index\nrand_serial=yes\ndefault_md=sha256\npolicy=p\nunique_subject=no\n"
            f"[p]\ncommonName=supplied\n[x]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            f"extendedKeyUsage={usage}\nsubjectAltName=DNS:{name}\n")
        (folder / "index").touch()
        openssl(folder, "ca", "-batch", "-notext", "-config", "ca.cnf", "-extensions", "x", "-cert", "ca.pem", "-keyfile", "ca.key",
                "-startdate", begins, "-enddate", ends, "-in", f"{file}.csr", "-out", f"{file}.pem")
        return Bundle(device, trust, folder / f"{file}.pem", folder / f"{file}.key")


def comes_in(gateway: Gateway, bundle: Bundle, version: ssl.TLSVersion) -> bool:
    """Whether a CONNECT over this TLS version is accepted."""
    context = bundle.context(version)
    context.minimum_version = version
    try:
        mqtt_over_tls(gateway, bundle, context, None)
    except (OSError, Failed):
        return False
    return True


def by_map_and_pin(stage: Stage) -> None:
    """Mapped and pinned certificates come in as their ids; all others, and those revoked, with TLS 1.2 and 1.3, don't."""
    gateway = Gateway(stage)
    trust = stage.folder / "trust.pem"
    trust.write_text(gateway.verb("ca", "export"))
    corp, rogue = Corp.made(stage.folder / "corp"), Corp.made(stage.folder / "rogue")
    good = corp.device("press-1.corp.example", "corp-1", trust)
    kept = corp.device("press-2.corp.example", "corp-2", trust)
    pinned = rogue.device("scale.corp.example", "scale-1", trust)
    strangers = {
        "unmapped": (corp.device("press-3.corp.example", "corp-1", trust), "none of its names is in that CA's map"),
        "of a CA of the same name": (rogue.device("press-1.corp.example", "corp-1", trust), "a CA of the same name issued it"),
        "expired": (corp.device("press-4.corp.example", "corp-4", trust, ends="20260201000000Z"), "expired"),
        "not yet valid": (corp.device("press-5.corp.example", "corp-5", trust, begins="20980101000000Z"), "not valid yet"),
        "a server's": (corp.device("press-6.corp.example", "corp-6", trust, usage="serverAuth"), "not for clients"),
    }
    gateway.start()
    for version in VERSIONS:
        for bundle in (good, kept, pinned):
            expect(not comes_in(gateway, bundle, version), f"{bundle.device} came in, and nothing is configured")
    gateway.stop()

    digest = openssl(stage.folder, "x509", "-in", str(pinned.cert), "-noout", "-fingerprint", "-sha256").split("=")[1].strip()
    pin = f'[[certs.pin]]\nid = "scale-1"\nsha256 = "{digest}"\n'
    devices = "".join(f'[[certs.external.device]]\nid = "corp-{n}"\ndns = "press-{n}.corp.example"\n' for n in (1, 2, 4, 5, 6))
    gateway.write(f'[[certs.external]]\nca = "{corp.folder / "ca.pem"}"\n{devices}{pin}')
    gateway.start()
    for version in VERSIONS:
        for bundle in (good, kept, pinned):
            expect(comes_in(gateway, bundle, version), f"{bundle.device} was refused over {version.name}: {gateway.log_tail(5)}")
        for what, (bundle, reason) in strangers.items():
            expect(not comes_in(gateway, bundle, version), f"one that is {what} came in over {version.name}")
            wait_for(f"the audit line of one that is {what}", 5, lambda: audited(gateway, "connection_refused", reason))

    leaf = gateway.leaf(good).connect()
    expect(str(leaf.telemetry("1")) == "Success", "a mapped device could not publish")
    neighbour = gateway.leaf(kept).connect()
    gateway.verb("device", "revoke", "corp-1")
    returned = time.monotonic()
    wait_for("the end of the revoked device's session", CLOSED_WITHIN, leaf.disconnected.is_set)
    stage.figures["closed after the verb"] = f"{time.monotonic() - returned:.3f} s"
    for _ in range(2):
        for version in VERSIONS:
            expect(not comes_in(gateway, good, version), f"a revoked device came in over {version.name}")
        wait_for("the audit line of the revoked", 5, lambda: audited(gateway, "connection_refused", "`corp-1` was revoked"))
        expect(not neighbour.disconnected.is_set(), "its neighbour was disconnected")
        neighbour.close()
        gateway.kill()
        gateway.start()
        neighbour = gateway.leaf(kept).connect()

    gateway.stop()
    gateway.write(pin)
    gateway.start()
    for version in VERSIONS:
        expect(not comes_in(gateway, kept, version), "a device came in whose CA is not configured any more")
        expect(comes_in(gateway, pinned, version), "the pinned one was refused")
