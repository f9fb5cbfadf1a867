"""A TCP relay that can cut the line and mend it: what stands between gateway and cloud.

Runs as a helper process. `cut` resets every connection and refuses new ones, as a lost route would; `mend` listens
again on the same port; `accepted` tells when connections were accepted (CLOCK_MONOTONIC, the same in every process).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time

import answering


class Relay:
    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self.accepted: list[float] = []
        self.server: asyncio.Server | None = None
        self.streams: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    async def mend(self) -> float:
        """Listens; returns when."""
        if self.server is None:
            self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return time.monotonic()

    async def cut(self) -> float:
        """Resets all connections and refuses new ones; returns when."""
        if self.server is not None:
            self.server.close()
            self.server = None
        for stream in self.streams:
            raw = stream.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.transport.abort()
        return time.monotonic()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.append(time.monotonic())
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        raw = sink.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.streams.add(sink)
        try:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # one side was reset; the other is closed below
        finally:
            self.streams.discard(sink)
            sink.close()


async def main() -> None:
    given = answering.arguments()
    relay = Relay(given["port"], given["target"])
    await relay.mend()
    await answering.answer_all({"cut": relay.cut, "mend": relay.mend, "accepted": lambda: relay.accepted})


if __name__ == "__main__":
    answering.run(main)
