"""Certificates as OpenSSL judges them, and TLS sessions that must never be resumed."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from pathlib import Path

from gateway import Gateway
from leaf import Bundle
from stage import Stage, command
from wait import expect

PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", re.DOTALL)


def strict_and_never_resumed(stage: Stage) -> None:
    """Everything issued passes `openssl verify -x509_strict`; no TLS session is resumed, 1.2 or 1.3."""
    gateway = Gateway(stage)
    before = gateway.add_device("made-offline")
    gateway.start()
    running = gateway.add_device("made-online")
    for bundle in (before, running):
        device_bundle(bundle)
    listed = gateway.verb("device", "list")
    expect("made-offline" in listed and "made-online" in listed, f"`device list` says {listed}")
    exported = gateway.verb("ca", "export")
    expect(PEM.findall(exported) == PEM.findall(running.ca.read_text()), "`ca export` and ca.pem differ")
    server_certificate(stage, gateway, running)
    resumption_by_openssl(gateway, running)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        resumption_by_python(gateway, running, version)


def verification(purpose: str, ca: Path, chain: Path, *more: str) -> list[str]:
    """`openssl verify -x509_strict` of the first certificate of `chain`, the others of it being untrusted."""
    return ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(ca), "-untrusted", str(chain), *more, str(chain)]


def verify(purpose: str, ca: Path, chain: Path, *more: str) -> None:
    """The chain must pass."""
    argv = verification(purpose, ca, chain, *more)
    done = command(argv)
    expect(done.returncode == 0, f"`{' '.join(argv)}`: {done.stdout}{done.stderr}")


def device_bundle(bundle: Bundle) -> None:
    """Strict for a client, not for a server; the chain complete; the key readable by its owner alone."""
    verify("sslclient", bundle.ca, bundle.cert)
    wrong = command(verification("sslserver", bundle.ca, bundle.cert))
    expect(wrong.returncode != 0, f"the certificate of {bundle.device} also serves as a server's")
    expect(len(PEM.findall(bundle.cert.read_text())) == 2, f"cert.pem of {bundle.device} is not the leaf and its issuing CA")
    expect(bundle.key.stat().st_mode & 0o777 == 0o600, f"key.pem of {bundle.device} has the mode {bundle.key.stat().st_mode & 0o777:o}")
    text = command(["openssl", "x509", "-in", str(bundle.cert), "-noout", "-ext", "subjectAltName", "-subject"]).stdout
    expect(f"URI:urn:fieldgate:device:{bundle.device}" in text, f"the certificate of {bundle.device} names {text}")


def s_client(gateway: Gateway, bundle: Bundle, *more: str) -> str:
    """What `openssl s_client` prints about the listener."""
    argv = [
        "openssl", "s_client", "-connect", f"127.0.0.1:{gateway.port}", "-CAfile", str(bundle.ca), "-cert", str(bundle.cert),
        "-key", str(bundle.key), "-cert_chain", str(bundle.cert), *more,
    ]
    done = command(argv)
    return done.stdout + done.stderr


def server_certificate(stage: Stage, gateway: Gateway, bundle: Bundle) -> None:
    """Strict for a server, with the addresses that clients use."""
    said = s_client(gateway, bundle, "-showcerts", "-verify_return_error", "-verify_ip", "127.0.0.1")
    expect("Verify return code: 0 (ok)" in said, f"openssl s_client could not verify the listener: {said[-1500:]}")
    chain = stage.folder / "server.pem"
    chain.write_text("".join(PEM.findall(said)))
    for name in (("-verify_ip", "127.0.0.1"), ("-verify_ip", "::1"), ("-verify_hostname", "localhost")):
        verify("sslserver", bundle.ca, chain, *name)


def resumption_by_openssl(gateway: Gateway, bundle: Bundle) -> None:
    """`-reconnect` offers its session five times over TLS 1.2 and never gets it resumed."""
    said = s_client(gateway, bundle, "-tls1_2", "-reconnect")
    made, reused = len(re.findall(r"^New, ", said, re.MULTILINE)), len(re.findall(r"^Reused, ", said, re.MULTILINE))
    expect(made + reused == 6, f"openssl s_client -reconnect made {made + reused} of 6 connections: {said[-1500:]}")
    expect(reused == 0, f"{reused} TLS 1.2 sessions were resumed")


def resumption_by_python(gateway: Gateway, bundle: Bundle, version: ssl.TLSVersion) -> None:
    """A session is kept after an exchange of MQTT packets, so after any ticket, and offered again."""
    context = bundle.context(version)
    first, session = mqtt_over_tls(gateway, bundle, context, None)
    expect(not first, f"a first {version.name} connection was resumed")
    again, _ = mqtt_over_tls(gateway, bundle, context, session)
    expect(not again, f"a {version.name} session was resumed")


def mqtt_over_tls(gateway: Gateway, bundle: Bundle, context: ssl.SSLContext,
                  session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
    """CONNECT, CONNACK, DISCONNECT of MQTT 3.1.1; whether the TLS session was resumed, and the session to offer next."""
    name = bundle.device.encode()
    connect = b"\x00\x04MQTT\x04\x02\x00\x1e" + struct.pack(">H", len(name)) + name
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as raw:
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as tls:
            tls.sendall(b"\x10" + bytes([len(connect)]) + connect)
            answer = tls.recv(4)
            expect(answer == b"\x20\x02\x00\x00", f"{bundle.device}: the CONNECT was answered {answer.hex()}")
            tls.sendall(b"\xe0\x00")
            return bool(tls.session_reused), tls.session
