"""The garbage collector, told to wait. Called by whoever makes a million objects at once and keeps them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
