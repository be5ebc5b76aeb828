"""Members' statuses: monitors come and go, hosts report; and what a port of a balancer may not do."""

from typing import Any

import pytest
from tests.services.world import World

from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.balancing import Algorithm, Member, MemberPool, MemberStatus, MonitorType, Protocol
from alcor.model.ids import Id
from alcor.services.balancing_commands import (
    CreateHealthMonitor,
    CreateListener,
    CreateLoadBalancer,
    CreateMember,
    CreatePool,
    DeleteHealthMonitor,
    DeleteLoadBalancer,
    DeleteMember,
    MemberReport,
    MemberSpec,
    RecordMemberReports,
    ReplaceMembers,
    UpdateHealthMonitor,
)
from alcor.services.commands import CreateNetworks, CreateSubnets, DeletePorts, NetworkSpec, SubnetSpec
from alcor.services.errors import BalancingQuotaMet, MemberNotFound, ServicePortInUse
from alcor.services.traffic import Counts, Service, Traffic


def make(world: World) -> tuple[Any, MemberPool, Member]:
    """A balancer with a listener, a pool and a member."""
    (network,) = world.do(CreateNetworks(specs=(NetworkSpec(),)))
    world.do(CreateSubnets(specs=(SubnetSpec(network_id=network.id, cidr=parse_prefix("10.0.0.0/16")),)))
    balancer = world.do(CreateLoadBalancer(network_id=network.id))
    listener = world.do(CreateListener(load_balancer_id=balancer.id, protocol=Protocol.TCP, port=80))
    pool = world.do(CreatePool(protocol=Protocol.TCP, algorithm=Algorithm.ROUND_ROBIN, listener_id=listener.id))
    member = world.do(CreateMember(pool_id=pool.id, spec=MemberSpec(ip=parse_ip("10.0.0.9"), port=80)))
    return balancer, pool, member


def status(world: World, member: Id) -> MemberStatus:
    return world.indexes.balancing.members[member].status


def test_a_member_is_what_hosts_say() -> None:
    """Without a monitor it answers; with one it is OFFLINE until it is probed, then what was found; each change is a
    revision that hosts hear of."""
    world = World()
    _, pool, member = make(world)
    word = RecordMemberReports(reports=(MemberReport(member.id, False),))
    world.do(word)
    assert MemberStatus.NO_MONITOR is status(world, member.id)
    monitor = world.do(CreateHealthMonitor(pool_id=pool.id, type=MonitorType.TCP, delay_s=1, timeout_s=1, rise=1))
    assert MemberStatus.OFFLINE is status(world, member.id)
    before = world.indexes.balancing.members[member.id].revision
    world.do(word)
    assert MemberStatus.ERROR is status(world, member.id)
    assert before < world.indexes.balancing.members[member.id].revision
    again = world.indexes.balancing.members[member.id]
    world.do(word)
    assert again == world.indexes.balancing.members[member.id]
    world.do(RecordMemberReports(reports=(MemberReport(member.id, True), MemberReport(Id(b"x" * 16), True))))
    assert MemberStatus.ONLINE is status(world, member.id)
    world.do(UpdateHealthMonitor(id=monitor.id, admin_state_up=False))
    assert MemberStatus.NO_MONITOR is status(world, member.id)
    world.do(UpdateHealthMonitor(id=monitor.id, admin_state_up=True))
    world.do(word)
    world.do(DeleteHealthMonitor(id=monitor.id))
    assert MemberStatus.NO_MONITOR is status(world, member.id)


def test_what_is_deleted_is_gone() -> None:
    """A cascade leaves nothing, its port's address included; a member goes once."""
    world = World()
    balancer, pool, member = make(world)
    with pytest.raises(ServicePortInUse):
        world.do(DeletePorts(ids=(balancer.vip_port_id,)))
    world.do(DeleteMember(pool_id=pool.id, id=member.id))
    with pytest.raises(MemberNotFound):
        world.do(DeleteMember(pool_id=pool.id, id=member.id))
    world.do(DeleteLoadBalancer(id=balancer.id, port_id=balancer.vip_port_id, cascade=True))
    index = world.indexes.balancing
    assert ({}, {}, {}, {}, {}) == (index.load_balancers, index.listeners, index.pools, index.members, index.vip_ports)
    assert [] == world.store.get_ports((balancer.vip_port_id,))
    world.check()


def test_a_pool_has_so_many_members() -> None:
    """1,024, all or nothing."""
    world = World()
    _, pool, _ = make(world)
    specs = tuple(MemberSpec(ip=parse_ip(f"10.0.{at // 250 + 1}.{at % 250 + 1}"), port=80) for at in range(1025))
    with pytest.raises(BalancingQuotaMet):
        world.do(ReplaceMembers(pool_id=pool.id, specs=specs))
    assert 1 == len(world.indexes.balancing.members)
    world.do(ReplaceMembers(pool_id=pool.id, specs=specs[:1024]))
    assert 1024 == len(world.indexes.balancing.members)


def test_counters_of_hosts_are_added_up() -> None:
    """The last word of each host counts; one that begins anew keeps what it had."""
    traffic, service = Traffic(), Service(Id(b"n" * 16), parse_ip("10.0.0.1"), 6, 80)
    traffic.heard("a", service, Counts(3, 1, 300, 30))
    traffic.heard("a", service, Counts(5, 2, 500, 50))
    traffic.heard("b", service, Counts(2, 2, 200, 20))
    assert Counts(7, 4, 700, 70) == traffic.of(service)
    traffic.heard("a", service, Counts(1, 0, 10, 1))
    assert Counts(8, 4, 710, 71) == traffic.of(service)
    assert 4 == traffic.of(service).active
    assert Counts() == traffic.of(service._replace(port=81))
