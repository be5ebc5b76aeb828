"""Subnets over REST: gateway, pools, overlaps, what is refused."""

import httpx
import pytest
from tests.api.conftest import NOW_TEXT
from tests.api.rest import error, make, make_vpc


async def test_a_created_subnet_shows_every_attribute(client: httpx.AsyncClient) -> None:
    """POST answers 201 with gateway and pools chosen as in Neutron."""
    network = await make(client, "network")
    subnet = await make(
        client, "subnet", network_id=network["id"], cidr="10.0.0.0/24", ip_version=4, dns_nameservers=["8.8.8.8"]
    )
    assert 36 == len(subnet.pop("id"))
    assert {
        "name": "",
        "description": "",
        "project_id": "",
        "tenant_id": "",
        "network_id": network["id"],
        "cidr": "10.0.0.0/24",
        "ip_version": 4,
        "gateway_ip": "10.0.0.1",
        "allocation_pools": [{"start": "10.0.0.2", "end": "10.0.0.254"}],
        "enable_dhcp": True,
        "dns_nameservers": ["8.8.8.8"],
        "host_routes": [],
        "service_types": [],
        "subnetpool_id": None,
        "ipv6_address_mode": None,
        "ipv6_ra_mode": None,
        "created_at": NOW_TEXT,
        "updated_at": NOW_TEXT,
        "revision_number": 2,
    } == subnet


async def test_gateway_and_pools_are_taken_as_given(client: httpx.AsyncClient) -> None:
    """gateway_ip null means none; pools are kept; both change by PUT."""
    network = await make(client, "network")
    pools = [{"start": "10.0.0.10", "end": "10.0.0.19"}, {"start": "10.0.0.30", "end": "10.0.0.39"}]
    subnet = await make(
        client, "subnet", network_id=network["id"], cidr="10.0.0.0/24", gateway_ip=None, allocation_pools=pools
    )
    assert (None, pools) == (subnet["gateway_ip"], subnet["allocation_pools"])
    change = {"gateway_ip": "10.0.0.1", "allocation_pools": pools[:1], "name": "n", "enable_dhcp": False}
    response = await client.put(f"/v2.0/subnets/{subnet['id']}", json={"subnet": change})
    assert 200 == response.status_code
    assert subnet | change | {"revision_number": 3} == response.json()["subnet"]


async def test_overlap_is_a_matter_of_one_network(client: httpx.AsyncClient) -> None:
    """The same CIDR is refused inside a network and welcome in another."""
    network_id, _ = await make_vpc(client)
    refused = await client.post("/v2.0/subnets", json={"subnet": {"network_id": network_id, "cidr": "10.0.1.0/24"}})
    assert 400 == error(refused)[0]
    assert "overlap" in error(refused)[2]
    await make_vpc(client)


@pytest.mark.parametrize(
    ("attributes", "status", "words"),
    [
        ({"cidr": "10.0.0.0/33"}, 400, "cidr"),
        ({"cidr": "10.0.0.5/24"}, 400, "host bits"),
        ({"cidr": "10.0.0.0/24", "ip_version": 6}, 400, "ip_version"),
        ({"cidr": "10.0.0.0/24", "gateway_ip": "x"}, 400, "gateway_ip"),
        ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.5"}]}, 400, "'end'"),
        ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "a", "end": "10.0.0.5"}]}, 400, "pools[0].start"),
        ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.1", "end": "10.0.0.5"}]}, 409, "10.0.0.1"),
        ({"cidr": "10.0.0.0/24", "host_routes": ["x"]}, 400, "host_routes"),
        ({"cidr": "10.0.0.0/24", "ipv6_ra_mode": "slaac"}, 400, "not valid when ip_version is 4"),
        ({"cidr": "2001:db8::/64", "ip_version": 6, "ipv6_ra_mode": "fast"}, 400, "ipv6_ra_mode"),
        ({"cidr": "10.0.0.0/24", "service_types": ["x"]}, 400, "service_types"),
        ({"cidr": "10.0.0.0/24", "subnetpool_id": "x"}, 400, "subnetpool_id"),
        ({"cidr": "10.0.0.0/24", "dns_nameservers": ["x"]}, 400, "dns_nameservers[0]"),
        ({"cidr": "10.0.0.0/24", "dns_nameservers": ["1.1.1.1", "1.1.1.1"]}, 400, "dns_nameservers"),
        ({}, 400, "'cidr' not specified"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    client: httpx.AsyncClient, attributes: dict[str, object], status: int, words: str
) -> None:
    """A value that cannot be is refused and named; nothing is made."""
    network = await make(client, "network")
    response = await client.post("/v2.0/subnets", json={"subnet": {"network_id": network["id"], **attributes}})
    assert status == error(response)[0]
    assert words in error(response)[2]
    assert [] == (await client.get("/v2.0/subnets")).json()["subnets"]


async def test_an_unknown_network_is_404(client: httpx.AsyncClient) -> None:
    """A subnet of a network that nobody has is 404 NetworkNotFound, as in Neutron."""
    body = {"subnet": {"network_id": "00000000-0000-0000-0000-000000000000", "cidr": "10.0.0.0/24"}}
    assert (404, "NetworkNotFound") == error(await client.post("/v2.0/subnets", json=body))[:2]


async def test_a_subnet_in_use_stays(client: httpx.AsyncClient) -> None:
    """409 SubnetInUse while a port has an address in it, 204 afterwards."""
    network_id, subnet_id = await make_vpc(client)
    port = await make(client, "port", network_id=network_id)
    assert (409, "SubnetInUse") == error(await client.delete(f"/v2.0/subnets/{subnet_id}"))[:2]
    await client.delete(f"/v2.0/ports/{port['id']}")
    assert 204 == (await client.delete(f"/v2.0/subnets/{subnet_id}")).status_code
    assert (404, "SubnetNotFound") == error(await client.get(f"/v2.0/subnets/{subnet_id}"))[:2]
