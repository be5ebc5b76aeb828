"""Many schedules, over the machine's cores: their sum, and the seeds that failed. Called by roles and bench."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib import resources

import msgspec

from alcor.sim.schedule import Outcome, play

FEW = 8
"""Schedules that are not worth starting processes for."""
KEPT_FAILURES = 100


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What many schedules came to."""

    first_seed: int
    wanted: int
    """Schedules that were to be played; more than `schedules` if somebody interrupted."""
    schedules: int
    hosts: int
    failures: tuple[Outcome, ...]
    """At most KEPT_FAILURES of them."""
    failed: int
    faults: dict[str, int]
    commits: int
    checks: int
    virtual_s: float
    seconds: float
    converged_p50_s: float
    converged_p99_s: float
    converged_max_s: float

    @property
    def per_hour(self) -> float:
        """Schedules, on this machine."""
        return self.schedules * 3600 / self.seconds if self.seconds else 0.0


def kept_seeds() -> list[int]:
    """Seeds that once failed: seeds.txt, a number and the reason in each line."""
    text = resources.files("alcor.sim").joinpath("seeds.txt").read_text()
    return [int(line.split()[0]) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def run(
    seeds: Iterable[int], hosts: int, advance: Callable[[Outcome], None], *, processes: int | None = None
) -> Summary:
    """Plays them all; KeyboardInterrupt ends it early. `advance` is told what became of each, as it ends."""
    wanted = list(seeds)
    began = time.perf_counter()
    outcomes = []
    with suppress(KeyboardInterrupt):
        for outcome in _outcomes(wanted, hosts, processes):
            outcomes.append(outcome)
            advance(outcome)
    failures = sorted((one for one in outcomes if one.broken), key=lambda one: one.seed)
    converged = sorted(one.converged_s for one in outcomes) or [0.0]
    faults: Counter[str] = Counter()
    for one in outcomes:
        faults.update(one.faults)
    return Summary(
        first_seed=min(wanted, default=0),
        wanted=len(wanted),
        schedules=len(outcomes),
        hosts=hosts,
        failures=tuple(failures[:KEPT_FAILURES]),
        failed=len(failures),
        faults=dict(sorted(faults.items())),
        commits=sum(one.commits for one in outcomes),
        checks=sum(one.checks for one in outcomes),
        virtual_s=sum(one.virtual_s for one in outcomes),
        seconds=time.perf_counter() - began,
        converged_p50_s=converged[len(converged) // 2],
        converged_p99_s=converged[min(len(converged) - 1, int(len(converged) * 0.99))],
        converged_max_s=converged[-1],
    )


def _outcomes(seeds: list[int], hosts: int, processes: int | None) -> Iterator[Outcome]:
    if len(seeds) <= FEW or processes == 1:
        for seed in seeds:
            yield play(seed, hosts)
        return
    with multiprocessing.get_context("spawn").Pool(processes, _leave_interrupts) as pool:
        yield from pool.imap_unordered(_play, [(seed, hosts) for seed in seeds])


def _leave_interrupts() -> None:
    """To the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _play(what: tuple[int, int]) -> Outcome:
    return play(*what)
