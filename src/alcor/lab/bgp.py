"""External addresses announced by BGP, proved with real packets: of a subnet that is on no wire, so that what arrives
came by the routes that hosts announced. Called by run.

The world's router runs a speaker, and so do two hosts. Floating IPs come, move and go; an agent and a speaker are
killed; a router shares its address.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from alcor.lab import speakers
from alcor.lab.client import Resource, await_true
from alcor.lab.live import LiveLab
from alcor.lab.outside import EVERY_S, first_request, listening
from alcor.lab.pings import Ping, Stream, ping_all
from alcor.lab.results import Proof
from alcor.lab.topology import FAR_AWAY, WORLD, Machine, external_address, world
from alcor.model.addresses import format_ip

ROUTED = "198.19.7.0/24"
"""Nobody has a route to it but who was told."""
CIDR = "10.69.0.0/24"
MOVES = 6
MOVE_GOAL_MS = 500.0
PATIENCE_S, SILENCE_S, DEAD_S, POLL_S = 30.0, 1.0, 1.0, 0.01
ROUTER_SPEAKER = "world-bird"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A container, its host, and the floating IP that it has at first."""

    id: str
    host: Machine
    netns: Path
    eip: str
    eip_id: str


class Scene:
    """A router whose external network is only routed to the hosts, and containers with floating IPs of it: `first` and
    `third` on one host, `second` on another."""

    def __init__(self, lab: LiveLab) -> None:
        self.lab = lab
        self.world = world(lab.topology)
        self._made: list[tuple[str, str, object]] = []
        self._speakers: list[str] = []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        lab, client = self.lab, self.lab.client
        external = self._create("networks", "network", name="routed", **{"router:external": True})
        subnet = {"cidr": ROUTED, "gateway_ip": format_ip(WORLD), "ip_version": 4, "enable_dhcp": False}
        client.request("POST", "/v2.0/subnets", {"subnet": {"network_id": external["id"], **subnet}})
        inner = self._create("networks", "network", name="announced")
        inside = {"network_id": inner["id"], "cidr": CIDR, "ip_version": 4}
        subnet_id = client.request("POST", "/v2.0/subnets", {"subnet": inside})["subnet"]["id"]
        group = self._create("security-groups", "security_group", name="open to pings")
        rule = {"security_group_id": group["id"], "direction": "ingress", "protocol": "icmp"}
        client.request("POST", "/v2.0/security-group-rules", {"security_group_rule": rule})
        gateway = {"network_id": external["id"], "enable_snat": False}
        self.router = self._create("routers", "router", name="announced", external_gateway_info=gateway)
        interface = {"subnet_id": subnet_id}
        client.request("PUT", f"/v2.0/routers/{self.router['id']}/add_router_interface", interface)
        self._made.append(("PUT", f"/v2.0/routers/{self.router['id']}/remove_router_interface", interface))
        hosts = lab.hosts[0], lab.hosts[-1], lab.hosts[0]
        common = {"network_id": inner["id"], "security_groups": [group["id"]]}
        ports = client.create_many("ports", [{**common, "binding:host_id": host.name} for host in hosts])
        self._made += [("DELETE", f"/v2.0/ports/{port['id']}", None) for port in ports]
        members = []
        for host, port in zip(hosts, ports, strict=True):
            fip = self._create("floatingips", "floatingip", floating_network_id=external["id"], port_id=port["id"])
            members.append(
                Member(
                    id=port["id"],
                    host=host,
                    netns=host.netns_dir / port["id"],
                    eip=fip["floating_ip_address"],
                    eip_id=fip["id"],
                )
            )
        self.first, self.second, self.third = members
        self.await_active(*members)

    def close(self) -> None:
        """Removes all of it. What runs ends."""
        for name in self._speakers:
            self.lab.processes.kill(name)
        for method, path, body in reversed(self._made):
            self.lab.client.request(method, path, body)

    def _create(self, path: str, one: str, **body: object) -> Resource:
        resource: Resource = self.lab.client.request("POST", f"/v2.0/{path}", {one: body})[one]
        self._made.append(("DELETE", f"/v2.0/{path}/{resource['id']}", None))
        return resource

    def await_active(self, *members: Member) -> None:
        """Until their hosts carry them as they are now."""

        def active() -> bool:
            found = [self.lab.client.get(f"/v2.0/ports/{one.id}")["port"]["status"] for one in members]
            return all(status == "ACTIVE" for status in found)

        await_true(active, "ports with announced addresses to be ACTIVE", PATIENCE_S, POLL_S, self.lab.check)

    def give(self, eip_id: str, port_id: str | None) -> None:
        """A floating IP to a port, or to none."""
        self.lab.client.request("PUT", f"/v2.0/floatingips/{eip_id}", {"floatingip": {"port_id": port_id}})

    def start_speaker(self, host: Machine) -> None:
        """The host's."""
        own, router = format_ip(external_address(self.lab.topology, host)), format_ip(WORLD)
        assert host.netns is not None
        name = speaker_of(host)
        speakers.start(self.lab.processes, name, host.netns, host.data_dir, speakers.host_config(own, router))
        self._speakers.append(name)

    def start_router(self) -> None:
        """The world's."""
        config = speakers.router_config(format_ip(WORLD), speakers.hosts_of_the_world())
        speakers.start(self.lab.processes, ROUTER_SPEAKER, self.world, self.lab.run.data, config)
        self._speakers.append(ROUTER_SPEAKER)

    def kill_speaker(self, host: Machine) -> None:
        """SIGKILL."""
        name = speaker_of(host)
        self.lab.processes.kill(name)
        self._speakers.remove(name)

    def learnt(self) -> dict[str, str]:
        """Address -> next hop, of what the world's kernel was told by its speaker."""
        words = ("nsenter", f"--net={self.world}", "ip", "-j", "route", "show", "proto", "bird")
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
        return {one["dst"]: one["gateway"] for one in json.loads(done.stdout)}

    def await_learnt(self, *ways: tuple[str, Machine]) -> float:
        """Until the world sends to these addresses by these hosts, and to no others; returns the seconds it took."""
        wanted = {ip: format_ip(external_address(self.lab.topology, host)) for ip, host in ways}
        started = time.monotonic()
        await_true(lambda: self.learnt() == wanted, f"the routes {wanted}", PATIENCE_S, POLL_S, self.lab.check)
        return time.monotonic() - started

    def answered(self, ips: Sequence[str], timeout_s: float = PATIENCE_S) -> int:
        """How many answer a ping of the world."""
        asked = [Ping(source=self.world, target=ip) for ip in ips]
        return sum(one.answered for one in ping_all(asked, timeout_s=timeout_s))


def speaker_of(host: Machine) -> str:
    """The name of a host's speaker among the lab's processes."""
    return f"{host.name}-bird"


def prove(lab: LiveLab) -> list[Proof]:
    """Makes what it needs, proves, and removes it again."""
    scene = Scene(lab)
    try:
        found = [_announced(scene), _moves(scene), _agent_killed(scene), _speaker_killed(scene), _shared(scene)]
        return [*found, _withdrawn(scene)]
    finally:
        scene.close()


def _ways(*members: Member) -> list[tuple[str, Machine]]:
    return [(one.eip, one.host) for one in members]


def _announced(scene: Scene) -> Proof:
    members = (scene.first, scene.second, scene.third)
    eips = [one.eip for one in members]
    before = scene.answered(eips, SILENCE_S)
    scene.start_router()
    for host in (scene.first.host, scene.second.host):
        scene.start_speaker(host)
    took_s = scene.await_learnt(*_ways(*members))
    inside = [
        Ping(source=scene.first.netns, target=target) for target in (format_ip(FAR_AWAY), scene.second.eip, eips[2])
    ]
    answers = scene.answered(eips), sum(one.answered for one in ping_all(inside))
    return Proof(
        name="floating IPs are announced by BGP",
        expectation="the router outside has a route to each, by its host; it reaches them, and they it and each other. "
        "Without speakers nobody does",
        measured=f"{before}/3 answered before; all routes {took_s:.1f} s after the speakers started, {answers[0]}/3 "
        f"answered, {answers[1]}/3 from inside",
        passed=(before, *answers) == (0, 3, 3),
    )


def _moves(scene: Scene) -> Proof:
    scene.give(scene.second.eip_id, None)
    scene.await_learnt(*_ways(scene.first, scene.third))
    stream = Stream(Ping(source=scene.world, target=scene.first.eip), EVERY_S)
    moved_ms = []
    for turn in range(MOVES):
        to = scene.second if turn % 2 == 0 else scene.first
        with listening(to.netns) as heard:
            started = time.monotonic()
            scene.give(scene.first.eip_id, to.id)
            moved_ms.append(1000 * (first_request(heard, PATIENCE_S) - started))
        scene.await_learnt((scene.first.eip, to.host), *_ways(scene.third))
    result = stream.stop()
    return Proof(
        name="an announced floating IP moves under pings",
        expectation=f"the route follows to the other host: its packets come there within {MOVE_GOAL_MS:.0f} ms of the "
        "API call",
        measured=f"{MOVES} moves: after {statistics.median(moved_ms):.0f} ms (median), {max(moved_ms):.0f} ms at most; "
        f"{result.lost} of {result.sent} pings lost",
        passed=max(moved_ms) <= MOVE_GOAL_MS,
    )


def _agent_killed(scene: Scene) -> Proof:
    """Of the host with two floating IPs, one of which is taken away meanwhile."""
    lab, host = scene.lab, scene.first.host
    stream = Stream(Ping(source=scene.world, target=scene.first.eip), EVERY_S)
    try:
        lab.processes.kill(host.name)
        scene.give(scene.third.eip_id, None)
        time.sleep(DEAD_S)
        kept = len(scene.learnt())
        lab.start_agent(host)
        took_s = scene.await_learnt(*_ways(scene.first))
    finally:
        result = stream.stop()
    return Proof(
        name="an agent is killed under an announced address",
        expectation="nothing is withdrawn; the agent that starts withdraws what went meanwhile, and nothing else moves",
        measured=f"{kept}/2 routes stay, {took_s:.1f} s later the right one is left; {result.lost} of {result.sent} "
        "pings lost",
        passed=kept == 2 and result.lost == 0 and result.sent > 0,
    )


def _speaker_killed(scene: Scene) -> Proof:
    scene.give(scene.third.eip_id, scene.third.id)
    scene.await_learnt(*_ways(scene.first, scene.third))
    scene.kill_speaker(scene.first.host)
    scene.await_learnt()
    scene.start_speaker(scene.first.host)
    took_s = scene.await_learnt(*_ways(scene.first, scene.third))
    answered = scene.answered([scene.first.eip, scene.third.eip])
    return Proof(
        name="a host's BGP speaker is killed",
        expectation="its routes end with its session; one that starts announces all of them again, by itself",
        measured=f"0 routes after SIGKILL, 2/2 {took_s:.1f} s after the start; {answered}/2 answered",
        passed=answered == 2,
    )


def _shared(scene: Scene) -> Proof:
    """The router's address, for a container that has no floating IP now."""
    where = f"/v2.0/routers/{scene.router['id']}"
    gateway = scene.router["external_gateway_info"]
    ip = gateway["external_fixed_ips"][0]["ip_address"]
    asked = {"network_id": gateway["network_id"], "external_fixed_ips": gateway["external_fixed_ips"]}
    out = [Ping(source=scene.second.netns, target=format_ip(one)) for one in (WORLD, FAR_AWAY)]
    before = sum(one.answered for one in ping_all(out, timeout_s=SILENCE_S))
    scene.lab.client.request("PUT", where, {"router": {"external_gateway_info": {**asked, "enable_snat": True}}})
    after = sum(one.answered for one in ping_all(out, timeout_s=PATIENCE_S))
    hop = scene.learnt().get(ip, "")
    hosts = {format_ip(external_address(scene.lab.topology, one.host)) for one in (scene.first, scene.second)}
    scene.lab.client.request("PUT", where, {"router": {"external_gateway_info": {**asked, "enable_snat": False}}})
    return Proof(
        name="a router's shared address is announced by BGP",
        expectation="by the host that answers for it: a container without a floating IP is answered by the world",
        measured=f"{before}/2 answered before, {after}/2 then, by {hop or 'nowhere'}",
        passed=(before, after) == (0, 2) and hop in hosts,
    )


def _withdrawn(scene: Scene) -> Proof:
    for one in (scene.first, scene.third):
        scene.give(one.eip_id, None)
    took_s = scene.await_learnt()
    answered = scene.answered([scene.first.eip, scene.third.eip], SILENCE_S)
    return Proof(
        name="what hosts do not answer for is withdrawn",
        expectation="floating IPs of no port, and an address that is not shared any more: no route, no answer",
        measured=f"0 routes after {took_s:.1f} s, {answered}/2 answered",
        passed=answered == 0,
    )
