"""What the benches of the data plane share: cases that take turns, and what is said of them. Called by each of them.

All cases of a bench are measured in every round, one after another, so that a busy moment of the machine hits all of
them; what is said is the median over the rounds, of a ratio that of the ratios within each round.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from alcor.bench.compiling import compiled
from alcor.dataplane.base import DataPlaneError
from alcor.lab.results import Goal
from alcor.lab.rundir import RunDirectory

Progress = Callable[[str], None]
PACKET, ANSWER, CONNECTION = "packet", "answer", "connection"
"""What is measured: CPU of a packet to the other end, of one that comes back, of a TCP connection, opened and reset."""
BOTH = (PACKET, ANSWER)
TRAFFIC = Path(__file__).with_name("traffic.c")


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """CPU of one packet or connection: the median over the rounds, and every round."""

    median_ns: float
    rounds_ns: tuple[float, ...]


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way between two containers, and what was measured of it."""

    name: str
    costs: dict[str, Cost]

    def __getitem__(self, what: str) -> float:
        """Nanoseconds. Raises KeyError for what was not measured."""
        return self.costs[what].median_ns


class Case(NamedTuple):
    """A way that is to be measured: how to set it up, and how to find each of its figures (ns)."""

    name: str
    prepare: Callable[[], object]
    measures: Mapping[str, Callable[[], float]]


class Place(NamedTuple):
    """Where a bench makes what it needs, and what goes when it ends."""

    program: Path
    """traffic.c, compiled."""
    run: RunDirectory
    stack: ExitStack
    say: Progress


def check_call(name: str, rounds: int) -> None:
    """Raises DataPlaneError when the bench cannot be run so."""
    if os.geteuid() != 0:
        raise DataPlaneError(f"alcor bench {name} makes network namespaces and loads BPF programs: run it as root")
    if rounds < 1:
        raise DataPlaneError("rounds must be at least 1")


@contextmanager
def place(name: str, rounds: int, run_dir: Path, progress: Progress | None) -> Iterator[Place]:
    """All of it gone afterwards. Raises DataPlaneError when the bench cannot be run so."""
    check_call(name, rounds)
    run = RunDirectory.make(run_dir, mounts=True)
    with compiled(TRAFFIC) as program, ExitStack() as stack:
        stack.callback(run.remove)
        yield Place(program, run, stack, progress or (lambda _: None))


def take_turns(cases: Sequence[Case], rounds: int, say: Progress) -> tuple[Way, ...]:
    """Measures every case once in each round; in the order of the cases."""
    found: list[dict[str, list[float]]] = [{what: [] for what in case.measures} for case in cases]
    for number in range(1, rounds + 1):
        for case, kept in zip(cases, found, strict=True):
            say(f"round {number} of {rounds}: {case.name}")
            case.prepare()
            for what, measure in case.measures.items():
                kept[what].append(measure())
    return tuple(
        Way(
            name=case.name,
            costs={what: Cost(median_ns=statistics.median(some), rounds_ns=tuple(some)) for what, some in kept.items()},
        )
        for case, kept in zip(cases, found, strict=True)
    )


class Ratio(NamedTuple):
    """How one way's cost compares with another's, and the two (ns) in the round that says so."""

    times: float
    before_ns: float
    after_ns: float


def compare(before: Way, after: Way, what: Sequence[str] = (PACKET,)) -> Ratio:
    """The median over the rounds, each compared with itself: a shared machine has fast and slow minutes, so that two
    medians may be of different ones. Of several figures the mean."""
    pairs = []
    for number in range(len(before.costs[what[0]].rounds_ns)):
        first, second = (sum(way.costs[one].rounds_ns[number] for one in what) / len(what) for way in (before, after))
        pairs.append(Ratio(second / first, first, second))
    return sorted(pairs)[len(pairs) // 2]


def ratio_goal(
    name: str, at_most: float, of: str, ways: tuple[Way, Way], what: Sequence[str] = (PACKET,), more: str = ""
) -> Goal:
    """That the second of two ways costs at most so many times what the first does."""
    found = compare(*ways, what)
    return Goal(
        name=name,
        goal=f"at most {at_most}x of {of}",
        measured=f"{found.times:.2f}x ({found.before_ns:.0f} -> {found.after_ns:.0f} ns){more}",
        reached=found.times <= at_most,
    )


def within_goal(name: str, at_most_s: float, took_s: float, more: str = "") -> Goal:
    """That a host was programmed in so many seconds."""
    return Goal(
        name=name,
        goal=f"programmed in at most {at_most_s:g} s",
        measured=f"{took_s:.2f} s{more}",
        reached=took_s <= at_most_s,
    )
