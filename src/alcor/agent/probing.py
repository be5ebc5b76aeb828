"""Health of pool members that are on this host: who is probed, when, and what came of it. On the agent's event loop.

Called by core, which says when the host may have changed. Each member's probe is repeated every `delay_s` of its
pool's monitor; `rise` good ones in a row make it healthy, `fall` bad ones not. A change is told to the controller at
once; all are told again now and then, so that what was lost, or a controller that is new, needs no other repair.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

import msgspec

from alcor.agent.state import Desired, ScopeKey
from alcor.dataplane.base import Driver, Probe, Prober
from alcor.goalstate.objects import BalancerGoal, MemberGoal, PoolGoal
from alcor.model.addresses import Ip
from alcor.model.ids import Id, format_id
from alcor.wire.reports import MemberAck

_log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks who is to be probed, while the host changes all the time."""
TELL_AGAIN_S = 10.0
MAX_TOLD = 4096
"""Members in one report."""


class Watched(NamedTuple):
    """A member of a local port, and how it is probed."""

    partition: int
    probe: Probe
    delay_s: float
    rise: int
    fall: int


def watched(desired: Desired, driver: Driver) -> dict[Id, Watched]:
    """The members to be probed from this host: those whose address is a local port's. By member."""
    found: dict[Id, Watched] = {}
    for key in desired.vpcs():
        state = desired.scopes[key]
        pools = {pool.id: pool for pool in state.pools.values() if pool.monitor is not None and pool.enabled}
        if not pools:
            continue
        balancers = _balancers(state.balancers.values())
        local = _local(desired, key)
        for member in state.members.values():
            pool, port, balancer = pools.get(member.pool), local.get(member.ip), balancers.get(member.pool)
            if pool is None or port is None or balancer is None:
                continue
            ifindex = driver.interface_of(port)
            if ifindex is not None:
                found[member.id] = _watch(key, desired, pool, member, balancer, port, ifindex)
    return found


def _balancers(goals: Iterable[BalancerGoal]) -> dict[Id, BalancerGoal]:
    """Pool -> a balancer that it answers for."""
    return {one.pool: goal for goal in goals for one in goal.listeners if one.pool is not None}


def _local(desired: Desired, key: ScopeKey) -> dict[Ip, Id]:
    """The addresses of the VPC's local ports."""
    found = {}
    for port_id in desired.ports_of(key):
        goal = desired.port(port_id)
        for address in goal.addresses if goal is not None else ():
            found[address.ip] = port_id
    return found


def _watch(
    key: ScopeKey,
    desired: Desired,
    pool: PoolGoal,
    member: MemberGoal,
    balancer: BalancerGoal,
    port_id: Id,
    ifindex: int,
) -> Watched:
    monitor, port = pool.monitor, desired.port(port_id)
    assert monitor is not None
    assert port is not None
    probe = Probe(
        ifindex=ifindex,
        mac=port.mac,
        ip=member.ip,
        port=member.port,
        source_mac=balancer.mac,
        source=balancer.vip,
        type=monitor.type,
        timeout_s=monitor.timeout_s,
        http_method=monitor.http_method,
        url_path=monitor.url_path,
        expected_codes=monitor.expected_codes,
        avoid=frozenset(one.port for one in balancer.listeners),
    )
    return Watched(key.partition, probe, monitor.delay_s, monitor.rise, monitor.fall)


class _Patient(msgspec.Struct):
    """A member that is probed."""

    watched: Watched
    due: float
    healthy: bool | None = None
    """None: not known yet."""
    streak: int = 0
    """Results in a row that say otherwise."""
    asking: bool = False


class Probing:
    """See the module. `run` it; it asks the worker by `look`, and tells by `tell`."""

    def __init__(
        self,
        prober: Prober,
        clock: Callable[[], float],
        look: Callable[[], asyncio.Future[Mapping[Id, Watched]]],
        tell: Callable[[int, tuple[MemberAck, ...]], None],
    ) -> None:
        self._prober = prober
        self._clock = clock
        self._look = look
        self._tell = tell
        self._patients: dict[Id, _Patient] = {}
        self._tell_at = 0.0
        self._changed = True
        self._look_at = 0.0
        self._wake = asyncio.Event()

    def changed(self) -> None:
        """Others may be to be probed now. On the event loop."""
        self._changed = True
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. A host without members rests until it changes."""
        while True:
            self._wake.clear()
            if self._changed and self._clock() >= self._look_at:
                self._changed, self._look_at = False, self._clock() + LOOK_S
                self._want(await self._look())
            self._ask()
            if self._patients and self._clock() >= self._tell_at:
                self._tell_all()
            due = self._due()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - self._clock()) if due is not None else None):
                    await self._wake.wait()

    def _due(self) -> float | None:
        """When there is something to do; None: when the host changes."""
        due = [one.due for one in self._patients.values() if not one.asking]
        if self._patients:
            due.append(self._tell_at)
        if self._changed:
            due.append(self._look_at)
        return min(due, default=None)

    def _want(self, wanted: Mapping[Id, Watched]) -> None:
        for identifier in self._patients.keys() - wanted.keys():
            del self._patients[identifier]
        for identifier, one in wanted.items():
            known = self._patients.get(identifier)
            if known is None or known.watched.probe != one.probe:
                # The first probes of many members do not come at one moment.
                spread = random.random() * min(one.delay_s, 1.0)
                self._patients[identifier] = _Patient(one, self._clock() + spread)
            else:
                known.watched = one

    def _ask(self) -> None:
        now = self._clock()
        loop = asyncio.get_running_loop()
        for identifier, one in self._patients.items():
            if one.asking or one.due > now:
                continue
            one.asking = True
            one.due = now + one.watched.delay_s

            def done(reason: str, identifier: Id = identifier, patient: _Patient = one) -> None:
                loop.call_soon_threadsafe(self._answered, identifier, patient, reason)

            self._prober.start(one.watched.probe, done)

    def _answered(self, identifier: Id, one: _Patient, reason: str) -> None:
        one.asking = False
        if self._patients.get(identifier) is not one:
            return  # it is probed otherwise now, or not at all
        healthy = not reason
        needed = one.watched.rise if healthy else one.watched.fall
        one.streak = one.streak + 1 if healthy is not one.healthy else 0
        if one.streak >= (1 if one.healthy is None and healthy else needed):
            one.healthy, one.streak = healthy, 0
            if reason:
                _log.warning("member %s does not answer: %s", format_id(identifier), reason)
            self._tell(one.watched.partition, (MemberAck(identifier, healthy),))
        self._wake.set()

    def _tell_all(self) -> None:
        self._tell_at = self._clock() + TELL_AGAIN_S
        words: dict[int, list[MemberAck]] = {}
        for identifier, one in self._patients.items():
            if one.healthy is not None:
                words.setdefault(one.watched.partition, []).append(MemberAck(identifier, one.healthy))
        for partition, some in words.items():
            for at in range(0, len(some), MAX_TOLD):
                self._tell(partition, tuple(some[at : at + MAX_TOLD]))
