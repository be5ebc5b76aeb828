"""Requests taken apart and answers put together, as frames. Pure, and total: garbage is None, never an error."""

from __future__ import annotations

import struct
from typing import NamedTuple

from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, PROTOCOL_UDP, TYPE_IPV4, TYPE_IPV6, UDP_LENGTH, Header
from alcor.model.addresses import BROADCAST_IP, Ip, Mac, ip_version


class Datagram(NamedTuple):
    """A UDP datagram and who sent it to whom."""

    source_mac: Mac
    source: Ip
    destination: Ip
    source_port: int
    destination_port: int
    payload: bytes


def read_header(frame: bytes) -> Header | None:
    """The IP header of a frame; None when there is none."""
    ethernet = frames.parse_ethernet(frame)
    if ethernet is None:
        return None
    if ethernet.ethertype == TYPE_IPV4:
        return frames.parse_ipv4(frame[ETHERNET_LENGTH:])
    return frames.parse_ipv6(frame[ETHERNET_LENGTH:]) if ethernet.ethertype == TYPE_IPV6 else None


def read_datagram(frame: bytes, ip: Header) -> Datagram | None:
    """The UDP datagram behind an IP header; None when it is none, is a fragment, or is cut short. A checksum is not
    looked at: it may not be finished yet, and nothing was between the port and its host."""
    start, end = ETHERNET_LENGTH + ip.header_length, ETHERNET_LENGTH + ip.total_length
    if ip.protocol != PROTOCOL_UDP or ip.fragment or end - start < UDP_LENGTH:
        return None
    source_port, destination_port, length, _ = struct.unpack_from("!HHHH", frame, start)
    if not UDP_LENGTH <= length <= end - start:
        return None
    payload = frame[start + UDP_LENGTH : start + length]
    return Datagram(Mac(frame[6:12]), ip.source, ip.destination, source_port, destination_port, payload)


def write_datagram(told: Datagram, destination_mac: Mac) -> bytes:
    """The datagram as a frame, its checksum done (RFC 768)."""
    version = ip_version(told.destination)
    length = UDP_LENGTH + len(told.payload)
    bare = struct.pack("!HHHH", told.source_port, told.destination_port, length, 0) + told.payload
    if version == 4:
        ends = frames.v4(told.source) + frames.v4(told.destination)
        pseudo = ends + struct.pack("!HH", PROTOCOL_UDP, length)
    else:
        pseudo = told.source + told.destination + struct.pack("!II", length, PROTOCOL_UDP)
    check = frames.checksum(pseudo + bare) or 0xFFFF
    segment = bare[:6] + check.to_bytes(2, "big") + bare[8:]
    if version == 4:
        packet = frames.ipv4(told.source, told.destination, PROTOCOL_UDP, segment)
    else:
        packet = frames.ipv6(told.source, told.destination, PROTOCOL_UDP, segment)
    mac = frames.BROADCAST_MAC if told.destination == BROADCAST_IP else destination_mac
    return frames.ethernet(mac, told.source_mac, TYPE_IPV4 if version == 4 else TYPE_IPV6, packet)
