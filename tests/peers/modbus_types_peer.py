"""A Modbus TCP device made by pymodbus with the memory that it is given, and a pymodbus client to look into any device."""

from __future__ import annotations

from typing import Any

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

import answering


def device(memory: dict[str, list[int]]) -> SimDevice:
    """Blocks of coils, discrete inputs, holding and input registers from address 0 on."""
    bits = [[SimData(0, values=[bool(bit) for bit in memory[table]], datatype=DataType.BITS)] for table in ("c", "d")]
    words = [[SimData(0, values=memory[table], datatype=DataType.REGISTERS)] for table in ("h", "i")]
    return SimDevice(1, (*bits, *words))


async def main() -> None:
    given = answering.arguments()
    if "memory" in given:
        server = ModbusTcpServer(device(given["memory"]), address=("127.0.0.1", given["port"]))
        await server.serve_forever(background=True)
    client = AsyncModbusTcpClient("127.0.0.1", port=given["port"])

    async def connected() -> AsyncModbusTcpClient:
        if not client.connected:
            await client.connect()
        return client

    async def holding(address: int, count: int) -> list[int]:
        answer: Any = await (await connected()).read_holding_registers(address, count=count, device_id=1)
        return list(answer.registers)

    async def coil(address: int) -> bool:
        answer: Any = await (await connected()).read_coils(address, count=1, device_id=1)
        return bool(answer.bits[0])

    await answering.answer_all({"holding": holding, "coil": coil})


if __name__ == "__main__":
    answering.run(main)
