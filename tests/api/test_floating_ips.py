"""Floating IPs, external networks and routers' gateways over REST."""

from typing import Any

import httpx
import pytest
from tests.api.rest import error, make, make_many


async def outside(client: httpx.AsyncClient, cidr: str = "203.0.113.0/28") -> tuple[dict[str, Any], dict[str, Any]]:
    """An external network and its subnet."""
    network = await make(client, "network", name="outside", **{"router:external": True})
    subnet = await make(client, "subnet", network_id=network["id"], cidr=cidr, ip_version=4)
    return network, subnet


async def inside(client: httpx.AsyncClient, external: str, cidr: str = "10.5.0.0/24") -> tuple[str, dict[str, Any]]:
    """A router's id, and a port behind it."""
    network = await make(client, "network", name="inside")
    subnet = await make(client, "subnet", network_id=network["id"], cidr=cidr, ip_version=4)
    router = await make(client, "router", name="r", external_gateway_info={"network_id": external})
    added = await client.put(f"/v2.0/routers/{router['id']}/add_router_interface", json={"subnet_id": subnet["id"]})
    assert added.status_code == 200, added.text
    return router["id"], await make(client, "port", network_id=network["id"], name="p")


async def test_an_external_network_is_flat(client: httpx.AsyncClient) -> None:
    """It shows no VNI; lists select it."""
    network, _ = await outside(client)
    shown = {name: network[f"provider:{name}"] for name in ("network_type", "physical_network", "segmentation_id")}
    assert {"network_type": "flat", "physical_network": "external", "segmentation_id": None} == shown
    assert network["router:external"] is True
    found = (await client.get("/v2.0/networks", params={"router:external": "True"})).json()["networks"]
    assert [network["id"]] == [one["id"] for one in found]
    changed = await client.put(f"/v2.0/networks/{network['id']}", json={"network": {"router:external": True}})
    assert 200 == changed.status_code


async def test_a_router_shows_its_gateway(client: httpx.AsyncClient) -> None:
    """Given with an address, changed, and taken away by null and by nothing."""
    network, subnet = await outside(client)
    info = {"network_id": network["id"], "external_fixed_ips": [{"ip_address": "203.0.113.9"}]}
    router = await make(client, "router", name="r", external_gateway_info=info)
    expected = {
        "network_id": network["id"],
        "external_fixed_ips": [{"subnet_id": subnet["id"], "ip_address": "203.0.113.9"}],
        "enable_snat": True,
        "alcor:hosts_without_snat": [],
    }
    assert expected == router["external_gateway_info"]
    where = f"/v2.0/routers/{router['id']}"
    off = await client.put(where, json={"router": {"external_gateway_info": {**info, "enable_snat": False}}})
    assert expected | {"enable_snat": False} == off.json()["router"]["external_gateway_info"]
    nothing: dict[str, object] | None
    for nothing in (None, {}):
        cleared = await client.put(where, json={"router": {"external_gateway_info": nothing}})
        assert cleared.json()["router"]["external_gateway_info"] is None
        again = {"router": {"external_gateway_info": {"network_id": network["id"]}}}
        assert 200 == (await client.put(where, json=again)).status_code


async def test_a_floating_ip_as_neutron_shows_it(client: httpx.AsyncClient) -> None:
    """Made free, given to a port, shown with it, listed by it, taken away, deleted."""
    network, _ = await outside(client)
    router, port = await inside(client, network["id"])
    made = await make(client, "floatingip", floating_network_id=network["id"], description="d")
    assert ("203.0.113.3", "DOWN", None, None) == tuple(
        made[name] for name in ("floating_ip_address", "status", "port_id", "port_details")
    )
    where = f"/v2.0/floatingips/{made['id']}"
    given = (await client.put(where, json={"floatingip": {"port_id": port["id"]}})).json()["floatingip"]
    address = port["fixed_ips"][0]["ip_address"]
    assert (port["id"], address, router) == (given["port_id"], given["fixed_ip_address"], given["router_id"])
    assert ("p", "DOWN") == (given["port_details"]["name"], given["status"])
    for name, value in (
        ("port_id", port["id"]),
        ("router_id", router),
        ("floating_ip_address", "203.0.113.3"),
        ("fixed_ip_address", address),
        ("floating_network_id", network["id"]),
    ):
        listed = (await client.get("/v2.0/floatingips", params={name: value})).json()["floatingips"]
        assert [made["id"]] == [one["id"] for one in listed], name
    assert given == (await client.get(where)).json()["floatingip"]
    taken = (await client.put(where, json={"floatingip": {"port_id": None}})).json()["floatingip"]
    assert (None, None, None) == (taken["port_id"], taken["fixed_ip_address"], taken["router_id"])
    assert 204 == (await client.delete(where)).status_code
    assert 404 == (await client.get(where)).status_code


async def test_a_bulk_of_floating_ips(client: httpx.AsyncClient) -> None:
    """All or none."""
    network, _ = await outside(client)
    made = await make_many(client, "floatingip", [{"floating_network_id": network["id"]}] * 3)
    assert 3 == len({one["floating_ip_address"] for one in made})
    too_many = {"floatingips": [{"floating_network_id": network["id"]}] * 11}
    refused = error(await client.post("/v2.0/floatingips", json=too_many))
    assert (400, "ExternalIpAddressExhausted") == refused[:2]
    assert 3 == len((await client.get("/v2.0/floatingips")).json()["floatingips"])


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"floating_network_id": "INSIDE"}, 400, "BadRequest"),
        ({"floating_network_id": "OUTSIDE", "floating_ip_address": "198.51.100.1"}, 400, "InvalidIpForNetwork"),
        ({"floating_network_id": "OUTSIDE", "port_id": "UNREACHED"}, 404, "ExternalGatewayForFloatingIPNotFound"),
        ({"floating_network_id": "OUTSIDE", "fixed_ip_address": "10.5.0.2"}, 400, "BadRequest"),
        ({"floating_network_id": "OUTSIDE", "dns_name": "x"}, 400, "HTTPBadRequest"),
        ({}, 400, "HTTPBadRequest"),
    ],
)
async def test_what_cannot_be_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, kind: str
) -> None:
    """With Neutron's codes."""
    network, _ = await outside(client)
    inner = await make(client, "network", name="inside")
    await make(client, "subnet", network_id=inner["id"], cidr="10.6.0.0/24", ip_version=4)
    port = await make(client, "port", network_id=inner["id"])
    named = {"INSIDE": inner["id"], "OUTSIDE": network["id"], "UNREACHED": port["id"]}
    sent = {name: named.get(value, value) for name, value in body.items()}
    refused = error(await client.post("/v2.0/floatingips", json={"floatingip": sent}))
    assert (status, kind) == refused[:2], refused


async def test_an_address_has_one_floating_ip(client: httpx.AsyncClient) -> None:
    """A second one for it is refused, made with it or moved there; another address of the port may have one."""
    network, _ = await outside(client)
    _, one = await inside(client, network["id"])
    subnet_id = one["fixed_ips"][0]["subnet_id"]
    places = [{"subnet_id": subnet_id, "ip_address": ip} for ip in ("10.5.0.10", "10.5.0.11")]
    port = await make(client, "port", network_id=one["network_id"], fixed_ips=places)
    mine = {"floating_network_id": network["id"], "port_id": port["id"]}
    await make(client, "floatingip", **mine, fixed_ip_address="10.5.0.10")
    body = {"floatingip": {**mine, "fixed_ip_address": "10.5.0.10"}}
    refused = error(await client.post("/v2.0/floatingips", json=body))
    assert (409, "FloatingIPPortAlreadyAssociated") == refused[:2]
    free = await make(client, "floatingip", floating_network_id=network["id"])
    where = f"/v2.0/floatingips/{free['id']}"
    moved = {"floatingip": {"port_id": port["id"], "fixed_ip_address": "10.5.0.10"}}
    assert (409, "FloatingIPPortAlreadyAssociated") == error(await client.put(where, json=moved))[:2]
    assert free == (await client.get(where)).json()["floatingip"]
    assert 2 == len((await client.get("/v2.0/floatingips")).json()["floatingips"])
    await make(client, "floatingip", **mine, fixed_ip_address="10.5.0.11")


async def test_what_hosts_do_not_do_is_refused(client: httpx.AsyncClient) -> None:
    """Floating IPs of IPv6, advertisements outside, a switch that is neither on nor off."""
    network, _ = await outside(client)
    info = {"network_id": network["id"], "enable_snat": "perhaps"}
    refused = error(await client.post("/v2.0/routers", json={"router": {"external_gateway_info": info}}))
    assert (400, "HTTPBadRequest") == refused[:2]
    six = {"network_id": network["id"], "cidr": "2001:db8::/64", "ip_version": 6}
    slaac = {**six, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    assert (400, "InvalidInput") == error(await client.post("/v2.0/subnets", json={"subnet": slaac}))[:2]
    subnet = await make(client, "subnet", **six)
    fip = {"floating_network_id": network["id"], "subnet_id": subnet["id"]}
    refused = error(await client.post("/v2.0/floatingips", json={"floatingip": fip}))
    assert (400, "BadRequest") == refused[:2]


async def test_a_router_has_an_address_of_each_family(client: httpx.AsyncClient) -> None:
    """Shown IPv4 first, asked for as shown, and by family; its port has both. Two of one family are refused."""
    network, four = await outside(client)
    wide = {"cidr": "2001:db8:100::/40", "ip_version": 6, "gateway_ip": "fe80::1", "enable_dhcp": False}
    six = await make(client, "subnet", network_id=network["id"], **wide)
    assert [{"start": "2001:db8:100::1", "end": "2001:db8:100:0:ffff:ffff:ffff:ffff"}] == six["allocation_pools"]
    router = await make(client, "router", name="r", external_gateway_info={"network_id": network["id"]})
    info = router["external_gateway_info"]
    both = [
        {"subnet_id": four["id"], "ip_address": "203.0.113.2"},
        {"subnet_id": six["id"], "ip_address": "2001:db8:100::1"},
    ]
    assert both == info["external_fixed_ips"]
    query = {"device_id": router["id"], "device_owner": "network:router_gateway"}
    (port,) = (await client.get("/v2.0/ports", params=query)).json()["ports"]
    assert both == port["fixed_ips"]
    where = f"/v2.0/routers/{router['id']}"

    async def put(*addresses: dict[str, str]) -> httpx.Response:
        asked = {"network_id": network["id"], "external_fixed_ips": addresses}
        return await client.put(where, json={"router": {"external_gateway_info": asked}})

    same = (await put(*both)).json()["router"]
    assert (both, router["revision_number"]) == (
        same["external_gateway_info"]["external_fixed_ips"],
        same["revision_number"],
    )
    only = (await put({"subnet_id": six["id"]})).json()["router"]["external_gateway_info"]
    assert (both[1:], True) == (only["external_fixed_ips"], only["enable_snat"])
    twice = error(await put({"ip_address": "2001:db8:100::5"}, {"ip_address": "2001:db8:100::6"}))
    assert (400, "BadRequest") == twice[:2]
    assert 400 == (await put(*both, {"ip_address": "203.0.113.9"})).status_code


async def test_what_two_routers_would_lead_outside_is_refused(client: httpx.AsyncClient) -> None:
    """One address is at one place there."""
    network, _ = await outside(client)
    wide = {"cidr": "2001:db8:100::/40", "ip_version": 6, "gateway_ip": "fe80::1"}
    await make(client, "subnet", network_id=network["id"], **wide)
    answers = []
    for _ in range(2):
        inner = await make(client, "network", name="inside")
        own = {"cidr": "2001:db8:100:7::/64", "ip_version": 6}
        subnet = await make(client, "subnet", network_id=inner["id"], **own)
        router = await make(client, "router", name="r", external_gateway_info={"network_id": network["id"]})
        where = f"/v2.0/routers/{router['id']}/add_router_interface"
        answers.append(await client.put(where, json={"subnet_id": subnet["id"]}))
    assert 200 == answers[0].status_code
    status, kind, message = error(answers[1])
    assert (400, "BadRequest") == (status, kind)
    assert "overlaps with cidr 2001:db8:100:7::/64, which another router leads outside" in message


async def test_port_forwardings_are_below_their_floating_ip(client: httpx.AsyncClient) -> None:
    """Made, shown, listed, changed, deleted; the floating IP shows them; elsewhere they are not."""
    network, _ = await outside(client)
    _, port = await inside(client, network["id"])
    fip = await make(client, "floatingip", floating_network_id=network["id"])
    other = await make(client, "floatingip", floating_network_id=network["id"])
    where = f"/v2.0/floatingips/{fip['id']}/port_forwardings"
    address = port["fixed_ips"][0]["ip_address"]
    body = {"protocol": "tcp", "external_port": 80, "internal_port": 8080, "internal_port_id": port["id"]}
    made = await client.post(where, json={"port_forwarding": body})
    assert 201 == made.status_code, made.text
    one = made.json()["port_forwarding"]
    assert {**body, "internal_ip_address": address, "description": "", "id": one["id"]} == one
    assert one == (await client.get(f"{where}/{one['id']}")).json()["port_forwarding"]
    for query, count in (({}, 1), ({"protocol": "tcp"}, 1), ({"protocol": "udp"}, 0), ({"external_port": "80"}, 1)):
        assert count == len((await client.get(where, params=query)).json()["port_forwardings"]), query
    shown = (await client.get(f"/v2.0/floatingips/{fip['id']}")).json()["floatingip"]["port_forwardings"]
    assert [(80, 8080, address)] == [
        (each["external_port"], each["internal_port"], each["internal_ip_address"]) for each in shown
    ]
    changed = await client.put(f"{where}/{one['id']}", json={"port_forwarding": {"external_port": 443}})
    assert 443 == changed.json()["port_forwarding"]["external_port"]
    elsewhere = f"/v2.0/floatingips/{other['id']}/port_forwardings"
    assert [] == (await client.get(elsewhere)).json()["port_forwardings"]
    assert (404, "PortForwardingNotFound") == error(await client.get(f"{elsewhere}/{one['id']}"))[:2]
    assert (409, "FipInUseByPortForwarding") == error(await client.delete(f"/v2.0/floatingips/{fip['id']}"))[:2]
    assert 204 == (await client.delete(f"{where}/{one['id']}")).status_code
    assert 404 == (await client.delete(f"{where}/{one['id']}")).status_code
