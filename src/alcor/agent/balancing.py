"""Which services and load balancers' addresses a host is to have, from the goal state of its VPCs. Pure.

Called by plan. A pool or member that has not arrived answers for nothing: a service is there as soon as its listener
is, and has the members that are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.dataplane.base import MAX_BACKENDS, Backend, EndpointKey, Service, ServiceKey
from alcor.goalstate.merge import ScopeState
from alcor.goalstate.objects import MemberGoal
from alcor.model.addresses import Ip, Mac
from alcor.model.ids import Id


class BalancingPlan(NamedTuple):
    """What to change, as fields of dataplane.base.Plan."""

    remove_vips: tuple[EndpointKey, ...] = ()
    remove_services: tuple[ServiceKey, ...] = ()
    put_services: tuple[Service, ...] = ()
    put_vips: tuple[tuple[EndpointKey, Mac], ...] = ()


def vips(desired: Desired, key: ScopeKey) -> dict[EndpointKey, Mac]:
    """The addresses of a VPC's load balancers."""
    vpc, state = desired.vpc(key), desired.scopes.get(key)
    if vpc is None or state is None:
        return {}
    return {EndpointKey(vpc.vni, one.vip): one.mac for one in state.balancers.values()}


def services(desired: Desired, key: ScopeKey) -> dict[ServiceKey, Service]:
    """The services of a VPC."""
    vpc, state = desired.vpc(key), desired.scopes.get(key)
    if vpc is None or state is None or not state.balancers:
        return {}
    backends = _backends(state)
    found = {}
    for balancer in state.balancers.values():
        for listener in balancer.listeners:
            named = ServiceKey(vpc.vni, balancer.vip, listener.protocol, listener.port)
            pool = state.pools.get(listener.pool) if listener.pool is not None else None
            answering = backends.get(pool.id, ()) if pool is not None and pool.enabled else ()
            found[named] = Service(named, answering, pool is not None and pool.affinity)
    return found


def _backends(state: ScopeState) -> dict[Id, tuple[Backend, ...]]:
    """Pool -> its members, sorted; each address and port once."""
    pools: dict[Id, dict[tuple[Ip, int], MemberGoal]] = {}
    for member in state.members.values():
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


def full_balancing(
    desired: Desired, seen_vips: Mapping[EndpointKey, Mac], seen: Mapping[ServiceKey, int], *, may_remove: bool
) -> BalancingPlan:
    """Everything that differs from what was observed."""
    wanted_vips: dict[EndpointKey, Mac] = {}
    wanted: dict[ServiceKey, Service] = {}
    for key in desired.vpcs():
        wanted_vips |= vips(desired, key)
        wanted |= services(desired, key)
    plan = _differences(wanted_vips, wanted, seen_vips, seen)
    return plan if may_remove else plan._replace(remove_vips=(), remove_services=())


def partial_balancing(
    desired: Desired, touched: Touched, carried_vips: Mapping[EndpointKey, Mac], carried: Mapping[ServiceKey, int]
) -> BalancingPlan:
    """What the touched VPCs ask for, against what the data plane carries."""
    if not touched.balancing and not touched.gone_vnis:
        return BalancingPlan()
    wanted_vips: dict[EndpointKey, Mac] = {}
    wanted: dict[ServiceKey, Service] = {}
    vnis = set(touched.gone_vnis)
    for key in touched.balancing:
        vpc = desired.vpc(key)
        if vpc is not None:
            vnis.add(vpc.vni)
            wanted_vips |= vips(desired, key)
            wanted |= services(desired, key)
    return _differences(
        wanted_vips,
        wanted,
        {key: mac for key, mac in carried_vips.items() if key.vni in vnis},
        {key: digest for key, digest in carried.items() if key.vni in vnis},
    )


def _differences(
    wanted_vips: Mapping[EndpointKey, Mac],
    wanted: Mapping[ServiceKey, Service],
    seen_vips: Mapping[EndpointKey, Mac],
    seen: Mapping[ServiceKey, int],
) -> BalancingPlan:
    return BalancingPlan(
        remove_vips=tuple(sorted(seen_vips.keys() - wanted_vips.keys())),
        remove_services=tuple(sorted(seen.keys() - wanted.keys())),
        put_services=tuple([one for key, one in sorted(wanted.items()) if seen.get(key) != one.digest()]),
        put_vips=tuple([(key, mac) for key, mac in sorted(wanted_vips.items()) if seen_vips.get(key) != mac]),
    )
