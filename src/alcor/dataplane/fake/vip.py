"""A load balancer's address behind an EIP: steps V and O of docs/pipeline.md, executed. Pure but for the table of
connections.

Called by the pipeline model; vip.h is the same in C. The host that answers for the EIP is the client's host: it
chooses, remembers, and gets the answers back. A backend's host remembers who sent it the connection.
"""

from __future__ import annotations

from msgspec.structs import replace

from alcor.dataplane.base import NO_ADDRESS
from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake import frames, lb, translating
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, Header
from alcor.dataplane.fake.gateways import to_gateway
from alcor.dataplane.fake.lb import BalancedFlag, Choice, balance, choose, remember_way, unbalance, way_out
from alcor.dataplane.fake.misses import check_length, unknown
from alcor.dataplane.fake.packet import ECHO_REQUEST, Packet, Part, read_packet
from alcor.dataplane.fake.tables import (
    EipRow,
    LocalFlag,
    LocalRow,
    PortFlag,
    PortRow,
    RemoteRow,
)
from alcor.dataplane.fake.walk import Verdict, VerdictKind, Walk
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, format_ip

FROM_OUTSIDE, TO_OUTSIDE = 1, 2
"""Marks in the tunnel's header: a load-balanced packet that came from outside, and what answers one."""
NOWHERE = Mac(bytes(6))

REFUSALS = {
    lb.NO_LISTENER: (DropReason.NO_LISTENER, "no listener at that protocol and port"),
    lb.NO_BACKEND: (DropReason.NO_BACKEND, "no backend that new connections may go to"),
    lb.MALFORMED: (DropReason.MALFORMED, "headers cut short or inconsistent"),
    lb.FRAGMENT: (DropReason.FRAGMENT, "a later fragment of a datagram whose first was not seen"),
}


def find_chosen(walk: Walk, choice: Choice | str, vip: Ip, vni: int) -> tuple[Choice, LocalRow | RemoteRow] | Verdict:
    """The end of step B: who was chosen, and where that is; or why nobody gets it."""
    if isinstance(choice, str):
        reason, text = REFUSALS[choice]
        return walk.drop(reason, f"B: {format_ip(vip)} is a load balancer's: {text}")
    walk.steps.append(f"B: {format_ip(vip)} is a load balancer's, its backend is {format_ip(choice.chosen.ip)}")
    key = EndpointKey(vni, choice.chosen.ip)
    local = walk.tables.local.get(key)
    found: LocalRow | RemoteRow | None = local
    if local is None or local.flags & (LocalFlag.GATEWAY | LocalFlag.VIP):
        found = walk.remote(key)
    if found is None:
        return unknown(walk, key, DropReason.NO_ENDPOINT, "B")
    if isinstance(found, LocalRow) and found.flags & LocalFlag.DOWN:
        return walk.drop(DropReason.PORT_DOWN, "11: the receiving port is administratively down")
    return choice, found


def balance_outside(walk: Walk, row: EipRow, ip: Header, packet: Packet) -> Verdict:
    """Step V: a packet from outside for an EIP that stands for a load balancer's address."""
    device, anchor = walk.tables.external, walk.tables.ports.get(row.ifindex)
    if anchor is None or device is None:
        return walk.drop(DropReason.NO_ENDPOINT, "V: the port that the EIP is with is not here")
    if packet.is_icmp and packet.part is Part.WHOLE and packet.selector == ECHO_REQUEST[4] << 8:
        walk.ifindex = device.ifindex
        return to_gateway(walk, ip, device.mac)
    refused = check_length(walk, anchor.mtu, ip)
    if refused is not None:
        return refused
    data = walk.frame[ETHERNET_LENGTH:]
    data = translating.readdress_quoted(data, packet, translating.SOURCE_AT, ip.destination, row.ip, 0)
    changed = translating.readdress(data, packet, translating.DESTINATION_AT, ip.destination, row.ip, 0)
    if changed is None:
        return walk.drop(DropReason.MALFORMED, "6: its checksum is cut off")
    walk.steps.append(f"V: {format_ip(ip.destination)} is {format_ip(row.ip)} of VNI {row.vni} inside")
    walk.frame = walk.frame[:ETHERNET_LENGTH] + changed
    tables = walk.tables
    chosen = choose(tables.balance, tables.policy, changed, 4, row.vni, device.ifindex, walk.now_ns)
    found = find_chosen(walk, chosen, row.ip, row.vni)
    if isinstance(found, Verdict):
        return replace(found, ifindex=row.ifindex) if found.kind is VerdictKind.HOLD else found
    choice, target = found
    if choice.chosen.flags & (BalancedFlag.HAIRPIN | BalancedFlag.HAIRPIN_BACK):
        return walk.drop(DropReason.SPOOFED_IP, "V: nobody outside has a backend's address")
    if isinstance(target, LocalRow) and choice.quoted is None:
        refused = walk.admit(choice.packet, changed, row.vni, target)
        if refused is not None:
            return refused
    frame = balance(tables.balance, choice, walk.frame, walk.now_ns)
    data = frames.with_ttl(frame[ETHERNET_LENGTH:], 4, ip.ttl - 1)
    frame = target.mac + ROUTER_MAC + frame[12:ETHERNET_LENGTH] + data
    if isinstance(target, RemoteRow):
        return walk.tunnel(0, row.vni, 0, target, frame, FROM_OUTSIDE)
    _remember(walk, choice.packet, target.ifindex, NO_ADDRESS)
    return walk.deliver(target, frame)


def came_in(walk: Walk, ifindex: int, frame: bytes, via: Ip) -> None:
    """Step O, of what the interface is given out of the tunnel: its answers go back to the host that it came from."""
    packet = read_packet(frame[ETHERNET_LENGTH:], 4)
    if packet is not None:
        _remember(walk, packet, ifindex, via)


def _remember(walk: Walk, packet: Packet, ifindex: int, via: Ip) -> None:
    tables, port = walk.tables, walk.tables.ports.get(ifindex)
    if remember_way(tables.balance, packet, ifindex, via, walk.now_ns) and port is not None:
        tables.ports[ifindex] = replace(port, flags=port.flags | PortFlag.ANSWERS)


def answer_outside(walk: Walk, port: PortRow, ip: Header) -> Verdict | None:
    """Step O, of what a port sends: back to where the connection came in; None: it answers nothing of the kind."""
    tables, data = walk.tables, walk.frame[ETHERNET_LENGTH:]
    via = way_out(tables.balance, tables.policy, data, port.vni, walk.ifindex, walk.now_ns)
    if via is None:
        return None
    walk.steps.append("O: it answers what came from outside")
    if ip.ttl <= 1:
        return walk.drop(DropReason.TTL_EXCEEDED, f"10: TTL {ip.ttl} runs out at the router")
    leaving = translating.may_leave(walk, port, read_packet(data, 4), ip, data)
    if isinstance(leaving, Verdict):
        return leaving
    data = frames.with_ttl(leaving, 4, ip.ttl - 1)
    if via == NO_ADDRESS:
        return leave_balanced(walk, port.vni, walk.frame[:ETHERNET_LENGTH] + data)
    frame = walk.frame[:6] + ROUTER_MAC + walk.frame[12:ETHERNET_LENGTH] + data
    return walk.tunnel(port.dscp, port.vni, 0, RemoteRow(via, NOWHERE), frame, TO_OUTSIDE)


def leave_balanced(walk: Walk, vni: int, frame: bytes) -> Verdict:
    """The other end of step O, where the connection came in: the answer gets the VIP as its source, then the EIP."""
    tables, device = walk.tables, walk.tables.external
    if device is None:
        return walk.drop(DropReason.NO_EXTERNAL, "O: this host has no external device")
    answered = unbalance(tables.balance, tables.policy, frame, vni, device.ifindex, 4, walk.now_ns)
    if not answered.done:
        return walk.drop(DropReason.NO_TRANSLATION, "O: no such connection came in here")
    walk.steps.append(answered.text)
    data = answered.frame[ETHERNET_LENGTH:]
    packet = read_packet(data, 4)
    if packet is None:
        return walk.drop(DropReason.MALFORMED, "O: headers cut short or inconsistent")
    row = tables.eips.get(EndpointKey(vni, packet.source))
    if row is None:
        return walk.drop(DropReason.NO_TRANSLATION, f"O: nothing stands for {format_ip(packet.source)} outside")
    next_hop = translating.next_hop(row, packet.destination)
    if next_hop is None:
        text = f"O: the external subnet has no gateway to {format_ip(packet.destination)}"
        return walk.drop(DropReason.NO_EXTERNAL, text)
    data = translating.readdress_quoted(data, packet, translating.DESTINATION_AT, packet.source, row.ip, 0)
    changed = translating.readdress(data, packet, translating.SOURCE_AT, packet.source, row.ip, 0)
    if changed is None:
        return walk.drop(DropReason.MALFORMED, "X2: its checksum is cut off")
    walk.steps.append(f"X2: {format_ip(packet.source)} is {format_ip(row.ip)} outside")
    return translating.leave(walk, device, packet.destination, next_hop, frame[:ETHERNET_LENGTH] + changed, row.queue)
