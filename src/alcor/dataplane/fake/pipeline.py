"""What happens to a packet on a host: the executable model of docs/pipeline.md, step by step. Pure but for the tables
of connections and fragments, which packets change.

Called by the fake driver (which forwards with it), by the answer to "why did this packet not arrive?" and by the
differential tests, which hold the compiled program of the `ebpf` driver against it byte by byte. Read it to learn what
Alcor's data plane does: `from_port` is a packet that a workload sent, `from_overlay` one that came out of the tunnel. A
`Verdict` says what becomes of the packet, and why. Numbers in the step texts are those of docs/pipeline.md.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from alcor.dataplane.base import OUTSIDE
from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake import frames, lb
from alcor.dataplane.fake.frames import (
    ETHERNET_LENGTH,
    IPV4_LENGTH,
    IPV6_LENGTH,
    PROTOCOL_UDP,
    TYPE_ARP,
    TYPE_IPV4,
    TYPE_IPV6,
    UDP_LENGTH,
    VXLAN_G_FLAG,
    VXLAN_I_FLAG,
    VXLAN_LENGTH,
    Ethernet,
    Header,
)
from alcor.dataplane.fake.gateways import to_gateway
from alcor.dataplane.fake.lb import Choice, balance, choose
from alcor.dataplane.fake.misses import check_length, tell, unknown
from alcor.dataplane.fake.nat import from_shared, to_external
from alcor.dataplane.fake.neighbours import from_port_arp, from_port_nd, is_nd
from alcor.dataplane.fake.outside6 import to_external6
from alcor.dataplane.fake.packet import read_packet
from alcor.dataplane.fake.policy import Party
from alcor.dataplane.fake.routing import Outside, find_way, translate
from alcor.dataplane.fake.services import service
from alcor.dataplane.fake.tables import (
    DSCP_MARKED,
    HostConfig,
    LocalFlag,
    LocalRow,
    MacKey,
    PortFlag,
    PortRow,
    RemoteRow,
    Tables,
)
from alcor.dataplane.fake.vip import FROM_OUTSIDE, TO_OUTSIDE, answer_outside, came_in, find_chosen, leave_balanced
from alcor.dataplane.fake.walk import Verdict, VerdictKind, Walk
from alcor.model.addresses import ROUTER_MAC, Ip, format_ip, format_mac, ip_version

OUTER_END = ETHERNET_LENGTH + IPV4_LENGTH + UDP_LENGTH
OUTER_SOURCE = ETHERNET_LENGTH + 12


def from_port(
    tables: Tables, ifindex: int, frame: bytes, now_ns: int = 0, *, held: bool = False, queued: bool = False
) -> Verdict:
    """What becomes of a frame that the workload behind interface `ifindex` sent. `now_ns` is a monotonic clock's, for
    connections that time out; `held`: it was here before, and waited for an address; `queued`: and waited for its turn.
    Never raises."""
    walk = Walk(tables, ifindex, frame, now_ns, held=held)
    verdict = _from_port(walk, ifindex, frame, held=held, queued=queued)
    return tell(walk, verdict) if verdict.kind is VerdictKind.DROP else verdict


def _from_port(walk: Walk, ifindex: int, frame: bytes, *, held: bool, queued: bool) -> Verdict:
    """Steps 1 to 5, and what follows."""
    port = walk.tables.ports.get(ifindex)
    if port is None:
        walk.ifindex = 0
        return walk.drop(DropReason.NO_PORT, f"1: interface {ifindex} is no port")
    if not port.flags & PortFlag.UP:
        return walk.drop(DropReason.PORT_DOWN, "2: the port is administratively down")
    if port.queue_out and not held and not queued:
        return walk.enqueue(ifindex, port.queue_out, frame, received=False)
    header = frames.parse_ethernet(frame)
    if header is None:
        return walk.drop(DropReason.MALFORMED, f"3: {len(frame)} bytes are no Ethernet header")
    walk.count_sent()
    if header.source != port.mac and not port.flags & (PortFlag.OPEN | PortFlag.PAIRS):
        return walk.drop(DropReason.SPOOFED_MAC, f"4: source MAC {format_mac(header.source)} is not the port's")
    walk.steps.append(f"1-4: port of VNI {port.vni}, up, a MAC that it may use")
    if header.ethertype == TYPE_ARP:
        return from_port_arp(walk, port, header)
    if header.ethertype == TYPE_IPV4:
        ip = frames.parse_ipv4(frame[ETHERNET_LENGTH:])
        asked = service(walk, port, header, ip)
        return asked if asked is not None else _ip(walk, port, header, ip)
    if header.ethertype == TYPE_IPV6:
        ip = frames.parse_ipv6(frame[ETHERNET_LENGTH:])
        if ip is not None and is_nd(frame, ip):
            return from_port_nd(walk, port, header)
        asked = service(walk, port, header, ip)
        if asked is not None:
            return asked
        if ip is not None and header.destination[0] & 1:
            return walk.drop(DropReason.MULTICAST, f"7: group destination MAC {format_mac(header.destination)}")
        return _ip(walk, port, header, ip)
    return walk.drop(DropReason.NOT_SUPPORTED, f"5: ethertype {header.ethertype:#06x}")


def to_port(tables: Tables, ifindex: int, frame: bytes) -> Verdict:
    """What becomes of a frame for the port behind `ifindex` that has waited, or that the host's services give to it.
    Never raises."""
    walk = Walk(tables, ifindex, frame, 0)
    port = tables.ports.get(ifindex)
    if port is None:
        walk.ifindex = 0
        return walk.drop(DropReason.NO_PORT, f"1: interface {ifindex} is no port")
    if not port.flags & PortFlag.UP:
        return walk.drop(DropReason.PORT_DOWN, "2: the port is administratively down")
    return walk.hand_in(ifindex, frame)


def _ip(walk: Walk, port: PortRow, ether: Ethernet, ip: Header | None) -> Verdict:
    """Steps 7 to 12."""
    if ip is None:
        return walk.drop(DropReason.MALFORMED, "7: IP header cut short or inconsistent")
    spoofed = walk.spoofed(port, ether.source, ip.source)
    if spoofed is not None:
        return walk.drop(spoofed, f"7: the port may not send from {format_mac(ether.source)} {format_ip(ip.source)}")
    walk.steps.append(f"7: {format_ip(ip.source)} -> {format_ip(ip.destination)}, the source is the port's")
    routed = ether.destination == ROUTER_MAC
    if routed and ip.version == 4 and port.flags & PortFlag.ANSWERS and port.flags & PortFlag.ROUTED:
        answered = answer_outside(walk, port, ip)
        if answered is not None:
            return answered
    found = _routed_target(walk, port, ip) if routed else _wired_target(walk, port, ether, ip)
    if isinstance(found, Outside):
        return to_external(walk, port, ip, found.shared) if ip.version == 4 else to_external6(walk, port, ip)
    if isinstance(found, Verdict):
        return found
    choice: Choice | None = None
    if isinstance(found.row, LocalRow) and found.row.flags & LocalFlag.VIP:
        chosen = _choose(walk, port, ip)
        if isinstance(chosen, Verdict):
            return chosen
        choice, found = chosen
    target, vni, mtu = found
    refused = _permit_sent(walk, port, found, ip.version, choice)
    if refused is not None:
        return refused
    if isinstance(target, LocalRow) and target.flags & LocalFlag.GATEWAY:
        return to_gateway(walk, ip, target.mac)
    refused = check_length(walk, mtu, ip)
    if refused is not None:
        return refused
    frame = walk.frame
    if port.dscp:
        walk.steps.append(f"D: marked with DSCP {port.dscp & ~DSCP_MARKED}")
        head = frame[:ETHERNET_LENGTH]
        frame = head + frames.with_dscp(frame[ETHERNET_LENGTH:], ip.version, port.dscp & ~DSCP_MARKED)
    if routed:
        walk.steps.append(f"10: routed, TTL now {ip.ttl - 1}, to {format_mac(target.mac)}")
        header = target.mac + ROUTER_MAC + frame[12:ETHERNET_LENGTH]
        frame = header + frames.with_ttl(frame[ETHERNET_LENGTH:], ip.version, ip.ttl - 1)
    if choice is not None:
        frame = target.mac + balance(walk.tables.balance, choice, frame, walk.now_ns)[6:]
        if isinstance(target, LocalRow):
            return walk.deliver(target, frame)
    if isinstance(target, LocalRow):
        return walk.deliver_answer(target, frame, vni, ip.version)
    return walk.tunnel(port.dscp, vni, translate(walk.tables, port.vni, port.identity, vni), target, frame)


def _choose(walk: Walk, port: PortRow, ip: Header) -> tuple[Choice, _Target] | Verdict:
    """Step B: who answers for a load balancer's address."""
    tables, data = walk.tables, walk.frame[ETHERNET_LENGTH:]
    choice = choose(tables.balance, tables.policy, data, ip.version, port.vni, walk.ifindex, walk.now_ns)
    if choice == lb.PING:
        return to_gateway(walk, ip, tables.local[EndpointKey(port.vni, ip.destination)].mac)
    found = find_chosen(walk, choice, ip.destination, port.vni)
    if isinstance(found, Verdict):
        return found
    chosen, row = found
    return chosen, _Target(row, port.vni, port.mtu)


class _Target(NamedTuple):
    """Who a packet is for, in which VNI, and how large it may be."""

    row: LocalRow | RemoteRow
    vni: int
    mtu: int


def _wired_target(walk: Walk, port: PortRow, ether: Ethernet, ip: Header) -> _Target | Verdict:
    """Step 8: along the wire, to who has the address and the MAC."""
    if ether.destination[0] & 1:
        return walk.drop(DropReason.MULTICAST, f"8: group destination MAC {format_mac(ether.destination)}")
    target = _find(walk, port.vni, ip.destination)
    if target is None:
        return unknown(walk, EndpointKey(port.vni, ip.destination), DropReason.NO_ENDPOINT, "8")
    if target.mac != ether.destination:
        text = f"8: {format_ip(ip.destination)} is at {format_mac(target.mac)}, not {format_mac(ether.destination)}"
        return walk.drop(DropReason.NO_ENDPOINT, text)
    return _unless_down(walk, _Target(target, port.vni, port.mtu))


def _routed_target(walk: Walk, port: PortRow, ip: Header) -> _Target | Outside | Verdict:
    """Steps 9 and 10: the routers of the network, up to the first rewriting."""
    if not port.flags & PortFlag.ROUTED:
        return walk.drop(DropReason.NOT_ROUTED, "9: sent to the router's MAC, but the network has no router")
    own = EndpointKey(port.vni, ip.destination)
    local = walk.tables.local.get(own)
    if local is not None and local.flags & LocalFlag.GATEWAY:
        return _Target(local, port.vni, port.mtu)
    if ip.ttl <= 1:
        return walk.drop(DropReason.TTL_EXCEEDED, f"10: TTL {ip.ttl} runs out at the router")
    if local is not None and local.flags & LocalFlag.VIP:
        return _Target(local, port.vni, port.mtu)
    sought, mtu = own, port.mtu
    if port.flags & PortFlag.ROUTES:
        way = find_way(walk, port, ip)
        if isinstance(way, Outside | Verdict):
            return way
        sought, mtu = way.sought, min(mtu, way.mtu)
        gateway = walk.tables.local.get(sought)
        if gateway is not None and gateway.flags & LocalFlag.GATEWAY:
            if way.via:
                return walk.drop(DropReason.NO_ENDPOINT, f"R: {format_ip(sought.ip)} is a gateway, not a port")
            return _Target(gateway, sought.vni, mtu)
        if gateway is not None and gateway.flags & LocalFlag.VIP:
            return walk.drop(DropReason.NO_ENDPOINT, f"R: {format_ip(sought.ip)} is a load balancer's, of another VNI")
    target = _find(walk, *sought)
    if target is None:
        return unknown(walk, sought, DropReason.NO_ENDPOINT, "10")
    return _unless_down(walk, _Target(target, sought.vni, mtu))


def _unless_down(walk: Walk, target: _Target) -> _Target | Verdict:
    if isinstance(target.row, LocalRow) and target.row.flags & LocalFlag.DOWN:
        return walk.drop(DropReason.PORT_DOWN, "11: the receiving port is administratively down")
    return target


def _permit_sent(walk: Walk, port: PortRow, found: _Target, version: int, choice: Choice | None) -> Verdict | None:
    """Step P: policy of the sender, then of a receiver on this host. What a load balancer sends on is judged as the
    packet that it will be."""
    target, vni, _ = found
    receiver = target if isinstance(target, LocalRow) and target.identity else None
    if (not port.identity and receiver is None) or (choice is not None and choice.exempt):
        return None
    data = walk.frame[ETHERNET_LENGTH:]
    packet = read_packet(data, version) if choice is None else choice.packet
    if packet is None:
        return walk.drop(DropReason.MALFORMED, "P: headers cut short or inconsistent")
    if port.identity:
        other = translate(walk.tables, vni, target.identity, port.vni)
        party = Party(port.vni, walk.ifindex, port.identity, other, egress=True)
        refused = walk.permit(packet, data, party)
        if refused is not None:
            return refused
    if receiver is not None:
        return walk.admit(packet, data, vni, receiver, translate(walk.tables, port.vni, port.identity, vni))
    return None


def _find(walk: Walk, vni: int, ip: Ip) -> LocalRow | RemoteRow | None:
    """Who has the address: a local port, else one on another host. A gateway is nobody."""
    key = EndpointKey(vni, ip)
    local = walk.tables.local.get(key)
    if local is not None and not local.flags & LocalFlag.GATEWAY:
        return local
    return walk.remote(key)


def from_overlay(tables: Tables, frame: bytes, now_ns: int = 0) -> Verdict:
    """What becomes of a frame that the underlay interface received. Never raises."""
    walk = Walk(tables, 0, frame, now_ns)
    if not _is_ours(tables.config, frame[:OUTER_END]):
        return walk.pass_on("1: not a VXLAN datagram for this host")
    inner_start = OUTER_END + VXLAN_LENGTH
    if len(frame) < inner_start or not frame[OUTER_END] & VXLAN_I_FLAG:
        return walk.drop(DropReason.MALFORMED, "2: VXLAN header cut short or without a VNI")
    vni = int.from_bytes(frame[OUTER_END + 4 : OUTER_END + 7], "big")
    inner = frame[inner_start:]
    ether = frames.parse_ethernet(inner)
    if ether is None:
        return walk.drop(DropReason.MALFORMED, f"2: {len(inner)} inner bytes are no Ethernet header")
    if ether.ethertype not in (TYPE_IPV4, TYPE_IPV6):
        return walk.drop(DropReason.NOT_SUPPORTED, f"2: inner ethertype {ether.ethertype:#06x}")
    version, length = (4, IPV4_LENGTH) if ether.ethertype == TYPE_IPV4 else (6, IPV6_LENGTH)
    if len(inner) < ETHERNET_LENGTH + length or inner[ETHERNET_LENGTH] >> 4 != version:
        return walk.drop(DropReason.MALFORMED, "2: inner IP header cut short or of another version")
    at = ETHERNET_LENGTH + (16 if version == 4 else 24)
    raw = inner[at : at + (4 if version == 4 else 16)]
    destination = frames.mapped(raw) if version == 4 else Ip(raw)
    if vni == OUTSIDE and version == 4:
        walk.frame = inner
        verdict = from_shared(walk, overlay=True)
        return replace(verdict, frame=frame) if verdict.reason is not None else verdict
    mark = frame[OUTER_END + 7] if version == 4 else 0
    if mark == TO_OUTSIDE:
        walk.steps.append(f"1-3: out of the tunnel, VNI {vni}, an answer to what came from outside")
        return leave_balanced(walk, vni, inner)
    local = tables.local.get(EndpointKey(vni, destination))
    if local is None or local.flags & LocalFlag.GATEWAY or local.mac != ether.destination:
        # A route to a port: its MAC alone says who it is for.
        local = tables.macs.get(MacKey(vni, ether.destination), local)
    if local is None:
        return _follow(walk, EndpointKey(vni, destination))
    if local.flags & (LocalFlag.GATEWAY | LocalFlag.VIP):
        return walk.drop(DropReason.NO_ENDPOINT, f"3: nobody in VNI {vni} on this host has {format_ip(destination)}")
    if local.mac != ether.destination:
        text = f"3: {format_ip(destination)} is at {format_mac(local.mac)}, not {format_mac(ether.destination)}"
        return walk.drop(DropReason.NO_ENDPOINT, text)
    if local.flags & LocalFlag.DOWN:
        return walk.drop(DropReason.PORT_DOWN, "3: the receiving port is administratively down")
    walk.steps.append(f"1-4: out of the tunnel, VNI {vni}, for {format_ip(destination)}")
    if local.identity:
        group = int.from_bytes(frame[OUTER_END + 2 : OUTER_END + 4], "big")
        sender = group if frame[OUTER_END] & VXLAN_G_FLAG else 0
        refused = _permit_received(walk, vni, local, sender, inner[ETHERNET_LENGTH:], version)
        if refused is not None:
            return refused
    if mark == FROM_OUTSIDE:
        came_in(walk, local.ifindex, inner, frames.mapped(frame[OUTER_SOURCE : OUTER_SOURCE + 4]))
        return walk.deliver(local, inner)
    return walk.deliver_answer(local, inner, vni, version)


def _follow(walk: Walk, key: EndpointKey) -> Verdict:
    """The tunnel's step 5: a port that left is followed to where it went."""
    row, own = walk.tables.forwards.get(key), walk.tables.config.underlay_ip
    if row is None:
        return walk.drop(DropReason.NO_ENDPOINT, f"3: nobody in VNI {key.vni} on this host has {format_ip(key.ip)}")
    if any(ip_version(end) != 4 for end in (own, row.host_ip)):
        return walk.drop(DropReason.NO_UNDERLAY, f"5: no IPv4 from {format_ip(own)} to {format_ip(row.host_ip)}")
    outer = walk.frame[ETHERNET_LENGTH : ETHERNET_LENGTH + IPV4_LENGTH]
    if outer[8] <= 1:
        return walk.drop(DropReason.TTL_EXCEEDED, "5: the outer TTL runs out: hosts forward to each other")
    head = outer[:8] + bytes((outer[8] - 1, outer[9], 0, 0)) + frames.v4(own) + frames.v4(row.host_ip)
    head = head[:10] + frames.checksum(head).to_bytes(2, "big") + head[12:]
    return walk.forward(row, head + walk.frame[ETHERNET_LENGTH + IPV4_LENGTH :], key)


def _permit_received(walk: Walk, vni: int, local: LocalRow, sender: int, data: bytes, version: int) -> Verdict | None:
    """Step P: policy of the receiver of a packet out of the tunnel."""
    packet = read_packet(data, version)
    if packet is None:
        walk.ifindex = local.ifindex
        return walk.drop(DropReason.MALFORMED, "P: inner headers cut short or inconsistent")
    return walk.admit(packet, data, vni, local, sender)


def _is_ours(config: HostConfig, headers: bytes) -> bool:
    """True when the outer headers are IPv4 (no options, no fragment) and UDP to this host's tunnel end.

    The UDP header need not be whole to tell: its first four bytes are the ports.
    """
    return (
        len(headers) >= ETHERNET_LENGTH + IPV4_LENGTH + 4
        and headers[12:14] == b"\x08\x00"
        and headers[14] == 0x45
        and not int.from_bytes(headers[20:22], "big") & frames.FRAGMENT_MASK
        and headers[23] == PROTOCOL_UDP
        and ip_version(config.underlay_ip) == 4
        and headers[30:34] == frames.v4(config.underlay_ip)
        and int.from_bytes(headers[36:38], "big") == config.vxlan_port
    )
