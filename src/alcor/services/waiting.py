"""Waiting until hosts carry ports. Filled by loops.waiting, asked by api."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from alcor.model.ids import Id
from alcor.model.nouns import Port

MAX_WAIT_S = 60
"""Of one caller: below what proxies give an answer, by their defaults."""


class Waits(Protocol):
    """Who waits for ports to leave BUILD."""

    async def until_built(
        self, ids: Sequence[Id], read: Callable[[], Awaitable[Sequence[Port]]], seconds: float
    ) -> Sequence[Port]:
        """The ports, as `read` finds them when each has left BUILD, or `seconds` later.

        What was deleted meanwhile is missing. It waits no longer than the control plane runs, and not at all when too
        much is waited for already.
        """
        ...
