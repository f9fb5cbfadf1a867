"""Events and alarms of servers that we did not write: named, filtered, none missing, known again after the line was cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloud import Cloud
from gateway import ID, Gateway
from points import documents
from stage import Helper, Stage, free_port
from wait import expect, wait_for

WITHIN = 15
BURST = 300


class Events:
    """The events of one device as the cloud sees them."""

    def __init__(self, cloud: Cloud, device: str) -> None:
        self.observer = cloud.observer
        self.topic = cloud.topic(f"devices/{device}/telemetry/events")

    def told(self, since: int = 0) -> list[dict[str, Any]]:
        """All documents, in order of arrival."""
        return [one for message in self.observer.messages[since:] if message.topic == self.topic for one in documents(message)]

    def wait(self, what: str, wanted: Callable[[dict[str, Any]], bool], since: int = 0) -> dict[str, Any]:
        """The first document that is wanted."""
        return wait_for(what, WITHIN, lambda: next((one for one in self.told(since) if wanted(one)), None), every=0.05)


def has(**fields: Any) -> Callable[[dict[str, Any]], bool]:
    """An event with these fields that is news."""
    return lambda one: "refresh" not in one and "event" in one and all(one["event"].get(k) == v for k, v in fields.items())


def again(**fields: Any) -> Callable[[dict[str, Any]], bool]:
    """An event with these fields that is told because the connection is new."""
    return lambda one: one.get("refresh") is True and all(one["event"].get(k) == v for k, v in fields.items())


def events(stage: Stage) -> None:
    """asyncua: own fields, severities, a burst, a condition after a cut and events after a kill. node-opcua: an alarm, acknowledged."""
    cloud = Cloud(stage, ID)
    ports = {name: (free_port(), free_port()) for name in ("asyncua", "node-opcua")}
    relays = {name: stage.helper(f"relay-{name}", "relay.py", port=line, target=port) for name, (port, line) in ports.items()}

    def asyncua() -> Helper:
        return stage.helper("asyncua", "opcua_peer.py", port=ports["asyncua"][0])

    server = asyncua()
    node = stage.helper("node-opcua", "opcua_node_peer.js", port=ports["node-opcua"][0], alarms=True, folder=str(stage.folder / "node-opcua"))
    wanted = {
        "asyncua": 'min_severity = 300\nfields = ["nsu=urn:fieldgate:peers;/Batch"]\n',
        "node-opcua": 'types = ["i=2915"]\nacknowledge = true\n',
    }
    sections = "".join(
        f'[[opcua]]\nendpoint = "opc.tcp://127.0.0.1:{line}/"\nsecurity = "None"\n'
        f'  [[opcua.device]]\n  id = "{name}"\n  publishing = "100ms"\n  [[opcua.device.event]]\n{wanted[name]}'
        for name, (_, line) in ports.items()
    )
    Gateway(stage, f"{cloud.section()}\n{sections}").start()
    cloud.wait_online()
    for name in ports:
        online(cloud, name, 0)
    plain(cloud, server)
    condition(cloud, server, relays["asyncua"])
    server.kill()
    mark = cloud.observer.mark()
    server = asyncua()
    online(cloud, "asyncua", mark)
    server.ask("event", message="after the kill", severity=900)
    Events(cloud, "asyncua").wait("an event after the kill", has(Message="after the kill"), mark)
    alarm(cloud, node, relays["node-opcua"])


def online(cloud: Cloud, device: str, since: int) -> None:
    """Waits until the device is said to be online."""
    topic = cloud.topic(f"devices/{device}/state")
    cloud.observer.wait(f"the state of {device}", WITHIN, lambda m: m.topic == topic and m.json()["online"], since)


def plain(cloud: Cloud, server: Helper) -> None:
    """What is too low in severity stays away; a burst arrives whole and in order."""
    told = Events(cloud, "asyncua")
    server.ask("event", message="low", severity=299)
    server.ask("event", message="high", severity=300)
    first = told.wait("the first event", has(Message="high"))
    event = first["event"]
    expect(event.get("EventType") == "BatchEvent" and event.get("EventTypeId", "").startswith("nsu=urn:fieldgate:peers;"), f"the type: {first}")
    expect(event.get("Batch") == "b-7" and event.get("Severity") == 300 and event.get("EventId"), f"its fields: {first}")
    expect(isinstance(first["ts"], int) and event.get("SourceName") == "Server", f"its time and source: {first}")
    for number in range(BURST):
        server.ask("event", message=f"burst {number}", severity=400)
    told.wait("the last of the burst", has(Message=f"burst {BURST - 1}"))
    seen = [one["event"]["Message"] for one in told.told() if "event" in one]
    expect(seen == ["high", *(f"burst {number}" for number in range(BURST))], f"{len(seen)} events of the burst: {seen[:5]} … {seen[-5:]}")


def condition(cloud: Cloud, server: Helper, relay: Helper) -> None:
    """A condition that holds is told again, marked, after the line was cut; nothing else is."""
    told = Events(cloud, "asyncua")
    server.ask("condition", name="Hot", active=True)
    first = told.wait("the condition", has(ConditionName="Hot"))
    expect(first["event"].get("ActiveState") is True and first["event"].get("Retain") is True, f"the condition: {first}")
    expect(first["event"].get("ConditionId", "").endswith("s=Hot"), f"its id: {first}")
    mark = cloud.observer.mark()
    relay.ask("cut")
    relay.ask("mend")
    repeated = told.wait("the condition, again", again(ConditionName="Hot"), mark)
    expect(repeated["event"]["EventId"] == first["event"]["EventId"], f"{repeated} is not {first}")
    server.ask("event", message="news", severity=400)
    told.wait("news after the refresh", has(Message="news"), mark)
    since = told.told(mark)
    expect(len(since) == 2, f"more was told after the cut: {since}")


def alarm(cloud: Cloud, node: Helper, relay: Helper) -> None:
    """An alarm goes up, is known again after a cut, and is acknowledged by a command, once."""
    told = Events(cloud, "node-opcua")
    node.ask("write", names=["Heat"], value=85.0)
    up = told.wait("the alarm", has(ActiveState=True, AckedState=False))
    expect(up["event"].get("EventType") == "ExclusiveLimitAlarmType" and up["event"].get("ConditionName") == "HeatAlarm", f"the alarm: {up}")
    mark = cloud.observer.mark()
    relay.ask("cut")
    relay.ask("mend")
    repeated = told.wait("the alarm, again", again(ActiveState=True, AckedState=False), mark)["event"]

    def acknowledge(rid: str, *arguments: str) -> dict[str, Any]:
        cloud.command("node-opcua", "call", {"method": "acknowledge", "arguments": list(arguments)}, rid)
        answer = cloud.result("node-opcua", "call", rid)
        assert isinstance(answer, dict)
        return answer

    for rid, arguments in (("a1", (repeated["ConditionId"],)), ("a2", (repeated["ConditionId"], "AQID")), ("a3", ("ns=1;s=none", repeated["EventId"]))):
        expect(acknowledge(rid, *arguments)["status"] == "rejected", f"the acknowledgement `{rid}` was not rejected")
    answer = acknowledge("a4", repeated["ConditionId"], repeated["EventId"], "seen")
    expect(answer["status"] == "ok", f"the acknowledgement was answered {answer}")
    told.wait("the alarm, acknowledged", has(ActiveState=True, AckedState=True), mark)
