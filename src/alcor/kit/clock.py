"""Time as an argument: who needs "now" is handed a Clock. Called by loops, paths and agent; tests hand in FakeClock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: wall time for records, monotonic time for durations and deadlines."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, for what people read."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for what is compared."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class FakeClock:
    """A clock that stands until told to go on."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic = 0.0

    def advance(self, seconds: float) -> None:
        """Lets both clocks go on by that many seconds."""
        self._now_ms += int(seconds * 1000)
        self._monotonic += seconds

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._monotonic
