"""An OPC UA server made by asyncua, in a helper process, so that it can be killed and started again.

Nodes in the namespace `urn:fieldgate:peers`: `Level` (Double, writable, 12.5), `Ticks` (UInt32, counts up five times a second),
`Running` (Boolean), `Label` (String), `Locked` (Double, readable only), `Pose`
(a structure of X, Steps and Label, writable).
And a method `Sum` of a Double and an Int16, on the Objects folder; events of the type `BatchEvent` and conditions on request. Also `history`: names of nodes whose history is kept in memory; `nodes`: names of further Doubles, and `decoys`: namespaces that come before, so that the number changes.
Without certificate: security None and anonymous; with one: Basic256Sha256 SignAndEncrypt and a user name, or, with `user_cert`,
every policy and mode, and a user with that certificate besides.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from pathlib import Path
from typing import Any

from asyncua import Server, ua, uamethod
from asyncua.common.structures104 import new_struct, new_struct_field
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.user_managers import UserManager
from cryptography.hazmat.primitives.serialization import Encoding

import answering

NAMESPACE = "urn:fieldgate:peers"
APPLICATION = "urn:fieldgate:peers:server"
TICK = 0.2


class OneUser(UserManager):
    """Accepts one user name with its password, and one certificate."""

    def __init__(self, name: str, password: str, certificate: bytes | None) -> None:
        self._login = (name, password)
        self._certificate = certificate

    def get_user(self, iserver: Any, username: str | None = None, password: str | None = None, certificate: Any = None
                 ) -> User | None:
        by_certificate = username is None and self._certificate is not None and der(certificate) == self._certificate
        return User(role=UserRole.User, name=username) if by_certificate or (username, password) == self._login else None


def der(certificate: Any) -> bytes:
    """The certificate's bytes, however the library hands it over."""
    return certificate if isinstance(certificate, bytes) else certificate.public_bytes(Encoding.DER)


@uamethod
def add_up(_parent: Any, one: float, other: int) -> float:
    """The method `Sum`."""
    return one + other


async def open_server(given: dict[str, Any]) -> Server:
    """A configured server that does not listen yet."""
    secure = "cert" in given
    user_cert = Path(given["user_cert"]).read_bytes() if "user_cert" in given else None
    server = Server(user_manager=OneUser(given["user"], given["password"], user_cert) if secure else None)
    # The severity of the events around a refresh; anything that is set switches refreshes on.
    server.iserver.bind_condition_methods = 1
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{given['port']}/")
    server.set_server_name("Fieldgate peers")
    await server.set_application_uri(APPLICATION)
    if secure:
        await server.load_certificate(given["cert"])
        await server.load_private_key(given["key"])
        policies = [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
        tokens = [ua.UserNameIdentityToken]
        if user_cert:
            policies = [
                getattr(ua.SecurityPolicyType, f"{policy}_{mode}")
                for policy in ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss") for mode in ("Sign", "SignAndEncrypt")
            ]
            tokens.append(ua.X509IdentityToken)
        server.set_security_policy(policies)
        server.set_identity_tokens(tokens)
    else:
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.set_identity_tokens([ua.AnonymousIdentityToken])
    return server


async def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    given = answering.arguments()
    server = await open_server(given)
    for number in range(given.get("decoys", 0)):
        await server.register_namespace(f"urn:fieldgate:peers:decoy-{number}")
    index = await server.register_namespace(NAMESPACE)
    nodes = {}

    async def add(names: list[str], value: float = 1.0) -> None:
        for name in names:
            nodes[name] = await server.nodes.objects.add_variable(f"ns={index};s={name}", f"{index}:{name}", value, ua.VariantType.Double)

    for name, value, kind in (
        ("Level", 12.5, ua.VariantType.Double),
        ("Ticks", 0, ua.VariantType.UInt32),
        ("Running", True, ua.VariantType.Boolean),
        ("Label", "boiler", ua.VariantType.String),
        ("Locked", 1.0, ua.VariantType.Double),
    ):
        nodes[name] = await server.nodes.objects.add_variable(f"ns={index};s={name}", f"{index}:{name}", value, kind)
    await nodes["Level"].set_writable()
    await new_struct(server, index, "Pose", [
        new_struct_field("X", ua.VariantType.Double), new_struct_field("Steps", ua.VariantType.Int32, array=True),
        new_struct_field("Label", ua.VariantType.String),
    ])
    await server.load_data_type_definitions()
    pose = ua.Pose()
    pose.X, pose.Steps, pose.Label = 1.5, [1, 2], "left"
    nodes["Pose"] = await server.nodes.objects.add_variable(f"ns={index};s=Pose", f"{index}:Pose", pose)
    await nodes["Pose"].set_writable()
    numbers = [ua.VariantType.Double, ua.VariantType.Int16]
    await server.nodes.objects.add_method(f"ns={index};s=Sum", f"{index}:Sum", add_up, numbers, [ua.VariantType.Double])
    await add(given.get("nodes", []))
    batch = await server.get_event_generator(
        await server.create_custom_event_type(index, "BatchEvent", ua.ObjectIds.BaseEventType, [("Batch", ua.VariantType.String)])
    )
    hold = await server.get_event_generator(ua.ObjectIds.AlarmConditionType)
    await server.start()
    for name in given.get("history", []):
        await server.historize_node_data_change(nodes[name], period=None)

    async def tick() -> None:
        count = 0
        while True:
            await asyncio.sleep(TICK)
            count += 1
            await nodes["Ticks"].write_value(ua.Variant(count, ua.VariantType.UInt32))

    ticking = asyncio.create_task(tick())

    async def read(name: str) -> Any:
        return await nodes[name].read_value()

    async def write(names: list[str], value: float) -> None:
        for name in names:
            await nodes[name].write_value(ua.Variant(value, ua.VariantType.Double))

    async def step(name: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            await nodes[name].write_value(ua.Variant(float(number), ua.VariantType.Double))

    async def remove(names: list[str]) -> None:
        await server.delete_nodes([nodes.pop(name) for name in names])

    async def event(message: str, severity: int) -> None:
        batch.event.Batch, batch.event.Severity = "b-7", severity
        await batch.trigger(message=message)

    async def condition(name: str, active: bool) -> None:
        told = copy.deepcopy(hold.event)
        told.ConditionName, told.Retain, told.Severity, told.NodeId = name, active, 800, ua.NodeId(name, index)
        setattr(told, "ActiveState/Id", active)
        hold.event = told
        await hold.trigger(message=f"{name} holds" if active else f"{name} is over")

    await answering.answer_all({"event": event, "condition": condition, "read": read, "step": step, "write": write, "add": add, "remove": remove})
    ticking.cancel()


if __name__ == "__main__":
    answering.run(main)
