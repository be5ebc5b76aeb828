"""Turns: a bounded number at a time, first come first served, and nobody's turn lasts for ever. Called by delivery.

A dial that gets no answer would hold its place for seconds; it costs nothing by then, so its place goes to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turn:
    """A place among those that are under way, until it is over."""

    def __init__(self, places: asyncio.Semaphore, lapse_s: float) -> None:
        self._places: asyncio.Semaphore | None = places
        self._lapse = asyncio.get_running_loop().call_later(lapse_s, self.over)

    def over(self) -> None:
        """Lets the next begin. Idempotent."""
        if self._places is not None:
            self._places.release()
            self._places = None
            self._lapse.cancel()


class Turns:
    """See the module."""

    def __init__(self, places: int, lapse_s: float) -> None:
        self._places = asyncio.Semaphore(places)
        self._lapse_s = lapse_s

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Waits for a place; it is over after `lapse_s`, on leaving, or when its holder says so."""
        await self._places.acquire()
        turn = Turn(self._places, self._lapse_s)
        try:
            yield turn
        finally:
            turn.over()
