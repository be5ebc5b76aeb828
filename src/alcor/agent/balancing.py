"""Which services and load balancers' addresses a host is to have, from the goal state of its VPCs. Pure.

Called by plan. What goals come to is in dataplane.balancing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.dataplane.balancing import services_of, vips_of
from alcor.dataplane.base import Service, ServiceKey
from alcor.dataplane.endpoints import EndpointKey
from alcor.model.addresses import Mac


class BalancingPlan(NamedTuple):
    """What to change, as fields of dataplane.base.Plan."""

    remove_vips: tuple[EndpointKey, ...] = ()
    remove_services: tuple[ServiceKey, ...] = ()
    put_services: tuple[Service, ...] = ()
    put_vips: tuple[tuple[EndpointKey, Mac], ...] = ()


def vips(desired: Desired, key: ScopeKey) -> dict[EndpointKey, Mac]:
    """The addresses of a VPC's load balancers."""
    vpc, state = desired.vpc(key), desired.scopes.get(key)
    return vips_of(vpc.vni, state.balancers.values()) if vpc is not None and state is not None else {}


def services(desired: Desired, key: ScopeKey) -> dict[ServiceKey, Service]:
    """The services of a VPC."""
    vpc, state = desired.vpc(key), desired.scopes.get(key)
    if vpc is None or state is None:
        return {}
    return services_of(vpc.vni, state.balancers.values(), state.pools, state.members.values())


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
