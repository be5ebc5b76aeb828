"""Which host answers for the EIP of a load balancer's address: with which port it is, its anchor. Wired by roles.

The address has no host of its own: every host of the network knows it, but one must have it outside. That is the host
of a member that answers, where there is one, else that of any port of the network, if it is up and has an external
device; each EIP picks by itself (rendezvous hashing), so they spread, and none moves but those of a host that is gone.
What should be is computed from rows and health alone, whenever a commit may have changed it and every TICK_S, and
becomes a command.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b

from alcor.kit.bell import Bell
from alcor.model.balancing import LoadBalancer, Member, MemberPool, MemberStatus
from alcor.model.ids import Id, format_id
from alcor.model.nouns import FloatingIp, Port
from alcor.services.commands import AnchorFloatingIp, Control
from alcor.services.errors import DomainError
from alcor.services.health import HealthView, HostHealth, Reach
from alcor.store.base import Changes, Query, Store

_log = logging.getLogger(__name__)

TICK_S = 0.5
"""How soon a host that is down is noticed, once it is known to be."""
OTHERS = 256
"""Ports of the network that are looked at where no member's host will do."""
MANY = 100_000
ANSWERING = frozenset((MemberStatus.ONLINE, MemberStatus.NO_MONITOR))


class Anchors:
    """See the module. `run` it in a task group; `committed` is called by the writer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._bell = Bell()
        self._stale = True
        """What stands for load balancers' addresses may be other than was read."""
        self._read: list[tuple[FloatingIp, LoadBalancer | None]] = []

    def committed(self, changes: Changes) -> None:
        """Something changed. Any thread; quick."""
        if changes.floating_ips or changes.load_balancers or changes.deleted_load_balancers:
            self._stale = True
            self._bell.ring()

    async def run(self, control: Control, health: HealthView) -> None:
        """Puts EIPs where they should be, until cancelled. Raises what ends the control plane."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            self._bell.hush()  # at once: a bell that rings on is all that the event loop would look at
            woken.set()

        loop.add_reader(self._bell.fileno(), wake)
        try:
            while True:
                woken.clear()
                for command in await asyncio.to_thread(self.wanted, health):
                    try:
                        await control.submit(command)
                    except DomainError as error:  # what it rests on has changed meanwhile: the next look knows
                        _log.info("floating IP %s stays where it is: %s", format_id(command.id), error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):  # wait_for may swallow a cancellation
                        await woken.wait()
        finally:
            loop.remove_reader(self._bell.fileno())
            self._bell.close()

    def wanted(self, health: HealthView) -> list[AnchorFloatingIp]:
        """What is to be changed now. Reads; any thread, one at a time."""
        if self._stale:
            self._stale = False
            balancers = {one.vip_port_id: one for one in self._store.rows(LoadBalancer)}
            fips = self._store.rows(FloatingIp)
            found = [(fip, balancers.get(fip.port_id) if fip.port_id is not None else None) for fip in fips]
            self._read = [one for one in found if one[1] is not None or one[0].anchor_id is not None]
        commands = []
        for fip, balancer in self._read:
            anchor = self._choose(fip, balancer, health) if balancer is not None else None
            if anchor != fip.anchor_id:
                commands.append(AnchorFloatingIp(id=fip.id, anchor_id=anchor))
        return commands

    def _choose(self, fip: FloatingIp, balancer: LoadBalancer, health: HealthView) -> Id | None:
        """The port that it should be with; None: there is none."""
        if fip.anchor_id is not None:
            known = self._store.get_ports((fip.anchor_id,))
            if known and known[0].network_id == balancer.network_id and _stays(known[0], health):
                return fip.anchor_id
        query = Query(filters={"network_id": (balancer.network_id,)}, limit=OTHERS)
        for some in (self._members(balancer), self._store.list_ports(query)):
            fit = [port for port in some if _fits(port, health)]
            if fit:
                return max(fit, key=lambda port: blake2b(fip.id + port.id, digest_size=8).digest()).id
        return None

    def _members(self, balancer: LoadBalancer) -> Iterable[Port]:
        """The ports of its members that answer."""
        pools = self._store.list_rows(MemberPool, Query(filters={"parent": (balancer.id,)}, limit=MANY))
        owners = tuple(pool.id for pool in pools if pool.admin_state_up)
        members = self._store.list_rows(Member, Query(filters={"parent": owners}, limit=MANY)) if owners else []
        ips = tuple(sorted({one.ip for one in members if one.admin_state_up and one.status in ANSWERING}))
        query = Query(filters={"network_id": (balancer.network_id,), "ip": ips}, limit=MANY)
        return self._store.list_ports(query) if ips else []


def _stays(port: Port, health: HealthView) -> bool:
    """Nothing is known that would make its host unfit. After a controller's start nothing is known of any."""
    host = health.health(port.host) if port.host else HostHealth(heard_at=1)
    return not host.heard_at or (host.state is not Reach.DOWN and host.outside is not False)


def _fits(port: Port, health: HealthView) -> bool:
    host = health.health(port.host) if port.host else HostHealth()
    return host.state is Reach.UP and host.outside is True
