"""Octavia's resources as REST shows them, and how their operating statuses follow from their members'. Called by lbaas.

Pure but for reading the rows that belong to those shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from msgspec import UNSET

from alcor.api.convert import id_text, time_text
from alcor.api.lbaas_bodies import (
    BalancerBranch,
    HealthMonitorView,
    ListenerBranch,
    ListenerView,
    LoadBalancerView,
    MemberBranch,
    MemberView,
    MonitorBranch,
    PersistenceView,
    PoolBranch,
    PoolView,
    Ref,
    StatusTree,
)
from alcor.model.addresses import format_ip
from alcor.model.balancing import (
    Balancing,
    HealthMonitor,
    Listener,
    LoadBalancer,
    Member,
    MemberPool,
    MemberStatus,
)
from alcor.model.ids import Id, format_id
from alcor.store.base import Query, Store

ONLINE, OFFLINE, DEGRADED, ERROR, DRAINING = "ONLINE", "OFFLINE", "DEGRADED", "ERROR", "DRAINING"
ROWS_A_READ = 10_000

Row = TypeVar("Row", bound=Balancing)


class Family(NamedTuple):
    """What belongs to some balancers or pools: by the id of whom it belongs to."""

    listeners: Mapping[Id, Sequence[Listener]] = {}
    pools: Mapping[Id, Sequence[MemberPool]] = {}
    members: Mapping[Id, Sequence[Member]] = {}
    monitors: Mapping[Id, Sequence[HealthMonitor]] = {}


def children(store: Store, noun: type[Row], parents: Iterable[Id]) -> dict[Id, list[Row]]:
    """The rows that belong to these, by whom they belong to, in the order of creation."""
    found: dict[Id, list[Row]] = {}
    wanted = tuple(dict.fromkeys(parents))
    marker: Id | None = None
    while wanted:
        page = store.list_rows(noun, Query(filters={"parent": wanted}, limit=ROWS_A_READ, marker=marker))
        for row in page:
            found.setdefault(row.parent, []).append(row)
        if len(page) < ROWS_A_READ:
            break
        marker = page[-1].id
    return found


def family_of_balancers(store: Store, balancers: Iterable[Id]) -> Family:
    """Everything that these balancers have."""
    ids = list(balancers)
    pools = children(store, MemberPool, ids)
    owners = [pool.id for some in pools.values() for pool in some]
    return Family(
        children(store, Listener, ids), pools, children(store, Member, owners), children(store, HealthMonitor, owners)
    )


def member_status(member: Member) -> str:
    """Octavia's operating status."""
    if not member.admin_state_up:
        return OFFLINE
    return DRAINING if not member.weight and member.status is not MemberStatus.ERROR else member.status.value


def pool_status(pool: MemberPool, family: Family) -> str:
    """Octavia's operating status."""
    if not pool.admin_state_up:
        return OFFLINE
    return _worst([member_status(one) for one in family.members.get(pool.id, ()) if one.admin_state_up])


def listener_status(listener: Listener, family: Family) -> str:
    """Octavia's operating status."""
    if not listener.admin_state_up:
        return OFFLINE
    pools = family.pools.get(listener.load_balancer_id, ())
    found = [pool_status(one, family) for one in pools if one.id == listener.pool_id]
    return found[0] if found else ONLINE


def balancer_status(balancer: LoadBalancer, family: Family) -> str:
    """Octavia's operating status."""
    if not balancer.admin_state_up:
        return OFFLINE
    return _worst([listener_status(one, family) for one in family.listeners.get(balancer.id, ())])


def _worst(statuses: Sequence[str]) -> str:
    """Of parts that share the work."""
    if not statuses:
        return OFFLINE
    if all(one == ERROR for one in statuses):
        return ERROR
    return DEGRADED if ERROR in statuses or DEGRADED in statuses else ONLINE


# ---- views ----


def _common(row: Any, status: str) -> dict[str, Any]:
    return {
        "id": format_id(row.id),
        "name": row.name,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "admin_state_up": row.admin_state_up,
        "operating_status": status,
        "created_at": _time(row.created_at),
        "updated_at": _time(row.updated_at),
    }


def _time(milliseconds: int) -> str:
    """Without a zone, as Octavia writes it."""
    return time_text(milliseconds).removesuffix("Z")


def _refs(rows: Iterable[Any]) -> list[Ref]:
    return [Ref(format_id(row.id)) for row in rows]


def balancer_view(row: LoadBalancer, family: Family) -> LoadBalancerView:
    """A load balancer as REST shows it."""
    return LoadBalancerView(
        **_common(row, balancer_status(row, family)),
        description=row.description,
        vip_address=format_ip(row.vip_ip),
        vip_port_id=id_text(row.vip_port_id),
        vip_subnet_id=id_text(row.vip_subnet_id),
        vip_network_id=id_text(row.network_id),
        listeners=_refs(family.listeners.get(row.id, ())),
        pools=_refs(family.pools.get(row.id, ())),
    )


def listener_view(row: Listener, family: Family) -> ListenerView:
    """A listener as REST shows it."""
    return ListenerView(
        **_common(row, listener_status(row, family)),
        description=row.description,
        protocol=row.protocol.value,
        protocol_port=row.port,
        loadbalancers=[Ref(id_text(row.load_balancer_id))],
        default_pool_id=None if row.pool_id is None else id_text(row.pool_id),
    )


def pool_view(row: MemberPool, family: Family) -> PoolView:
    """A pool as REST shows it."""
    monitors = family.monitors.get(row.id, ())
    listeners = [one for one in family.listeners.get(row.load_balancer_id, ()) if one.pool_id == row.id]
    return PoolView(
        **_common(row, pool_status(row, family)),
        description=row.description,
        protocol=row.protocol.value,
        lb_algorithm=row.algorithm.value,
        session_persistence=PersistenceView() if row.persistence else None,
        loadbalancers=[Ref(id_text(row.load_balancer_id))],
        listeners=_refs(listeners),
        members=_refs(family.members.get(row.id, ())),
        healthmonitor_id=format_id(monitors[0].id) if monitors else None,
    )


def member_view(row: Member, _family: Family) -> MemberView:
    """A member as REST shows it."""
    return MemberView(
        **_common(row, member_status(row)),
        address=format_ip(row.ip),
        protocol_port=row.port,
        weight=row.weight,
        subnet_id=None if row.subnet_id is None else id_text(row.subnet_id),
    )


def monitor_view(row: HealthMonitor, _family: Family) -> HealthMonitorView:
    """A health monitor as REST shows it."""
    return HealthMonitorView(
        **_common(row, ONLINE if row.admin_state_up else OFFLINE),
        type=row.type.value,
        delay=row.delay_s,
        timeout=row.timeout_s,
        max_retries=row.rise,
        max_retries_down=row.fall,
        http_method=row.http_method or None,
        url_path=row.url_path or None,
        expected_codes=row.expected_codes or None,
        pools=[Ref(id_text(row.pool_id))],
    )


def status_tree(row: LoadBalancer, family: Family) -> StatusTree:
    """GET .../status: the balancer and all that it has, with their statuses."""
    pools = {pool.id: pool for pool in family.pools.get(row.id, ())}
    listeners = []
    for listener in family.listeners.get(row.id, ()):
        pool = pools.get(listener.pool_id) if listener.pool_id is not None else None
        own = [_pool_branch(pool, family)] if pool is not None else []
        listeners.append(ListenerBranch(**_branch(listener, listener_status(listener, family)), pools=own))
    return StatusTree(
        loadbalancer=BalancerBranch(
            **_branch(row, balancer_status(row, family)),
            listeners=listeners,
            pools=[_pool_branch(pool, family) for pool in pools.values()],
        )
    )


def _pool_branch(pool: MemberPool, family: Family) -> PoolBranch:
    members = [
        MemberBranch(**_branch(one, member_status(one)), address=format_ip(one.ip), protocol_port=one.port)
        for one in family.members.get(pool.id, ())
    ]
    monitors = [
        MonitorBranch(**_branch(one, ONLINE if one.admin_state_up else OFFLINE), type=one.type.value)
        for one in family.monitors.get(pool.id, ())
    ]
    return PoolBranch(
        **_branch(pool, pool_status(pool, family)),
        members=members,
        healthmonitor=monitors[0] if monitors else UNSET,
    )


def _branch(row: Any, status: str) -> dict[str, Any]:
    return {"id": format_id(row.id), "name": row.name, "operating_status": status}
