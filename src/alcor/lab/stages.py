"""What a person sees while a lab works: a bar per stage, and the time each took. Called by run and bench.

A stage also is where the lab notices that it was asked to stop. rich enters the lab through this file and run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from alcor.lab.results import Step, Stopped

Advance = Callable[[int], None]


class Stages:
    """The stages of one lab, in order."""

    def __init__(self, console: Console, stop: threading.Event) -> None:
        self._console = console
        self._stop = stop
        self.steps: list[Step] = []

        self._note: Callable[[str], None] = lambda _: None

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """What the present stage is at, beside its name."""
        self._note(text)

    def check(self) -> None:
        """Raises Stopped once somebody asked for it."""
        if self._stop.is_set():
            raise Stopped("stopped on request; the lab is cleaned up")

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """A bar while the block runs; tell it how many of `total` are done. Without `total`, it only spins."""
        self.check()
        started = time.perf_counter()
        columns = [SpinnerColumn(finished_text="[green]✓[/]"), TextColumn("{task.description:<44}"), BarColumn(28)]
        counted = [MofNCompleteColumn()] if total else []
        with Progress(*columns, *counted, TimeElapsedColumn(), console=self._console, refresh_per_second=8) as bars:
            task = bars.add_task(name, total=total or None)

            def advance(done: int) -> None:
                bars.update(task, completed=done)
                self.check()

            self._note = lambda text: bars.update(task, description=f"{name}: {text}" if text else name)
            try:
                yield advance
            finally:
                self._note = lambda _: None
            bars.update(task, total=total or 1, completed=total or 1)
        self.steps.append(Step(name=name, seconds=time.perf_counter() - started))
