"""Nodes, the compute hosts, over REST: Alcor's own resource in Neutron's style. Called by app."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from alcor.api.bodies import CreateReader, NodeCreate, NodeUpdate, NodeView, UpdateReader, View
from alcor.api.collection import Collection
from alcor.api.convert import each, ip, time_text
from alcor.api.errors import Reply
from alcor.api.exchange import Call
from alcor.api.listing import (
    STANDARD,
    Filter,
    Listing,
    boolean,
    integer,
)
from alcor.model.addresses import format_ip, parse_ip
from alcor.model.ids import Id, format_id
from alcor.model.nouns import Node
from alcor.services.commands import Command, CreateNodes, DeleteNode, NodeSpec, UpdateNode
from alcor.services.errors import NodeNotFound
from alcor.store.base import Query

LISTING = Listing(
    "nodes",
    NodeNotFound,
    {
        **STANDARD,
        "local_ip": Filter("underlay_ip", parse_ip),
        "agent_host": Filter("agent_host"),
        "agent_port": Filter("agent_port", integer),
        "availability_zone": Filter("availability_zone"),
        "failure_domain": Filter("failure_domain"),
        "admin_state_up": Filter("admin_state_up", boolean),
    },
)

_creates = CreateReader(NodeCreate, NodeView, "node", "nodes")
_updates = UpdateReader(NodeUpdate, NodeView, "node")


class Nodes(Collection[Node]):
    """Handlers of /v2.0/nodes and /v2.0/nodes/{id}."""

    listing, one, noun = LISTING, "node", "Node"

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _creates.read(call.body)
        specs = await each(bodies, _spec, self.listing.collection, bulk=bulk)
        return await self._created(CreateNodes(specs=tuple(specs)), bulk=bulk)

    async def update(self, call: Call) -> Reply:
        identifier, body = self._member(call), _updates.read(call.body)
        command = UpdateNode(
            id=identifier,
            underlay_ip=UNSET if body.local_ip is UNSET else ip(body.local_ip, "local_ip"),
            agent_host=body.agent_host,
            agent_port=body.agent_port,
            availability_zone=body.availability_zone,
            failure_domain=body.failure_domain,
            admin_state_up=body.admin_state_up,
            if_match=call.if_match(),
        )
        return await self._updated(command)

    def _find(self, query: Query) -> Sequence[Node]:
        return self._context.store.list_nodes(query)

    async def _views(self, rows: Sequence[Node]) -> Sequence[View]:
        return [node_view(row) for row in rows]

    def _deletion(self, identifier: Id, if_match: int | None) -> Command:
        return DeleteNode(id=identifier, if_match=if_match)


def node_view(node: Node) -> NodeView:
    """The node as REST shows it."""
    return NodeView(
        id=format_id(node.id),
        name=node.name,
        local_ip=format_ip(node.underlay_ip),
        agent_host=node.agent_host,
        agent_port=node.agent_port,
        availability_zone=node.availability_zone,
        failure_domain=node.failure_domain,
        admin_state_up=node.admin_state_up,
        created_at=time_text(node.created_at),
        updated_at=time_text(node.updated_at),
        revision_number=node.revision,
    )


def _spec(body: NodeCreate) -> NodeSpec:
    return NodeSpec(
        name=body.name,
        underlay_ip=ip(body.local_ip, "local_ip"),
        agent_host=body.agent_host,
        agent_port=body.agent_port,
        availability_zone=body.availability_zone,
        failure_domain=body.failure_domain,
        admin_state_up=body.admin_state_up,
    )
