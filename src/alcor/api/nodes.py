"""Nodes, the compute hosts, over REST: Alcor's own resource in Neutron's style. Called by app."""

from __future__ import annotations

from typing import cast

import msgspec
from msgspec import UNSET

from alcor.api.bodies import CreateReader, NodeCreate, NodeUpdate, NodeView, UpdateReader
from alcor.api.context import Context
from alcor.api.convert import each, ip, member, time_text
from alcor.api.errors import Reply
from alcor.api.exchange import Call
from alcor.api.listing import (
    STANDARD,
    Filter,
    Listing,
    boolean,
    cut,
    find_page,
    integer,
    page_reply,
    read_fields,
    read_page,
)
from alcor.model.addresses import format_ip, parse_ip
from alcor.model.ids import format_id
from alcor.model.nouns import Node
from alcor.services.commands import CreateNodes, DeleteNode, NodeSpec, UpdateNode
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
_encode = msgspec.json.Encoder().encode


class Nodes:
    """Handlers of /v2.0/nodes and /v2.0/nodes/{id}."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _creates.read(call.body)
        specs = await each(bodies, _spec, "nodes", bulk=bulk)
        answer = await self._context.control.submit(CreateNodes(specs=tuple(specs)))
        views = [node_view(node) for node in cast(tuple[Node, ...], answer)]
        return Reply(201, _encode({"nodes": views} if bulk else {"node": views[0]}))

    async def list(self, call: Call) -> Reply:
        page = read_page(call, LISTING)
        nodes = await find_page(self._context, LISTING, page, self._context.store.list_nodes)
        return page_reply(call, LISTING, page, [node_view(node) for node in nodes])

    async def show(self, call: Call) -> Reply:
        node_id = member(call, NodeNotFound, "Node")
        found = self._context.store.list_nodes(Query(filters={"id": (node_id,)}, limit=1))
        if not found:
            raise NodeNotFound(f"Node {format_id(node_id)} could not be found.")
        view = node_view(found[0])
        fields = read_fields(call)
        return Reply(200, _encode({"node": cut(view, fields) if fields else view}))

    async def update(self, call: Call) -> Reply:
        node_id = member(call, NodeNotFound, "Node")
        body = _updates.read(call.body)
        command = UpdateNode(
            id=node_id,
            underlay_ip=UNSET if body.local_ip is UNSET else ip(body.local_ip, "local_ip"),
            agent_host=body.agent_host,
            agent_port=body.agent_port,
            availability_zone=body.availability_zone,
            failure_domain=body.failure_domain,
            admin_state_up=body.admin_state_up,
            if_match=call.if_match(),
        )
        node = cast(Node, await self._context.control.submit(command))
        return Reply(200, _encode({"node": node_view(node)}))

    async def delete(self, call: Call) -> Reply:
        node_id = member(call, NodeNotFound, "Node")
        await self._context.control.submit(DeleteNode(id=node_id, if_match=call.if_match()))
        return Reply(204)


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
