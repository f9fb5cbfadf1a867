"""The gateway under test: its configuration file, its process, its verbs."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from leaf import Bundle, Leaf
from stage import Child, Stage, command, free_port
from wait import expect, wait_for

ID = "peers"


class Gateway:
    """One `fieldgate` with its own folder, started, killed and asked by a scenario."""

    def __init__(self, stage: Stage, sections: str = "", data_dir: Path | None = None, binary: Path | None = None,
                 name: str = "gateway") -> None:
        self.stage = stage
        self.name = name
        self.binary = binary or stage.options.binary
        self.folder = stage.folder / name
        self.folder.mkdir()
        self.data_dir = data_dir or self.folder / "data"
        self.port = free_port()
        self.admin_port = free_port()
        self.process: Child | None = None
        # What stands before its command line when it runs.
        self.prefix: list[str] = []
        self.write(sections)

    def write(self, sections: str) -> None:
        """Writes gateway.toml: identity and addresses, then `sections`."""
        (self.folder / "gateway.toml").write_text(
            f'[gateway]\nid = "{ID}"\ndata_dir = "{self.data_dir}"\n\n'
            f'[broker]\nlisten = ["127.0.0.1:{self.port}"]\n\n'
            f'[admin]\nlisten = "127.0.0.1:{self.admin_port}"\n\n{sections}\n'
        )

    def argv(self, *verb: str) -> list[str]:
        return [str(self.binary), "-c", "gateway.toml", *verb]

    def verb(self, *verb: str, seconds: float = 20) -> str:
        """Runs a verb, which must succeed; what it printed."""
        done = command(self.argv(*verb), seconds, self.folder)
        said = f"{done.stdout}{done.stderr}".strip()
        expect(done.returncode == 0, f"`fieldgate {' '.join(verb)}` ended with {done.returncode}: {said}")
        return done.stdout

    def start(self, ready_within: float = 10) -> Gateway:
        """Starts it and waits for /readyz."""
        self.launch()
        wait_for("/readyz of the gateway", ready_within, self.ready)
        return self

    def launch(self) -> Child:
        """Starts it without waiting."""
        self.process = self.stage.child(self.name, [*self.prefix, *self.argv("run")], self.folder)
        return self.process

    def running(self) -> Child:
        """Its process, which must be alive."""
        assert self.process is not None
        expect(self.process.alive(), f"the gateway ended with code {self.process.process.returncode}\n{self.log_tail()}")
        return self.process

    def ready(self) -> bool:
        self.running()
        return self.http("/readyz") == 200

    def http(self, path: str) -> int | None:
        """The HTTP status of a page of the admin address; nothing when it doesn't answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=3) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def kill(self) -> None:
        """kill -9."""
        self.running().kill()

    def stop(self, seconds: float = 15) -> int:
        """SIGTERM; its exit code."""
        return self.running().stop(seconds)

    def add_device(self, device: str, role: str = "device") -> Bundle:
        """`device add`, and the bundle it wrote."""
        folder = self.folder / "bundles" / device
        self.verb("device", "add", device, "--role", role, "--out", str(folder))
        bundle = Bundle(device, folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        for file in (bundle.ca, bundle.cert, bundle.key):
            expect(file.is_file(), f"`device add {device}` wrote no {file.name}")
        return bundle

    def leaf(self, bundle: Bundle, **how: Any) -> Leaf:
        """A leaf device that leaves at the end of the scenario; not connected yet."""
        leaf = Leaf(bundle, self.port, **how)
        self.stage.at_end(leaf.close)
        return leaf

    def status(self) -> dict[str, Any]:
        """`status --json`."""
        return json.loads(self.verb("status", "--json"))

    def metric(self, name: str) -> float:
        """A figure of `/metrics` that has no labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        found = [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]
        expect(len(found) == 1, f"/metrics has {len(found)} lines of {name}")
        return float(found[0])

    def log_text(self) -> str:
        """Everything that it has logged, over all its starts."""
        file = self.stage.folder / f"{self.name}.log"
        return re.sub(r"\x1b\[[0-9;]*m", "", file.read_text(errors="replace")) if file.exists() else ""

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def log_says(self, pattern: str) -> bool:
        return re.search(pattern, self.log_text(), re.IGNORECASE) is not None

    def resident_mb(self, what: str = "VmRSS") -> float:
        """RSS, or a part of it, in MB (10^6 bytes), as Linux accounts it."""
        text = Path(f"/proc/{self.running().pid}/status").read_text()
        match = re.search(rf"^{what}:\s+(\d+) kB", text, re.MULTILINE)
        assert match is not None
        return int(match.group(1)) * 1024 / 1e6

    def settled_mb(self, seconds: float, what: str = "VmRSS") -> float:
        """The most resident memory seen within `seconds` of doing nothing: all, or what is not the program's file (`RssAnon`)."""
        highest, end = 0.0, time.monotonic() + seconds
        while time.monotonic() < end:
            highest = max(highest, self.resident_mb(what))
            time.sleep(0.25)
        return highest
