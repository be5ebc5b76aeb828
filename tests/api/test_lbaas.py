"""Octavia's API: every resource's life, refusals with Octavia's status, code and words, nothing half-done."""

from typing import Any

import httpx
import pytest
from tests.api.rest import make, make_vpc

from alcor.model.ids import parse_id
from alcor.services.commands import AnchorFloatingIp, PortReport, RecordPortReports

LBAAS = "/v2.0/lbaas"
UNKNOWN = "11111111-1111-4111-8111-111111111111"


async def create(client: httpx.AsyncClient, path: str, one: str, **attributes: Any) -> dict[str, Any]:
    """POSTs one of Octavia's resources and answers with it."""
    response = await client.post(f"{LBAAS}/{path}", json={one: attributes})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()[one]
    return made


def fault(response: httpx.Response) -> tuple[int, str, str]:
    """Status, code and words of a refusal, whose shape must be Octavia's."""
    body = response.json()
    assert {"faultcode", "faultstring", "debuginfo"} == body.keys()
    return response.status_code, body["faultcode"], body["faultstring"]


async def make_balancer(client: httpx.AsyncClient, **attributes: Any) -> tuple[dict[str, Any], str]:
    """A VPC of 10.0.0.0/16 with a load balancer; the balancer and the subnet's id."""
    _, subnet = await make_vpc(client)
    return await create(client, "loadbalancers", "loadbalancer", vip_subnet_id=subnet, name="lb", **attributes), subnet


async def make_web(client: httpx.AsyncClient) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A balancer with a listener of TCP port 80 and its pool."""
    balancer, _ = await make_balancer(client)
    listener = await create(
        client, "listeners", "listener", loadbalancer_id=balancer["id"], protocol="TCP", protocol_port=80
    )
    pool = await create(client, "pools", "pool", listener_id=listener["id"], protocol="TCP", lb_algorithm="ROUND_ROBIN")
    return balancer, listener, pool


async def test_a_balancer_has_a_port_of_its_own(client: httpx.AsyncClient) -> None:
    """The VIP is a port of the subnet, Octavia's, without a host, which nobody else may take away or bind."""
    balancer, subnet = await make_balancer(client, vip_address="10.0.0.100")
    assert ("10.0.0.100", subnet, "ACTIVE", "OFFLINE", "alcor") == tuple(
        balancer[name]
        for name in ("vip_address", "vip_subnet_id", "provisioning_status", "operating_status", "provider")
    )
    path = f"/v2.0/ports/{balancer['vip_port_id']}"
    port = (await client.get(path)).json()["port"]
    assert ("Octavia", f"lb-{balancer['id']}", "") == (port["device_owner"], port["device_id"], port["binding:host_id"])
    await make(client, "node", name="n1", local_ip="192.0.2.1")
    refused = await client.delete(path)
    assert (409, "ServicePortInUse") == (refused.status_code, refused.json()["NeutronError"]["type"])
    refused = await client.put(path, json={"port": {"binding:host_id": "n1"}})
    assert (409, "ServicePortInUse") == (refused.status_code, refused.json()["NeutronError"]["type"])
    assert 204 == (await client.delete(f"{LBAAS}/loadbalancers/{balancer['id']}")).status_code
    assert 404 == (await client.get(path)).status_code


async def test_a_port_that_was_given_stays(client: httpx.AsyncClient) -> None:
    """With vip_port_id the balancer takes that port's address, and leaves the port when it goes."""
    network, _ = await make_vpc(client)
    port = await make(client, "port", network_id=network)
    balancer = await create(client, "loadbalancers", "loadbalancer", vip_port_id=port["id"])
    assert port["fixed_ips"][0]["ip_address"] == balancer["vip_address"]
    refused = await client.post(f"{LBAAS}/loadbalancers", json={"loadbalancer": {"vip_port_id": port["id"]}})
    assert (400, "Client") == fault(refused)[:2]
    assert 204 == (await client.delete(f"{LBAAS}/loadbalancers/{balancer['id']}")).status_code
    assert 200 == (await client.get(f"/v2.0/ports/{port['id']}")).status_code


async def test_a_vip_of_a_network(client: httpx.AsyncClient) -> None:
    """With vip_network_id the subnet is the one that has the address, else the first of IPv4."""
    network, subnet = await make_vpc(client)
    six = await make(client, "subnet", network_id=network, cidr="2001:db8::/64", ip_version=6)
    first = await create(client, "loadbalancers", "loadbalancer", vip_network_id=network)
    second = await create(client, "loadbalancers", "loadbalancer", vip_network_id=network, vip_address="2001:db8::77")
    assert [subnet, six["id"]] == [first["vip_subnet_id"], second["vip_subnet_id"]]


async def test_a_tree_from_creation_to_cascade(client: httpx.AsyncClient) -> None:
    """Everything names what it belongs to; the status tree shows it; cascade takes it all away."""
    balancer, listener, pool = await make_web(client)
    member = await create(client, f"pools/{pool['id']}/members", "member", address="10.0.0.5", protocol_port=8080)
    monitor = await create(
        client,
        "healthmonitors",
        "healthmonitor",
        pool_id=pool["id"],
        type="HTTP",
        delay=2,
        timeout=1,
        max_retries=2,
    )
    assert ("GET", "/", "200", 3) == tuple(
        monitor[name] for name in ("http_method", "url_path", "expected_codes", "max_retries_down")
    )
    shown = (await client.get(f"{LBAAS}/pools/{pool['id']}")).json()["pool"]
    assert ([{"id": listener["id"]}], [{"id": member["id"]}], monitor["id"]) == (
        shown["listeners"],
        shown["members"],
        shown["healthmonitor_id"],
    )
    shown = (await client.get(f"{LBAAS}/listeners/{listener['id']}")).json()["listener"]
    assert (pool["id"], [{"id": balancer["id"]}]) == (shown["default_pool_id"], shown["loadbalancers"])
    tree = (await client.get(f"{LBAAS}/loadbalancers/{balancer['id']}/status")).json()["statuses"]["loadbalancer"]
    branch = tree["listeners"][0]["pools"][0]
    assert (member["id"], "OFFLINE", "ONLINE") == (
        branch["members"][0]["id"],
        branch["members"][0]["operating_status"],
        tree["operating_status"],
    )
    refused = await client.delete(f"{LBAAS}/loadbalancers/{balancer['id']}")
    assert 400 == refused.status_code
    assert "it has children" in fault(refused)[2]
    assert 204 == (await client.delete(f"{LBAAS}/loadbalancers/{balancer['id']}?cascade=true")).status_code
    for path in ("loadbalancers", "listeners", "pools", "healthmonitors"):
        assert {path: []} == (await client.get(f"{LBAAS}/{path}")).json()


async def test_members_are_replaced_at_once(client: httpx.AsyncClient) -> None:
    """A batch leaves exactly its members: who is there is changed, who is not named goes; additive only adds."""
    *_, pool = await make_web(client)
    path = f"pools/{pool['id']}/members"
    kept = await create(client, path, "member", address="10.0.0.5", protocol_port=80, weight=5, name="kept")
    await create(client, path, "member", address="10.0.0.6", protocol_port=80)
    batch = [{"address": "10.0.0.5", "protocol_port": 80, "weight": 0}, {"address": "10.0.0.7", "protocol_port": 80}]
    assert 202 == (await client.put(f"{LBAAS}/{path}", json={"members": batch})).status_code
    found = (await client.get(f"{LBAAS}/{path}")).json()["members"]
    assert {"10.0.0.5", "10.0.0.7"} == {one["address"] for one in found}
    one = next(one for one in found if one["id"] == kept["id"])
    assert ("kept", 0, "DRAINING") == (one["name"], one["weight"], one["operating_status"])
    more = {"members": [{"address": "10.0.0.8", "protocol_port": 80}]}
    assert 202 == (await client.put(f"{LBAAS}/{path}?additive_only=true", json=more)).status_code
    assert 3 == len((await client.get(f"{LBAAS}/{path}")).json()["members"])
    assert 202 == (await client.put(f"{LBAAS}/{path}", json={"members": []})).status_code
    assert [] == (await client.get(f"{LBAAS}/{path}")).json()["members"]
    twice = {"members": [batch[1], batch[1]]}
    assert 409 == (await client.put(f"{LBAAS}/{path}", json=twice)).status_code


async def test_changes(client: httpx.AsyncClient) -> None:
    """What may change does, and is shown so."""
    balancer, listener, pool = await make_web(client)
    member = await create(client, f"pools/{pool['id']}/members", "member", address="10.0.0.5", protocol_port=80)
    for path, one, change in (
        (f"loadbalancers/{balancer['id']}", "loadbalancer", {"name": "other", "admin_state_up": False}),
        (f"listeners/{listener['id']}", "listener", {"description": "new", "default_pool_id": None}),
        (f"pools/{pool['id']}", "pool", {"lb_algorithm": "SOURCE_IP"}),
        (f"pools/{pool['id']}/members/{member['id']}", "member", {"weight": 9, "admin_state_up": False}),
    ):
        response = await client.put(f"{LBAAS}/{path}", json={one: change})
        assert 200 == response.status_code, response.text
        again = (await client.get(f"{LBAAS}/{path}")).json()[one]
        assert change == {name: again[name] for name in change}
    response = await client.put(
        f"{LBAAS}/pools/{pool['id']}", json={"pool": {"session_persistence": {"type": "SOURCE_IP"}}}
    )
    assert "SOURCE_IP" == response.json()["pool"]["session_persistence"]["type"]


async def test_what_octavia_has_and_alcor_has_not_is_refused(client: httpx.AsyncClient) -> None:
    """L7, other protocols, algorithms and cookies: 501, in words, and nothing was made."""
    balancer, listener, pool = await make_web(client)
    for path, one, body in (
        ("listeners", "listener", {"loadbalancer_id": balancer["id"], "protocol": "HTTP", "protocol_port": 81}),
        (
            "listeners",
            "listener",
            {"loadbalancer_id": balancer["id"], "protocol": "TERMINATED_HTTPS", "protocol_port": 81},
        ),
        (
            "pools",
            "pool",
            {"loadbalancer_id": balancer["id"], "protocol": "TCP", "lb_algorithm": "LEAST_CONNECTIONS"},
        ),
        (
            "pools",
            "pool",
            {
                "loadbalancer_id": balancer["id"],
                "protocol": "TCP",
                "lb_algorithm": "ROUND_ROBIN",
                "session_persistence": {"type": "HTTP_COOKIE"},
            },
        ),
        ("l7policies", "l7policy", {"listener_id": listener["id"], "action": "REJECT"}),
        (
            "listeners",
            "listener",
            {
                "loadbalancer_id": balancer["id"],
                "protocol": "TCP",
                "protocol_port": 81,
                "timeout_client_data": 7,
            },
        ),
    ):
        status, code, words = fault(await client.post(f"{LBAAS}/{path}", json={one: body}))
        assert (501, "Server") == (status, code), words
        assert words.startswith("Provider 'alcor' does not support a requested option: ")
    assert 1 == len((await client.get(f"{LBAAS}/listeners")).json()["listeners"])
    assert [pool["id"]] == [one["id"] for one in (await client.get(f"{LBAAS}/pools")).json()["pools"]]


async def test_bad_input(client: httpx.AsyncClient) -> None:
    """Octavia's status for each, nothing half-done."""
    balancer, listener, pool = await make_web(client)
    network = await make(client, "network", name="foreign", cidr="10.9.0.0/16")
    foreign = await make(client, "subnet", network_id=network["id"], cidr="10.9.0.0/16", ip_version=4)
    members = f"pools/{pool['id']}/members"
    await create(client, members, "member", address="10.0.0.5", protocol_port=80)
    ports = len((await client.get("/v2.0/ports")).json()["ports"])
    subnet = balancer["vip_subnet_id"]
    for path, one, body, status in (
        ("loadbalancers", "loadbalancer", {"vip_subnet_id": subnet, "vip_address": "10.9.0.1"}, 400),
        ("loadbalancers", "loadbalancer", {"vip_subnet_id": subnet, "vip_address": balancer["vip_address"]}, 409),
        ("loadbalancers", "loadbalancer", {"vip_subnet_id": UNKNOWN}, 400),
        ("loadbalancers", "loadbalancer", {"name": "no vip"}, 400),
        ("loadbalancers", "loadbalancer", {"vip_subnet_id": subnet, "flavor": 1}, 400),
        ("listeners", "listener", {"loadbalancer_id": UNKNOWN, "protocol": "TCP", "protocol_port": 1}, 404),
        ("listeners", "listener", {"loadbalancer_id": balancer["id"], "protocol": "TCP", "protocol_port": 80}, 409),
        ("listeners", "listener", {"loadbalancer_id": balancer["id"], "protocol": "TCP", "protocol_port": 0}, 400),
        ("listeners", "listener", {"loadbalancer_id": balancer["id"], "protocol": "QUIC", "protocol_port": 2}, 400),
        ("pools", "pool", {"listener_id": listener["id"], "protocol": "TCP", "lb_algorithm": "SOURCE_IP"}, 409),
        ("pools", "pool", {"protocol": "TCP", "lb_algorithm": "SOURCE_IP"}, 400),
        (members, "member", {"address": "10.9.0.7", "protocol_port": 80}, 400),
        (members, "member", {"address": "10.9.0.7", "protocol_port": 80, "subnet_id": foreign["id"]}, 400),
        (members, "member", {"address": "2001:db8::7", "protocol_port": 80}, 400),
        (members, "member", {"address": balancer["vip_address"], "protocol_port": 80}, 400),
        (members, "member", {"address": "10.0.0.5", "protocol_port": 80}, 409),
        (members, "member", {"address": "10.0.0.6", "protocol_port": 80, "weight": 257}, 400),
        (f"pools/{UNKNOWN}/members", "member", {"address": "10.0.0.6", "protocol_port": 80}, 404),
        (
            "healthmonitors",
            "healthmonitor",
            {"pool_id": pool["id"], "type": "UDP-CONNECT", "delay": 2, "timeout": 1, "max_retries": 1},
            400,
        ),
        (
            "healthmonitors",
            "healthmonitor",
            {"pool_id": pool["id"], "type": "TCP", "delay": 1, "timeout": 2, "max_retries": 1},
            400,
        ),
    ):
        response = await client.post(f"{LBAAS}/{path}", json={one: body})
        assert (status, "Client") == fault(response)[:2], (path, body, response.text)
    assert ports == len((await client.get("/v2.0/ports")).json()["ports"])
    for path in ("loadbalancers", "listeners", "pools"):
        assert 1 == len((await client.get(f"{LBAAS}/{path}")).json()[path])
    assert (404, "Client") == fault(await client.get(f"{LBAAS}/nothing"))[:2]
    assert (405, "Client") == fault(await client.delete(f"{LBAAS}/pools"))[:2]
    assert (400, "Client") == fault(await client.post(f"{LBAAS}/pools", content=b"{"))[:2]


async def test_v2_is_the_same_as_v2_0(client: httpx.AsyncClient) -> None:
    """Both prefixes, that clients put there by themselves, answer alike."""
    balancer, _ = await make_balancer(client)
    assert (await client.get(f"/v2/lbaas/loadbalancers/{balancer['id']}")).json()["loadbalancer"] == (
        await client.get(f"{LBAAS}/loadbalancers/{balancer['id']}")
    ).json()["loadbalancer"]


@pytest.mark.parametrize(
    ("path", "one", "attribute"),
    [
        ("loadbalancers", "loadbalancer", "additional_vips"),
        ("loadbalancers", "loadbalancer", "vip_sg_ids"),
        ("listeners", "listener", "allowed_cidrs"),
        ("listeners", "listener", "sni_container_refs"),
        ("pools", "pool", "tags"),
        ("healthmonitors", "healthmonitor", "tags"),
    ],
)
async def test_a_list_that_nobody_would_honour_is_refused(
    client: httpx.AsyncClient, path: str, one: str, attribute: str
) -> None:
    """Whatever else is asked with it, made or changed: nobody is to believe that it holds."""
    balancer, listener, pool = await make_web(client)
    monitor = {"pool_id": pool["id"], "type": "TCP", "delay": 1, "timeout": 1, "max_retries": 1}
    probe = await create(client, "healthmonitors", "healthmonitor", **monitor)
    bodies: dict[str, dict[str, Any]] = {
        "loadbalancer": {"vip_subnet_id": balancer["vip_subnet_id"]},
        "listener": {"loadbalancer_id": balancer["id"], "protocol": "TCP", "protocol_port": 81},
        "pool": {"loadbalancer_id": balancer["id"], "protocol": "TCP", "lb_algorithm": "SOURCE_IP"},
        "healthmonitor": monitor,
    }
    there = {"loadbalancer": balancer, "listener": listener, "pool": pool, "healthmonitor": probe}[one]
    words = f"Provider 'alcor' does not support a requested option: {attribute}"
    body = {one: {**bodies[one], attribute: ["one"]}}
    assert (501, "Server", words) == fault(await client.post(f"{LBAAS}/{path}", json=body))
    if attribute in ("vip_sg_ids", "allowed_cidrs", "tags"):
        changed = await client.put(f"{LBAAS}/{path}/{there['id']}", json={one: {attribute: ["one"]}})
        assert (501, "Server", words) == fault(changed)
    assert 1 == len((await client.get(f"{LBAAS}/{path}")).json()[path])


async def test_members_with_tags_are_refused_all(client: httpx.AsyncClient) -> None:
    """One by one and in a batch."""
    _, _, pool = await make_web(client)
    path = f"{LBAAS}/pools/{pool['id']}/members"
    member = {"address": "10.0.0.5", "protocol_port": 80}
    tagged = {"address": "10.0.0.6", "protocol_port": 80, "tags": ["one"]}
    assert 501 == (await client.post(path, json={"member": tagged})).status_code
    assert 501 == (await client.put(path, json={"members": [member, tagged]})).status_code
    assert {"members": []} == (await client.get(path)).json()


async def test_a_floating_ip_of_a_balancer_shows_whose_host_answers(client: httpx.AsyncClient, plane: Any) -> None:
    """It stands for the VIP's port; it is as far as the port that it is with: DOWN with none, ACTIVE with that one."""
    committer, _ = plane
    balancer, subnet = await make_balancer(client)
    external = await make(client, "network", name="world", **{"router:external": True})
    await make(client, "subnet", network_id=external["id"], cidr="203.0.113.0/28", ip_version=4)
    router = await make(client, "router", external_gateway_info={"network_id": external["id"]})
    await client.put(f"/v2.0/routers/{router['id']}/add_router_interface", json={"subnet_id": subnet})
    await make(client, "node", name="h", local_ip="192.0.2.9")
    network = (await client.get(f"/v2.0/subnets/{subnet}")).json()["subnet"]["network_id"]
    anchor = await make(client, "port", network_id=network, **{"binding:host_id": "h"})
    made = await make(client, "floatingip", floating_network_id=external["id"], port_id=balancer["vip_port_id"])
    assert (balancer["vip_address"], "DOWN") == (made["fixed_ip_address"], made["status"])
    placed = await committer.submit(AnchorFloatingIp(id=parse_id(made["id"]), anchor_id=parse_id(anchor["id"])))
    assert placed.anchor_id == parse_id(anchor["id"])
    where = f"/v2.0/floatingips/{made['id']}"
    assert "DOWN" == (await client.get(where)).json()["floatingip"]["status"]
    revision = (await client.get(f"/v2.0/ports/{anchor['id']}")).json()["port"]["revision_number"]
    await committer.submit(RecordPortReports(reports=(PortReport(parse_id(anchor["id"]), "h", revision, ""),)))
    shown = (await client.get(where)).json()["floatingip"]
    assert ("ACTIVE", balancer["vip_port_id"]) == (shown["status"], shown["port_id"])
