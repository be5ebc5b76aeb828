"""An event loop on virtual time: when nothing is left to do now, it is the time of the next timer. Called by run.

Nothing waits for real, and the same program with the same dice takes the same steps. What would run in a thread
(asyncio.to_thread) runs on the loop, a moment later, so that other things happen in between.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import Any

THREAD_S = 0.002
"""At most so long what would be in a thread takes."""

OVERSHOOT_S = 2e-9
"""A timer is late by this, as timers are: who waits until a time would else find it a rounding error short of it, and
wait for nothing for ever. More than the resolution of asyncio's clock."""
MAX_STILL = 10_000
"""After so many turns time passes all the same, as it does for who only works: who waits for what is left of a moment,
less than a float can add to the time, would look again for ever."""


class Stalled(Exception):
    """Nothing will ever happen again: everybody waits."""


class _Selector(selectors.SelectSelector):
    """Does not wait: moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._still = 0
        """Turns of the loop since the clock moved."""

    def select(self, timeout: float | None = None) -> list[Any]:
        """See selectors.BaseSelector."""
        ready = super().select(0)
        if not ready and timeout is None:
            raise Stalled
        self._still += 1
        if not ready and (timeout or self._still > MAX_STILL):
            self.now += (timeout or 0.0) + OVERSHOOT_S
            self._still = 0
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self, dice: random.Random) -> None:
        self._virtual = _Selector()
        self._dice = dice
        self.failure: Exception | None = None
        """The first that a callback raised: asyncio only logs it."""
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See asyncio."""
        if "handle" in context and self.failure is None:
            self.failure = context["exception"]

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """See asyncio: on this thread, soon."""
        future = self.create_future()

        def run() -> None:
            if not future.cancelled():
                try:
                    future.set_result(func(*args))
                except Exception as error:
                    future.set_exception(error)

        self.call_later(self._dice.uniform(0, THREAD_S), run)
        return future
