"""Which controllers have said that the host holds all that it should. Pure. Called by reconcile."""

from __future__ import annotations

from collections.abc import Collection


class Sync:
    """See the module. Partitions say `synced` (docs/rooms/paths.md)."""

    def __init__(self) -> None:
        self._ever: set[int] = set()
        """Those that said so in this life..."""
        self._now: set[int] = set()
        """...and those that did in their present session."""
        self.reached = False
        """There was a time in this life when all had."""

    def begin(self, partition: int) -> None:
        """A session of that partition begins."""
        self._now.discard(partition)

    def say(self, partition: int, known: Collection[int]) -> bool:
        """The partition says it. True: with that, for the first time, all that are known have."""
        self._now.add(partition)
        if partition in self._ever:
            return False
        self._ever.add(partition)
        complete = self.complete(known)
        self.reached = self.reached or complete
        return complete

    def complete(self, known: Collection[int]) -> bool:
        """All of these said it in this life, and there are some."""
        return bool(self._ever) and self._ever >= set(known)

    def current(self, partition: int) -> bool:
        """It has said so in its present session."""
        return partition in self._now
