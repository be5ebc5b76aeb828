"""Addresses outside as protobuf messages, and back. Called by codec.

Decoding trusts nobody: what is malformed is a WireError that names the field.
"""

from __future__ import annotations

from alcor.goalstate.objects import Outside6Goal, SharedGoal
from alcor.model.addresses import Ip, ip_version
from alcor.model.blocks import FIRST_BLOCK, LAST_BLOCK
from alcor.model.nouns import Eip, Forwarding
from alcor.wire import alcor_pb2 as pb
from alcor.wire.fields import WireError, check_id, check_ip
from alcor.wire.groups import check_prefix

MAX_FORWARDINGS = 64
"""Of one port: as many as its description on the host has room for, and more."""
TCP, UDP = 6, 17


def encode_forwarding(message: pb.Port.Forwarding, one: Forwarding) -> None:
    """Fills the message in."""
    encode_eip(message.address, Eip(one.ip, one.inside, one.prefix_length, one.gateway, one.qos_id))
    message.protocol = one.protocol
    message.port = one.port
    message.inside_port = one.inside_port


def decode_forwarding(message: pb.Port.Forwarding, where: str) -> Forwarding:
    """Raises WireError."""
    address = decode_eip(message.address, f"{where}.address")
    if message.protocol not in (TCP, UDP):
        raise WireError(f"{where}.protocol: {message.protocol} is neither TCP nor UDP")
    for name, port in (("port", message.port), ("inside_port", message.inside_port)):
        if not 1 <= port <= 0xFFFF:
            raise WireError(f"{where}.{name}: {port} is not in 1..65535")
    return Forwarding(
        address.ip,
        message.protocol,
        message.port,
        address.inside,
        message.inside_port,
        address.prefix_length,
        address.gateway,
        address.qos_id,
    )


def encode_shared(message: pb.Router.Shared, goal: SharedGoal) -> None:
    """Fills the message in."""
    message.ip = goal.ip
    message.prefix_length = goal.prefix_length
    message.gateway = goal.gateway or b""
    message.answerer = goal.answerer or b""
    message.blocks.extend([block for block, _ in goal.blocks])
    message.holders = b"".join([holder for _, holder in goal.blocks])


def decode_shared(message: pb.Router.Shared, where: str) -> SharedGoal:
    """Raises WireError."""
    blocks, holders = list(message.blocks), message.holders
    if len(holders) != len(blocks) * 16 or sorted(set(blocks)) != blocks:
        raise WireError(f"{where}.blocks: {len(blocks)}, with {len(holders)} bytes of holders: one each, sorted")
    if blocks and not FIRST_BLOCK <= blocks[0] <= blocks[-1] <= LAST_BLOCK:
        raise WireError(f"{where}.blocks: {blocks[0]} to {blocks[-1]} is not in {FIRST_BLOCK}..{LAST_BLOCK}")
    if message.prefix_length > 32:
        raise WireError(f"{where}.prefix_length: {message.prefix_length} is not in 0..32")
    ends = [_ipv4(holders[at : at + 16], f"{where}.holders") for at in range(0, len(holders), 16)]
    return SharedGoal(
        _ipv4(message.ip, f"{where}.ip"),
        message.prefix_length,
        _ipv4(message.gateway, f"{where}.gateway") if message.gateway else None,
        _ipv4(message.answerer, f"{where}.answerer") if message.answerer else None,
        tuple(zip(blocks, ends, strict=True)),
    )


def encode_outside6(message: pb.Router.Outside6, goal: Outside6Goal) -> None:
    """Fills the message in."""
    message.base = goal.cidr.base
    message.prefix_length = goal.cidr.length
    message.gateway = goal.gateway or b""


def decode_outside6(message: pb.Router.Outside6, where: str) -> Outside6Goal:
    """Raises WireError."""
    base = _ipv6(message.base, f"{where}.base")
    cidr = check_prefix(base, message.prefix_length, 6, where)
    return Outside6Goal(cidr, _ipv6(message.gateway, f"{where}.gateway") if message.gateway else None)


def encode_eip(message: pb.Port.Eip, eip: Eip) -> None:
    """Fills the message in."""
    message.ip = eip.ip
    message.inside = eip.inside
    message.prefix_length = eip.prefix_length
    message.gateway = eip.gateway or b""
    message.qos_id = eip.qos_id or b""


def decode_eip(message: pb.Port.Eip, where: str) -> Eip:
    """Raises WireError."""
    if not 0 <= message.prefix_length <= 32:
        raise WireError(f"{where}.prefix_length: {message.prefix_length} is not in 0..32")
    return Eip(
        _ipv4(message.ip, f"{where}.ip"),
        _ipv4(message.inside, f"{where}.inside"),
        message.prefix_length,
        _ipv4(message.gateway, f"{where}.gateway") if message.gateway else None,
        check_id(message.qos_id, f"{where}.qos_id") if message.qos_id else None,
    )


def _ipv4(raw: bytes, where: str) -> Ip:
    ip = check_ip(raw, where)
    if ip_version(ip) != 4:
        raise WireError(f"{where}: not an IPv4 address")
    return ip


def _ipv6(raw: bytes, where: str) -> Ip:
    ip = check_ip(raw, where)
    if ip_version(ip) != 6:
        raise WireError(f"{where}: not an IPv6 address")
    return ip
