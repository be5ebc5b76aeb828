"""Large VPCs on demand, from the commit that crosses the threshold to a host's data plane, over real sockets."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.loops.region import Host, Region

from alcor.dataplane.base import Miss
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.fake import frames
from alcor.model.addresses import Ip, Mac, link_local, parse_ip
from alcor.model.nouns import Network, Port
from alcor.services.commands import DeletePorts, FixedIpSpec, UpdatePort
from alcor.services.demand import DemandPolicy

ABOVE, BELOW = 4, 3


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(tmp_path)
    region.demand = DemandPolicy(ABOVE, BELOW)
    await region.start()
    try:
        yield region
    finally:
        await region.close()


def where(region: Region, port: Port) -> Endpoint:
    nodes = {node.name: node for node in region.store.nodes()}
    return Endpoint(port.mac, nodes[port.host].underlay_ip, port.identity)


def key(network: Network, port: Port) -> EndpointKey:
    return EndpointKey(network.vni, port.fixed_ips[0].ip)


def packet(network: Network, ip: Ip, frame: bytes = b"frame") -> Miss:
    return Miss(EndpointKey(network.vni, ip), 7, frame)


def ask(host: Host, miss: Miss) -> None:
    assert host.driver is not None
    host.driver.misses.miss(miss)


def released(host: Host) -> list[Miss]:
    assert host.driver is not None
    return host.driver.misses.released


async def large(region: Region) -> tuple[Host, Host, Network, tuple[Port, ...]]:
    """Two hosts and a VPC that is on demand."""
    a, b = await region.add_host("host-a"), await region.add_host("host-b")
    network, _ = await region.add_vpc()
    ports = await region.add_ports(network, ["host-a", *["host-b"] * ABOVE])
    await region.until_active(*ports)
    return a, b, network, ports


async def test_above_the_threshold_nothing_is_preloaded(region: Region) -> None:
    """The commit that crosses it is published without endpoints; the network says so; below it nothing is held."""
    a, b = await region.add_host("host-a"), await region.add_host("host-b")
    network, _ = await region.add_vpc()
    small = await region.add_ports(network, ["host-a", *["host-b"] * (ABOVE - 1)])
    await region.until_active(*small)
    await region.until(lambda: len(a.tables.endpoints) == ABOVE - 1 and len(b.tables.endpoints) == 1)
    assert not a.tables.on_demand
    more = await region.add_ports(network, ["host-b"])
    await region.until_active(*more)
    await region.until(lambda: not a.tables.endpoints and not b.tables.endpoints)
    assert {network.vni} == a.tables.on_demand == b.tables.on_demand
    (row,) = region.store.networks()
    assert row.on_demand


async def test_a_packet_waits_for_one_answer(region: Region) -> None:
    """Several packets for an unknown address are one question; when it is answered all of them go on, in order."""
    a, _, network, ports = await large(region)
    misses = [packet(network, ports[1].fixed_ips[0].ip, bytes((number,))) for number in range(3)]
    for miss in misses:
        ask(a, miss)
    await region.until(lambda: len(released(a)) == 3)
    assert misses == released(a)
    assert {key(network, ports[1]): where(region, ports[1])} == a.tables.learnt


async def test_who_is_asked_about_knows_who_asks(region: Region) -> None:
    """It has not asked: its reply waits for nothing. Word of a change comes to it, too."""
    a, b, network, ports = await large(region)
    asking, sought = key(network, ports[0]), key(network, ports[1])
    mac = ports[0].mac
    arp = frames.arp(frames.ARP_REQUEST, mac, asking.ip, Mac(bytes(6)), sought.ip)
    ask(a, packet(network, sought.ip, frames.ethernet(frames.BROADCAST_MAC, mac, frames.TYPE_ARP, arp)))
    await region.until(lambda: b.tables.learnt == {asking: where(region, ports[0])})
    await region.until(lambda: a.tables.learnt == {sought: where(region, ports[1])})
    await region.do(DeletePorts(ids=(ports[0].id,)))
    await region.until(lambda: b.tables.learnt == {asking: None})


async def test_nobody_is_an_answer_too(region: Region) -> None:
    """An address of no port, of no subnet, and the link-local address of a port without IPv6 are nobody's."""
    a, _, network, ports = await large(region)
    strangers = [parse_ip("10.0.77.77"), parse_ip("192.0.2.1"), link_local(ports[1].mac)]
    for ip in strangers:
        ask(a, packet(network, ip))
    await region.until(lambda: len(released(a)) == len(strangers))
    assert dict.fromkeys(EndpointKey(network.vni, ip) for ip in strangers) == a.tables.learnt


async def test_who_asked_hears_of_changes(region: Region) -> None:
    """The endpoint moves, goes, and comes back as another port: whoever holds it is told, nobody else."""
    a, b, network, ports = await large(region)
    c = await region.add_host("host-c")
    spot = key(network, ports[1])
    ask(a, packet(network, spot.ip))
    await region.until(lambda: bool(released(a)))
    moved = await region.do(UpdatePort(id=ports[1].id, host="host-c"))
    assert isinstance(moved, Port)
    await region.until(lambda: a.tables.learnt == {spot: where(region, moved)})
    await region.do(DeletePorts(ids=(ports[1].id,)))
    await region.until(lambda: a.tables.learnt == {spot: None})
    (again,) = await region.add_ports(network, ["host-b"], fixed_ips=(FixedIpSpec(ip=spot.ip),))
    await region.until(lambda: a.tables.learnt == {spot: where(region, again)})
    assert not b.tables.learnt
    assert not c.tables.learnt


async def test_below_the_threshold_it_is_preloaded_again(region: Region) -> None:
    """With hysteresis: fewer ports than `above` are not enough. What was learnt goes, what waits goes on."""
    a, _, network, ports = await large(region)
    ask(a, packet(network, ports[1].fixed_ips[0].ip))
    await region.until(lambda: bool(a.tables.learnt))
    await region.do(DeletePorts(ids=tuple(port.id for port in ports[-2:])))
    assert region.store.networks()[0].on_demand
    await region.do(DeletePorts(ids=(ports[-3].id,)))
    await region.until(lambda: not a.tables.on_demand)
    assert {key(network, ports[1]): where(region, ports[1])} == a.tables.endpoints
    assert not a.tables.learnt


async def test_a_new_controller_learns_what_hosts_hold(region: Region) -> None:
    """After a restart of the controller, and of the agent, a change still reaches who holds the endpoint."""
    a, _, network, ports = await large(region)
    spot = key(network, ports[1])
    ask(a, packet(network, spot.ip))
    await region.until(lambda: spot in a.tables.learnt)
    await region.stop()
    await region.start()
    await region.until(lambda: region.path is not None and len(region.path.connected()) == 2)
    await region.do(DeletePorts(ids=(ports[1].id,)))
    await region.until(lambda: a.tables.learnt == {spot: None})
    await a.stop()
    await a.start()
    await region.until(lambda: region.path is not None and len(region.path.connected()) == 2)
    (again,) = await region.add_ports(network, ["host-b"], fixed_ips=(FixedIpSpec(ip=spot.ip),))
    await region.until(lambda: a.tables.learnt == {spot: where(region, again)})


async def test_the_old_host_sends_on_what_still_comes(region: Region) -> None:
    """A port that changes its host leaves word there of where it went."""
    a, b = await region.add_host("host-a"), await region.add_host("host-b")
    network, _ = await region.add_vpc()
    port, _ = await region.add_ports(network, ["host-a", "host-a"])
    await region.until_active()
    moved = await region.do(UpdatePort(id=port.id, host="host-b"))
    assert isinstance(moved, Port)
    await region.until(lambda: port.id in b.tables.ports)
    await region.until(lambda: a.tables.forwards == {key(network, port): where(region, moved)})
