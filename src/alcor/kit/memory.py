"""The garbage collector's manners in a process that keeps a million objects. Called by roles, and by bulk work.

A full collection of CPython 3.11 looks at every container there is, and nothing else runs meanwhile: 160 ms in a
controller of 1,000 hosts. Almost everything that such a process keeps it keeps for good.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

LEAST = 100_000
"""Kept objects, below which it is not worth asking whether they have doubled."""


@contextmanager
def no_collection(wanted: bool = True) -> Iterator[None]:
    """No cyclic garbage is looked for inside, in the whole process; reference counting goes on. Not `wanted`, or off
    already: nothing changes."""
    pause = wanted and gc.isenabled()
    if pause:
        gc.disable()
    try:
        yield
    finally:
        if pause:
            gc.enable()


class Survivors:
    """What survived a full collection is set aside (gc.freeze), and the next ones look at what is newer. All of it is
    looked at again when it has doubled since the last time: so cycles that end later are found, and memory is bounded
    by twice what is in use. Entered once in a process."""

    def __init__(self) -> None:
        self.aside = 0
        """Objects; of some that are gone since it is not known."""
        self._whole = LEAST
        """How many there were after everything was looked at."""
        self._looks_at_all = False

    def __enter__(self) -> Self:
        """So it is from now on, in the whole process."""
        gc.callbacks.append(self._collection)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._collection)
        gc.unfreeze()

    def _collection(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] != 2:
            return
        if phase == "start":
            if self.aside >= 2 * self._whole:
                self.aside = gc.get_freeze_count()
            self._looks_at_all = self.aside >= 2 * self._whole
            if self._looks_at_all:
                gc.unfreeze()
            return
        if self._looks_at_all:
            gc.freeze()
            self.aside = gc.get_freeze_count()
            self._whole = max(self.aside, LEAST)
        else:
            self.aside += len(gc.get_objects(generation=2))
            gc.freeze()
