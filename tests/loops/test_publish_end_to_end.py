"""From a commit to a programmed host and back, over real sockets: what is promised to callers and to operators."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from alcor.dataplane.base import Endpoint, EndpointKey
from alcor.model.nouns import PortStatus
from tests.loops.region import Region


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(tmp_path)
    await region.start()
    try:
        yield region
    finally:
        await region.close()


async def test_a_port_becomes_active_when_its_host_carries_it(region: Region) -> None:
    """BUILD at first; ACTIVE once the data plane has it, with its VPC's number, MTU, subnet and gateway."""
    host = await region.add_host("host-a")
    network, subnet = await region.add_vpc()
    (port,) = await region.add_ports(network, ["host-a"])
    assert port.status == PortStatus.BUILD
    await region.until_active(port)
    carried = host.tables.ports[port.id]
    assert (carried.vni, carried.mtu, carried.mac, carried.routed) == (network.vni, network.mtu, port.mac, True)
    assert [(address.ip, address.prefix_length, address.gateway) for address in carried.addresses] == [
        (port.fixed_ips[0].ip, 16, subnet.gateway)
    ]
    assert subnet.gateway is not None
    assert host.tables.gateways == {EndpointKey(network.vni, subnet.gateway)}


async def test_hosts_learn_where_the_others_are(region: Region) -> None:
    """Each host of a VPC gets the endpoints on other hosts, and none of its own."""
    a, b = await region.add_host("host-a"), await region.add_host("host-b")
    network, _ = await region.add_vpc()
    first, second = await region.add_ports(network, ["host-a", "host-b"])
    await region.until_active(first, second)
    nodes = {node.name: node for node in region.store.nodes()}

    def endpoint(port):  # type: ignore[no-untyped-def]
        return {EndpointKey(network.vni, port.fixed_ips[0].ip): Endpoint(port.mac, nodes[port.host].underlay_ip)}

    assert a.tables.endpoints == endpoint(second)
    assert b.tables.endpoints == endpoint(first)
