"""Time as an argument: who needs "now" is handed a Clock. Called by loops, paths and agent; tests hand in FakeClock.

In a lab the wall clock can be made to jump: ALCOR_LAB_CLOCK names a file whose first 8 bytes (a little-endian signed
number of milliseconds) are added to it, read anew each time.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from typing import Protocol

LAB_CLOCK = "ALCOR_LAB_CLOCK"
LAB_CLOCK_BYTES = 8


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

    def __init__(self) -> None:
        self._shift = _lab_shift()

    def now_ms(self) -> int:
        shift_ms = int.from_bytes(self._shift[:LAB_CLOCK_BYTES], "little", signed=True) if self._shift else 0
        return time.time_ns() // 1_000_000 + shift_ms

    def monotonic(self) -> float:
        return time.monotonic()


def _lab_shift() -> mmap.mmap | None:
    """The lab's file, when this process is in a lab whose clock can jump."""
    path = os.environ.get(LAB_CLOCK, "")
    if not path:
        return None
    with Path(path).open("rb") as file:
        return mmap.mmap(file.fileno(), LAB_CLOCK_BYTES, access=mmap.ACCESS_READ)


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
