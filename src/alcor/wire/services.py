"""What a host's services need to know, on the wire: modes of subnets, names and DHCP options. Called by codec."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from alcor.goalstate.objects import NameGoal
from alcor.model.addresses import Ip
from alcor.model.nouns import DhcpOption, Ipv6Mode
from alcor.wire import alcor_pb2 as pb
from alcor.wire.fields import WireError, check_id, check_ip, check_revision, check_text, cut

MAX_NAME_ADDRESSES = 256
MAX_NAMESERVERS = 64
MAX_OPTIONS = 64
_MODES = (None, Ipv6Mode.SLAAC, Ipv6Mode.STATEFUL, Ipv6Mode.STATELESS)
MODE_NUMBERS = {mode: cast("pb.Ipv6Mode", number) for number, mode in enumerate(_MODES)}


def decode_mode(number: int, where: str) -> Ipv6Mode | None:
    """A mode; None for 0. Raises WireError."""
    if not 0 <= number < len(_MODES):
        raise WireError(f"{where}: {number} is not a mode")
    return _MODES[number]


def decode_nameservers(column: bytes, where: str) -> tuple[Ip, ...]:
    """Addresses, 16 bytes each. Raises WireError."""
    found = tuple([check_ip(ip, where) for ip in cut(column, 16, where)])
    if len(found) > MAX_NAMESERVERS:
        raise WireError(f"{where}: more than {MAX_NAMESERVERS}")
    return found


def encode_name(message: pb.Name, goal: NameGoal) -> None:
    """Fills a Name message."""
    message.id = goal.id
    message.revision = goal.revision
    message.name = goal.name
    message.ips = b"".join(goal.ips)


def decode_name(message: pb.Name, where: str) -> NameGoal:
    """The name in a message. Raises WireError."""
    name = check_text(message.name, f"{where}.name")
    if not name or name != name.lower():
        raise WireError(f"{where}.name: '{name}' is no name in lower case")
    ips = cut(message.ips, 16, f"{where}.ips")
    if len(ips) > MAX_NAME_ADDRESSES:
        raise WireError(f"{where}.ips: more than {MAX_NAME_ADDRESSES}")
    return NameGoal(
        check_id(message.id, f"{where}.id"),
        check_revision(message.revision, f"{where}.revision"),
        name,
        tuple([check_ip(ip, f"{where}.ips") for ip in ips]),
    )


def decode_options(messages: Iterable[pb.Port.DhcpOption], where: str) -> tuple[DhcpOption, ...]:
    """A port's DHCP options; how they are encoded is found out when they are used. Raises WireError."""
    found = tuple(
        [
            DhcpOption(one.ip_version, check_text(one.name, f"{where}.name"), check_text(one.value, f"{where}.value"))
            for one in messages
        ]
    )
    if len(found) > MAX_OPTIONS or any(one.version not in (4, 6) for one in found):
        raise WireError(f"{where}: more than {MAX_OPTIONS}, or of neither IPv4 nor IPv6")
    return found
