"""`POST /v2.0/reachability`: its shapes, and what it refuses."""

from typing import Any

import httpx
import pytest
from tests.api.rest import error, make_many, make_vpc


async def ask(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v2.0/reachability", json={"reachability": body})


async def two_ports(client: httpx.AsyncClient) -> tuple[dict[str, Any], dict[str, Any]]:
    """On two hosts, in the default group."""
    network_id, _ = await make_vpc(client)
    await make_many(client, "node", [{"name": name, "local_ip": f"192.0.2.{at}"} for at, name in ((1, "a"), (2, "b"))])
    bodies = [{"network_id": network_id, "binding:host_id": host} for host in ("a", "b")]
    one, other = await make_many(client, "port", bodies)
    return one, other


async def test_the_answer_names_the_step_and_the_rules(client: httpx.AsyncClient) -> None:
    """Members of the default group reach each other; the answer tells how, host by host."""
    one, other = await two_ports(client)
    response = await ask(
        client, source_port_id=one["id"], destination_port_id=other["id"], protocol="tcp", destination_port=22
    )
    assert 200 == response.status_code, response.text
    found = response.json()["reachability"]
    assert ("delivered", "") == (found["outcome"], found["reason"])
    assert found["decided_by"] == found["steps"][-1]
    assert ["a", "b"] == sorted({step.split(":")[0] for step in found["steps"]})
    rules = (await client.get("/v2.0/security-group-rules")).json()["security_group_rules"]
    by_id = {rule["id"]: rule["direction"] for rule in rules}
    assert ("egress", "ingress") == (by_id[found["egress_rule_id"]], by_id[found["ingress_rule_id"]])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "destination_ip"),
        ({"destination_ip": "10.0.0.300"}, "destination_ip"),
        ({"destination_ip": "10.0.0.3", "protocol": "tcp"}, "destination_port"),
        ({"destination_ip": "10.0.0.3", "protocol": "nonsense"}, "nonsense"),
        ({"destination_ip": "10.0.0.3", "protocol": "udp", "destination_port": 70000}, "destination_port"),
        ({"destination_ip": "10.0.0.3", "colour": "red"}, "colour"),
        ({"destination_ip": "10.0.0.3", "source_ip": "192.0.2.1"}, "source_ip"),
    ],
)
async def test_what_cannot_be_asked(client: httpx.AsyncClient, body: dict[str, Any], words: str) -> None:
    """400, and the field by name."""
    one, _ = await two_ports(client)
    answer = await ask(client, source_port_id=one["id"], **body)
    assert 400 == error(answer)[0], answer.text
    assert words in error(answer)[2]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"destination_ip": "10.0.0.3"}, "source_ip"),
        ({"source_ip": "192.0.2.1", "destination_port_id": "00000000-0000-0000-0000-000000000000"}, "destination_ip"),
        ({"source_ip": "2001:db8::1", "destination_ip": "192.0.2.1"}, "family"),
        ({"source_ip": "192.0.2.1", "destination_ip": "2001:db8::1"}, "family"),
    ],
)
async def test_what_cannot_be_asked_from_outside(client: httpx.AsyncClient, body: dict[str, Any], words: str) -> None:
    """A question has one source; from outside it is about a floating IP, by its address."""
    answer = await ask(client, **body)
    assert 400 == error(answer)[0], answer.text
    assert words in error(answer)[2]


async def test_a_load_balancers_members_are_told(client: httpx.AsyncClient) -> None:
    """For a VIP, from within: each member, and what would become of the packet there. From outside: a floating IP that
    is nobody's is not found."""
    one, other = await two_ports(client)
    made = await client.post("/v2.0/lbaas/loadbalancers", json={"loadbalancer": {"vip_network_id": one["network_id"]}})
    balancer = made.json()["loadbalancer"]
    body = {"loadbalancer_id": balancer["id"], "protocol": "TCP", "protocol_port": 80}
    listener = (await client.post("/v2.0/lbaas/listeners", json={"listener": body})).json()["listener"]
    body = {"listener_id": listener["id"], "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"}
    pool = (await client.post("/v2.0/lbaas/pools", json={"pool": body})).json()["pool"]
    address = other["fixed_ips"][0]["ip_address"]
    member = {"address": address, "protocol_port": 8080}
    await client.post(f"/v2.0/lbaas/pools/{pool['id']}/members", json={"member": member})
    tcp = {"protocol": "tcp", "destination_port": 80, "destination_ip": balancer["vip_address"]}
    found = (await ask(client, source_port_id=one["id"], **tcp)).json()["reachability"]
    told = {"weight": 1, "takes_connections": True, "outcome": "delivered", "reason": ""}
    assert ("delivered", [{**member, **told}]) == (found["outcome"], found["members"])
    nobodys = await ask(client, source_ip="198.51.100.1", **tcp)
    assert (404, "FloatingIPNotFound") == error(nobodys)[:2]


async def test_nobodys_ports_are_not_found(client: httpx.AsyncClient) -> None:
    """404 for ports that are not there, or not the asker's."""
    one, _ = await two_ports(client)
    nobody = "00000000-0000-0000-0000-000000000000"
    answer = await ask(client, source_port_id=nobody, destination_ip="10.0.0.3")
    assert (404, "PortNotFound") == error(answer)[:2]
    foreign = await client.post(
        "/v2.0/reachability",
        json={"reachability": {"source_port_id": one["id"], "destination_ip": "10.0.0.3"}},
        headers={"X-Project-Id": "somebody"},
    )
    assert (404, "PortNotFound") == error(foreign)[:2]
