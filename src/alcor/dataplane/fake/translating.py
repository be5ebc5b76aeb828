"""Other addresses in IPv4 packets, and the way out of the external device: X2 and X3 of docs/pipeline.md, executed.
Pure. Called by the pipeline model: nat.py, outside6.py and vip.py.
"""

from __future__ import annotations

from alcor.dataplane.base import OUTSIDE
from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import IPV4_LENGTH, Header
from alcor.dataplane.fake.misses import check_length
from alcor.dataplane.fake.packet import Packet, Part
from alcor.dataplane.fake.policy import Party
from alcor.dataplane.fake.tables import DSCP_MARKED, EipRow, ExternalDevice, PortRow, Tables
from alcor.dataplane.fake.walk import Verdict, Walk
from alcor.model.addresses import ROUTER_MAC, Ip, format_ip, ip_version

CHECKSUM_AT = {frames.PROTOCOL_TCP: 16, frames.PROTOCOL_UDP: 6, 33: 6, 136: 6}
"""Where in its header TCP, UDP, DCCP and UDP-Lite have the checksum that covers the addresses too."""
SOURCE_AT, DESTINATION_AT, QUOTE_AT = 12, 16, 8


def next_hop(row: EipRow, destination: Ip) -> Ip | None:
    """Whom a packet is sent to whose source is to be the row's external address; None: there is no gateway there."""
    on_link = not (_number(destination) ^ _number(row.ip)) & row.mask
    found = destination if on_link else row.gateway
    return found if found is not None and _number(found) else None


def answers(tables: Tables, ip: Ip) -> bool:
    """This host answers for the address outside."""
    shared = tables.sharing.shared.get(ip)
    return EndpointKey(OUTSIDE, ip) in tables.eips or (
        shared is not None and shared.answerer == tables.config.underlay_ip
    )


def leave(walk: Walk, device: ExternalDevice, destination: Ip, hop: Ip, frame: bytes, queue: int = 0) -> Verdict:
    """Step X3, after step Q when there is a queue: what waits carries its next hop in its Ethernet header."""
    if queue:
        return walk.enqueue(device.ifindex, queue, frame[:6] + hop[12:] + frame[10:], received=False, outside=True)
    if answers(walk.tables, destination):
        turned = device.mac + ROUTER_MAC + frame[12:]
        return walk.turn(device.ifindex, turned, f"X3: {format_ip(destination)} is on this host")
    return walk.leave(device.ifindex, hop, frame)


def may_leave(walk: Walk, port: PortRow, packet: Packet | None, ip: Header, data: bytes) -> bytes | Verdict:
    """Steps P, M and D, of what a port sends to the outside: the packet with its port's mark, or why it stays."""
    version = ip_version(ip.source)
    if port.identity:
        if packet is None:
            return walk.drop(DropReason.MALFORMED, "P: headers cut short or inconsistent")
        refused = walk.permit(packet, data, Party(port.vni, walk.ifindex, port.identity, 0, egress=True))
        if refused is not None:
            return refused
    refused = check_length(walk, port.mtu, ip)
    if refused is not None:
        return refused
    return frames.with_dscp(data, version, port.dscp & ~DSCP_MARKED) if port.dscp else data


def readdress(data: bytes, packet: Packet, at: int, before: Ip, after: Ip, port: int) -> bytes | None:
    """The packet with another source or destination (and port, unless it is 0), its checksums mended; None when the
    transport's is cut off."""
    check = packet.payload + CHECKSUM_AT.get(packet.protocol, 0)
    if packet.part is not Part.LATER and packet.protocol in CHECKSUM_AT:
        if len(data) < check + 2:
            return None
        value = int.from_bytes(data[check : check + 2], "big")
        udp = packet.protocol == frames.PROTOCOL_UDP
        value = _covered(value, _mended(value, before, after), udp=udp)
        if port:
            place = packet.payload + (0 if at == SOURCE_AT else 2)
            old = int.from_bytes(data[place : place + 2], "big")
            value = _covered(value, frames.update_checksum(value, old, port), udp=udp)
            data = data[:place] + port.to_bytes(2, "big") + data[place + 2 :]
        data = data[:check] + value.to_bytes(2, "big") + data[check + 2 :]
    elif port and packet.is_icmp and not packet.is_icmp_error and packet.part is not Part.LATER:
        data = _identified(data, packet.payload, port)
    return _header(data, 0, at, before, after)


def _identified(data: bytes, start: int, identifier: int) -> bytes:
    """Another identifier in the ICMP echo that begins at `start`."""
    check, old = (int.from_bytes(data[at : at + 2], "big") for at in (start + 2, start + 4))
    check = frames.update_checksum(check, old, identifier)
    changed = check.to_bytes(2, "big") + identifier.to_bytes(2, "big")
    return data[: start + 2] + changed + data[start + 6 :]


def _covered(old: int, new: int, *, udp: bool) -> int:
    """UDP: 0 says that there is no checksum (RFC 768); it stays, and never comes to be."""
    if udp and not old:
        return old
    return 0xFFFF if udp and not new else new


def readdress_quoted(data: bytes, packet: Packet, at: int, before: Ip, after: Ip, port: int) -> bytes:
    """The packet that an ICMP error quotes went the other way: the address in it becomes the same as outside of it, and
    so does the port unless it is 0. The quoted header's own checksum takes the change of address up, so the sum over
    the message stays as it is; that of the port is mended in it."""
    start = packet.payload + QUOTE_AT
    if not packet.is_icmp_error or len(data) < start + IPV4_LENGTH or data[start + at : start + at + 4] != before[12:]:
        return data
    data = _header(data, start, at, before, after)
    if not port:
        return data
    if data[start + 9] == frames.PROTOCOL_ICMP:
        return _identified(data, start + (data[start] & 0x0F) * 4, port)
    place, check = start + (data[start] & 0x0F) * 4 + (0 if at == SOURCE_AT else 2), packet.payload + 2
    old, sum_ = (int.from_bytes(data[one : one + 2], "big") for one in (place, check))
    data = data[:place] + port.to_bytes(2, "big") + data[place + 2 :]
    return data[:check] + frames.update_checksum(sum_, old, port).to_bytes(2, "big") + data[check + 2 :]


def _header(data: bytes, start: int, at: int, before: Ip, after: Ip) -> bytes:
    """Another address in the IPv4 header that begins at `start`."""
    check = _mended(int.from_bytes(data[start + 10 : start + 12], "big"), before, after)
    data = data[: start + 10] + check.to_bytes(2, "big") + data[start + 12 :]
    return data[: start + at] + frames.v4(after) + data[start + at + 4 :]


def _mended(checksum: int, before: Ip, after: Ip) -> int:
    """The checksum after four bytes changed (RFC 1624, equation 3)."""
    for place in (12, 14):
        old, new = (int.from_bytes(ip[place : place + 2], "big") for ip in (before, after))
        checksum = frames.update_checksum(checksum, old, new)
    return checksum


def _number(ip: Ip) -> int:
    return int.from_bytes(ip[12:], "big")
