"""IPv6 outside: "To the outside" and "From the outside" of docs/pipeline.md, for packets that keep their addresses.

Pure. Called by the pipeline model and the switch; outside6.h is the same in C. Whose an address is out there is in the
routes of the VNI OUTSIDE: a tenant's subnet leads to its VNI, an external network's to OUTSIDE itself. Who on this host
has it is in `local`, as for any packet.
"""

from __future__ import annotations

from collections.abc import Sequence

from alcor.dataplane.base import NO_ADDRESS, OUTSIDE, Hop, LocalPort, Route, RouteKey, RouteKind
from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, IPV6_LENGTH, Header
from alcor.dataplane.fake.misses import check_length
from alcor.dataplane.fake.neighbours import (
    SOLICITATION,
    SOLICITATION_LENGTH,
    UNSPECIFIED_V6,
    advertisement,
)
from alcor.dataplane.fake.packet import read_packet
from alcor.dataplane.fake.routing import longest
from alcor.dataplane.fake.tables import LocalFlag, LocalRow, PortRow, Tables
from alcor.dataplane.fake.translating import may_leave
from alcor.dataplane.fake.walk import Verdict, Walk
from alcor.model.addresses import ROUTER_MAC, Ip, format_ip, ip_version


def owner(tables: Tables, ip: Ip) -> Hop | None:
    """Whose the address is outside: the VNI, and the gateway that packets from it take; None: nobody's that is known
    here, or an external network's own."""
    route = longest(tables, OUTSIDE, ip)
    if route is None or route.kind is not RouteKind.CONNECTED or route.hops[0].vni == OUTSIDE:
        return None
    return route.hops[0]


def at_home(tables: Tables, ip: Ip) -> LocalRow | None:
    """Who on this host has the address outside."""
    hop = owner(tables, ip)
    row = tables.local.get(EndpointKey(hop.vni, ip)) if hop is not None else None
    return None if row is None or row.flags & (LocalFlag.GATEWAY | LocalFlag.VIP) else row


def beyond(tables: Tables, port: LocalPort, ifindex: int) -> set[Ip]:
    """The addresses of a port, behind that interface, that it has outside too."""
    ips = {*(one.ip for one in port.addresses), *(claim.ip for claim in port.claims)}
    rows = {ip: at_home(tables, ip) for ip in ips if ip_version(ip) == 6 and tables.external is not None}
    return {ip for ip, row in rows.items() if row is not None and row.ifindex == ifindex}


def coming(tables: Tables, routes: Sequence[tuple[RouteKey, Route]]) -> list[RouteKey]:
    """Which prefixes these routes, not in the tables yet, make a VNI's own outside, with that VNI."""
    found = []
    for key, route in routes:
        if (
            (key.vni, key.prefix.version) != (OUTSIDE, 6)
            or route.kind is not RouteKind.CONNECTED
            or route.hops[0].vni == OUTSIDE
        ):
            continue
        before = owner(tables, key.prefix.base)
        if before is None or before.vni != route.hops[0].vni:
            found.append(RouteKey(route.hops[0].vni, key.prefix))
    return found


def to_external6(walk: Walk, port: PortRow, ip: Header) -> Verdict:
    """ "To the outside", for an IPv6 packet of a port whose hop limit is more than 1."""
    tables, device = walk.tables, walk.tables.external
    hop = owner(tables, ip.source)
    if hop is None or hop.vni != port.vni:
        return walk.drop(
            DropReason.NO_TRANSLATION, f"X1: {format_ip(ip.source)} is no address of VNI {port.vni} outside"
        )
    if device is None:
        return walk.drop(DropReason.NO_EXTERNAL, "X1: this host has no external device")
    next_hop = ip.destination if longest(tables, OUTSIDE, ip.destination) is not None else hop.ip
    if next_hop == NO_ADDRESS or _stays(ip.destination):
        return walk.drop(DropReason.NO_EXTERNAL, f"X1: there is no way to {format_ip(ip.destination)}")
    data = walk.frame[ETHERNET_LENGTH:]
    leaving = may_leave(walk, port, read_packet(data, 6), ip, data)
    if isinstance(leaving, Verdict):
        return leaving
    walk.steps.append(f"X2: {format_ip(ip.source)} is its own address outside, hop limit now {ip.ttl - 1}")
    data = frames.with_ttl(leaving, 6, ip.ttl - 1)
    if at_home(tables, ip.destination) is not None:
        turned = device.mac + ROUTER_MAC + walk.frame[12:ETHERNET_LENGTH] + data
        return walk.turn(device.ifindex, turned, f"X3: {format_ip(ip.destination)} is on this host")
    return walk.leave(device.ifindex, next_hop, walk.frame[:ETHERNET_LENGTH] + data)


def _stays(ip: Ip) -> bool:
    """A link-local address or a group: no router passes on what is for one, or from one (RFC 4291 sections 2.5.6 and
    2.7)."""
    return ip[0] == 0xFF or (ip[0] == 0xFE and ip[1] & 0xC0 == 0x80)


def from_external6(walk: Walk, ether: frames.Ethernet) -> Verdict:
    """ "From the outside", steps 2 to 6, for an IPv6 frame."""
    device, data = walk.tables.external, walk.frame[ETHERNET_LENGTH:]
    if device is None or len(data) < IPV6_LENGTH or data[0] >> 4 != 6:
        return walk.pass_on("3: no IPv6 header")
    if data[6] == frames.PROTOCOL_ICMPV6 and data[IPV6_LENGTH : IPV6_LENGTH + 1] == bytes((SOLICITATION,)):
        return _solicited(walk)
    destination = Ip(data[24:40])
    local = at_home(walk.tables, destination)
    if ether.destination != device.mac or local is None:
        return walk.pass_on(f"3: {format_ip(destination)} is nobody's of this host outside")
    ip = frames.parse_ipv6(data)
    if ip is None:
        return walk.drop(DropReason.MALFORMED, "4: IP header cut short or inconsistent")
    if ip.ttl <= 1:
        return walk.drop(DropReason.TTL_EXCEEDED, f"4: hop limit {ip.ttl} runs out")
    if _stays(ip.source) or ip.source == UNSPECIFIED_V6:
        return walk.drop(DropReason.SPOOFED_IP, f"4: {format_ip(ip.source)} is nobody behind a router")
    packet = read_packet(data, 6)
    if packet is None:
        return walk.drop(DropReason.MALFORMED, "5: headers cut short or inconsistent")
    port = walk.tables.ports.get(local.ifindex)
    if port is None:
        return walk.drop(DropReason.NO_ENDPOINT, f"5: {format_ip(destination)} has no port")
    if local.flags & LocalFlag.DOWN:
        return walk.drop(DropReason.PORT_DOWN, "5: the receiving port is administratively down")
    refused = check_length(walk, port.mtu, ip)
    if refused is not None:
        return refused
    refused = walk.admit(packet, data, port.vni, local)
    if refused is not None:
        return refused
    walk.steps.append(f"6: for {format_ip(destination)} of VNI {port.vni}")
    header = local.mac + ROUTER_MAC + walk.frame[12:ETHERNET_LENGTH]
    return walk.deliver(local, header + frames.with_ttl(data, 6, ip.ttl - 1))


def _solicited(walk: Walk) -> Verdict:
    """Step 2: who has an address is asked (RFC 4861 section 7.2.4)."""
    device, ip = walk.tables.external, walk.frame[ETHERNET_LENGTH : ETHERNET_LENGTH + IPV6_LENGTH]
    message = walk.frame[ETHERNET_LENGTH + IPV6_LENGTH :]
    whole = min(len(message), int.from_bytes(ip[4:6], "big")) >= SOLICITATION_LENGTH
    if device is None or not whole or message[1] or ip[7] != frames.ND_HOPS:
        return walk.pass_on("2: no right solicitation")
    asker, target = Ip(ip[8:24]), Ip(message[8:24])
    if asker == target or at_home(walk.tables, target) is None:
        return walk.pass_on(f"2: {format_ip(target)} is nobody's of this host outside")
    answer = advertisement(walk.frame, target, device.mac)
    return walk.reply(answer, f"2: {format_ip(target)} is here")
