"""Runs the scenarios one after the other and tells how they ended. Started by `run`, which has installed what it needs."""

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
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenarios import ALL, Scenario
from stage import Options, Stage
from wait import Failed

REPOSITORY = Path(__file__).resolve().parents[2]
TAIL_LINES = 40


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
    parser.add_argument("--only", action="append", metavar="NAME", choices=ALL, help="run this scenario alone; may be repeated")
    parser.add_argument("--long", action="store_true", help="the full load (60 s, 20 s away) and the dist binary's size")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parser.add_argument("--keep", action="store_true", help="keep the files of scenarios that passed, too")
    parser.add_argument("--seed", type=int, help="for the times of kill -9; printed when it is left out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write outcomes and figures to FILE")
    return parser.parse_args()


def play(name: str, scenario: Scenario, stage: Stage) -> Outcome:
    """Runs one scenario and ends all that it started."""
    print(f"== {name}: {(scenario.__doc__ or '').strip().splitlines()[0]}", flush=True)
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
    outcome = Outcome(name, time.monotonic() - began, stage.figures, failure)
    for figure, value in stage.figures.items():
        print(f"   {figure} = {value}")
    print(f"   {'FAILED: ' + failure if failure else 'passed'} ({outcome.seconds:.1f} s)", flush=True)
    return outcome


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
        for name, scenario in ALL.items():
            print(f"{name:<14}{(scenario.__doc__ or '').strip().splitlines()[0]}")
        return 0
    # SIGTERM ends like an exception, so that everything started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    options = Options(given.binary.resolve(), REPOSITORY, target, given.long, seed)
    base = Path(tempfile.mkdtemp(prefix="fgpeers-"))
    outcomes: list[Outcome] = []
    for name in given.only or ALL:
        stage = Stage(name, base / name, options)
        stage.folder.mkdir()
        outcome = play(name, ALL[name], stage)
        outcomes.append(outcome)
        if outcome.failure:
            print_logs(stage.folder)
        elif not given.keep:
            shutil.rmtree(stage.folder)
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
