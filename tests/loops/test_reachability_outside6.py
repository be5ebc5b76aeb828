"""Why a packet arrives or not, over IPv6 outside: to whom it goes there, from open subnets and from others."""

from typing import Any

import pytest
from tests.loops.test_reachability_outside import Cloud, words

from alcor.loops.surroundings import open_port
from alcor.model.addresses import format_ip, parse_ip
from alcor.model.nouns import Direction, Network, Port
from alcor.services.balancing_commands import CreateLoadBalancer
from alcor.services.commands import (
    AddRouterInterface,
    CreateRouters,
    CreateSecurityGroupRules,
    GatewaySpec,
    RouterSpec,
    SecurityGroupRuleSpec,
    UpdateRouter,
)
from alcor.services.errors import PortNotFound
from alcor.services.reachability import Outcome

WORLD6 = "2001:4860::8888"


class Cloud6(Cloud):
    """Two projects' open subnets, and one that is not open."""

    def __init__(self) -> None:
        super().__init__()
        world = self.world
        world.subnet(self.outer, "2001:db8:100::/40", gateway=parse_ip("fe80::1"))
        spec = RouterSpec(gateway=GatewaySpec(network_id=self.outer.id))
        self.router = world.do(CreateRouters(specs=(spec,)))[0]
        self.theirs_router = world.do(CreateRouters(specs=(spec,)))[0]
        self.mine = self.behind(self.router, "2001:db8:100:1::/64", "p")
        self.private = self.behind(self.router, "fd00::/64", "p")
        self.theirs = self.behind(self.theirs_router, "2001:db8:100:2::/64", "q")
        self.their_group = self.make_group("q")
        for group in (self.group, self.their_group):
            rule = SecurityGroupRuleSpec(
                group_id=group.id,
                project_id=group.project_id,
                direction=Direction.INGRESS,
                version=6,
                protocol=6,
                port_min=80,
                port_max=80,
            )
            world.do(CreateSecurityGroupRules(specs=(rule,)))

    def behind(self, router: Any, cidr: str, project_id: str) -> Network:
        network: Network = self.world.network(project_id=project_id)
        subnet = self.world.subnet(network, cidr, project_id=project_id)
        self.world.do(AddRouterInterface(id=router.id, subnet_id=subnet.id))
        return network


@pytest.fixture
def cloud() -> Cloud6:
    return Cloud6()


def ip(port: Port) -> str:
    return format_ip(port.fixed_ips[0].ip)


def test_whose_own_address_it_is_outside(cloud: Cloud6) -> None:
    """A port's in an open subnet, while the router leads there; not a gateway's, not one of a subnet that is not."""
    port, store = cloud.port("b", cloud.mine), cloud.world.store
    assert port == open_port(store, port.fixed_ips[0].ip)
    for nobodys in ("2001:db8:100:1::1", "2001:db8:100:1::99", "2001:db8:100::1", WORLD6):
        assert open_port(store, parse_ip(nobodys)) is None
    assert open_port(store, cloud.port("b", cloud.private).fixed_ips[0].ip) is None
    cloud.world.do(UpdateRouter(id=cloud.router.id, admin_state_up=False))
    assert open_port(store, port.fixed_ips[0].ip) is None


def test_nobody_is_asked_about_what_is_anothers(cloud: Cloud6) -> None:
    """Nor about an address that nobody has outside, nor a load balancer's."""
    theirs = cloud.port("b", cloud.theirs, cloud.their_group)
    for address in (ip(theirs), "2001:db8:100:1::99", ip(cloud.port("b", cloud.private))):
        with pytest.raises(PortNotFound, match="outside"):
            cloud.ask(WORLD6, address, project_id="p")
    balancer = cloud.world.do(CreateLoadBalancer(network_id=cloud.mine.id, project_id="p"))
    with pytest.raises(PortNotFound, match="outside"):
        cloud.ask(WORLD6, format_ip(balancer.vip_ip))


def test_a_port_that_is_on_no_host_says_so(cloud: Cloud6) -> None:
    """Before any data plane is asked."""
    loose = cloud.port("", cloud.mine)
    answer = cloud.ask(WORLD6, ip(loose))
    assert (Outcome.IMPOSSIBLE, "not_bound") == words(answer)
    assert answer.decided_by == f"the port of {ip(loose)} is not bound to a host: set binding:host_id"


def test_from_a_subnet_that_is_not_open_nothing_leaves(cloud: Cloud6) -> None:
    """Its addresses are nobody's outside."""
    assert (Outcome.DROPPED, "no_translation") == words(cloud.ask(cloud.port("a", cloud.private), WORLD6))


def test_from_an_open_subnet_it_leaves(cloud: Cloud6) -> None:
    """As it is."""
    assert (Outcome.LEFT, "") == words(cloud.ask(cloud.port("a", cloud.mine), WORLD6))


def test_from_the_outside_it_arrives(cloud: Cloud6) -> None:
    """Where the receiver's rules decide."""
    port = cloud.port("b", cloud.mine)
    came = cloud.ask(WORLD6, ip(port), project_id="p")
    assert (Outcome.DELIVERED, "") == words(came)
    assert came.ingress_rule is not None
    assert (Outcome.DROPPED, "policy_ingress") == words(cloud.ask(WORLD6, ip(port), port=81))


@pytest.mark.parametrize("host", ["a", "b"])
def test_from_one_open_subnet_to_another(cloud: Cloud6, host: str) -> None:
    """Of two VPCs that nothing connects: by the outside, on one host, too."""
    sender = cloud.port("a", cloud.mine)
    theirs = cloud.port(host, cloud.theirs, cloud.their_group)
    assert (Outcome.DELIVERED, "") == words(cloud.ask(sender, ip(theirs)))
    told = cloud.ask(sender, ip(theirs), project_id="p")
    assert (Outcome.DELIVERED, None) == (told.outcome, told.ingress_rule)
    assert told.decided_by == f"{ip(theirs)}: the host that answers for it decides"
