"""Routers and peerings, proved with real packets: what they connect, what they do not, and that it ends. Called by run.

Three VPCs with a container on each of a few hosts. What must not arrive is sent by a container that reaches its own VPC
at the same moment, and arrives once the router says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from alcor.lab.client import Client, Resource, await_true
from alcor.lab.pings import Ping, ping_all
from alcor.lab.results import Proof
from alcor.lab.topology import Machine
from alcor.lab.traces import ECHO_REPLY, TIME_EXCEEDED, UNREACHABLE, Word, hop

HOSTS = 3
SILENCE_S = 1.0
NOWHERE = "203.0.113.77"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A container."""

    netns: Path
    ip: str


class Vpc(msgspec.Struct, frozen=True, kw_only=True):
    """A VPC with one subnet, and a container on each host."""

    network_id: str
    subnet_id: str
    gateway: str
    members: list[Member]


def prove(client: Client, hosts: Sequence[Machine], check: Callable[[], None]) -> list[Proof]:
    """Makes VPCs, connects and parts them, pings, and removes everything again."""
    made: list[tuple[str, str]] = []
    try:
        one, two, three = (_make_vpc(client, made, hosts[:HOSTS], f"10.{net}.0.0/24", check) for net in (77, 78, 79))
        proofs = [_apart("two VPCs without a router", "they do not reach each other", one, two)]
        router = client.create("routers", {"name": "lab"})
        made.append(("routers", router["id"]))
        began = time.monotonic()
        for vpc in (one, two):
            _put(client, router, "add_router_interface", {"subnet_id": vpc.subnet_id})
        proofs.append(_together("a router joins two VPCs", one, two, began))
        proofs.append(_traced(one, two))
        proofs.append(_apart("a third VPC is not joined", "it is reached by neither", one, three))
        hole = {"router": {"routes": [{"destination": "10.78.0.0/25", "nexthop": None}]}}
        _put(client, router, "add_extraroutes", hole)
        _settle(one, two, answered=False)
        proofs.append(_told(one, two))
        proofs.append(_apart("a blackhole inside the other VPC", "the longest prefix has the packets", one, two))
        _put(client, router, "remove_extraroutes", hole)
        _settle(one, two, answered=True)
        ends = {"network_id": one.network_id, "peer_network_id": three.network_id}
        began = time.monotonic()
        peering = client.request("POST", "/v2.0/vpc-peerings", {"vpc_peering": ends})["vpc_peering"]
        proofs.append(_together("a peering joins two VPCs", one, three, began))
        proofs.append(_apart("neither leads on to the other", "what one VPC reaches, another does not", two, three))
        client.delete("vpc-peerings", peering["id"])
        for vpc in (one, two):
            _put(client, router, "remove_router_interface", {"subnet_id": vpc.subnet_id})
        for other in (two, three):
            _settle(one, other, answered=False)
        proofs.append(_apart("the router and the peering gone", "they do not reach each other any more", one, two))
        return proofs
    finally:
        for collection, identifier in reversed(made):
            client.delete(collection, identifier)


def _put(client: Client, router: Resource, action: str, body: Resource) -> None:
    client.request("PUT", f"/v2.0/routers/{router['id']}/{action}", body)


def _make_vpc(
    client: Client, made: list[tuple[str, str]], hosts: Sequence[Machine], cidr: str, check: Callable[[], None]
) -> Vpc:
    network = client.create("networks", {"name": cidr, "cidr": cidr})
    made.append(("networks", network["id"]))
    subnet = client.create("subnets", {"network_id": network["id"], "cidr": cidr})
    open_port = {"network_id": network["id"], "port_security_enabled": False}
    ports = client.create_many("ports", [{**open_port, "binding:host_id": host.name} for host in hosts])
    made += [("ports", port["id"]) for port in ports]

    def active() -> bool:
        return all(client.get(f"/v2.0/ports/{port['id']}")["port"]["status"] == "ACTIVE" for port in ports)

    await_true(active, "routed ports to be ACTIVE", 30.0, 0.02, check)
    members = [
        Member(netns=host.netns_dir / port["id"], ip=port["fixed_ips"][0]["ip_address"])
        for host, port in zip(hosts, ports, strict=True)
    ]
    return Vpc(network_id=network["id"], subnet_id=subnet["id"], gateway=subnet["gateway_ip"], members=members)


def _pings(one: Vpc, other: Vpc) -> list[Ping]:
    """Everybody of the one to everybody of the other, on the same host and on others, and back."""
    pairs = [(a, b) for a in one.members for b in other.members]
    there = [Ping(source=a.netns, target=b.ip) for a, b in pairs]
    return there + [Ping(source=b.netns, target=a.ip) for a, b in pairs]


def _settle(one: Vpc, other: Vpc, *, answered: bool) -> None:
    """Waits until word of a change has reached all hosts, which tell the API of ports only."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        answers = ping_all(_pings(one, other), timeout_s=0.3)
        if all(answer.answered is answered for answer in answers):
            return


def _together(name: str, one: Vpc, other: Vpc, began: float) -> Proof:
    far = [Ping(source=member.netns, target=other.gateway) for member in one.members]
    answers = ping_all([*_pings(one, other), *far])
    answered = sum(answer.answered for answer in answers)
    return Proof(
        name=name,
        expectation="every container reaches those of the other and their gateway, on the same host and across hosts",
        measured=f"{answered}/{len(answers)} answered, {time.monotonic() - began:.2f} s after the first request",
        passed=answered == len(answers),
    )


def _traced(one: Vpc, other: Vpc) -> Proof:
    """Every container of the one to every one of the other, as traceroute does it."""
    found = 0
    ends = [(a, b) for a in one.members for b in other.members]
    for a, b in ends:
        first, second = (hop(a.netns, b.ip, ttl) for ttl in (1, 2))
        found += first == Word(TIME_EXCEEDED[4], 0, one.gateway) and second == Word(ECHO_REPLY, 0, b.ip)
    return Proof(
        name="traceroute through the router",
        expectation="the gateway says that the TTL ran out (RFC 792), the destination is the second hop",
        measured=f"{found}/{len(ends)} ways: {one.gateway}, then the destination",
        passed=found == len(ends),
    )


def _told(one: Vpc, other: Vpc) -> Proof:
    """Where there is no way: a prefix that nobody has, and a blackhole."""
    words = [hop(member.netns, to, 64) for member in one.members for to in (NOWHERE, other.members[0].ip)]
    right = sum(word == Word(UNREACHABLE[4], 0, one.gateway) for word in words)
    return Proof(
        name="a router that has no way says so",
        expectation="destination unreachable from the gateway, for a prefix without a route and for a blackhole",
        measured=f"{right}/{len(words)} told",
        passed=right == len(words),
    )


def _apart(name: str, expectation: str, one: Vpc, other: Vpc) -> Proof:
    answers = ping_all(_pings(one, other), timeout_s=SILENCE_S)
    inside = [Ping(source=a.netns, target=b.ip) for vpc in (one, other) for a, b in pairwise(vpc.members)]
    control = sum(answer.answered for answer in ping_all(inside))
    answered = sum(answer.answered for answer in answers)
    return Proof(
        name=name,
        expectation=expectation,
        measured=f"{answered} of {len(answers)} answered; inside a VPC {control}/{len(inside)}",
        passed=answered == 0 and control == len(inside) > 0,
    )
