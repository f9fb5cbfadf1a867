"""Five MQTT and TLS clients that are not ours, three kinds of keys, two versions of TLS: each cell really publishes."""

from __future__ import annotations

import os
import ssl
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway import Gateway
from leaf import Bundle, Leaf
from scenarios.enrolment import audited
from stage import HERE, Stage, command, environment, free_port
from wait import Failed, expect, wait_for

KEYS = {
    "P-256": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "P-384": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "RSA-2048": ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
}
TLS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
POLICY = '[[policy]]\nwho = "watch"\nallow = "subscribe"\nfilter = "devices/#"\n'


class Cell:
    """One client, one kind of key, one TLS version; its own device."""

    def __init__(self, gateway: Gateway, est: int, client: str, key: str, tls: str, bundle: Bundle) -> None:
        self.gateway, self.est, self.client, self.key, self.tls, self.bundle = gateway, est, client, key, tls, bundle
        self.topic = f"devices/{bundle.device}/telemetry/interop"
        self.payload = f"{client} {key} {tls}"

    def run(self, *argv: str, data: bytes = b"", **variables: str) -> str:
        done = subprocess.run(argv, input=data, capture_output=True, timeout=20, env={**environment(), **variables}, check=False)
        said = (done.stdout + done.stderr).decode(errors="replace")
        expect(done.returncode == 0, f"ended with {done.returncode}: {said[-400:]}")
        return said


def openssl(cell: Cell) -> None:
    """MQTT 3.1.1 by hand, through `openssl s_client`."""
    name, topic = cell.bundle.device.encode(), cell.topic.encode()
    connect = b"\x00\x04MQTT\x04\x02\x00\x3c" + struct.pack(">H", len(name)) + name
    publish = struct.pack(">H", len(topic)) + topic + b"\x00\x01" + cell.payload.encode()
    packets = b"".join(bytes([kind, len(body)]) + body for kind, body in ((0x10, connect), (0x32, publish), (0xE0, b"")))
    said = cell.run("openssl", "s_client", "-connect", f"127.0.0.1:{cell.gateway.port}", "-CAfile", str(cell.bundle.ca), "-verify_return_error",
                    "-verify_ip", "127.0.0.1", "-cert", str(cell.bundle.cert), "-key", str(cell.bundle.key), f"-tls{cell.tls.replace('.', '_')}",
                    "-ign_eof", data=packets)
    expect(f"TLSv{cell.tls}" in said, f"not over TLS {cell.tls}: {said[-400:]}")


def curl(cell: Cell) -> None:
    """curl speaks no MQTT over TLS: it renews over EST, by the certificate, for the same key."""
    request = cell.bundle.key.parent / f"{cell.bundle.key.stem}.b64"
    said = cell.run("curl", "-sS", "--max-time", "15", "--cacert", str(cell.bundle.ca), "--cert", str(cell.bundle.cert), "--key", str(cell.bundle.key),
                    f"--tlsv{cell.tls}", "--tls-max", cell.tls, "-H", "Content-Type: application/pkcs10", "--data-binary", f"@{request}",
                    "-w", "\n%{http_code}", f"https://127.0.0.1:{cell.est}/.well-known/est/simplereenroll")
    expect(said.endswith("\n200"), f"was answered {said[-400:]}")


def mosquitto_pub(cell: Cell) -> None:
    cell.run("mosquitto_pub", "-h", "127.0.0.1", "-p", str(cell.gateway.port), "--cafile", str(cell.bundle.ca), "--cert", str(cell.bundle.cert),
             "--key", str(cell.bundle.key), "--tls-version", f"tlsv{cell.tls}", "-V", "mqttv5", "-i", cell.bundle.device, "-q", "1",
             "-t", cell.topic, "-m", cell.payload)


def paho(cell: Cell) -> None:
    context = cell.bundle.context(TLS[cell.tls])
    context.minimum_version = TLS[cell.tls]
    leaf = Leaf(cell.bundle, cell.gateway.port, context=context)
    try:
        leaf.connect()
        reason = leaf.publish(cell.topic, cell.payload)
        expect(str(reason) == "Success", f"the publish was answered {reason}")
    finally:
        leaf.close()


def mqtt_js(cell: Cell) -> None:
    cell.run("node", str(HERE / "mqtt_js_peer.js"), str(cell.gateway.port), str(cell.bundle.ca), str(cell.bundle.cert), str(cell.bundle.key),
             f"TLSv{cell.tls}", cell.bundle.device, cell.topic, cell.payload, NODE_PATH=os.environ["FIELDGATE_PEERS_NODE"])


CLIENTS: dict[str, Callable[[Cell], None]] = {
    "openssl": openssl, "curl": curl, "mosquitto_pub": mosquitto_pub, "paho": paho, "mqtt-js": mqtt_js,
}


def clients_keys_and_versions(stage: Stage) -> None:
    """openssl, curl, mosquitto_pub, paho, MQTT.js × P-256, P-384, RSA-2048 × TLS 1.2 and 1.3: 30 cells, all seen."""
    est = free_port()
    gateway = Gateway(stage, f'[enrolment]\nlisten = "127.0.0.1:{est}"\n{POLICY}').start()
    watch = gateway.leaf(gateway.add_device("watch", "app")).connect()
    watch.subscribe("devices/#")
    for key, how in KEYS.items():
        for argv in (("openssl", "genpkey", *how, "-out", f"{key}.key"),
                     ("openssl", "req", "-new", "-key", f"{key}.key", "-subj", "/CN=anything", "-out", f"{key}.csr"),
                     ("openssl", "req", "-in", f"{key}.csr", "-outform", "DER", "-out", f"{key}.der"),
                     ("openssl", "base64", "-in", f"{key}.der", "-out", f"{key}.b64")):
            done = command(argv, cwd=stage.folder)
            expect(done.returncode == 0, f"`{' '.join(argv)}`: {done.stderr}")

    def play(given: tuple[str, str, str]) -> str | None:
        client, key, tls = given
        device = f"{client}-{key}-{tls}"
        try:
            cell = Cell(gateway, est, client, key, tls, add(gateway, device, stage.folder, key))
            CLIENTS[client](cell)
            if client == "curl":
                wait_for("the audit line of the renewal", 10, lambda: audited(gateway, "device_renewed", device))
            else:
                wait_for("the message", 10, lambda: any(
                    (message.topic, message.payload) == (cell.topic, cell.payload.encode()) for message in list(watch.messages)))
        except (Failed, OSError, subprocess.TimeoutExpired) as error:
            return f"{device}: {error}"
        return None

    cells = [(client, key, tls) for client in CLIENTS for key in KEYS for tls in TLS]
    with ThreadPoolExecutor(4) as pool:
        failures = [failure for failure in pool.map(play, cells) if failure]
    stage.figure("cells", len(cells) - len(failures))
    expect(not failures, f"{len(failures)} of {len(cells)} cells failed:\n" + "\n".join(failures))


def add(gateway: Gateway, device: str, folder: Path, key: str) -> Bundle:
    """`device add --csr` with the request that openssl made."""
    out = gateway.folder / "bundles" / device
    gateway.verb("device", "add", device, "--csr", str(folder / f"{key}.csr"), "--out", str(out))
    return Bundle(device, out / "ca.pem", out / "cert.pem", folder / f"{key}.key")
