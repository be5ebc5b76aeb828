"""Networks: create, change, delete. Pure: (indexes, command, stamp) -> outcome.

Called by services.dispatch. Messages are Neutron's where Neutron has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from alcor.model.addresses import Prefix, format_ip
from alcor.model.allocation import MAX_VNI, Allocation, Exhausted, Taken
from alcor.model.ids import Id, format_id
from alcor.model.nouns import Network, Router, Subnet
from alcor.services.commands import CreateNetworks, DeleteNetwork, NetworkSpec, UpdateNetwork
from alcor.services.errors import (
    ExternalNetworkInUse,
    InvalidInput,
    NetworkInUse,
    NetworkNotFound,
    NoVniAvailable,
    VniInUse,
    VpcPeeringOverlap,
)
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.qos import Bindings, bindings_to, default_policy
from alcor.services.revisions import changed_fields, check_if_match
from alcor.store.base import Changes

LINK_LENGTH = 64
"""Of an IPv6 subnet that hosts are in, at least."""
MIN_MTU = 68
"""The least that IPv4 may have (RFC 791)."""
_FIELDS = (
    *("name", "description", "cidr", "mtu", "admin_state_up", "shared", "dns_domain", "qos_policy_id", "external"),
)


def find_network(indexes: Indexes, network_id: Id) -> Network:
    """The network of an id. Raises NetworkNotFound."""
    network = indexes.networks.get(network_id)
    if network is None:
        raise NetworkNotFound(f"Network {format_id(network_id)} could not be found.")
    return network


def create_networks(indexes: Indexes, command: CreateNetworks, stamp: Stamp) -> Outcome:
    """Makes the networks, each with a VNI of its own."""
    for spec in command.specs:
        check_mtu(indexes, spec.mtu)
        check_vpc_cidr(spec.cidr, external=spec.external)
        if spec.vni is not None and not 1 <= spec.vni <= MAX_VNI:
            raise InvalidInput(f"Invalid input for operation: VNI (segmentation id) {spec.vni} is not 1 to {MAX_VNI}.")
    allocation = _plan_vnis(indexes, command.specs)
    chosen = iter(allocation.chosen)
    networks = [
        Network(
            id=identifier,
            project_id=spec.project_id,
            name=spec.name,
            description=spec.description,
            cidr=spec.cidr,
            vni=next(chosen) if spec.vni is None else spec.vni,
            mtu=indexes.max_mtu if spec.mtu is None else spec.mtu,
            admin_state_up=spec.admin_state_up,
            shared=spec.shared,
            dns_domain=spec.dns_domain,
            external=spec.external,
            created_at=stamp.now,
            updated_at=stamp.now,
            revision=stamp.revision,
            qos_policy_id=spec.qos_policy_id or default_policy(indexes, spec.project_id),
        )
        for identifier, spec in zip(stamp.ids, command.specs, strict=True)
    ]
    changes = Changes(networks=networks)
    bindings = Bindings(indexes, stamp, changes)
    for network in networks:
        bindings.bind(network.id, network.qos_policy_id)
    return Outcome(tuple(networks), changes, ((indexes.vnis, allocation),))


def update_network(indexes: Indexes, command: UpdateNetwork, stamp: Stamp) -> Outcome:
    """Changes what the command sets. Nothing different: nothing is written, the revision stays."""
    before = find_network(indexes, command.id)
    check_if_match(before, command.if_match)
    fields: dict[str, Any] = changed_fields(before, command, _FIELDS)
    if not fields:
        return Outcome(before, Changes())
    if command.mtu is not UNSET:
        check_mtu(indexes, command.mtu)
    if "external" in fields:
        _check_external(indexes, before)
    cidr = fields.get("cidr", before.cidr)
    if cidr is not None:
        check_vpc_cidr(cidr, external=fields.get("external", before.external))
        for subnet in indexes.subnets_of.get(before.id, {}).values():
            if subnet.cidr.version == cidr.version and not cidr.covers(subnet.cidr):
                raise InvalidInput(
                    f"Invalid input for operation: cidr {cidr} of network {format_id(before.id)} does not contain its "
                    f"subnet {format_id(subnet.id)} ({subnet.cidr})."
                )
    if "cidr" in fields:
        _check_peers(indexes, before, cidr)
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    changes = Changes(networks=[after])
    Bindings(indexes, stamp, changes).bind(after.id, after.qos_policy_id)
    if before.external and not after.external:
        changes.deleted_qos_bindings += bindings_to(indexes, before.id)
    return Outcome(after, changes)


def delete_network(indexes: Indexes, command: DeleteNetwork, stamp: Stamp) -> Outcome:
    """Deletes the network and its subnets, and gives its VNI back."""
    network = find_network(indexes, command.id)
    check_if_match(network, command.if_match)
    if len(indexes.macs(network.id)):
        raise NetworkInUse(
            f"Unable to complete operation on network {format_id(network.id)}. "
            "There are one or more ports still in use on the network."
        )
    if indexes.roads_of.get(network.id):
        raise NetworkInUse(
            f"Unable to complete operation on network {format_id(network.id)}. It is peered with another VPC: delete "
            "the peering first."
        )
    changes = Changes(
        deleted_networks=[network],
        deleted_subnets=list(indexes.subnets_of.get(network.id, {}).values()),
        deleted_qos_bindings=bindings_to(indexes, network.id) if network.external else [],
    )
    return Outcome(None, changes, ((indexes.vnis, indexes.vnis.plan(release=(network.vni,))),))


def check_mtu(indexes: Indexes, mtu: int | None) -> None:
    """Raises InvalidInput for an MTU that the underlay cannot carry."""
    if mtu is not None and not MIN_MTU <= mtu <= indexes.max_mtu:
        raise InvalidInput(
            f"Invalid input for operation: Requested MTU {mtu} is not {MIN_MTU} to {indexes.max_mtu}, "
            "which is what the underlay leaves."
        )


def check_vpc_cidr(cidr: Prefix | None, *, external: bool) -> None:
    """Raises InvalidInput for a VPC that has all addresses there are, or that is outside."""
    if cidr is not None and external:
        raise InvalidInput(f"Invalid input for operation: cidr {cidr}: an external network is no VPC.")
    if cidr is not None and cidr.length == 0:
        raise InvalidInput(f"Invalid input for operation: cidr {cidr}: a VPC has a part of the addresses, not all.")


def _check_peers(indexes: Indexes, network: Network, cidr: Prefix | None) -> None:
    for road in indexes.roads(network.id):
        if isinstance(road, Router):
            continue
        for peer in (indexes.networks[one] for one in road.networks if one != network.id):
            if cidr is None:
                raise NetworkInUse(
                    f"Unable to complete operation on network {format_id(network.id)}. It is peered with VPC "
                    f"{format_id(peer.id)}, and only VPCs are: it must keep a cidr."
                )
            if peer.cidr is not None and peer.cidr.overlaps(cidr):
                raise VpcPeeringOverlap(
                    f"Cidr {cidr} of VPC {format_id(network.id)} overlaps with cidr {peer.cidr} of VPC "
                    f"{format_id(peer.id)}, with which it is peered."
                )


def _check_external(indexes: Indexes, network: Network) -> None:
    """Raises unless the network may become external, or internal."""
    if len(indexes.macs(network.id)):
        if network.external:
            raise ExternalNetworkInUse(
                f"External network {format_id(network.id)} cannot be updated to be made non-external, since it has "
                "existing gateway ports or floating IPs."
            )
        raise NetworkInUse(
            f"Unable to complete operation on network {format_id(network.id)}. "
            "There are one or more ports still in use on the network: hosts carry them, and no external network's."
        )
    for subnet in indexes.subnets_of.get(network.id, {}).values():
        if not network.external:
            check_external_subnet(indexes, network.id, subnet.cidr, automatic=subnet.ra_mode or subnet.address_mode)
            continue
        if subnet.gateway is not None and subnet.gateway not in subnet.cidr:
            raise InvalidInput(
                f"Invalid input for operation: subnet {format_id(subnet.id)} has its gateway_ip "
                f"{format_ip(subnet.gateway)} outside of its cidr, as external networks only can."
            )
        if subnet.ip_version == 6 and subnet.cidr.length < LINK_LENGTH:
            raise InvalidInput(
                f"Invalid input for operation: subnet {format_id(subnet.id)} ({subnet.cidr}) is shorter than "
                f"/{LINK_LENGTH}, as external networks only can have."
            )


def check_external_subnet(
    indexes: Indexes, network_id: Id, cidr: Prefix, *, automatic: object, made: Iterable[Subnet] = ()
) -> None:
    """Raises InvalidInput for a subnet that the external network cannot have. `made`: others of the same command."""
    if cidr.version == 4:
        return
    if automatic:
        raise InvalidInput(
            f"Invalid input for operation: Invalid CIDR {cidr} for subnet: on an external network hosts advertise "
            "nothing and give out no addresses: it has neither ipv6_ra_mode nor ipv6_address_mode."
        )
    others = [one for other in indexes.external for one in indexes.subnets_of.get(other, {}).values()]
    for one in (*others, *made):
        if one.network_id != network_id and one.cidr.overlaps(cidr):
            raise InvalidInput(
                f"Invalid input for operation: Requested subnet with cidr: {cidr} overlaps with {one.cidr} of external "
                f"network {format_id(one.network_id)}: IPv6 addresses are one network's outside."
            )


def _plan_vnis(indexes: Indexes, specs: tuple[NetworkSpec, ...]) -> Allocation:
    exact = [spec.vni for spec in specs if spec.vni is not None]
    try:
        return indexes.vnis.plan(len(specs) - len(exact), exact=exact)
    except Taken as taken:
        raise VniInUse(f"The VNI (segmentation id) {taken.value} is in use by another network.") from None
    except Exhausted as exhausted:
        raise NoVniAvailable(
            f"Unable to create {len(specs)} networks: {exhausted.free} of {MAX_VNI} VNIs are free. Delete a network."
        ) from None
