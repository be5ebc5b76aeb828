"""From rows of load balancing to goal-state objects. Pure.

Called by delta (what changed), snapshot (whole scopes) and the publish loop, which keeps a `Balancers` up to date. The
goal of a balancer is made of its row and its listeners', that of a pool of its row and its monitor's; whoever changes
one of the latter gives the former its revision.
"""

from __future__ import annotations

from collections.abc import Iterable

from alcor.goalstate.objects import BalancerGoal, Goal, ListenerGoal, MemberGoal, MonitorGoal, PoolGoal
from alcor.model.addresses import Mac
from alcor.model.balancing import (
    Algorithm,
    Balancing,
    HealthMonitor,
    Listener,
    LoadBalancer,
    Member,
    MemberPool,
    MemberStatus,
)
from alcor.model.ids import Id


class Balancers:
    """The rows of load balancing as of one commit. Whoever makes it keeps it up to date: `put` and `drop`."""

    def __init__(self, rows: Iterable[Balancing] = ()) -> None:
        self._of_network: dict[Id, dict[Id, LoadBalancer | MemberPool | Member]] = {}
        """Network -> what hosts are told of."""
        self._listeners: dict[Id, dict[Id, Listener]] = {}
        """By balancer."""
        self._monitors: dict[Id, HealthMonitor] = {}
        """By pool."""
        self.put(rows)

    def put(self, rows: Iterable[Balancing]) -> None:
        """New and changed rows."""
        for row in rows:
            if isinstance(row, Listener):
                self._listeners.setdefault(row.load_balancer_id, {})[row.id] = row
            elif isinstance(row, HealthMonitor):
                self._monitors[row.pool_id] = row
            else:
                self._of_network.setdefault(row.network_id, {})[row.id] = row

    def drop(self, rows: Iterable[Balancing]) -> None:
        """Deleted rows; an absent one is passed over."""
        for row in rows:
            if isinstance(row, Listener):
                self._listeners.get(row.load_balancer_id, {}).pop(row.id, None)
            elif isinstance(row, HealthMonitor):
                known = self._monitors.get(row.pool_id)
                if known is not None and known.id == row.id:
                    del self._monitors[row.pool_id]
            else:
                some = self._of_network.get(row.network_id, {})
                some.pop(row.id, None)
                if not some:
                    self._of_network.pop(row.network_id, None)
                if isinstance(row, LoadBalancer):
                    self._listeners.pop(row.id, None)

    def goals(self, network_id: Id) -> list[Goal]:
        """Everything of the network's scope that is about load balancing, sorted by key."""
        rows = self._of_network.get(network_id, {}).values()
        return sorted((self.goal(row) for row in rows), key=lambda goal: goal.key)

    def goal(self, row: LoadBalancer | MemberPool | Member) -> BalancerGoal | PoolGoal | MemberGoal:
        """The object of a row."""
        if isinstance(row, LoadBalancer):
            return self._balancer(row)
        if isinstance(row, MemberPool):
            affinity = row.persistence or row.algorithm is Algorithm.SOURCE_IP
            monitor = self._monitors.get(row.id)
            probing = monitor_goal(monitor) if monitor is not None else None
            return PoolGoal(row.id, row.revision, row.admin_state_up, affinity, probing)
        weight = row.weight if row.admin_state_up else 0
        failed = row.status is MemberStatus.ERROR
        return MemberGoal(row.id, row.revision, row.pool_id, row.ip, row.port, weight, failed)

    def _balancer(self, row: LoadBalancer) -> BalancerGoal:
        listeners = [
            ListenerGoal(one.protocol.number, one.port, one.pool_id)
            for one in self._listeners.get(row.id, {}).values()
            if one.admin_state_up and row.admin_state_up
        ]
        named = sorted(listeners, key=lambda one: (one.protocol, one.port))
        return BalancerGoal(row.id, row.revision, row.vip_ip, Mac(row.vip_mac), tuple(named))


def monitor_goal(monitor: HealthMonitor) -> MonitorGoal | None:
    """How to probe; None while the monitor is down."""
    if not monitor.admin_state_up:
        return None
    return MonitorGoal(
        monitor.type.value,
        monitor.delay_s,
        monitor.timeout_s,
        monitor.rise,
        monitor.fall,
        monitor.http_method,
        monitor.url_path,
        monitor.expected_codes,
    )
