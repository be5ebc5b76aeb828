"""The driver contract, claims: announced addresses of allowed pairs, held against every driver."""

import msgspec
import pytest
from tests.dataplane import packets
from tests.dataplane.contract_hosts import Host
from tests.dataplane.test_contract import VNI, Pair, host, pair, port, put
from tests.dataplane.test_contract_requests import dropped, taken

from alcor.dataplane.base import LocalPort, Plan
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.hostsvc.announcements import announced, announcement
from alcor.model.addresses import Ip, Mac, parse_ip, parse_prefix
from alcor.model.nouns import AddressPair, Claim

__all__ = ["host", "pair"]  # fixtures
VIPS = ("10.0.0.100", "2001:db8::100")
VIRTUAL = Mac(bytes.fromhex("00005e000107"))


def paired(one: LocalPort, *claims: Claim) -> LocalPort:
    """The port, which may have the VIPs, by its own MAC and by VRRP's; and has some of them."""
    prefixes = [parse_prefix("10.0.0.100/32"), parse_prefix("2001:db8::100/128")]
    pairs = tuple(AddressPair(prefix, mac) for prefix in prefixes for mac in (one.mac, VIRTUAL))
    return msgspec.structs.replace(one, pairs=pairs, claims=claims)


def packet(source: LocalPort, to: Mac, ip: Ip, data: bytes = b"hello") -> bytes:
    """An honest frame of the port."""
    own = source.addresses[0 if ip[0] == 0 else 1].ip
    if ip[0] == 0:
        inner = packets.ipv4(own, ip, packets.udp(own, ip, data), protocol=packets.UDP)
        return packets.ethernet(to, source.mac, inner)
    return packets.ethernet(
        to, source.mac, packets.ipv6(own, ip, packets.udp(own, ip, data), protocol=packets.UDP), packets.IPV6
    )


def dual(number: int) -> LocalPort:
    """A port of both families."""
    return port(number, f"10.0.0.{number}", f"2001:db8::{number}")


@pytest.mark.parametrize("ip", VIPS)
def test_an_announcement_comes_up(host: Host, ip: str) -> None:
    """At the port's own MAC and at a virtual one; once it is claimed at that MAC it is not told any more."""
    one = paired(dual(1))
    put(host, one)
    with host.wire(one) as wire:
        for mac in (one.mac, VIRTUAL):
            claim = Claim(parse_ip(ip), mac)
            wire.send(announcement(claim))
            request = taken(host, announcement(claim))
            assert (one.id, claim) == (request.port, announced(request.frame))
        put(host, paired(dual(1), Claim(parse_ip(ip), VIRTUAL)))
        wire.send(announcement(Claim(parse_ip(ip), VIRTUAL)))
        assert dropped(host, one, "arp_ignored" if ip == VIPS[0] else "nd_ignored")
    assert [] == host.driver.requests.take()


@pytest.mark.parametrize("ip", VIPS)
def test_who_may_not_have_it_announces_nothing(host: Host, ip: str) -> None:
    """Neither without pairs, nor with a MAC or an address that they do not have."""
    plain, one = dual(2), paired(dual(1))
    put(host, plain, one)
    v4 = ip == VIPS[0]
    with host.wire(plain) as wire:
        wire.send(announcement(Claim(parse_ip(ip), plain.mac)))
        assert dropped(host, plain, "spoofed_ip" if v4 else "nd_ignored")
    with host.wire(one) as wire:
        wire.send(announcement(Claim(parse_ip(ip), Mac(packets.mac(9)))))
        assert dropped(host, one, "spoofed_mac" if v4 else "nd_ignored")
    assert [] == host.driver.requests.take()


@pytest.mark.parametrize("ip", VIPS)
def test_a_claimed_address_is_at_its_port(host: Host, ip: str) -> None:
    """Packets for it reach the port, at the MAC that was announced; in one plan it goes to another port of the host."""
    vip = parse_ip(ip)
    one, two, client = dual(1), dual(2), dual(3)
    put(host, paired(one, Claim(vip, VIRTUAL)), paired(two), client)
    with host.wire(one) as first, host.wire(two) as second, host.wire(client) as wire:
        wire.send(packet(client, VIRTUAL, vip))
        first.wait(packet(client, VIRTUAL, vip))
        put(host, paired(two, Claim(vip, two.mac)), paired(one))
        wire.send(packet(client, two.mac, vip, b"again"))
        second.wait(packet(client, two.mac, vip, b"again"))
        put(host, paired(one, Claim(vip, one.mac)), paired(two))
        wire.send(packet(client, one.mac, vip, b"back"))
        first.wait(packet(client, one.mac, vip, b"back"))


def test_claims_are_observed_as_they_were_put(host: Host) -> None:
    """Also by a driver that starts anew; nothing is left of them when they or their port go."""
    claims = tuple(Claim(parse_ip(ip), VIRTUAL) for ip in VIPS)
    one = paired(dual(1), *claims)
    put(host, one)
    host.reopen()
    assert {one.id: one} == host.driver.observe().ports
    put(host, paired(dual(1), claims[1]))
    assert {one.id: paired(dual(1), claims[1])} == host.driver.observe().ports
    put(host, remove_ports=(one.id,))
    observed = host.driver.observe()
    assert ({}, ()) == (observed.ports, observed.orphans)


def test_an_address_goes_from_host_to_host(pair: Pair) -> None:
    """The one loses it and is told where it is; the other has it: packets from both hosts arrive there."""
    here, there = pair
    vip = parse_ip(VIPS[0])
    one, two, near = dual(1), dual(2), dual(3)
    put(here, paired(one, Claim(vip, one.mac)), near)
    put(there, paired(two), put_endpoints=((EndpointKey(VNI, vip), Endpoint(one.mac, here.underlay_ip)),))
    with here.wire(near) as wire, here.wire(one) as first, there.wire(two) as second:
        second.send(packet(two, one.mac, vip, b"to the first"))
        first.wait(packet(two, one.mac, vip, b"to the first"))
        moved = (EndpointKey(VNI, vip), Endpoint(two.mac, there.underlay_ip))
        put(here, paired(one), put_endpoints=(moved,))
        there.driver.apply(Plan(remove_endpoints=(EndpointKey(VNI, vip),)))
        put(there, paired(two, Claim(vip, two.mac)))
        wire.send(packet(near, two.mac, vip, b"to the second"))
        second.wait(packet(near, two.mac, vip, b"to the second"))
