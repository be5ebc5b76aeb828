"""Peerings of VPCs over REST, Alcor's own resource. Called by app."""

from __future__ import annotations

from collections.abc import Sequence

from alcor.api.bodies import CreateReader, UpdateReader, View
from alcor.api.collection import Collection
from alcor.api.convert import each, id_text, identifier, member, project, time_text
from alcor.api.errors import Reply
from alcor.api.exchange import Call
from alcor.api.listing import (
    OWNED,
    Constant,
    Filter,
    Listing,
)
from alcor.api.routing_bodies import VpcPeeringCreate, VpcPeeringUpdate, VpcPeeringView
from alcor.model.ids import Id, format_id, parse_id
from alcor.model.nouns import Peering
from alcor.services.commands import Command, CreatePeerings, DeletePeering, PeeringSpec, UpdatePeering
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


class Peerings(Collection[Peering]):
    """Handlers of /v2.0/vpc-peerings and /v2.0/vpc-peerings/{id}."""

    listing, one, noun = LISTING, "vpc_peering", "VPC peering"

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _creates.read(call.body)
        owner = call.project_id()
        specs = await each(bodies, lambda body: _spec(body, owner), self.listing.collection, bulk=bulk)
        return await self._created(CreatePeerings(specs=tuple(specs)), bulk=bulk)

    async def update(self, call: Call) -> Reply:
        identifier, body = self._member(call), _updates.read(call.body)
        return await self._updated(
            UpdatePeering(id=identifier, name=body.name, description=body.description, if_match=call.if_match())
        )

    def _find(self, query: Query) -> Sequence[Peering]:
        return self._context.store.list_rows(Peering, query)

    async def _views(self, rows: Sequence[Peering]) -> Sequence[View]:
        return [peering_view(row) for row in rows]

    def _deletion(self, identifier: Id, if_match: int | None) -> Command:
        return DeletePeering(id=identifier, if_match=if_match)


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
