"""Tests of kit.memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from alcor.kit import memory
from alcor.kit.memory import Survivors, no_collection


class Ring:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def survivors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Survivors]:
    gc.collect()
    monkeypatch.setattr(memory, "LEAST", len(gc.get_objects()) + 1000)
    with Survivors() as watched:
        yield watched


def test_what_survived_is_not_looked_at_again(survivors: Survivors) -> None:
    """A full collection costs what is new, and still finds what is new and over."""
    kept = [[number] for number in range(50_000)]
    gc.collect()
    assert gc.get_freeze_count() > len(kept)
    assert abs(survivors.aside - gc.get_freeze_count()) < 1000
    ring = weakref.ref(Ring())
    assert len(gc.get_objects()) < 10_000
    gc.collect()
    assert ring() is None


def test_what_ends_later_is_found_when_there_is_twice_as_much(survivors: Survivors) -> None:
    """Else a process that runs for months would fill up with it."""
    ring = Ring()
    gone = weakref.ref(ring)
    gc.collect()
    del ring
    gc.collect()
    assert gone() is not None
    kept = [[number] for number in range(2 * memory.LEAST)]
    gc.collect()
    gc.collect()
    assert gone() is None
    assert gc.get_freeze_count() > len(kept), "and all is aside again"


def test_objects_that_came_and_went_are_not_taken_for_twice_as_much(survivors: Survivors) -> None:
    """It counts before it looks at everything."""
    ring = Ring()
    gone = weakref.ref(ring)
    gc.collect()
    del ring
    for _ in range(8):
        passing = [[number] for number in range(memory.LEAST // 2)]
        gc.collect()
        del passing
    assert gone() is not None
    assert survivors.aside < 3 * memory.LEAST


def test_off_is_off_and_stays_off() -> None:
    """Inside of another pause nothing changes, nor does it end with the inner one."""
    with no_collection():
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    with no_collection(wanted=False):
        assert gc.isenabled()
    assert gc.isenabled()
