"""A host that was away while one port came in its VPC: what it is sent and how long it takes. Called by bench.bus.

Beside it the same host with nothing on its disk: it is sent the VPC whole, as it would be if there were no change log.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from alcor.bench.crowd import Crowd, Host
from alcor.lab.results import Goal, LabError

ROUNDS = 10
PATIENCE_S = 60.0
GOAL_BYTES = 0.1

Post = Callable[[Sequence[tuple[str, str]]], Awaitable[None]]
"""Creates a port of each (network, host)."""


class Away(msgspec.Struct, frozen=True, kw_only=True):
    """One host whose VPC has `objects` endpoints. Medians of rounds; from its Hello to its having merged all."""

    objects: int
    missed_bytes: int
    missed_ms: float
    whole_bytes: int
    whole_ms: float


async def measure(crowd: Crowd, names: tuple[str, str], network: str, objects: int, post: Post) -> Away:
    """`crowd` has these two hosts, each with a port of the network, and nobody else changes it. Raises LabError."""
    one, other = names
    host = crowd.hosts[one]
    await post([(network, other)] * (objects - 2))
    known = objects

    async def away(*, forget: bool) -> tuple[int, float]:
        nonlocal known
        host.die()
        await post([(network, other)])
        known += 1
        if forget:
            host.forget()
        host.revive()
        host.leave()
        await _until(crowd, host, known)
        return host.taken, (host.synced_at - host.greeted_at) * 1e3

    await _until(crowd, host, known)
    missed = [await away(forget=False) for _ in range(ROUNDS)]
    whole = [await away(forget=True) for _ in range(ROUNDS)]
    return Away(
        objects=objects,
        missed_bytes=int(statistics.median(size for size, _ in missed)),
        missed_ms=statistics.median(taken for _, taken in missed),
        whole_bytes=int(statistics.median(size for size, _ in whole)),
        whole_ms=statistics.median(taken for _, taken in whole),
    )


async def _until(crowd: Crowd, host: Host, known: int) -> None:
    others = frozenset(crowd.hosts) - {host.name}
    deadline = time.monotonic() + PATIENCE_S
    if await crowd.until(lambda one: one.synced_at > 0 and _known(one) >= known, PATIENCE_S, but=others):
        raise LabError(f"the host that was away did not come back within {PATIENCE_S:g} s")
    await asyncio.sleep(min(0.2, deadline - time.monotonic()))


def _known(host: Host) -> int:
    return sum(len(state.endpoints) for state in host.desired.scopes.values())


def goal(away: Away) -> Goal:
    """The line of the table."""
    ratio = away.missed_bytes / away.whole_bytes
    return Goal(
        name=f"a host of {away.objects:,} objects that was away for one change: what it is sent, against all of it",
        goal=f"at most {GOAL_BYTES:g}x",
        measured=f"{ratio:.4f}x ({away.missed_bytes:,} of {away.whole_bytes:,} bytes;"
        f" {away.missed_ms:.1f} against {away.whole_ms:.1f} ms)",
        reached=ratio <= GOAL_BYTES,
    )
