"""Leaf devices on their way to the cloud: what arrives, and who is refused."""

from __future__ import annotations

import hashlib
import json
import ssl
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import pki
from cloud import Cloud, Envelope, Message
from gateway import ID, Gateway
from leaf import Bundle, Leaf
from stage import Stage, command
from wait import expect, wait_for

NOT_AUTHORISED, BAD_CLIENT_ID = 0x87, 0x85
BINARY = bytes(range(256))
VERSIONS = ((mqtt.MQTTv5, "v5"), (mqtt.MQTTv311, "v311"))


def leaf_to_cloud(stage: Stage) -> None:
    """A paho leaf in 3.1.1 and in 5 reaches the cloud over mqtts and MQTT 5 with its bytes and properties untouched."""
    cloud = Cloud(stage, ID)
    gateway = Gateway(stage, cloud.section()).start()
    cloud.wait_online()
    for version, name in VERSIONS:
        bundle = gateway.add_device(f"leaf-{name}")
        leaf = gateway.leaf(bundle, version=version).connect()
        bytes_arrive(cloud, leaf, bundle)
        states_are_retained(cloud, leaf)
    leaf = gateway.leaf(gateway.add_device("leaf-props")).connect()
    properties_arrive(cloud, leaf)
    mosquitto_pub_arrives(cloud, gateway, gateway.add_device("leaf-shell"))


def fingerprint(bundle: Bundle) -> str:
    """SHA-256 of the leaf certificate, in hex: the first certificate of cert.pem."""
    first = bundle.cert.read_text().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()


def arrival(cloud: Cloud, leaf: Leaf, stream: str) -> Message:
    topic = cloud.topic(f"devices/{leaf.device}/telemetry/{stream}")
    return cloud.observer.wait(f"{topic} at the cloud", 10, lambda message: message.topic == topic)


def bytes_arrive(cloud: Cloud, leaf: Leaf, bundle: Bundle) -> None:
    """Payload, identity and numbers, with every QoS."""
    last = 0
    for qos in (1, 2, 0):
        leaf.telemetry(BINARY, f"bytes/qos{qos}", qos=qos)
        seen = arrival(cloud, leaf, f"bytes/qos{qos}")
        expect(seen.payload == BINARY, f"{leaf.device} QoS {qos}: the payload arrived changed")
        expect(seen.identity is not None and seen.identity.lower() == fingerprint(bundle), f"{leaf.device}: fg-id is {seen.identity}")
        expect(seen.boot is not None and seen.boot >= 1, f"{leaf.device}: fg-boot is {seen.boot}")
        expect(seen.seq is not None and seen.seq > last, f"{leaf.device}: fg-seq {seen.seq} after {last}")
        expect(seen.ts is not None and abs(seen.ts / 1000 - time.time()) < 60, f"{leaf.device}: fg-ts is {seen.ts}")
        expect(not seen.hist and not seen.retain, f"{leaf.device}: a live message is marked historical or retained")
        last = seen.seq or 0


def states_are_retained(cloud: Cloud, leaf: Leaf) -> None:
    """The device's state goes up retained, online and then offline."""
    topic = cloud.topic(f"devices/{leaf.device}/state")
    online = cloud.observer.wait("the state of a leaf, online", 10, lambda m: m.topic == topic and m.json()["online"] is True)
    expect(online.json()["via"] == "mqtt", f"the state of {leaf.device} says via {online.json().get('via')}")
    leaf.close()
    cloud.observer.wait("the state of a leaf, offline", 10, lambda m: m.topic == topic and m.json()["online"] is False)
    retained = Bystander(cloud, topic)
    wait_for("the retained state of a leaf", 10, lambda: retained.messages)
    expect(json.loads(retained.messages[0].payload)["online"] is False, f"the retained state of {leaf.device} is not the last one")
    retained.close()


class Bystander:
    """A client that subscribes after the fact and so sees what is retained."""

    def __init__(self, cloud: Cloud, topic: str) -> None:
        self.messages: list[mqtt.MQTTMessage] = []
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="bystander", protocol=mqtt.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self.client.on_message = lambda _client, _data, message: self.messages.append(message)
        self.client.connect("127.0.0.1", cloud.ports["plain"])
        self.client.loop_start()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def properties_arrive(cloud: Cloud, leaf: Leaf) -> None:
    """Version 5 properties travel, the retain flag does not."""
    sent: Any = Properties(PacketTypes.PUBLISH)
    sent.ContentType = "application/x-peers"
    sent.PayloadFormatIndicator = 1
    sent.MessageExpiryInterval = 600
    sent.UserProperty = [("a", "1"), ("a", "2"), ("b", "ü")]
    leaf.client.publish(f"devices/{leaf.device}/telemetry/props", "text ü", qos=1, retain=True, properties=sent)
    seen = arrival(cloud, leaf, "props")
    got = seen.properties
    expect(got is not None, "no properties arrived")
    expect(getattr(got, "ContentType", None) == "application/x-peers", f"the content type arrived as {got}")
    expect(getattr(got, "PayloadFormatIndicator", None) == 1, f"the payload format arrived as {got}")
    expect(getattr(got, "UserProperty", None) == sent.UserProperty, f"the user properties arrived as {got}")
    expect(500 <= getattr(got, "MessageExpiryInterval", 0) <= 600, f"the remaining expiry arrived as {got}")
    late = Bystander(cloud, cloud.topic("devices/+/+/+"))
    state = Bystander(cloud, cloud.topic(f"devices/{leaf.device}/state"))
    wait_for("a retained state", 10, lambda: state.messages)
    expect(not late.messages, "the retain flag of telemetry travelled to the cloud")
    late.close()
    state.close()


def mosquitto_pub_arrives(cloud: Cloud, gateway: Gateway, bundle: Bundle) -> None:
    """The README's first device: one line of shell with the bundle's files."""
    topic = f"devices/{bundle.device}/telemetry/shell"
    done = command([
        "mosquitto_pub", "-h", "127.0.0.1", "-p", str(gateway.port), "-i", bundle.device, "--cafile", str(bundle.ca),
        "--cert", str(bundle.cert), "--key", str(bundle.key), "-q", "1", "-t", topic, "-m", "from a shell",
    ])
    expect(done.returncode == 0, f"mosquitto_pub ended with {done.returncode}: {done.stderr}")
    seen = cloud.observer.wait(f"{topic} at the cloud", 10, lambda message: message.topic == cloud.topic(topic))
    expect(seen.payload == b"from a shell", f"mosquitto_pub's payload arrived as {seen.payload!r}")


def upstream_over_3_1_1(stage: Stage) -> None:
    """With MQTT 3.1.1 upstream (and a client certificate) the envelope carries what properties would."""
    cloud = Cloud(stage, ID, listener="certificate")
    gateway = Gateway(stage, cloud.section(protocol=4)).start()
    cloud.wait_online()
    bundle = gateway.add_device("leaf-1")
    leaf = gateway.leaf(bundle).connect()
    cases = {
        "json": (b'{"a": [1, 2.5, null]}', "json", {"a": [1, 2.5, None]}),
        "text": ("nöt {json".encode(), "text", "nöt {json"),
        "binary": (b"\xff\x00\xfe", "base64", b"\xff\x00\xfe"),
    }
    last = 0
    for stream, (payload, form, content) in cases.items():
        leaf.telemetry(payload, stream)
        seen = Envelope.of(arrival(cloud, leaf, stream).payload)
        expect((seen.form, seen.content) == (form, content), f"{stream} arrived as {seen.form}: {seen.content!r}")
        expect(seen.seq > last and seen.boot >= 1, f"{stream} arrived with seq {seen.seq} after {last}, boot {seen.boot}")
        expect(seen.identity is not None and seen.identity.lower() == fingerprint(bundle), f"{stream} arrived with id {seen.identity}")
        expect(abs(seen.ts / 1000 - time.time()) < 60, f"{stream} arrived with ts {seen.ts}")
        last = seen.seq


def strangers_are_refused(stage: Stage) -> None:
    """Wrong topics, other client ids, foreign, missing and revoked certificates are refused, visibly."""
    cloud = Cloud(stage, ID)
    gateway = Gateway(stage, cloud.section()).start()
    cloud.wait_online()
    good, doomed = gateway.add_device("leaf-good"), gateway.add_device("leaf-doomed")
    wrong_topics(cloud, gateway, good)
    other_client_ids(gateway, good)
    foreign_certificates(stage, gateway, good)
    revoked(stage, gateway, good, doomed)


def wrong_topics(cloud: Cloud, gateway: Gateway, good: Bundle) -> None:
    foreign = "devices/leaf-doomed/telemetry/peers"
    leaf = gateway.leaf(good).connect()
    reason = leaf.publish(foreign, "forged")
    expect(reason is not None and reason.value == NOT_AUTHORISED, f"a v5 publish on another's topic was answered {reason}")
    granted = leaf.subscribe("devices/+/telemetry/#")
    expect(granted.value == NOT_AUTHORISED, f"a v5 subscribe to others' topics was answered {granted}")
    expect(leaf.subscribe("devices/leaf-good/#").value == 1, "a v5 subscribe to its own topics was not granted with QoS 1")
    leaf.close()
    leaf = gateway.leaf(good, version=mqtt.MQTTv311).connect()
    granted = leaf.subscribe("#")
    expect(granted.value == 0x80, f"a 3.1.1 subscribe to everything was answered {granted}")
    leaf.client.publish(foreign, "forged", qos=1)
    expect(leaf.disconnected.wait(5), "a 3.1.1 publish on another's topic did not end the connection within 5 s")
    gateway.leaf(good).connect().telemetry("after the forged ones", "last")
    topic = cloud.topic("devices/leaf-good/telemetry/last")
    cloud.observer.wait("a message after the forged ones", 10, lambda m: m.topic == topic)
    forged = [m.topic for m in cloud.observer.messages if m.payload == b"forged"]
    expect(not forged, f"a forged message reached the cloud on {forged}")


def other_client_ids(gateway: Gateway, good: Bundle) -> None:
    for version, name in VERSIONS:
        reason = gateway.leaf(good, version=version, client_id="somebody-else").try_connect()
        # paho translates the 0x02 of 3.1.1 to the reason code of version 5.
        expect(getattr(reason, "value", None) == BAD_CLIENT_ID, f"another client id over {name} was answered {reason}")


def foreign_certificates(stage: Stage, gateway: Gateway, good: Bundle) -> None:
    foreign = pki.Authority(stage.folder / "foreign", "Fieldgate Root CA")
    pair = foreign.client("leaf-good", "urn:fieldgate:device:leaf-good")
    reason = gateway.leaf(Bundle("leaf-good", good.ca, pair.cert, pair.key)).try_connect()
    expect(reason != "Success", "a certificate of a foreign CA was accepted")
    nameless = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="leaf-good", reconnect_on_failure=False)
    nameless.tls_set(ca_certs=str(good.ca))
    outcome: list[str] = []
    nameless.on_connect = lambda _client, _data, _flags, reason, _properties: outcome.append(str(reason))
    nameless.on_disconnect = lambda *_: outcome.append("closed")
    try:
        nameless.connect("127.0.0.1", gateway.port)
        nameless.loop_start()
        wait_for("an answer to a client without certificate", 10, lambda: outcome)
        nameless.loop_stop()
    except ssl.SSLError as error:
        outcome.append(str(error))
    expect(outcome[0] != "Success", "a client without a certificate was accepted")


def revoked(stage: Stage, gateway: Gateway, good: Bundle, doomed: Bundle) -> None:
    """Gone within a second of the verb's return, no way back; the neighbour sees nothing."""
    neighbour = gateway.leaf(good).connect()
    victim = gateway.leaf(doomed).connect()
    victim.telemetry("before", "peers")
    gateway.verb("device", "revoke", doomed.device)
    returned = time.monotonic()
    expect(victim.disconnected.wait(1), "a revoked device was still connected 1 s after the verb returned")
    stage.figure("revoked_gone_ms", (time.monotonic() - returned) * 1e3)
    for version, name in VERSIONS:
        reason = gateway.leaf(doomed, version=version).try_connect()
        expect(reason != "Success", f"a revoked device came back over {name}")
    expect(not neighbour.disconnected.is_set(), "revoking one device disconnected another")
    neighbour.telemetry("still here")
    gateway.kill()
    gateway.start()
    expect(gateway.leaf(doomed).try_connect() != "Success", "a revoked device came back after a restart")
    gateway.leaf(good).connect().telemetry("after the restart")
