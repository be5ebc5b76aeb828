"""`alcor sim`: wires the simulator to the command line. Called by main."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from alcor.sim.run import Summary, kept_seeds
from alcor.sim.run import run as simulate

SHOWN_FAILURES = 10


def run(seed: int, schedules: int, hosts: int, report: Path | None) -> int:
    """Plays schedules and answers the exit code: 0 when every promise held, 1 when one did not."""
    console = Console()
    seeds = [*(kept_seeds() if schedules > 1 else []), *range(seed, seed + schedules)]
    columns = [TextColumn("schedules"), BarColumn(28), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, refresh_per_second=4) as bars:
        task = bars.add_task("", total=len(seeds))
        summary = simulate(
            seeds, hosts, lambda done: bars.update(task, completed=done), processes=len(os.sched_getaffinity(0))
        )
    console.print(_table(summary, seed))
    for failure in summary.failures[:SHOWN_FAILURES]:
        console.print(f"seed {failure.seed}, {failure.broken}", style="red", markup=False)
        console.print(f"  again: alcor sim --seed {failure.seed} --schedules 1 --hosts {hosts}", markup=False)
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)
        (report / "sim.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    verdict = "every promise held" if not summary.failed else f"{summary.failed} schedules broke a promise"
    console.print(f"{summary.schedules:,} schedules, {sum(summary.faults.values()):,} faults: {verdict}")
    return 0 if not summary.failed else 1


def _table(summary: Summary, seed: int) -> Table:
    table = Table("what", "", title=f"simulation, seeds from {seed}", title_justify="left", title_style="bold")
    rows = [
        ("schedules", f"{summary.schedules:,}, {summary.failed:,} failed"),
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
