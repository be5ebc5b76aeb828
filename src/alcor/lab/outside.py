"""Floating IPs, proved with real packets: the world behind hosts' external devices pings and is pinged. Called by run.

A few containers on two hosts, a router with a gateway, floating IPs for some of them. One moves under pings. Then the
router shares its address with the others.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from alcor.dataplane.kernel import netns
from alcor.lab import eipquality, sharing, vip
from alcor.lab.client import Client, Resource, await_true
from alcor.lab.frames import Captures
from alcor.lab.pings import ICMP_HEADER, NONCE_BYTES, Ping, Stream, ping_all
from alcor.lab.results import Proof
from alcor.lab.topology import FAR_AWAY, WORLD, WORLD_LENGTH, Machine, Topology, world
from alcor.lab.transfers import echo
from alcor.model.addresses import format_ip

POOL = ("198.18.1.0", "198.18.1.254")
CIDR = "10.67.0.0/24"
MOVES = 6
MOVE_GOAL_MS = 100.0
SILENCE_S = 1.0
TRANSFER_BYTES = 8 << 20
EVERY_S = 0.002
OUTER_PORT, INNER_PORT = 8443, 443
PATIENCE_S = 5.0
Check = Callable[[], None]
Undo = tuple[str, str, object]
"""A request that takes away what was made."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A container, and the floating IP that it has (or "")."""

    id: str
    netns: Path
    ip: str
    eip: str = ""
    eip_id: str = ""


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """`first` and `second` have floating IPs, `alone` has none, `closed` has one and a group that lets nobody in."""

    world: Path
    router: str
    """Its id; it shares no address."""
    external_id: str
    subnet_id: str
    first: Member
    second: Member
    alone: Member
    closed: Member


class Outside(msgspec.Struct, kw_only=True):
    """What was found."""

    proofs: list[Proof] = []
    moved_ms: list[float] = []
    """From the API call until the other port was given a packet, per move."""


def prove(client: Client, topology: Topology, hosts: Sequence[Machine], check: Check) -> Outside:
    """Makes what it needs, proves, and removes it again."""
    made: list[Undo] = []
    found = Outside()
    try:
        scene = _scene(client, topology, (hosts[0], hosts[-1]), made, check)
        found.proofs += _reached(scene)
        found.proofs += _not_reached(scene)
        found.proofs.append(_transfers(scene))
        first, second = scene.first, scene.second
        places = (first.netns, first.ip), (second.netns, second.ip)
        found.proofs += eipquality.prove(client, scene.world, first.eip, first.eip_id, *places, check)
        found.proofs.append(_moves(client, scene, found.moved_ms))
        found.proofs.append(_forwarded(client, scene, check))
        # The second has no floating IP any more: it went with the moves.
        found.proofs += sharing.prove(client, scene.router, scene.world, (scene.alone.netns, scene.second.netns))
        members = (scene.first, scene.second, scene.alone)
        found.proofs += vip.prove(client, scene.world, scene.subnet_id, scene.external_id, members, check)
    finally:
        for method, path, body in reversed(made):
            client.request(method, path, body)
    return found


def _scene(client: Client, topology: Topology, hosts: Sequence[Machine], made: list[Undo], check: Check) -> Scene:
    def make(path: str, one: str, **body: object) -> Resource:
        resource: Resource = client.request("POST", f"/v2.0/{path}", {one: body})[one]
        made.append(("DELETE", f"/v2.0/{path}/{resource['id']}", None))
        return resource

    external = make("networks", "network", name="world", **{"router:external": True})
    subnet = {"cidr": f"{format_ip(WORLD)[:-1]}0/{WORLD_LENGTH}", "gateway_ip": format_ip(WORLD), "ip_version": 4}
    pools = [{"start": POOL[0], "end": POOL[1]}]
    body = {"network_id": external["id"], **subnet, "allocation_pools": pools, "enable_dhcp": False}
    client.request("POST", "/v2.0/subnets", {"subnet": body})
    inner = make("networks", "network", name="with floating IPs")
    inside = client.request(
        "POST", "/v2.0/subnets", {"subnet": {"network_id": inner["id"], "cidr": CIDR, "ip_version": 4}}
    )["subnet"]
    group = make("security-groups", "security_group", name="open to the world")
    for protocol in ("icmp", "tcp", "udp"):
        rule = {"security_group_id": group["id"], "direction": "ingress", "protocol": protocol}
        client.request("POST", "/v2.0/security-group-rules", {"security_group_rule": rule})
    shut = make("security-groups", "security_group", name="closed to the world")
    gateway = {"network_id": external["id"], "enable_snat": False}
    router = make("routers", "router", name="to the world", external_gateway_info=gateway)
    interface = {"subnet_id": inside["id"]}
    client.request("PUT", f"/v2.0/routers/{router['id']}/add_router_interface", interface)
    made.append(("PUT", f"/v2.0/routers/{router['id']}/remove_router_interface", interface))
    places = ((hosts[0], group), (hosts[1], group), (hosts[0], group), (hosts[1], shut))
    bodies = [
        {"network_id": inner["id"], "binding:host_id": host.name, "security_groups": [one["id"]]}
        for host, one in places
    ]
    ports = client.create_many("ports", bodies)
    made += [("DELETE", f"/v2.0/ports/{port['id']}", None) for port in ports]
    members = []
    for (host, _), port, wanted in zip(places, ports, (True, True, False, True), strict=True):
        fip = {"floating_ip_address": "", "id": ""}
        if wanted:
            fip = make("floatingips", "floatingip", floating_network_id=external["id"], port_id=port["id"])
        members.append(
            Member(
                id=port["id"],
                netns=host.netns_dir / port["id"],
                ip=port["fixed_ips"][0]["ip_address"],
                eip=fip["floating_ip_address"],
                eip_id=fip["id"],
            )
        )

    def active() -> bool:
        return all(client.get(f"/v2.0/ports/{port['id']}")["port"]["status"] == "ACTIVE" for port in ports)

    await_true(active, "ports with floating IPs to be ACTIVE", 30.0, 0.02, check)
    first, second, alone, closed = members
    return Scene(
        world=world(topology),
        router=router["id"],
        external_id=external["id"],
        subnet_id=inside["id"],
        first=first,
        second=second,
        alone=alone,
        closed=closed,
    )


def _reached(scene: Scene) -> list[Proof]:
    router, far = format_ip(WORLD), format_ip(FAR_AWAY)
    both = (scene.first, scene.second)
    cases = (
        ("floating IPs answer to the world", "a router outside pings them", [(scene.world, one.eip) for one in both]),
        (
            "ports with floating IPs reach the world",
            "its router, and what is behind it",
            [(one.netns, target) for one in both for target in (router, far)],
        ),
        (
            "floating IPs reach floating IPs",
            "one of the other host, one's own, and both ways",
            [(scene.first.netns, scene.second.eip), (scene.second.netns, scene.first.eip)]
            + [(one.netns, one.eip) for one in both],
        ),
        ("inside stays inside", "neighbours by their own addresses", [(scene.first.netns, scene.second.ip)]),
    )
    found = []
    for name, expectation, asked in cases:
        answers = ping_all([Ping(source=source, target=target) for source, target in asked])
        answered = sum(one.answered for one in answers)
        measured = f"{answered}/{len(asked)} answered"
        found.append(Proof(name=name, expectation=expectation, measured=measured, passed=answered == len(asked)))
    return found


def _not_reached(scene: Scene) -> list[Proof]:
    """With controls: the same ping reaches who may have it."""
    nonce = os.urandom(NONCE_BYTES)
    alone, closed, first = scene.alone, scene.closed, scene.first
    with Captures([alone.netns, closed.netns, first.netns]) as captures:
        asked = [Ping(source=scene.world, target=one.eip, nonce=nonce) for one in (closed, first)]
        let_in = ping_all(asked, timeout_s=SILENCE_S, resend_s=0.2)
        seen = captures.count(nonce)
    out = ping_all([Ping(source=alone.netns, target=format_ip(WORLD))], timeout_s=SILENCE_S, resend_s=0.2)
    inside = ping_all([Ping(source=alone.netns, target=first.ip)])
    return [
        Proof(
            name="a port without a floating IP does not reach the world",
            expectation="where its router shares no address: no answer from outside; its neighbour answers",
            measured=f"{'answered' if out[0].answered else 'no answer'} from outside, "
            f"{'answered' if inside[0].answered else 'no answer'} inside",
            passed=not out[0].answered and inside[0].answered and not seen[0],
        ),
        Proof(
            name="security groups judge what comes from outside",
            expectation="a floating IP whose port lets nobody in stays silent, and another's port hears the same ping",
            measured=f"{seen[1]} requests seen by the closed port, {seen[2]} by the open one",
            passed=not let_in[0].answered and not seen[1] and let_in[1].answered and bool(seen[2]),
        ),
    ]


def _transfers(scene: Scene) -> Proof:
    results = [
        echo(scene.first.netns, scene.world, format_ip(WORLD), TRANSFER_BYTES),
        echo(scene.world, scene.second.netns, scene.second.ip, TRANSFER_BYTES, by=scene.second.eip),
    ]
    whole = sum(one.equal for one in results)
    problem = next((one.error for one in results if one.error), "")
    return Proof(
        name="TCP through floating IPs",
        expectation=f"{TRANSFER_BYTES >> 20} MiB there and back, begun from inside and from outside",
        measured=f"{whole}/{len(results)} equal" + (f": {problem}" if problem else ""),
        passed=whole == len(results),
    )


def _forwarded(client: Client, scene: Scene, check: Check) -> Proof:
    """A port of an address outside for one of a container that has no floating IP; another port of it stays closed."""
    alone, fip = scene.alone, f"/v2.0/floatingips/{scene.second.eip_id}"
    body = {"protocol": "tcp", "internal_port_id": alone.id, "external_port": OUTER_PORT, "internal_port": INNER_PORT}
    made = client.request("POST", f"{fip}/port_forwardings", {"port_forwarding": body})["port_forwarding"]
    try:
        await_true(
            lambda: bool(client.get(f"/v2.0/ports/{alone.id}")["port"]["status"] == "ACTIVE"),
            "the port that is forwarded to",
            *(30.0, 0.02, check),
        )
        with _tcp(alone.netns) as listener, _tcp(scene.world) as caller, _tcp(scene.world) as stranger:
            listener.bind((alone.ip, INNER_PORT))
            listener.listen(1)
            for one in (listener, caller):
                one.settimeout(PATIENCE_S)
            stranger.settimeout(SILENCE_S)
            caller.connect((scene.second.eip, OUTER_PORT))
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(PATIENCE_S)
                caller.sendall(b"there?")
                heard = accepted.recv(64)
                accepted.sendall(b"here")
                answered = caller.recv(64)
            closed = stranger.connect_ex((scene.second.eip, OUTER_PORT + 1)) != 0
    finally:
        client.request("DELETE", f"{fip}/port_forwardings/{made['id']}")
    passed = (heard, answered, closed) == (b"there?", b"here", True)
    return Proof(
        name="a port of a floating IP is forwarded",
        expectation=f"TCP {OUTER_PORT} of it is {INNER_PORT} of a container that has none; its other ports are closed",
        measured="a word each way, another port silent" if passed else f"{heard!r}, {answered!r}, closed: {closed}",
        passed=passed,
    )


def _tcp(path: Path) -> socket.socket:
    fd = netns.open_path(path)
    try:
        return netns.call(fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    finally:
        os.close(fd)


def _moves(client: Client, scene: Scene, moved_ms: list[float]) -> Proof:
    """Between two hosts, there and back, under pings from outside: when the other port is given the first of them."""
    eip, where = scene.first.eip, f"/v2.0/floatingips/{scene.first.eip_id}"
    spare = f"/v2.0/floatingips/{scene.second.eip_id}"
    client.request("PUT", spare, {"floatingip": {"port_id": None}})
    stream = Stream(Ping(source=scene.world, target=eip), EVERY_S)
    for turn in range(MOVES):
        to = scene.second if turn % 2 == 0 else scene.first
        with listening(to.netns) as heard:
            started = time.monotonic()
            client.request("PUT", where, {"floatingip": {"port_id": to.id}})
            moved_ms.append(1000 * (first_request(heard, PATIENCE_S) - started))
    result = stream.stop()
    worst = max(moved_ms)
    return Proof(
        name="a floating IP moves under pings",
        expectation=f"to a port on another host; its packets come there within {MOVE_GOAL_MS:.0f} ms of the API call",
        measured=f"{MOVES} moves: after {statistics.median(moved_ms):.0f} ms (median), {worst:.0f} ms at most; "
        f"{result.lost} of {result.sent} pings lost",
        passed=worst <= MOVE_GOAL_MS,
    )


def listening(path: Path) -> socket.socket:
    """A raw ICMP socket in a container: it gets every echo request that the container is given."""
    fd = netns.open_path(path)
    try:
        return netns.call(fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    finally:
        os.close(fd)


def first_request(heard: socket.socket, patience_s: float) -> float:
    """When the first echo request came; infinity when none did."""
    deadline = time.monotonic() + patience_s
    while select.select([heard], [], [], max(0.0, deadline - time.monotonic()))[0]:
        packet = heard.recv(2048)
        if len(packet) >= 20 + ICMP_HEADER and packet[20] == 8:
            return time.monotonic()
    return float("inf")
