"""`alcor sim`: wires the simulator to the command line. Called by main."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from alcor.sim.run import Summary, kept_seeds
from alcor.sim.run import run as simulate
from alcor.sim.schedule import Outcome

SHOWN_FAILURES = 10
TELL_S = 60.0
INTERRUPTED = 130
"""The exit code of what SIGINT ended, as shells have it."""


def run(seed: int, schedules: int, hosts: int, report: Path | None) -> int:
    """Plays schedules and answers the exit code: 0 when every promise held, 1 when one did not."""
    console = Console()
    seeds = [*(kept_seeds() if schedules > 1 else []), *range(seed, seed + schedules)]
    columns = [TextColumn("schedules"), BarColumn(28), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, refresh_per_second=4, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=len(seeds))
        tally = _Tally(console, len(seeds), hosts)

        def advance(outcome: Outcome) -> None:
            bars.advance(task)
            tally.add(outcome)

        summary = simulate(seeds, hosts, advance, processes=len(os.sched_getaffinity(0)))
    console.print(_table(summary, seed))
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)
        (report / "sim.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    verdict = "every promise held" if not summary.failed else f"{summary.failed} schedules broke a promise"
    console.print(f"{summary.schedules:,} schedules, {sum(summary.faults.values()):,} faults: {verdict}")
    if summary.failed:
        return 1
    return 0 if summary.schedules == summary.wanted else INTERRUPTED


class _Tally:
    """Says what broke a promise as soon as it is known, and, where no bar is drawn, how far it is."""

    def __init__(self, console: Console, wanted: int, hosts: int) -> None:
        self._console = console
        self._wanted = wanted
        self._hosts = hosts
        self._played = self._failed = 0
        self._said_at = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self._played += 1
        if outcome.broken:
            self._failed += 1
            if self._failed <= SHOWN_FAILURES:
                self._show(outcome)
        if not self._console.is_terminal and time.monotonic() - self._said_at >= TELL_S:
            self._said_at = time.monotonic()
            self._console.print(f"{self._played:,} of {self._wanted:,} schedules, {self._failed:,} failed")

    def _show(self, outcome: Outcome) -> None:
        self._console.print(f"seed {outcome.seed}, {outcome.broken}", style="red", markup=False)
        again = f"alcor sim --seed {outcome.seed} --schedules 1 --hosts {self._hosts}"
        self._console.print(f"  again: {again}", markup=False)


def _table(summary: Summary, seed: int) -> Table:
    table = Table("what", "", title=f"simulation, seeds from {seed}", title_justify="left", title_style="bold")
    rows = [
        ("schedules", f"{summary.schedules:,} of {summary.wanted:,}, {summary.failed:,} failed"),
        ("an hour, on this machine", f"{summary.per_hour:,.0f}"),
        ("hosts each", f"{summary.hosts}"),
        ("commits", f"{summary.commits:,}"),
        ("promises looked at", f"{summary.checks:,}"),
        ("virtual time", f"{summary.virtual_s / 3600:,.1f} h in {summary.seconds:,.0f} s"),
        (
            "converged after the last fault",
            f"p50 {summary.converged_p50_s:.2f} s, p99 {summary.converged_p99_s:.2f} s,"
            f" worst {summary.converged_max_s:.2f} s (virtual)",
        ),
    ]
    for row in rows:
        table.add_row(*row)
    for kind, count in summary.faults.items():
        table.add_row(f"  fault: {kind}", f"{count:,}")
    return table
