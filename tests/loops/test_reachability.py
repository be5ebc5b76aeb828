"""Why a packet arrives or not: desired state before the model, step by step."""

from typing import Any

import pytest
from tests.services.world import World

from alcor.loops.reachability import Reachability
from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.nouns import Direction, ExtraRoute, Network, Port, SecurityGroup
from alcor.services.commands import (
    AddRouterInterface,
    ChangeExtraRoutes,
    CreatePeerings,
    CreateRouters,
    CreateSecurityGroupRules,
    CreateSecurityGroups,
    PeeringSpec,
    RouterSpec,
    SecurityGroupRuleSpec,
    SecurityGroupSpec,
    UpdatePort,
    UpdateRouter,
)
from alcor.services.errors import PortNotFound
from alcor.services.health import HealthEvent, HostHealth, Reach
from alcor.services.reachability import Answer, Outcome, Question


class Cloud:
    """A VPC over two hosts, and a web and a database group."""

    def __init__(self) -> None:
        self.world = World()
        self.vpc = self.world.network(cidr="10.0.0.0/16", project_id="p")
        self.world.subnet(self.vpc, "10.0.0.0/24")
        self.world.node("a", "192.0.2.1")
        self.world.node("b", "192.0.2.2")
        self.down: set[str] = set()
        self.web, self.db = self.group("web"), self.group("db")
        self.sender = self.port("a", self.web)
        self.near, self.far = self.port("a", self.db), self.port("b", self.db)

    def group(self, name: str, project_id: str = "p") -> SecurityGroup:
        spec = SecurityGroupSpec(name=name, project_id=project_id)
        found: SecurityGroup = self.world.do(CreateSecurityGroups(specs=(spec,)))[0]
        return found

    def port(self, host: str, *groups: SecurityGroup, network: Network | None = None, **fields: Any) -> Port:
        ids = tuple(group.id for group in groups)
        found = {"project_id": "p", "host": host, "security_groups": ids, **fields}
        return self.world.port(network or self.vpc, **found)

    def allow(self, group: SecurityGroup, **fields: Any) -> Any:
        spec = SecurityGroupRuleSpec(
            group_id=group.id, direction=Direction.INGRESS, project_id=group.project_id, **fields
        )
        return self.world.do(CreateSecurityGroupRules(specs=(spec,)))[0]

    def health(self, host: str) -> HostHealth:
        return HostHealth(state=Reach.DOWN if host in self.down else Reach.UP)

    def events(self) -> list[HealthEvent]:
        return []

    def ask(self, target: Port | str, protocol: int = 6, port: int = 5432, **fields: Any) -> Answer:
        where: dict[str, Any] = (
            {"destination_ip": parse_ip(target)} if isinstance(target, str) else {"destination_port": target.id}
        )
        source = fields.pop("source", self.sender).id
        question = Question(source=source, protocol=protocol, port=port, **where, **fields)
        return Reachability(self.world.store, self).ask(question)


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.mark.parametrize("where", ["near", "far"])
def test_a_rule_decides(cloud: Cloud, where: str) -> None:
    """Without a rule the receiver's policy drops; with one that names the sender's group it is delivered, and the
    answer names the rules; on the same host and through the tunnel."""
    target: Port = getattr(cloud, where)
    refused = cloud.ask(target)
    assert (Outcome.DROPPED, "policy_ingress") == (refused.outcome, refused.reason)
    assert "no rule of identity" in refused.decided_by
    assert refused.egress_rule is not None
    assert refused.ingress_rule is None
    rule = cloud.allow(
        cloud.db, protocol=6, protocol_name="tcp", port_min=5432, port_max=5432, remote_group=cloud.web.id
    )
    allowed = cloud.ask(target)
    assert (Outcome.DELIVERED, "", rule.id) == (allowed.outcome, allowed.reason, allowed.ingress_rule)
    assert "policy_ingress" == cloud.ask(target, port=5433).reason
    assert "policy_ingress" == cloud.ask(target, source=cloud.port("a", cloud.db)).reason
    assert allowed.steps[0].startswith("a: ")
    assert allowed.steps[-1].startswith("b: " if where == "far" else "a: ")


def test_addresses_and_gateways(cloud: Cloud) -> None:
    """By address as by port; a gateway answers pings; nobody's address says so."""
    cloud.allow(cloud.db, remote_prefix=parse_prefix("10.0.0.0/24"))
    assert Outcome.DELIVERED is cloud.ask("10.0.0.4").outcome
    assert Outcome.ANSWERED is cloud.ask("10.0.0.1", protocol=1, port=0).outcome
    assert "gateway" == cloud.ask("10.0.0.1").reason
    nobody = cloud.ask("10.0.0.200")
    assert (Outcome.IMPOSSIBLE, "arp_unknown") == (nobody.outcome, nobody.reason)
    assert "no_endpoint" == cloud.ask("10.0.9.9").reason


def test_what_no_data_plane_knows(cloud: Cloud) -> None:
    """Unbound ports, hosts that are down, families that do not match, ports that are down."""
    cloud.allow(cloud.db)
    loose = cloud.port("", cloud.db)
    assert "not_bound" == cloud.ask(loose).reason
    assert "not_bound" == cloud.ask(cloud.near, source=loose).reason
    assert "no_address" == cloud.ask("2001:db8::1").reason
    cloud.down.add("b")
    gone = cloud.ask(cloud.far)
    assert (Outcome.IMPOSSIBLE, "host_down") == (gone.outcome, gone.reason)
    assert "host b is down" in gone.decided_by
    cloud.down.clear()
    cloud.world.do(UpdatePort(id=cloud.far.id, admin_state_up=False))
    assert "port_down" == cloud.ask(cloud.far).reason


def test_a_project_sees_its_own(cloud: Cloud) -> None:
    """Another project's port is not found as a source; as a destination, it is not said which rule lets it in."""
    cloud.allow(cloud.db)
    other = cloud.group("theirs", project_id="q")
    cloud.allow(other)
    theirs = cloud.port("b", other, project_id="q")
    with pytest.raises(PortNotFound):
        cloud.ask(cloud.near, source=theirs, project_id="p")
    seen = cloud.ask(theirs, project_id="p")
    assert (Outcome.DELIVERED, None) == (seen.outcome, seen.ingress_rule)
    assert not any("a rule allows it" in step and step.startswith("b") for step in seen.steps)
    assert cloud.ask(theirs).ingress_rule is not None


def test_ipv6_is_asked_like_ipv4(cloud: Cloud) -> None:
    """Its own rules, its own addresses."""
    cloud.world.subnet(cloud.vpc, "2001:db8::/64")
    source, target = cloud.port("a", cloud.web), cloud.port("b", cloud.db)
    address = "2001:db8::3"
    assert "policy_ingress" == cloud.ask(address, source=source).reason
    cloud.allow(cloud.db, version=6)
    assert Outcome.DELIVERED is cloud.ask(address, source=source).outcome
    assert Outcome.DELIVERED is cloud.ask(address, source=source, protocol=1, port=0).outcome
    assert target.fixed_ips[-1].ip == parse_ip(address)


def test_it_answers_through_routers(cloud: Cloud) -> None:
    """On one host and through the tunnel, with the rules of both networks; not once the router is down."""
    other = cloud.world.network(project_id="p")
    subnet = cloud.world.subnet(other, "10.9.0.0/24")
    near, far = (cloud.port(host, cloud.db, network=other) for host in ("a", "b"))
    assert "no_endpoint" == cloud.ask("10.9.0.2").reason
    (router,) = cloud.world.do(CreateRouters(specs=(RouterSpec(),)))
    for one in (*cloud.world.indexes.subnets_of[cloud.vpc.id], subnet.id):
        cloud.world.do(AddRouterInterface(id=router.id, subnet_id=one))
    for target in (near, far):
        refused = cloud.ask(target)
        assert (Outcome.DROPPED, "policy_ingress") == (refused.outcome, refused.reason)
    rule = cloud.allow(cloud.db, protocol=6, protocol_name="tcp", remote_group=cloud.web.id)
    for target in (near, far):
        allowed = cloud.ask(target)
        assert (Outcome.DELIVERED, rule.id) == (allowed.outcome, allowed.ingress_rule)
        assert any("R: " in step for step in allowed.steps)
    assert Outcome.ANSWERED is cloud.ask("10.9.0.1", protocol=1).outcome
    assert Outcome.ANSWERED is cloud.ask("10.0.0.1", protocol=1).outcome
    assert (Outcome.DROPPED, "no_route") == (cloud.ask("192.0.2.77").outcome, cloud.ask("192.0.2.77").reason)
    cloud.world.do(UpdateRouter(id=router.id, admin_state_up=False))
    assert "no_endpoint" == cloud.ask(far).reason


def test_it_answers_through_next_hops_and_peerings(cloud: Cloud) -> None:
    """What is for others is handed to the port of the route; a blackhole drops; a peering connects."""
    (router,) = cloud.world.do(CreateRouters(specs=(RouterSpec(),)))
    (subnet,) = cloud.world.indexes.subnets_of[cloud.vpc.id]
    cloud.world.do(AddRouterInterface(id=router.id, subnet_id=subnet))
    forwarder = cloud.port("b", security_groups=(), port_security_enabled=False)
    routes = (
        ExtraRoute(parse_prefix("198.51.100.0/24"), forwarder.fixed_ips[0].ip),
        ExtraRoute(parse_prefix("198.51.100.8/29"), None),
    )
    cloud.world.do(ChangeExtraRoutes(id=router.id, add=routes))
    assert Outcome.DELIVERED is cloud.ask("198.51.100.1").outcome
    assert "blackhole" == cloud.ask("198.51.100.9").reason
    peer = cloud.world.network(cidr="10.8.0.0/16", project_id="p")
    cloud.world.subnet(peer, "10.8.0.0/24")
    cloud.world.do(CreatePeerings(specs=(PeeringSpec(network_id=cloud.vpc.id, peer_network_id=peer.id),)))
    cloud.allow(cloud.db, protocol=6, protocol_name="tcp")
    for host in ("a", "b"):
        assert Outcome.DELIVERED is cloud.ask(cloud.port(host, cloud.db, network=peer)).outcome
