"""Agents over REST: Neutron's face of nodes and of how they are; and what happened to them lately. Called by app."""

from __future__ import annotations

from typing import cast

import msgspec
from msgspec import UNSET

from alcor.api.bodies import AgentConfigurations, AgentPeers, AgentUpdate, AgentView, HealthEventView, UpdateReader
from alcor.api.context import Context
from alcor.api.convert import member, time_text
from alcor.api.errors import Reply
from alcor.api.exchange import Call
from alcor.api.listing import IDENTIFIER, Constant, Filter, Listing, boolean, cut, find_page, page_reply, read_fields
from alcor.api.listing import read_page as read
from alcor.model.ids import format_id
from alcor.model.nouns import Node
from alcor.services.commands import UpdateNode
from alcor.services.errors import AgentNotFound
from alcor.services.health import HostHealth, Reach
from alcor.store.base import Query

AGENT_TYPE, BINARY, TOPIC = "Alcor agent", "alcor-agent", "N/A"

LISTING = Listing(
    "agents",
    AgentNotFound,
    {
        "id": IDENTIFIER,
        "host": Filter("name"),
        "admin_state_up": Filter("admin_state_up", boolean),
        "availability_zone": Filter("availability_zone"),
        "agent_type": Constant(AGENT_TYPE),
        "binary": Constant(BINARY),
        "topic": Constant(TOPIC),
    },
)

_updates = UpdateReader(AgentUpdate, AgentView, "agent")
_encode = msgspec.json.Encoder().encode
_UNKNOWN = HostHealth()


class Agents:
    """Handlers of /v2.0/agents, /v2.0/agents/{id} and /v2.0/health-events."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(self, call: Call) -> Reply:
        page = read(call, LISTING)
        nodes = await find_page(self._context, LISTING, page, self._context.store.list_nodes)
        return page_reply(call, LISTING, page, [self._view(node) for node in nodes])

    async def show(self, call: Call) -> Reply:
        view = self._view(self._find(call))
        fields = read_fields(call)
        return Reply(200, _encode({"agent": cut(view, fields) if fields else view}))

    async def update(self, call: Call) -> Reply:
        """Drains a host (admin_state_up false), or gives it back."""
        node = self._find(call)
        body = _updates.read(call.body)
        if body.admin_state_up is not UNSET:
            command = UpdateNode(id=node.id, admin_state_up=body.admin_state_up, if_match=call.if_match())
            node = cast(Node, await self._context.control.submit(command))
        return Reply(200, _encode({"agent": self._view(node)}))

    async def events(self, _call: Call) -> Reply:
        """What happened to hosts lately, oldest first."""
        health = self._context.health
        events = health.events() if health is not None else []
        views = [
            HealthEventView(at=time_text(one.at), host=one.host, was=one.was, now=one.now, detail=one.detail)
            for one in events
        ]
        return Reply(200, _encode({"health_events": views}))

    def _find(self, call: Call) -> Node:
        node_id = member(call, AgentNotFound, "Agent")
        found = self._context.store.list_nodes(Query(filters={"id": (node_id,)}, limit=1))
        if not found:
            raise AgentNotFound(f"Agent with id={format_id(node_id)} could not be found.")
        return found[0]

    def _view(self, node: Node) -> AgentView:
        health = self._context.health.health(node.name) if self._context.health is not None else _UNKNOWN
        heard = time_text(health.heard_at) if health.heard_at else None
        return AgentView(
            id=format_id(node.id),
            host=node.name,
            availability_zone=node.availability_zone or None,
            admin_state_up=node.admin_state_up,
            alive=health.state is not Reach.DOWN and not health.standby,
            heartbeat_timestamp=heard,
            created_at=time_text(node.created_at),
            started_at=time_text(node.created_at),
            configurations=AgentConfigurations(
                state=health.state,
                path=health.path or None,
                attempts=health.attempts,
                standby=health.standby,
                heartbeat_s=health.interval_s,
                since=time_text(health.since) if health.since else None,
                peers=AgentPeers(
                    reached=health.peers.reached, refused=health.peers.refused, silent=health.peers.silent
                ),
            ),
        )
