"""Routers over REST: Neutron's bodies, codes and messages."""

from typing import Any

import httpx
from tests.api.rest import error, make

NOBODY = "eeeeeeee-eeee-4eee-8eee-eeeeeeeeeeee"


async def put(client: httpx.AsyncClient, of: dict[str, Any], action: str, **body: Any) -> httpx.Response:
    """PUT /v2.0/routers/{id}/{action}"""
    return await client.put(f"/v2.0/routers/{of['id']}/{action}", json=body)


async def subnet_of(client: httpx.AsyncClient, cidr: str, **fields: Any) -> dict[str, Any]:
    """A subnet of a network of its own."""
    network = await make(client, "network", name=cidr)
    version = 6 if ":" in cidr else 4
    return await make(client, "subnet", network_id=network["id"], cidr=cidr, ip_version=version, **fields)


async def test_a_router_is_made_shown_changed_and_deleted(client: httpx.AsyncClient) -> None:
    """With what Neutron shows of it; a change raises the revision, If-Match holds."""
    router = await make(client, "router", name="r", description="d", project_id="p")
    assert (True, False, None, [], "ACTIVE") == tuple(
        router[name] for name in ("distributed", "ha", "external_gateway_info", "routes", "status")
    )
    url = f"/v2.0/routers/{router['id']}"
    assert router == (await client.get(url)).json()["router"]
    assert [router] == (await client.get("/v2.0/routers?name=r&distributed=true")).json()["routers"]
    assert [] == (await client.get("/v2.0/routers?ha=true")).json()["routers"]
    changed = (await client.put(url, json={"router": {"admin_state_up": False}})).json()["router"]
    assert (False, router["revision_number"] + 1) == (changed["admin_state_up"], changed["revision_number"])
    stale = await client.delete(url, headers={"If-Match": f"revision_number={router['revision_number']}"})
    assert 412 == stale.status_code
    assert 204 == (await client.delete(url)).status_code
    assert (404, "RouterNotFound", f"Router {router['id']} could not be found") == error(await client.get(url))


async def test_what_a_host_cannot_do_is_refused(client: httpx.AsyncClient) -> None:
    """Central, highly available by VRRP: each by name."""
    for attribute, value in (("distributed", False), ("ha", True)):
        refused = error(await client.post("/v2.0/routers", json={"router": {attribute: value}}))
        assert (400, "InvalidInput") == refused[:2]
        assert attribute in refused[2]
    gateway = {"router": {"external_gateway_info": {"network_id": NOBODY}}}
    assert (404, "NetworkNotFound") == error(await client.post("/v2.0/routers", json=gateway))[:2]


async def test_an_interface_by_subnet_is_a_port_with_the_gateways_address(client: httpx.AsyncClient) -> None:
    """It is listed as Neutron lists it, and goes with the interface; so does the subnet only after that."""
    router, subnet = await make(client, "router", name="r", project_id="p"), await subnet_of(client, "10.1.0.0/24")
    added = await put(client, router, "add_router_interface", subnet_id=subnet["id"])
    assert 200 == added.status_code
    body = added.json()
    assert (router["id"], subnet["id"], [subnet["id"]], subnet["network_id"], "p") == tuple(
        body[name] for name in ("id", "subnet_id", "subnet_ids", "network_id", "tenant_id")
    )
    query = f"device_id={router['id']}&device_owner=network:router_interface"
    (port,) = (await client.get(f"/v2.0/ports?{query}")).json()["ports"]
    assert body["port_id"] == port["id"]
    assert [{"subnet_id": subnet["id"], "ip_address": "10.1.0.1"}] == port["fixed_ips"]
    assert ([], False) == (port["security_groups"], port["port_security_enabled"])
    refused = error(await client.delete(f"/v2.0/ports/{port['id']}"))
    assert (409, "ServicePortInUse") == refused[:2]
    refused = error(await client.put(f"/v2.0/ports/{port['id']}", json={"port": {"device_id": "vm"}}))
    assert (409, "ServicePortInUse") == refused[:2]
    assert 200 == (await client.put(f"/v2.0/ports/{port['id']}", json={"port": {"name": "n"}})).status_code
    assert (409, "SubnetInUse") == error(await client.delete(f"/v2.0/subnets/{subnet['id']}"))[:2]
    gateway = {"subnet": {"gateway_ip": "10.1.0.254"}}
    refused = error(await client.put(f"/v2.0/subnets/{subnet['id']}", json=gateway))
    assert (409, "GatewayIpInUse") == refused[:2]
    refused = error(await client.delete(f"/v2.0/routers/{router['id']}"))
    assert (409, "RouterInUse", f"Router {router['id']} still has ports") == refused
    removed = await put(client, router, "remove_router_interface", subnet_id=subnet["id"])
    assert (200, body) == (removed.status_code, removed.json())
    assert [] == (await client.get(f"/v2.0/ports?{query}")).json()["ports"]
    assert 204 == (await client.delete(f"/v2.0/subnets/{subnet['id']}")).status_code
    assert 204 == (await client.delete(f"/v2.0/routers/{router['id']}")).status_code


async def test_an_interface_by_port_has_that_ports_addresses(client: httpx.AsyncClient) -> None:
    """A free port becomes the router's, and is deleted with the interface."""
    router, subnet = await make(client, "router", name="r"), await subnet_of(client, "10.1.0.0/24")
    port = await make(
        client, "port", network_id=subnet["network_id"], fixed_ips=[{"ip_address": "10.1.0.77"}], security_groups=[]
    )
    assert 200 == (await put(client, router, "add_router_interface", port_id=port["id"])).status_code
    shown = (await client.get(f"/v2.0/ports/{port['id']}")).json()["port"]
    assert ("network:router_interface", router["id"]) == (shown["device_owner"], shown["device_id"])
    other = await make(client, "router", name="other")
    refused = error(await put(client, other, "add_router_interface", port_id=port["id"]))
    assert (409, "PortInUse") == refused[:2]
    mismatch = await put(client, router, "remove_router_interface", port_id=port["id"], subnet_id=NOBODY)
    assert (409, "SubnetMismatchForPort") == error(mismatch)[:2]
    assert 200 == (await put(client, router, "remove_router_interface", port_id=port["id"])).status_code
    assert 404 == (await client.get(f"/v2.0/ports/{port['id']}")).status_code


async def test_interfaces_that_cannot_be_are_refused(client: httpx.AsyncClient) -> None:
    """In Neutron's words, with nothing half-done."""
    router, subnet = await make(client, "router", name="r"), await subnet_of(client, "10.1.0.0/24")
    bare = await subnet_of(client, "10.2.0.0/24", gateway_ip=None)
    inner = await subnet_of(client, "10.1.0.128/25")
    await put(client, router, "add_router_interface", subnet_id=subnet["id"])
    ports = (await client.get("/v2.0/ports")).json()["ports"]
    for body, status, kind, words in (
        ({}, 400, "BadRequest", "Either subnet_id or port_id must be specified"),
        ({"subnet_id": NOBODY, "port_id": NOBODY}, 400, "BadRequest", "Cannot specify both subnet-id and port-id"),
        ({"subnet_id": NOBODY}, 404, "SubnetNotFound", NOBODY),
        ({"port_id": NOBODY}, 404, "PortNotFound", NOBODY),
        ({"subnet_id": bare["id"]}, 400, "BadRequest", "Subnet for router interface must have a gateway IP"),
        ({"subnet_id": subnet["id"]}, 400, "BadRequest", f"Router already has a port on subnet {subnet['id']}"),
        ({"subnet_id": inner["id"]}, 400, "BadRequest", "overlaps with cidr"),
        ({"subnet": "x"}, 400, "HTTPBadRequest", "Unrecognized attribute"),
    ):
        refused = error(await put(client, router, "add_router_interface", **body))
        assert (status, kind) == refused[:2]
        assert words in refused[2]
    for body, status, kind in (
        ({}, 400, "BadRequest"),
        ({"subnet_id": inner["id"]}, 404, "RouterInterfaceNotFoundForSubnet"),
        ({"port_id": NOBODY}, 404, "RouterInterfaceNotFound"),
    ):
        assert (status, kind) == error(await put(client, router, "remove_router_interface", **body))[:2]
    nobody = {"id": NOBODY}
    assert (404, "RouterNotFound") == error(await put(client, nobody, "add_router_interface", port_id=NOBODY))[:2]
    assert ports == (await client.get("/v2.0/ports")).json()["ports"]


async def test_extra_routes(client: httpx.AsyncClient) -> None:
    """Set as a whole, added and removed singly; blackholes have no next hop; an interface that one needs stays."""
    router, subnet = await make(client, "router", name="r"), await subnet_of(client, "10.1.0.0/24")
    await put(client, router, "add_router_interface", subnet_id=subnet["id"])
    first, second = (
        {"destination": "192.0.2.0/24", "nexthop": "10.1.0.9"},
        {"destination": "192.0.2.0/24", "nexthop": "10.1.0.8"},
    )
    url = f"/v2.0/routers/{router['id']}"
    changed = (await client.put(url, json={"router": {"routes": [first]}})).json()["router"]
    assert [first] == changed["routes"]
    nowhere = {"destination": "198.51.100.0/24", "type": "blackhole"}
    more = (await put(client, router, "add_extraroutes", router={"routes": [first, second, nowhere]})).json()
    shown = {"destination": "198.51.100.0/24", "nexthop": None}
    assert [second, first, shown] == more["router"]["routes"]
    refused = error(await put(client, router, "remove_router_interface", subnet_id=subnet["id"]))
    assert (409, "RouterInterfaceInUseByRoute") == refused[:2]
    gone = {"destination": "203.0.113.0/24", "nexthop": "10.1.0.9"}
    left = (await put(client, router, "remove_extraroutes", router={"routes": [first, second, gone]})).json()
    assert [shown] == left["router"]["routes"]
    assert [] == (await client.put(url, json={"router": {"routes": None}})).json()["router"]["routes"]


async def test_routes_that_cannot_be_are_refused(client: httpx.AsyncClient) -> None:
    """A next hop elsewhere, the router's own, another router's; families mixed; one twice; too many next hops."""
    router, subnet = await make(client, "router", name="r"), await subnet_of(client, "10.1.0.0/24")
    await put(client, router, "add_router_interface", subnet_id=subnet["id"])
    other = await make(client, "router", name="other")
    port = await make(
        client, "port", network_id=subnet["network_id"], fixed_ips=[{"ip_address": "10.1.0.2"}], security_groups=[]
    )
    await put(client, other, "add_router_interface", port_id=port["id"])
    there = {"destination": "192.0.2.0/24", "nexthop": "10.1.0.9"}
    for routes, words in (
        ([{**there, "nexthop": "10.9.0.1"}], "the nexthop is not connected with router"),
        ([{**there, "nexthop": "10.1.0.1"}], "the nexthop is used by router"),
        ([{**there, "nexthop": "10.1.0.2"}], "would lead to a router"),
        ([{"destination": "2001:db8::/64", "nexthop": "10.1.0.9"}], "two families"),
        ([there, there], "twice"),
        ([{**there, "nexthop": f"10.1.0.{host}"} for host in range(10, 19)], "at most 8 next hops"),
        ([there, {"destination": "192.0.2.0/24", "nexthop": None}], "blackhole"),
    ):
        refused = error(await client.put(f"/v2.0/routers/{router['id']}", json={"router": {"routes": routes}}))
        assert (400, "InvalidRoutes") == refused[:2]
        assert words in refused[2]
    broken = {"router": {"routes": [{**there, "destination": "192.0.2.1/24"}]}}
    refused = error(await client.put(f"/v2.0/routers/{router['id']}", json=broken))
    assert (400, "InvalidInput") == refused[:2]
    assert "routes[0].destination" in refused[2]
    shown = (await client.get(f"/v2.0/routers/{router['id']}")).json()["router"]
    assert [] == shown["routes"]


async def test_a_peering_connects_two_vpcs(client: httpx.AsyncClient) -> None:
    """Overlapping ones, networks that are no VPCs, one with itself and a pair twice are refused; what would overlap
    later is refused then."""
    one = await make(client, "network", name="one", cidr="10.1.0.0/16")
    two = await make(client, "network", name="two", cidr="10.2.0.0/16")
    same = await make(client, "network", name="same", cidr="10.1.128.0/17")
    plain = await make(client, "network", name="plain")

    async def peer(network: dict[str, Any], other: dict[str, Any]) -> httpx.Response:
        body = {"network_id": network["id"], "peer_network_id": other["id"]}
        return await client.post("/v2.0/vpc-peerings", json={"vpc_peering": body})

    peering = (await peer(one, two)).json()["vpc_peering"]
    assert (one["id"], two["id"]) == (peering["network_id"], peering["peer_network_id"])
    url = f"/v2.0/vpc-peerings/{peering['id']}"
    assert peering == (await client.get(url)).json()["vpc_peering"]
    listed = await client.get(f"/v2.0/vpc-peerings?peer_network_id={two['id']}")
    assert [peering] == listed.json()["vpc_peerings"]
    assert "n" == (await client.put(url, json={"vpc_peering": {"name": "n"}})).json()["vpc_peering"]["name"]
    for pair, status, kind in (
        ((two, one), 409, "VpcPeeringExists"),
        ((one, same), 409, "VpcPeeringOverlap"),
        ((one, plain), 400, "InvalidInput"),
        ((one, one), 400, "InvalidInput"),
        ((one, {"id": NOBODY}), 404, "NetworkNotFound"),
    ):
        assert (status, kind) == error(await peer(*pair))[:2]
    six = {"cidr": "2001:db8::/64", "ip_version": 6}
    await make(client, "subnet", network_id=one["id"], **six)
    refused = error(await client.post("/v2.0/subnets", json={"subnet": {"network_id": two["id"], **six}}))
    assert (400, "InvalidInput") == refused[:2]
    assert "would reach both" in refused[2]
    for cidr in ("10.1.0.0/24", None):
        refused = error(await client.put(f"/v2.0/networks/{two['id']}", json={"network": {"cidr": cidr}}))
        assert 409 == refused[0]
    assert (409, "NetworkInUse") == error(await client.delete(f"/v2.0/networks/{two['id']}"))[:2]
    assert 204 == (await client.delete(url)).status_code
    assert (404, "VpcPeeringNotFound") == error(await client.get(url))[:2]
    assert 204 == (await client.delete(f"/v2.0/networks/{two['id']}")).status_code


async def test_a_subnets_host_routes(client: httpx.AsyncClient) -> None:
    """Through the gateway; a way through a port is a router's route."""
    subnet = await subnet_of(
        client, "10.1.0.0/24", host_routes=[{"destination": "192.0.2.0/24", "nexthop": "10.1.0.1"}]
    )
    assert [{"destination": "192.0.2.0/24", "nexthop": "10.1.0.1"}] == subnet["host_routes"]
    url = f"/v2.0/subnets/{subnet['id']}"
    assert subnet == (await client.get(url)).json()["subnet"]
    there = {"destination": "192.0.2.0/24", "nexthop": "10.1.0.9"}
    refused = error(await client.put(url, json={"subnet": {"host_routes": [there]}}))
    assert (400, "InvalidInput") == refused[:2]
    assert "gateway_ip" in refused[2]
    assert [] == (await client.put(url, json={"subnet": {"host_routes": []}})).json()["subnet"]["host_routes"]
