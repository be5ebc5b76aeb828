"""Routers: create, change, delete, their interfaces and extra routes. Pure: (indexes, command, stamp) -> outcome.

Called by services.dispatch. Words, codes and messages are Neutron's where Neutron has one. A router's interfaces are in
its own row, so its revision names one state of all of it; each is a port as well, which has the address and shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from alcor.model.addresses import format_ip, ip_to_int, ip_version
from alcor.model.allocation import Allocation, Allocator
from alcor.model.ids import Id, format_id
from alcor.model.nouns import ExtraRoute, FixedIp, Port, Router, RouterInterface, Subnet
from alcor.services.addressing import NetworkDemand, supply
from alcor.services.commands import (
    AddRouterInterface,
    ChangeExtraRoutes,
    CreateRouters,
    DeleteRouter,
    RemoveRouterInterface,
    RouterInterfaces,
    UpdateRouter,
)
from alcor.services.errors import (
    BadRequest,
    InvalidRoutes,
    PortInUse,
    PortNotFound,
    RouterInterfaceInUseByFloatingIP,
    RouterInterfaceInUseByRoute,
    RouterInterfaceNotFound,
    RouterInterfaceNotFoundForSubnet,
    RouterInUse,
    RouterNotFound,
    RoutesExhausted,
    SubnetMismatchForPort,
)
from alcor.services.floating_ips import service_port
from alcor.services.gateways import Allocations, check_apart, with_gateway
from alcor.services.identities import connect
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.reach import find_clash
from alcor.services.revisions import changed_fields, check_if_match
from alcor.services.subnets import find_subnet
from alcor.store.base import Changes

INTERFACE_OWNER = "network:router_interface"
MAX_ROUTES = 4096
"""Extra routes of one router."""
MAX_NEXT_HOPS = 8
"""Of one destination: what hosts share its traffic over."""
MAX_INTERFACES = 1024
"""Of one router."""


def find_router(indexes: Indexes, router_id: Id) -> Router:
    """The router of an id. Raises RouterNotFound."""
    router = indexes.routers.get(router_id)
    if router is None:
        raise RouterNotFound(f"Router {format_id(router_id)} could not be found")
    return router


def create_routers(indexes: Indexes, command: CreateRouters, stamp: Stamp) -> Outcome:
    """Makes the routers, without interfaces."""
    if sum(spec.gateway is not None for spec in command.specs) > 1:
        raise BadRequest("Bad router request: one request makes at most one router with external_gateway_info.")
    changes = Changes()
    allocations: Allocations = ()
    for identifier, spec in zip(stamp.ids, command.specs, strict=True):
        router = Router(
            id=identifier,
            project_id=spec.project_id,
            name=spec.name,
            description=spec.description,
            admin_state_up=spec.admin_state_up,
            routes=(),
            interfaces=(),
            created_at=stamp.now,
            updated_at=stamp.now,
            revision=stamp.revision,
        )
        if spec.gateway is not None:
            router, allocations = with_gateway(indexes, {}, router, spec.gateway, stamp, changes)
        changes.routers.append(router)
    return Outcome(tuple(changes.routers), changes, allocations)


def update_router(indexes: Indexes, ports: Mapping[Id, Port], command: UpdateRouter, stamp: Stamp) -> Outcome:
    """Changes what the command sets. Nothing different: nothing is written, the revision stays."""
    before = find_router(indexes, command.id)
    check_if_match(before, command.if_match)
    fields: dict[str, Any] = changed_fields(before, command, ("name", "description", "admin_state_up", "routes"))
    changes = Changes()
    allocations: Allocations = ()
    if command.gateway is not UNSET:
        after, allocations = with_gateway(indexes, ports, before, command.gateway, stamp, changes)
        if after.gateway != before.gateway:
            fields["gateway"] = after.gateway
    outcome = _changed(indexes, before, fields, stamp)
    changes.extend(outcome.changes)
    return Outcome(outcome.answer, changes, allocations)


def change_extra_routes(indexes: Indexes, command: ChangeExtraRoutes, stamp: Stamp) -> Outcome:
    """Adds and removes routes."""
    before = find_router(indexes, command.id)
    check_if_match(before, command.if_match)
    routes = tuple(sorted((set(before.routes) | set(command.add)) - set(command.remove), key=_order))
    return _changed(indexes, before, {"routes": routes} if routes != before.routes else {}, stamp)


def delete_router(indexes: Indexes, ports: Mapping[Id, Port], command: DeleteRouter, stamp: Stamp) -> Outcome:
    """Deletes a router without interfaces, and its gateway."""
    router = find_router(indexes, command.id)
    check_if_match(router, command.if_match)
    if router.interfaces:
        raise RouterInUse(f"Router {format_id(router.id)} still has ports")
    changes = Changes(deleted_routers=[router])
    _, allocations = with_gateway(indexes, ports, router, None, stamp, changes)
    return Outcome(None, changes, allocations)


def add_interface(indexes: Indexes, ports: Mapping[Id, Port], command: AddRouterInterface, stamp: Stamp) -> Outcome:
    """Gives the router an address in a subnet: the subnet's gateway, by a port that is made, or those of a port."""
    before = find_router(indexes, command.id)
    check_if_match(before, command.if_match)
    changes = Changes()
    allocations: tuple[tuple[Allocator, Allocation], ...] = ()
    if command.port_id is not None:
        old = _free_port(indexes, ports, command.port_id)
        subnets = [find_subnet(indexes, fixed.subnet_id) for fixed in old.fixed_ips]
        port = replace(
            old,
            device_owner=INTERFACE_OWNER,
            device_id=format_id(before.id),
            updated_at=stamp.now,
            revision=stamp.revision,
        )
        changes.changed_ports.append((old, port))
    else:
        assert command.subnet_id is not None
        subnets = [find_subnet(indexes, command.subnet_id)]
        _check_place(before, subnets)
        port, allocations = _gateway_port(indexes, before, subnets[0], stamp)
        changes.new_ports.append(port)
    _check_place(before, subnets)
    added = tuple(
        RouterInterface(port.id, port.network_id, subnet.id, subnet.cidr, fixed.ip)
        for subnet, fixed in zip(subnets, port.fixed_ips, strict=True)
    )
    for one in added:
        check_apart(indexes, before.gateway, one)
    after = replace(before, interfaces=before.interfaces + added, updated_at=stamp.now, revision=stamp.revision)
    if len(after.interfaces) > MAX_INTERFACES:
        raise BadRequest(f"Bad router request: a router has at most {MAX_INTERFACES} interfaces.")
    clash = find_clash(indexes, after.networks, road=after)
    if clash is not None:
        raise BadRequest(
            f"Bad router request: Cidr {clash.one_cidr} of subnet {format_id(clash.one)} overlaps with cidr "
            f"{clash.other_cidr} of subnet {format_id(clash.other)}: network {format_id(clash.network_id)} would reach "
            "both."
        )
    check_routes(indexes, after)
    changes.routers.append(after)
    connect(indexes, stamp, changes, port.network_id, after.networks)
    return Outcome(_told(before, added), changes, allocations)


def remove_interface(
    indexes: Indexes, ports: Mapping[Id, Port], command: RemoveRouterInterface, stamp: Stamp
) -> Outcome:
    """Takes an interface away, and its port with it."""
    before = find_router(indexes, command.id)
    check_if_match(before, command.if_match)
    gone = _named_interfaces(before, command)
    kept = tuple(one for one in before.interfaces if one not in gone)
    for one in gone:
        if any(route.nexthop is not None and route.nexthop in one.cidr for route in before.routes):
            raise RouterInterfaceInUseByRoute(
                f"Router interface for subnet {format_id(one.subnet_id)} on router {format_id(before.id)} cannot be "
                "deleted, as it is required by one or more routes."
            )
        _check_unused(indexes, before, one)
    port = ports[gone[0].port_id]
    demand = NetworkDemand(indexes.networks[port.network_id])
    demand.release(indexes, port, mac=True)
    after = replace(before, interfaces=kept, updated_at=stamp.now, revision=stamp.revision)
    left = sorted(set(before.networks) - set(after.networks))
    changes = Changes(routers=[after], deleted_ports=[port], left_networks=left)
    return Outcome(_told(before, gone), changes, tuple(supply(indexes, demand)[1]))


def _check_unused(indexes: Indexes, router: Router, interface: RouterInterface) -> None:
    """Raises when a floating IP needs the interface."""
    for identifier in indexes.floating_ips_via.get(router.id, ()):
        fixed = {indexes.floating_ips[identifier].fixed_ip}
        fixed |= {indexes.port_forwardings[one].fixed_ip for one in indexes.forwardings_by.get(identifier, ())}
        if any(ip is not None and ip in interface.cidr for ip in fixed):
            raise RouterInterfaceInUseByFloatingIP(
                f"Router interface for subnet {format_id(interface.subnet_id)} on router {format_id(router.id)} cannot "
                "be deleted, as it is required by one or more floating IPs."
            )


def ports_of_gateway(indexes: Indexes, command: UpdateRouter | DeleteRouter) -> Sequence[Id]:
    """The port of the router's gateway, and the router."""
    router = indexes.routers.get(command.id)
    return (command.id,) if router is None or router.gateway is None else (command.id, router.gateway.port_id)


def ports_of_interface(indexes: Indexes, command: AddRouterInterface | RemoveRouterInterface) -> Sequence[Id]:
    """The ports that the command reads, and (so that it sees no half of another's change) its router."""
    if command.port_id is not None:
        return (command.id, command.port_id)
    router = indexes.routers.get(command.id)
    known = router.interfaces if router is not None and isinstance(command, RemoveRouterInterface) else ()
    return (command.id, *(one.port_id for one in known if one.subnet_id == command.subnet_id))


def check_routes(indexes: Indexes, router: Router) -> None:
    """Raises for routes that cannot be, or that would lead back to a router."""
    if len(router.routes) > MAX_ROUTES:
        raise RoutesExhausted(
            f"Unable to complete operation for {format_id(router.id)}. The number of routes exceeds the maximum "
            f"{MAX_ROUTES}."
        )
    own = {one.ip for one in router.interfaces}
    foreign = {
        one.ip
        for network_id in router.networks
        for road in indexes.roads(network_id)
        if isinstance(road, Router) and road.id != router.id
        for one in road.interfaces
    }
    gateways = {indexes.subnets[one.subnet_id].gateway for one in router.interfaces}
    hops = Counter(route.destination for route in router.routes)
    for route in router.routes:
        text = route_text(route)
        if hops[route.destination] > MAX_NEXT_HOPS:
            raise _invalid(text, f"a destination has at most {MAX_NEXT_HOPS} next hops")
        if route.nexthop is None:
            if hops[route.destination] > 1:
                raise _invalid(text, "a blackhole has no next hop beside it")
            continue
        if ip_version(route.nexthop) != route.destination.version:
            raise _invalid(text, "destination and nexthop are of two families")
        if route.nexthop in own:
            raise _invalid(text, "the nexthop is used by router")
        if route.nexthop in foreign or route.nexthop in gateways:
            raise _invalid(text, "the nexthop is a router's address: the route would lead to a router, not to a port")
        if not any(route.nexthop in one.cidr for one in router.interfaces):
            raise _invalid(text, "the nexthop is not connected with router")


def route_text(route: ExtraRoute) -> str:
    """A route for people."""
    return f"{route.destination} via {'nowhere' if route.nexthop is None else format_ip(route.nexthop)}"


def sorted_routes(routes: Sequence[ExtraRoute]) -> tuple[ExtraRoute, ...]:
    """In the one order in which routes are kept. Raises InvalidRoutes for one twice."""
    if len(set(routes)) != len(routes):
        twice = next(route for route, count in Counter(routes).items() if count > 1)
        raise _invalid(route_text(twice), "it is there twice")
    return tuple(sorted(routes, key=_order))


def _order(route: ExtraRoute) -> tuple[Any, ...]:
    return route.destination, route.nexthop or b""


def _invalid(text: str, reason: str) -> InvalidRoutes:
    return InvalidRoutes(f"Invalid format for routes: {text}, {reason}")


def _changed(indexes: Indexes, before: Router, fields: dict[str, Any], stamp: Stamp) -> Outcome:
    if not fields:
        return Outcome(before, Changes())
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    if "routes" in fields:
        check_routes(indexes, after)
    return Outcome(after, Changes(routers=[after]))


def _told(router: Router, interfaces: tuple[RouterInterface, ...]) -> RouterInterfaces:
    return RouterInterfaces(router_id=router.id, project_id=router.project_id, interfaces=interfaces)


def _free_port(indexes: Indexes, ports: Mapping[Id, Port], port_id: Id) -> Port:
    """A port that can become a router's."""
    port = ports.get(port_id)
    if port is None:
        raise PortNotFound(f"Port {format_id(port_id)} could not be found.")
    if port.device_id or port.host or port.id in indexes.router_of:
        raise PortInUse(
            f"Unable to complete operation on port {format_id(port.id)} for network {format_id(port.network_id)}. "
            f"Port already has an attached device {port.device_id or port.host}."
        )
    if not port.fixed_ips:
        raise BadRequest("Bad router request: Router port must have at least one fixed IP.")
    if sum(ip_version(fixed.ip) == 4 for fixed in port.fixed_ips) > 1:
        raise BadRequest("Bad router request: Cannot have multiple IPv4 subnets on router port.")
    return port


def _check_place(router: Router, subnets: Sequence[Subnet]) -> None:
    for subnet in subnets:
        if any(one.subnet_id == subnet.id for one in router.interfaces):
            raise BadRequest(f"Bad router request: Router already has a port on subnet {format_id(subnet.id)}.")


def _gateway_port(
    indexes: Indexes, router: Router, subnet: Subnet, stamp: Stamp
) -> tuple[Port, tuple[tuple[Allocator, Allocation], ...]]:
    """A new port that has the subnet's gateway address."""
    if subnet.gateway is None:
        raise BadRequest("Bad router request: Subnet for router interface must have a gateway IP.")
    demand = NetworkDemand(indexes.networks[subnet.network_id])
    demand.mac_count = 1
    demand.take_addresses([(subnet, ip_to_int(subnet.gateway) - subnet.cidr.first)])
    source, allocations = supply(indexes, demand)
    (identifier,) = stamp.spare(1)
    fixed = (FixedIp(subnet.id, subnet.gateway),)
    port = service_port(identifier, subnet.network_id, source.mac(), fixed, INTERFACE_OWNER, router.id, stamp)
    port = replace(port, project_id=router.project_id)
    return port, tuple(allocations)


def _named_interfaces(router: Router, command: RemoveRouterInterface) -> tuple[RouterInterface, ...]:
    """All of the port that the command means."""
    if command.port_id is not None:
        found = tuple(one for one in router.interfaces if one.port_id == command.port_id)
        if not found:
            raise RouterInterfaceNotFound(
                f"Router {format_id(router.id)} does not have an interface with id {format_id(command.port_id)}"
            )
        if command.subnet_id is not None and all(one.subnet_id != command.subnet_id for one in found):
            raise SubnetMismatchForPort(
                f"Subnet on port {format_id(command.port_id)} does not match the requested subnet "
                f"{format_id(command.subnet_id)}"
            )
        return found
    assert command.subnet_id is not None
    port = next((one.port_id for one in router.interfaces if one.subnet_id == command.subnet_id), None)
    if port is None:
        raise RouterInterfaceNotFoundForSubnet(
            f"Router {format_id(router.id)} has no interface on subnet {format_id(command.subnet_id)}"
        )
    return tuple(one for one in router.interfaces if one.port_id == port)
