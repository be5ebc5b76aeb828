"""Ports of a history have QoS policies, and external addresses, whose policies are theirs or inherited. Called by
histories."""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from alcor.model.addresses import parse_ip
from alcor.model.ids import Id
from alcor.model.nouns import Eip, Forwarding, Port


def limited(port: Port, verb: str, address: int, policy_id: Id | None, revision: int) -> Port:
    """The port with that policy: its own ("limit"), or that of an EIP or (an even address) a forwarding that it has."""
    if verb == "limit":
        return replace(port, qos_policy_id=policy_id, revision=revision)
    outer, inner = parse_ip(f"203.0.113.{port.id[13] + 1}"), parse_ip("10.0.0.1")
    eip, forwarding = Eip(outer, inner, 24, None, policy_id), Forwarding(outer, 6, 80, inner, 80, 24, None, policy_id)
    if address % 2:
        return replace(port, eips=(eip,), forwardings=(), revision=revision)
    return replace(port, eips=(), forwardings=(forwarding,), revision=revision)


def policies(ports: Collection[Port]) -> set[Id | None]:
    """Those of the ports, and of their external addresses."""
    found = {port.qos_policy_id for port in ports}
    for port in ports:
        found.update(one.qos_id for one in port.eips)
        found.update(one.qos_id for one in port.forwardings)
    return found
