"""IPv6, proved with real packets: a VPC of both families, and a network that has IPv6 alone. Called by run.

One container on each of a few hosts, two on the first. Neighbour discovery, routing between subnets, gateways and
link-local addresses are asked for by the containers' own stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from alcor.lab.client import Client, Resource, await_true
from alcor.lab.pings6 import ECHO_REPLY, ping6
from alcor.lab.results import Proof
from alcor.lab.topology import Machine
from alcor.lab.traces import TIME_EXCEEDED, Word, hop
from alcor.model.addresses import format_ip, link_local, parse_mac

HOSTS = 4
SILENCE_S = 1.0
INTERFACE = "eth0"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A container: its namespace, its IPv6 address, and the link-local one that its MAC makes."""

    host: str
    netns: Path
    ip: str
    link_local: str
    gateway: str


def prove(client: Client, hosts: Sequence[Machine], check: Callable[[], None]) -> list[Proof]:
    """Makes the networks, pings, and removes them again."""
    chosen = hosts[:HOSTS]
    made: list[tuple[str, str]] = []
    try:
        dual = _network(client, made, "dual stack", "10.66.0.0/16", ["10.66.0.0/24", "fd66::/64", "fd66:0:0:1::/64"])
        alone = _network(client, made, "IPv6 alone", "fd66::/48", ["fd66::/64"])
        first = _members(client, made, dual, [*chosen, chosen[0]], "fd66::/64", check)
        second = _members(client, made, dual, chosen[-1:], "fd66:0:0:1::/64", check)
        twins = _members(client, made, alone, [*chosen[:1], *chosen[-1:]], "fd66::/64", check)
        return _proofs(first, second, twins)
    finally:
        for collection, identifier in reversed(made):
            client.delete(collection, identifier)


def _network(client: Client, made: list[tuple[str, str]], name: str, cidr: str, subnets: Sequence[str]) -> Resource:
    network = client.create("networks", {"name": name, "cidr": cidr})
    made.append(("networks", network["id"]))
    found = {"id": network["id"], "subnets": {}}
    for one in subnets:
        version = 6 if ":" in one else 4
        body = {"name": name, "network_id": network["id"], "cidr": one, "ip_version": version}
        found["subnets"][one] = client.create("subnets", body)
    return found


def _members(
    client: Client,
    made: list[tuple[str, str]],
    network: Resource,
    hosts: Sequence[Machine],
    subnet: str,
    check: Callable[[], None],
) -> list[Member]:
    """Containers with an address of that subnet, and of the IPv4 subnet if there is one; ACTIVE."""
    wanted = network["subnets"][subnet]
    fixed = [{"subnet_id": one["id"]} for cidr, one in network["subnets"].items() if ":" not in cidr]
    fixed.append({"subnet_id": wanted["id"]})
    bodies = [{"network_id": network["id"], "fixed_ips": fixed, "binding:host_id": host.name} for host in hosts]
    ports = client.create_many("ports", bodies)
    made += [("ports", port["id"]) for port in ports]

    def active() -> bool:
        return all(client.get(f"/v2.0/ports/{port['id']}")["port"]["status"] == "ACTIVE" for port in ports)

    await_true(active, "IPv6 ports to be ACTIVE", 30.0, 0.02, check)
    return [
        Member(
            host=host.name,
            netns=host.netns_dir / port["id"],
            ip=port["fixed_ips"][-1]["ip_address"],
            link_local=format_ip(link_local(parse_mac(port["mac_address"]))),
            gateway=wanted["gateway_ip"],
        )
        for host, port in zip(hosts, ports, strict=True)
    ]


def _proofs(first: Sequence[Member], second: Sequence[Member], twins: Sequence[Member]) -> list[Proof]:
    same_host = first[-1]
    pairs = [(one, other.ip) for one, other in zip(first, [*first[1:], first[0]], strict=True)]
    groups = [
        ("IPv6 on one host and across hosts", "every container pings the next", pairs),
        ("IPv6 between subnets", "routed inside the VPC, both ways", _both(first[0], second[0])),
        ("IPv6 gateways", "the gateway answers on every host", [(one, one.gateway) for one in (*first, *second)]),
        (
            "IPv6 link-local",
            "an address that nobody configured answers, on the host and on another",
            [(first[0], first[1].link_local), (first[0], same_host.link_local)],
        ),
        ("IPv6 without IPv4", "a network of IPv6 alone", _both(twins[0], twins[1])),
    ]
    found = []
    for name, expectation, asked in groups:
        answered = [_ping(one, target) for one, target in asked]
        measured = f"{sum(answered)}/{len(asked)} answered"
        found.append(Proof(name=name, expectation=expectation, measured=measured, passed=all(answered)))
    found.append(_traced(first[0], second[0]))
    # The same prefix in both networks: an address that only the first has.
    crossed = ping6(twins[0].netns, first[-1].ip, SILENCE_S)
    found.append(
        Proof(
            name="IPv6 of another VPC does not answer",
            expectation="the same prefix, an address of the other VPC only: no answer",
            measured="answered" if crossed else "no answer",
            passed=not crossed,
        )
    )
    return found


def _traced(one: Member, other: Member) -> Proof:
    words = [hop(one.netns, other.ip, hops) for hops in (1, 2)]
    shown = ", ".join(word.source if word is not None else "nobody" for word in words)
    return Proof(
        name="traceroute between IPv6 subnets",
        expectation="the gateway says that the hop limit was exceeded (RFC 4443), the destination is the second hop",
        measured=shown,
        passed=words == [Word(TIME_EXCEEDED[6], 0, one.gateway), Word(ECHO_REPLY, 0, other.ip)],
    )


def _ping(one: Member, target: str) -> bool:
    return ping6(one.netns, target, interface=INTERFACE if target.startswith("fe80:") else "")


def _both(one: Member, other: Member) -> list[tuple[Member, str]]:
    return [(one, other.ip), (other, one.ip)]
