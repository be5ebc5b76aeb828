"""The health monitor: stands between paths and publisher, hears what hosts say, and notices who says nothing.

Wired by roles. Every host has one entry in a heap of deadlines, so a tick costs what is due, not what there is; states
are services.health's. What changes is logged, kept for a while as events, and shown by /v2.0/agents and /metrics.

Hosts that probe each other say in heartbeats how they see their peers. When nobody who is up reaches a host any more it
is asked for a sign of life (`Probes.poke`), and is down if none comes within POKE_S. So what hosts say of others can
cost a question, but a host that answers is never down by it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from alcor.model.ids import Id
from alcor.paths.base import Events, PathName, Session
from alcor.services import health as rules
from alcor.services.health import DEFAULT_INTERVAL_S, HealthEvent, HostHealth, Peers, Reach
from alcor.wire.lookups import Lookup
from alcor.wire.probes import Seen, Sighting
from alcor.wire.reports import Ack, Heartbeat, Hello

_log = logging.getLogger(__name__)

TICK_S = 0.05
POKE_S = 0.25
"""From asking a host that no peer reaches to giving it up."""
MAX_EVENTS = 1000
_NEVER = HostHealth()


class Hearing(Protocol):
    """Who else wants to know of sessions and acknowledgements (metrics)."""

    def greeted(self, session: Session) -> None:
        """A session began."""
        ...

    def acknowledged(self, session: Session, ack: Ack) -> None:
        """See paths.base.Events."""
        ...


class Probes(Protocol):
    """Who has hosts probe each other (paths.probing)."""

    def watches(self, watcher: str, host: str) -> bool:
        """That host was told to probe the other: its word counts."""
        ...

    def poke(self, host: str) -> bool:
        """Asks the host for a sign of life; False: there is no session to ask in."""
        ...


class HealthMonitor:
    """See the module. Fills paths.base.Events and services.health.HealthView; `run` it in a task group."""

    def __init__(
        self, events: Events, now_ms: Callable[[], int], monotonic: Callable[[], float], *, also: Sequence[Hearing] = ()
    ) -> None:
        """`events` is told everything after this. `now_ms`: for people; `monotonic`: seconds, for silence."""
        self._events = events
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._also = also
        self.probes: Probes | None = None
        """Set before hosts are heard, where they probe each other."""
        self._hosts: dict[str, HostHealth] = {}
        self._last: dict[str, float] = {}
        """Host -> when it was last heard, monotonic."""
        self._deadlines: list[tuple[float, str]] = []
        """A heap; one entry a host that is not down, beside those that an earlier one has overtaken."""
        self._due: dict[str, float] = {}
        """Host -> its next deadline."""
        self._told: dict[str, dict[str, Seen]] = {}
        """Host -> how it sees its peers."""
        self._words: dict[str, dict[str, Seen]] = {}
        """Host -> how its peers see it."""
        self._asked: deque[tuple[float, str]] = deque()
        """When it was asked for a sign of life, oldest first."""
        self._kept: deque[HealthEvent] = deque(maxlen=MAX_EVENTS)

    # What others ask.

    def health(self, host: str) -> HostHealth:
        """See services.health.HealthView."""
        return self._hosts.get(host, _NEVER)

    def events(self) -> list[HealthEvent]:
        """See services.health.HealthView."""
        return list(self._kept)

    def states(self) -> Counter[Reach]:
        """How many hosts, of those ever heard, are in which state."""
        return Counter(health.state for health in self._hosts.values())

    def seen(self) -> Counter[str]:
        """How many hosts are seen how by their peers: `reached` by one at least, `refused` or `silent` to all."""
        found: Counter[str] = Counter()
        for health in self._hosts.values():
            peers = health.peers
            found[
                "reached" if peers.reached else "refused" if peers.refused else "silent" if peers.silent else "no word"
            ] += 1
        return found

    def forget(self, host: str) -> None:
        """The node was removed."""
        self._hosts.pop(host, None)
        self._last.pop(host, None)
        self._take_words(host, ())
        self._words.pop(host, None)

    # What is heard. See paths.base.Events.

    def greeted(self, session: Session, hello: Hello) -> None:
        """A session began."""
        interval_s = hello.heartbeat_ms / 1000 or DEFAULT_INTERVAL_S
        self._hear(session.host, session.path, interval_s, hello.standby, session=True)
        known = self._hosts[session.host]
        self._hosts[session.host] = msgspec.structs.replace(known, attempts=session.attempts, outside=hello.outside)
        for other in self._also:
            other.greeted(session)
        self._events.greeted(session, hello)

    def acknowledged(self, session: Session, ack: Ack) -> None:
        """A host answered."""
        known = self.health(session.host)
        self._hear(session.host, session.path, known.interval_s, known.standby, session=True)
        for other in self._also:
            other.acknowledged(session, ack)
        self._events.acknowledged(session, ack)

    def heard(self, host: str, path: PathName, heartbeat: Heartbeat) -> None:
        """A heartbeat."""
        interval_s = heartbeat.interval_ms / 1000 or DEFAULT_INTERVAL_S
        self._hear(host, path, interval_s, heartbeat.standby, session=False)
        self._take_words(host, heartbeat.sightings)
        self._events.heard(host, path, heartbeat)

    def asked(self, session: Session, lookup: Lookup) -> None:
        """Passed on."""
        self._events.asked(session, lookup)

    def overflowed(self, session: Session, scopes: frozenset[Id]) -> None:
        """Passed on."""
        self._events.overflowed(session, scopes)

    def refused(self, session: Session, reason: str, attempts: int) -> None:
        """Passed on."""
        self._events.refused(session, reason, attempts)

    # Silence.

    async def run(self) -> None:
        """Notices silence until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.look()

    def look(self) -> None:
        """Judges whose deadline has come."""
        now = self._monotonic()
        while self._asked and self._asked[0][0] + POKE_S <= now:
            asked_at, host = self._asked.popleft()
            before = self._hosts.get(host)
            if before is not None and self._last[host] <= asked_at:
                self._set(host, rules.unanswered(before, self._now_ms()), "no peer reaches it, and it does not answer")
        while self._deadlines and self._deadlines[0][0] <= now:
            due, host = heapq.heappop(self._deadlines)
            if self._due.get(host) != due:
                continue
            del self._due[host]
            before = self._hosts.get(host)
            if before is None:
                continue
            silence_s = now - self._last[host]
            after = rules.silent(before, silence_s, self._now_ms())
            only = ", though peers reach it" if after.peers.reached else ""
            self._set(host, after, f"nothing heard for {silence_s:.1f} s{only}")
            if after.state is not Reach.DOWN:
                due = self._last[host] + rules.next_look_s(after)
                self._look_at(host, due if due > now else now + after.interval_s)

    def _look_at(self, host: str, when: float) -> None:
        """If nothing is due before."""
        if when < self._due.get(host, math.inf):
            self._due[host] = when
            heapq.heappush(self._deadlines, (when, host))

    def _set(self, host: str, after: HostHealth, detail: str) -> None:
        """The host is like that now; whose peers it probes is looked at if its word counts more or less than before."""
        before = self.health(host)
        self._hosts[host] = after
        if before.state is after.state:
            return
        if before.heard_at:
            self._tell(host, before.state, after.state, detail)
        for target in self._told.get(host, ()):
            self._review(target)

    # What peers say.

    def _take_words(self, watcher: str, sightings: Sequence[Sighting]) -> None:
        told = self._told.get(watcher, {})
        if not told and not sightings:
            return
        probes = self.probes
        now = {host: seen for host, seen in sightings if probes is not None and probes.watches(watcher, host)}
        if now:
            self._told[watcher] = now
        else:
            self._told.pop(watcher, None)
        for host in told.keys() | now.keys():
            if told.get(host) is now.get(host):
                continue
            words = self._words.setdefault(host, {})
            if host in now:
                words[watcher] = now[host]
            else:
                words.pop(watcher, None)
            if not words:
                del self._words[host]
            self._review(host)

    def _review(self, host: str) -> None:
        """Its peers' word may be another one."""
        before = self._hosts.get(host)
        if before is None:
            return
        counted = Counter(
            seen for watcher, seen in self._words.get(host, {}).items() if self.health(watcher).state is Reach.UP
        )
        peers = Peers(reached=counted[Seen.REACHED], refused=counted[Seen.REFUSED], silent=counted[Seen.SILENT])
        if peers == before.peers:
            return
        now = self._monotonic()
        after = rules.seen(before, peers, now - self._last[host], self._now_ms())
        if peers.lost and not before.peers.lost and after.state is not Reach.DOWN:
            self._asked.append((now, host))
            if self.probes is not None:
                self.probes.poke(host)
        if after.state is not Reach.DOWN:
            self._look_at(host, now + after.interval_s)
        words = f"{peers.reached} peers reach it, {peers.refused} are refused, {peers.silent} hear nothing"
        self._set(host, after, words)

    def _hear(self, host: str, path: PathName, interval_s: float, standby: bool, *, session: bool) -> None:
        now = self._monotonic()
        before = self.health(host)
        after = rules.heard(
            before, now=self._now_ms(), interval_s=interval_s, path=path, standby=standby, session=session
        )
        self._last[host] = now
        self._look_at(host, now + rules.next_look_s(after))
        self._set(host, after, f"heard on the {path} path")
        if not before.heard_at:
            self._review(host)  # its peers may have spoken of it before
        if before.state is Reach.DOWN and after.state is Reach.SUSPECT and self.probes is not None:
            self.probes.poke(host)  # the second word need not wait for a heartbeat
        if before.heard_at and before.standby != standby:
            names = ("standby", "agent") if before.standby else ("agent", "standby")
            self._tell(host, *names, f"speaks now, on the {path} path")

    def _tell(self, host: str, was: str, now: str, detail: str) -> None:
        self._kept.append(HealthEvent(at=self._now_ms(), host=host, was=was, now=now, detail=detail))
        level = logging.WARNING if now in (Reach.DOWN, "standby") else logging.INFO
        _log.log(level, "host %s: %s -> %s: %s", host, was, now, detail)
