"""Networks over REST: Neutron's attributes and codes, Alcor's cidr."""

import httpx
import pytest
from tests.api.conftest import NOW_TEXT
from tests.api.rest import error, make, make_vpc


async def test_a_created_network_shows_every_attribute(client: httpx.AsyncClient) -> None:
    """POST answers 201 with the whole network, in Neutron's words."""
    network = await make(client, "network", name="blue", description="d", cidr="10.0.0.0/16", tenant_id="p", mtu=1500)
    assert 36 == len(network.pop("id"))
    assert {
        "name": "blue",
        "description": "d",
        "project_id": "p",
        "tenant_id": "p",
        "status": "ACTIVE",
        "admin_state_up": True,
        "shared": False,
        "on_demand": False,
        "qos_policy_id": None,
        "subnets": [],
        "mtu": 1500,
        "cidr": "10.0.0.0/16",
        "provider:network_type": "vxlan",
        "provider:segmentation_id": 1,
        "provider:physical_network": None,
        "router:external": False,
        "port_security_enabled": True,
        "availability_zone_hints": [],
        "availability_zones": [],
        "dns_domain": "",
        "created_at": NOW_TEXT,
        "updated_at": NOW_TEXT,
        "revision_number": 1,
    } == network


async def test_a_network_lists_its_subnets(client: httpx.AsyncClient) -> None:
    """`subnets` has the ids of the network's subnets, in show, list and update."""
    network_id, subnet_id = await make_vpc(client)
    other = await make(client, "network")
    shown = (await client.get(f"/v2.0/networks/{network_id}")).json()["network"]
    updated = (await client.put(f"/v2.0/networks/{network_id}", json={"network": {"name": "n"}})).json()["network"]
    listed = {network["id"]: network["subnets"] for network in (await client.get("/v2.0/networks")).json()["networks"]}
    assert [subnet_id] == shown["subnets"] == updated["subnets"]
    assert {network_id: [subnet_id], other["id"]: []} == listed


async def test_the_project_is_the_headers_unless_the_body_says(client: httpx.AsyncClient) -> None:
    """X-Project-Id owns what is made; project_id (or tenant_id) in the body goes before it."""
    headers = {"X-Project-Id": "from-header"}
    owners = []
    for body in ({}, {"project_id": "from-body"}, {"tenant_id": "from-body"}):
        response = await client.post("/v2.0/networks", json={"network": body}, headers=headers)
        owners.append(response.json()["network"]["project_id"])
    assert ["from-header", "from-body", "from-body"] == owners


async def test_an_update_changes_what_it_names(client: httpx.AsyncClient) -> None:
    """PUT changes the given attributes, leaves the others, and raises the revision."""
    network = await make(client, "network", name="a", description="kept")
    body = {"network": {"name": "b", "cidr": "10.1.0.0/16", "shared": True}}
    response = await client.put(f"/v2.0/networks/{network['id']}", json=body)
    assert 200 == response.status_code
    assert (
        network | {"name": "b", "cidr": "10.1.0.0/16", "shared": True, "revision_number": 2}
        == response.json()["network"]
    )


async def test_deleting_is_204_then_404(client: httpx.AsyncClient) -> None:
    """DELETE answers 204 without a body; the id is unknown afterwards."""
    network = await make(client, "network")
    url = f"/v2.0/networks/{network['id']}"
    gone = await client.delete(url)
    assert (204, b"") == (gone.status_code, gone.content)
    for again in (await client.delete(url), await client.get(url), await client.put(url, json={"network": {}})):
        assert (404, "NetworkNotFound") == error(again)[:2]


async def test_a_network_in_use_stays(client: httpx.AsyncClient) -> None:
    """A network with a port is 409 NetworkInUse; with subnets only, it goes, and they go with it."""
    network_id, subnet_id = await make_vpc(client)
    port = await make(client, "port", network_id=network_id)
    assert (409, "NetworkInUse") == error(await client.delete(f"/v2.0/networks/{network_id}"))[:2]
    await client.delete(f"/v2.0/ports/{port['id']}")
    assert 204 == (await client.delete(f"/v2.0/networks/{network_id}")).status_code
    assert 404 == (await client.get(f"/v2.0/subnets/{subnet_id}")).status_code


@pytest.mark.parametrize(
    ("attributes", "kind", "words"),
    [
        ({"cidr": "10.0.0.1/16"}, "InvalidInput", "cidr"),
        ({"cidr": "::/0"}, "InvalidInput", "cidr"),
        ({"cidr": 5}, "HTTPBadRequest", "network.cidr"),
        ({"mtu": 70000}, "HTTPBadRequest", "network.mtu"),
        ({"mtu": 9000}, "InvalidInput", "MTU 9000"),
        ({"provider:segmentation_id": 0}, "HTTPBadRequest", "segmentation_id"),
        ({"provider:network_type": "vlan"}, "HTTPBadRequest", "provider:network_type"),
        ({"provider:physical_network": "physnet1"}, "HTTPBadRequest", "provider:physical_network"),
        ({"router:external": True, "provider:network_type": "vxlan"}, "InvalidInput", "provider:network_type"),
        ({"router:external": True, "provider:segmentation_id": 7}, "InvalidInput", "provider:segmentation_id"),
        ({"router:external": True, "cidr": "203.0.113.0/24"}, "InvalidInput", "is no VPC"),
        ({"provider:network_type": "flat"}, "InvalidInput", "provider:network_type"),
        ({"provider:physical_network": "external"}, "InvalidInput", "provider:physical_network"),
        ({"port_security_enabled": False}, "InvalidInput", "port_security_enabled"),
        ({"availability_zone_hints": ["az1"]}, "InvalidInput", "availability_zone_hints"),
        ({"name": "x" * 256}, "HTTPBadRequest", "network.name"),
        ({"shared": "yes"}, "HTTPBadRequest", "network.shared"),
        ({"vlan_transparent": True}, "HTTPBadRequest", "Unrecognized attribute(s) 'vlan_transparent'"),
        ({"status": "DOWN"}, "HTTPBadRequest", "Attribute 'status' not allowed in POST"),
        ({"project_id": "a", "tenant_id": "b"}, "InvalidInput", "tenant_id"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    client: httpx.AsyncClient, attributes: dict[str, object], kind: str, words: str
) -> None:
    """A value that cannot be, or that Alcor does not honour, is 400 and named; nothing is made."""
    status, found, message = error(await client.post("/v2.0/networks", json={"network": attributes}))
    assert (400, kind) == (status, found)
    assert words in message
    assert [] == (await client.get("/v2.0/networks")).json()["networks"]


async def test_a_segmentation_id_is_used_once(client: httpx.AsyncClient) -> None:
    """provider:segmentation_id is taken as given, and refused a second time with 409."""
    assert 77 == (await make(client, "network", **{"provider:segmentation_id": 77}))["provider:segmentation_id"]
    again = await client.post("/v2.0/networks", json={"network": {"provider:segmentation_id": 77}})
    assert (409, "VniInUse") == error(again)[:2]


async def test_a_bulk_is_all_or_nothing(client: httpx.AsyncClient) -> None:
    """One bad network in a bulk: none is made, and the message says which."""
    body = {"networks": [{"name": "a"}, {"name": "b", "cidr": "300.0.0.0/8"}]}
    status, kind, message = error(await client.post("/v2.0/networks", json=body))
    assert (400, "InvalidInput") == (status, kind)
    assert "networks[1].cidr" in message
    assert [] == (await client.get("/v2.0/networks")).json()["networks"]


async def test_numbers_come_as_text_too(client: httpx.AsyncClient) -> None:
    """The openstack command sends MTU and segmentation id as strings; what is no number in them is refused."""
    network = await make(client, "network", **{"mtu": "1400", "provider:segmentation_id": "9"})
    assert (1400, 9) == (network["mtu"], network["provider:segmentation_id"])
    for attribute, text in (("mtu", "70000"), ("mtu", "big"), ("mtu", "-1"), ("provider:segmentation_id", "0")):
        status, _, message = error(await client.post("/v2.0/networks", json={"network": {attribute: text}}))
        assert 400 == status
        assert attribute in message


async def test_mtu_zero_is_the_default(client: httpx.AsyncClient) -> None:
    """An MTU of 0 stands for the default, as in Neutron."""
    assert (await make(client, "network"))["mtu"] == (await make(client, "network", mtu=0))["mtu"]
