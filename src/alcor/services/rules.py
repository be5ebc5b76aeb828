"""What a security group rule may say. Pure.

Called by security_groups. The checks and their messages are Neutron's.
"""

from __future__ import annotations

from alcor.services.commands import SecurityGroupRuleSpec
from alcor.services.errors import (
    SecurityGroupEthertypeConflictWithProtocol,
    SecurityGroupInvalidIcmpValue,
    SecurityGroupInvalidPortRange,
    SecurityGroupInvalidPortValue,
    SecurityGroupInvalidProtocolForPort,
    SecurityGroupMissingIcmpType,
    SecurityGroupProtocolRequiredWithPorts,
    SecurityGroupRemoteGroupAndRemoteIpPrefix,
    SecurityGroupRuleInvalidProtocol,
    SecurityGroupRuleParameterConflict,
)

PROTOCOLS = {
    "hopopt": 0,
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "egp": 8,
    "udp": 17,
    "dccp": 33,
    "ipv6-encap": 41,
    "ipv6-route": 43,
    "ipv6-frag": 44,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "icmpv6": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ospf": 89,
    "pgm": 113,
    "vrrp": 112,
    "sctp": 132,
    "udplite": 136,
}
"""The names that Neutron knows."""
ICMP, ICMPV6 = 1, 58
PORTED = frozenset((6, 17, 33, 132, 136))
ONLY_IPV6 = frozenset((41, 43, 44, 58, 59, 60))
MAX_PORT, MAX_PROTOCOL, MAX_ICMP = 65535, 255, 255


def protocol_number(text: str, version: int) -> int:
    """The number of a protocol's name or number; `icmp` of IPv6 is ICMPv6. Raises SecurityGroupRuleInvalidProtocol."""
    name = text.lower()
    if name == "icmp" and version == 6:
        return ICMPV6
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if name.isascii() and name.isdigit() and int(name) <= MAX_PROTOCOL:
        number = int(name)
        return ICMPV6 if number == ICMP and version == 6 else number
    raise SecurityGroupRuleInvalidProtocol(
        f"Security group rule protocol {text} not supported. Only protocol values {sorted(PROTOCOLS)} and integer "
        f"representations [0 to {MAX_PROTOCOL}] are supported."
    )


def check_rule(spec: SecurityGroupRuleSpec) -> None:
    """Raises what is wrong with the rule."""
    if spec.remote_group is not None and spec.remote_prefix is not None:
        raise SecurityGroupRemoteGroupAndRemoteIpPrefix("Only remote_ip_prefix or remote_group_id may be provided.")
    if spec.remote_prefix is not None and spec.remote_prefix.version != spec.version:
        raise SecurityGroupRuleParameterConflict(
            f"Conflicting value ethertype IPv{spec.version} for CIDR {spec.remote_prefix}"
        )
    if spec.protocol in ONLY_IPV6 and spec.version == 4:
        raise SecurityGroupEthertypeConflictWithProtocol(f"Invalid ethertype IPv4 for protocol {spec.protocol_name}.")
    if spec.port_min is None and spec.port_max is None:
        return
    if spec.protocol is None:
        raise SecurityGroupProtocolRequiredWithPorts("Must also specify protocol if port range is given.")
    if spec.protocol in (ICMP, ICMPV6):
        _check_icmp(spec)
    elif spec.protocol in PORTED:
        _check_ports(spec)
    else:
        raise SecurityGroupInvalidProtocolForPort(
            f"Invalid protocol {spec.protocol_name} for port range, only supported for "
            "['tcp', 'udp', 'sctp', 'dccp', 'udplite']."
        )


def _check_icmp(spec: SecurityGroupRuleSpec) -> None:
    for field, value in (("port_range_min", spec.port_min), ("port_range_max", spec.port_max)):
        if value is not None and not 0 <= value <= MAX_ICMP:
            raise SecurityGroupInvalidIcmpValue(
                f"Invalid value for ICMP {'type' if field.endswith('min') else 'code'} ({field}) {value}. "
                f"It must be 0 to {MAX_ICMP}."
            )
    if spec.port_min is None:
        raise SecurityGroupMissingIcmpType(
            f"ICMP code (port-range-max) {spec.port_max} is provided but ICMP type (port-range-min) is missing."
        )


def _check_ports(spec: SecurityGroupRuleSpec) -> None:
    for value in (spec.port_min, spec.port_max):
        if value is not None and not 1 <= value <= MAX_PORT:
            raise SecurityGroupInvalidPortValue(f"Invalid value for port {value}")
    if spec.port_min is None or spec.port_max is None or spec.port_min > spec.port_max:
        raise SecurityGroupInvalidPortRange("For TCP/UDP protocols, port_range_min must be <= port_range_max")
