"""Every Modbus type, order and function code against libmodbus and pymodbus, held to fixtures/modbus/types.json."""

from __future__ import annotations

import json
import socket
import subprocess
from dataclasses import dataclass
from typing import Any

from gateway import Gateway
from stage import HERE, Helper, Stage, command, free_port
from wait import expect, wait_for

SIZE = 1000
WRITES = ("auto", "single", "multiple", "read-write")


@dataclass
class Point:
    """A point of the scenario: where it lies, what it must read, and how it is written."""

    name: str
    at: str
    words: list[int]
    value: Any
    keys: str
    writable: bool = False


def cases(stage: Stage) -> list[Point]:
    """Each case of the fixtures in input registers, and in holding registers once for each way to write it."""
    points = []
    address = 0
    for number, case in enumerate(json.loads((stage.options.repository / "fixtures/modbus/types.json").read_text())):
        words = [int(word, 16) for word in case["words"]]
        keys = f'type = "{case["type"]}"\norder = "{case["order"]}"\n'
        name = f"{number} {case['type']} {case['order']}"
        points.append(Point(f"{name} input", f"input:{address}", words, case["value"], keys))
        write = f'access = "rw"\nwrite = "{WRITES[number % len(WRITES)]}"\n'
        points.append(Point(f"{name} holding", f"holding:{address}", words, case["value"], keys + write, True))
        address += len(words)
    for bit in (0, 7, 15):
        value = bit != 7
        points.append(Point(f"bit {bit}", f"holding:{address}.{bit}", [0x8001], value, 'access = "rw"\n', True))
    for number, write in enumerate(("auto", "single", "multiple")):
        value = number != 1
        points.append(Point(f"coil {write}", f"coil:{number}", [int(value)], value, f'access = "rw"\nwrite = "{write}"\n', True))
        points.append(Point(f"discrete {number}", f"discrete:{number}", [int(value)], value, ""))
    return points


def place(point: Point) -> tuple[str, int]:
    """Table and address, without the bit."""
    table, number = point.at.split(":")
    return table, int(number.split(".")[0])


def memory(points: list[Point]) -> dict[str, list[int]]:
    """What the devices hold, by the first letter of the table."""
    tables = {letter: [0] * SIZE for letter in "cdih"}
    for point in points:
        table, address = place(point)
        tables[table[0]][address : address + len(point.words)] = point.words
    return tables


def libmodbus(stage: Stage, port: int, tables: dict[str, list[int]]) -> None:
    """Compiles the C server and starts it with this memory."""
    program = stage.folder / "modbus_server"
    done = command(["cc", "-O1", "-I/usr/include/modbus", "-o", str(program), str(HERE / "modbus_server.c"), "-lmodbus"])
    expect(done.returncode == 0, f"modbus_server.c does not compile (libmodbus-dev): {done.stderr}")
    lines = "".join(f"{table} {address} {word}\n" for table, words in tables.items() for address, word in enumerate(words) if word)
    with (stage.folder / "libmodbus.log").open("wb") as log:
        process = subprocess.Popen([str(program), str(port)], stdin=subprocess.PIPE, stdout=log, stderr=log)
    stage.at_end(process.wait)
    stage.at_end(process.kill)
    assert process.stdin is not None
    process.stdin.write(lines.encode())
    process.stdin.close()

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for("the libmodbus server", 10, listens)


def types(stage: Stage) -> None:
    """Every Modbus type, order and function code against libmodbus and pymodbus, registers compared word by word."""
    points = cases(stage)
    tables = memory(points)
    ports = {"libmodbus": free_port(), "pymodbus": free_port()}
    libmodbus(stage, ports["libmodbus"], tables)
    # pymodbus' client looks into both.
    eyes: dict[str, Helper] = {
        "libmodbus": stage.helper("eyes", "modbus_types_peer.py", port=ports["libmodbus"]),
        "pymodbus": stage.helper("pymodbus", "modbus_types_peer.py", port=ports["pymodbus"], memory=tables),
    }
    section = "".join(
        f'[[modbus]]\nurl = "tcp://127.0.0.1:{port}"\n  [[modbus.device]]\n  id = "{device}"\n  interval = "500ms"\n'
        + "".join(f'  [[modbus.device.point]]\n  name = "{p.name}"\n  at = "{p.at}"\n{p.keys}' for p in points)
        for device, port in ports.items()
    )
    gateway = Gateway(stage, section).start()
    compared = 0
    for device, peer in eyes.items():
        wait_for(f"the first reading of {device}", 15, lambda device=device: read(gateway, device, points[0]) is not None)
        for point in points:
            value = read(gateway, device, point)
            expect(value == point.value, f"{device}: {point.name} at {point.at} reads {value!r}, not {point.value!r}")
            compared += 1
        for point in points:
            if point.writable:
                compared += written(gateway, device, peer, point)
    stage.figure("comparisons", compared)


def read(gateway: Gateway, device: str, point: Point) -> Any:
    """The value of a point as the gateway reads it now."""
    done = command(gateway.argv("point", "read", device, point.name, "--json"), 20, gateway.folder)
    try:
        return (json.loads(done.stdout).get("value") or {}).get(point.name)
    except json.JSONDecodeError:
        return None


def written(gateway: Gateway, device: str, peer: Helper, point: Point) -> int:
    """Writes another value and the first one again; after each, the peer's own client must find the right registers."""
    table, address = place(point)
    if isinstance(point.value, bool):
        there, back = not point.value, point.value
        for value in (there, back):
            gateway.verb("point", "write", device, point.name, json.dumps(value))
            if table == "coil":
                expect(peer.ask("coil", address=address) is value, f"{device}: {point.name} is not {value}")
            else:
                bit = int(point.at.split(".")[1])
                want = point.words[0] ^ (1 << bit) if value is there else point.words[0]
                found = peer.ask("holding", address=address, count=1)
                expect(found == [want], f"{device}: {point.name} holds {found}, not {[want]}")
        return 2
    other = "x" if isinstance(point.value, str) and not point.value.lstrip("-").isdigit() else "1"
    gateway.verb("point", "write", device, point.name, other)
    found = peer.ask("holding", address=address, count=len(point.words))
    expect(found != point.words, f"{device}: {point.name} was not changed")
    gateway.verb("point", "write", device, point.name, str(point.value))
    found = peer.ask("holding", address=address, count=len(point.words))
    expect(found == point.words, f"{device}: {point.name} holds {found}, not {point.words}")
    return 1
