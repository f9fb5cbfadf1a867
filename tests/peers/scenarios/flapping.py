"""A line that breaks again and again, in every way that lines break: nothing is lost, and nobody is connected twice."""

from __future__ import annotations

import random
import time

from scenarios.load import LEAVES, RATE, UPSTREAM_WINDOW, Ground, Plan, nothing_lost
from stage import Stage
from wait import expect, wait_for

KEEP_ALIVE = 5
# The gateway gives a silent line up after one and a half times that.
GIVES_UP = KEEP_ALIVE * 1.5
# A silent line takes long to be found out: one of so many.
SILENT_EVERY = 10
BREAKS, BREAKS_LONG = 8, 200


def flapping(stage: Stage) -> None:
    """The upstream line is reset, closed, torn within a packet and silenced under load: lost 0, one connection at all times."""
    times = BREAKS_LONG if stage.options.long else BREAKS
    silent = max(1, times // SILENT_EVERY)
    plan = Plan(seconds=int(times * 1.7 + silent * GIVES_UP) + 3, away_from=0, away=0)
    ground = Ground.prepare(stage, plan, upstream=f'keep_alive = "{KEEP_ALIVE}s"')
    relay, pick = ground.cloud.relay, random.Random(stage.options.seed)
    ways = ["silence"] * silent + [pick.choice(["reset", "finish", "tear"]) for _ in range(times - silent)]
    pick.shuffle(ways)
    ground.start()
    slowest = 0.0
    for way in ways:
        ground.wait_until(time.monotonic() - ground.started + pick.uniform(0.1, 1.0))
        before = len(relay.ask("accepted"))
        began = time.monotonic()
        relay.ask(way)
        if way == "silence":
            wait_for("the gateway to give the silent line up", GIVES_UP + 3, lambda: relay.ask("now") == 0)
            slowest = max(slowest, time.monotonic() - began)
        wait_for(f"another connection after `{way}`", 5, lambda: len(relay.ask("accepted")) > before)
    verdict, _ = ground.judge(ground.finish())
    stage.figure("breaks", times)
    stage.figure("silence_noticed_s", slowest)
    most = relay.ask("most")
    nothing_lost(verdict, LEAVES * RATE * plan.seconds)
    expect(slowest <= GIVES_UP + 0.5, f"a silent line was given up after {slowest:.1f} s only")
    expect(most == 1, f"the gateway had {most} connections to the cloud at once")
    expect(verdict.resent_by_leaf == 0, f"{verdict.resent_by_leaf} messages sent again by leaves that had no reason to")
    bound = (times + 1) * UPSTREAM_WINDOW
    expect(verdict.resent_by_gateway <= bound, f"{verdict.resent_by_gateway} re-sends of the gateway, more than {bound}")
