"""Addresses that move between ports, as VRRP moves them, proved with real packets. Called by run.

Two servers on two hosts may have the same addresses by their allowed pairs, one of each family. Whoever announces one
has it: clients on the first server's host and on another ping it all the while.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from alcor.dataplane.kernel import links
from alcor.dataplane.kernel.netlink import Netlink
from alcor.hostsvc.announcements import announcement
from alcor.lab.client import Client, await_true
from alcor.lab.frames import send_frames
from alcor.lab.pings import echo_request, visit
from alcor.lab.results import Proof
from alcor.lab.topology import Machine
from alcor.model.addresses import Mac, ip_version, parse_ip, parse_mac
from alcor.model.nouns import Claim

CIDRS = ("10.80.0.0/24", "fd80::/64")
VIPS = ("10.80.0.100", "fd80::100")
MOVES = 3
MOVED_MS = 1000
RESEND_S, TIMEOUT_S, SILENCE_S = 0.01, 5.0, 1.0
ECHO_REPLY, ECHO6_REQUEST, ECHO6_REPLY = 0, 128, 129
INTERFACE = "eth0"
_ICMP = struct.Struct("!BBHHH")


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A container."""

    id: str
    netns: Path
    mac: Mac

    def announce(self, vip: str) -> None:
        """As a VRRP router does that becomes master: it has the address, and says so."""
        self.have(vip)
        send_frames(self.netns, [announcement(Claim(parse_ip(vip), self.mac))])

    def have(self, vip: str, *, have: bool = True) -> None:
        """The container's own stack has the address, or has it no more."""
        ip = parse_ip(vip)
        change = links.address if have else links.delete_address

        def set_address(_: Path) -> None:
            with Netlink() as netlink:
                index = socket.if_nametoindex(INTERFACE)
                netlink.send([change(index, ip, 32 if ip_version(ip) == 4 else 128)])

        visit([self.netns], set_address)


def prove(client: Client, hosts: Sequence[Machine], check: Callable[[], None]) -> list[Proof]:
    """Makes the network, lets addresses move, and removes it again."""
    made: list[tuple[str, str]] = []
    try:
        servers, clients = _scene(client, hosts, made, check)
        found = [_nowhere(clients), _moves(servers, clients)]
        return [*found, _not_everybodys(servers, clients), _taken_away(client, servers, clients)]
    finally:
        for collection, identifier in reversed(made):
            client.delete(collection, identifier)


def _scene(
    client: Client, hosts: Sequence[Machine], made: list[tuple[str, str]], check: Callable[[], None]
) -> tuple[list[Member], list[Member]]:
    network = client.create("networks", {"name": "virtual addresses", "cidr": "10.80.0.0/16"})
    made.append(("networks", network["id"]))
    subnets = [
        client.create("subnets", {"network_id": network["id"], "cidr": cidr, "ip_version": 6 if ":" in cidr else 4})
        for cidr in CIDRS
    ]
    fixed = [{"subnet_id": subnet["id"]} for subnet in subnets]
    # The custom: an unbound port keeps the addresses from being given to anybody else.
    kept = [{"subnet_id": one["id"], "ip_address": vip} for one, vip in zip(subnets, VIPS, strict=True)]
    made.append(("ports", client.create("ports", {"network_id": network["id"], "fixed_ips": kept})["id"]))
    pairs = {"allowed_address_pairs": [{"ip_address": vip} for vip in VIPS]}
    places = [(hosts[0], pairs), (hosts[1], pairs), (hosts[0], {}), (hosts[-1], {})]
    bodies = [
        {"network_id": network["id"], "fixed_ips": fixed, "binding:host_id": host.name, **more} for host, more in places
    ]
    ports = client.create_many("ports", bodies)
    made += [("ports", port["id"]) for port in ports]

    def active() -> bool:
        return all(client.get(f"/v2.0/ports/{port['id']}")["port"]["status"] == "ACTIVE" for port in ports)

    await_true(active, "ports with address pairs to be ACTIVE", 30.0, 0.02, check)
    members = [
        Member(id=port["id"], netns=host.netns_dir / port["id"], mac=parse_mac(port["mac_address"]))
        for (host, _), port in zip(places, ports, strict=True)
    ]
    return members[:2], members[2:]


def _nowhere(clients: Sequence[Member]) -> Proof:
    answered = [vip for vip in VIPS for one in clients if _answered_s(one, vip, SILENCE_S / 2) is not None]
    return Proof(
        name="an address of pairs that nobody announced",
        expectation="it is nowhere, although an unbound port reserves it",
        measured=f"{len(answered)} of {len(VIPS) * len(clients)} pings answered",
        passed=not answered,
    )


def _moves(servers: Sequence[Member], clients: Sequence[Member]) -> Proof:
    """From server to server and back: who lost it has it no more, so only the other can answer."""
    took: list[float] = []
    asked = 0
    for number in range(MOVES):
        now, before = servers[number % 2], servers[(number + 1) % 2]
        for vip in VIPS:
            if number:
                before.have(vip, have=False)
            began = time.monotonic()
            now.announce(vip)
            for one in clients:
                asked += 1
                if _answered_s(one, vip, TIMEOUT_S) is not None:
                    took.append(1000 * (time.monotonic() - began))
    slowest = max(took, default=0.0)
    return Proof(
        name="an announced address of pairs is at who announced it",
        expectation=f"IPv4 and IPv6, on the same host and another, and again after each move, within {MOVED_MS} ms",
        measured=f"{len(took)}/{asked} answered, the slowest {slowest:.0f} ms after the announcement",
        passed=len(took) == asked and slowest <= MOVED_MS,
    )


def _not_everybodys(servers: Sequence[Member], clients: Sequence[Member]) -> Proof:
    """A port without the pair announces the address; the last server keeps it."""
    thief, other = clients
    for vip in VIPS:
        thief.announce(vip)
    time.sleep(SILENCE_S / 2)
    answered = sum(_answered_s(other, vip, TIMEOUT_S) is not None for vip in VIPS)
    for vip in VIPS:
        thief.have(vip, have=False)
        servers[(MOVES - 1) % 2].have(vip, have=False)
    stolen = sum(_answered_s(other, vip, SILENCE_S / 2) is not None for vip in VIPS)
    return Proof(
        name="an address of others' pairs cannot be taken",
        expectation="a port without the pair announces it, and gets nothing of it",
        measured=f"{answered}/{len(VIPS)} answered by who has it; without it {stolen}",
        passed=answered == len(VIPS) and stolen == 0,
    )


def _taken_away(client: Client, servers: Sequence[Member], clients: Sequence[Member]) -> Proof:
    last = servers[(MOVES - 1) % 2]
    for vip in VIPS:
        last.announce(vip)
    before = sum(_answered_s(clients[1], vip, TIMEOUT_S) is not None for vip in VIPS)
    client.request("PUT", f"/v2.0/ports/{last.id}", {"port": {"allowed_address_pairs": []}})
    end = time.monotonic() + TIMEOUT_S
    left = len(VIPS)
    while left and time.monotonic() < end:
        left = sum(_answered_s(clients[1], vip, SILENCE_S / 4) is not None for vip in VIPS)
    return Proof(
        name="an address whose pair is taken away",
        expectation="it answered, and answers no more",
        measured=f"{before} answered with the pair, {left} without",
        passed=before == len(VIPS) and left == 0,
    )


def _answered_s(one: Member, vip: str, timeout_s: float) -> float | None:
    """How long until an echo from the container was answered by that address; None: it was not in time."""
    v6 = ":" in vip
    identifier = secrets.randbelow(1 << 16)
    request = echo_request(identifier, 1, b"alcor")
    if v6:
        request = _ICMP.pack(ECHO6_REQUEST, 0, 0, identifier, 1) + b"alcor"  # the kernel fills in the checksum

    def open_there(_: Path) -> socket.socket:
        if v6:
            return socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)

    with ExitStack() as stack:
        opened = stack.enter_context(visit([one.netns], open_there)[0])
        began = time.monotonic()
        while time.monotonic() < began + timeout_s:
            with suppress(OSError):  # no answer to an earlier question for its MAC: told at the next send
                opened.sendto(request, (vip, 0))
            until = min(began + timeout_s, time.monotonic() + RESEND_S)
            while select.select([opened], [], [], max(0.0, until - time.monotonic()))[0]:
                with suppress(OSError):
                    message, (source, *_) = opened.recvfrom(2048)
                    kind, _code, _sum, answered, _sequence = _ICMP.unpack_from(message, 0 if v6 else 20)
                    if (kind, answered, source) == (ECHO6_REPLY if v6 else ECHO_REPLY, identifier, vip):
                        return time.monotonic() - began
    return None
