"""openstacksdk, unmodified, against a real server on loopback."""

from collections.abc import Iterator
from uuid import uuid4

import openstack
import pytest
from openstack import exceptions
from openstack.connection import Connection

pytestmark = pytest.mark.filterwarnings("ignore::Warning:openstack", "ignore::Warning:keystoneauth1")


@pytest.fixture(scope="module")
def cloud(server: str) -> Iterator[Connection]:
    """A connection without authentication, pointed at the server."""
    with openstack.connect(auth_type="none", endpoint=server, network_endpoint_override=f"{server}/v2.0") as cloud:
        yield cloud


@pytest.fixture
def name() -> str:
    """A name that no other test has: the server lives for the whole session."""
    return f"sdk-{uuid4()}"


def test_a_vpc_from_creation_to_deletion(cloud: Connection, name: str) -> None:
    """Network, subnet and port are made, found by name, changed and deleted."""
    network = cloud.network.create_network(name=name, mtu=1400)
    subnet = cloud.network.create_subnet(
        network_id=network.id, name=name, cidr="10.9.0.0/24", ip_version=4, dns_nameservers=["9.9.9.9"]
    )
    port = cloud.network.create_port(network_id=network.id, name=name, fixed_ips=[{"ip_address": "10.9.0.7"}])
    assert (1400, "vxlan", "ACTIVE") == (network.mtu, network.provider_network_type, network.status)
    assert ("10.9.0.1", True) == (subnet.gateway_ip, subnet.is_dhcp_enabled)
    assert ([{"subnet_id": subnet.id, "ip_address": "10.9.0.7"}], "DOWN") == (port.fixed_ips, port.status)

    assert network.id == cloud.network.find_network(name, ignore_missing=False).id
    assert [subnet.id] == cloud.network.get_network(network.id).subnet_ids
    assert port.id == cloud.network.find_port(name, ignore_missing=False).id
    assert cloud.network.find_network("no such network") is None

    before = port.revision_number
    changed = cloud.network.update_port(port, description="new", is_admin_state_up=False)
    assert ("new", False) == (changed.description, changed.is_admin_state_up)
    assert before < changed.revision_number
    cloud.network.delete_port(port)
    cloud.network.delete_subnet(subnet)
    cloud.network.delete_network(network)
    assert cloud.network.find_network(name) is None


def test_bulk_and_paging(cloud: Connection, name: str) -> None:
    """A bulk POST, then a list of small pages that the SDK follows by their links, filtered."""
    network = cloud.network.create_network(name=name)
    cloud.network.create_subnet(network_id=network.id, cidr="10.9.0.0/24", ip_version=4)
    made = list(cloud.network.create_ports([{"network_id": network.id, "name": f"{name}-{at}"} for at in range(25)]))
    assert 25 == len(made)
    listed = list(cloud.network.ports(network_id=network.id, limit=4, sort_key="name", sort_dir="asc"))
    assert sorted(port.name for port in made) == [port.name for port in listed]
    address = made[3].fixed_ips[0]["ip_address"]
    found = list(cloud.network.ports(network_id=network.id, fixed_ips=f"ip_address={address}"))
    assert [made[3].id] == [port.id for port in found]
    assert [] == list(cloud.network.ports(network_id=network.id, status="ACTIVE"))


def test_a_stale_revision_is_refused(cloud: Connection, name: str) -> None:
    """`if_revision` becomes If-Match: the second of two writers that saw the same revision fails with 412."""
    network = cloud.network.create_network(name=name)
    cloud.network.update_network(network.id, if_revision=network.revision_number, description="first")
    with pytest.raises(exceptions.PreconditionFailedException, match="Constrained to"):
        cloud.network.update_network(network.id, if_revision=network.revision_number, description="second")
    assert "first" == cloud.network.get_network(network.id).description


def test_refusals_are_the_sdks_exceptions(cloud: Connection, name: str) -> None:
    """400, 404 and 409 arrive as their exceptions, with Alcor's words."""
    network = cloud.network.create_network(name=name)
    cloud.network.create_subnet(network_id=network.id, cidr="10.9.0.0/24", ip_version=4)
    cloud.network.create_port(network_id=network.id)
    with pytest.raises(exceptions.ConflictException, match="still in use"):
        cloud.network.delete_network(network.id, ignore_missing=False)
    with pytest.raises(exceptions.BadRequestException, match="mac_address"):
        cloud.network.create_port(network_id=network.id, mac_address="nonsense")
    with pytest.raises(exceptions.NotFoundException, match="could not be found"):
        cloud.network.get_port("00000000-0000-0000-0000-000000000000")


def test_extensions_are_what_the_sdk_looks_for(cloud: Connection) -> None:
    """The SDK finds what Alcor keeps, and sees what it does not."""
    aliases = {extension.alias for extension in cloud.network.extensions()}
    assert {"binding", "standard-attr-revisions"} <= aliases
    assert cloud.network.find_extension("quotas") is None
