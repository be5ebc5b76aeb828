"""Which path to dial next, and when: falls fast -> normal -> rescue, climbs back. Pure.

Called by delivery, one State per host. Every path has its own back-off. A lower path is tried when every open path
above it failed at its last try, or has been dialled for `hedge_s` without an answer; so a path that is merely gone
costs half a second, and one that comes back is never given up. In a session only better paths are tried.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from alcor.kit.backoff import Backoff
from alcor.paths.base import PathName

ORDER = tuple(PathName)
"""Best first."""
UNSTEADY = 3
"""A path whose sessions end this many times in a row before a whole sync counts as failed, although it greets."""


class LadderLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    backoff: Backoff = Backoff(first_s=0.2, cap_s=10.0)
    """Per path; a whole synchronisation over it ends the row."""
    hedge_s: float = 0.5
    """A dial without an answer for so long lets the next lower path begin."""
    first_connect_s: float = 5.0
    """From dialling to the Hello, at the first try; doubled with each failure in a row, up to `connect_s`."""
    connect_s: float = 20.0


class Rung(NamedTuple):
    """One path of one host."""

    failures: int = 0
    """In a row, of whatever kind, since the last whole sync."""
    failed: bool = False
    """The last try led to no session, or to one that did not hold: lower paths need not wait for this one."""
    not_before: float = 0.0
    dialling: bool = False
    since: float | None = None
    """When the present dial really began; None while it waits for its turn."""


class State(NamedTuple):
    """One host's standing on the ladder."""

    rungs: tuple[Rung, ...] = (Rung(),) * len(ORDER)
    current: PathName | None = None
    """The path of the session; None: there is none."""
    attempts: int = 0
    """Dials since the last Hello."""

    def rung(self, path: PathName) -> Rung:
        """That path's."""
        return self.rungs[ORDER.index(path)]


class Choice(NamedTuple):
    """Dial `path`, not before that time; None: none that is open is left to dial, now or later."""

    path: PathName | None
    not_before: float = math.inf


class Event(Enum):
    """What can happen to a path."""

    QUEUED = auto()
    """It is to be dialled; the dial waits for its turn."""
    DIALLED = auto()
    """The dial began."""
    GREETED = auto()
    """A Hello came: the session is on this path now, wherever it was."""
    SYNCED = auto()
    """A whole synchronisation succeeded."""
    FAILED = auto()
    """The dial led to no Hello."""
    ENDED = auto()
    """The session ended, by a refusal, an error, a broken connection."""
    SILENT = auto()
    """The session ended because nothing was heard any more."""
    STOPPED = auto()
    """The dial or session was given up by this side, which says nothing about the path."""


class Outcome(NamedTuple):
    """What happened, and to which path."""

    event: Event
    path: PathName


def better(path: PathName | None) -> tuple[PathName, ...]:
    """The paths that are better than that one, best first; than none: all."""
    return ORDER if path is None else ORDER[: ORDER.index(path)]


def choose(state: State, now: float, open_paths: Collection[PathName], limits: LadderLimits | None = None) -> Choice:
    """The next path to dial and when. Ask again after every event."""
    hedge_s = (limits or _DEFAULT).hedge_s
    best = Choice(None)
    gate = now
    """Paths further down wait for this."""
    for path in better(state.current):
        if path not in open_paths:
            continue
        rung = state.rung(path)
        if not rung.dialling:
            when = max(rung.not_before, gate)
            if when < best.not_before:
                best = Choice(path, when)
            if not rung.failed:
                break  # it has its turn first
        elif not rung.failed:
            gate = max(gate, rung.since + hedge_s) if rung.since is not None else math.inf
    return best


def patience_s(state: State, path: PathName, limits: LadderLimits) -> float:
    """How long the present dial of that path may take."""
    doubled = limits.first_connect_s * (1 << min(state.rung(path).failures, 16))
    return min(limits.connect_s, doubled)


def after(state: State, outcome: Outcome, now: float, roll: float, limits: LadderLimits) -> State:
    """The state after that. `roll` in [0, 1) is the die of the back-off."""
    event, path = outcome
    rung = state.rung(path)
    if event is Event.QUEUED:
        return _with(state, path, rung._replace(dialling=True, since=None))
    if event is Event.DIALLED:
        return _with(state, path, rung._replace(dialling=True, since=now))._replace(attempts=state.attempts + 1)
    if event is Event.GREETED:
        greeted = rung._replace(dialling=False, since=None, failed=False)
        return _with(state, path, greeted)._replace(current=path, attempts=0)
    if event is Event.SYNCED:
        return _with(state, path, rung._replace(failures=0, failed=False))
    if path == state.current and not rung.dialling:
        state = state._replace(current=None)
    if event is Event.STOPPED:
        return _with(state, path, rung._replace(dialling=False, since=None))
    failures = rung.failures + 1
    failed = event is not Event.ENDED or failures >= UNSTEADY
    not_before = now + limits.backoff.delay_s(rung.failures, roll)
    return _with(state, path, Rung(failures, failed, not_before))


def awake(state: State, path: PathName, now: float) -> State:
    """The state after a word from the host by that path, outside of any session: it is there, and the path leads to
    it; no path waits for its back-off. How often they failed is not forgotten."""
    rungs = [rung._replace(not_before=min(rung.not_before, now)) for rung in state.rungs]
    return _with(state._replace(rungs=tuple(rungs)), path, rungs[ORDER.index(path)]._replace(failed=False))


def _with(state: State, path: PathName, rung: Rung) -> State:
    place = ORDER.index(path)
    return state._replace(rungs=(*state.rungs[:place], rung, *state.rungs[place + 1 :]))


_DEFAULT = LadderLimits()
