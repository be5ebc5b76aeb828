"""Why a packet arrives or not, through floating IPs, port forwardings and load balancers."""

from typing import Any

import pytest
from tests.services.world import World

from alcor.loops.reachability import Reachability
from alcor.model.addresses import format_ip, parse_ip
from alcor.model.balancing import Algorithm, Member, MonitorType, Protocol
from alcor.model.ids import Id
from alcor.model.nouns import Direction, FloatingIp, Port, SecurityGroup
from alcor.services.balancing_commands import (
    CreateHealthMonitor,
    CreateListener,
    CreateLoadBalancer,
    CreateMember,
    CreatePool,
    MemberReport,
    MemberSpec,
    RecordMemberReports,
    UpdateMember,
)
from alcor.services.commands import (
    AddRouterInterface,
    Carrier,
    CreateFloatingIps,
    CreatePortForwardings,
    CreateRouters,
    CreateSecurityGroupRules,
    CreateSecurityGroups,
    FloatingIpSpec,
    GatewaySpec,
    PortForwardingSpec,
    RouterSpec,
    SecurityGroupRuleSpec,
    SecurityGroupSpec,
    ShareAddress,
    UpdateFloatingIp,
    UpdateRouter,
)
from alcor.services.errors import FloatingIPNotFound
from alcor.services.reachability import Answer, Outcome, Question

WORLD = "198.51.100.7"


class Cloud:
    """Two VPCs behind routers with gateways, over two hosts; ports that let in what `web` allows."""

    def __init__(self) -> None:
        self.world = world = World()
        world.node("a", "192.0.2.1")
        world.node("b", "192.0.2.2")
        self.outer = world.network(external=True)
        world.subnet(self.outer, "203.0.113.0/24")
        self.group = self.make_group("p")
        self.vpc, self.other = (self.make_vpc(cidr, at) for cidr, at in (("10.0.0.0/24", "p"), ("10.9.0.0/24", "q")))
        self.sender = self.port("a", self.vpc)

    def make_group(self, project_id: str) -> SecurityGroup:
        spec = SecurityGroupSpec(name=f"web-{project_id}", project_id=project_id)
        group: SecurityGroup = self.world.do(CreateSecurityGroups(specs=(spec,)))[0]
        allow = SecurityGroupRuleSpec(
            group_id=group.id, direction=Direction.INGRESS, project_id=project_id, protocol=6, port_min=80, port_max=80
        )
        self.world.do(CreateSecurityGroupRules(specs=(allow,)))
        return group

    def make_vpc(self, cidr: str, project_id: str) -> Any:
        network = self.world.network(cidr=cidr, project_id=project_id)
        subnet = self.world.subnet(network, cidr)
        spec = RouterSpec(gateway=GatewaySpec(network_id=self.outer.id))
        (router,) = self.world.do(CreateRouters(specs=(spec,)))
        self.world.do(AddRouterInterface(id=router.id, subnet_id=subnet.id))
        return network

    def port(self, host: str, network: Any, group: SecurityGroup | None = None) -> Port:
        group = group or self.group
        return self.world.port(network, host=host, project_id=group.project_id, security_groups=(group.id,))

    def eip(self, port: Port | None = None, project_id: str = "p") -> FloatingIp:
        spec = FloatingIpSpec(network_id=self.outer.id, project_id=project_id, port_id=port.id if port else None)
        found: FloatingIp = self.world.do(CreateFloatingIps(specs=(spec,)))[0]
        return found

    def ask(self, source: Port | str, target: Any, port: int = 80, protocol: int = 6, project_id: str = "") -> Answer:
        to = parse_ip(target) if isinstance(target, str) else target
        from_ = {"source_ip": parse_ip(source)} if isinstance(source, str) else {"source": source.id}
        question = Question(destination_ip=to, protocol=protocol, port=port, project_id=project_id, **from_)
        return Reachability(self.world.store).ask(question)

    def balance(self, *members: tuple[str, int]) -> tuple[Any, Id, list[Member]]:
        """A balancer at port 80 with a pool of these."""
        balancer = self.world.do(CreateLoadBalancer(network_id=self.vpc.id, project_id="p"))
        listener = self.world.do(CreateListener(load_balancer_id=balancer.id, protocol=Protocol.TCP, port=80))
        make = CreatePool(protocol=Protocol.TCP, algorithm=Algorithm.ROUND_ROBIN, listener_id=listener.id)
        pool = self.world.do(make)
        specs = [MemberSpec(ip=parse_ip(ip), port=port) for ip, port in members]
        return balancer, pool.id, [self.world.do(CreateMember(pool_id=pool.id, spec=spec)) for spec in specs]


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def words(answer: Answer) -> tuple[Outcome, str]:
    return answer.outcome, answer.reason


def test_to_the_outside(cloud: Cloud) -> None:
    """With a floating IP a packet leaves, from its address; without one from its router's, if its host has ports of
    that, and if the router shares it; else nothing stands for it."""
    (router,) = [one for one in cloud.world.indexes.routers.values() if cloud.vpc.id in one.networks]
    gateway = router.gateway
    assert gateway is not None and gateway.ip is not None
    assert (Outcome.DROPPED, "no_block") == words(cloud.ask(cloud.sender, WORLD))
    carriers = (Carrier("a", cloud.world.indexes.nodes[cloud.world.indexes.node_named["a"]].underlay_ip, 1, True),)
    cloud.world.do(ShareAddress(id=router.id, gateway_port_id=gateway.port_id, carriers=carriers))
    shared = cloud.ask(cloud.sender, WORLD)
    assert (Outcome.LEFT, "") == words(shared)
    assert any(format_ip(gateway.ip) in step for step in shared.steps)
    kept = GatewaySpec(network_id=gateway.network_id, enable_snat=False)
    cloud.world.do(UpdateRouter(id=router.id, gateway=kept))
    refused = cloud.ask(cloud.sender, WORLD)
    assert (Outcome.DROPPED, "no_translation") == words(refused)
    assert refused.decided_by.startswith("a: X1")
    eip = cloud.eip(cloud.sender)
    left = cloud.ask(cloud.sender, WORLD)
    assert (Outcome.LEFT, "") == words(left)
    assert left.egress_rule is not None
    assert any(format_ip(eip.ip) in step for step in left.steps)
    assert left.decided_by.startswith("a: X3: out of the external device")


def test_from_the_outside(cloud: Cloud) -> None:
    """A floating IP leads to its port, where the receiver's rules decide; one that stands for nobody says so; nobody
    is told of another project's."""
    port = cloud.port("b", cloud.vpc)
    eip = cloud.eip(port)
    came = cloud.ask(WORLD, eip.ip, project_id="p")
    assert (Outcome.DELIVERED, "") == words(came)
    assert came.ingress_rule is not None and came.egress_rule is None
    assert (Outcome.DROPPED, "policy_ingress") == words(cloud.ask(WORLD, eip.ip, port=81))
    cloud.world.do(UpdateFloatingIp(id=eip.id, port_id=None))
    assert (Outcome.IMPOSSIBLE, "not_associated") == words(cloud.ask(WORLD, eip.ip))
    loose = cloud.eip(cloud.port("", cloud.vpc))
    assert (Outcome.IMPOSSIBLE, "not_bound") == words(cloud.ask(WORLD, loose.ip))
    for address in (cloud.eip(project_id="q").ip, "203.0.113.200"):
        with pytest.raises(FloatingIPNotFound):
            cloud.ask(WORLD, address, project_id="p")


@pytest.mark.parametrize("host", ["a", "b"])
def test_from_one_floating_ip_to_another(cloud: Cloud, host: str) -> None:
    """Turned back on the same host, over the wire to another; of another project's port no more is told than what it
    did."""
    cloud.eip(cloud.sender)
    theirs = cloud.port(host, cloud.other, cloud.make_group("q"))
    eip = cloud.eip(theirs, project_id="q")
    seen = cloud.ask(cloud.sender, eip.ip)
    assert (Outcome.DELIVERED, "") == words(seen)
    inside = format_ip(theirs.fixed_ips[0].ip)
    assert any(inside in step for step in seen.steps)
    assert any("X3" in step and ("on this host" in step) is (host == "a") for step in seen.steps)
    told = cloud.ask(cloud.sender, eip.ip, project_id="p")
    assert (Outcome.DELIVERED, "", None) == (*words(told), told.ingress_rule)
    assert not any(inside in step for step in told.steps)
    assert told.decided_by == f"{format_ip(eip.ip)}: the host that answers for it decides"
    assert (Outcome.DROPPED, "policy_ingress") == words(cloud.ask(cloud.sender, eip.ip, port=81, project_id="p"))


def test_port_forwardings(cloud: Cloud) -> None:
    """What is forwarded arrives at the other port; what is not has no translation."""
    port = cloud.port("b", cloud.vpc)
    eip = cloud.eip()
    spec = PortForwardingSpec(port_id=port.id, protocol=6, external_port=8080, internal_port=80)
    cloud.world.do(CreatePortForwardings(floating_ip_id=eip.id, specs=(spec,)))
    assert (Outcome.DELIVERED, "") == words(cloud.ask(WORLD, eip.ip, port=8080))
    assert (Outcome.DROPPED, "no_translation") == words(cloud.ask(WORLD, eip.ip, port=8081))
    cloud.eip(cloud.sender)
    assert (Outcome.DELIVERED, "") == words(cloud.ask(cloud.sender, eip.ip, port=8080))


def test_through_a_load_balancer(cloud: Cloud) -> None:
    """Where it listens one of the members gets it, and each is judged by itself; elsewhere there is no listener."""
    good, deaf = cloud.port("b", cloud.vpc), cloud.port("b", cloud.vpc)
    members = [(format_ip(good.fixed_ips[0].ip), 80), (format_ip(deaf.fixed_ips[0].ip), 81), ("10.0.0.99", 80)]
    balancer, pool_id, rows = cloud.balance(*members)
    answer = cloud.ask(cloud.sender, balancer.vip_ip)
    assert any(step.startswith("a: B:") for step in answer.steps)
    told = [(format_ip(one.ip), one.port, one.takes, one.outcome, one.reason) for one in answer.members]
    expected = [
        (*members[0], True, Outcome.DELIVERED, ""),
        (*members[1], True, Outcome.DROPPED, "policy_ingress"),
        (*members[2], True, Outcome.DROPPED, "no_endpoint"),
    ]
    assert sorted(expected) == told
    assert (answer.outcome, answer.reason) in {(one.outcome, one.reason) for one in answer.members}
    for row in rows[1:]:
        cloud.world.do(UpdateMember(pool_id=pool_id, id=row.id, weight=0))
    allowed = cloud.ask(cloud.sender, balancer.vip_ip)
    assert (Outcome.DELIVERED, "") == words(allowed)
    assert None not in (allowed.egress_rule, allowed.ingress_rule)
    assert [True, False, False] == [one.takes for one in sorted(allowed.members, key=lambda one: -one.weight)]
    assert (Outcome.DROPPED, "no_listener") == words(cloud.ask(cloud.sender, balancer.vip_ip, port=443))
    assert Outcome.ANSWERED is cloud.ask(cloud.sender, balancer.vip_ip, protocol=1, port=0).outcome


def test_no_healthy_member(cloud: Cloud) -> None:
    """Whoever failed takes nothing; when nobody is left, nobody gets it."""
    good = cloud.port("b", cloud.vpc)
    balancer, pool_id, (member,) = cloud.balance((format_ip(good.fixed_ips[0].ip), 80))
    cloud.world.do(CreateHealthMonitor(pool_id=pool_id, type=MonitorType.TCP, delay_s=1, timeout_s=1, rise=1))
    cloud.world.do(RecordMemberReports(reports=(MemberReport(member.id, False),)))
    answer = cloud.ask(cloud.sender, balancer.vip_ip)
    assert (Outcome.DROPPED, "no_backend") == words(answer)
    assert [(False, Outcome.DELIVERED)] == [(one.takes, one.outcome) for one in answer.members]


def test_another_projects_load_balancer(cloud: Cloud) -> None:
    """In a network that is shared: what becomes of the packet, but not who answers."""
    stranger = cloud.port("a", cloud.vpc, cloud.make_group("q"))
    good = cloud.port("b", cloud.vpc)
    inside = format_ip(good.fixed_ips[0].ip)
    balancer, _, _ = cloud.balance((inside, 80))
    told = cloud.ask(stranger, balancer.vip_ip, project_id="q")
    assert (Outcome.DELIVERED, (), "B: a load balancer decides") == (told.outcome, told.members, told.decided_by)
    assert not any(inside in step for step in told.steps)
