"""Security groups as protobuf messages, and back: identities, groups with their rules, address pairs.

Called by codec, which has the messages around them. Decoding trusts nobody: what is malformed is a WireError.
"""

from __future__ import annotations

from alcor.goalstate.objects import GroupGoal, IdentityGoal, RuleGoal, identity_id
from alcor.model.addresses import Prefix, ip_to_int, ip_version
from alcor.model.ids import Id
from alcor.model.nouns import AddressPair
from alcor.wire import alcor_pb2 as pb
from alcor.wire.fields import WireError, check_id, check_ip, check_mac, check_revision

MAX_IDENTITY = 0xFFFF
"""VXLAN-GBP's group policy id has 16 bits."""
MAX_GROUPS = 1024
"""Of one identity."""
MAX_RULES = 100_000
"""Of one group."""
MAX_PAIRS = 1024
"""Of one port."""
MAX_SELECTOR, MAX_PROTOCOL = 0xFFFF, 0xFF


def check_identity(value: int, where: str) -> int:
    """0..65535. Raises WireError."""
    if value > MAX_IDENTITY:
        raise WireError(f"{where}: {value} is not in 0..{MAX_IDENTITY}")
    return value


def check_prefix(base: bytes, length: int, version: int, where: str) -> Prefix:
    """A prefix with its host bits clear. Raises WireError."""
    address = check_ip(base, f"{where}.base")
    if version not in (4, 6) or (version == 4) != (ip_version(address) == 4):
        raise WireError(f"{where}.ip_version: {version} is not the version of the base address")
    bits = 32 if version == 4 else 128
    if length > bits or ip_to_int(address) & ((1 << (bits - length)) - 1):
        raise WireError(f"{where}.prefix_length: {length} is not a prefix length of the base address")
    return Prefix(address, length, version)


def encode_identity(message: pb.Identity, goal: IdentityGoal) -> None:
    """Fills the message."""
    message.revision = goal.revision
    message.number = goal.number
    message.groups = b"".join(goal.groups)


def decode_identity(message: pb.Identity, where: str) -> IdentityGoal:
    """Raises WireError."""
    if not 1 <= message.number <= MAX_IDENTITY:
        raise WireError(f"{where}.number: {message.number} is not in 1..{MAX_IDENTITY}")
    raw = message.groups
    if len(raw) % 16 or len(raw) > 16 * MAX_GROUPS:
        raise WireError(f"{where}.groups: {len(raw)} bytes are not at most {MAX_GROUPS} ids of 16")
    groups = tuple([Id(raw[at : at + 16]) for at in range(0, len(raw), 16)])
    if list(groups) != sorted(set(groups)):
        raise WireError(f"{where}.groups: not sorted, or the same twice")
    return IdentityGoal(identity_id(message.number), check_revision(message.revision, f"{where}.revision"), groups)


def encode_group(message: pb.Group, goal: GroupGoal) -> None:
    """Fills the message."""
    message.id = goal.id
    message.revision = goal.revision
    for rule in goal.rules:
        one = message.rules.add(egress=rule.egress, ip_version=rule.version, first=rule.first, last=rule.last)
        if rule.protocol is not None:
            one.protocol = rule.protocol
        if rule.prefix is not None:
            one.base, one.prefix_length = rule.prefix.base, rule.prefix.length
        if rule.group is not None:
            one.group = rule.group


def decode_group(message: pb.Group, where: str) -> GroupGoal:
    """Raises WireError."""
    if len(message.rules) > MAX_RULES:
        raise WireError(f"{where}.rules: {len(message.rules)}, at most {MAX_RULES} of a group")
    return GroupGoal(
        check_id(message.id, f"{where}.id"),
        check_revision(message.revision, f"{where}.revision"),
        tuple([_decode_rule(rule, f"{where}.rules") for rule in message.rules]),
    )


def _decode_rule(message: pb.Rule, where: str) -> RuleGoal:
    if message.ip_version not in (4, 6):
        raise WireError(f"{where}.ip_version: {message.ip_version} is neither 4 nor 6")
    if message.protocol > MAX_PROTOCOL:
        raise WireError(f"{where}.protocol: {message.protocol} is not in 0..{MAX_PROTOCOL}")
    if not message.first <= message.last <= MAX_SELECTOR:
        raise WireError(f"{where}.first: {message.first} to {message.last} is no range of 0..{MAX_SELECTOR}")
    if not message.HasField("protocol") and (message.first, message.last) != (0, MAX_SELECTOR):
        raise WireError(f"{where}.first: ports of any protocol")
    if message.base and message.group:
        raise WireError(f"{where}.group: a prefix and a group")
    return RuleGoal(
        message.egress,
        message.ip_version,
        message.protocol if message.HasField("protocol") else None,
        message.first,
        message.last,
        check_prefix(message.base, message.prefix_length, message.ip_version, where) if message.base else None,
        check_id(message.group, f"{where}.group") if message.group else None,
    )


def encode_pair(message: pb.Port.Pair, pair: AddressPair) -> None:
    """Fills the message."""
    message.base = pair.prefix.base
    message.prefix_length = pair.prefix.length
    message.ip_version = pair.prefix.version
    message.mac = pair.mac


def decode_pair(message: pb.Port.Pair, where: str) -> AddressPair:
    """Raises WireError."""
    prefix = check_prefix(message.base, message.prefix_length, message.ip_version, where)
    return AddressPair(prefix, check_mac(message.mac, f"{where}.mac"))
