"""Routers over REST: the resource, its interfaces and extra routes. Called by app."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec
from msgspec import UNSET

from alcor.api.bodies import CreateReader, UpdateReader, View, read_plain
from alcor.api.collection import Collection
from alcor.api.convert import each, id_text, identifier, ip, member, only, project, time_text
from alcor.api.errors import Reply
from alcor.api.exchange import Call
from alcor.api.listing import (
    OWNED,
    Constant,
    Filter,
    Listing,
    boolean,
)
from alcor.api.routing_bodies import (
    ExtraRoutesBody,
    GatewayAddressView,
    GatewayBody,
    GatewayView,
    RouterCreate,
    RouterInterfaceBody,
    RouterInterfaceView,
    RouterUpdate,
    RouterView,
    route_views,
    routes_of,
)
from alcor.model.addresses import format_ip
from alcor.model.ids import Id, format_id
from alcor.model.nouns import ExtraRoute, Router, RouterGateway
from alcor.services.commands import (
    AddRouterInterface,
    ChangeExtraRoutes,
    Command,
    CreateRouters,
    DeleteRouter,
    FixedIpSpec,
    GatewaySpec,
    RemoveRouterInterface,
    RouterInterfaces,
    RouterSpec,
    UpdateRouter,
)
from alcor.services.errors import BadRequest, RouterNotFound
from alcor.services.routers import sorted_routes
from alcor.store.base import Query

LISTING = Listing(
    "routers",
    RouterNotFound,
    {
        **OWNED,
        "admin_state_up": Filter("admin_state_up", boolean),
        "status": Constant("ACTIVE"),
        "distributed": Constant(True),
        "ha": Constant(False),
        "flavor_id": Constant(None),
    },
)

_creates = CreateReader(RouterCreate, RouterView, "router", "routers")
_updates = UpdateReader(RouterUpdate, RouterView, "router")
_extra = UpdateReader(ExtraRoutesBody, RouterView, "router")
_interface = msgspec.json.Decoder(RouterInterfaceBody)
_encode = msgspec.json.Encoder().encode


class Routers(Collection[Router]):
    """Handlers of /v2.0/routers, /v2.0/routers/{id} and what is done to a router."""

    listing, one, noun = LISTING, "router", "Router"
    absent = "could not be found"

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _creates.read(call.body)
        owner = call.project_id()
        specs = await each(bodies, lambda body: _spec(body, owner), self.listing.collection, bulk=bulk)
        return await self._created(CreateRouters(specs=tuple(specs)), bulk=bulk)

    async def update(self, call: Call) -> Reply:
        router_id, body = self._member(call), _updates.read(call.body)
        _check_neutral(body)
        routes = body.routes
        command = UpdateRouter(
            id=router_id,
            name=body.name,
            description=body.description,
            admin_state_up=body.admin_state_up,
            routes=UNSET if routes is UNSET else sorted_routes(routes_of(routes or (), "routes")),
            gateway=UNSET if body.external_gateway_info is UNSET else _gateway(body.external_gateway_info),
            if_match=call.if_match(),
        )
        return await self._updated(command)

    def _find(self, query: Query) -> Sequence[Router]:
        return self._context.store.list_rows(Router, query)

    async def _views(self, rows: Sequence[Router]) -> Sequence[View]:
        return [router_view(row) for row in rows]

    def _deletion(self, identifier: Id, if_match: int | None) -> Command:
        return DeleteRouter(id=identifier, if_match=if_match)

    async def add_interface(self, call: Call) -> Reply:
        router_id, (subnet_id, port_id) = self._member(call), _named(call)
        if subnet_id is not None and port_id is not None:
            raise BadRequest("Bad router request: Cannot specify both subnet-id and port-id.")
        command = AddRouterInterface(id=router_id, subnet_id=subnet_id, port_id=port_id, if_match=call.if_match())
        return _interface_reply(cast(RouterInterfaces, await self._context.control.submit(command)))

    async def remove_interface(self, call: Call) -> Reply:
        router_id, (subnet_id, port_id) = self._member(call), _named(call)
        command = RemoveRouterInterface(id=router_id, subnet_id=subnet_id, port_id=port_id, if_match=call.if_match())
        return _interface_reply(cast(RouterInterfaces, await self._context.control.submit(command)))

    async def add_extra_routes(self, call: Call) -> Reply:
        router_id, routes = self._member(call), _routes(call)
        return await self._updated(ChangeExtraRoutes(id=router_id, add=routes, if_match=call.if_match()))

    async def remove_extra_routes(self, call: Call) -> Reply:
        router_id, routes = self._member(call), _routes(call)
        return await self._updated(ChangeExtraRoutes(id=router_id, remove=routes, if_match=call.if_match()))


def router_view(router: Router) -> RouterView:
    """The router as REST shows it."""
    return RouterView(
        id=format_id(router.id),
        name=router.name,
        description=router.description,
        project_id=router.project_id,
        tenant_id=router.project_id,
        admin_state_up=router.admin_state_up,
        external_gateway_info=None if router.gateway is None else _gateway_view(router.gateway),
        routes=route_views(router.routes),
        created_at=time_text(router.created_at),
        updated_at=time_text(router.updated_at),
        revision_number=router.revision,
    )


def _spec(body: RouterCreate, owner: str) -> RouterSpec:
    _check_neutral(body)
    only("availability_zone_hints", not body.availability_zone_hints, "a router is on every host; leave it out")
    return RouterSpec(
        project_id=project(body.project_id, body.tenant_id, owner),
        name=body.name,
        description=body.description,
        admin_state_up=body.admin_state_up,
        gateway=_gateway(body.external_gateway_info),
    )


def _gateway_view(gateway: RouterGateway) -> GatewayView:
    addresses = [GatewayAddressView(id_text(one.subnet_id), format_ip(one.ip)) for one in gateway.addresses]
    return GatewayView(
        network_id=id_text(gateway.network_id),
        external_fixed_ips=addresses,
        enable_snat=gateway.enable_snat,
        hosts_without_snat=list(gateway.without),
    )


def _gateway(body: GatewayBody | None) -> GatewaySpec | None:
    """What is asked for; null, and a body without a network, take it away."""
    if body is None:
        return None
    where = "external_gateway_info"
    addresses = []
    for one in body.external_fixed_ips:
        subnet_id = address = None
        if one.subnet_id is not UNSET:
            subnet_id = identifier(one.subnet_id, f"{where}.external_fixed_ips.subnet_id")
        if one.ip_address is not UNSET:
            address = ip(one.ip_address, f"{where}.external_fixed_ips.ip_address")
        if subnet_id is not None or address is not None:
            addresses.append(FixedIpSpec(subnet_id=subnet_id, ip=address))
    if body.network_id is None:
        return None
    network_id = identifier(body.network_id, f"{where}.network_id")
    return GatewaySpec(network_id=network_id, addresses=tuple(addresses), enable_snat=body.enable_snat)


def _check_neutral(body: RouterCreate | RouterUpdate) -> None:
    only("distributed", body.distributed, "routers are distributed, always; leave it out or give true")
    only("ha", not body.ha, "a router is on every host, so there is none to fail over to; leave it out or give false")


def _member(call: Call) -> Id:
    return member(call, RouterNotFound, "Router")


def _routes(call: Call) -> tuple[ExtraRoute, ...]:
    return sorted_routes(routes_of(_extra.read(call.body).routes, "routes"))


def _named(call: Call) -> tuple[Id | None, Id | None]:
    """The subnet and the port in the body: at least one of them."""
    body = read_plain(_interface, call.body, RouterInterfaceView)
    if body.subnet_id is UNSET and body.port_id is UNSET:
        raise BadRequest("Bad router request: Either subnet_id or port_id must be specified.")
    subnet = None if body.subnet_id is UNSET else identifier(body.subnet_id, "subnet_id")
    return subnet, None if body.port_id is UNSET else identifier(body.port_id, "port_id")


def _interface_reply(done: RouterInterfaces) -> Reply:
    first = done.interfaces[0]
    view = RouterInterfaceView(
        id=format_id(done.router_id),
        project_id=done.project_id,
        tenant_id=done.project_id,
        network_id=id_text(first.network_id),
        port_id=format_id(first.port_id),
        subnet_id=id_text(first.subnet_id),
        subnet_ids=[id_text(one.subnet_id) for one in done.interfaces],
    )
    return Reply(200, _encode(view))
