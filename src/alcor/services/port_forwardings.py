"""Port forwardings of floating IPs: create, change, delete. Pure: (indexes, ports named, command, stamp) -> outcome.

Called by services.dispatch. Words and messages are Neutron's. What they come to on a host is the `forwardings` of the
port that they lead to. All forwardings of a floating IP lead to one port: its host alone answers for the address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import UNSET
from msgspec.structs import replace

from alcor.model.addresses import Ip, format_ip, ip_version
from alcor.model.ids import Id, format_id
from alcor.model.nouns import FloatingIp, Forwarding, Port, PortForwarding
from alcor.services.commands import (
    CreatePortForwardings,
    DeletePortForwarding,
    UpdatePortForwarding,
)
from alcor.services.errors import (
    BadRequest,
    ExternalGatewayForFloatingIPNotFound,
    OverQuota,
    PortForwardingNotFound,
    PortHasBindingFloatingIP,
    PortNotFound,
)
from alcor.services.floating_ips import find_floating_ip, with_eips
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.qos import Bindings
from alcor.services.revisions import check_if_match
from alcor.store.base import Changes

MAX_OF_PORT = 8
"""What a port's description on its host has room for."""
NAMES: dict[int, Literal["tcp", "udp"]] = {6: "tcp", 17: "udp"}


def create_port_forwardings(
    indexes: Indexes, ports: Mapping[Id, Port], command: CreatePortForwardings, stamp: Stamp
) -> Outcome:
    """Makes them, all or none."""
    fip = _free(indexes, command.floating_ip_id)
    known = list(_of(indexes, fip.id))
    made = []
    for identifier, spec in zip(stamp.ids, command.specs, strict=True):
        port = ports.get(spec.port_id)
        if port is None:
            raise PortNotFound(f"Port {format_id(spec.port_id)} could not be found.")
        if port.id in indexes.balancing.vip_ports:
            raise _bad(f"Port {format_id(port.id)} has a load balancer's address: give it a floating IP of its own")
        one = PortForwarding(
            id=identifier,
            floating_ip_id=fip.id,
            project_id=fip.project_id,
            description=spec.description,
            protocol=spec.protocol,
            external_port=spec.external_port,
            port_id=port.id,
            fixed_ip=_fixed_ip(port, spec.fixed_ip),
            internal_port=spec.internal_port,
            created_at=stamp.now,
            updated_at=stamp.now,
            revision=stamp.revision,
        )
        _check_alone(known, one)
        known.append(one)
        made.append(one)
    changes = Changes(port_forwardings=list(made))
    _apply(indexes, ports, fip, known, stamp, changes, made[0].port_id)
    return Outcome(tuple(made), changes)


def update_port_forwarding(
    indexes: Indexes, ports: Mapping[Id, Port], command: UpdatePortForwarding, stamp: Stamp
) -> Outcome:
    """Changes what the command sets; the port that it leads to stays. Nothing different: nothing is written."""
    before = find_port_forwarding(indexes, command.floating_ip_id, command.id)
    check_if_match(before, command.if_match)
    fields = ("description", "protocol", "external_port", "internal_port")
    given = {name: getattr(command, name) for name in fields if getattr(command, name) is not UNSET}
    if command.fixed_ip is not UNSET:
        given["fixed_ip"] = _fixed_ip(ports[before.port_id], command.fixed_ip)
    after = replace(before, **given)
    if after == before:
        return Outcome(before, Changes())
    after = replace(after, updated_at=stamp.now, revision=stamp.revision)
    others = [one for one in _of(indexes, before.floating_ip_id) if one.id != before.id]
    _check_alone(others, after)
    changes = Changes(port_forwardings=[after])
    _apply(indexes, ports, indexes.floating_ips[before.floating_ip_id], [*others, after], stamp, changes, after.port_id)
    return Outcome(after, changes)


def delete_port_forwarding(
    indexes: Indexes, ports: Mapping[Id, Port], command: DeletePortForwarding, stamp: Stamp
) -> Outcome:
    """Takes it away; its floating IP stays."""
    gone = find_port_forwarding(indexes, command.floating_ip_id, command.id)
    check_if_match(gone, command.if_match)
    others = [one for one in _of(indexes, gone.floating_ip_id) if one.id != gone.id]
    changes = Changes(deleted_port_forwardings=[gone])
    _apply(indexes, ports, indexes.floating_ips[gone.floating_ip_id], others, stamp, changes, gone.port_id)
    return Outcome(None, changes)


def find_port_forwarding(indexes: Indexes, floating_ip_id: Id, identifier: Id) -> PortForwarding:
    """Of that floating IP. Raises FloatingIPNotFound, PortForwardingNotFound."""
    find_floating_ip(indexes, floating_ip_id)
    found = indexes.port_forwardings.get(identifier)
    if found is None or found.floating_ip_id != floating_ip_id:
        raise PortForwardingNotFound(f"Port Forwarding {format_id(identifier)} could not be found.")
    return found


def rows_of(indexes: Indexes, floating_ip_id: Id) -> tuple[Id, ...]:
    """The floating IP, and the port that its forwardings lead to: what a command about them reads."""
    return (floating_ip_id, *sorted({one.port_id for one in _of(indexes, floating_ip_id)}))


def lost(indexes: Indexes, port: Port, kept: set[Ip]) -> list[PortForwarding]:
    """Those that lead to addresses which the port does not keep."""
    found = (indexes.port_forwardings[one] for one in sorted(indexes.forwardings_of.get(port.id, ())))
    return [one for one in found if one.fixed_ip not in kept]


def _of(indexes: Indexes, floating_ip_id: Id) -> list[PortForwarding]:
    return [indexes.port_forwardings[one] for one in sorted(indexes.forwardings_by.get(floating_ip_id, ()))]


def _free(indexes: Indexes, floating_ip_id: Id) -> FloatingIp:
    fip = find_floating_ip(indexes, floating_ip_id)
    if fip.port_id is not None:
        raise _bad(f"Floating IP {format_id(fip.id)} stands for port {format_id(fip.port_id)}: take it off first")
    return fip


def _fixed_ip(port: Port, wanted: Ip | None) -> Ip:
    found = [fixed.ip for fixed in port.fixed_ips if ip_version(fixed.ip) == 4]
    if wanted is None and len(found) != 1:
        raise _bad(f"Port {format_id(port.id)} has {len(found)} IPv4 addresses: internal_ip_address must say which")
    if wanted is not None and wanted not in found:
        raise _bad(f"Port {format_id(port.id)} does not have fixed ip {format_ip(wanted)}")
    return found[0] if wanted is None else wanted


def _check_alone(others: list[PortForwarding], one: PortForwarding) -> None:
    for other in others:
        if other.port_id != one.port_id:
            raise _bad(
                f"all forwardings of a floating IP lead to one port, and there is one to {format_id(other.port_id)}"
            )
        outer = (other.protocol, other.external_port) == (one.protocol, one.external_port)
        inner = (other.protocol, other.fixed_ip, other.internal_port)
        if outer or inner == (one.protocol, one.fixed_ip, one.internal_port):
            raise _bad(
                "A duplicate port forwarding entry with same attributes already exists, conflicting values are "
                f"{{'protocol': '{NAMES[one.protocol]}', 'external_port': {one.external_port}, 'internal_port': "
                f"{one.internal_port}}}"
            )


def _apply(
    indexes: Indexes,
    ports: Mapping[Id, Port],
    fip: FloatingIp,
    now: list[PortForwarding],
    stamp: Stamp,
    changes: Changes,
    port_id: Id,
) -> None:
    """The port that they lead to (or led), and the floating IP, as these forwardings have them."""
    before = ports[port_id]
    subnet = indexes.subnets[fip.subnet_id]
    own = [
        Forwarding(
            *(fip.ip, one.protocol, one.external_port, one.fixed_ip, one.internal_port),
            *(subnet.wire_length, subnet.gateway, fip.qos_id),
        )
        for one in now
    ]
    others = [one for one in before.forwardings if one.ip != fip.ip]
    if len(own) + len(others) > MAX_OF_PORT:
        raise OverQuota(f"Quota exceeded for resources: ['port_forwarding']: a port has at most {MAX_OF_PORT}.")
    taken = {(one.protocol, one.inside, one.inside_port) for one in others}
    for one in own:
        if (one.protocol, one.inside, one.inside_port) in taken:
            raise _bad(
                f"port {one.inside_port} of {format_ip(one.inside)} is forwarded to by another floating IP already"
            )
        if any(eip.inside == one.inside for eip in before.eips):
            raise PortHasBindingFloatingIP(
                f"Cannot create port forwarding to floating IP {format_ip(fip.ip)} ({format_id(fip.id)}) with port "
                f"{format_id(before.id)} using fixed IP {format_ip(one.inside)}, as that port already has a binding "
                "floating IP."
            )
    after = with_eips(before, before.eips, stamp, [*others, *own])
    if after != before:
        changes.changed_ports.append((before, after))
        Bindings(indexes, stamp, changes).bind_ports([after])
    router = _router(indexes, fip, before, now)
    if router != fip.router_id:
        changes.floating_ips.append(replace(fip, router_id=router, updated_at=stamp.now, revision=stamp.revision))


def _router(indexes: Indexes, fip: FloatingIp, port: Port, now: list[PortForwarding]) -> Id | None:
    """The router by which they are reached; None when there are none."""
    found = None
    for one in now:
        subnet_id = next(fixed.subnet_id for fixed in port.fixed_ips if fixed.ip == one.fixed_ip)
        found = indexes.router_between(subnet_id, fip.network_id)
        if found is None:
            raise ExternalGatewayForFloatingIPNotFound(
                f"External network {format_id(fip.network_id)} is not reachable from subnet {format_id(subnet_id)}.  "
                f"Therefore, cannot associate Port {format_id(port.id)} with a Floating IP."
            )
    return found


def _bad(reason: str) -> BadRequest:
    return BadRequest(f"Bad port_forwarding request: {reason}.")
