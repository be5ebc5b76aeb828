"""Who has an address: ARP and IPv6 neighbour discovery, answered on the asker's own host; nothing is flooded. Pure.

Called by the pipeline model: steps 6 (ARP, RFC 826) and 6b (ND, RFC 4861) of docs/pipeline.md.
"""

from __future__ import annotations

from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import (
    ARP_REPLY,
    ARP_REQUEST,
    ETHERNET_LENGTH,
    IPV6_LENGTH,
    TYPE_ARP,
    TYPE_IPV6,
    Header,
)
from alcor.dataplane.fake.misses import unknown
from alcor.dataplane.fake.services import ROUTER_SOLICITATION, service_row, solicit
from alcor.dataplane.fake.tables import LocalFlag, LocalRow, PortFlag, PortRow
from alcor.dataplane.fake.walk import Verdict, Walk
from alcor.model.addresses import Ip, Mac, format_ip, format_mac

UNSPECIFIED = Ip(frames.mapped(b"\0\0\0\0"))
UNSPECIFIED_V6 = Ip(bytes(16))
ND_TYPES = range(133, 138)
"""Router and neighbour solicitation and advertisement, redirect."""
SOLICITATION = 135
SOLICITATION_LENGTH = 24


def from_port_arp(walk: Walk, port: PortRow, ether: frames.Ethernet) -> Verdict:
    """Step 6."""
    ask = frames.parse_arp(walk.frame)
    if ask is None:
        return walk.drop(DropReason.MALFORMED, "6: not a whole ARP packet for IPv4 over Ethernet")
    if ask.sender_mac != ether.source:
        return walk.drop(DropReason.SPOOFED_MAC, f"6: sender MAC {format_mac(ask.sender_mac)} is not the frame's")
    probe = ask.sender_ip == UNSPECIFIED
    spoofed = None if probe else walk.spoofed(port, ask.sender_mac, ask.sender_ip)
    if spoofed is not None:
        return walk.drop(spoofed, f"6: sender {format_ip(ask.sender_ip)} is not the port's")
    told = not probe and (ask.operation != ARP_REQUEST or ask.target_ip == ask.sender_ip)
    if told and _is_news(walk, port, ask.sender_mac, ask.sender_ip):
        return walk.serve(f"C: {format_ip(ask.sender_ip)} is announced")
    if ask.operation != ARP_REQUEST:
        return walk.drop(DropReason.ARP_IGNORED, f"6: opcode {ask.operation} is no request")
    if ask.target_ip == ask.sender_ip:
        return walk.drop(DropReason.ARP_IGNORED, f"6: announcement of {format_ip(ask.target_ip)}")
    if probe and walk.owns(port.vni, ask.target_ip):
        return walk.drop(DropReason.ARP_IGNORED, f"6: probe for the port's own {format_ip(ask.target_ip)}")
    answer = service_row(port, ask.target_ip) or walk.known(port, ask.target_ip)
    if answer is None:
        if probe:
            return walk.drop(
                DropReason.ARP_UNKNOWN, f"6: a probe, and nobody is known to have {format_ip(ask.target_ip)}"
            )
        return unknown(walk, EndpointKey(port.vni, ask.target_ip), DropReason.ARP_UNKNOWN, "6")
    packet = frames.arp(ARP_REPLY, answer.mac, ask.target_ip, ask.sender_mac, ask.sender_ip)
    padding = walk.frame[ETHERNET_LENGTH + frames.ARP_LENGTH :]
    reply = frames.ethernet(ask.sender_mac, answer.mac, TYPE_ARP, packet + padding)
    return walk.reply(reply, f"6: {format_ip(ask.target_ip)} is at {format_mac(answer.mac)}")


def _is_news(walk: Walk, port: PortRow, mac: Mac, ip: Ip) -> bool:
    """Step C: it is a port with pairs that announces the address, which is not at it, at that MAC, yet."""
    if port.flags & (PortFlag.PAIRS | PortFlag.OPEN) != PortFlag.PAIRS:
        return False
    row = walk.tables.local.get(EndpointKey(port.vni, ip))
    return row is None or (row.ifindex, row.mac) != (walk.ifindex, mac)


def is_nd(frame: bytes, ip: Header) -> bool:
    """True for messages of neighbour discovery, right or wrong."""
    at = ETHERNET_LENGTH + IPV6_LENGTH
    return ip.protocol == frames.PROTOCOL_ICMPV6 and ip.total_length > IPV6_LENGTH and frame[at] in ND_TYPES


def from_port_nd(walk: Walk, port: PortRow, ether: frames.Ethernet) -> Verdict:
    """Step 6b."""
    ip = walk.frame[ETHERNET_LENGTH : ETHERNET_LENGTH + IPV6_LENGTH]
    message = walk.frame[ETHERNET_LENGTH + IPV6_LENGTH :]
    if message[0] == ROUTER_SOLICITATION and port.flags & PortFlag.SERVED:
        return solicit(walk, port, ether)
    if len(message) < SOLICITATION_LENGTH:
        return walk.drop(DropReason.MALFORMED, "6b: a message of neighbour discovery cut short")
    target, whole = Ip(message[8:24]), int.from_bytes(ip[4:6], "big") >= SOLICITATION_LENGTH
    announced = message[0] == frames.ND_ADVERTISEMENT and not message[1] and ip[7] == frames.ND_HOPS and whole
    if announced and _is_news(walk, port, ether.source, target) and walk.spoofed(port, ether.source, target) is None:
        return walk.serve(f"C: {format_ip(target)} is announced")
    if message[0] != SOLICITATION or message[1] or ip[7] != frames.ND_HOPS:
        return walk.drop(DropReason.ND_IGNORED, f"6b: type {message[0]}, hop limit {ip[7]}: needs no answer")
    if not whole:
        return walk.drop(DropReason.MALFORMED, "6b: a solicitation cut short")
    asker = Ip(ip[8:24])
    probe = asker == UNSPECIFIED_V6
    spoofed = None if probe else walk.spoofed(port, ether.source, asker)
    if spoofed is not None:
        return walk.drop(spoofed, f"6b: the port may not ask from {format_ip(asker)}")
    if asker == target:
        return walk.drop(DropReason.ND_IGNORED, "6b: it asks for itself")
    if probe and walk.owns(port.vni, target):
        return walk.drop(DropReason.ND_IGNORED, f"6b: duplicate address detection of its own {format_ip(target)}")
    answer = service_row(port, target) or walk.known(port, target)
    if answer is None:
        if probe:
            return walk.drop(DropReason.ND_UNKNOWN, f"6b: a probe, and nobody is known to have {format_ip(target)}")
        return unknown(walk, EndpointKey(port.vni, target), DropReason.ND_UNKNOWN, "6b")
    is_gateway = isinstance(answer, LocalRow) and answer.flags & LocalFlag.GATEWAY
    reply = advertisement(walk.frame, target, answer.mac, frames.ND_ROUTER if is_gateway else 0)
    return walk.reply(reply, f"6b: {format_ip(target)} is at {format_mac(answer.mac)}")


def advertisement(asked: bytes, target: Ip, mac: Mac, flags: int = 0) -> bytes:
    """The frame that answers a solicitation, `target` is at that MAC: to all nodes when it was a probe (RFC 4861
    section 7.2.4)."""
    ip, asker = asked[ETHERNET_LENGTH : ETHERNET_LENGTH + IPV6_LENGTH], Ip(asked[22:38])
    probe = asker == UNSPECIFIED_V6
    to = frames.ALL_NODES if probe else asker
    flags |= frames.ND_OVERRIDE | (0 if probe else frames.ND_SOLICITED)
    told = frames.advertisement(target, to, mac, flags)
    # Traffic class and flow label stay the asker's.
    packet = ip[:4] + len(told).to_bytes(2, "big") + bytes((ip[6], frames.ND_HOPS)) + target + to + told
    return frames.ethernet(Mac(asked[6:12]), mac, TYPE_IPV6, packet)
