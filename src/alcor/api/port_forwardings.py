"""Port forwardings of floating IPs over REST. Called by app."""

from __future__ import annotations

from typing import cast

import msgspec
from msgspec import UNSET

from alcor.api.bodies import CreateReader, UpdateReader
from alcor.api.context import Context
from alcor.api.convert import each, identifier, ip, member, parent
from alcor.api.errors import Reply
from alcor.api.exchange import Call
from alcor.api.listing import IDENTIFIER, Filter, Listing, cut, find_page, integer, page_reply, read_fields, read_page
from alcor.api.nat_bodies import PortForwardingCreate, PortForwardingUpdate, PortForwardingView
from alcor.model.addresses import format_ip, parse_ip
from alcor.model.ids import Id, format_id, parse_id
from alcor.model.nouns import FloatingIp, PortForwarding
from alcor.services.commands import (
    CreatePortForwardings,
    DeletePortForwarding,
    PortForwardingSpec,
    UpdatePortForwarding,
)
from alcor.services.errors import FloatingIPNotFound, PortForwardingNotFound
from alcor.services.port_forwardings import NAMES
from alcor.store.base import Query

NUMBERS: dict[str, int] = {name: number for number, name in NAMES.items()}


def _protocol(text: str) -> int:
    if text not in NUMBERS:
        raise ValueError(text)
    return NUMBERS[text]


LISTING = Listing(
    "port_forwardings",
    PortForwardingNotFound,
    {
        "id": IDENTIFIER,
        "description": Filter("description"),
        "protocol": Filter("protocol", _protocol),
        "external_port": Filter("external_port", integer),
        "internal_port": Filter("internal_port", integer),
        "internal_port_id": Filter("port_id", parse_id),
        "internal_ip_address": Filter("fixed_ip", parse_ip),
    },
)

_creates = CreateReader(PortForwardingCreate, PortForwardingView, "port_forwarding", "port_forwardings")
_updates = UpdateReader(PortForwardingUpdate, PortForwardingView, "port_forwarding")
_encode = msgspec.json.Encoder().encode
Rows = list[PortForwarding]


class PortForwardings:
    """Handlers of /v2.0/floatingips/{id}/port_forwardings and /v2.0/floatingips/{id}/port_forwardings/{id}."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, call: Call) -> Reply:
        fip_id = parent(call, FloatingIPNotFound, "Floating IP")
        bodies, bulk = _creates.read(call.body)
        specs = await each(bodies, _spec, "port_forwardings", bulk=bulk)
        answer = await self._context.control.submit(CreatePortForwardings(floating_ip_id=fip_id, specs=tuple(specs)))
        views = [port_forwarding_view(one) for one in cast(tuple[PortForwarding, ...], answer)]
        return Reply(201, _encode({"port_forwardings": views} if bulk else {"port_forwarding": views[0]}))

    async def list(self, call: Call) -> Reply:
        fip_id = parent(call, FloatingIPNotFound, "Floating IP")
        store = self._context.store
        if not store.list_rows(FloatingIp, Query(filters={"id": (fip_id,)}, limit=1)):
            raise FloatingIPNotFound(f"Floating IP {format_id(fip_id)} could not be found")
        page = read_page(call, LISTING)
        query = page.query
        if query is not None:
            query = msgspec.structs.replace(query, filters={**query.filters, "floating_ip_id": (fip_id,)})
            page = page._replace(query=query)
        found = await find_page(self._context, LISTING, page, self._list)
        return page_reply(call, LISTING, page, [port_forwarding_view(one) for one in found])

    async def show(self, call: Call) -> Reply:
        fip_id, one_id = _named(call)
        found = self._list(Query(filters={"id": (one_id,), "floating_ip_id": (fip_id,)}, limit=1))
        if not found:
            raise PortForwardingNotFound(f"Port Forwarding {format_id(one_id)} could not be found.")
        view, fields = port_forwarding_view(found[0]), read_fields(call)
        return Reply(200, _encode({"port_forwarding": cut(view, fields) if fields else view}))

    async def update(self, call: Call) -> Reply:
        fip_id, one_id = _named(call)
        body = _updates.read(call.body)
        address = body.internal_ip_address
        command = UpdatePortForwarding(
            id=one_id,
            floating_ip_id=fip_id,
            description=body.description,
            protocol=UNSET if body.protocol is UNSET else NUMBERS[body.protocol],
            external_port=body.external_port,
            internal_port=body.internal_port,
            fixed_ip=UNSET if address is UNSET else ip(address, "internal_ip_address"),
            if_match=call.if_match(),
        )
        view = port_forwarding_view(cast(PortForwarding, await self._context.control.submit(command)))
        return Reply(200, _encode({"port_forwarding": view}))

    async def delete(self, call: Call) -> Reply:
        fip_id, one_id = _named(call)
        command = DeletePortForwarding(id=one_id, floating_ip_id=fip_id, if_match=call.if_match())
        await self._context.control.submit(command)
        return Reply(204)

    def _list(self, query: Query) -> Rows:
        return self._context.store.list_rows(PortForwarding, query)


def port_forwarding_view(one: PortForwarding) -> PortForwardingView:
    """The port forwarding as REST shows it."""
    return PortForwardingView(
        id=format_id(one.id),
        protocol=NAMES[one.protocol],
        external_port=one.external_port,
        internal_port=one.internal_port,
        internal_ip_address=format_ip(one.fixed_ip),
        internal_port_id=format_id(one.port_id),
        description=one.description,
    )


def _named(call: Call) -> tuple[Id, Id]:
    """The floating IP and the port forwarding in the path."""
    return parent(call, FloatingIPNotFound, "Floating IP"), member(call, PortForwardingNotFound, "Port Forwarding")


def _spec(body: PortForwardingCreate) -> PortForwardingSpec:
    address = body.internal_ip_address
    return PortForwardingSpec(
        port_id=identifier(body.internal_port_id, "internal_port_id"),
        protocol=NUMBERS[body.protocol],
        external_port=body.external_port,
        internal_port=body.internal_port,
        fixed_ip=ip(address, "internal_ip_address") if isinstance(address, str) else None,
        description=body.description,
    )
