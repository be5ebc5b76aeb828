"""Router advertisements: what they say for each mode, to whom, and when nobody asked."""

import asyncio
import socket
import time

import pytest
from msgspec.structs import replace
from tests.dataplane import packets
from tests.hostsvc.people import CLIENT, MAC, V4, V6, People

from alcor.dataplane.base import Request
from alcor.hostsvc import serving
from alcor.hostsvc.advertisements import ALL_NODES, advertisement
from alcor.hostsvc.answering import answer
from alcor.hostsvc.base import ROUTER_LINK_LOCAL, Client
from alcor.hostsvc.serving import HostServices, ServiceConfig
from alcor.model.addresses import link_local, parse_ip
from alcor.model.ids import Id
from alcor.model.nouns import Ipv6Mode

ALL_ROUTERS = parse_ip("ff02::2")


def solicitation(source: bytes) -> bytes:
    told = packets.icmpv6(source, ALL_ROUTERS, 133, bytes(4))
    packet = packets.ipv6(source, ALL_ROUTERS, told, protocol=packets.ICMPV6, hops=255)
    return packets.ethernet(b"\x33\x33\0\0\0\2", MAC, packet, packets.IPV6)


def options(frame: bytes) -> dict[int, bytes]:
    """Of an advertisement, by type; of repeated ones the last."""
    found, at = {}, 14 + 40 + 16
    while at < len(frame):
        found[frame[at]] = frame[at + 2 : at + 8 * frame[at + 1]]
        at += 8 * frame[at + 1]
    return found


@pytest.mark.parametrize(
    ("mode", "flags", "autonomous"),
    [(Ipv6Mode.SLAAC, 0, True), (Ipv6Mode.STATELESS, 0x40, True), (Ipv6Mode.STATEFUL, 0xC0, False)],
)
def test_a_mode_says_how_addresses_are_made(mode: Ipv6Mode, flags: int, autonomous: bool) -> None:
    """M: addresses by DHCPv6; O: the rest by DHCPv6; A: the prefix makes addresses."""
    frame = advertisement(replace(CLIENT, leases=(replace(V6, ra_mode=mode),)))
    assert frame is not None
    assert frame[14 + 40 + 5] == flags
    said = options(frame)
    assert (said[3][0], bool(said[3][1] & 0x40), said[3][-16:]) == (64, autonomous, parse_ip("2001:db8::"))
    assert int.from_bytes(said[5][-4:], "big") == 1450
    assert said[25][6:] == parse_ip("fe80::a9fe:a9fe")
    assert said[31][6:].rstrip(b"\0") == b"\x06tenant\x07example"
    packet = frame[14:]
    pseudo = packet[8:40] + (len(packet) - 40).to_bytes(4, "big") + bytes(3) + bytes((58,))
    assert packets.internet_checksum(pseudo + packet[40:]) == 0


def test_who_solicits_is_told() -> None:
    """At its own address, or without one at all nodes."""
    for source, to in ((link_local(MAC), link_local(MAC)), (bytes(16), ALL_NODES)):
        found = answer(solicitation(source), CLIENT, People(CLIENT))
        assert isinstance(found, list)
        assert (found[0][22:38], found[0][38:54]) == (ROUTER_LINK_LOCAL, to)


def test_named_servers_are_told_instead_of_the_host() -> None:
    """Those of IPv6."""
    lease = replace(V6, nameservers=(parse_ip("192.0.2.53"), parse_ip("2001:db8::53")))
    frame = advertisement(replace(CLIENT, leases=(lease,)))
    assert frame is not None
    assert options(frame)[25][6:] == parse_ip("2001:db8::53")


@pytest.mark.parametrize(
    "client", [replace(CLIENT, routed=False), replace(CLIENT, leases=(replace(V6, gateway=None),))]
)
def test_without_a_gateway_there_is_no_default_router(client: Client) -> None:
    """The lifetime is zero: the prefix is told all the same (RFC 4861 section 6.2.3)."""
    frame = advertisement(client)
    assert frame is not None
    assert frame[14 + 40 + 6 : 14 + 40 + 8] == b"\0\0"


def test_a_subnet_without_a_mode_is_not_advertised() -> None:
    """Nor is IPv4: a solicitation finds silence."""
    client = replace(CLIENT, leases=(V4, replace(V6, ra_mode=None)))
    assert advertisement(client) is None
    assert answer(solicitation(link_local(MAC)), client, People(client)) == []


class Recorder:
    """Fills dataplane.base.Requests: keeps what ports are given."""

    def __init__(self, places: dict[Id, int]) -> None:
        self.places = places
        self.given: list[tuple[int, bytes]] = []
        self._wire = socket.socketpair()

    def fileno(self) -> int:
        return self._wire[0].fileno()

    def close(self) -> None:
        for one in self._wire:
            one.close()

    def take(self) -> list[Request]:
        return []

    def interfaces(self) -> dict[Id, int]:
        return self.places

    def answer(self, ifindex: int, frame: bytes) -> None:
        self.given.append((ifindex, frame))

    def refuse(self, request: Request) -> None:
        raise AssertionError("nothing was asked")


def test_nobody_has_to_ask() -> None:
    """New ports and changed ones are told at once, the others every few minutes; those not carried yet, soon."""
    now = [0.0]
    wire, people = Recorder({CLIENT.id: 7}), People(CLIENT, replace(CLIENT, id=Id(b"q" * 16)))
    services = HostServices(wire, people, ServiceConfig(), clock=lambda: now[0], roll=lambda: 0.0)
    try:
        services.tick()
        services.tick()
        assert [7] == [ifindex for ifindex, _ in wire.given]
        wire.places[Id(b"q" * 16)] = 8
        now[0] = 6.0
        services.tick()
        assert [7, 8] == [ifindex for ifindex, _ in wire.given]
        people.clients[CLIENT.id] = replace(CLIENT, mtu=1400)
        services.tick()
        assert [7, 8, 7] == [ifindex for ifindex, _ in wire.given]
        now[0] = 206.5
        services.tick()
        assert [7, 8, 7, 7, 8] == [ifindex for ifindex, _ in wire.given]
        people.clients.clear()
        now[0] = 1000.0
        services.tick()
        assert len(wire.given) == 5
    finally:
        wire.close()


async def test_it_rests_until_there_is_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes is told when `changed` is said, and nobody is looked for before."""
    monkeypatch.setattr(serving, "TICK_S", 0.01)
    looks = 0

    class Counted(People):
        def advertised(self) -> list[Client]:
            nonlocal looks
            looks += 1
            return super().advertised()

    wire, people = Recorder({CLIENT.id: 7}), Counted()
    services = HostServices(wire, people, ServiceConfig(), clock=time.monotonic, roll=lambda: 0.0)
    task = asyncio.create_task(services.run())
    try:
        await asyncio.sleep(0.2)
        assert looks == 1
        people.clients[CLIENT.id] = CLIENT
        services.changed()
        async with asyncio.timeout(10):
            while not wire.given:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.2)
        assert ([ifindex for ifindex, _ in wire.given], looks) == ([7], 2)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        wire.close()
