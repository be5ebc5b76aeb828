"""From goals of load balancing to services and their addresses. Pure.

Called by the agent (for what it programs) and by the answer to "why did this packet not arrive?" (loops.reachability).
A pool or member that is not known answers for nothing: a service is there as soon as its listener is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from alcor.dataplane.base import MAX_BACKENDS, Backend, Service, ServiceKey
from alcor.dataplane.endpoints import EndpointKey
from alcor.goalstate.objects import BalancerGoal, MemberGoal, PoolGoal
from alcor.model.addresses import Ip, Mac
from alcor.model.ids import Id


def vips_of(vni: int, balancers: Iterable[BalancerGoal]) -> dict[EndpointKey, Mac]:
    """The addresses of a VPC's load balancers."""
    return {EndpointKey(vni, one.vip): one.mac for one in balancers}


def services_of(
    vni: int, balancers: Iterable[BalancerGoal], pools: Mapping[Id, PoolGoal], members: Iterable[MemberGoal]
) -> dict[ServiceKey, Service]:
    """The services of a VPC."""
    found: dict[ServiceKey, Service] = {}
    backends: dict[Id, tuple[Backend, ...]] | None = None
    for balancer in balancers:
        for listener in balancer.listeners:
            if backends is None:
                backends = _backends(members)
            named = ServiceKey(vni, balancer.vip, listener.protocol, listener.port)
            pool = pools.get(listener.pool) if listener.pool is not None else None
            answering = backends.get(pool.id, ()) if pool is not None and pool.enabled else ()
            found[named] = Service(named, answering, pool is not None and pool.affinity)
    return found


def _backends(members: Iterable[MemberGoal]) -> dict[Id, tuple[Backend, ...]]:
    """Pool -> its members, sorted; each address and port once."""
    pools: dict[Id, dict[tuple[Ip, int], MemberGoal]] = {}
    for member in members:
        some = pools.setdefault(member.pool, {})
        other = some.get((member.ip, member.port))
        if other is None or other.revision < member.revision:  # a deleted one's tombstone may be on its way
            some[member.ip, member.port] = member
    return {
        pool: tuple(
            [Backend(one.ip, one.port, one.weight, one.failed) for _, one in sorted(some.items())][:MAX_BACKENDS]
        )
        for pool, some in pools.items()
    }
