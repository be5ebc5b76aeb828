"""Lists: filters, fields, sorting, pages and their links, as Neutron has them."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.api.conftest import control_plane
from tests.api.rest import error, make, make_many, make_vpc

from alcor.api.app import create_app


async def names(client: httpx.AsyncClient, query: str) -> list[str]:
    """The names of the ports of a page."""
    response = await client.get(f"/v2.0/ports{query}")
    assert response.status_code == 200, response.text
    return [port["name"] for port in response.json()["ports"]]


async def make_ports(client: httpx.AsyncClient, count: int) -> tuple[str, str]:
    """Ports p0, p1, ... in a VPC; its and its subnet's ids."""
    network_id, subnet_id = await make_vpc(client)
    await make_many(client, "port", [{"network_id": network_id, "name": f"p{at}"} for at in range(count)])
    return network_id, subnet_id


async def test_filters_are_anded_and_their_values_ored(client: httpx.AsyncClient) -> None:
    """Two names must both hold; two values of one name are alternatives."""
    network_id, _ = await make_ports(client, 4)
    assert ["p1", "p3"] == await names(client, "?name=p1&name=p3&name=none")
    assert ["p1"] == await names(client, f"?name=p1&network_id={network_id}&status=DOWN")
    assert [] == await names(client, "?name=p1&status=ACTIVE")


async def test_every_advertised_filter_of_a_port_selects_it(client: httpx.AsyncClient) -> None:
    """A port is found by each of its attributes, and by none of their opposites."""
    await make(client, "node", name="h1", local_ip="192.168.0.1")
    network_id, subnet_id = await make_vpc(client)
    port = await make(
        client,
        "port",
        network_id=network_id,
        name="mine",
        description="d",
        project_id="p",
        device_id="vm",
        device_owner="compute:nova",
        **{"binding:host_id": "h1"},
    )
    await make(client, "port", network_id=(await make(client, "network"))["id"], admin_state_up=False)
    for query in (
        f"id={port['id']}",
        f"network_id={network_id}",
        "name=mine",
        "description=d",
        "project_id=p",
        "tenant_id=p",
        "device_id=vm",
        "device_owner=compute:nova",
        "binding:host_id=h1",
        f"mac_address={port['mac_address'].upper()}",
        "admin_state_up=True",
        "status=BUILD",
        f"subnet_id={subnet_id}",
        f"fixed_ips=subnet_id%3D{subnet_id}",
        "ip_address=10.0.0.2",
        "fixed_ips=ip_address%3D10.0.0.2",
        f"fixed_ips=ip_address%3D10.0.0.2&fixed_ips=subnet_id%3D{subnet_id}",
        "alcor:kind=tap",
        "revision_number=" + str(port["revision_number"]),
    ):
        assert ["mine"] == await names(client, f"?{query}"), query


async def test_an_empty_value_selects_what_is_empty(client: httpx.AsyncClient) -> None:
    """`device_id=` lists ports of no device (extension empty-string-filtering)."""
    network_id, _ = await make_vpc(client)
    await make_many(client, "port", [{"network_id": network_id, "name": name, "device_id": name} for name in ("", "a")])
    assert [""] == await names(client, "?device_id=")


async def test_attributes_that_never_vary_filter_too(client: httpx.AsyncClient) -> None:
    """The value that every resource has selects all, any other none."""
    await make(client, "network", name="n")
    for query, count in (
        ("router:external=False", 1),
        ("router:external=True", 0),
        ("provider:network_type=vxlan", 1),
        ("provider:network_type=vlan", 0),
        ("status=ACTIVE", 1),
    ):
        assert count == len((await client.get(f"/v2.0/networks?{query}")).json()["networks"]), query


async def test_a_value_that_nobody_can_have_selects_nothing(client: httpx.AsyncClient) -> None:
    """What is no id, no address or no number matches nothing, as in Neutron; a boolean must be one."""
    await make_ports(client, 1)
    for query in ("id=web", "network_id=x", "mac_address=x", "ip_address=x", "revision_number=x"):
        assert [] == await names(client, f"?{query}")
    assert (400, "HTTPBadRequest") == error(await client.get("/v2.0/ports?admin_state_up=perhaps"))[:2]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("colour=red", "['colour'] is invalid attribute for filtering"),
        ("limit=-1", "Limit"),
        ("limit=ten", "Limit"),
        ("sort_key=name", "sort_dirs"),
        ("sort_key=colour&sort_dir=asc", "['colour'] is invalid attribute for sort_keys"),
        ("sort_key=name&sort_dir=up", "['up'] is invalid value for sort_dirs"),
        ("sort_key=fixed_ips&sort_dir=asc", "['fixed_ips']"),
        ("fixed_ips=10.0.0.5", "fixed_ips"),
        ("page_reverse=perhaps", "boolean"),
        ("name=%ff", "UTF-8"),
    ],
)
async def test_a_question_that_cannot_be_read_is_400(client: httpx.AsyncClient, query: str, words: str) -> None:
    """The message names what is wrong with the query."""
    status, kind, message = error(await client.get(f"/v2.0/ports?{query}"))
    assert (400, "HTTPBadRequest") == (status, kind)
    assert words in message


async def test_fields_cut_what_is_shown(client: httpx.AsyncClient) -> None:
    """Only the fields asked for, in lists and of one resource; unknown ones are ignored, as in Neutron."""
    network_id, _ = await make_ports(client, 1)
    listed = (await client.get("/v2.0/ports?fields=name&fields=status&fields=trunk_details")).json()["ports"]
    assert [{"name": "p0", "status": "DOWN"}] == listed
    shown = await client.get(f"/v2.0/networks/{network_id}?fields=name")
    assert {"network": {"name": "vpc"}} == shown.json()


async def test_sorting_by_several_keys(client: httpx.AsyncClient) -> None:
    """sort_key and sort_dir come in pairs; the first leads."""
    network_id, _ = await make_vpc(client)
    bodies = [{"network_id": network_id, "name": name, "device_id": device} for name, device in ("b1", "a2", "a1")]
    ports = await make_many(client, "port", bodies)
    query = "sort_key=name&sort_dir=asc&sort_key=device_id&sort_dir=desc&fields=id"
    found = [port["id"] for port in (await client.get(f"/v2.0/ports?{query}")).json()["ports"]]
    assert [ports[1]["id"], ports[2]["id"], ports[0]["id"]] == found


async def test_links_lead_through_all_pages(client: httpx.AsyncClient) -> None:
    """Following `next` from page to page shows every port once, in order; a page that is not full has none."""
    await make_ports(client, 7)
    url = "http://alcor/v2.0/ports?limit=3&fields=name&sort_key=name&sort_dir=desc"
    pages, links = [], []
    while url:
        body = (await client.get(url)).json()
        pages.append([port["name"] for port in body["ports"]])
        links.append([link["rel"] for link in body["ports_links"]])
        url = next((link["href"] for link in body["ports_links"] if link["rel"] == "next"), "")
    assert [["p6", "p5", "p4"], ["p3", "p2", "p1"], ["p0"]] == pages
    assert [["next", "previous"], ["next", "previous"], ["previous"]] == links


async def test_previous_leads_back(client: httpx.AsyncClient) -> None:
    """`previous` of the second page is the first page, in the same order."""
    await make_ports(client, 6)
    first = (await client.get("/v2.0/ports?limit=2")).json()
    second = (await client.get(first["ports_links"][0]["href"])).json()
    back = next(link["href"] for link in second["ports_links"] if link["rel"] == "previous")
    query = parse_qs(urlsplit(back).query)
    assert {"limit": ["2"], "marker": [second["ports"][0]["id"]], "page_reverse": ["True"]} == query
    assert first["ports"] == (await client.get(back)).json()["ports"]


async def test_a_list_is_paged_even_if_nobody_asks(client: httpx.AsyncClient) -> None:
    """More than the server's page is answered with a `next` link; less has no links at all."""
    network_id, _ = await make_ports(client, 999)
    assert {"ports"} == (await client.get("/v2.0/ports")).json().keys()
    await make_many(client, "port", [{"network_id": network_id, "name": f"q{at}"} for at in range(2)])
    body = (await client.get("/v2.0/ports?limit=100000&fields=id")).json()
    assert 1000 == len(body["ports"])
    rest = (await client.get(body["ports_links"][0]["href"])).json()
    assert 1 == len(rest["ports"])


async def test_an_unknown_marker_is_404(client: httpx.AsyncClient) -> None:
    """As in Neutron: the marker names a port that is not there."""
    for marker in ("nope", "00000000-0000-0000-0000-000000000000"):
        assert (404, "PortNotFound") == error(await client.get(f"/v2.0/ports?limit=1&marker={marker}"))[:2]


async def test_what_would_be_a_scan_is_refused_and_networks_still_list(tmp_path: Path) -> None:
    """Beyond the store's bound a filter without an index is 400; networks show their subnets, however many."""
    with control_plane(tmp_path, scan_bound=3) as plane:
        transport = httpx.ASGITransport(create_app(*plane))
        async with httpx.AsyncClient(transport=transport, base_url="http://alcor") as client:
            networks = [await make(client, "network", name=f"n{at}") for at in range(4)]
            subnets: dict[str, list[str]] = {network["id"]: [] for network in networks}
            for network in networks:
                for at in range(2):
                    cidr = f"10.0.{at}.0/24"
                    made = await make(client, "subnet", network_id=network["id"], cidr=cidr)
                    subnets[network["id"]].append(made["id"])
            listed = (await client.get("/v2.0/networks")).json()["networks"]
            assert subnets == {network["id"]: network["subnets"] for network in listed}
            status, _, message = error(await client.get("/v2.0/networks?description=x"))
            assert 400 == status
            assert "Add a filter" in message
