"""The ladder: which path is dialled when, as tables and as what holds for every history."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcor.paths.base import PathName
from alcor.paths.ladder import Choice, Event, LadderLimits, Outcome, State, after, awake, choose, patience_s

FAST, NORMAL, RESCUE = PathName.FAST, PathName.NORMAL, PathName.RESCUE
ALL = (FAST, NORMAL, RESCUE)
LIMITS = LadderLimits()


def about(now: float) -> Any:
    """Equal to that time, give or take what sums of floats are off."""
    return pytest.approx(now)


def play(*events: tuple[Event, PathName, float], state: State | None = None) -> State:
    """The state after those events, each with its time; jitter is at its longest."""
    state = state or State()
    for event, path, now in events:
        state = after(state, Outcome(event, path), now, 1.0, LIMITS)
    return state


def dialled(path: PathName, now: float) -> list[tuple[Event, PathName, float]]:
    return [(Event.QUEUED, path, now), (Event.DIALLED, path, now)]


def test_the_best_open_path_is_first() -> None:
    """At once; what is not open is passed by; when none is open there is nothing to do."""
    assert choose(State(), 5.0, ALL) == Choice(FAST, 5.0)
    assert choose(State(), 5.0, (NORMAL, RESCUE)) == Choice(NORMAL, 5.0)
    assert choose(State(), 5.0, ()) == Choice(None, math.inf)


def test_a_dial_that_waits_for_its_turn_holds_the_lower_paths() -> None:
    """A long queue is no sign of a bad path."""
    assert choose(play((Event.QUEUED, FAST, 0.0)), 60.0, ALL) == Choice(None, math.inf)


def test_a_dial_without_an_answer_is_hedged() -> None:
    """Half a second later the next path begins beside it, and half a second after that the next."""
    state = play(*dialled(FAST, 1.0))
    assert choose(state, 1.0, ALL) == Choice(NORMAL, 1.5)
    assert choose(state, 1.0, (FAST, RESCUE)) == Choice(RESCUE, 1.5)
    state = play(*dialled(NORMAL, 1.5), state=state)
    assert choose(state, 1.6, ALL) == Choice(RESCUE, 2.0)


def test_a_failed_path_is_passed_by_and_tried_again_after_its_back_off() -> None:
    """Falls without delay, and climbs while on the lower path."""
    state = play(*dialled(FAST, 1.0), (Event.FAILED, FAST, 1.1))
    assert choose(state, 1.1, ALL) == Choice(NORMAL, 1.1)
    assert choose(state, 1.1, (FAST,)) == Choice(FAST, about(1.3))
    state = play(*dialled(NORMAL, 1.1), (Event.GREETED, NORMAL, 1.2), state=state)
    assert (state.current, state.attempts) == (NORMAL, 0)
    assert choose(state, 1.2, ALL) == Choice(FAST, about(1.3))
    state = play(*dialled(FAST, 1.3), (Event.GREETED, FAST, 1.4), state=state)
    assert state.current == FAST
    assert choose(state, 1.4, ALL) == Choice(None, math.inf)


def test_a_session_that_ends_is_made_anew_on_its_path() -> None:
    """After a short back-off: the path itself is not in doubt, until that has happened three times without a sync."""
    state = play(*dialled(FAST, 0.0), (Event.GREETED, FAST, 0.0), (Event.ENDED, FAST, 1.0))
    assert choose(state, 1.0, ALL) == Choice(FAST, about(1.2))
    for _ in range(2):
        state = play(*dialled(FAST, 1.0), (Event.GREETED, FAST, 1.0), (Event.ENDED, FAST, 1.0), state=state)
    assert choose(state, 1.0, ALL) == Choice(NORMAL, 1.0)
    again = play(*dialled(FAST, 2.0), (Event.GREETED, FAST, 2.0), (Event.SYNCED, FAST, 2.0), state=state)
    again = play((Event.ENDED, FAST, 3.0), state=again)
    assert choose(again, 3.0, ALL) == Choice(FAST, about(3.2))


def test_a_silent_session_is_followed_by_another_path_at_once() -> None:
    """Whatever made it silent may be the path's."""
    state = play(*dialled(FAST, 0.0), (Event.GREETED, FAST, 0.0), (Event.SILENT, FAST, 9.0))
    assert choose(state, 9.0, ALL) == Choice(NORMAL, 9.0)


def test_what_this_side_gave_up_says_nothing_about_the_path() -> None:
    """It may be dialled at once."""
    state = play(*dialled(FAST, 0.0), (Event.STOPPED, FAST, 1.0))
    assert choose(state, 1.0, ALL) == Choice(FAST, 1.0)
    state = play(*dialled(FAST, 0.0), (Event.GREETED, FAST, 0.0), (Event.STOPPED, FAST, 1.0))
    assert (state.current, choose(state, 1.0, ALL)) == (None, Choice(FAST, 1.0))


def test_who_says_something_is_dialled_at_once() -> None:
    """An agent that was restarted says so by the bus; the next failure is one more in the row."""
    state = play(*[(Event.FAILED, path, 1.0) for path in ALL for _ in range(4)])
    assert choose(state, 1.0, ALL).not_before > 2.0
    state = awake(state, NORMAL, 1.5)
    assert choose(state, 1.5, ALL) == Choice(FAST, 1.5)
    assert not state.rung(NORMAL).failed, "the word came by it"
    state = play((Event.FAILED, FAST, 1.5), state=state)
    assert choose(state, 1.5, (FAST,)).not_before > 4.0
    assert awake(state, NORMAL, 100.0) == state


def test_patience_grows() -> None:
    """5 s at first, 20 s at most."""
    state, patience = State(), []
    for _ in range(4):
        patience.append(patience_s(state, FAST, LIMITS))
        state = play((Event.FAILED, FAST, 0.0), state=state)
    assert patience == [5.0, 10.0, 20.0, 20.0]


@given(st.lists(st.tuples(st.sampled_from(ALL), st.booleans(), st.floats(0, 1, exclude_max=True)), max_size=200))
def test_nothing_starves_and_attempts_are_bounded(fates: list[tuple[PathName, bool, float]]) -> None:
    """Whatever fails: without a session there is always a next dial, within the longest back-off; every open path is
    dialled again and again; and no path is dialled more often than its back-off allows."""
    state, now = State(), 0.0
    tried: dict[PathName, list[float]] = {path: [] for path in ALL}
    for _, greets, roll in fates:
        choice = choose(state, now, ALL, LIMITS)
        assert choice.path is not None
        assert choice.not_before <= now + LIMITS.backoff.cap_s
        now = max(now, choice.not_before)
        path = choice.path
        tried[path].append(now)
        for event in (Event.QUEUED, Event.DIALLED, *((Event.GREETED, Event.SILENT) if greets else (Event.FAILED,))):
            state = after(state, Outcome(event, path), now, roll, LIMITS)
        assert state.current is None
    for times in tried.values():
        for number, (earlier, later) in enumerate(itertools.pairwise(times)):
            assert later - earlier >= LIMITS.backoff.delay_s(number, 0.0) - 1e-9
        if now > 60:
            assert times
            assert now - times[-1] <= 3 * LIMITS.backoff.cap_s
