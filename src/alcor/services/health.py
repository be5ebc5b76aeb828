"""Whether hosts are there: what was heard of them, and when, becomes a state. Pure.

Called by loops.health, which hears and looks at the clock; shown by api. A host is heard by whatever reaches it: a
session or a heartbeat on any path, a peer's relay included; and its peers say whether it answers their probes. It is
down only when nobody reaches it: when it is silent and no peer sees it, or when no peer does and it does not answer
the controller's asking either.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

SUSPECT_AFTER, DOWN_AFTER = 1.5, 3.0
"""Intervals of its heartbeats without a word."""
MIN_INTERVAL_S = 0.05
DEFAULT_INTERVAL_S = 10.0


class Reach(StrEnum):
    """How a host is."""

    UP = "up"
    SUSPECT = "suspect"
    """A heartbeat is missed; or no peer reaches it; or only peers do; or it was down and was heard once: the next word
    makes it up."""
    DOWN = "down"
    """Three heartbeats are missed and no peer reaches it; or it was never heard."""


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the hosts that probe it see it how; only the word of hosts that are up counts."""

    reached: int = 0
    refused: int = 0
    """The machine is there, its agent is not."""
    silent: int = 0

    @property
    def lost(self) -> bool:
        """There is a word, and nobody reaches it."""
        return not self.reached and bool(self.refused or self.silent)


class HostHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one host."""

    state: Reach = Reach.DOWN
    since: int = 0
    """When it came into that state, milliseconds since the epoch; 0: it was never heard."""
    heard_at: int = 0
    """When it was last heard, as above."""
    interval_s: float = DEFAULT_INTERVAL_S
    path: str = ""
    """By which it was last heard."""
    standby: bool = False
    """Its standby spoke: the agent is dead or hung."""
    attempts: int = 0
    """Dials that its present or last session took."""
    peers: Peers = Peers()
    outside: bool | None = None
    """It has an external device, as it said when its last session began; None: it has had none in this life of the
    controller, whatever else was heard of it."""


class HealthEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A host changed its state, or who speaks for it."""

    at: int
    host: str
    was: str
    now: str
    """A Reach, or `standby` or `agent`."""
    detail: str


class HealthView(Protocol):
    """What others may ask."""

    def health(self, host: str) -> HostHealth:
        """Of one host; DOWN with zeros if it was never heard."""
        ...

    def events(self) -> list[HealthEvent]:
        """The last some, oldest first."""
        ...


def heard(before: HostHealth, *, now: int, interval_s: float, path: str, standby: bool, session: bool) -> HostHealth:
    """After a word from the host. `session`: it is in a session, which is more than one word."""
    state = Reach.UP
    if before.state is Reach.DOWN and before.heard_at and not session:
        state = Reach.SUSPECT
    return HostHealth(
        state=state,
        since=before.since if state is before.state else now,
        heard_at=now,
        interval_s=max(MIN_INTERVAL_S, interval_s),
        path=path,
        standby=standby,
        attempts=before.attempts,
        peers=before.peers,
        outside=before.outside,
    )


def silent(before: HostHealth, silence_s: float, now: int) -> HostHealth:
    """After so long without a word."""
    state = before.state
    if silence_s >= DOWN_AFTER * before.interval_s:
        state = Reach.SUSPECT if before.peers.reached else Reach.DOWN
    elif silence_s >= SUSPECT_AFTER * before.interval_s and state is Reach.UP:
        state = Reach.SUSPECT
    return before if state is before.state else msgspec.structs.replace(before, state=state, since=now)


def seen(before: HostHealth, peers: Peers, silence_s: float, now: int) -> HostHealth:
    """After its peers' word changed. It may make a host suspect at once; down it makes only one that is silent, too."""
    after = msgspec.structs.replace(before, peers=peers)
    if after.heard_at and (peers.lost or before.state is not Reach.UP):
        after = silent(after, silence_s, now)
        doubtful = (peers.lost and after.state is Reach.UP) or (peers.reached and after.state is Reach.DOWN)
        if doubtful:
            after = msgspec.structs.replace(after, state=Reach.SUSPECT, since=now)
    return after


def unanswered(before: HostHealth, now: int) -> HostHealth:
    """It was asked for a sign of life because no peer reaches it, and gave none."""
    if not before.peers.lost or before.peers.refused or before.state is Reach.DOWN:
        return before
    return msgspec.structs.replace(before, state=Reach.DOWN, since=now)


def next_look_s(health: HostHealth) -> float:
    """Seconds from its last word until silence would change its state."""
    return (SUSPECT_AFTER if health.state is Reach.UP else DOWN_AFTER) * health.interval_s
