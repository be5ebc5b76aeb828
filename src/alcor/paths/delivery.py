"""Delivery: keeps one session with every host, over whichever path the ladder chooses. Fills base.Path.

Called by loops.publish; wired by roles. One task decides for all (ladder), one per dial speaks (session); a host that
is dead, slow or hostile costs its own tasks and nobody else's. Dials wait for their turn, a bounded number at a time,
so that thousands of hosts that lost their sessions together come back in an orderly way. Fast sessions are bounded in
number; beyond that, hosts that had nothing to hear for longest are on the normal path.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import islice

import msgspec

from alcor.bus.base import Bus
from alcor.goalstate.objects import HOST_SCOPE
from alcor.model.ids import Id
from alcor.model.nouns import Node
from alcor.paths import ladder
from alcor.paths.base import Dialer, Events, LineEnded, Parcel, PathName, Session
from alcor.paths.ladder import Event, LadderLimits, Outcome
from alcor.paths.news import PATIENCE_S, SETTLE_S, News
from alcor.paths.probing import Probing
from alcor.paths.sender import TooLarge
from alcor.paths.session import Conversation, Ending, Pace, SessionEnded, SessionLimits, Terms
from alcor.paths.turns import Turn, Turns
from alcor.wire.fields import WireError
from alcor.wire.lookups import Answer, encode_answers
from alcor.wire.reports import Heartbeat, Hello, decode_report

_log = logging.getLogger(__name__)

SECRET_BYTES = 32
LOOK_S, MAX_LOOK_S = 1.0, 10.0
"""How often a host without a session asks whether a path that is not open has opened, more and more rarely; in a
session, the latter."""
MIN_TAKERS = 2
"""News for fewer hosts goes to each in its session: it is answered there."""
LOOK_AT = 64
"""Sessions that are looked at for one that can leave the fast path."""
AT_ONCE = 100
"""Hosts for which the ladder is asked before others have the event loop."""
DOUBTFUL = 2
"""Dials of a path that failed so often, to a host of which nothing was heard since, wait in a queue of their own: dead
hosts do not stand before living ones."""
HOPEFUL_PACE_S = 0.001
DOUBTFUL_PACE_S = {PathName.FAST: 0.01, PathName.NORMAL: 0.01, PathName.RESCUE: 0.5}
"""From one dial to the next. A gRPC dial takes 1 to 4 ms of a core, whatever it leads to; one through three peers, of
whom none gets there, 40, and as much of theirs; to find that nobody listens, a tenth of a millisecond. So the dead
hosts of a partition cost a tenth of a core at most, however many they are; among them, who failed least goes first. A
dial that is answered does not count."""


class DeliveryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a region sets."""

    session: SessionLimits = SessionLimits()
    ladder: LadderLimits = LadderLimits()
    dials: int = 128
    """Hosts at a time that are dialled and not yet in sync, each counted for at most `dial_turn_s`; as many again of
    hosts that failed before."""
    dial_turn_s: float = 0.5
    probe_s: float = 0.0
    """Between two probes of a host by each of its peers; 0: hosts do not probe each other."""
    fast_channels: int = 4096
    """Hosts on the fast path at a time, if the others can be on the normal path; 40 KB of memory each."""


class Delivery:
    """See the module. `run` it in a task group; the other methods are called on the same event loop."""

    def __init__(
        self,
        *,
        partition: int,
        epoch: int,
        dialers: Mapping[PathName, Dialer],
        events: Events,
        roll: Callable[[], float],
        limits: DeliveryLimits | None = None,
        clock: Callable[[], float] | None = None,
        bus: Bus | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`roll` answers a random number in [0, 1), for jitter. `clock`: seconds, by default the event loop's. `bus`
        carries news of VPCs. `entropy` makes the secret that their keys come from."""
        self.limits = limits or DeliveryLimits()
        self.dialers = dialers
        self._news: News | None = None
        if bus is not None:
            self._news = News(
                bus=bus,
                partition=partition,
                epoch=epoch,
                secret=entropy(SECRET_BYTES),
                linger_s=lambda: self.limits.session.linger_s * (1 + roll()),
                wait=self._is_wiring,
                missed=self._missed,
            )
        verifier = self._news.verifier if self._news is not None else b""
        self.terms = Terms(partition, epoch, events, self.limits.session, roll, self._key, verifier, Pace())
        self.hopeful = Turns(self.limits.dials, self.limits.dial_turn_s, HOPEFUL_PACE_S)
        self.doubtful = {
            path: Turns(self.limits.dials, self.limits.dial_turn_s, DOUBTFUL_PACE_S[path]) for path in ladder.ORDER
        }
        self.group: asyncio.TaskGroup | None = None
        self.probing = Probing(partition, epoch, self.limits.probe_s, self._tell)
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._fast: OrderedDict[str, _Host] = OrderedDict()
        """Hosts on the fast path or being dialled there; who was spoken to last is last."""
        self._healthy: dict[str, Node] = {}
        self._changed: dict[_Host, None] = {}
        """Hosts for which the ladder is to be asked."""
        self._undecided = asyncio.Event()
        self._wiring: dict[str, float] = {}
        """Hosts that were told of their own ports, since when, oldest first; some of them have answered."""
        self._sessions = 0
        self.dials: Counter[tuple[PathName, str]] = Counter()
        """(path, what became of it: `greeted`, `failed`, `given up`) -> dials."""
        self.endings: Counter[tuple[PathName, str]] = Counter()
        """(path, why: `refused`, what was said could not be taken at this end or the other; `silent`, `broken`) ->
        sessions that ended for a reason."""

    async def run(self) -> None:
        """Keeps sessions until cancelled; then ends them all."""
        async with asyncio.TaskGroup() as group:
            self.group = group
            try:
                await self._decide()
            finally:
                self.group = None

    async def _decide(self) -> None:
        """Asks the ladder, for each host of which something changed."""
        while True:
            await self._undecided.wait()
            self._undecided.clear()
            hosts, self._changed = self._changed, {}
            for number, host in enumerate(hosts, 1):
                host.decide()
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)

    def connect(self, node: Node) -> None:
        """See base.Path."""
        self.probing.connect(node)
        host = self._hosts.get(node.name)
        if host is not None:
            if _place(host.node) == _place(node):
                host.node = node
                return
            host.stop()
        host = self._hosts[node.name] = _Host(self, node)
        host.poke()

    def disconnect(self, host: str) -> None:
        """See base.Path."""
        self._wiring.pop(host, None)
        self.probing.disconnect(host)
        known = self._hosts.pop(host, None)
        if known is not None:
            known.stop()

    def begin(self, session: Session, parcels: Sequence[Parcel]) -> None:
        """See base.Path."""
        conversation = self._conversation(session.host)
        if conversation is not None and conversation.session == session:
            conversation.begin(parcels)
            self._used(session.host)

    def listening(self, host: str) -> bool:
        """See base.Path."""
        conversation = self._conversation(host)
        return conversation is not None and conversation.begun

    def offer(self, host: str, parcels: Iterable[Parcel]) -> None:
        """See base.Path."""
        conversation = self._conversation(host)
        if conversation is not None:
            taken = tuple(parcels)
            conversation.offer(taken)
            self._used(host)
            if self._news is not None and any(parcel.scope == HOST_SCOPE for parcel in taken):
                now = asyncio.get_running_loop().time()
                if self._wiring.get(host, -math.inf) <= now - PATIENCE_S:  # or never: that is long over
                    self._wiring.pop(host, None)
                    self._wiring[host] = now

    def spread(self, vpc: Id, parcel: Parcel, hosts: Iterable[str]) -> None:
        """See base.Path."""
        directly = tuple(hosts)
        key = self._key(vpc)
        if self._news is not None and key is not None:
            takers: list[str] = []
            others: list[str] = []
            for host in directly:
                conversation = self._conversation(host)
                takes = conversation is not None and conversation.feeds(vpc, key)
                (takers if takes else others).append(host)
            if len(takers) >= MIN_TAKERS and self._news.publish(parcel, tuple(takers)):
                directly = tuple(others)
        self._missed(directly, parcel)

    def answer(self, host: str, answers: Sequence[Answer]) -> None:
        """See base.Path."""
        self._tell(host, encode_answers(self.terms.partition, self.terms.epoch, host, answers))
        self._used(host)

    def withdraw(self, host: str, scope: Id) -> None:
        """See base.Path."""
        conversation = self._conversation(host)
        if conversation is not None and conversation.withdraw(scope) and self._news is not None:
            self._news.left(scope)

    def reset(self, session: Session, reason: str) -> None:
        """See base.Path."""
        conversation = self._conversation(session.host)
        if conversation is not None and conversation.session == session:
            conversation.end(reason)

    def hurry(self, host: str) -> None:
        """See base.Path."""
        known = self._hosts.get(host)
        if known is not None and PathName.FAST in self.dialers:
            known.hurry()

    def heard(self, host: str, heartbeat: Heartbeat) -> None:
        """A heartbeat came over the bus, in no session."""
        known = self._hosts.get(host)
        if known is not None:
            self.terms.events.heard(host, PathName.NORMAL, heartbeat)
            known.heard(heartbeat)

    def healthy(self) -> Collection[Node]:
        """The hosts in session on the fast path, served by their own agent: they can carry for others."""
        return self._healthy.values()

    def connected(self) -> list[str]:
        """The hosts in session, sorted."""
        return sorted(self.paths())

    def paths(self) -> dict[str, PathName]:
        """Host -> the path of its session, of those in session."""
        return {name: host.conversation.session.path for name, host in self._hosts.items() if host.conversation}

    @property
    def sessions(self) -> int:
        """How many there have been."""
        return self._sessions

    def failures(self) -> dict[str, int]:
        """Host -> failed attempts in a row, of those that are not in sync, sorted."""
        return {name: host.failures for name, host in sorted(self._hosts.items()) if host.failures}

    # For its hosts.

    def now(self) -> float:
        """Seconds, on the clock that back-offs are measured with."""
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()

    def next_session(self) -> int:
        """A number that no session had."""
        self._sessions += 1
        return self._sessions

    def ask(self, host: _Host) -> None:
        """The ladder, soon."""
        self._changed[host] = None
        self._undecided.set()

    def open_paths(self, host: _Host) -> list[PathName]:
        """What may be dialled and is better than what there is, best first."""
        paths = ladder.better(host.state.current)
        full = len(self._fast) >= self.limits.fast_channels and host.node.name not in self._fast
        if full and not host.hurried and self._can_do_without(host):
            paths = paths[1:]
        return [path for path in paths if path in self.dialers and self.dialers[path].open(host.node)]

    def enter_fast(self, host: _Host) -> None:
        """The host is dialled on the fast path; if there are too many, one that has nothing to hear leaves it."""
        if len(self._fast) >= self.limits.fast_channels:
            for other in islice(self._fast.values(), LOOK_AT):
                conversation = other.conversation if other.state.current is PathName.FAST else None
                quiet = conversation is not None and conversation.idle and not conversation.over
                if conversation is not None and quiet and self._can_do_without(other):
                    conversation.end("others need the fast path more", Ending.GIVEN_UP)
                    break
        self._fast[host.node.name] = host

    def leave_fast(self, host: _Host) -> None:
        """It is neither on the fast path nor dialled there any more."""
        if self._fast.get(host.node.name) is host:
            del self._fast[host.node.name]

    def set_healthy(self, node: Node, healthy: bool) -> None:
        """Whether it can carry for others."""
        if healthy:
            self._healthy[node.name] = node
        else:
            self._healthy.pop(node.name, None)

    def _can_do_without(self, host: _Host) -> bool:
        """The normal path is open to that host, and did not fail."""
        normal = self.dialers.get(PathName.NORMAL)
        return (
            PathName.FAST in self.dialers
            and normal is not None
            and not host.state.rung(PathName.NORMAL).failed
            and normal.open(host.node)
        )

    def _tell(self, host: str, bundle: bytes) -> None:
        """Aside: ahead of whatever waits, not acknowledged."""
        conversation = self._conversation(host)
        if conversation is not None:
            conversation.answer(bundle)

    def _used(self, host: str) -> None:
        if host in self._fast:
            self._fast.move_to_end(host)

    def _key(self, vpc: Id) -> bytes | None:
        return self._news.key(vpc) if self._news is not None else None

    def _is_wiring(self) -> bool:
        """A host was just told of its own ports and has not answered, or a moment ago; one that takes long is not
        waited for."""
        now = asyncio.get_running_loop().time()
        while self._wiring:
            host, since = next(iter(self._wiring.items()))
            conversation = self._conversation(host)
            if since > now - PATIENCE_S and conversation is not None and not conversation.quiet(now - SETTLE_S):
                return True
            del self._wiring[host]
        return False

    def _missed(self, hosts: Sequence[str], parcel: Parcel) -> None:
        """To each in its session."""
        for host in hosts:
            self.offer(host, (parcel,))

    def _conversation(self, host: str) -> Conversation | None:
        known = self._hosts.get(host)
        return known.conversation if known is not None else None


class _Host:
    """One host: where it stands on the ladder, and its session. Fills session.Keeper."""

    def __init__(self, delivery: Delivery, node: Node) -> None:
        self.node = node
        self.state = ladder.State()
        self.conversation: Conversation | None = None
        self.hurried = False
        """It was asked to be on the fast path, and is to be dialled there even if another must leave."""
        self.failures = 0
        """In a row, of whatever kind and path; a whole synchronisation ends the row."""
        self._delivery = delivery
        self._refusals = 0
        self._turn: Turn | None = None
        """Of the last dial that was answered; not over until the host is in sync."""
        self._woken = -LOOK_S
        self._awake = False
        """It said something since a dial failed."""
        self._alone_since = delivery.now()
        """When its last session ended, or all began."""
        self._calls: dict[PathName, asyncio.Task[None]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        """When the ladder is to be asked again."""
        self._stopped = False

    def stop(self) -> None:
        if self.conversation is not None:
            self.conversation.end("the node is gone, or elsewhere")
            self.conversation = None
        self._stopped = True
        self._calm()
        for task in self._calls.values():
            task.cancel()
        self._delivery.leave_fast(self)
        self._delivery.set_healthy(self.node, False)

    def hurry(self) -> None:
        self.hurried = self.state.current is not PathName.FAST
        self.poke()

    def heard(self, heartbeat: Heartbeat) -> None:
        """The host said something outside of a session; often, if it likes."""
        if self.conversation is not None:
            over_bus = self.conversation.session.path is PathName.NORMAL  # where what is said stays in order
            if not over_bus or heartbeat.epoch >= self._delivery.terms.epoch:
                return
            self.conversation.end("the host knows of no session: its agent is another one")
        elif heartbeat.epoch > self._delivery.terms.epoch:
            return  # it is another controller's
        now = self._delivery.now()
        if now - self._woken >= LOOK_S:
            for path in tuple(self._calls):
                rung = self.state.rung(path)
                if rung.dialling and rung.since is None and self._doubts(path):
                    self._drop(path)  # for a place in the other queue
            self._woken, self._awake = now, True
            self.state = ladder.awake(self.state, PathName.NORMAL, now)
        self.poke()

    def poke(self) -> None:
        """Something changed: the ladder is asked again."""
        self._delivery.ask(self)

    def synced(self) -> None:
        """See session.Keeper."""
        if self.failures:
            _log.info("host %s is in sync again", self.node.name)
        self.failures = self._refusals = 0
        if self._turn is not None:
            self._turn.over()
            self._turn = None
        if self.conversation is not None:
            self._note(Event.SYNCED, self.conversation.session.path)

    def refused(self) -> int:
        """See session.Keeper."""
        self._refusals += 1
        return self._refusals

    def decide(self) -> None:
        """Dials what is to be dialled now; sees to it that it is asked again when that may change."""
        self._calm()
        if self._stopped:
            return
        delivery = self._delivery
        open_paths, now = delivery.open_paths(self), delivery.now()
        choice = ladder.choose(self.state, now, open_paths, delivery.limits.ladder)
        while choice.path is not None and choice.not_before <= now:
            self._dial(choice.path)
            open_paths = delivery.open_paths(self)
            choice = ladder.choose(self.state, now, open_paths, delivery.limits.ladder)
        wait_s = choice.not_before - now
        if self._some_shut(open_paths):
            look_s = max(LOOK_S, (now - self._alone_since) / 10) if self.conversation is None else MAX_LOOK_S
            wait_s = min(wait_s, look_s, MAX_LOOK_S)
        if wait_s < math.inf:
            self._alarm = asyncio.get_running_loop().call_later(wait_s, self.poke)

    def _calm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _some_shut(self, open_paths: Sequence[PathName]) -> bool:
        """A path that would be better than the present one is not open."""
        better = ladder.better(self.state.current)
        return any(path in self._delivery.dialers and path not in open_paths for path in better)

    def _dial(self, path: PathName) -> None:
        assert self._delivery.group is not None
        self._note(Event.QUEUED, path)
        if path is PathName.FAST:
            self._delivery.enter_fast(self)
        call = self._call(path)
        self._calls[path] = self._delivery.group.create_task(call, name=f"{path} line to {self.node.name}")

    def _doubts(self, path: PathName) -> bool:
        """A dial of it will hardly be answered; no other path waits for it."""
        rung = self.state.rung(path)
        return rung.failed and rung.failures >= DOUBTFUL and not self._awake

    def _drop(self, path: PathName) -> None:
        """Gives that dial or session up; it may not have begun yet."""
        self._calls.pop(path).cancel()
        self._gone(path, Event.STOPPED)

    def _gone(self, path: PathName, event: Event) -> None:
        """That line is over, in that way."""
        self._note(event, path)
        if path is PathName.FAST:
            self._delivery.leave_fast(self)

    async def _call(self, path: PathName) -> None:
        """One line, from its turn to be dialled to its end."""
        event, reason = Event.STOPPED, ""
        try:
            event, reason = await self._line(path)
        finally:
            if event is Event.FAILED:
                self._delivery.dials[path, "failed"] += 1
            if reason:
                self._log_failure(path, reason)
            if self._calls.get(path) is asyncio.current_task():  # else it was dialled anew while this line closed
                del self._calls[path]
                self._gone(path, event)

    async def _line(self, path: PathName) -> tuple[Event, str]:
        """Answers what it came to, and why if it is a failure."""
        delivery, conversation = self._delivery, None
        patience_s, mine, ending = 0.0, False, Ending.BROKEN
        try:
            async with AsyncExitStack() as stack:
                doubts = self._doubts(path)
                turns = delivery.doubtful[path] if doubts else delivery.hopeful
                turn = await stack.enter_async_context(turns.turn(self.failures if doubts else 0))
                self._note(Event.DIALLED, path)
                self.hurried = self.hurried and path is not PathName.FAST
                patience_s = ladder.patience_s(self.state, path, delivery.limits.ladder)
                async with asyncio.timeout(patience_s):
                    line = await stack.enter_async_context(delivery.dialers[path].dial(self.node))
                    hello = decode_report(await line.read())
                turn.answered()
                self._turn = turn
                if not isinstance(hello, Hello) or hello.host != self.node.name:
                    return Event.FAILED, f"its first word was not the Hello of {self.node.name}"
                session = Session(self.node.name, delivery.next_session(), path, self.state.attempts)
                conversation = Conversation(delivery.terms, self, session, hello, line)
                self._move(conversation, hello)
                await conversation.run()
        except SessionEnded as error:
            reason, ending = str(error), error.ending
        except (WireError, TooLarge) as error:
            reason, ending = str(error), Ending.REFUSED
        except LineEnded as error:
            reason = str(error)
        except TimeoutError:
            reason = f"no Hello within {patience_s:g} s"
        except asyncio.CancelledError:
            if conversation is None and patience_s:
                delivery.dials[path, "given up"] += 1
            raise
        finally:
            if conversation is not None and self.conversation is conversation:
                self.conversation, mine = None, True
                self._alone_since = delivery.now()
                delivery.probing.ended(self.node.name)
                delivery.set_healthy(self.node, False)
        if conversation is None:
            return Event.FAILED, reason
        if not mine or ending is Ending.GIVEN_UP:
            return Event.STOPPED, ""  # the session goes on over another line
        delivery.endings[path, ending.name.lower()] += 1
        return Event.SILENT if ending is Ending.SILENT else Event.ENDED, reason

    def _move(self, conversation: Conversation, hello: Hello) -> None:
        """The session is that conversation from now on. Better lines that are being dialled go on."""
        previous, self.conversation = self.conversation, conversation
        path = conversation.session.path
        self._delivery.dials[path, "greeted"] += 1
        if previous is not None:
            previous.end(f"the session moved to the {path} path")
        self._note(Event.GREETED, path)
        self._delivery.set_healthy(self.node, path is PathName.FAST and not hello.standby)
        for other in tuple(self._calls):
            if other not in (*ladder.better(path), path):
                self._drop(other)
        self._delivery.terms.events.greeted(conversation.session, hello)
        self._delivery.probing.greeted(self.node.name)

    def _note(self, event: Event, path: PathName) -> None:
        delivery = self._delivery
        if event in (Event.FAILED, Event.ENDED, Event.SILENT):
            self.failures += 1
            self._awake = self._awake and event is Event.ENDED
        self.state = ladder.after(
            self.state, Outcome(event, path), delivery.now(), delivery.terms.roll(), delivery.limits.ladder
        )
        if event not in (Event.QUEUED, Event.SYNCED):  # which change nothing of what is to be done
            self.poke()

    def _log_failure(self, path: PathName, reason: str) -> None:
        level = logging.WARNING if self.failures == 0 else logging.DEBUG
        _log.log(level, "host %s, %s path: %s", self.node.name, path, reason)


def _place(node: Node) -> tuple[object, ...]:
    """Where it is dialled."""
    return (node.agent_host, node.agent_port, node.underlay_ip)
