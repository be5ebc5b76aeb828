"""Nodes, the compute hosts: register, change, remove. Pure.

Called by services.dispatch.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from alcor.model.addresses import Ip, format_ip, ip_version
from alcor.model.ids import Id, format_id
from alcor.model.nouns import Node
from alcor.services.commands import CreateNodes, DeleteNode, UpdateNode
from alcor.services.errors import InvalidInput, NodeInUse, NodeNameInUse, NodeNotFound, NodeUnderlayIpInUse
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.revisions import changed_fields, check_if_match
from alcor.store.base import Changes

_FIELDS = ("underlay_ip", "agent_host", "agent_port", "availability_zone", "failure_domain", "admin_state_up")


def find_node(indexes: Indexes, node_id: Id) -> Node:
    """The node of an id. Raises NodeNotFound."""
    node = indexes.nodes.get(node_id)
    if node is None:
        raise NodeNotFound(f"Node {format_id(node_id)} could not be found.")
    return node


def create_nodes(indexes: Indexes, command: CreateNodes, stamp: Stamp) -> Outcome:
    """Registers the nodes; names and underlay addresses are each used once."""
    names: set[str] = set()
    addresses: set[Ip] = set()
    nodes = []
    for identifier, spec in zip(stamp.ids, command.specs, strict=True):
        if not spec.name:
            raise InvalidInput("Invalid input for operation: name of a node cannot be empty.")
        if spec.name in names or spec.name in indexes.node_named:
            raise NodeNameInUse(f"A node named {spec.name} exists already (or twice in this request).")
        _check_underlay_ip(indexes, spec.underlay_ip, spec.name)
        if spec.underlay_ip in addresses:
            raise _underlay_ip_in_use(spec.underlay_ip, "another node of this request")
        _check_agent_port(spec.agent_port)
        names.add(spec.name)
        addresses.add(spec.underlay_ip)
        nodes.append(
            Node(
                id=identifier,
                name=spec.name,
                underlay_ip=spec.underlay_ip,
                agent_host=spec.agent_host or format_ip(spec.underlay_ip),
                agent_port=spec.agent_port,
                created_at=stamp.now,
                updated_at=stamp.now,
                revision=stamp.revision,
                availability_zone=spec.availability_zone,
                failure_domain=spec.failure_domain,
                admin_state_up=spec.admin_state_up,
            )
        )
    return Outcome(tuple(nodes), Changes(nodes=nodes))


def update_node(indexes: Indexes, command: UpdateNode, stamp: Stamp) -> Outcome:
    """Changes what the command sets. An empty agent_host stands for the underlay address."""
    before = find_node(indexes, command.id)
    check_if_match(before, command.if_match)
    fields: dict[str, Any] = changed_fields(before, command, _FIELDS)
    if not fields:
        return Outcome(before, Changes())
    if "underlay_ip" in fields:
        _check_underlay_ip(indexes, fields["underlay_ip"], before.name)
    if "agent_port" in fields:
        _check_agent_port(fields["agent_port"])
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    followed = command.agent_host is UNSET and before.agent_host == format_ip(before.underlay_ip)
    if followed or not after.agent_host:
        after = replace(after, agent_host=format_ip(after.underlay_ip))
    return Outcome(after, Changes(nodes=[after]))


def delete_node(indexes: Indexes, command: DeleteNode, stamp: Stamp) -> Outcome:
    """Removes a node to which no port is bound."""
    node = find_node(indexes, command.id)
    check_if_match(node, command.if_match)
    bound = indexes.ports_on[node.name]
    if bound:
        raise NodeInUse(
            f"Unable to complete operation on node {format_id(node.id)} ({node.name}): {bound} ports are bound to it. "
            "Delete them or bind them elsewhere first."
        )
    return Outcome(None, Changes(deleted_nodes=[node]))


def _check_underlay_ip(indexes: Indexes, ip: Ip, name: str) -> None:
    if ip_version(ip) != 4:
        raise InvalidInput(
            f"Invalid input for operation: local_ip {format_ip(ip)} of node {name}: the tunnel carries IPv4 only."
        )
    owner = indexes.node_at.get(ip)
    if owner is not None:
        raise _underlay_ip_in_use(ip, f"node {indexes.nodes[owner].name}")


def _underlay_ip_in_use(ip: Ip, owner: str) -> NodeUnderlayIpInUse:
    return NodeUnderlayIpInUse(f"local_ip {format_ip(ip)} is already the tunnel end of {owner}.")


def _check_agent_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise InvalidInput(f"Invalid input for operation: server_port {port} is not 1 to 65535.")
