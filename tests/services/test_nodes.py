"""Nodes: names, tunnel ends, deletion."""

import pytest
from tests.services.world import NOBODY, World

from alcor.model.addresses import parse_ip
from alcor.services.commands import CreateNodes, DeleteNode, DeletePorts, NodeSpec, UpdateNode, UpdatePort
from alcor.services.errors import (
    InvalidInput,
    NodeInUse,
    NodeNameInUse,
    NodeNotFound,
    NodeUnderlayIpInUse,
    RevisionNumberConstraintFailed,
)


def test_a_node_is_reached_at_its_tunnel_end_unless_it_says_otherwise() -> None:
    """agent_host defaults to the underlay address, and follows it."""
    world = World()
    node = world.node("h1", "192.0.2.1")
    assert ("192.0.2.1", 50001) == (node.agent_host, node.agent_port)
    assert "192.0.2.9" == world.do(UpdateNode(id=node.id, underlay_ip=parse_ip("192.0.2.9"))).agent_host
    assert "h1.example" == world.do(UpdateNode(id=node.id, agent_host="h1.example")).agent_host
    assert "h1.example" == world.do(UpdateNode(id=node.id, underlay_ip=parse_ip("192.0.2.2"))).agent_host
    assert "192.0.2.2" == world.do(UpdateNode(id=node.id, agent_host="")).agent_host
    world.check()


def test_names_are_used_once() -> None:
    """In the region and in a request; a failed bulk registers nobody."""
    world = World()
    world.node("h1", "192.0.2.1")
    two, three = parse_ip("192.0.2.2"), parse_ip("192.0.2.3")
    with pytest.raises(NodeNameInUse, match="h1"):
        world.node("h1", "192.0.2.2")
    with pytest.raises(NodeNameInUse, match="h2"):
        world.do(CreateNodes(specs=(NodeSpec(name="h2", underlay_ip=two), NodeSpec(name="h2", underlay_ip=three))))
    assert ["h1"] == list(world.indexes.node_named)


def test_tunnel_ends_are_used_once() -> None:
    """Two hosts with one underlay address would take each other's packets."""
    world = World()
    world.node("h1", "192.0.2.1")
    other = world.node("h2", "192.0.2.2")
    with pytest.raises(NodeUnderlayIpInUse, match=r"192\.0\.2\.1 .* h1"):
        world.node("h3", "192.0.2.1")
    with pytest.raises(NodeUnderlayIpInUse):
        world.do(UpdateNode(id=other.id, underlay_ip=parse_ip("192.0.2.1")))
    three = parse_ip("192.0.2.3")
    with pytest.raises(NodeUnderlayIpInUse):
        world.do(CreateNodes(specs=(NodeSpec(name="a", underlay_ip=three), NodeSpec(name="b", underlay_ip=three))))


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        (NodeSpec(name="", underlay_ip=parse_ip("192.0.2.1")), "name"),
        (NodeSpec(name="h", underlay_ip=parse_ip("2001:db8::1")), "local_ip"),
        (NodeSpec(name="h", underlay_ip=parse_ip("192.0.2.1"), agent_port=0), "server_port 0"),
        (NodeSpec(name="h", underlay_ip=parse_ip("192.0.2.1"), agent_port=65536), "server_port 65536"),
    ],
)
def test_values_that_cannot_be_are_named(spec: NodeSpec, word: str) -> None:
    """The message has the field."""
    with pytest.raises(InvalidInput, match=word):
        World().do(CreateNodes(specs=(spec,)))


def test_a_node_with_ports_stays() -> None:
    """NodeInUse counts the ports, and follows bindings as they move."""
    world = World()
    first, second = world.node("h1", "192.0.2.1"), world.node("h2", "192.0.2.2")
    ports = world.ports(world.network(), 2, host="h1")
    with pytest.raises(NodeInUse, match="2 ports"):
        world.do(DeleteNode(id=first.id))
    world.do(UpdatePort(id=ports[0].id, host="h2"))
    world.do(DeletePorts(ids=(ports[1].id,)))
    world.do(DeleteNode(id=first.id))
    with pytest.raises(NodeInUse, match="1 ports"):
        world.do(DeleteNode(id=second.id))
    assert {"h2": 1} == dict(world.indexes.ports_on)
    world.node("h1", "192.0.2.1")
    world.check()


def test_revisions_and_unknown_ids() -> None:
    """If-Match and 404."""
    world = World()
    node = world.node("h1", "192.0.2.1")
    assert node == world.do(UpdateNode(id=node.id, agent_port=50001))
    with pytest.raises(RevisionNumberConstraintFailed):
        world.do(DeleteNode(id=node.id, if_match=node.revision + 1))
    with pytest.raises(NodeNotFound, match="eeeeeeee-"):
        world.do(UpdateNode(id=NOBODY, agent_port=1))
