"""What of routing a host programs: the routes and translations of the VPCs of its local ports. Pure.

Called by plan; dataplane.roads says what a VPC's routes are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from alcor.agent.state import Desired, ScopeKey
from alcor.dataplane import roads as ways
from alcor.dataplane.base import EndpointKey, Route, RouteKey, TranslationKey
from alcor.model.ids import Id


class Roads(NamedTuple):
    """All routes and translations of a host."""

    routes: dict[RouteKey, Route]
    translations: dict[TranslationKey, int]


def roads(desired: Desired) -> Roads:
    """What the VPCs of local ports ask for."""
    found = Roads({}, {})
    for key in desired.carried():
        vpc = _vpc(desired, key)
        if vpc is None or not has_roads(desired, key):
            continue
        near = {one.scope: other for one in desired.neighbours(key) if (other := _vpc(desired, one)) is not None}
        routes = ways.routes_of(vpc, {key.scope: vpc, **near})
        found.routes.update((RouteKey(vpc.goal.vni, prefix), route) for prefix, route in routes.items())
        for other in near.values():
            found.translations.update(ways.translations_of(vpc, other))
    return found


def has_roads(desired: Desired, key: ScopeKey) -> bool:
    """The VPC has a router or a peering."""
    state = desired.scopes.get(key)
    return state is not None and bool(state.routers or state.peerings)


def attached(desired: Desired, key: ScopeKey) -> frozenset[Id]:
    """The subnets of the VPC, which is held, whose ports may leave it."""
    vpc = _vpc(desired, key)
    return ways.attached(vpc) if vpc is not None else frozenset()


def router_addresses(desired: Desired, key: ScopeKey) -> Iterator[EndpointKey]:
    """Where routers are found in the VPC."""
    vpc = _vpc(desired, key)
    if vpc is not None:
        for ip in ways.router_addresses(vpc):
            yield EndpointKey(vpc.goal.vni, ip)


def _vpc(desired: Desired, key: ScopeKey) -> ways.Vpc | None:
    """What is held of the VPC; None while the VPC itself is not."""
    goal, state = desired.vpc(key), desired.scopes.get(key)
    if goal is None or state is None:
        return None
    return ways.Vpc(
        goal,
        state.subnets.values(),
        state.routers.values(),
        state.peerings.values(),
        state.identities.values(),
    )
