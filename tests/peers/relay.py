"""A TCP relay that can cut the line and mend it: what stands between gateway and cloud.

Runs as a helper process. `cut` resets every connection and refuses new ones, as a lost route would; `mend` listens
again on the same port; `accepted` tells when connections were accepted (CLOCK_MONOTONIC, the same in every process).

Of the connections that there are: `reset` resets them, `finish` ends both sides in order, `tear` lets one more byte through and
resets, `silence` swallows whatever comes from then on. New ones are served as ever. `now` tells how many there are, `most` how many
there were at once; one counts until the gateway, or the relay, has ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time

import answering


class Line:
    """One connection of the gateway: both its sides, and what has befallen it."""

    def __init__(self, near: asyncio.StreamWriter) -> None:
        self.near = near
        self.far: asyncio.StreamWriter | None = None
        self.silent = False
        self.torn = False

    def reset(self) -> None:
        for side in (self.near, self.far):
            if side is not None:
                raw = side.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.transport.abort()

    def finish(self) -> None:
        for side in (self.near, self.far):
            if side is not None:
                side.close()


class Relay:
    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self.accepted: list[float] = []
        self.server: asyncio.Server | None = None
        # What becomes of the bytes, per connection.
        self.lines: set[Line] = set()
        self.most = 0

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
        return self.reset()

    def reset(self) -> float:
        """Resets all connections; returns when."""
        for line in list(self.lines):
            line.reset()
        return time.monotonic()

    def finish(self) -> None:
        """Ends all connections in order."""
        for line in list(self.lines):
            line.finish()

    def tear(self) -> None:
        """Resets each connection one byte further on."""
        for line in self.lines:
            line.torn = True

    def silence(self) -> None:
        """Nothing of what comes goes on, either way."""
        for line in self.lines:
            line.silent = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.append(time.monotonic())
        line = Line(writer)
        self.lines.add(line)
        self.most = max(self.most, len(self.lines))
        with contextlib.suppress(OSError):
            far_reader, line.far = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(self._pump(line, reader, line.far), self._pump(line, far_reader, writer))
        self.lines.discard(line)
        line.finish()

    async def _pump(self, line: Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        raw = sink.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := await source.read(1 << 16):
                if line.silent:
                    continue
                sink.write(data[:1] if line.torn else data)
                await sink.drain()
                if line.torn:
                    line.reset()
        except OSError:
            pass  # one side was reset; the other is closed below
        finally:
            sink.close()


async def main() -> None:
    given = answering.arguments()
    relay = Relay(given["port"], given["target"])
    await relay.mend()
    await answering.answer_all({
        "cut": relay.cut, "mend": relay.mend, "reset": relay.reset, "finish": relay.finish, "tear": relay.tear,
        "silence": relay.silence, "accepted": lambda: relay.accepted, "most": lambda: relay.most, "now": lambda: len(relay.lines),
    })


if __name__ == "__main__":
    answering.run(main)
