"""Ports: create in bulk, change, delete in bulk. Pure: (indexes, ports named, command, stamp) -> outcome.

Called by services.dispatch. Ports are not in the indexes; the commit loop hands over the rows that a command names.
Status follows three rules: an unbound port is DOWN; a bound one is BUILD from its creation, and again whenever a change
is committed that its host must realise; only the host's report makes it anything else (services.status). A change of
names and other words keeps the status: the revision grows, the host is told, and answers at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from alcor.model.addresses import Ip, ip_to_int
from alcor.model.allocation import Allocation, Allocator, mac_from_int
from alcor.model.ids import Id, format_id
from alcor.model.nouns import AddressPair, DhcpOption, FixedIp, Network, Port, PortKind, PortStatus
from alcor.services import claims, floating_ips, gateways, port_forwardings
from alcor.services.addressing import (
    NetworkDemand,
    Want,
    automatic_subnets,
    draw_macs,
    gateway_error,
    resolve,
    settle,
    supply,
)
from alcor.services.commands import CreatePorts, DeletePorts, FixedIpSpec, PortSpec, UpdatePort
from alcor.services.errors import (
    InvalidInput,
    NodeDrained,
    PortBound,
    PortNotFound,
    PortSecurityPortHasSecurityGroup,
    ServicePortInUse,
)
from alcor.services.floating_ips import adrift, orphaned, with_port
from alcor.services.identities import TRUSTED_OWNER, Memberships, address_pairs, check_port_security
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.networks import find_network
from alcor.services.qos import Bindings
from alcor.services.revisions import changed_fields, check_if_match
from alcor.store.base import Changes

COMPUTE_OWNER = "compute:"
MAX_OPTIONS, MAX_OPTION_BYTES = 32, 600
"""DHCP options of one port and what they may take of a datagram that every client receives."""
MAX_INTERFACE = 15
"""Bytes of an interface name (Linux IFNAMSIZ less the final zero)."""

_PLAIN_FIELDS = (
    "name",
    "description",
    "mac",
    "host",
    "device_id",
    "device_owner",
    "admin_state_up",
    "kind",
    "netns",
    "interface",
    "fast_path",
    "dns_name",
    "qos_policy_id",
)
_WIRED_FIELDS = frozenset(
    (
        *("mac", "fixed_ips", "host", "admin_state_up", "kind", "netns", "interface"),
        *("identity", "port_security_enabled", "address_pairs", "dhcp_options", "qos_policy_id", "eips", "forwardings"),
    )
)
"""What a host must realise: a change of one of these makes a bound port BUILD again."""
_OUTSIDE_OWNERS = frozenset((floating_ips.OWNER, gateways.OWNER))
"""Of ports of external networks that belong to another resource."""
_ROUTERS_OWN = _WIRED_FIELDS | {"device_id", "device_owner"}
"""What of a router's port only the router changes."""


_VIP_FIELDS = frozenset(("mac", "fixed_ips", "host"))
"""What a load balancer's port keeps."""


def create_ports(indexes: Indexes, command: CreatePorts, stamp: Stamp) -> Outcome:
    """Makes the ports, all or none."""
    demands: dict[Id, NetworkDemand] = {}
    wanted: list[list[Want] | None] = []
    hosts: set[str] = set()
    for spec in command.specs:
        demand = demands.get(spec.network_id)
        if demand is None:
            demand = demands[spec.network_id] = NetworkDemand(find_network(indexes, spec.network_id))
        if spec.mac is None:
            demand.mac_count += 1
        else:
            demand.take_mac(spec.mac)
        if spec.fixed_ips is None:
            demand.anywhere += 1
            wanted.append(None)
        else:
            wanted.append(resolve(indexes, demand.network, spec.fixed_ips, bound=bool(spec.host)))
        if spec.kind is not None or spec.interface or spec.netns:
            check_attachment(_kind(spec), spec.netns, spec.interface)
        hosts.add(spec.host)
        _check_place(spec, demand.network)
    check_hosts(indexes, hosts)
    settled = _settle(indexes, command.specs, demands, wanted)
    allocations: list[tuple[Allocator, Allocation]] = []
    supplies = {}
    for network_id, demand in demands.items():
        supplies[network_id], planned = supply(indexes, demand)
        allocations += planned
    revision, now, changes = stamp.revision, stamp.now, Changes()
    memberships = Memberships(indexes, stamp, changes)
    ports = changes.new_ports
    for identifier, spec, wants in zip(stamp.ids, command.specs, settled, strict=True):
        source = supplies[spec.network_id]
        secured, groups, identity = _security(memberships, spec)
        address = source.mac() if spec.mac is None else spec.mac
        ports.append(
            Port(
                id=identifier,
                network_id=spec.network_id,
                project_id=spec.project_id,
                name=spec.name,
                description=spec.description,
                mac=address,
                fixed_ips=(source.default_addresses() if spec.fixed_ips is None else ()) + source.addresses(wants),
                host=spec.host,
                device_id=spec.device_id,
                device_owner=spec.device_owner,
                admin_state_up=spec.admin_state_up,
                kind=_kind(spec),
                netns=spec.netns,
                interface=spec.interface,
                created_at=now,
                updated_at=now,
                revision=revision,
                status=PortStatus.BUILD if spec.host else PortStatus.DOWN,
                status_reason="",
                realised_revision=0,
                security_groups=groups,
                port_security_enabled=secured,
                address_pairs=address_pairs(spec.address_pairs, address) if spec.address_pairs else (),
                identity=identity,
                fast_path=spec.fast_path,
                dns_name=spec.dns_name,
                dhcp_options=spec.dhcp_options,
                qos_policy_id=spec.qos_policy_id,
            )
        )
    Bindings(indexes, stamp, changes).bind_ports(ports)
    return Outcome(tuple(ports), changes, tuple(allocations))


def _settle(
    indexes: Indexes,
    specs: Sequence[PortSpec],
    demands: Mapping[Id, NetworkDemand],
    wanted: Sequence[list[Want] | None],
) -> list[Sequence[Want]]:
    """The addresses that each port wants by name or subnet, those that its MAC makes among them; asks for them."""
    automatic = {network_id: automatic_subnets(indexes, network_id) for network_id in demands}
    macs = {network_id: draw_macs(indexes, demands[network_id]) for network_id, some in automatic.items() if some}
    settled: list[Sequence[Want]] = []
    for spec, wants in zip(specs, wanted, strict=True):
        some = automatic[spec.network_id]
        found: Sequence[Want] = wants or ()
        if some:
            address = mac_from_int(next(macs[spec.network_id])) if spec.mac is None else spec.mac
            every: list[Want] = [(subnet, None) for subnet in some] if wants is None else wants
            found = settle(every, address, spec.device_owner)
        demands[spec.network_id].take_addresses(found)
        settled.append(found)
    return settled


def _security(memberships: Memberships, spec: PortSpec) -> tuple[bool, tuple[Id, ...], int]:
    """Whether the port has port security, its groups, and their number in the network."""
    secured = spec.port_security_enabled
    if secured is None:
        secured = not spec.device_owner.startswith(TRUSTED_OWNER)
    if not secured:
        check_port_security(enabled=False, groups=spec.security_groups, pairs=spec.address_pairs)
        return False, (), 0
    groups, identity = memberships.of(spec.network_id, spec.project_id, spec.security_groups)
    return True, groups, identity


def update_port(indexes: Indexes, ports: Mapping[Id, Port], command: UpdatePort, stamp: Stamp) -> Outcome:
    """Changes what the command sets. Nothing different: nothing is written, the revision stays."""
    before = find_port(ports, command.id)
    check_if_match(before, command.if_match)
    if before.device_owner in _OUTSIDE_OWNERS:
        raise _not_directly(before, "changed")
    fields: dict[str, Any] = changed_fields(before, command, _PLAIN_FIELDS)
    options = _change_options(before, command)
    if options != before.dhcp_options:
        fields["dhcp_options"] = options
    allocations = _change_addresses(indexes, before, command, fields)
    changes = Changes()
    _change_security(Memberships(indexes, stamp, changes), before, command, fields)
    if not fields:
        return Outcome(before, Changes())
    if before.id in indexes.router_of and not _ROUTERS_OWN.isdisjoint(fields):
        raise _not_directly(before, "changed")
    if not _VIP_FIELDS.isdisjoint(fields):
        _check_no_vip(indexes, before, "bound, nor its addresses changed,")
    Bindings(indexes, stamp, changes).bind(before.network_id, fields.get("qos_policy_id"))
    _check_owner(fields.get("device_owner", ""))
    if "host" in fields:
        check_hosts(indexes, {fields["host"]})
        if fields["host"] and indexes.networks[before.network_id].external:
            raise _outside(indexes.networks[before.network_id])
        for fixed in fields.get("fixed_ips", before.fixed_ips) if fields["host"] else ():
            if fixed.ip == indexes.subnets[fixed.subnet_id].gateway:
                raise gateway_error(indexes.subnets[fixed.subnet_id])
    if "fixed_ips" in fields:
        _keep_outside(indexes, before, fields, stamp, changes)
    after = claims.kept(replace(before, **fields, updated_at=stamp.now, revision=stamp.revision))
    if not fields.keys().isdisjoint(("kind", "netns", "interface")):
        check_attachment(after.kind, after.netns, after.interface)
    if not _WIRED_FIELDS.isdisjoint(fields):
        moved = before.host != after.host
        after = replace(
            after,
            status=PortStatus.BUILD if after.host else PortStatus.DOWN,
            status_reason="",
            realised_revision=0 if moved else before.realised_revision,
            path="",
            attempts=0,
            realised_at=0,
        )
    changes.changed_ports.append((before, after))
    return Outcome(after, changes, allocations)


def delete_ports(
    indexes: Indexes, ports: Mapping[Id, Port], command: DeletePorts, stamp: Stamp, *, of_balancer: bool = False
) -> Outcome:
    """Deletes the ports, all or none; what they had is free at once, and their floating IPs are of no port.
    `of_balancer`: its balancer goes with the port."""
    demands: dict[Id, NetworkDemand] = {}
    deleted: list[Port] = []
    changes = Changes(deleted_ports=deleted)
    for identifier in dict.fromkeys(command.ids):
        port = find_port(ports, identifier)
        check_if_match(port, command.if_match)
        if port.id in indexes.router_of or port.device_owner in _OUTSIDE_OWNERS:
            raise _not_directly(port, "deleted")
        if not of_balancer:
            _check_no_vip(indexes, port, "deleted")
        if port.eips or port.forwardings:
            _leave_outside(indexes, port, set(), stamp, changes)
            changes.floating_ips += adrift(indexes, port, stamp)
        demand = demands.get(port.network_id)
        if demand is None:
            demand = demands[port.network_id] = NetworkDemand(indexes.networks[port.network_id])
        demand.release(indexes, port, mac=True)
        deleted.append(port)
    allocations: list[tuple[Allocator, Allocation]] = []
    for demand in demands.values():
        allocations += supply(indexes, demand)[1]
    return Outcome(None, changes, tuple(allocations))


def _check_no_vip(indexes: Indexes, port: Port, what: str) -> None:
    """Raises ServicePortInUse for a port that has a load balancer's address."""
    balancer = indexes.balancing.vip_ports.get(port.id)
    if balancer is not None:
        raise ServicePortInUse(
            f"Port {format_id(port.id)} cannot be {what} directly via the port API: it has the address of load "
            f"balancer {format_id(balancer)}."
        )


def find_port(ports: Mapping[Id, Port], port_id: Id) -> Port:
    """The port of an id. Raises PortNotFound."""
    port = ports.get(port_id)
    if port is None:
        raise PortNotFound(f"Port {format_id(port_id)} could not be found.")
    return port


def _keep_outside(indexes: Indexes, before: Port, fields: dict[str, Any], stamp: Stamp, changes: Changes) -> None:
    """What stands outside for addresses that the port loses goes."""
    kept = {fixed.ip for fixed in fields["fixed_ips"]} | with_port(before)
    if before.eips or before.forwardings:
        _leave_outside(indexes, before, kept, stamp, changes)
        fields["eips"] = tuple(eip for eip in before.eips if eip.inside in kept)
        fields["forwardings"] = tuple(one for one in before.forwardings if one.inside in kept)


def _leave_outside(indexes: Indexes, port: Port, kept: set[Ip], stamp: Stamp, changes: Changes) -> None:
    """The floating IPs that stood for the other addresses are free, the forwardings to them deleted."""
    changes.floating_ips += orphaned(indexes, port, kept, stamp)
    gone = port_forwardings.lost(indexes, port, kept)
    changes.deleted_port_forwardings += gone
    emptied = {one.floating_ip_id for one in gone}
    for fip in (indexes.floating_ips[one] for one in sorted(emptied)):
        if indexes.forwardings_by[fip.id] <= {one.id for one in gone}:
            changes.floating_ips.append(replace(fip, router_id=None, updated_at=stamp.now, revision=stamp.revision))


def _check_place(spec: PortSpec, network: Network) -> None:
    """A port of an external network is nowhere, nobody's may say that it is a floating IP's; its DHCP options."""
    check_options(spec.dhcp_options)
    if spec.host and network.external:
        raise _outside(network)
    _check_owner(spec.device_owner)


def _check_owner(device_owner: str) -> None:
    if device_owner in _OUTSIDE_OWNERS:
        raise InvalidInput(
            f"Invalid input for operation: device_owner {device_owner} is that of ports which floating IPs and routers "
            "make for themselves."
        )


def _outside(network: Network) -> InvalidInput:
    return InvalidInput(
        f"Invalid input for operation: binding:host_id: network {format_id(network.id)} is external, and hosts carry "
        "no ports of external networks. Give a port of an internal one a floating IP."
    )


def _not_directly(port: Port, what: str) -> ServicePortInUse:
    return ServicePortInUse(
        f"Port {format_id(port.id)} cannot be {what} directly via the port API: has device owner {port.device_owner}."
    )


def check_hosts(indexes: Indexes, hosts: set[str]) -> None:
    """Raises InvalidInput for a host that is no node. The empty name is "unbound"."""
    for host in sorted(hosts):
        if not host:
            continue
        if host not in indexes.node_named:
            raise InvalidInput(
                f"Invalid input for operation: binding:host_id {host} names no node. Register it with POST /v2.0/nodes."
            )
        if not indexes.nodes[indexes.node_named[host]].admin_state_up:
            raise NodeDrained(
                f"Node {host} is drained (admin_state_up is false): it keeps its ports and takes no others. Bind the "
                "port elsewhere, or set admin_state_up of the node to true."
            )


def check_attachment(kind: PortKind, netns: str, interface: str) -> None:
    """Raises InvalidInput for an interface or namespace that cannot be."""
    if len(interface.encode()) > MAX_INTERFACE or interface in (".", "..") or any(c in "/: \t\n\0" for c in interface):
        raise InvalidInput(
            f"Invalid input for operation: interface {interface!r} is not an interface name: at most {MAX_INTERFACE} "
            "bytes, without space, slash and colon."
        )
    if kind is PortKind.ADOPTED and not interface:
        raise InvalidInput("Invalid input for operation: a port of kind adopted needs interface, the one to adopt.")
    if netns and (kind is not PortKind.CONTAINER or not netns.startswith("/") or "\0" in netns):
        raise InvalidInput(
            f"Invalid input for operation: netns {netns!r} must be an absolute path, and only a port of kind container "
            "enters a namespace."
        )


def _change_security(memberships: Memberships, before: Port, command: UpdatePort, fields: dict[str, Any]) -> None:
    """Puts what changes of port security, groups and pairs into `fields`."""
    given = command.port_security_enabled, command.security_groups, command.address_pairs
    if given == (UNSET, UNSET, UNSET) and "mac" not in fields:
        return
    enabled = before.port_security_enabled if command.port_security_enabled is UNSET else command.port_security_enabled
    wanted: tuple[Id, ...] | None = before.security_groups
    if command.security_groups is not UNSET:
        wanted = command.security_groups
    elif enabled and not before.port_security_enabled:
        wanted = None
    mac = fields.get("mac", before.mac)
    pairs = before.address_pairs
    if command.address_pairs is not UNSET:
        pairs = address_pairs(command.address_pairs, mac)
    elif "mac" in fields:  # pairs with its own MAC go with it
        pairs = tuple(AddressPair(one.prefix, mac if one.mac == before.mac else one.mac) for one in pairs)
    if not enabled:
        if command.security_groups is UNSET and before.security_groups:
            raise PortSecurityPortHasSecurityGroup(
                "Port has security group associated. Cannot disable port security or IP address until security group "
                "is removed."
            )
        check_port_security(enabled=False, groups=wanted, pairs=pairs)
        found: dict[str, Any] = {"security_groups": (), "identity": 0}
    else:
        groups, identity = memberships.of(before.network_id, before.project_id, wanted)
        found = {"security_groups": groups, "identity": identity}
    found |= {"port_security_enabled": enabled, "address_pairs": pairs}
    fields.update({name: value for name, value in found.items() if value != getattr(before, name)})


def _kind(spec: PortSpec) -> PortKind:
    if spec.kind is not None:
        return spec.kind
    return PortKind.TAP if spec.device_owner.startswith(COMPUTE_OWNER) else PortKind.CONTAINER


def _change_addresses(
    indexes: Indexes, before: Port, command: UpdatePort, fields: dict[str, Any]
) -> tuple[tuple[Allocator, Allocation], ...]:
    """Plans a change of MAC and addresses; puts the new `fixed_ips` into `fields` if they differ."""
    demand = NetworkDemand(indexes.networks[before.network_id])
    if "mac" in fields:
        if before.host:
            raise PortBound(
                f"Unable to complete operation on port {format_id(before.id)}, port is already bound to "
                f"{before.host}: unbind it before changing mac_address."
            )
        demand.take_mac(fields["mac"])
        demand.released_macs.append(int.from_bytes(before.mac, "big"))
    specs = command.fixed_ips
    if specs is UNSET:
        if "mac" not in fields:
            return ()
        specs = _as_specs(indexes, before)
    host = fields.get("host", before.host)
    wants = resolve(indexes, demand.network, specs, bound=bool(host))
    if automatic_subnets(indexes, before.network_id):
        wants = settle(wants, fields.get("mac", before.mac), before.device_owner)
    kept, new = _keep(indexes, before, wants)
    demand.take_addresses(new)
    demand.release(indexes, before, mac=False, kept=[fixed_ip for fixed_ip in kept if fixed_ip is not None])
    source, allocations = supply(indexes, demand)
    fresh = iter(source.addresses(new))
    after = tuple(fixed_ip if fixed_ip is not None else next(fresh) for fixed_ip in kept)
    if after != before.fixed_ips:
        fields["fixed_ips"] = after
    return tuple(allocations)


def _as_specs(indexes: Indexes, port: Port) -> tuple[FixedIpSpec, ...]:
    """The addresses that the port has; where its MAC makes them, only the subnet."""
    return tuple(
        FixedIpSpec(subnet_id=one.subnet_id, ip=None if indexes.subnets[one.subnet_id].automatic else one.ip)
        for one in port.fixed_ips
    )


def _change_options(before: Port, command: UpdatePort) -> tuple[DhcpOption, ...]:
    """The port's DHCP options, those that the command names set or taken away (as in Neutron)."""
    if command.dhcp_options is UNSET:
        return before.dhcp_options
    options = {(one.version, one.name): one for one in before.dhcp_options}
    for change in command.dhcp_options:
        options.pop((change.version, change.name), None)
        if change.value is not None:
            options[change.version, change.name] = DhcpOption(change.version, change.name, change.value)
    check_options(options.values())
    return tuple([options[key] for key in sorted(options)])


def check_options(options: Collection[DhcpOption]) -> None:
    """Raises InvalidInput for more options than one answer has room for."""
    if len(options) > MAX_OPTIONS or sum(len(one.value) for one in options) > MAX_OPTION_BYTES:
        raise InvalidInput(
            f"Invalid input for operation: extra_dhcp_opts: at most {MAX_OPTIONS} options with {MAX_OPTION_BYTES} "
            "characters of values together fit an answer."
        )


def _keep(indexes: Indexes, before: Port, wants: Sequence[Want]) -> tuple[list[FixedIp | None], list[Want]]:
    """For each address wanted, the one of the port's own that answers it (or None); and the wants left over.

    A spec that names the port's own address keeps it; one that names only a subnet keeps an address of that subnet (as
    in Neutron).
    """
    offsets = {
        (own.subnet_id, ip_to_int(own.ip) - indexes.subnets[own.subnet_id].cidr.first): own for own in before.fixed_ips
    }
    kept: list[FixedIp | None] = [None] * len(wants)
    for index, (subnet, offset) in enumerate(wants):
        if offset is not None:
            kept[index] = offsets.pop((subnet.id, offset), None)
    for index, (subnet, offset) in enumerate(wants):
        if offset is None:
            key = next((key for key in offsets if key[0] == subnet.id), None)
            if key is not None:
                kept[index] = offsets.pop(key)
    return kept, [want for want, own in zip(wants, kept, strict=True) if own is None]
