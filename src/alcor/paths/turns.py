"""Turns: a bounded number at a time, who has failed least first, and nobody's turn lasts for ever. Called by delivery.

A dial that gets no answer would hold its place for seconds; it costs nothing by then, so its place goes to the next.
What such a dial costs is its beginning, so beginnings are spaced: whatever else the event loop does comes in between.
No time is promised to who waits, so none is lost with who gives up, or comes all at once after a standstill.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count


class Turn:
    """A place among those that are under way, until it is over."""

    def __init__(self, turns: Turns, lapse_s: float) -> None:
        self._turns: Turns | None = turns
        self._lapse = asyncio.get_running_loop().call_later(lapse_s, self.over)

    def answered(self) -> None:
        """It came to something: the next one need not wait for its sake. At most once."""
        if self._turns is not None:
            self._turns.refund()

    def over(self) -> None:
        """Lets the next begin. Idempotent."""
        if self._turns is not None:
            self._turns.free()
            self._turns = None
            self._lapse.cancel()


class Turns:
    """See the module."""

    def __init__(self, places: int, lapse_s: float, pace_s: float) -> None:
        """`places` at a time, each for `lapse_s` at most; from one beginning to the next at least `pace_s`."""
        self._places = places
        self._most_free = places
        self._lapse_s = lapse_s
        self._pace_s = pace_s
        self._next = 0.0
        """When the next may begin, by the event loop's clock."""
        self._free = 0
        """So many need not wait for that."""
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        """A heap of (rank, who came first, told to begin)."""
        self._numbers = count()
        self._look: asyncio.Handle | None = None
        """When it is looked at next who may begin."""

    @asynccontextmanager
    async def turn(self, rank: int = 0) -> AsyncIterator[Turn]:
        """Waits for a place and its time, behind those of a lower rank and those of its own that were there before; it
        is over after `lapse_s`, on leaving, or when its holder says so."""
        told = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (rank, next(self._numbers), told))
        self._look_soon()
        try:
            await told
        except asyncio.CancelledError:
            if told.done() and not told.cancelled():
                self.free()
            told.cancel()
            raise
        turn = Turn(self, self._lapse_s)
        try:
            yield turn
        finally:
            turn.over()

    def free(self) -> None:
        """For its turns: a place is."""
        self._places += 1
        self._look_soon()

    def refund(self) -> None:
        """For its turns: one was no waste of time."""
        self._free = min(self._free + 1, self._most_free)
        self._look_soon()

    def _look_soon(self, after_s: float = 0.0) -> None:
        if self._look is not None:
            self._look.cancel()
        loop = asyncio.get_running_loop()
        self._look = loop.call_later(after_s, self._let_in) if after_s > 0 else loop.call_soon(self._let_in)

    def _let_in(self) -> None:
        """One, if it may begin; one in each round of the event loop."""
        self._look = None
        while self._waiting and self._waiting[0][2].done():
            heappop(self._waiting)  # it gave up
        if not self._waiting or not self._places:
            return
        now = asyncio.get_running_loop().time()
        if self._free:
            self._free -= 1
        elif now < self._next:
            self._look_soon(self._next - now)
            return
        else:
            self._next = now + self._pace_s
        self._places -= 1
        heappop(self._waiting)[2].set_result(None)
        self._look_soon()
