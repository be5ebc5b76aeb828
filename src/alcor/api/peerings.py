"""Peerings of VPCs over REST, Alcor's own resource. Called by app."""

from __future__ import annotations

from typing import cast

import msgspec

from alcor.api.bodies import CreateReader, UpdateReader
from alcor.api.context import Context
from alcor.api.convert import each, id_text, identifier, member, project, time_text
from alcor.api.errors import Reply
from alcor.api.exchange import Call
from alcor.api.listing import (
    OWNED,
    Constant,
    Filter,
    Listing,
    cut,
    find_page,
    page_reply,
    read_fields,
    read_page,
)
from alcor.api.routing_bodies import VpcPeeringCreate, VpcPeeringUpdate, VpcPeeringView
from alcor.model.ids import Id, format_id, parse_id
from alcor.model.nouns import Peering
from alcor.services.commands import CreatePeerings, DeletePeering, PeeringSpec, UpdatePeering
from alcor.services.errors import VpcPeeringNotFound
from alcor.store.base import Query

LISTING = Listing(
    "vpc_peerings",
    VpcPeeringNotFound,
    {
        **OWNED,
        "network_id": Filter("network_id", parse_id),
        "peer_network_id": Filter("peer_network_id", parse_id),
        "status": Constant("ACTIVE"),
    },
)

_creates = CreateReader(VpcPeeringCreate, VpcPeeringView, "vpc_peering", "vpc_peerings")
_updates = UpdateReader(VpcPeeringUpdate, VpcPeeringView, "vpc_peering")
_encode = msgspec.json.Encoder().encode


class Peerings:
    """Handlers of /v2.0/vpc-peerings and /v2.0/vpc-peerings/{id}."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _creates.read(call.body)
        owner = call.project_id()
        specs = await each(bodies, lambda body: _spec(body, owner), "vpc_peerings", bulk=bulk)
        answer = await self._context.control.submit(CreatePeerings(specs=tuple(specs)))
        views = [peering_view(peering) for peering in cast(tuple[Peering, ...], answer)]
        return Reply(201, _encode({"vpc_peerings": views} if bulk else {"vpc_peering": views[0]}))

    async def list(self, call: Call) -> Reply:
        page = read_page(call, LISTING)
        store = self._context.store
        peerings = await find_page(self._context, LISTING, page, lambda query: store.list_rows(Peering, query))
        return page_reply(call, LISTING, page, [peering_view(peering) for peering in peerings])

    async def show(self, call: Call) -> Reply:
        peering_id = _member(call)
        found = self._context.store.list_rows(Peering, Query(filters={"id": (peering_id,)}, limit=1))
        if not found:
            raise VpcPeeringNotFound(f"VPC peering {format_id(peering_id)} could not be found.")
        view = peering_view(found[0])
        fields = read_fields(call)
        return Reply(200, _encode({"vpc_peering": cut(view, fields) if fields else view}))

    async def update(self, call: Call) -> Reply:
        peering_id, body = _member(call), _updates.read(call.body)
        command = UpdatePeering(id=peering_id, name=body.name, description=body.description, if_match=call.if_match())
        peering = cast(Peering, await self._context.control.submit(command))
        return Reply(200, _encode({"vpc_peering": peering_view(peering)}))

    async def delete(self, call: Call) -> Reply:
        await self._context.control.submit(DeletePeering(id=_member(call), if_match=call.if_match()))
        return Reply(204)


def peering_view(peering: Peering) -> VpcPeeringView:
    """The peering as REST shows it."""
    return VpcPeeringView(
        id=format_id(peering.id),
        name=peering.name,
        description=peering.description,
        project_id=peering.project_id,
        tenant_id=peering.project_id,
        network_id=id_text(peering.network_id),
        peer_network_id=id_text(peering.peer_network_id),
        created_at=time_text(peering.created_at),
        updated_at=time_text(peering.updated_at),
        revision_number=peering.revision,
    )


def _spec(body: VpcPeeringCreate, owner: str) -> PeeringSpec:
    return PeeringSpec(
        network_id=identifier(body.network_id, "network_id"),
        peer_network_id=identifier(body.peer_network_id, "peer_network_id"),
        project_id=project(body.project_id, body.tenant_id, owner),
        name=body.name,
        description=body.description,
    )


def _member(call: Call) -> Id:
    return member(call, VpcPeeringNotFound, "VPC peering")
