"""Addresses outside: "To the outside" and "From the outside" of docs/pipeline.md, executed. Pure.

Called by the pipeline model; nat.h is the same in C. An EIP stands for one address of one port, on the port's own host,
both ways and without a memory. Policy sees the addresses inside.
"""

from __future__ import annotations

from alcor.dataplane.base import OUTSIDE, SharedAddress
from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ARP_REPLY, ARP_REQUEST, ETHERNET_LENGTH, IPV4_LENGTH, Header
from alcor.dataplane.fake.lb import has_checksum
from alcor.dataplane.fake.misses import check_length
from alcor.dataplane.fake.outside6 import from_external6
from alcor.dataplane.fake.packet import Packet, Part, read_packet
from alcor.dataplane.fake.policy import reassemble
from alcor.dataplane.fake.sharing import (
    BindingFlag,
    Wanted,
    bind,
    bound,
    is_bindable,
    is_over,
    key_of,
    refresh,
)
from alcor.dataplane.fake.tables import (
    EipRow,
    ForwardingKey,
    ForwardingRow,
    LocalFlag,
    PortRow,
    RemoteRow,
    Tables,
)
from alcor.dataplane.fake.translating import (
    DESTINATION_AT,
    QUOTE_AT,
    SOURCE_AT,
    answers,
    leave,
    may_leave,
    next_hop,
    readdress,
    readdress_quoted,
)
from alcor.dataplane.fake.vip import balance_outside
from alcor.dataplane.fake.walk import Verdict, Walk
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, format_ip
from alcor.model.blocks import BLOCK_PORTS

FORWARDED = frozenset((frames.PROTOCOL_TCP, frames.PROTOCOL_UDP))
"""Protocols whose ports are forwarded."""


def to_external(walk: Walk, port: PortRow, ip: Header, shares: Ip | None) -> Verdict:
    """ "To the outside", for an IPv4 packet of a port whose TTL is more than 1. `shares`: the address that its router
    shares out there."""
    device = walk.tables.external
    if device is None:
        return walk.drop(DropReason.NO_EXTERNAL, "X1: this host has no external device")
    data = walk.frame[ETHERNET_LENGTH:]
    packet = read_packet(data, 4)
    row, outer_port = walk.tables.eips.get(EndpointKey(port.vni, ip.source)), 0
    if row is None:
        if packet is None:
            return walk.drop(DropReason.MALFORMED, "X1: headers cut short or inconsistent")
        forwarding = _forwarding(walk, packet, data, port.vni, source=True)
        if forwarding is not None:
            row, outer_port = forwarding.other, forwarding.port
    if row is None and shares is not None:
        shared = walk.tables.sharing.shared.get(shares)
        if shared is None or not shared.own(walk.tables.config.underlay_ip):
            return walk.drop(DropReason.NO_BLOCK, f"X1: this host has no ports of {format_ip(shares)}")
        row = EipRow(shares, OUTSIDE, walk.ifindex, shared.gateway, _mask(shared))
    else:
        shares = None
    if row is None or row.ifindex != walk.ifindex:
        return walk.drop(DropReason.NO_TRANSLATION, f"X1: nothing stands for {format_ip(ip.source)} outside")
    hop = next_hop(row, ip.destination)
    if hop is None:
        return walk.drop(
            DropReason.NO_EXTERNAL, f"X1: the external subnet has no gateway to {format_ip(ip.destination)}"
        )
    leaving = may_leave(walk, port, packet, ip, data)
    if isinstance(leaving, Verdict):
        return leaving
    data = leaving
    if packet is None:
        return walk.drop(DropReason.MALFORMED, "X2: headers cut short or inconsistent")
    if shares is not None:
        bound = _bind(walk, port, packet, data, shares)
        if isinstance(bound, Verdict):
            return bound
        outer_port = bound
    data = readdress_quoted(data, packet, DESTINATION_AT, ip.source, row.ip, outer_port)
    changed = readdress(data, packet, SOURCE_AT, ip.source, row.ip, outer_port)
    if changed is None:
        return walk.drop(DropReason.MALFORMED, "X2: its checksum is cut off")
    walk.steps.append(f"X2: {format_ip(ip.source)} is {format_ip(row.ip)} outside, TTL now {ip.ttl - 1}")
    changed = frames.with_ttl(changed, 4, ip.ttl - 1)
    return leave(walk, device, ip.destination, hop, walk.frame[:ETHERNET_LENGTH] + changed, row.queue)


def from_eip_queue(tables: Tables, frame: bytes, *, received: bool) -> Verdict:
    """What becomes of a frame that has waited for an EIP: it came in at the external device (`received`), or leaves
    there. Never raises."""
    walk, device = Walk(tables, 0, frame, 0), tables.external
    if device is None:
        return walk.drop(DropReason.NO_EXTERNAL, "Q: this host has no external device")
    walk.ifindex = device.ifindex
    if len(frame) < ETHERNET_LENGTH + IPV4_LENGTH:
        return walk.drop(DropReason.MALFORMED, "Q: headers cut short")
    if received:
        return walk.turn(device.ifindex, frame, "Q: it has waited", waited=True)
    destination = frames.mapped(frame[ETHERNET_LENGTH + 16 : ETHERNET_LENGTH + 20])
    return leave(walk, device, destination, frames.mapped(frame[6:10]), frame)


def from_external(tables: Tables, ifindex: int, frame: bytes, now_ns: int = 0, *, queued: bool = False) -> Verdict:
    """What becomes of a frame that the external device, interface `ifindex`, received; `queued`: it was here before,
    and waited for its turn. Never raises."""
    walk = Walk(tables, ifindex, frame, now_ns)
    device, ether = tables.external, frames.parse_ethernet(frame)
    if device is None or ether is None:
        return walk.pass_on("1: this host has no external device")
    if ether.ethertype == frames.TYPE_ARP:
        return _arp(walk)
    if ether.ethertype == frames.TYPE_IPV6:
        return from_external6(walk, ether)
    if ether.ethertype != frames.TYPE_IPV4 or ether.destination != device.mac:
        return walk.pass_on("3: neither ARP nor IP for this host")
    data = frame[ETHERNET_LENGTH:]
    row, shared = None, False
    if len(data) >= IPV4_LENGTH and data[0] >> 4 == 4:
        destination = frames.mapped(data[16:20])
        row = tables.eips.get(EndpointKey(OUTSIDE, destination))
        shared = destination in tables.sharing.shared
    if row is None and shared:
        return from_shared(walk, overlay=False)
    if row is None:
        return walk.pass_on("3: for no external address of ours")
    if row.queue and not queued:
        return walk.enqueue(ifindex, row.queue, frame, received=True, outside=True)
    ip = frames.parse_ipv4(data)
    if ip is None:
        return walk.drop(DropReason.MALFORMED, "4: IP header cut short or inconsistent")
    return _inward(walk, row, ip)


def _arp(walk: Walk) -> Verdict:
    """Step 2."""
    ask, device = frames.parse_arp(walk.frame), walk.tables.external
    if ask is None or device is None or ask.operation != ARP_REQUEST or ask.target_ip == ask.sender_ip:
        return walk.pass_on("2: ARP that asks for nobody")
    if not answers(walk.tables, ask.target_ip):
        return walk.pass_on(f"2: {format_ip(ask.target_ip)} is no external address of ours")
    packet = frames.arp(ARP_REPLY, device.mac, ask.target_ip, ask.sender_mac, ask.sender_ip)
    padding = walk.frame[ETHERNET_LENGTH + frames.ARP_LENGTH :]
    answer = frames.ethernet(ask.sender_mac, device.mac, frames.TYPE_ARP, packet + padding)
    walk.ifindex = device.ifindex
    return walk.reply(answer, f"2: {format_ip(ask.target_ip)} is here")


def _inward(walk: Walk, row: EipRow, ip: Header) -> Verdict:
    """Steps 4 to 6: for an EIP of this host."""
    if ip.ttl <= 1:
        return walk.drop(DropReason.TTL_EXCEEDED, f"4: TTL {ip.ttl} runs out")
    data = walk.frame[ETHERNET_LENGTH:]
    packet = read_packet(data, 4)
    if packet is None:
        return walk.drop(DropReason.MALFORMED, "5: headers cut short or inconsistent")
    inner_port = 0
    if row.vni == OUTSIDE:
        forwarding = _forwarding(walk, packet, data, OUTSIDE, source=False)
        if forwarding is None:
            text = f"5: nothing of {format_ip(ip.destination)} is forwarded for that packet"
            return walk.drop(DropReason.NO_TRANSLATION, text)
        row, inner_port = forwarding.other, forwarding.port
    return _hand_in(walk, packet, ip, row, inner_port, overlay=False)


def from_shared(walk: Walk, *, overlay: bool) -> Verdict:
    """Steps 4 to 6 for a shared address, of a packet from outside, or (`overlay`) one that was sent on by the host that
    answers for the address."""
    tables, data = walk.tables, walk.frame[ETHERNET_LENGTH:]
    ip = frames.parse_ipv4(data)
    if ip is None:
        return walk.drop(DropReason.MALFORMED, "4: IP header cut short or inconsistent")
    if ip.ttl <= 1:
        return walk.drop(DropReason.TTL_EXCEEDED, f"4: TTL {ip.ttl} runs out")
    packet = read_packet(data, 4)
    if packet is None:
        return walk.drop(DropReason.MALFORMED, "5: headers cut short or inconsistent")
    shared = tables.sharing.shared.get(ip.destination)
    if shared is None:
        return walk.drop(DropReason.NO_ENDPOINT, f"5: {format_ip(ip.destination)} is not shared here")
    if packet.part is not Part.WHOLE and not reassemble(tables.policy, packet, OUTSIDE):
        return walk.drop(DropReason.FRAGMENT, "5: a later fragment of a datagram whose first was not seen")
    of = packet
    if packet.is_icmp_error:
        quoted = read_packet(data[packet.payload + QUOTE_AT :], 4, quoted=True)
        if quoted is None or quoted.part is Part.LATER or quoted.source != ip.destination:
            return walk.drop(DropReason.UNSOLICITED, "5: an ICMP error about nothing of ours")
        of = quoted
    # What is quoted went the other way.
    if not is_bindable(of, leaves=packet.is_icmp_error):
        return walk.drop(DropReason.UNSOLICITED, "5: no answer to anything that can be sent from here")
    if not packet.is_icmp_error and not has_checksum(packet, data):
        return walk.drop(DropReason.MALFORMED, "5: its checksum is cut off")
    key = key_of(of, 0, leaves=packet.is_icmp_error, back=True)
    holder = dict(shared.blocks).get(key.flow.local_port // BLOCK_PORTS)
    if holder is None or (overlay and holder != tables.config.underlay_ip):
        return walk.drop(
            DropReason.NO_BLOCK, f"5: nobody has port {key.flow.local_port} of {format_ip(ip.destination)}"
        )
    if holder != tables.config.underlay_ip:
        refused = check_length(walk, shared.mtu, ip)
        return refused or walk.tunnel(0, OUTSIDE, 0, RemoteRow(holder, Mac(bytes(6))), walk.frame)
    row = tables.sharing.find(key)
    if row is None or is_over(key.flow.protocol, row, walk.now_ns):
        return walk.drop(DropReason.UNSOLICITED, f"5: no connection through port {key.flow.local_port} has that remote")
    if not packet.is_icmp_error:
        row.flags |= BindingFlag.ANSWERED
        refresh(row, packet, walk.now_ns)
    return _hand_in(walk, packet, ip, EipRow(row.ip, row.vni, row.ifindex), row.port, overlay=overlay)


def _bind(walk: Walk, port: PortRow, packet: Packet, data: bytes, shares: Ip) -> int | Verdict:
    """Step X2 of a shared address: which port of it the packet gets."""
    tables = walk.tables
    if packet.part is not Part.WHOLE and not reassemble(tables.policy, packet, port.vni):
        return walk.drop(DropReason.FRAGMENT, "X2: a later fragment of a datagram whose first was not seen")
    own = tables.sharing.shared[shares].own(tables.config.underlay_ip)
    wanted = Wanted(port.vni, walk.ifindex, shares, own)
    if packet.is_icmp_error:
        quoted = read_packet(data[packet.payload + QUOTE_AT :], 4, quoted=True)
        outer = None
        if quoted is not None and quoted.part is not Part.LATER and quoted.protocol in FORWARDED:
            outer = bound(tables.sharing, quoted, wanted) if quoted.destination == packet.source else None
        if outer is None:
            return walk.drop(DropReason.NO_TRANSLATION, "X2: an ICMP error about nothing that came from outside")
        return outer
    if not is_bindable(packet, leaves=True):
        return walk.drop(DropReason.NO_TRANSLATION, "X2: neither TCP, UDP nor an ICMP echo request")
    if not has_checksum(packet, data):
        return walk.drop(DropReason.MALFORMED, "X2: its checksum is cut off")
    chosen = bind(tables.sharing, packet, wanted, walk.now_ns)
    if chosen is None:
        text = f"X2: this host's ports of {format_ip(shares)} are taken towards {format_ip(packet.destination)}"
        return walk.drop(DropReason.SNAT_FULL, text)
    return chosen


def _mask(shared: SharedAddress) -> int:
    return (0xFFFFFFFF << (32 - shared.prefix_length)) & 0xFFFFFFFF


def _hand_in(walk: Walk, packet: Packet, ip: Header, row: EipRow, inner_port: int, *, overlay: bool) -> Verdict:
    """The rest of step 5, and 6: the packet is for the port that the row says. `overlay`: it came by another host, who
    would have told its sender of an MTU."""
    data = walk.frame[ETHERNET_LENGTH:]
    local = walk.tables.local.get(EndpointKey(row.vni, row.ip))
    if local is not None and local.flags & LocalFlag.VIP and not inner_port:
        return balance_outside(walk, row, ip, packet)
    if local is None or local.flags & LocalFlag.GATEWAY or local.ifindex not in walk.tables.ports:
        return walk.drop(DropReason.NO_ENDPOINT, f"5: nobody in VNI {row.vni} on this host has {format_ip(row.ip)}")
    if local.flags & LocalFlag.DOWN:
        return walk.drop(DropReason.PORT_DOWN, "5: the receiving port is administratively down")
    mtu = walk.tables.ports[local.ifindex].mtu
    if overlay and ip.total_length > mtu:
        return walk.drop(DropReason.TOO_BIG, f"M: {ip.total_length} bytes, the MTU is {mtu}")
    refused = check_length(walk, mtu, ip)
    if refused is not None:
        return refused
    data = readdress_quoted(data, packet, SOURCE_AT, ip.destination, row.ip, inner_port)
    changed = readdress(data, packet, DESTINATION_AT, ip.destination, row.ip, inner_port)
    if changed is None:
        return walk.drop(DropReason.MALFORMED, "6: its checksum is cut off")
    packet.destination = row.ip
    if inner_port and packet.protocol in FORWARDED and packet.part is not Part.LATER:
        packet.destination_port = packet.selector = inner_port
    elif inner_port and packet.is_icmp and not packet.is_icmp_error and packet.part is not Part.LATER:
        packet.source_port = packet.destination_port = inner_port
    walk.steps.append(f"6: {format_ip(ip.destination)} is {format_ip(row.ip)} of VNI {row.vni} inside")
    refused = walk.admit(packet, changed, row.vni, local)
    if refused is not None:
        return refused
    header = local.mac + ROUTER_MAC + walk.frame[12:ETHERNET_LENGTH]
    return walk.deliver(local, header + frames.with_ttl(changed, 4, ip.ttl - 1))


def _forwarding(walk: Walk, packet: Packet, data: bytes, vni: int, *, source: bool) -> ForwardingRow | None:
    """Which forwarding the packet, or the one that it quotes as an ICMP error, belongs to: by its source (it leaves) or
    its destination (it comes)."""
    if packet.part is Part.LATER:
        return None
    of: Packet | None = packet
    if packet.is_icmp_error:
        of = read_packet(data[packet.payload + QUOTE_AT :], 4, quoted=True)
        source = not source
    if of is None or of.part is Part.LATER or of.protocol not in FORWARDED:
        return None
    end = (of.source, of.source_port) if source else (of.destination, of.destination_port)
    return walk.tables.forwardings.get(ForwardingKey(vni, end[0], of.protocol, end[1]))
