"""A scenario's stage: its folder, its ports, the processes it started, the figures it measured.

Whatever is started or mounted on a stage is ended by `close`, by process id and in reverse order.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wait import Failed

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    binary: Path
    repository: Path
    cargo_target: Path
    long: bool
    # Not optimised: its program takes more memory.
    debug_build: bool
    seed: int


class Child:
    """One process, its output in a file."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, cwd: Path) -> None:
        self.name = name
        self.log = log
        self.started_at = time.monotonic()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd, env=environment()
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and reaps it."""
        if self.alive():
            self.process.kill()
        self.process.wait(timeout=10)

    def stop(self, seconds: float = 15) -> int:
        """SIGTERM; the exit code. A process that outlives `seconds` is killed and fails the scenario."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{self.name} did not end within {seconds:g} s of SIGTERM") from None


class Helper:
    """A Python or JavaScript program of this folder in a process of its own, asked by JSON lines (see `answering.py`).

    It ends by itself when its standard input closes, so it never outlives the harness.
    """

    def __init__(self, name: str, program: str, arguments: dict[str, Any], log: Path) -> None:
        self.name = name
        self._errors = log.open("ab")
        self._process = subprocess.Popen(
            [*interpreter(program), str(HERE / program), json.dumps(arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**environment(), "NODE_PATH": os.environ.get("FIELDGATE_PEERS_NODE", "")},
        )
        self._buffer = b""
        self._line(20, "its start")

    def ask(self, op: str, seconds: float = 10, **fields: Any) -> Any:
        """Sends one request and returns the answer's `value`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **fields}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{self.name} has died; its log is kept") from None
        return self._line(seconds, f"the answer to `{op}`")

    def _line(self, seconds: float, what: str) -> Any:
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([descriptor], [], [], left)[0]
            if not ready:
                raise Failed(f"waited {seconds:g} s in vain for {what} of {self.name}")
            chunk = os.read(descriptor, 1 << 20)
            if not chunk:
                raise Failed(f"{self.name} ended (code {self._process.wait(timeout=10)}) before {what}; its log is kept")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error']}")
        return answer.get("value")

    def kill(self) -> None:
        """SIGKILL, as a crash of the peer would be."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(timeout=10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # an unsent request of a killed peer
        self._errors.close()


def interpreter(program: str) -> list[str]:
    """What runs a program of this folder."""
    return ["node"] if program.endswith(".js") else [sys.executable]


@dataclass(eq=False)
class Stage:
    """What one scenario stands on."""

    name: str
    folder: Path
    options: Options
    figures: dict[str, Any] = field(default_factory=dict)
    _endings: list[Callable[[], object]] = field(default_factory=list)

    def part(self, name: str) -> Stage:
        """A folder of its own below this one; figures and endings are shared."""
        folder = self.folder / f"with-{name}"
        folder.mkdir()
        return Stage(name, folder, self.options, self.figures, self._endings)

    def figure(self, name: str, value: Any) -> None:
        """Notes a measured value for the table and the JSON file."""
        self.figures[name] = round(value, 3) if isinstance(value, float) else value

    def at_end(self, ending: Callable[[], object]) -> None:
        """Runs `ending` when the stage closes, last registered first."""
        self._endings.append(ending)

    def child(self, name: str, argv: Sequence[str], cwd: Path | None = None) -> Child:
        """Starts a process that is killed at the end."""
        child = Child(name, argv, self.folder / f"{name}.log", cwd or self.folder)
        self.at_end(child.kill)
        return child

    def helper(self, name: str, program: str, **arguments: Any) -> Helper:
        """Starts a program of this folder that is killed at the end."""
        helper = Helper(name, program, arguments, self.folder / f"{name}.log")
        self.at_end(helper.kill)
        return helper

    def close(self) -> list[str]:
        """Ends everything; what could not be ended is returned as text."""
        problems = []
        while self._endings:
            try:
                self._endings.pop()()
            except Exception as error:  # the remaining ones must still be ended
                problems.append(f"{type(error).__name__}: {error}")
        return problems


_handed_out: set[int] = set()


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on, never the same one twice."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _handed_out:
            _handed_out.add(port)
            return port
    raise Failed("no free port on 127.0.0.1")


def listens(port: int) -> bool:
    """Whether somebody accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def command(argv: Sequence[str], seconds: float = 30, cwd: Path | None = None, text: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a program to its end and returns what it said."""
    try:
        return subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=seconds, cwd=cwd, env=environment(), check=False
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"`{' '.join(map(str, argv))}` did not end within {seconds:g} s") from None


def environment() -> dict[str, str]:
    """Ours, with a path that has Debian's mosquitto and without settings that would change logs or the gateway's configuration."""
    kept = {
        key: value for key, value in os.environ.items() if key not in ("RUST_LOG", "RUST_BACKTRACE") and not key.startswith("FIELDGATE_")
    }
    kept["PATH"] = f"{kept.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"
    return kept
