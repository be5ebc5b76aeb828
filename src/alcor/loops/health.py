"""The health monitor: stands between paths and publisher, hears what hosts say, and notices who says nothing.

Wired by roles. Every host has one entry in a heap of deadlines, so a tick costs what is due, not what there is; states
are services.health's. What changes is logged, kept for a while as events, and shown by /v2.0/agents and /metrics.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from alcor.model.ids import Id
from alcor.paths.base import Events, PathName, Session
from alcor.services import health as rules
from alcor.services.health import DEFAULT_INTERVAL_S, HealthEvent, HostHealth, Reach
from alcor.wire.lookups import Lookup
from alcor.wire.reports import Ack, Heartbeat, Hello

_log = logging.getLogger(__name__)

TICK_S = 0.05
MAX_EVENTS = 1000
_NEVER = HostHealth()


class Hearing(Protocol):
    """Who else wants to know of acknowledgements (metrics)."""

    def acknowledged(self, session: Session, ack: Ack) -> None:
        """See paths.base.Events."""
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
        self._hosts: dict[str, HostHealth] = {}
        self._last: dict[str, float] = {}
        """Host -> when it was last heard, monotonic."""
        self._deadlines: list[tuple[float, str]] = []
        """A heap; one entry a host."""
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

    def forget(self, host: str) -> None:
        """The node was removed."""
        self._hosts.pop(host, None)
        self._last.pop(host, None)

    # What is heard. See paths.base.Events.

    def greeted(self, session: Session, hello: Hello) -> None:
        """A session began."""
        interval_s = hello.heartbeat_ms / 1000 or DEFAULT_INTERVAL_S
        self._hear(session.host, session.path, interval_s, hello.standby, session=True)
        known = self._hosts[session.host]
        self._hosts[session.host] = msgspec.structs.replace(known, attempts=session.attempts)
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
        while self._deadlines and self._deadlines[0][0] <= now:
            _, host = heapq.heappop(self._deadlines)
            before, last = self._hosts.get(host), self._last.get(host)
            if before is None or last is None:
                continue
            after = rules.silent(before, now - last, self._now_ms())
            if after is not before:
                self._hosts[host] = after
                self._tell(host, before.state, after.state, f"nothing heard for {now - last:.1f} s")
            if after.state is Reach.DOWN:
                del self._last[host]  # its next word makes a new entry
            else:
                heapq.heappush(self._deadlines, (last + rules.next_look_s(after), host))

    def _hear(self, host: str, path: PathName, interval_s: float, standby: bool, *, session: bool) -> None:
        now = self._monotonic()
        before = self.health(host)
        after = rules.heard(
            before, now=self._now_ms(), interval_s=interval_s, path=path, standby=standby, session=session
        )
        self._hosts[host] = after
        if host not in self._last:
            heapq.heappush(self._deadlines, (now + rules.next_look_s(after), host))
        self._last[host] = now
        if before.state is not after.state and before.heard_at:
            self._tell(host, before.state, after.state, f"heard on the {path} path")
        if before.heard_at and before.standby != standby:
            names = ("standby", "agent") if before.standby else ("agent", "standby")
            self._tell(host, *names, f"speaks now, on the {path} path")

    def _tell(self, host: str, was: str, now: str, detail: str) -> None:
        self._kept.append(HealthEvent(at=self._now_ms(), host=host, was=was, now=now, detail=detail))
        level = logging.WARNING if now in (Reach.DOWN, "standby") else logging.INFO
        _log.log(level, "host %s: %s -> %s: %s", host, was, now, detail)
