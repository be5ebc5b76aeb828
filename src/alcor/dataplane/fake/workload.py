"""A workload in software: a container's network stack, as far as proofs need one. Called by the switch. No I/O.

It asks ARP for its next hop, answers ARP and pings, and keeps what it was given. Frames go in and come out as values,
so the switch decides when they travel.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from alcor.dataplane.base import Address, LocalPort
from alcor.dataplane.fake import frames
from alcor.model.addresses import Ip, Mac, format_ip, ip_to_int

MAX_RECEIVED = 1024
"""Frames kept for whoever asks; older ones are forgotten."""
MAX_NEIGHBOURS = 1024
MAX_UNRESOLVED = 64
"""Next hops being asked for at once."""
MAX_WAITING = 16
"""Packets kept per next hop until ARP is answered."""
MAX_ECHO_REPLIES = 4096


class Echo(NamedTuple):
    """An echo reply that arrived."""

    source: Ip
    identifier: int
    sequence: int


class Workload:
    """One workload behind one port. Not thread-safe: the switch holds its lock around every call."""

    def __init__(self, port: LocalPort) -> None:
        self.received: deque[bytes] = deque(maxlen=MAX_RECEIVED)
        self.echoes: deque[Echo] = deque(maxlen=MAX_ECHO_REPLIES)
        self.configure(port)

    def configure(self, port: LocalPort) -> None:
        """Takes the port's MAC and addresses; what was learnt about neighbours is forgotten."""
        self.mac = port.mac
        self.addresses = port.addresses
        self._neighbours: dict[Ip, Mac] = {}
        self._waiting: dict[Ip, deque[bytes]] = {}

    def send(self, destination: Ip, protocol: int, payload: bytes) -> list[bytes]:
        """The frames that an IPv4 packet to `destination` takes now: itself, or an ARP question with it kept waiting.

        Raises ValueError when the workload has no route there.
        """
        source, next_hop = self._route(destination)
        packet = frames.ipv4(source.ip, destination, protocol, payload)
        mac = self._neighbours.get(next_hop)
        if mac is not None:
            return [frames.ethernet(mac, self.mac, frames.TYPE_IPV4, packet)]
        if next_hop not in self._waiting and len(self._waiting) >= MAX_UNRESOLVED:
            self._waiting.pop(next(iter(self._waiting)))
        self._waiting.setdefault(next_hop, deque(maxlen=MAX_WAITING)).append(packet)
        question = frames.arp(frames.ARP_REQUEST, self.mac, source.ip, Mac(b"\0" * 6), next_hop)
        return [frames.ethernet(frames.BROADCAST_MAC, self.mac, frames.TYPE_ARP, question)]

    def receive(self, frame: bytes) -> list[bytes]:
        """Takes a frame; returns what the workload sends because of it."""
        self.received.append(frame)
        header = frames.parse_ethernet(frame)
        if header is None or header.destination not in (self.mac, frames.BROADCAST_MAC):
            return []
        if header.ethertype == frames.TYPE_ARP:
            return self._receive_arp(frame)
        if header.ethertype == frames.TYPE_IPV4:
            return self._receive_ipv4(header, frame[frames.ETHERNET_LENGTH :])
        if header.ethertype == frames.TYPE_IPV6:
            return self._receive_ipv6(header, frame[frames.ETHERNET_LENGTH :])
        return []

    def _route(self, destination: Ip) -> tuple[Address, Ip]:
        """The own address to send from and the next hop: on the link, as its subnet says, or by the first gateway."""
        for address in self.addresses:
            shift = 32 - address.prefix_length
            if ip_to_int(address.ip) >> shift == ip_to_int(destination) >> shift:
                return address, destination
        for address in self.addresses:
            told = (
                ip_to_int(base) >> 32 - length == ip_to_int(destination) >> 32 - length
                for base, length in address.routes
            )
            if address.gateway is not None and any(told):
                return address, address.gateway
        for address in self.addresses:
            if address.gateway is not None:
                return address, address.gateway
        raise ValueError(f"no route to {format_ip(destination)}: the port has no gateway")

    def _receive_arp(self, frame: bytes) -> list[bytes]:
        packet = frames.parse_arp(frame)
        if packet is None:
            return []
        if packet.operation == frames.ARP_REPLY:
            if len(self._neighbours) >= MAX_NEIGHBOURS:
                self._neighbours.pop(next(iter(self._neighbours)))
            self._neighbours[packet.sender_ip] = packet.sender_mac
            waiting = self._waiting.pop(packet.sender_ip, ())
            return [frames.ethernet(packet.sender_mac, self.mac, frames.TYPE_IPV4, one) for one in waiting]
        if packet.operation == frames.ARP_REQUEST and any(packet.target_ip == own.ip for own in self.addresses):
            answer = frames.arp(frames.ARP_REPLY, self.mac, packet.target_ip, packet.sender_mac, packet.sender_ip)
            return [frames.ethernet(packet.sender_mac, self.mac, frames.TYPE_ARP, answer)]
        return []

    def _receive_ipv4(self, header: frames.Ethernet, packet: bytes) -> list[bytes]:
        parsed = frames.parse_ipv4(packet)
        if parsed is None or parsed.protocol != frames.PROTOCOL_ICMP or parsed.fragment:
            return []
        message = packet[parsed.header_length : parsed.total_length]
        if len(message) < frames.ICMP_LENGTH or frames.checksum(message):
            return []
        if all(parsed.destination != own.ip for own in self.addresses):
            return []
        identifier, sequence = int.from_bytes(message[4:6], "big"), int.from_bytes(message[6:8], "big")
        if message[0] == frames.ICMP_ECHO_REPLY:
            self.echoes.append(Echo(parsed.source, identifier, sequence))
            return []
        if message[0] != frames.ICMP_ECHO_REQUEST:
            return []
        # Back the way it came: the frame's sender is the neighbour, or the router that forwarded it.
        answer = frames.icmp_echo(frames.ICMP_ECHO_REPLY, identifier, sequence, message[frames.ICMP_LENGTH :])
        reply = frames.ipv4(parsed.destination, parsed.source, frames.PROTOCOL_ICMP, answer)
        return [frames.ethernet(header.source, self.mac, frames.TYPE_IPV4, reply)]

    def _receive_ipv6(self, header: frames.Ethernet, packet: bytes) -> list[bytes]:
        """A ping is answered, back the way it came."""
        parsed = frames.parse_ipv6(packet)
        if parsed is None or all(parsed.destination != own.ip for own in self.addresses):
            return []
        message = packet[frames.IPV6_LENGTH : parsed.total_length]
        asks = message[:2] == bytes((frames.ICMPV6_ECHO_REQUEST, 0)) and len(message) >= frames.ICMP_LENGTH
        if parsed.protocol != frames.PROTOCOL_ICMPV6 or not asks:
            return []
        answer = bytes((frames.ICMPV6_ECHO_REPLY, 0)) + message[2:]
        told = frames.icmpv6(parsed.destination, parsed.source, answer)
        reply = frames.ipv6(parsed.destination, parsed.source, frames.PROTOCOL_ICMPV6, told)
        return [frames.ethernet(header.source, self.mac, frames.TYPE_IPV6, reply)]
