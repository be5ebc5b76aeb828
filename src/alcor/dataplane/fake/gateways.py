"""A gateway that is asked: step 9 of docs/pipeline.md, executed. Pure. Called by the pipeline model."""

from __future__ import annotations

from alcor.dataplane.drops import DropReason
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ETHERNET_LENGTH, ICMP_LENGTH, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Header
from alcor.dataplane.fake.packet import ECHO_REPLY, ECHO_REQUEST
from alcor.dataplane.fake.walk import Verdict, Walk
from alcor.model.addresses import Mac, format_ip


def to_gateway(walk: Walk, ip: Header, mac: Mac) -> Verdict:
    """Step 9: a gateway, of that MAC, answers pings and nothing else."""
    at = ETHERNET_LENGTH + ip.header_length
    message = walk.frame[at : ETHERNET_LENGTH + ip.total_length]
    protocol = PROTOCOL_ICMP if ip.version == 4 else PROTOCOL_ICMPV6
    asks = message[:2] == bytes((ECHO_REQUEST[ip.version], 0)) and len(message) >= ICMP_LENGTH
    if ip.protocol != protocol or ip.fragment or not asks:
        text = f"9: {format_ip(ip.destination)} is a gateway, which answers only pings"
        return walk.drop(DropReason.GATEWAY, text)
    return walk.reply(_echo_reply(walk.frame, ip, mac), f"9: gateway {format_ip(ip.destination)} answers a ping")


def _echo_reply(frame: bytes, ip: Header, mac: Mac) -> bytes:
    """The echo request turned into its reply in place: addresses swapped, TTL 64, another type. The rest stays."""
    at, end = (12, 20) if ip.version == 4 else (8, 40)
    half = (end - at) // 2
    header = frames.with_ttl(frame[ETHERNET_LENGTH : ETHERNET_LENGTH + ip.header_length], ip.version, 64)
    # Swapping the two addresses leaves checksums as they are: a sum does not know order.
    header = header[:at] + header[at + half : end] + header[at : at + half] + header[end:]
    rest = frame[ETHERNET_LENGTH + ip.header_length :]
    old, reply = int.from_bytes(rest[2:4], "big"), ECHO_REPLY[ip.version]
    new = frames.update_checksum(old, ECHO_REQUEST[ip.version] << 8, reply << 8)
    message = bytes((reply, 0)) + new.to_bytes(2, "big") + rest[4:]
    return frame[6:12] + mac + frame[12:ETHERNET_LENGTH] + header + message
