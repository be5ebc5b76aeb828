"""Turns: a bounded number at a time, first come first served, and nobody's turn lasts for ever. Called by delivery.

A dial that gets no answer would hold its place for seconds; it costs nothing by then, so its place goes to the next.
What such a dial costs is its beginning, so beginnings are spaced: whatever else the event loop does comes in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


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
        self._places = asyncio.Semaphore(places)
        self._most_free = places
        self._lapse_s = lapse_s
        self._pace_s = pace_s
        self._gate = asyncio.Lock()
        self._next = 0.0
        """When the next may begin, by the event loop's clock."""
        self._free = 0
        """So many need not wait for that."""
        self._refunded = asyncio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Waits for a place and its time; it is over after `lapse_s`, on leaving, or when its holder says so."""
        await self._places.acquire()
        try:
            await self._time()
        except BaseException:
            self.free()
            raise
        turn = Turn(self, self._lapse_s)
        try:
            yield turn
        finally:
            turn.over()

    def free(self) -> None:
        """For its turns: a place is."""
        self._places.release()

    def refund(self) -> None:
        """For its turns: one was no waste of time."""
        self._free = min(self._free + 1, self._most_free)
        self._refunded.set()

    async def _time(self) -> None:
        """Until the next may begin, which is the caller. One waits, the others wait for it: no time is promised, so
        none is lost with who gives up, or comes all at once after a standstill."""
        loop = asyncio.get_running_loop()
        async with self._gate:
            await asyncio.sleep(0)  # one in each round of the event loop
            while not self._free and (wait_s := self._next - loop.time()) > 0:
                self._refunded.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._refunded.wait()
            if self._free:
                self._free -= 1
            else:
                self._next = loop.time() + self._pace_s
