"""A router's address shared by hosts: who has which ports, who answers, and when nothing is written."""

from typing import Any

import pytest
from tests.services.test_floating_ips import Cloud
from tests.services.world import fixed

from alcor.goalstate.snapshot import router_goal
from alcor.model.addresses import parse_ip
from alcor.model.nouns import PortBlock, Router, RouterGateway
from alcor.services.commands import Carrier, GatewaySpec, ShareAddress, UpdateRouter

ENDS = {name: parse_ip(f"172.16.0.{number}") for number, name in enumerate(("h1", "h2", "h3"), 1)}


@pytest.fixture
def cloud() -> Cloud:
    """A router whose gateway has the first address outside."""
    return Cloud()


def gateway(cloud: Cloud) -> RouterGateway:
    """As it is now, in memory and in the store."""
    found = cloud.world.indexes.routers[cloud.router.id].gateway
    (stored,) = [one.gateway for one in cloud.world.store.rows(Router) if one.id == cloud.router.id]
    assert found is not None
    assert found == stored
    return found


def share(cloud: Cloud, *hosts: str, down: tuple[str, ...] = (), **fields: Any) -> RouterGateway:
    """These hosts have a port each."""
    carriers = tuple(Carrier(host, ENDS[host], 1, host not in down) for host in hosts)
    named = {"id": cloud.router.id, "gateway_port_id": gateway(cloud).port_id, "carriers": carriers} | fields
    cloud.world.do(ShareAddress(**named))
    cloud.world.check()
    return gateway(cloud)


def test_each_host_has_a_block_and_one_answers(cloud: Cloud) -> None:
    """It is in the router's goal; the same once more writes nothing; who leaves gives its block back."""
    made = share(cloud, "h1", "h2")
    assert (PortBlock(2, "h1", ENDS["h1"]), PortBlock(3, "h2", ENDS["h2"])) == made.blocks
    assert made.answerer in ("h1", "h2")
    goal = router_goal(cloud.world.indexes.routers[cloud.router.id])
    assert goal is not None
    assert goal.shared is not None
    assert ((2, ENDS["h1"]), (3, ENDS["h2"])) == goal.shared.blocks
    assert (28, cloud.pool.gateway, ENDS[made.answerer]) == (
        goal.shared.prefix_length,
        goal.shared.gateway,
        goal.shared.answerer,
    )
    before = cloud.world.revision
    assert made == share(cloud, "h1", "h2")
    assert before == cloud.world.revision
    assert [(2, "h3"), (3, "h2")] == [(one.block, one.host) for one in share(cloud, "h2", "h3").blocks]
    assert ((), "") == ((last := share(cloud)).blocks, last.answerer)


def test_who_answers_stays_until_it_cannot(cloud: Cloud) -> None:
    """It goes to another when the host is down, stays there when that is back, and stays anywhere when nobody can."""
    first = share(cloud, "h1", "h2", "h3").answerer
    others = tuple(host for host in ("h1", "h2", "h3") if host != first)
    second = share(cloud, "h1", "h2", "h3", down=(first,)).answerer
    assert second in others
    assert second == share(cloud, "h1", "h2", "h3").answerer
    assert second == share(cloud, "h1", "h2", "h3", down=("h1", "h2", "h3")).answerer
    assert second != share(cloud, *(host for host in ("h1", "h2", "h3") if host != second)).answerer


def test_a_host_whose_tunnel_end_changes_keeps_its_block(cloud: Cloud) -> None:
    """The goal says where it is now."""
    share(cloud, "h1", "h2")
    moved = (Carrier("h1", parse_ip("172.16.9.9"), 1, True), Carrier("h2", ENDS["h2"], 1, True))
    after = share(cloud, carriers=moved)
    assert PortBlock(2, "h1", parse_ip("172.16.9.9")) == after.blocks[0]


def test_a_gateway_that_is_another_is_left_alone(cloud: Cloud) -> None:
    """What was meant for the one before, for a router that is gone, or for one that does not share, changes nothing."""
    old = gateway(cloud).port_id
    chosen = GatewaySpec(network_id=cloud.outer.id, addresses=fixed("203.0.113.12"))
    cloud.world.do(UpdateRouter(id=cloud.router.id, gateway=chosen))
    assert () == share(cloud, "h1", gateway_port_id=old).blocks
    assert () == share(cloud, "h1", id=cloud.port.id).blocks
    kept = GatewaySpec(network_id=cloud.outer.id, addresses=fixed("203.0.113.12"), enable_snat=False)
    cloud.world.do(UpdateRouter(id=cloud.router.id, gateway=kept))
    assert () == share(cloud, "h1").blocks


def test_sharing_is_switched_on_and_off(cloud: Cloud) -> None:
    """On by default, as in Neutron; its goal follows; the gateway's port stays, and who has which block: hosts may not
    have heard of it when it is on again."""
    before = share(cloud, "h1")
    off = GatewaySpec(network_id=cloud.outer.id, enable_snat=False)
    cloud.world.do(UpdateRouter(id=cloud.router.id, gateway=off))
    after = gateway(cloud)
    assert (before.port_id, False, before.blocks) == (after.port_id, after.enable_snat, after.blocks)
    goal = router_goal(cloud.world.indexes.routers[cloud.router.id])
    assert goal is not None
    assert (True, None) == (goal.outside, goal.shared)
    cloud.world.do(UpdateRouter(id=cloud.router.id, gateway=GatewaySpec(network_id=cloud.outer.id)))
    assert (True, before.blocks, cloud.pool.gateway) == ((on := gateway(cloud)).enable_snat, on.blocks, on.next_hop)
