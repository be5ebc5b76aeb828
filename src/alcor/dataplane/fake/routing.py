"""Routes out of a VNI: step R of docs/pipeline.md, executed. Pure.

Called by the pipeline model; route.h is the same in C, with a longest-prefix table where this walks through the routes.
"""

from __future__ import annotations

from typing import NamedTuple

from alcor.dataplane.base import Hop, Route, RouteKind, TranslationKey
from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, Header
from alcor.dataplane.fake.hashing import WORD, finalize, hash_end
from alcor.dataplane.fake.packet import Packet, Part, read_packet
from alcor.dataplane.fake.tables import PortRow, Tables
from alcor.dataplane.fake.walk import Verdict, Walk
from alcor.model.addresses import Ip, format_ip


class Way(NamedTuple):
    """Where a routed packet goes: who is looked up, and how large it may be. `via`: the address is another's."""

    sought: EndpointKey
    mtu: int
    via: bool = False


class Outside(NamedTuple):
    """It leaves for outside. `shared`: the address that its router shares out there (IPv4)."""

    shared: Ip | None


def translate(tables: Tables, vni: int, identity: int, to: int) -> int:
    """What stands in the VNI `to` for the groups of an identity; 0: nothing does."""
    if vni == to or not identity:
        return identity
    return tables.translations.get(TranslationKey(vni, identity, to), 0)


def find_way(walk: Walk, port: PortRow, ip: Header) -> Way | Outside | Verdict:
    """Step R."""
    route = longest(walk.tables, port.vni, ip.destination)
    if route is None:
        return walk.drop(DropReason.NO_ROUTE, f"R: no route from VNI {port.vni} to {format_ip(ip.destination)}")
    if route.kind is RouteKind.BLACKHOLE:
        return walk.drop(DropReason.BLACKHOLE, f"R: the route to {format_ip(ip.destination)} is a blackhole")
    if route.kind is RouteKind.OUTSIDE:
        walk.steps.append(f"R: {format_ip(ip.destination)} is outside")
        return Outside(route.hops[0].ip if route.hops else None)
    hop = route.hops[0]
    if len(route.hops) > 1:
        packet = read_packet(walk.frame[ETHERNET_LENGTH:], ip.version)
        if packet is None:
            return walk.drop(DropReason.MALFORMED, "R: headers cut short or inconsistent")
        hop = choose(route, packet)
    if route.kind is RouteKind.HOPS:
        walk.steps.append(f"R: {format_ip(ip.destination)} is behind {format_ip(hop.ip)} of VNI {hop.vni}")
        return Way(EndpointKey(hop.vni, hop.ip), hop.mtu, via=True)
    walk.steps.append(f"R: {format_ip(ip.destination)} is in VNI {hop.vni}")
    return Way(EndpointKey(hop.vni, ip.destination), hop.mtu)


def longest(tables: Tables, vni: int, ip: Ip) -> Route | None:
    """The route of the longest prefix that has the address."""
    found = [(key.prefix.length, route) for key, route in tables.routes.items() if key.vni == vni and ip in key.prefix]
    return max(found, key=lambda one: one[0])[1] if found else None


def choose(route: Route, packet: Packet) -> Hop:
    """One of several hops: the same for both directions of a connection, and for all of its packets."""
    return route.hops[hash_flow(packet) * len(route.hops) >> 32]


def hash_flow(packet: Packet) -> int:
    """32 bits: FNV-1a over each end, word by word, added up; then MurmurHash3's finalizer."""
    whole = packet.part is Part.WHOLE
    ends = (packet.source, packet.source_port), (packet.destination, packet.destination_port)
    value = sum(hash_end(ip, port if whole else 0) for ip, port in ends) & WORD
    return finalize(value ^ packet.protocol)
