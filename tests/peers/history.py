"""Judges what arrived against what was acknowledged: lost, out of order, duplicated (DESIGN section 1, promises 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Arrival:
    """One message of one device: the gateway's number and the device's own counter."""

    boot: int
    seq: int
    counter: int


@dataclass
class Verdict:
    """Counts over one device or, added up, over many."""

    acknowledged: int = 0
    arrived: int = 0
    lost: int = 0
    out_of_order_seq: int = 0
    out_of_order_counter: int = 0
    resent_by_gateway: int = 0
    resent_by_leaf: int = 0
    numbers_reused: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def judge(acknowledged: Iterable[int], arrivals: Iterable[Arrival]) -> Verdict:
    """What became of one device's messages.

    A repeated (boot, seq) is the gateway's re-send, a repeated counter under a new (boot, seq) the leaf's. Order is judged on
    first occurrences. The same (boot, seq) with another counter is a reused number, which must never be.
    """
    verdict = Verdict()
    numbers: dict[tuple[int, int], int] = {}
    counters: set[int] = set()
    last_number, last_counter = (-1, -1), -1
    for arrival in arrivals:
        verdict.arrived += 1
        number = (arrival.boot, arrival.seq)
        if number in numbers:
            if numbers[number] == arrival.counter:
                verdict.resent_by_gateway += 1
            else:
                verdict.numbers_reused += 1
            continue
        numbers[number] = arrival.counter
        verdict.out_of_order_seq += number < last_number
        last_number = max(last_number, number)
        if arrival.counter in counters:
            verdict.resent_by_leaf += 1
            continue
        counters.add(arrival.counter)
        verdict.out_of_order_counter += arrival.counter < last_counter
        last_counter = max(last_counter, arrival.counter)
    wanted = set(acknowledged)
    verdict.acknowledged = len(wanted)
    verdict.lost = len(wanted - counters)
    return verdict


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted numbers as inclusive ranges, for a short text and a short JSON line."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def numbers_of(given: Iterable[Iterable[int]]) -> set[int]:
    """The inverse of `ranges`."""
    return {number for first, last in given for number in range(first, last + 1)}
