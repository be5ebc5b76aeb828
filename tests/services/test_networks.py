"""Networks: VNIs, MTUs, VPC CIDRs, revisions, and deletion."""

import pytest
from tests.services.world import NOBODY, World

from alcor.model.addresses import parse_prefix
from alcor.model.allocation import MAX_VNI
from alcor.services.commands import CreateNetworks, DeleteNetwork, DeletePorts, NetworkSpec, UpdateNetwork
from alcor.services.errors import (
    InvalidInput,
    NetworkInUse,
    NetworkNotFound,
    RevisionNumberConstraintFailed,
    VniInUse,
)


def test_a_network_has_a_vni_of_its_own() -> None:
    """Every network gets another VNI, from 1 up, and the underlay's MTU."""
    world = World()
    made = world.do(CreateNetworks(specs=(NetworkSpec(name="a"), NetworkSpec(name="a"))))
    assert [1, 2] == [network.vni for network in made]
    assert [1450, 1450] == [network.mtu for network in made]
    assert world.store.networks() == list(made)
    world.check()


def test_a_vni_comes_back_when_its_network_goes() -> None:
    """The first Alcor never released a VNI; here it is free at once and reused last."""
    world = World()
    network = world.network()
    world.do(DeleteNetwork(id=network.id))
    assert 0 == len(world.indexes.vnis)
    assert 2 == world.network().vni
    assert 1 == world.network(vni=1).vni
    world.check()


def test_a_chosen_vni_is_refused_when_in_use() -> None:
    """Two networks never share a VNI, in one request or two."""
    world = World()
    world.network(vni=7)
    with pytest.raises(VniInUse, match=r"\b7\b"):
        world.network(vni=7)
    with pytest.raises(VniInUse, match=r"\b9\b"):
        world.do(CreateNetworks(specs=(NetworkSpec(vni=9), NetworkSpec(vni=9))))
    assert 1 == len(world.store.networks())
    world.check()


@pytest.mark.parametrize("vni", [0, -1, MAX_VNI + 1])
def test_a_vni_has_24_bits(vni: int) -> None:
    """VNI 0 and 2^24, which the first Alcor gave out, cannot even be asked for."""
    with pytest.raises(InvalidInput, match=str(vni)):
        World().network(vni=vni)


@pytest.mark.parametrize("mtu", [67, 1451, 0, 9000])
def test_an_mtu_is_what_the_underlay_carries(mtu: int) -> None:
    """68 (RFC 791) to the configured limit."""
    with pytest.raises(InvalidInput, match=f"MTU {mtu}"):
        World().network(mtu=mtu)
    assert 8950 == World(max_mtu=8950).network().mtu


def test_an_update_names_what_changes() -> None:
    """What is not set stays; the revision is the commit's."""
    world = World()
    network = world.network(name="a", description="b")
    changed = world.do(UpdateNetwork(id=network.id, name="c"))
    assert ("c", "b", 1450) == (changed.name, changed.description, changed.mtu)
    assert network.revision < changed.revision == world.store.revision()
    assert network.created_at == network.updated_at < changed.updated_at


def test_an_update_that_changes_nothing_writes_nothing() -> None:
    """Setting what is there already keeps the revision."""
    world = World()
    network = world.network(name="a")
    assert network == world.do(UpdateNetwork(id=network.id, name="a"))
    assert world.revision == network.revision


def test_if_match_names_the_present_revision() -> None:
    """Somebody who saw another state is refused."""
    world = World()
    network = world.network()
    changed = world.do(UpdateNetwork(id=network.id, name="a", if_match=network.revision))
    with pytest.raises(RevisionNumberConstraintFailed, match=str(changed.revision)):
        world.do(UpdateNetwork(id=network.id, name="b", if_match=network.revision))
    with pytest.raises(RevisionNumberConstraintFailed):
        world.do(DeleteNetwork(id=network.id, if_match=network.revision))


def test_a_vpc_cidr_contains_its_subnets() -> None:
    """`cidr` may be set while every subnet lies inside, and taken away."""
    world = World()
    network = world.network()
    world.subnet(network, "10.1.0.0/16")
    with pytest.raises(InvalidInput, match=r"10\.2\.0\.0/16"):
        world.do(UpdateNetwork(id=network.id, cidr=parse_prefix("10.2.0.0/16")))
    assert parse_prefix("10.0.0.0/8") == world.do(UpdateNetwork(id=network.id, cidr=parse_prefix("10.0.0.0/8"))).cidr
    assert world.do(UpdateNetwork(id=network.id, cidr=None)).cidr is None


def test_a_vpc_is_not_the_whole_world() -> None:
    """A CIDR of length 0 is refused; IPv6 is as good as IPv4."""
    assert World().network(cidr="2001:db8::/48").cidr == parse_prefix("2001:db8::/48")
    with pytest.raises(InvalidInput, match="not all"):
        World().network(cidr="0.0.0.0/0")


def test_a_network_with_ports_stays() -> None:
    """NetworkInUse names the network; without ports its subnets go with it."""
    world = World()
    network = world.network()
    world.subnet(network, "10.0.0.0/24")
    port = world.port(network)
    with pytest.raises(NetworkInUse, match="still in use"):
        world.do(DeleteNetwork(id=network.id))
    world.do(DeletePorts(ids=(port.id,)))
    world.do(DeleteNetwork(id=network.id))
    assert ([], []) == (world.store.networks(), world.store.subnets())
    assert ({}, {}, {}) == (world.indexes.networks, world.indexes.subnets, world.indexes.subnets_of)
    world.check()


def test_an_unknown_network_is_named() -> None:
    """404 with the id."""
    world = World()
    for command in (UpdateNetwork(id=NOBODY, name="x"), DeleteNetwork(id=NOBODY)):
        with pytest.raises(NetworkNotFound, match="eeeeeeee-eeee-eeee-eeee-eeeeeeeeeeee"):
            world.do(command)
