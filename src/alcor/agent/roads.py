"""What of routing a host programs: the routes and translations of the VPCs of its local ports. Pure.

Called by plan; dataplane.roads says what a VPC's routes are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from alcor.agent.state import Desired, ScopeKey
from alcor.dataplane import roads as ways
from alcor.dataplane.base import OUTSIDE, Route, RouteKey, SharedAddress, TranslationKey
from alcor.dataplane.endpoints import EndpointKey
from alcor.model.addresses import Ip
from alcor.model.ids import Id

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Roads(NamedTuple):
    """All routes and translations of a host, and the addresses outside that it shares with others."""

    routes: dict[RouteKey, Route]
    translations: dict[TranslationKey, int]
    shared: dict[Ip, SharedAddress]


def roads(desired: Desired) -> Roads:
    """What the VPCs of local ports ask for."""
    found = Roads({}, {}, {})
    carried: list[ways.Vpc] = []
    for key in desired.carried():
        vpc = _vpc(desired, key)
        if vpc is None or not has_roads(desired, key):
            continue
        near = {one.scope: other for one in desired.neighbours(key) if (other := _vpc(desired, one)) is not None}
        known = {key.scope: vpc, **near}
        carried.append(vpc)
        routes = ways.routes_of(vpc, known)
        found.shared.update(ways.shared_of(vpc, known))
        found.routes.update((RouteKey(vpc.goal.vni, prefix), route) for prefix, route in routes.items())
        for other in near.values():
            found.translations.update(ways.translations_of(vpc, other))
    open_routes = ways.open_routes(carried)
    found.routes.update((RouteKey(OUTSIDE, prefix), route) for prefix, route in open_routes.items())
    return found


class RoadsPlan(NamedTuple):
    """The fields of a Plan that are about roads."""

    put_translations: tuple[tuple[TranslationKey, int], ...] = ()
    put_shared: tuple[tuple[Ip, SharedAddress], ...] = ()
    put_routes: tuple[tuple[RouteKey, Route], ...] = ()
    remove_routes: tuple[RouteKey, ...] = ()
    remove_shared: tuple[Ip, ...] = ()
    remove_translations: tuple[TranslationKey, ...] = ()


def plan_roads(
    wanted: Roads,
    routes: Mapping[RouteKey, Route],
    translations: Mapping[TranslationKey, int],
    shared: Mapping[Ip, int],
    *,
    may_remove: bool,
) -> RoadsPlan:
    """What differs from what the data plane carries; of shared addresses it has digests."""
    put_shared = [one for one in wanted.shared.items() if shared.get(one[0]) != one[1].digest()]
    return RoadsPlan(
        put_translations=tuple(sorted(_fresh(wanted.translations, translations))),
        put_shared=tuple(sorted(put_shared, key=_first)),
        put_routes=tuple(sorted(_fresh(wanted.routes, routes), key=_first)),
        remove_routes=tuple(sorted(routes.keys() - wanted.routes.keys())) if may_remove else (),
        remove_shared=tuple(sorted(shared.keys() - wanted.shared.keys())) if may_remove else (),
        remove_translations=tuple(sorted(translations.keys() - wanted.translations.keys())) if may_remove else (),
    )


def _fresh(wanted: Mapping[_Key, _Value], carried: Mapping[_Key, _Value]) -> list[tuple[_Key, _Value]]:
    """What is not carried so."""
    return [(key, value) for key, value in wanted.items() if carried.get(key) != value]


def _first(row: tuple[Any, object]) -> Any:
    return row[0]


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
