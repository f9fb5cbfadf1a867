"""Runs the scenarios and tells how they ended. Started by `run`, which has installed what it needs."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenarios import ALL, ALONE, LONG, Scenario
from stage import Options, Stage
from wait import Failed

REPOSITORY = Path(__file__).resolve().parents[2]
TAIL_LINES = 40
# Two scenarios wait more than they compute; more would disturb each other's deadlines on two cores.
SIDE_BY_SIDE = 2


@dataclass(frozen=True)
class Outcome:
    """How one scenario ended."""

    name: str
    seconds: float
    figures: dict[str, Any]
    failure: str | None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/peers/run", description="Drives the gateway's binary against independent peers.")
    parser.add_argument("--binary", type=Path, metavar="PATH", help="the gateway; built with `cargo build --release` if left out")
    parser.add_argument("--debug-build", action="store_true", help="the binary is not optimised: of its memory the heap alone is judged")
    parser.add_argument("--only", action="append", metavar="NAME", choices=ALL, help="run this scenario alone; may be repeated")
    parser.add_argument("--long", action="store_true", help="the full load (60 s, 20 s away) and the dist binary's size")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parser.add_argument("--keep", action="store_true", help="keep the files of scenarios that passed, too")
    parser.add_argument("--seed", type=int, help="for the times of kill -9; printed when it is left out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write outcomes and figures to FILE")
    return parser.parse_args()


class Run:
    """The scenarios of one call: those in hand, and how the others ended."""

    def __init__(self, base: Path, options: Options, keep: bool) -> None:
        self._base = base
        self._options = options
        self._keep = keep
        self._lock = threading.Lock()
        self._in_hand: set[Stage] = set()
        self.outcomes: list[Outcome] = []

    def play(self, name: str) -> None:
        """Runs one scenario, ends all that it started, and tells how it went."""
        stage = Stage(name, self._base / name, self._options)
        stage.folder.mkdir()
        with self._lock:
            self._in_hand.add(stage)
        outcome = play(ALL[name], stage)
        with self._lock:
            self._in_hand.discard(stage)
            self.outcomes.append(outcome)
            print_outcome(outcome)
            if outcome.failure:
                print_logs(stage.folder)
        if not outcome.failure and not self._keep:
            shutil.rmtree(stage.folder)

    def end(self) -> None:
        """Ends what scenarios in hand have started, so that they fail soon."""
        with self._lock:
            stages = list(self._in_hand)
        for stage in stages:
            for problem in stage.close():
                print(f"{stage.name}: at the end: {problem}", flush=True)


def play(scenario: Scenario, stage: Stage) -> Outcome:
    """Runs one scenario and ends all that it started."""
    began = time.monotonic()
    failure = None
    try:
        scenario(stage)
    except Failed as error:
        failure = str(error)
    except Exception:
        failure = traceback.format_exc()
    finally:
        leftovers = stage.close()
    if leftovers:
        failure = "\n".join([*filter(None, [failure]), *(f"at the end: {problem}" for problem in leftovers)])
    return Outcome(stage.name, time.monotonic() - began, stage.figures, failure)


def print_outcome(outcome: Outcome) -> None:
    """One scenario: what it is, its figures, how it ended."""
    print(f"== {outcome.name}: {title(outcome.name)}")
    for figure, value in outcome.figures.items():
        print(f"   {figure} = {value}")
    print(f"   {'FAILED: ' + outcome.failure if outcome.failure else 'passed'} ({outcome.seconds:.1f} s)", flush=True)


def title(name: str) -> str:
    """The first line of what a scenario says of itself."""
    return (ALL[name].__doc__ or "").strip().splitlines()[0]


def print_logs(folder: Path) -> None:
    """The end of every log of a failed scenario."""
    for log in sorted(folder.rglob("*.log")):
        lines = log.read_text(errors="replace").splitlines()
        if lines:
            print(f"--- {log} (last {min(TAIL_LINES, len(lines))} of {len(lines)} lines)")
            print("\n".join(lines[-TAIL_LINES:]), flush=True)


def print_table(outcomes: list[Outcome]) -> None:
    width = max(len(outcome.name) for outcome in outcomes)
    print(f"\n{'scenario':<{width}}  result  seconds  figures")
    for outcome in outcomes:
        figures = ", ".join(f"{name} {value}" for name, value in outcome.figures.items())
        result = "FAILED" if outcome.failure else "passed"
        print(f"{outcome.name:<{width}}  {result}  {outcome.seconds:7.1f}  {figures}")


def main() -> int:
    given = arguments()
    # Libraries of the peers warn about each revised time-out; errors are enough.
    logging.basicConfig(level=logging.ERROR)
    if given.list:
        for name in ALL:
            print(f"{name:<16}{title(name)}")
        return 0
    # SIGTERM ends like an exception, so that everything started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    options = Options(given.binary.resolve(), REPOSITORY, target, given.long, given.debug_build, seed)
    base = Path(tempfile.mkdtemp(prefix="fgpeers-"))
    run = Run(base, options, given.keep)
    wanted = given.only or [name for name in ALL if given.long or name not in LONG]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        try:
            list(pool.map(run.play, [name for name in wanted if name not in ALONE]))
        except BaseException:
            run.end()
            raise
    for name in wanted:
        if name in ALONE:
            run.play(name)
    outcomes = run.outcomes
    failed = sum(outcome.failure is not None for outcome in outcomes)
    if failed or given.keep:
        print(f"files kept in {base}")
    else:
        base.rmdir()
    print_table(outcomes)
    if given.json:
        report = {"seed": seed, "long": given.long, "scenarios": [vars(outcome) for outcome in outcomes]}
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
