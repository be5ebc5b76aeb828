"""IPv6 to and from outside, untranslated, proved with real packets. Called by run.

Two VPCs, each with a router whose gateway is on an external network that has an IPv6 subnet; their own subnets are
parts of it. One more subnet is not: it stays inside. The world behind hosts' external devices has the rest of that
prefix on its wire, and an address behind its router.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.netlink import Netlink
from alcor.lab.client import Client, Resource, await_true
from alcor.lab.outside import Check, Undo
from alcor.lab.pings6 import ping6
from alcor.lab.results import Proof
from alcor.lab.topology import EXTERNAL_DEVICE, Machine, Topology, world
from alcor.lab.transfers import echo
from alcor.model.addresses import parse_ip

PREFIX, PREFIX_LENGTH = "2001:db8:100::", 40
WORLD = "2001:db8:100::1"
FAR_AWAY = "2001:db8:fa::1"
POOL = ("2001:db8:100::100", "2001:db8:100::1ff")
FIRST, SECOND, INSIDE = "2001:db8:101::/64", "2001:db8:102::/64", "fd67::/64"
SILENCE_S = 1.0
TRANSFER_BYTES = 8 << 20
MOVES = 4
MOVE_GOAL_MS = 1000.0
BRIDGE = "world"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A container and its IPv6 address."""

    id: str
    netns: Path
    ip: str


class Scene(msgspec.Struct, frozen=True):
    """`here` and `there` are in one VPC, on two hosts; `near` is in another VPC, on the host of `here`. `shut` lets
    nobody in. `inside` has an address that is no part of the external prefix; `neighbour` is beside it."""

    world: Path
    here: Member
    there: Member
    near: Member
    shut: Member
    inside: Member
    neighbour: Member


def prove(client: Client, topology: Topology, hosts: Sequence[Machine], check: Check) -> list[Proof]:
    """Makes what it needs, proves, and removes it again."""
    made: list[Undo] = []
    some = hosts[0], hosts[-1]
    _speak(world(topology), some)
    try:
        scene = _scene(client, world(topology), some, made, check)
        return [*_reached(scene), *_not_reached(scene), _transfers(scene), _moves(client, scene, some, check)]
    finally:
        for method, path, body in reversed(made):
            client.request(method, path, body)


def _speak(outside: Path, hosts: Sequence[Machine]) -> None:
    """The world's router and the hosts' external devices speak IPv6, which is off in a lab (topology.ipv6_off)."""

    def route() -> None:
        for one in ("lo", BRIDGE):
            _ipv6_on(one)
        with Netlink() as netlink:
            index = next(one.ifindex for one in links.links(netlink) if one.name == BRIDGE)
            have = {one.ip for one in links.addresses(netlink)}
            wanted = ((index, WORLD, PREFIX_LENGTH), (links.LOOPBACK_INDEX, FAR_AWAY, 128))
            netlink.check(
                [links.address(at, ip, length) for at, text, length in wanted if (ip := parse_ip(text)) not in have]
            )

    _inside(outside, route)
    for host in hosts:
        assert host.netns is not None
        _inside(host.netns, lambda: _ipv6_on(EXTERNAL_DEVICE))


def _ipv6_on(device: str) -> None:
    settings = Path("/proc/sys/net/ipv6/conf") / device
    (settings / "accept_dad").write_text("0")
    (settings / "accept_ra").write_text("0")
    (settings / "disable_ipv6").write_text("0")


def _inside(path: Path, function: Callable[[], None]) -> None:
    fd = netns.open_path(path)
    try:
        netns.call(fd, function)
    finally:
        os.close(fd)


class _Maker:
    """Makes resources, and notes what removes them again."""

    def __init__(self, client: Client, made: list[Undo]) -> None:
        self._client, self._made = client, made

    def __call__(self, path: str, one: str, **body: object) -> Resource:
        resource: Resource = self._client.request("POST", f"/v2.0/{path}", {one: body})[one]
        self._made.append(("DELETE", f"/v2.0/{path}/{resource['id']}", None))
        return resource

    def subnet(self, network: Resource, cidr: str, **fields: object) -> Resource:
        """It goes with its network."""
        body = {"network_id": network["id"], "cidr": cidr, "ip_version": 6, **fields}
        resource: Resource = self._client.request("POST", "/v2.0/subnets", {"subnet": body})["subnet"]
        return resource

    def group(self, name: str, *protocols: str) -> str:
        """A security group that lets these in, and everything out."""
        group = self("security-groups", "security_group", name=name)["id"]
        for protocol in protocols:
            rule = {"direction": "ingress", "ethertype": "IPv6", "protocol": protocol, "security_group_id": group}
            self._client.request("POST", "/v2.0/security-group-rules", {"security_group_rule": rule})
        return str(group)

    def routed(self, external: Resource, *cidrs: str) -> list[Resource]:
        """A VPC of these subnets, with a router that leads outside."""
        network = self("networks", "network", name=f"around {cidrs[0]}")
        router = self("routers", "router", name=f"of {cidrs[0]}", external_gateway_info={"network_id": external["id"]})
        found = [self.subnet(network, cidr) for cidr in cidrs]
        where = f"/v2.0/routers/{router['id']}"
        for one in found:
            interface = {"subnet_id": one["id"]}
            self._client.request("PUT", f"{where}/add_router_interface", interface)
            self._made.append(("PUT", f"{where}/remove_router_interface", interface))
        return found

    def ports(self, wanted: Sequence[tuple[Resource, Machine, str]]) -> list[Member]:
        """A port in that subnet, on that host, of that group; each."""
        bodies = [
            {
                "network_id": subnet["network_id"],
                "fixed_ips": [{"subnet_id": subnet["id"]}],
                "binding:host_id": host.name,
                "security_groups": [group],
            }
            for subnet, host, group in wanted
        ]
        ports = self._client.create_many("ports", bodies)
        self._made += [("DELETE", f"/v2.0/ports/{port['id']}", None) for port in ports]
        return [
            Member(id=port["id"], netns=host.netns_dir / port["id"], ip=port["fixed_ips"][0]["ip_address"])
            for port, (_, host, _) in zip(ports, wanted, strict=True)
        ]


def _scene(client: Client, outside: Path, hosts: tuple[Machine, Machine], made: list[Undo], check: Check) -> Scene:
    make, (left, right) = _Maker(client, made), hosts
    external = make("networks", "network", name="IPv6 world", **{"router:external": True})
    pools = [{"start": POOL[0], "end": POOL[1]}]
    make.subnet(external, f"{PREFIX}/{PREFIX_LENGTH}", gateway_ip=WORLD, allocation_pools=pools, enable_dhcp=False)
    opened, shut = make.group("open to IPv6", "ipv6-icmp", "tcp"), make.group("closed to IPv6")
    first, inside = make.routed(external, FIRST, INSIDE)
    (second,) = make.routed(external, SECOND)
    members = make.ports(
        [
            *((first, left, opened), (first, right, opened), (second, left, opened)),
            *((first, right, shut), (inside, left, opened), (inside, right, opened)),
        ]
    )

    def active() -> bool:
        return all(client.get(f"/v2.0/ports/{one.id}")["port"]["status"] == "ACTIVE" for one in members)

    await_true(active, "ports that are reached by IPv6 to be ACTIVE", 30.0, 0.02, check)
    return Scene(outside, *members)


def _reached(scene: Scene) -> list[Proof]:
    both = (scene.here, scene.there, scene.near)
    cases = (
        ("the world reaches ports by IPv6", "a router outside pings them", [(scene.world, one.ip) for one in both]),
        (
            "ports reach the world by IPv6",
            "its router, and what is behind it, by their own addresses",
            [(one.netns, target) for one in both for target in (WORLD, FAR_AWAY)],
        ),
        (
            "IPv6 between VPCs, by the world's wire",
            "of one host, which turns packets back, and of two",
            [(scene.here.netns, scene.near.ip), (scene.near.netns, scene.here.ip), (scene.there.netns, scene.near.ip)],
        ),
    )
    found = []
    for name, expectation, asked in cases:
        answered = [ping6(source, target) for source, target in asked]
        measured = f"{sum(answered)}/{len(asked)} answered"
        found.append(Proof(name=name, expectation=expectation, measured=measured, passed=all(answered)))
    return found


def _not_reached(scene: Scene) -> list[Proof]:
    """With controls: the same ping reaches who may have it."""
    into, control = ping6(scene.world, scene.shut.ip, SILENCE_S), ping6(scene.world, scene.there.ip)
    out = [ping6(scene.inside.netns, target, SILENCE_S) for target in (WORLD, FAR_AWAY)]
    beside = ping6(scene.inside.netns, scene.neighbour.ip)
    return [
        Proof(
            name="security groups judge what comes by IPv6",
            expectation="a port that lets nobody in stays silent, its neighbour answers the same ping",
            measured=f"{_word(into)} from the closed port, {_word(control)} from the open one",
            passed=not into and control,
        ),
        Proof(
            name="what is no part of the external prefix stays inside",
            expectation=f"a port of {INSIDE} has no answer from outside; its neighbour on another host answers",
            measured=f"{sum(out)}/{len(out)} answered from outside, {_word(beside)} inside",
            passed=not any(out) and beside,
        ),
    ]


def _word(answered: bool) -> str:
    return "an answer" if answered else "no answer"


def _transfers(scene: Scene) -> Proof:
    results = [
        echo(scene.here.netns, scene.world, WORLD, TRANSFER_BYTES),
        echo(scene.world, scene.there.netns, scene.there.ip, TRANSFER_BYTES),
    ]
    whole = sum(one.equal for one in results)
    problem = next((one.error for one in results if one.error), "")
    return Proof(
        name="TCP by IPv6, outside and back",
        expectation=f"{TRANSFER_BYTES >> 20} MiB there and back, begun from inside and from outside",
        measured=f"{whole}/{len(results)} equal" + (f": {problem}" if problem else ""),
        passed=whole == len(results),
    )


def _moves(client: Client, scene: Scene, hosts: tuple[Machine, Machine], check: Check) -> Proof:
    """To the other host and back: when the world hears from it there, which its own neighbour entry leads to."""
    where, took = f"/v2.0/ports/{scene.here.id}", []
    for turn in range(MOVES):
        to = hosts[(turn + 1) % 2]
        client.request("PUT", where, {"port": {"binding:host_id": to.name}})
        await_true(lambda: client.get(where)["port"]["status"] == "ACTIVE", "a port to move", 30.0, 0.005, check)
        started = time.monotonic()
        answered = ping6(scene.world, scene.here.ip)
        took.append((time.monotonic() - started) * 1000 if answered else float("inf"))
    return Proof(
        name="a port that is reached by IPv6 moves",
        expectation=f"to another host: the world's packets come there within {MOVE_GOAL_MS:.0f} ms of its being ACTIVE",
        measured=f"{MOVES} moves: after {statistics.median(took):.0f} ms (median), {max(took):.0f} ms at most",
        passed=max(took) <= MOVE_GOAL_MS,
    )
