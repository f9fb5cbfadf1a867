"""The harness proved against the peers alone: whatever fails after this is the gateway's doing."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import paho.mqtt.client as mqtt
from asyncua import Client, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from pymodbus.client import ModbusTcpClient

import pki
from cloud import Cloud, Observer
from history import Arrival, judge
from leaf import Bundle, Leaf
from stage import Stage, free_port
from wait import expect, wait_for

RATE, SECONDS = 200, 4


def proves_the_peers(stage: Stage) -> None:
    """Load, relay, field devices and history checker, without a gateway."""
    checker_finds_faults()
    modbus_answers(stage)
    opcua_answers(stage)
    relay_counts(stage)
    load_is_sustained(stage)


def checker_finds_faults() -> None:
    """A checker that can't find anything would pass everything."""
    good = [Arrival(1, n, n) for n in range(5)]
    expect(judge(range(5), good).lost == 0, "the checker lost something that is there")
    expect(judge(range(6), good).lost == 1, "the checker missed a loss")
    expect(judge(range(5), [*good, good[2]]).resent_by_gateway == 1, "the checker missed a re-send of the gateway")
    again = judge(range(5), [*good, Arrival(2, 9, 2)])
    expect(again.resent_by_leaf == 1 and again.out_of_order_counter == 0, "the checker misjudged a re-send of a leaf")
    expect(judge(range(5), [good[1], good[0]]).out_of_order_seq == 1, "the checker missed wrong order")
    swapped = judge(range(2), [Arrival(1, 1, 1), Arrival(1, 2, 0)])
    expect(swapped.out_of_order_counter == 1, "the checker missed counters in wrong order")
    expect(judge(range(2), [Arrival(1, 1, 0), Arrival(1, 1, 1)]).numbers_reused == 1, "the checker missed a reused number")


def relay_counts(stage: Stage) -> None:
    """The relay sees two connections at once where there are two, and one after the other where there is one."""
    with socket.create_server(("127.0.0.1", 0)) as target:
        port = free_port()
        relay = stage.helper("relay", "relay.py", port=port, target=target.getsockname()[1])
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port)):
                target.accept()[0].close()
                wait_for("the connection's end", 5, lambda: relay.ask("now") == 0)
        expect(relay.ask("most") == 1, "the relay took two connections in turn for two at once")
        with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
            wait_for("both connections", 5, lambda: relay.ask("now") == 2)
        expect(relay.ask("most") == 2, "the relay missed that there were two connections at once")


def modbus_answers(stage: Stage) -> None:
    """pymodbus serves, dies and comes back."""
    port = free_port()
    server = stage.helper("modbus", "modbus_peer.py", port=port)
    write_setpoint(port, 33.5)
    expect(server.ask("setpoint") == 33.5, "the Modbus device did not take a write")
    server.kill()
    server = stage.helper("modbus", "modbus_peer.py", port=port)
    expect(server.ask("setpoint") == 10.0, "the restarted Modbus device is not a fresh one")
    write_setpoint(port, 1.5)
    expect(server.ask("connections") == 1, "the restarted Modbus device counts its connections wrongly")


def write_setpoint(port: int, value: float) -> None:
    client = ModbusTcpClient("127.0.0.1", port=port, timeout=2)
    expect(client.connect(), "the Modbus device does not accept a connection")
    words = client.convert_to_registers(value, client.DATATYPE.FLOAT32)
    expect(not client.write_registers(20, words, device_id=1).isError(), "the Modbus device refused a write")
    client.close()


def opcua_answers(stage: Stage) -> None:
    """asyncua serves without and with security, and checks the password."""
    port = free_port()
    plain = stage.helper("opcua", "opcua_peer.py", port=port)
    asyncio.run(set_level(f"opc.tcp://127.0.0.1:{port}/", 44.0, None, ""))
    expect(plain.ask("read", name="Level") == 44.0, "the OPC UA server did not take a write")
    plain.kill()
    stage.helper("opcua", "opcua_peer.py", port=port)

    pair = pki.opcua_application(stage.folder / "opcua", "server", "urn:fieldgate:peers:server")
    client_pair = pki.opcua_application(stage.folder / "opcua", "client", "urn:fieldgate:peers:client")
    port = free_port()
    secure = stage.helper(
        "opcua-secure", "opcua_peer.py", port=port, cert=str(pair.cert), key=str(pair.key), user="op", password="secret"
    )
    url = f"opc.tcp://127.0.0.1:{port}/"
    asyncio.run(set_level(url, 55.0, client_pair, "secret"))
    expect(secure.ask("read", name="Level") == 55.0, "the secured OPC UA server did not take a write")
    try:
        asyncio.run(set_level(url, 66.0, client_pair, "wrong"))
    except ua.UaStatusCodeError:
        pass  # as it should be
    expect(secure.ask("read", name="Level") == 55.0, "the secured OPC UA server took a wrong password")


async def set_level(url: str, value: float, pair: pki.Pair | None, password: str) -> None:
    client = Client(url, timeout=5)
    if pair is not None:
        client.application_uri = "urn:fieldgate:peers:client"
        await client.set_security(SecurityPolicyBasic256Sha256, str(pair.cert), str(pair.key))
        client.set_user("op")
        client.set_password(password)
    async with client:
        index = await client.get_namespace_index("urn:fieldgate:peers")
        node = client.get_node(f"ns={index};s=Level")
        await node.write_value(ua.DataValue(ua.Variant(value, ua.VariantType.Double)))


def load_is_sustained(stage: Stage) -> None:
    """The leaves make 2,000 messages/s, mosquitto passes them on, the observer keeps up; the relay cuts and mends."""
    cloud = Cloud(stage, "direct", listener="certificate")
    leaves = [bundle(cloud, f"leaf-{n:02}") for n in range(10)]
    cut_and_mended(stage, cloud, leaves[0])
    load = stage.helper(
        "leaves", "load_peer.py", port=cloud.relay_port, rate=RATE, seconds=SECONDS, window=20,
        leaves=[
            {"device": leaf.device, "ca": str(leaf.ca), "cert": str(leaf.cert), "key": str(leaf.key),
             "version": mqtt.MQTTv5 if n % 2 else mqtt.MQTTv311}
            for n, leaf in enumerate(leaves)
        ],
    )
    watched = watch_local(stage, cloud)
    started = load.ask("start")
    wait_for("the end of the load", SECONDS + 10, lambda: load.ask("progress")["finished"], every=0.2)
    took = time.monotonic() - started
    total = RATE * SECONDS * len(leaves)
    wait_for("the observer to see all of the load", 10, lambda: len(watched.messages) >= total)
    report = load.ask("report")
    counters: dict[str, list[int]] = {leaf.device: [] for leaf in leaves}
    delays = []
    for message in watched.messages:
        content = json.loads(message.payload)
        counters[message.topic.split("/")[1]].append(content["n"])
        delays.append(message.at - content["at"])
    for device, seen in counters.items():
        expect(seen == list(range(RATE * SECONDS)), f"{device}: {len(seen)} messages, not all in order, without a gateway")
    delays.sort()
    stage.figure("load_messages_per_s", total / took)
    stage.figure("load_helper_cpu_s", report["cpu"])
    stage.figure("observed_p99_ms", delays[len(delays) * 99 // 100] * 1e3)
    expect(took < SECONDS + 1.5, f"the load of {SECONDS} s took {took:.1f} s: this machine can't make 2,000 messages/s")


def bundle(cloud: Cloud, device: str) -> Bundle:
    pair = cloud.authority.client(device)
    return Bundle(device, cloud.authority.pem, pair.cert, pair.key)


def watch_local(stage: Stage, cloud: Cloud) -> Observer:
    """A second observer for the leaves' local topics."""
    observer = Observer(cloud.ports["plain"], "devices/#", "observer-local")
    stage.at_end(observer.close)
    return observer


def cut_and_mended(stage: Stage, cloud: Cloud, identity: Bundle) -> None:
    """A cut is seen by a connected client and refuses new ones; mending brings the line back."""
    client = Leaf(identity, cloud.relay_port).connect()
    cloud.relay.ask("cut")
    expect(client.disconnected.wait(5), "a cut of the relay was not seen within 5 s")
    expect(Leaf(identity, cloud.relay_port).try_connect() != "Success", "the relay let somebody through while cut")
    cloud.relay.ask("mend")
    again = Leaf(identity, cloud.relay_port).connect()
    again.close()
    expect(len(cloud.relay.ask("accepted")) == 2, "the relay counts its connections wrongly")
