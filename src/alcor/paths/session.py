"""One session with a host, over whatever line: bundles down, acks up, in order, in time (docs/rooms/paths.md).

Called by delivery, which opened the line, read the Hello, and makes a new Conversation for each. The agent's end is
agent.core. What one session's mailbox holds dies with it: nothing meant for an earlier session reaches a later one.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple, Protocol

import msgspec

from alcor.goalstate.objects import HOST_SCOPE
from alcor.model.ids import Id
from alcor.paths.base import Events, Line, Parcel, Session
from alcor.paths.sender import Mailbox
from alcor.wire.codec import BundleHead, Feed, encode_bundle
from alcor.wire.lookups import Lookup
from alcor.wire.reports import Ack, Feeding, Heartbeat, Hello, decode_report

MAX_ANSWERS = 4096
"""Bundles of answers that may wait for the line; a host that does not read them loses its session, and asks again."""
MISSED_HEARTBEATS = 3
"""A session in which nothing was heard for this many heartbeats is given up; while a bundle is unanswered, it is after
this many signs of life."""
SMALL_BYTES = 100_000
"""While more than that is unanswered, heartbeats alone count: it takes time on a slow line, and in the agent."""
PACE_OF, PACE_FACTOR, PACE_HALVED_S = 20, 5, 10.0
"""A running mean of so many words, times that, halved in that time when there are none."""
MAX_PACE_S = 10.0
"""A word that comes later counts as this: one host does not make all others wait."""
LATE_S, EXCUSE_S = 0.25, 1.0
"""A clock that is looked at so late shows that this process stood still: what was said meanwhile waits to be read, for
which there is so much time."""


class SessionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Patience, in seconds, and how much may be under way."""

    ack_s: float = 120.0
    """From sending a bundle to its Ack; then the session is made anew."""
    window: int = 4
    """Bundles sent and not yet answered. What comes meanwhile waits and leaves as one message."""
    linger_s: float = 0.03
    """News of a VPC alone waits for one to two times this: a host whose own ports change goes before the many that
    only listen, and a run of changes reaches those in few messages. (A port in a VPC of 100 hosts on one machine became
    ACTIVE in 50 ms when all 100 were told at once.)"""


class Ending(Enum):
    """What a session's end says about its path."""

    BROKEN = auto()
    """Something went wrong, on the path or at its ends."""
    SILENT = auto()
    """Nothing was heard for too long."""
    REFUSED = auto()
    """What one end said the other could not take."""
    GIVEN_UP = auto()
    """Nothing: this side had another use for it."""


class SessionEnded(Exception):
    """Why a session ended, for people."""

    def __init__(self, reason: str, ending: Ending = Ending.BROKEN) -> None:
        super().__init__(reason)
        self.ending = ending


class Pace:
    """How long hosts take to say something while a bundle is unanswered, over all sessions and lately. When thousands
    come at once they wait for each other, here or on the way: who is silent for as long as most are is not dead."""

    def __init__(self) -> None:
        self._mean_s = 0.0
        self._at = 0.0

    def heard(self, after_s: float, now: float) -> None:
        """One that was told something was heard so long after it, or after its last word."""
        mean_s = self._now(now)
        self._mean_s, self._at = mean_s + (min(after_s, MAX_PACE_S) - mean_s) / PACE_OF, now

    def patience_s(self, now: float) -> float:
        """How long anyone may take."""
        return PACE_FACTOR * self._now(now)

    def _now(self, now: float) -> float:
        return float(self._mean_s * 0.5 ** ((now - self._at) / PACE_HALVED_S))


class Terms(NamedTuple):
    """What all sessions of a controller share."""

    partition: int
    epoch: int
    events: Events
    limits: SessionLimits
    roll: Callable[[], float]
    key: Callable[[Id], bytes | None]
    """Opens a VPC's news on the bus; None: there is none."""
    verifier: bytes
    """Shows that such news is this controller's (Ed25519); empty: there is none."""
    pace: Pace


class Keeper(Protocol):
    """Who keeps sessions to one host and remembers over them."""

    def synced(self) -> None:
        """The host took everything that its Hello showed to differ."""
        ...

    def refused(self) -> int:
        """The host refused goal state; answers how many times in a row."""
        ...


class _Sent(NamedTuple):
    """A bundle that is not answered yet."""

    sequence: int
    synced: bool
    feeds: tuple[Feed, ...]
    size: int
    """Bytes."""


class Conversation:
    """See the module. Made when the Hello came; parcels are taken from `begin` on; `run` speaks until it ends."""

    def __init__(self, terms: Terms, keeper: Keeper, session: Session, hello: Hello, line: Line) -> None:
        self.session = session
        self._terms = terms
        self._keeper = keeper
        self._line = line
        self._mailbox = Mailbox()
        self._wake = asyncio.Event()
        self._ended: asyncio.Future[SessionEnded] = asyncio.get_running_loop().create_future()
        self._unanswered: deque[_Sent] = deque()
        """Oldest first."""
        self._given: dict[Id, bytes] = {}
        """VPC -> the key that was sent, of its news."""
        self._keys: dict[Id, bytes] = {}
        """VPC -> the key that the host has, for sure."""
        self._feeding: frozenset[Id] = frozenset()
        """VPCs whose news the host takes from the bus."""
        self._since = 0.0
        """When the oldest of them became that."""
        self._lingering: asyncio.TimerHandle | None = None
        self._answers: deque[bytes] = deque()
        """Bundles that wait for nothing but the line."""
        self._due = False
        """The mailbox is to be looked at."""
        self._blocked = False
        """The window was full when there may have been something to send."""
        self._silence_s = MISSED_HEARTBEATS * hello.heartbeat_ms / 1000
        """0: the host promised no heartbeats."""
        self._dumb_s = MISSED_HEARTBEATS * hello.sign_ms / 1000
        """The same while a bundle is unanswered; 0: it promised no signs of life."""
        self._last_heard = asyncio.get_running_loop().time()
        self._excused = False
        """This process was late when it last looked at the clock, and looks once more."""
        self._alarm: asyncio.TimerHandle | None = None
        """Looks whether the host answers, and is heard; never too late, often too early."""
        self._alarm_at = math.inf
        """When; the handle does not always know (uvloop's, of a time that has passed)."""

    # What the path is asked to send.

    @property
    def begun(self) -> bool:
        """Parcels are taken."""
        return self._mailbox.begun

    @property
    def over(self) -> bool:
        """It has ended, or is about to."""
        return self._ended.done()

    @property
    def idle(self) -> bool:
        """Everything taken was sent and answered."""
        return not self._unanswered and not self._mailbox.waiting

    def quiet(self, since: float) -> bool:
        """Idle since then, by the event loop's clock."""
        return self.idle and self._since <= since

    def begin(self, parcels: Sequence[Parcel]) -> None:
        """Answers the Hello."""
        if not self._ended.done():
            self._mailbox.begin(parcels)
            self._look()

    def offer(self, parcels: Iterable[Parcel]) -> None:
        """Sends soon; news of VPCs alone lingers."""
        taken = tuple(parcels)
        self._mailbox.offer(taken)
        if any(parcel.scope == HOST_SCOPE or parcel.snapshot for parcel in taken):
            self._look()
        elif self._lingering is None and self._mailbox.begun:
            delay_s = self._terms.limits.linger_s * (1 + self._terms.roll())
            self._lingering = asyncio.get_running_loop().call_later(delay_s, self._look)

    def answer(self, bundle: bytes) -> None:
        """Sends a bundle of answers ahead of what waits; it is not acknowledged."""
        if len(self._answers) >= MAX_ANSWERS:
            self.end("it does not read the answers to its questions")
        elif not self._ended.done():
            self._answers.append(bundle)
            self._wake.set()

    def withdraw(self, scope: Id) -> bool:
        """Forgets what waits of that scope. True: the host was given its key."""
        self._mailbox.withdraw(scope)
        self._look()
        self._keys.pop(scope, None)
        return self._given.pop(scope, None) is not None

    def feeds(self, vpc: Id, key: bytes) -> bool:
        """The host takes the VPC's news from the bus and opens it with that key."""
        return vpc in self._feeding and self._keys.get(vpc) == key and self._mailbox.begun

    def end(self, reason: str, ending: Ending = Ending.BROKEN) -> None:
        """Ends the session from outside its task; nothing more is taken, sent, or believed."""
        if not self._ended.done():
            self._ended.set_result(SessionEnded(reason, ending))
        self._clear()

    async def run(self) -> None:
        """Speaks until the session ends; raises what ended it: SessionEnded, LineEnded, WireError, TooLarge."""
        name = self.session.host
        self._watch()
        tasks: list[asyncio.Task[None]] = [
            asyncio.create_task(self._listen(), name=f"listen to {name}"),
            asyncio.create_task(self._send(), name=f"send to {name}"),
        ]
        waited: list[asyncio.Future[None] | asyncio.Future[SessionEnded]] = [*tasks, self._ended]
        task: asyncio.Task[None] | None
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                ended = self._ended.result()
                raise SessionEnded(str(ended), ended.ending)  # one that nothing here holds: see the end
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            self.end("over")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            task = None
            tasks.clear()
            waited.clear()  # else what is raised holds this frame, which holds it: and the line, until it is collected

    # Up.

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            report = decode_report(await self._line.read())
            if self._ended.done():
                return
            now = loop.time()
            if self._gives_signs():
                self._terms.pace.heard(now - max(self._last_heard, self._since), now)
            self._last_heard = now
            if isinstance(report, Ack):
                self._answered(report)
                if self._blocked:  # otherwise what waits lingers
                    self._look()
            elif isinstance(report, Heartbeat):
                if report.host != self.session.host:
                    raise SessionEnded(f"a heartbeat of another host, {report.host}", Ending.REFUSED)
                self._terms.events.heard(self.session.host, self.session.path, report)
            elif isinstance(report, Feeding):
                self._feeding = report.vpcs
            elif isinstance(report, Lookup):
                self._terms.events.asked(self.session, report)
            else:
                raise SessionEnded("a second Hello on the same stream", Ending.REFUSED)

    def _answered(self, ack: Ack) -> None:
        synced = False
        if ack.sequence:
            sent = self._unanswered.popleft() if self._unanswered else _Sent(0, False, (), 0)
            self._since = self._last_heard
            self._watch()
            if ack.sequence != sent.sequence:
                due = f"not {sent.sequence}: acks come once and in order"
                raise SessionEnded(f"it answered bundle {ack.sequence}, {due}", Ending.REFUSED)
            synced = sent.synced
            if not ack.error:
                self._keys.update((feed.vpc, feed.key) for feed in sent.feeds if feed.vpc in self._given)
        if ack.error:
            self._terms.events.refused(self.session, ack.error, self._keeper.refused())
            raise SessionEnded(f"it refused goal state: {ack.error}", Ending.REFUSED)
        if synced:
            self._keeper.synced()
        self._terms.events.acknowledged(self.session, ack)

    # Down.

    async def _send(self) -> None:
        terms, sequence = self._terms, 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._send_answers()
            if not self._due:
                continue
            self._due = False
            self._calm()
            while not (blocked := len(self._unanswered) >= terms.limits.window):
                owed = self._mailbox.ask()
                if owed:
                    terms.events.overflowed(self.session, owed)
                load = self._mailbox.take()
                if load is None:
                    break
                sequence += 1
                feeds = self._new_feeds(load.vpcs)
                head = BundleHead(
                    partition=terms.partition,
                    epoch=terms.epoch,
                    sequence=sequence,
                    host=self.session.host,
                    synced=load.synced,
                    feeds=feeds,
                )
                bundle = encode_bundle(head, load.parts)
                if not self._unanswered:
                    self._since = asyncio.get_running_loop().time()
                self._unanswered.append(_Sent(sequence, load.synced, feeds, len(bundle)))
                self._watch()
                await self._line.write(bundle)
                await self._send_answers()
                if self._lingering is not None and not self._due:
                    break  # what came during the write lingers too
            self._blocked = blocked

    async def _send_answers(self) -> None:
        while self._answers:
            await self._line.write(self._answers.popleft())

    def _look(self) -> None:
        """Something may be to be sent from the mailbox."""
        self._due = True
        self._wake.set()

    def _new_feeds(self, vpcs: frozenset[Id]) -> tuple[Feed, ...]:
        """The keys of these VPCs' news that the host was not given yet."""
        keys = [(vpc, self._terms.key(vpc)) for vpc in sorted(vpcs)]
        feeds = tuple(
            [
                Feed(vpc, key, self._terms.verifier)
                for vpc, key in keys
                if key is not None and self._given.get(vpc) != key
            ]
        )
        self._given.update((feed.vpc, feed.key) for feed in feeds)
        return feeds

    # Time.

    def _calm(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _watch(self) -> None:
        """Sets the alarm for when the first patience ends, if it is not set for earlier: it is one timer, however much
        is sent and heard."""
        at = min(self._late_at(), self._silent_at())
        if self._gives_signs():  # what all hosts take changes meanwhile: it looks again
            now = asyncio.get_running_loop().time()
            at = min(at, max(now, self._last_heard, self._since) + max(self._dumb_s, EXCUSE_S))
        if not self._ended.done() and not self._excused and at < self._alarm_at:
            self._set_alarm(at)

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(at, self._look_at_clock)
        self._alarm_at = at

    def _look_at_clock(self) -> None:
        now, planned = asyncio.get_running_loop().time(), self._alarm_at
        self._alarm, self._alarm_at = None, math.inf
        self._excused = not self._excused and now - planned > LATE_S
        if self._excused:
            self._set_alarm(now + EXCUSE_S)
        elif now >= self._late_at():
            limit_s = self._terms.limits.ack_s
            self.end(f"bundle {self._unanswered[0].sequence} not answered within {limit_s:g} s")
        elif now >= self._silent_at():
            self.end(f"silent: nothing heard for {now - self._last_heard:.3g} s", Ending.SILENT)
        else:
            self._watch()

    def _late_at(self) -> float:
        """When the oldest bundle should have been answered."""
        return self._since + self._terms.limits.ack_s if self._unanswered else math.inf

    def _gives_signs(self) -> bool:
        """The host is to say something, with or without an answer: what it was told is small."""
        return bool(self._dumb_s and self._unanswered) and sum(sent.size for sent in self._unanswered) <= SMALL_BYTES

    def _silent_at(self) -> float:
        """When the host should have said something."""
        at = self._last_heard + self._silence_s if self._silence_s else math.inf
        if self._gives_signs():
            patience_s = max(self._dumb_s, self._terms.pace.patience_s(asyncio.get_running_loop().time()))
            at = min(at, max(self._last_heard, self._since) + patience_s)
        return at

    def _clear(self) -> None:
        self._calm()
        self._mailbox.clear()
        self._answers.clear()
        self._unanswered.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
