"""Peerings of VPCs: create, rename, delete. Pure: (indexes, command, stamp) -> outcome. Alcor's own resource.

Called by services.dispatch.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from alcor.model.ids import Id, format_id
from alcor.model.nouns import Network, Peering
from alcor.services.commands import CreatePeerings, DeletePeering, UpdatePeering
from alcor.services.errors import InvalidInput, VpcPeeringExists, VpcPeeringNotFound, VpcPeeringOverlap
from alcor.services.identities import connect
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.networks import find_network
from alcor.services.reach import find_clash
from alcor.services.revisions import changed_fields, check_if_match
from alcor.store.base import Changes


def find_peering(indexes: Indexes, peering_id: Id) -> Peering:
    """The peering of an id. Raises VpcPeeringNotFound."""
    peering = indexes.peerings.get(peering_id)
    if peering is None:
        raise VpcPeeringNotFound(f"VPC peering {format_id(peering_id)} could not be found.")
    return peering


def create_peerings(indexes: Indexes, command: CreatePeerings, stamp: Stamp) -> Outcome:
    """Connects pairs of VPCs, all or none. Those of one command must not have a network in common."""
    made: list[Peering] = []
    changes = Changes(peerings=made)
    seen: set[Id] = set()
    for identifier, spec in zip(stamp.ids, command.specs, strict=True):
        peering = Peering(
            id=identifier,
            project_id=spec.project_id,
            name=spec.name,
            description=spec.description,
            network_id=spec.network_id,
            peer_network_id=spec.peer_network_id,
            created_at=stamp.now,
            updated_at=stamp.now,
            revision=stamp.revision,
        )
        _check(indexes, peering)
        if seen & {*peering.networks}:
            raise InvalidInput(
                "Invalid input for operation: two peerings of one request have a network in common: send them one "
                "after the other."
            )
        seen.update(peering.networks)
        made.append(peering)
        connect(indexes, stamp, changes, peering.network_id, peering.networks)
    return Outcome(tuple(made), changes)


def update_peering(indexes: Indexes, command: UpdatePeering, stamp: Stamp) -> Outcome:
    """Changes what the command sets. Nothing different: nothing is written, the revision stays."""
    before = find_peering(indexes, command.id)
    check_if_match(before, command.if_match)
    fields: dict[str, Any] = changed_fields(before, command, ("name", "description"))
    if not fields:
        return Outcome(before, Changes())
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    return Outcome(after, Changes(peerings=[after]))


def delete_peering(indexes: Indexes, command: DeletePeering) -> Outcome:
    """The two VPCs reach each other no more."""
    peering = find_peering(indexes, command.id)
    check_if_match(peering, command.if_match)
    return Outcome(None, Changes(deleted_peerings=[peering]))


def _check(indexes: Indexes, peering: Peering) -> None:
    one, other = find_network(indexes, peering.network_id), find_network(indexes, peering.peer_network_id)
    if one.id == other.id:
        raise InvalidInput("Invalid input for operation: a VPC cannot be peered with itself.")
    for network in (one, other):
        if network.cidr is None:
            raise InvalidInput(
                f"Invalid input for operation: network {format_id(network.id)} has no cidr: only VPCs are peered."
            )
    for known in indexes.peerings.values():
        if known.networks == peering.networks:
            raise VpcPeeringExists(
                f"VPCs {format_id(one.id)} and {format_id(other.id)} are peered already, by {format_id(known.id)}."
            )
    check_cidrs(one, other)
    clash = find_clash(indexes, peering.networks, road=peering)
    if clash is not None:
        raise VpcPeeringOverlap(
            f"Cidr {clash.one_cidr} of subnet {format_id(clash.one)} overlaps with cidr {clash.other_cidr} of subnet "
            f"{format_id(clash.other)}: network {format_id(clash.network_id)} would reach both."
        )


def check_cidrs(one: Network, other: Network) -> None:
    """Raises VpcPeeringOverlap for two VPCs whose own cidrs share an address: sooner or later subnets would."""
    if one.cidr is not None and other.cidr is not None and one.cidr.overlaps(other.cidr):
        raise VpcPeeringOverlap(
            f"Cidr {one.cidr} of VPC {format_id(one.id)} overlaps with cidr {other.cidr} of VPC {format_id(other.id)}."
        )
