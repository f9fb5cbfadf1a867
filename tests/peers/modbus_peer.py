"""A Modbus TCP device made by pymodbus, in a helper process, so that it can be killed and started again.

Register map of unit 1 (separate blocks; big-endian words unless said otherwise):
  coil 0 `running`; discrete 0 `door`; input 0 `ticks`, u16, counts up five times a second;
  holding 0 `small` i16, 1 `word` u16, 2 `long` i32, 4 `wide` u32, 6 `real` f32 CDAB, 8 `double` f64, 20 `setpoint` f32.
"""

from __future__ import annotations

import asyncio
import struct

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

import answering

READ_HOLDING, READ_INPUT = 3, 4
TICK = 0.2
SETPOINT = 20


def swapped_words(value: float) -> list[int]:
    """An f32 as two registers, the low word first (CDAB)."""
    high, low = struct.unpack(">HH", struct.pack(">f", value))
    return [low, high]


def registers() -> SimDevice:
    """What the docstring of this module says."""
    holding = [
        SimData(0, values=-1234, datatype=DataType.INT16),
        SimData(1, values=54321, datatype=DataType.UINT16),
        SimData(2, values=-123456789, datatype=DataType.INT32),
        SimData(4, values=4000000000, datatype=DataType.UINT32),
        SimData(6, values=swapped_words(21.5), datatype=DataType.REGISTERS),
        SimData(8, values=3.141592653589793, datatype=DataType.FLOAT64),
        SimData(SETPOINT, values=10.0, datatype=DataType.FLOAT32),
    ]
    coils = [SimData(0, values=[True] + [False] * 15, datatype=DataType.BITS)]
    discrete = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
    return SimDevice(1, (coils, discrete, holding, [SimData(0, values=0, datatype=DataType.UINT16)]))


async def tick(server: ModbusTcpServer) -> None:
    """Counts `ticks` up, for ever."""
    count = 0
    while True:
        await asyncio.sleep(TICK)
        count = (count + 1) % 65536
        await server.async_setValues(1, READ_INPUT, 0, [count])


async def main() -> None:
    given = answering.arguments()
    connections = 0

    def connected(up: bool) -> None:
        nonlocal connections
        connections += up

    server = ModbusTcpServer(registers(), address=("127.0.0.1", given["port"]), trace_connect=connected)
    await server.serve_forever(background=True)
    ticking = asyncio.create_task(tick(server))

    async def setpoint() -> float:
        words = await server.async_getValues(1, READ_HOLDING, SETPOINT, 2)
        return float(struct.unpack(">f", struct.pack(">HH", *words))[0])

    await answering.answer_all({"setpoint": setpoint, "connections": lambda: connections})
    ticking.cancel()


if __name__ == "__main__":
    answering.run(main)
