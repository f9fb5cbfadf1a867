"""Plays the console's story in a browser, and tells how it ended. Started by `run`, which has installed what it needs."""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import large
import story
from stage import Options, Stage
from wait import Failed

REPOSITORY = Path(__file__).resolve().parents[2]
TAIL_LINES = 40


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/console/run", description="Drives the console in a real browser.")
    parser.add_argument("--binary", type=Path, metavar="PATH", help="the gateway; built with `cargo build --release` if left out")
    parser.add_argument("--debug-build", action="store_true", help="the binary is not optimised: times and loads are printed and not judged")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="where the pictures of every page go; a new folder if left out")
    parser.add_argument("--large", action="store_true", help="10,000 devices and 20,000 points instead: sizes, times, load")
    parser.add_argument("--axe", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def play(name: str, stage: Stage, part: Callable[[], object]) -> str | None:
    """Plays one part and ends all that it started; why it failed."""
    began, failure = time.monotonic(), None
    try:
        part()
    except Failed as error:
        failure = str(error)
    except Exception:
        failure = traceback.format_exc()
    finally:
        problems = stage.close()
    if problems:
        failure = "\n".join([*filter(None, [failure]), *(f"at the end: {problem}" for problem in problems)])
    for figure, value in stage.figures.items():
        print(f"   {figure} = {value}")
    print(f"== {name} {'FAILED: ' + failure if failure else 'passed'} ({time.monotonic() - began:.1f} s)", flush=True)
    return failure


def print_logs(folder: Path) -> None:
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()
        if lines:
            print(f"--- {log} (last {min(TAIL_LINES, len(lines))} of {len(lines)} lines)")
            print("\n".join(lines[-TAIL_LINES:]), flush=True)


def main() -> int:
    given = arguments()
    # SIGTERM ends like an exception, so that everything started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = Options(given.binary.resolve(), REPOSITORY, REPOSITORY / "target", given.large, given.debug_build, secrets.randbelow(1 << 32))
    pictures = given.pictures or Path(tempfile.mkdtemp(prefix="fgconsole-pictures-"))
    pictures.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="fgconsole-"))
    name = "large" if given.large else "story"
    stage = Stage(name, base, options)
    axe = given.axe.read_text()
    part = (lambda: large.large(stage)) if given.large else (lambda: story.story(stage, pictures, axe))
    failure = play(name, stage, part)
    if failure:
        print_logs(base)
        print(f"files kept in {base}")
    else:
        shutil.rmtree(base)
    if not given.large:
        print(f"pictures in {pictures}")
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
