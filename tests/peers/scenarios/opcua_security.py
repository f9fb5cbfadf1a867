"""Every OPC UA policy, mode and login with an asyncua server, whose certificate is accepted by a verb."""

from __future__ import annotations

import json

import pki
from gateway import Gateway
from stage import Stage, free_port
from wait import expect, wait_for

POLICIES = ("Basic256Sha256", "Aes128-Sha256-RsaOaep", "Aes256-Sha256-RsaPss")
MODES = ("Sign", "SignAndEncrypt")


def policies(stage: Stage) -> None:
    """Three policies, two modes, a password and a certificate as login; strict trust, accepted and rejected by verbs."""
    port = free_port()
    server = pki.opcua_application(stage.folder / "opcua", "server", "urn:fieldgate:peers:server")
    user = pki.opcua_application(stage.folder / "opcua", "user", "urn:fieldgate:peers:user")
    password = stage.folder / "op.password"
    password.write_text("secret\n")
    stage.helper(
        "opcua", "opcua_peer.py", port=port, cert=str(server.cert), key=str(server.key), user="op", password="secret",
        user_cert=str(user.cert.with_suffix(".der")),
    )
    logins = {
        "password": f'{{ username = "op", password_file = "{password}" }}',
        "certificate": f'{{ cert = "{user.cert}", key = "{user.key}" }}',
    }
    cells = [(policy, mode, login) for policy in POLICIES for mode in MODES for login in logins]
    names = ["-".join(cell) for cell in cells]
    sections = "".join(
        f'[[opcua]]\nendpoint = "opc.tcp://127.0.0.1:{port}/"\nsecurity = "{policy}"\nmode = "{mode}"\nauth = {logins[login]}\n'
        f'  [[opcua.device]]\n  id = "{name}"\n'
        '  [[opcua.device.point]]\n  name = "level"\n  node = "nsu=urn:fieldgate:peers;/Level"\n'
        for name, (policy, mode, login) in zip(names, cells, strict=True)
    )
    gateway = Gateway(stage, sections).start()
    known = wait_for("a refused certificate", 20, lambda: json.loads(gateway.verb("opcua", "trust", "list", "--json")), every=0.2)
    expect([one["standing"] for one in known] == ["rejected"], f"before it was accepted: {known}")
    gateway.verb("opcua", "trust", "accept", known[0]["thumbprint"][:12])

    def up() -> bool:
        links = [link for link in gateway.status()["links"] if link["state"] == "up"]
        return len(links) == len(cells)

    wait_for(f"{len(cells)} sessions", 20, up, every=0.2)
    for name in names:
        value = gateway.verb("point", "read", name, "level").strip()
        expect(value == "12.5", f"{name}: the level reads {value}")
    gateway.verb("opcua", "trust", "reject", known[0]["thumbprint"][:12])
    wait_for("the end of all sessions", 20, lambda: all(link["state"] == "refused" for link in gateway.status()["links"]), every=0.2)
    stage.figure("cells", len(cells))
