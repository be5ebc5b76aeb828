"""A small model of merge, ack and resync, searched exhaustively: every order of every event of a small instance.

Called by tests and CI. One VPC with two endpoints, one host, a few commits. The host's end is production code
(agent.state over goalstate.merge); the controller's end and the channels are what docs/rooms/paths.md says:

- a *session* carries messages in order, and may be cut at any moment with what is under way;
- *news* is lost, overtaken by other messages, and repeated;
- commits land before, between and after what the publisher reads and sends.

In every state that can be reached no object goes back, and what a host claims (revision R) is true: each object is as
the store had it at R or later. From every state, when nothing more fails, the host ends with exactly what the store
holds. Where deltas come both in the session and by the bus, a claim may run ahead of news that is late or lost (paths:
only news says what it follows): then each object is as the store had it at some time since the last snapshot, and it
is the digest of a heartbeat that shows the difference. `Rules` are the protocol's; a search with one of them broken
must fail.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from msgspec.structs import replace

from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.goalstate.digest import digest
from alcor.goalstate.merge import ScopeState
from alcor.goalstate.objects import EndpointGoal, Goal, Kind, ScopeUpdate, Tombstone
from alcor.model.addresses import Mac, parse_ip
from alcor.model.ids import Id

VPC = Id(b"v" * 16)
KEY = ScopeKey(1, VPC)
OBJECTS = (Id(b"a" * 16), Id(b"b" * 16))
FIRST = 1
"""Revision of the empty VPC."""
MAX_SESSION, MAX_NEWS, MAX_REPEATS = 3, 2, 1
LOG = 2
"""Commits that the change log reaches back."""


class Rules(NamedTuple):
    """What makes it right, each of which can be left out to see the search fail."""

    gaps: bool = True
    """The host looks at `previous`."""
    beats: bool = True
    """The controller looks at heartbeats."""
    newest_wins: bool = True
    """The host refuses objects older than those it holds."""
    modest: bool = True
    """A snapshot claims what was published, not what was committed meanwhile."""
    confirm: bool = True
    """A host that lags and lacks nothing is told so with the digest it had; else just that it is up to date."""
    session: bool = True
    """Deltas may come in the session."""
    bus: bool = True
    """Deltas may come by the bus."""
    log: bool = True
    """A host that missed no more than the log holds is sent that, with the digest which must come of it."""
    prove: bool = True
    """It looks at that digest; else it believes that it holds what the controller thinks."""
    compare: bool = True
    """A Hello is compared by digest; else the controller believes that the host holds what it once sent."""


class Message(NamedTuple):
    """A ScopeUpdate: a snapshot of the rows at `upto` that claims `revision`; or the delta of commits after `since`."""

    snapshot: bool
    revision: int
    upto: int
    since: int = 0
    chained: bool = False
    """It says what it follows."""
    confirms: bool = False
    """It says that what has the digest of the rows at `upto`, once it is merged, is the scope as of `revision`."""
    log: bool = False
    """It is what changed after `since`; else, if it confirms, nothing."""


Row = tuple[int, int]
"""(object, revision)."""


class Held(NamedTuple):
    """A host's scope, as a value."""

    revision: int = 0
    floor: int = 0
    complete: bool = False
    rows: tuple[Row, ...] = ()
    tombstones: tuple[Row, ...] = ()


class State(NamedTuple):
    """Everything, at one moment."""

    commits: tuple[int, ...] = ()
    """Of each commit, the object it put (n+1) or removed (-n-1)."""
    published: int = FIRST
    session: tuple[Message, ...] | None = None
    """Under way in the session; None: there is none."""
    news: tuple[tuple[Message, int], ...] = ()
    """On the bus, each with how often it may still arrive."""
    held: Held = Held()
    sent: bool = False
    """The controller has sent the scope to this host once."""


class Violation(AssertionError):
    """What must not be, and the way there."""


def search(commits: int = 3, rules: Rules = Rules(), limit: int = 2_000_000) -> int:  # noqa: B008 - a value
    """Visits every state there is; answers how many. Raises Violation."""
    start = State()
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        try:
            _check(state, rules)
            _converge(state, rules)
            for event, after in _steps(state, commits, rules):
                _forward(state.held, after.held, event)
                if after not in came_from:
                    came_from[after] = state, event
                    queue.append(after)
        except Violation as violation:
            raise Violation(f"{violation}; after {' -> '.join(_way(came_from, state))}") from None
        if len(came_from) > limit:
            raise RuntimeError(f"more than {limit:,} states: make the instance smaller")
    return len(came_from)


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    events = []
    while (step := came_from[state]) is not None:
        state, event = step
        events.append(event)
    return events[::-1]


# ---- the store ----


def _newest(state: State) -> int:
    return FIRST + len(state.commits)


@cache
def _rows(commits: tuple[int, ...], upto: int) -> tuple[Row, ...]:
    """The endpoints as of a revision."""
    rows: dict[int, int] = {}
    for revision, change in enumerate(commits, FIRST + 1):
        if revision > upto:
            break
        if change > 0:
            rows[change - 1] = revision
        else:
            rows.pop(-change - 1, None)
    return tuple(sorted(rows.items()))


def _goal(row: Row) -> Goal:
    item, revision = row
    return EndpointGoal(OBJECTS[item], revision, Mac(bytes(6)), (parse_ip(f"10.0.0.{item + 2}"),), parse_ip("10.1.0.1"))


@cache
def _update(commits: tuple[int, ...], message: Message) -> ScopeUpdate:
    rows = dict(_rows(commits, message.upto))
    known = digest([_goal(row) for row in sorted(rows.items())]) if message.confirms else None
    if message.confirms and not message.log:
        return ScopeUpdate(scope=VPC, revision=message.revision, snapshot=False, objects=(), confirms=known)
    if message.snapshot:
        objects = tuple(_goal(row) for row in sorted(rows.items()))
        return ScopeUpdate(scope=VPC, revision=message.revision, snapshot=True, objects=objects)
    changed = {abs(commits[revision - FIRST - 1]) - 1 for revision in range(message.since + 1, message.revision + 1)}
    return ScopeUpdate(
        scope=VPC,
        revision=message.revision,
        snapshot=False,
        objects=tuple(_goal((item, rows[item])) for item in sorted(changed) if item in rows),
        tombstones=tuple(
            Tombstone(Kind.ENDPOINT, OBJECTS[item], message.revision) for item in sorted(changed) if item not in rows
        ),
        previous=message.since if message.chained else 0,
        confirms=known,
    )


# ---- the host: production code, made from a value and back ----


@cache
def _take(held: Held, update: ScopeUpdate, rules: Rules) -> tuple[Held, bool]:
    """What the host holds after the update, and whether it says that it misses something."""
    desired = Desired()
    if held.complete or held.rows:
        state = desired.make_scope(KEY)
        state.endpoints = {OBJECTS[item]: _goal((item, revision)) for item, revision in held.rows}  # type: ignore[misc]
        state.digest = digest(state.endpoints.values())
        state._tombstones = {(Kind.ENDPOINT, OBJECTS[item]): revision for item, revision in held.tombstones}
        state.restore(revision=held.revision, floor=held.floor, complete=held.complete)
        if not rules.newest_wins:
            _forget_order(state, update)
    if not rules.gaps:
        update = replace(update, previous=0)
    believed = not rules.prove and update.confirms is not None
    if believed:
        update = replace(update, confirms=None)
    touched = Touched()
    desired.take(1, 1, [update], synced=False, touched=touched)
    after = desired.scopes.get(KEY)
    if after is None:
        return held, True
    if believed:
        after.restore(revision=update.revision, floor=update.revision, complete=after.complete)
    return (
        Held(
            after.revision,
            after.floor,
            after.complete,
            tuple(sorted((OBJECTS.index(goal.id), goal.revision) for goal in after.endpoints.values())),
            tuple(sorted((OBJECTS.index(one.id), one.revision) for one in after.tombstones())),
        ),
        KEY in touched.missed,
    )


def _forget_order(state: ScopeState, update: ScopeUpdate) -> None:
    """A merge that believes whatever came last."""
    for goal in update.objects:
        state.endpoints.pop(goal.id, None)
    state._tombstones.clear()
    state.floor = 0


# ---- what can happen ----


def _steps(state: State, commits: int, rules: Rules) -> Iterator[tuple[str, State]]:
    yield from _commits(state, commits)
    yield from _publishes(state, rules)
    yield from _arrivals(state, rules)
    if state.session is None:
        yield from _hello(state, rules)
    else:
        yield "cut", state._replace(session=None)
        if rules.beats:
            yield from _beat(state, rules)
    if state.held != Held():
        yield "journal lost", state._replace(held=Held(), session=None)


def _commits(state: State, commits: int) -> Iterator[tuple[str, State]]:
    if len(state.commits) < commits:
        rows = dict(_rows(state.commits, _newest(state)))
        for item in range(len(OBJECTS)):
            yield f"put {item}", state._replace(commits=(*state.commits, item + 1))
            if item in rows:
                yield f"remove {item}", state._replace(commits=(*state.commits, -item - 1))


def _publishes(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """One or several commits at once, in the session, by the bus, or to nobody."""
    for revision in range(state.published + 1, _newest(state) + 1):
        delta = Message(False, revision, revision, since=state.published)
        after = state._replace(published=revision)
        if state.session is None:
            yield f"publish {revision} to nobody", after
            continue
        if rules.session and len(state.session) < MAX_SESSION:
            yield f"publish {revision} in session", after._replace(session=(*state.session, delta))
        if rules.bus and len(state.news) < MAX_NEWS:
            news = delta._replace(chained=True), 1 + MAX_REPEATS
            yield f"publish {revision} by the bus", after._replace(news=tuple(sorted((*state.news, news))))


def _arrivals(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    for place, (message, left) in enumerate(state.news):
        others = (*state.news[:place], *state.news[place + 1 :])
        again = tuple(sorted((*others, (message, left - 1)))) if left > 1 else others
        yield f"news {message.revision} lost", state._replace(news=others)
        yield f"news {message.revision} arrives", _arrive(state._replace(news=again), message, rules)
    if state.session:
        message, *rest = state.session
        yield f"session brings {message.revision}", _arrive(state._replace(session=tuple(rest)), message, rules)


def _arrive(state: State, message: Message, rules: Rules) -> State:
    held, misses = _take(state.held, _update(state.commits, message), rules)
    if not held.complete:
        held = state.held  # a delta of a scope that is not held
    state = state._replace(held=held)
    return _owe(state, rules) if misses and state.session is not None else state


def _owe(state: State, rules: Rules) -> State:
    """The controller sends the scope whole, as of now; rows read may be newer than what was published."""
    if state.session is None or len(state.session) >= MAX_SESSION:
        return state
    newest = _newest(state)
    snapshot = Message(True, state.published if rules.modest else newest, newest if rules.modest else state.published)
    return state._replace(session=(*state.session, snapshot), sent=True)


def _hello(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """A new session begins with a comparison, of the rows as they are."""
    state = state._replace(session=())
    truth = _rows(state.commits, _newest(state))
    known = state.held.complete and state.held.rows == truth if rules.compare else state.sent
    if (
        not known
        and rules.log
        and state.held.complete
        and _newest(state) == state.published <= state.held.revision + LOG
    ):
        missed = Message(False, state.published, state.published, since=state.held.revision, confirms=True, log=True)
        yield "hello, missed little", state._replace(session=(missed,))
    elif not known:
        yield "hello, differs", _owe(state, rules)
    elif state.held.revision < state.published:
        upto = _newest(state) if rules.confirm else state.published
        lags = Message(False, state.published, upto, since=state.published, confirms=rules.confirm)
        yield "hello, lags", state._replace(session=(lags,))
    else:
        yield "hello, equal", state


def _beat(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """A heartbeat in a session with nothing under way, patience having run out."""
    if state.session or state.news:
        return
    held = state.held
    lags = held.revision < state.published
    known = state.published == _newest(state)
    if not held.complete or lags or (known and held.rows != _rows(state.commits, state.published)):
        yield "heartbeat, owed", _owe(state, rules)


# ---- what must hold ----


def _check(state: State, rules: Rules) -> None:
    """The host's claim is true: each object is as it was at the claimed revision or later."""
    held = state.held
    newest = _newest(state)
    if not held.complete:
        return
    rows = dict(held.rows)
    since = held.floor if rules.session and rules.bus else held.revision
    for item in range(len(OBJECTS)):
        mine = rows.get(item, 0)
        allowed = {dict(_rows(state.commits, revision)).get(item, 0) for revision in range(since, newest + 1)}
        if mine not in allowed:
            raise Violation(
                f"the host claims revision {held.revision} and holds object {item} of revision {mine}; the store had"
                f" {sorted(allowed)} since (0: none)"
            )


def _forward(before: Held, after: Held, event: str) -> None:
    """No object goes back, unless the journal is lost."""
    if event == "journal lost":
        return
    newer = dict(after.rows)
    for item, revision in before.rows:
        if newer.get(item, revision) < revision:
            raise Violation(f"object {item} went back from revision {revision} to {newer[item]}, by: {event}")


def _converge(state: State, rules: Rules) -> None:
    """When nothing fails any more, the host comes to hold what the store holds."""
    for _ in range(40):
        if state.published < _newest(state):
            revision = _newest(state)
            delta = Message(False, revision, revision, since=state.published)
            session = state.session
            state = state._replace(published=revision, session=None if session is None else (*session, delta))
        elif state.session:
            message, *rest = state.session
            state = _arrive(state._replace(session=tuple(rest)), message, rules)
        elif state.news:
            (message, _), *others = state.news
            state = _arrive(state._replace(news=tuple(others)), message, rules)
        elif state.session is None:
            (_, state), *_ = _hello(state, rules)
        elif rules.beats and (owed := list(_beat(state, rules))):
            state = owed[0][1]
        else:
            break
    if not state.held.complete or state.held.rows != _rows(state.commits, _newest(state)):
        raise Violation(f"calm, and the host holds {state.held.rows} of {_rows(state.commits, _newest(state))}")
