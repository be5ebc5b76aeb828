"""Floating IPs (EIPs): create, associate, take away, delete. Pure: (indexes, ports named, command, stamp) -> outcome.

Called by services.dispatch. Words and messages are Neutron's. A floating IP has its address by a port of the external
network that is nobody's but its own, so addresses are counted as all others are. What it comes to on a host is the
`eips` of the port that it stands for: they travel with that port, and the port's host answers for them; so the port is
BUILD until its host said that it does.

The address of a load balancer has no host of its own: its floating IP is with some port of its network, its anchor,
whose host answers. Which one it is loops.anchors says, as hosts and members come and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import UNSET
from msgspec.structs import replace

from alcor.model.addresses import Ip, Mac, format_ip, ip_version
from alcor.model.allocation import Allocation, Allocator
from alcor.model.ids import Id, format_id
from alcor.model.nouns import Eip, FixedIp, FloatingIp, Forwarding, Network, Port, PortKind, PortStatus, Subnet
from alcor.services.addressing import NetworkDemand, Want, resolve, supply
from alcor.services.commands import (
    AnchorFloatingIp,
    CreateFloatingIps,
    DeleteFloatingIp,
    FixedIpSpec,
    FloatingIpSpec,
    UpdateFloatingIp,
)
from alcor.services.errors import (
    BadRequest,
    ExternalGatewayForFloatingIPNotFound,
    ExternalIpAddressExhausted,
    FipInUseByPortForwarding,
    FloatingIPNotFound,
    FloatingIPPortAlreadyAssociated,
    IpAddressGenerationFailure,
    PortHasPortForwarding,
    PortNotFound,
)
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.networks import find_network
from alcor.services.qos import Bindings, find_policy
from alcor.services.revisions import check_if_match
from alcor.store.base import Changes

OWNER = "network:floatingip"
"""The device owner of the port that has a floating IP's address."""


def create_floating_ips(
    indexes: Indexes, ports: Mapping[Id, Port], command: CreateFloatingIps, stamp: Stamp
) -> Outcome:
    """Makes the floating IPs, all or none."""
    demands: dict[Id, NetworkDemand] = {}
    wanted: list[list[Want] | None] = []
    for spec in command.specs:
        network = _external_network(indexes, spec.network_id)
        demand = demands.setdefault(network.id, NetworkDemand(network))
        demand.versions = (4,)
        demand.mac_count += 1
        wants = _wants(indexes, network, spec)
        if wants is None:
            demand.anywhere += 1
        else:
            demand.take_addresses(wants)
        wanted.append(wants)
        if spec.qos_policy_id is not None:
            find_policy(indexes, spec.qos_policy_id)
    supplies = {}
    allocations: list[tuple[Allocator, Allocation]] = []
    for network_id, demand in demands.items():
        try:
            supplies[network_id], planned = supply(indexes, demand)
        except IpAddressGenerationFailure:
            raise ExternalIpAddressExhausted(
                f"Unable to find any IP address on external network {format_id(network_id)}."
            ) from None
        allocations += planned
    changes = Changes()
    links = Links(indexes, ports, stamp, changes)
    external_ports = stamp.spare(len(command.specs))
    made = []
    for identifier, port_id, spec, wants in zip(stamp.ids, external_ports, command.specs, wanted, strict=True):
        source = supplies[spec.network_id]
        mac = source.mac()
        (fixed,) = source.default_addresses() if wants is None else source.addresses(wants)
        fip = FloatingIp(
            id=identifier,
            project_id=spec.project_id,
            description=spec.description,
            network_id=spec.network_id,
            subnet_id=fixed.subnet_id,
            ip=fixed.ip,
            external_port_id=port_id,
            port_id=None,
            fixed_ip=None,
            router_id=None,
            created_at=stamp.now,
            updated_at=stamp.now,
            revision=stamp.revision,
            qos_policy_id=spec.qos_policy_id,
        )
        changes.new_ports.append(service_port(port_id, fip.network_id, mac, (fixed,), OWNER, fip.id, stamp))
        if spec.port_id is not None:
            fip = links.join(fip, spec.port_id, spec.fixed_ip)
        elif spec.fixed_ip is not None:
            raise _bad("fixed_ip_address cannot be specified without a port_id")
        made.append(fip)
    changes.floating_ips += made
    links.finish()
    return Outcome(tuple(made), changes, tuple(allocations))


def update_floating_ip(indexes: Indexes, ports: Mapping[Id, Port], command: UpdateFloatingIp, stamp: Stamp) -> Outcome:
    """Changes what the command sets. Nothing different: nothing is written, the revision stays."""
    before = find_floating_ip(indexes, command.id)
    check_if_match(before, command.if_match)
    if command.port_id is not UNSET or command.fixed_ip is not UNSET:
        _check_not_forwarded(indexes, before)
    changes = Changes()
    links = Links(indexes, ports, stamp, changes)
    after = before if command.description is UNSET else replace(before, description=command.description)
    if command.qos_policy_id is not UNSET and command.qos_policy_id != before.qos_policy_id:
        if command.qos_policy_id is not None:
            find_policy(indexes, command.qos_policy_id)
        after = replace(after, qos_policy_id=command.qos_policy_id)
        links.limit(after)
    fixed_ip = None if command.fixed_ip is UNSET else command.fixed_ip
    if command.port_id is None and fixed_ip is not None:
        raise _bad("fixed_ip_address cannot be specified without a port_id")
    port_id = before.port_id if command.port_id is UNSET else command.port_id
    if port_id is None:
        if fixed_ip is not None:
            raise _bad("fixed_ip_address cannot be specified without a port_id")
        after = links.part(after)
    elif command.port_id is not UNSET or command.fixed_ip is not UNSET:
        after = links.join(links.part(after), port_id, fixed_ip)
    if after == before:
        return Outcome(before, Changes())
    after = replace(after, updated_at=stamp.now, revision=stamp.revision)
    changes.floating_ips.append(after)
    links.finish()
    return Outcome(after, changes)


def anchor_floating_ip(indexes: Indexes, ports: Mapping[Id, Port], command: AnchorFloatingIp, stamp: Stamp) -> Outcome:
    """Puts the floating IP of a load balancer's address with another port. Nothing different: nothing is written."""
    before = find_floating_ip(indexes, command.id)
    changes = Changes()
    links = Links(indexes, ports, stamp, changes)
    after = links.lift(before)
    if command.anchor_id is not None:
        after = links.anchor(after, command.anchor_id)
    if after.anchor_id == before.anchor_id:
        return Outcome(before, Changes())
    after = replace(after, updated_at=stamp.now, revision=stamp.revision)
    changes.floating_ips.append(after)
    links.finish()
    return Outcome(after, changes)


def delete_floating_ip(indexes: Indexes, ports: Mapping[Id, Port], command: DeleteFloatingIp, stamp: Stamp) -> Outcome:
    """Takes the floating IP from its port and gives its address back."""
    fip = find_floating_ip(indexes, command.id)
    check_if_match(fip, command.if_match)
    _check_not_forwarded(indexes, fip)
    changes = Changes(deleted_floating_ips=[fip], deleted_ports=[ports[fip.external_port_id]])
    links = Links(indexes, ports, stamp, changes)
    links.part(fip)
    demand = NetworkDemand(indexes.networks[fip.network_id])
    demand.release(indexes, ports[fip.external_port_id], mac=True)
    links.finish()
    return Outcome(None, changes, tuple(supply(indexes, demand)[1]))


def _check_not_forwarded(indexes: Indexes, fip: FloatingIp) -> None:
    if indexes.forwardings_by.get(fip.id):
        raise FipInUseByPortForwarding(f"Floating IP {format_id(fip.id)} in use by Port Forwarding resources.")


def find_floating_ip(indexes: Indexes, identifier: Id) -> FloatingIp:
    """The floating IP of an id. Raises FloatingIPNotFound."""
    fip = indexes.floating_ips.get(identifier)
    if fip is None:
        raise FloatingIPNotFound(f"Floating IP {format_id(identifier)} could not be found")
    return fip


def ports_of_floating_ip(indexes: Indexes, identifier: Id) -> tuple[Id, ...]:
    """The ports that a command about the floating IP reads, and its own id: then it waits for an earlier command of
    its batch that changes the floating IP."""
    fip = indexes.floating_ips.get(identifier)
    if fip is None:
        return (identifier,)
    return (identifier, fip.external_port_id, *(one for one in (fip.port_id, fip.anchor_id) if one is not None))


def orphaned(indexes: Indexes, port: Port, kept: Iterable[Ip], stamp: Stamp) -> list[FloatingIp]:
    """The floating IPs of the port that stand for addresses that it does not keep, as they are without it."""
    remaining = set(kept)
    return [
        replace(fip, port_id=None, fixed_ip=None, router_id=None, updated_at=stamp.now, revision=stamp.revision)
        for fip in (indexes.floating_ips[one] for one in sorted(indexes.floating_ips_of.get(port.id, ())))
        if fip.fixed_ip not in remaining
    ]


def adrift(indexes: Indexes, port: Port, stamp: Stamp) -> list[FloatingIp]:
    """The floating IPs that are with the port, as they are without it."""
    return [
        replace(indexes.floating_ips[one], anchor_id=None, updated_at=stamp.now, revision=stamp.revision)
        for one in sorted(indexes.floating_ips_at.get(port.id, ()))
    ]


def with_port(port: Port) -> set[Ip]:
    """The addresses that the port's EIPs stand for and that are not its own: load balancers'."""
    return {eip.inside for eip in port.eips} - {fixed.ip for fixed in port.fixed_ips}


class Links:
    """Which floating IPs stand for which addresses, while one command is computed; `finish` puts the ports that changed
    into its `changes`."""

    def __init__(self, indexes: Indexes, ports: Mapping[Id, Port], stamp: Stamp, changes: Changes) -> None:
        self._indexes = indexes
        self._ports = ports
        self._stamp = stamp
        self._changes = changes
        self._eips: dict[Id, list[Eip]] = {}
        self._forwardings: dict[Id, list[Forwarding]] = {}

    def limit(self, fip: FloatingIp) -> None:
        """Its policy is another: where it stands for an address, or for ports of one."""
        for port_id in (fip.port_id, fip.anchor_id):
            if port_id is not None:
                eips = self._of(self._ports[port_id])
                eips[:] = [replace(one, qos_id=fip.qos_id) if one.ip == fip.ip else one for one in eips]
        for one in self._indexes.forwardings_by.get(fip.id, ()):
            port = self._ports[self._indexes.port_forwardings[one].port_id]
            self._of(port)
            self._forwardings[port.id] = [
                replace(one, qos_id=fip.qos_id) if one.ip == fip.ip else one for one in port.forwardings
            ]

    def part(self, fip: FloatingIp) -> FloatingIp:
        """The floating IP, of no port."""
        if fip.port_id is not None:
            self._take(fip, fip.port_id)
        return replace(self.lift(fip), port_id=None, fixed_ip=None, router_id=None)

    def lift(self, fip: FloatingIp) -> FloatingIp:
        """The floating IP, with no port."""
        if fip.anchor_id is not None:
            self._take(fip, fip.anchor_id)
        return replace(fip, anchor_id=None)

    def anchor(self, fip: FloatingIp, port_id: Id) -> FloatingIp:
        """The floating IP of a load balancer's address, with that port of its network. Raises BadRequest."""
        port = self._ports.get(port_id)
        balancer = self._indexes.balancing.vip_ports.get(fip.port_id) if fip.port_id is not None else None
        if port is None or balancer is None or fip.fixed_ip is None:
            raise _bad(f"Floating IP {format_id(fip.id)} cannot be with port {format_id(port_id)}")
        if self._indexes.balancing.load_balancers[balancer].network_id != port.network_id:
            raise _bad(f"Port {format_id(port_id)} is not in the load balancer's network")
        subnet = self._indexes.subnets[fip.subnet_id]
        self._of(port).append(Eip(fip.ip, fip.fixed_ip, subnet.wire_length, subnet.gateway, fip.qos_id))
        return replace(fip, anchor_id=port_id)

    def _take(self, fip: FloatingIp, port_id: Id) -> None:
        eips = self._of(self._ports[port_id])
        eips[:] = [eip for eip in eips if eip.ip != fip.ip]

    def join(self, fip: FloatingIp, port_id: Id, fixed_ip: Ip | None) -> FloatingIp:
        """The floating IP, standing for an address of that port. Raises what Neutron does."""
        port = self._ports.get(port_id)
        if port is None:
            raise PortNotFound(f"Port {format_id(port_id)} could not be found.")
        fixed = _fixed_address(port, fixed_ip)
        eips = self._of(port)
        if any(eip.inside == fixed.ip for eip in eips):
            raise FloatingIPPortAlreadyAssociated(
                f"Cannot associate floating IP {format_ip(fip.ip)} ({format_id(fip.id)}) with port "
                f"{format_id(port.id)} using fixed IP {format_ip(fixed.ip)}, as that fixed IP already has a floating "
                f"IP on external network {format_id(fip.network_id)}."
            )
        if any(one.inside == fixed.ip for one in port.forwardings):
            raise PortHasPortForwarding(
                f"Cannot associate floating IP to port {format_id(port.id)} because it already has a Port Forwarding "
                "binding."
            )
        router = self._indexes.router_between(fixed.subnet_id, fip.network_id)
        if router is None:
            raise ExternalGatewayForFloatingIPNotFound(
                f"External network {format_id(fip.network_id)} is not reachable from subnet "
                f"{format_id(fixed.subnet_id)}.  Therefore, cannot associate Port {format_id(port.id)} with a Floating "
                "IP."
            )
        subnet = self._indexes.subnets[fip.subnet_id]
        eips.append(Eip(fip.ip, fixed.ip, subnet.wire_length, subnet.gateway, fip.qos_id))
        return replace(fip, port_id=port.id, fixed_ip=fixed.ip, router_id=router)

    def finish(self) -> None:
        """The ports whose EIPs are others now."""
        bindings = Bindings(self._indexes, self._stamp, self._changes)
        for port_id, eips in self._eips.items():
            before = self._ports[port_id]
            after = with_eips(before, eips, self._stamp, self._forwardings.get(port_id))
            if after != before:
                self._changes.changed_ports.append((before, after))
                bindings.bind_ports([after])

    def _of(self, port: Port) -> list[Eip]:
        return self._eips.setdefault(port.id, list(port.eips))


def with_eips(port: Port, eips: Sequence[Eip], stamp: Stamp, forwardings: Sequence[Forwarding] | None = None) -> Port:
    """The port with these EIPs and (None: its own) forwardings: a host must realise that. Nothing different: the port
    as it is."""
    wanted, forwarded = tuple(sorted(eips)), port.forwardings if forwardings is None else tuple(sorted(forwardings))
    if (wanted, forwarded) == (port.eips, port.forwardings):
        return port
    status = PortStatus.BUILD if port.host else PortStatus.DOWN
    return replace(
        port,
        eips=wanted,
        forwardings=forwarded,
        updated_at=stamp.now,
        revision=stamp.revision,
        status=status,
        status_reason="",
        path="",
        attempts=0,
        realised_at=0,
    )


def _fixed_address(port: Port, wanted: Ip | None) -> FixedIp:
    found = [fixed for fixed in port.fixed_ips if ip_version(fixed.ip) == 4]
    if wanted is not None:
        for fixed in found:
            if fixed.ip == wanted:
                return fixed
        raise _bad(f"Port {format_id(port.id)} does not have fixed ip {format_ip(wanted)}")
    if not found:
        raise _bad(f"Cannot add floating IP to port {format_id(port.id)} that has no fixed IPv4 addresses")
    if len(found) > 1:
        raise _bad(
            f"Port {format_id(port.id)} has multiple fixed IPv4 addresses.  Must provide a specific IPv4 address when "
            "assigning a floating IP"
        )
    return found[0]


def _external_network(indexes: Indexes, network_id: Id) -> Network:
    network = find_network(indexes, network_id)
    if not network.external:
        raise _bad(f"Network {format_id(network_id)} is not a valid external network")
    if not _subnets(indexes, network_id):
        raise _bad(f"Network {format_id(network_id)} does not contain any IPv4 subnet")
    return network


def _subnets(indexes: Indexes, network_id: Id) -> list[Subnet]:
    return [one for one in indexes.subnets_of.get(network_id, {}).values() if one.ip_version == 4]


def _wants(indexes: Indexes, network: Network, spec: FloatingIpSpec) -> list[Want] | None:
    """The very address, or the subnet, that is asked for; None: any."""
    if spec.subnet_id is None and spec.ip is None:
        return None
    wants = resolve(indexes, network, (FixedIpSpec(subnet_id=spec.subnet_id, ip=spec.ip),), bound=True)
    for subnet, _ in wants:
        if subnet.ip_version != 4:
            raise _bad(f"Subnet {format_id(subnet.id)} is IPv6: its addresses are outside as they are")
    return wants


def service_port(
    identifier: Id, network_id: Id, mac: Mac, fixed_ips: tuple[FixedIp, ...], owner: str, device_id: Id, stamp: Stamp
) -> Port:
    """The port that has the address of a floating IP, or those of a router; no host carries it."""
    return Port(
        id=identifier,
        network_id=network_id,
        project_id="",
        name="",
        description="",
        mac=mac,
        fixed_ips=fixed_ips,
        host="",
        device_id=format_id(device_id),
        device_owner=owner,
        admin_state_up=True,
        kind=PortKind.CONTAINER,
        netns="",
        interface="",
        created_at=stamp.now,
        updated_at=stamp.now,
        revision=stamp.revision,
        status=PortStatus.DOWN,
        status_reason="",
        realised_revision=0,
        port_security_enabled=False,
    )


def _bad(reason: str) -> BadRequest:
    return BadRequest(f"Bad floatingip request: {reason}.")
