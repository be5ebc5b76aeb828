"""Load balancers: create with their VIP's port, change, delete. Pure.

Called by services.dispatch. The VIP is a port without a host: every host of the VPC answers for its address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from alcor.model.addresses import ip_version
from alcor.model.allocation import Allocation, Allocator
from alcor.model.balancing import LoadBalancer
from alcor.model.ids import Id, format_id
from alcor.model.nouns import FixedIp, Network, Port, Subnet
from alcor.services.balancing import BALANCERS_A_NETWORK, check_quota, invalid, ip_text
from alcor.services.balancing_commands import CreateLoadBalancer, DeleteLoadBalancer, UpdateLoadBalancer
from alcor.services.commands import CreatePorts, DeletePorts, FixedIpSpec, PortSpec
from alcor.services.errors import BalancerHasChildren, InvalidInput
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.ports import create_ports, delete_ports, find_port
from alcor.services.revisions import changed_fields
from alcor.store.base import Changes

OWNER = "Octavia"
"""`device_owner` of a VIP's port."""


def create_load_balancer(
    indexes: Indexes, ports: Mapping[Id, Port], command: CreateLoadBalancer, stamp: Stamp
) -> Outcome:
    """Makes the balancer and, unless one is given, its VIP's port."""
    (identifier,) = stamp.ids
    changes = Changes()
    allocations: tuple[tuple[Allocator, Allocation], ...] = ()
    if command.port_id is not None:
        port = _given_port(indexes, ports, command)
        fixed = _vip_of(port, command)
    else:
        network, subnet = _place(indexes, command)
        made = _make_port(indexes, command, identifier, network, subnet, stamp)
        changes, allocations = made.changes, made.allocations
        (port,) = changes.new_ports
        (fixed,) = port.fixed_ips
    index = indexes.balancing
    have = sum(one.network_id == port.network_id for one in index.load_balancers.values())
    check_quota("LoadBalancer", have + 1, BALANCERS_A_NETWORK)
    balancer = LoadBalancer(
        id=identifier,
        project_id=command.project_id,
        name=command.name,
        description=command.description,
        network_id=port.network_id,
        vip_subnet_id=fixed.subnet_id,
        vip_port_id=port.id,
        vip_ip=fixed.ip,
        vip_mac=port.mac,
        admin_state_up=command.admin_state_up,
        created_at=stamp.now,
        updated_at=stamp.now,
        revision=stamp.revision,
        owns_port=command.port_id is None,
    )
    changes.load_balancers.append(balancer)
    return Outcome(balancer, changes, allocations)


def update_load_balancer(indexes: Indexes, command: UpdateLoadBalancer, stamp: Stamp) -> Outcome:
    """Changes what the command sets. Nothing different: nothing is written."""
    before = indexes.balancing.load_balancer(command.id)
    fields: dict[str, Any] = changed_fields(before, command, ("name", "description", "admin_state_up"))
    if not fields:
        return Outcome(before, Changes())
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    return Outcome(after, Changes(load_balancers=[after]))


def delete_load_balancer(
    indexes: Indexes, ports: Mapping[Id, Port], command: DeleteLoadBalancer, stamp: Stamp
) -> Outcome:
    """Deletes the balancer, with `cascade` all that it has, and the port that was made for it."""
    index = indexes.balancing
    balancer = index.load_balancer(command.id)
    listeners = list(index.listeners_of.get(balancer.id, {}).values())
    pools = list(index.pools_of.get(balancer.id, {}).values())
    if (listeners or pools) and not command.cascade:
        raise BalancerHasChildren(
            f"Validation failure: Cannot delete Load Balancer {format_id(balancer.id)} - it has children"
        )
    gone = Outcome(None, Changes())
    if balancer.owns_port and balancer.vip_port_id in ports:
        gone = delete_ports(indexes, ports, DeletePorts(ids=(balancer.vip_port_id,)), stamp, of_balancer=True)
    changes = gone.changes
    changes.deleted_load_balancers.append(balancer)
    changes.deleted_listeners += listeners
    changes.deleted_member_pools += pools
    for pool in pools:
        changes.deleted_members += index.members_of.get(pool.id, {}).values()
        if pool.id in index.monitor_of:
            changes.deleted_health_monitors.append(index.monitor_of[pool.id])
    return Outcome(None, changes, gone.allocations)


def _given_port(indexes: Indexes, ports: Mapping[Id, Port], command: CreateLoadBalancer) -> Port:
    assert command.port_id is not None
    port = find_port(ports, command.port_id)
    if port.id in indexes.balancing.vip_ports:
        raise invalid(f"The VIP port {format_id(port.id)} is another load balancer's")
    if port.host:
        raise invalid(f"The VIP port {format_id(port.id)} is bound to host {port.host}: it must not be bound")
    if port.forwardings:
        raise invalid(f"The VIP port {format_id(port.id)} has port forwardings: take them away first")
    if command.network_id not in (None, port.network_id):
        raise invalid("vip_port_id is not in vip_network_id")
    return port


def _vip_of(port: Port, command: CreateLoadBalancer) -> FixedIp:
    for fixed in port.fixed_ips:
        if command.ip in (None, fixed.ip) and command.subnet_id in (None, fixed.subnet_id):
            return fixed
    raise invalid(f"The VIP port {format_id(port.id)} has no such address")


def _place(indexes: Indexes, command: CreateLoadBalancer) -> tuple[Network, Subnet]:
    """The VIP's network and subnet. Without a subnet it is the one that has the address, else the first of IPv4."""
    if command.subnet_id is not None:
        subnet = indexes.subnets.get(command.subnet_id)
        if subnet is None:
            raise invalid(f"Subnet {format_id(command.subnet_id)} not found.")
        if command.network_id not in (None, subnet.network_id):
            raise invalid("vip_subnet_id is not in vip_network_id")
    else:
        if command.network_id is None:
            raise invalid("VIP must contain one of: vip_port_id, vip_network_id, vip_subnet_id.")
        if command.network_id not in indexes.networks:
            raise invalid(f"Network {format_id(command.network_id)} not found.")
        found = indexes.subnets_of.get(command.network_id, {}).values()
        fitting = [one for one in found if command.ip is None or command.ip in one.cidr]
        fitting.sort(key=lambda one: one.cidr.version)
        if not fitting:
            raise invalid("Supplied network does not contain a subnet for the VIP.")
        subnet = fitting[0]
    network = indexes.networks[subnet.network_id]
    if command.ip is not None and (ip_version(command.ip) != subnet.ip_version or command.ip not in subnet.cidr):
        raise invalid(f"vip_address {ip_text(command.ip)} is not in subnet {subnet.cidr}")
    return network, subnet


def _make_port(
    indexes: Indexes, command: CreateLoadBalancer, identifier: Id, network: Network, subnet: Subnet, stamp: Stamp
) -> Outcome:
    spec = PortSpec(
        network_id=network.id,
        project_id=command.project_id,
        name=f"octavia-lb-{format_id(identifier)}",
        fixed_ips=(FixedIpSpec(subnet_id=subnet.id, ip=command.ip),),
        device_id=f"lb-{format_id(identifier)}",
        device_owner=OWNER,
        port_security_enabled=False,
    )
    try:
        return create_ports(indexes, CreatePorts(specs=(spec,)), stamp._replace(ids=stamp.spare(1)))
    except InvalidInput as error:
        raise invalid(error.message) from None
