"""OPC UA servers that die, lose their line, and lose nodes: values are back within ten seconds each time, and none is stale."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cloud import Cloud
from gateway import ID, Gateway
from points import Points
from stage import Helper, Stage, free_port
from wait import expect, wait_for

WITHIN = 10
NODES = [f"N{number}" for number in range(40)]
KEPT, LOST = NODES[:16], NODES[16:]
SERVERS = {"asyncua": "opcua_peer.py", "node-opcua": "opcua_node_peer.js"}
# Built by `run --long`.
OPEN62541 = os.environ.get("FIELDGATE_PEERS_OPEN62541", "")
if OPEN62541:
    SERVERS["open62541"] = "opcua_c_peer.py"


@dataclass
class Site:
    """One server, the line to it, and what the cloud hears of its device."""

    stage: Stage
    name: str
    port: int
    relay: Helper
    points: Points
    # A second device, whose points are found by browsing.
    below: Points
    server: Helper | None = None

    def start(self, nodes: list[str], decoys: int) -> None:
        """The number of decoys moves its namespace."""
        self.server = self.stage.helper(self.name, SERVERS[self.name], port=self.port, nodes=nodes, decoys=decoys, folder=str(self.stage.folder / self.name), server=OPEN62541)

    def ask(self, op: str, **fields: Any) -> Any:
        assert self.server is not None
        return self.server.ask(op, **fields)

    def kill(self) -> None:
        assert self.server is not None
        self.server.kill()

    def mark(self) -> int:
        return self.points.observer.mark()

    def values(self, names: list[str], value: float, since: int) -> float:
        """Waits until the points have this value; how long it took."""
        began = time.monotonic()
        self.points.wait_values({name: value for name in names}, WITHIN, since)
        return time.monotonic() - began

    def bad(self, names: list[str], since: int) -> float:
        """Waits until each of the points has said that its node is gone."""
        began = time.monotonic()

        def all_said() -> bool:
            said = {point for _, point, _, error in self.points.readings(since) if error and error.startswith("BadNodeId")}
            return said.issuperset(names)

        wait_for(f"bad quality of {len(names)} points of {self.name}", WITHIN, all_said, every=0.1)
        return time.monotonic() - began


def sites(stage: Stage, cloud: Cloud) -> tuple[list[Site], str]:
    """A server of each kind behind a relay, and the sections of gateway.toml."""
    found, sections = [], ""
    for name in SERVERS:
        port, line = free_port(), free_port()
        relay = stage.helper(f"relay-{name}", "relay.py", port=line, target=port)
        found.append(Site(stage, name, port, relay, Points(cloud, name), Points(cloud, f"{name}-below")))
        sections += f'[[opcua]]\nendpoint = "opc.tcp://127.0.0.1:{line}/"\nsecurity = "None"\n'
        sections += f'  [[opcua.device]]\n  id = "{name}"\n  publishing = "200ms"\n  sampling = "100ms"\n'
        for point in [*NODES, "Ticks"]:
            sections += f'  [[opcua.device.point]]\n  name = "{point}"\n  node = "nsu=urn:fieldgate:peers;s={point}"\n'
        sections += f'  [[opcua.device]]\n  id = "{name}-below"\n  publishing = "200ms"\n  sampling = "100ms"\n'
        sections += '  [[opcua.device.subtree]]\n  node = "i=85"\n  name = "{name}"\n  browse_every = "10s"\n'
    return found, sections


def recovers(stage: Stage) -> None:
    """asyncua, node-opcua and, in the long form, open62541: killed and restarted with fewer nodes, TCP cut, nodes removed and added again."""
    cloud = Cloud(stage, ID)
    servers, sections = sites(stage, cloud)
    for site in servers:
        site.start(NODES, decoys=0)
    Gateway(stage, f"{cloud.section()}\n{sections}").start()
    cloud.wait_online()
    worst: dict[str, float] = {}

    def note(site: Site, what: str, seconds: float) -> None:
        key = f"{site.name.replace('-', '_')}_{what}_s"
        worst[key] = max(worst.get(key, 0.0), seconds)

    def trouble(site: Site) -> None:
        site.values(NODES, 1.0, 0)
        for value in (2.0, 3.0, 4.0) if stage.options.long else (2.0,):
            restarted(site, value, note)
            cut(site, value + 0.25, note)
            shrunk(site, value + 0.5, note)

    with ThreadPoolExecutor(len(servers)) as pool:
        for done in [pool.submit(trouble, site) for site in servers]:
            done.result()
    for key, seconds in worst.items():
        stage.figure(key, seconds)
    for site in servers:
        stayed(cloud, site)


def restarted(site: Site, value: float, note: Any) -> None:
    """Killed; back with 16 of 40 nodes and its namespace renumbered; the other 24 come later."""
    site.kill()
    since = site.mark()
    site.start(KEPT, decoys=int(value))
    note(site, "restarted", site.values(KEPT, 1.0, since))
    note(site, "missing", site.bad(LOST, since))
    wait_for("values of what was found", WITHIN, lambda: set(site.below.latest(since)) >= set(KEPT))
    expect(not set(site.below.latest(since)) & set(LOST), "a node that is gone has a value where it was found")
    expect(not set(site.points.latest(since)) & set(LOST), "a node that is gone has a value")
    # Long enough for any growing pause between tries to have grown.
    time.sleep(12)
    since = site.mark()
    new = f"New{int(value)}"
    site.ask("add", names=[*LOST, new], value=value)
    note(site, "grown", site.values(LOST, value, since))
    site.ask("write", names=NODES, value=value + 0.1)
    note(site, "flowing", site.values(NODES, value + 0.1, since))
    # One that nobody has seen before: the server is browsed every 10 s.
    site.below.wait_values({name: value + 0.1 for name in NODES} | {new: value}, 10 + WITHIN, since)


def stayed(cloud: Cloud, site: Site) -> None:
    """Each birth of what was found begins with the one before it: no point was renamed, moved or taken away."""
    topic = cloud.topic(f"devices/{site.name}-below/birth")
    births = [[point["name"] for point in message.json()["points"]] for message in cloud.observer.messages if message.topic == topic]
    expect(len(births) >= 2, f"{len(births)} births of what was found on {site.name}")
    for before, after in zip(births, births[1:], strict=False):
        expect(after[: len(before)] == before, f"points of {site.name} that did not stay: {before} became {after}")
    expect(len(births[-1]) == len(set(births[-1])), f"a name twice: {births[-1]}")


def cut(site: Site, value: float, note: Any) -> None:
    """The TCP connection is reset, and for a second nobody listens."""
    since = site.mark()
    site.relay.ask("cut")
    site.ask("write", names=NODES, value=value)
    wait_for("bad quality while the line is cut", WITHIN, lambda: any(e for _, p, _, e in site.points.readings(since) if p == "N0"))
    site.relay.ask("mend")
    note(site, "cut", site.values(NODES, value, since))
    site.ask("write", names=NODES, value=value + 0.1)
    note(site, "flowing", site.values(NODES, value + 0.1, since))


def shrunk(site: Site, value: float, note: Any) -> None:
    """Nodes are deleted while the session stands, and made again; the others are not disturbed."""
    since = site.mark()
    site.ask("remove", names=LOST)
    note(site, "removed", site.bad(LOST, since))
    errors = {point for _, point, _, error in site.points.readings(since) if error}
    expect(errors == set(LOST), f"others were disturbed: {errors - set(LOST)}")
    since = site.mark()
    site.ask("add", names=LOST, value=value)
    note(site, "added", site.values(LOST, value, since))
    site.ask("write", names=NODES, value=value + 0.1)
    note(site, "flowing", site.values(NODES, value + 0.1, since))
