"""An announced address, from the host that saw it to the hosts that send there: the loops, and agents over gRPC."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.loops.region import Host, Region
from tests.loops.test_on_demand import ABOVE, ask, packet, released

from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.nouns import Claim, Port
from alcor.services.commands import AddressPairSpec, UpdatePort
from alcor.services.demand import DemandPolicy

VIP = parse_ip("10.0.7.7")
PAIRS = (AddressPairSpec(prefix=parse_prefix("10.0.7.7/32")),)


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    region = Region(tmp_path)
    region.demand = DemandPolicy(above=ABOVE, below=ABOVE - 2)
    await region.start()
    yield region
    await region.close()


def announce(host: Host, port: Port) -> None:
    """The port's workload says that it has VIP."""
    assert host.agent is not None
    host.agent.claiming.announced(port.id, Claim(VIP, port.mac))


def carried(host: Host, port: Port) -> tuple[Claim, ...]:
    return host.tables.ports[port.id].claims


def at(region: Region, port: Port) -> Endpoint:
    node = next(one for one in region.store.nodes() if one.name == port.host)
    return Endpoint(port.mac, node.underlay_ip, port.identity)


async def test_an_address_goes_to_who_announced_it(region: Region) -> None:
    """Its host has it as the port's, the others send there; announced elsewhere it goes there; its pair taken away, it
    is nowhere."""
    a, b, c = [await region.add_host(f"host-{name}") for name in "abc"]
    network, _ = await region.add_vpc()
    one, two = await region.add_ports(network, ["host-a", "host-b"], address_pairs=PAIRS)
    (client,) = await region.add_ports(network, ["host-c"])
    await region.until_active()
    spot = EndpointKey(network.vni, VIP)
    announce(a, one)
    await region.until(lambda: carried(a, one) == (Claim(VIP, one.mac),))
    await region.until(lambda: b.tables.endpoints.get(spot) == c.tables.endpoints.get(spot) == at(region, one))
    assert spot not in a.tables.endpoints
    announce(b, two)
    await region.until(lambda: a.tables.endpoints.get(spot) == c.tables.endpoints.get(spot) == at(region, two))
    await region.until(lambda: (carried(a, one), carried(b, two)) == ((), (Claim(VIP, two.mac),)))
    assert spot not in b.tables.endpoints
    await region.until_active(one, two, client)
    await region.do(UpdatePort(id=two.id, address_pairs=()))
    await region.until(lambda: not {spot} & (a.tables.endpoints.keys() | c.tables.endpoints.keys()))


async def test_in_a_vpc_on_demand_it_is_asked_for(region: Region) -> None:
    """Who asks is told where it is, and again when it goes to another port, or to nobody."""
    a, b = await region.add_host("host-a"), await region.add_host("host-b")
    network, _ = await region.add_vpc()
    one, two = await region.add_ports(network, ["host-a", "host-b"], address_pairs=PAIRS)
    await region.add_ports(network, ["host-b"] * ABOVE)
    (far,) = [await region.add_host("host-c")]
    await region.add_ports(network, ["host-c"])
    await region.until_active()
    spot = EndpointKey(network.vni, VIP)
    ask(far, packet(network, VIP))
    await region.until(lambda: far.tables.learnt == {spot: None})
    announce(a, one)
    await region.until(lambda: far.tables.learnt == {spot: at(region, one)})
    announce(b, two)
    await region.until(lambda: far.tables.learnt == {spot: at(region, two)})
    ask(a, packet(network, VIP))
    await region.until(lambda: a.tables.learnt == {spot: at(region, two)} and bool(released(a)))
