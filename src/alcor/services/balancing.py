"""What services know of load balancing without asking the store; and what its services have in common. Pure.

`BalancingIndex` belongs to Indexes, which applies changes to it. The messages are Octavia's.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from alcor.model.addresses import Ip, format_ip
from alcor.model.balancing import (
    BALANCING,
    Balancing,
    HealthMonitor,
    Listener,
    LoadBalancer,
    Member,
    MemberPool,
    MemberStatus,
)
from alcor.model.ids import Id, format_id
from alcor.services.errors import (
    BalancingQuotaMet,
    BalancingValidation,
    HealthMonitorNotFound,
    ListenerNotFound,
    LoadBalancerNotFound,
    MemberNotFound,
    PoolNotFound,
)
from alcor.store.base import Changes, Store

LISTENERS_A_NETWORK = 1024
BALANCERS_A_NETWORK = 1024
POOLS_A_NETWORK = 1024
"""Quotas, until projects have their own: every host of the network holds them all."""


class BalancingIndex:
    """The rows of load balancing, and who belongs to whom."""

    def __init__(self, store: Store) -> None:
        self.load_balancers: dict[Id, LoadBalancer] = {}
        self.listeners: dict[Id, Listener] = {}
        self.pools: dict[Id, MemberPool] = {}
        self.members: dict[Id, Member] = {}
        self.monitors: dict[Id, HealthMonitor] = {}
        self.listeners_of: dict[Id, dict[Id, Listener]] = {}
        """Balancer -> its listeners."""
        self.pools_of: dict[Id, dict[Id, MemberPool]] = {}
        """Balancer -> its pools."""
        self.members_of: dict[Id, dict[Id, Member]] = {}
        """Pool -> its members."""
        self.monitor_of: dict[Id, HealthMonitor] = {}
        """Pool -> its monitor."""
        self.vip_ports: dict[Id, Id] = {}
        """Port -> the balancer whose address it has."""
        for noun in BALANCING:
            self._put(store.rows(noun))

    def apply(self, changes: Changes) -> None:
        """Makes a command's changes so."""
        rows, deleted = changes.balancing()
        self._put(rows)
        for row in deleted:
            self._drop(row)

    def _put(self, rows: Iterable[Balancing]) -> None:
        for row in rows:
            if isinstance(row, LoadBalancer):
                self.load_balancers[row.id] = row
                self.vip_ports[row.vip_port_id] = row.id
            elif isinstance(row, Listener):
                self.listeners[row.id] = row
                self.listeners_of.setdefault(row.load_balancer_id, {})[row.id] = row
            elif isinstance(row, MemberPool):
                self.pools[row.id] = row
                self.pools_of.setdefault(row.load_balancer_id, {})[row.id] = row
            elif isinstance(row, Member):
                self.members[row.id] = row
                self.members_of.setdefault(row.pool_id, {})[row.id] = row
            else:
                self.monitors[row.id] = row
                self.monitor_of[row.pool_id] = row

    def _drop(self, row: Balancing) -> None:
        if isinstance(row, LoadBalancer):
            del self.load_balancers[row.id]
            del self.vip_ports[row.vip_port_id]
            self.listeners_of.pop(row.id, None)
            self.pools_of.pop(row.id, None)
        elif isinstance(row, Listener):
            del self.listeners[row.id]
            self.listeners_of.get(row.load_balancer_id, {}).pop(row.id, None)
        elif isinstance(row, MemberPool):
            del self.pools[row.id]
            self.pools_of.get(row.load_balancer_id, {}).pop(row.id, None)
            self.members_of.pop(row.id, None)
        elif isinstance(row, Member):
            del self.members[row.id]
            self.members_of.get(row.pool_id, {}).pop(row.id, None)
        else:
            del self.monitors[row.id]
            self.monitor_of.pop(row.pool_id, None)

    # ---- who has an id ----

    def load_balancer(self, identifier: Id) -> LoadBalancer:
        """Raises LoadBalancerNotFound."""
        found = self.load_balancers.get(identifier)
        if found is None:
            raise LoadBalancerNotFound(f"Load Balancer {format_id(identifier)} not found.")
        return found

    def listener(self, identifier: Id) -> Listener:
        """Raises ListenerNotFound."""
        found = self.listeners.get(identifier)
        if found is None:
            raise ListenerNotFound(f"Listener {format_id(identifier)} not found.")
        return found

    def pool(self, identifier: Id) -> MemberPool:
        """Raises PoolNotFound."""
        found = self.pools.get(identifier)
        if found is None:
            raise PoolNotFound(f"Pool {format_id(identifier)} not found.")
        return found

    def member(self, pool_id: Id, identifier: Id) -> Member:
        """Raises MemberNotFound."""
        found = self.members.get(identifier)
        if found is None or found.pool_id != pool_id:
            raise MemberNotFound(f"Member {format_id(identifier)} not found.")
        return found

    def monitor(self, identifier: Id) -> HealthMonitor:
        """Raises HealthMonitorNotFound."""
        found = self.monitors.get(identifier)
        if found is None:
            raise HealthMonitorNotFound(f"Health Monitor {format_id(identifier)} not found.")
        return found

    # ---- what services have in common ----

    def bumped(self, balancer_id: Id, now: int, revision: int) -> LoadBalancer:
        """The balancer with that revision: one of its listeners came, went or changed."""
        return replace(self.load_balancers[balancer_id], updated_at=now, revision=revision)

    def bumped_pool(self, pool_id: Id, now: int, revision: int) -> MemberPool:
        """The pool with that revision: its monitor came, went or changed."""
        return replace(self.pools[pool_id], updated_at=now, revision=revision)

    def status_at_first(self, pool_id: Id) -> MemberStatus:
        """Of a member that nothing is known of."""
        monitor = self.monitor_of.get(pool_id)
        return MemberStatus.OFFLINE if monitor is not None and monitor.admin_state_up else MemberStatus.NO_MONITOR


def check_quota(what: str, have: int, most: int) -> None:
    """Raises BalancingQuotaMet."""
    if have > most:
        raise BalancingQuotaMet(f"Quota has been met for resources: {what}")


def invalid(detail: str) -> BalancingValidation:
    """What Octavia says of a value that cannot be."""
    return BalancingValidation(f"Validation failure: {detail}")


def ip_text(ip: Ip) -> str:
    """For messages."""
    return format_ip(ip)
