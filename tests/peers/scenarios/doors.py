"""The broker's other doors: passwords over TLS and without, and WebSocket with certificates."""

from __future__ import annotations

import json

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from gateway import Gateway
from leaf import Bundle, Leaf
from stage import Stage, command, free_port
from wait import expect, wait_for

PASSWORD = "correct horse"
BAD_USER = {"mqttv311": 4, "mqttv5": 134}


def passwords(stage: Stage) -> None:
    """mosquitto_pub and mosquitto_sub come in with -u and -P, over TLS and plain, in both versions."""
    tls, plain = free_port(), free_port()
    gateway = Gateway(stage)
    done = command(gateway.argv("user", "hash", "--out", "hmi.hash"), cwd=gateway.folder, text=f"{PASSWORD}\n")
    expect(done.returncode == 0, f"`user hash` ended with {done.returncode}: {done.stderr}")
    configure(gateway, f'users_tls = ["127.0.0.1:{tls}"]\nplain = ["127.0.0.1:{plain}"]', """
[[broker.user]]
name = "hmi"
password_hash_file = "hmi.hash"

[[policy]]
who = "user:hmi"
allow = "publish"
filter = "plant/#"

[[policy]]
who = "user:hmi"
allow = "subscribe"
filter = "plant/#"
""")
    gateway.start()
    ca = gateway.folder / "ca.pem"
    gateway.verb("ca", "export", "--out", str(ca))
    doors = {"plain": ["-p", str(plain)], "users_tls": ["-p", str(tls), "--cafile", str(ca)]}
    for door, how in doors.items():
        for version, code in BAD_USER.items():
            common = ["-h", "127.0.0.1", *how, "-V", version, "-q", "1", "-u", "hmi"]
            sent = ["mosquitto_pub", *common, "-i", "hmi/pub", "-r", "-t", f"plant/{door}/{version}", "-m", door]
            done = command([*sent, "-P", PASSWORD])
            expect(done.returncode == 0, f"mosquitto_pub over {door} ({version}) ended with {done.returncode}: {done.stderr}")
            read = command(["mosquitto_sub", *common, "-P", PASSWORD, "-i", "hmi/sub", "-t", f"plant/{door}/{version}", "-C", "1", "-W", "10"])
            expect(read.stdout.strip() == door, f"mosquitto_sub over {door} ({version}) got {read.stdout!r} {read.stderr!r}")
            wrong = command([*sent, "-P", "wrong"])
            expect(wrong.returncode != 0, f"a wrong password over {door} ({version}) was accepted")
            said = f"{wrong.stdout}{wrong.stderr}".lower()
            expect("user" in said and "password" in said, f"a wrong password is to be answered with {code}, mosquitto_pub says {said!r}")
    said = gateway.verb("audit")
    expect("wrong user name or password" in said, "the wrong passwords are not in the audit log")
    expect(PASSWORD not in said and PASSWORD not in gateway.log_text(), "a password stands in a log")
    answer = json.loads(gateway.verb("policy", "explain", "user:hmi", "publish", "plant/x", "--json"))
    expect(answer["allowed"] is True, f"`policy explain` says {answer}")


def websocket(stage: Stage) -> None:
    """paho's own WebSocket transport over TLS with a device's certificate, in both versions."""
    port = free_port()
    gateway = Gateway(stage)
    configure(gateway, f'websocket = ["127.0.0.1:{port}"]', "")
    gateway.start()
    bundle = gateway.add_device("leaf-1")
    for version in (mqtt.MQTTv5, mqtt.MQTTv311):
        leaf = over_websocket(stage, bundle, port, version).connect()
        expect(leaf.subscribe("devices/leaf-1/#").value == 1, "a subscription over WebSocket was not granted")
        payload = bytes(range(256)) * 400
        leaf.telemetry(payload, "big")
        wait_for("100 kB back over WebSocket", 10, lambda: any(m.payload == payload for m in leaf.messages))
        leaf.close()
    gateway.verb("device", "revoke", "leaf-1")
    reason = over_websocket(stage, bundle, port, mqtt.MQTTv5).try_connect()
    expect(reason != "Success", "a revoked device came in over WebSocket")


def over_websocket(stage: Stage, bundle: Bundle, port: int, version: mqtt.MQTTProtocolVersion) -> Leaf:
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=bundle.device, protocol=version, transport="websockets", reconnect_on_failure=False
    )
    leaf = Leaf(bundle, port, version=version, client=client)
    stage.at_end(leaf.close)
    return leaf


def configure(gateway: Gateway, broker: str, sections: str) -> None:
    """Further keys of [broker], and sections."""
    gateway.write(sections)
    file = gateway.folder / "gateway.toml"
    file.write_text(file.read_text().replace("[broker]\n", f"[broker]\n{broker}\n", 1))
