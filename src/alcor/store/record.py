"""From what a commit changes to its row in the change log. Pure.

Called by sqlite and memory.
"""

from __future__ import annotations

from alcor.store.base import ChangeRecord, Changes, Departure


def record_of(revision: int, changes: Changes) -> ChangeRecord | None:
    """The record, or None for a commit of nothing but statuses."""
    departures = [Departure(port.id, port.network_id, port.host) for port in changes.deleted_ports]
    departures += [
        Departure(before.id, before.network_id, before.host)
        for before, after in changes.changed_ports
        if before.host and before.host != after.host
    ]
    record = ChangeRecord(
        revision=revision,
        networks=tuple(network.id for network in changes.networks),
        subnets=tuple(subnet.id for subnet in changes.subnets),
        nodes=tuple(node.id for node in changes.nodes),
        ports=tuple([after.id for _, after in changes.changed_ports] + [port.id for port in changes.new_ports]),
        deleted_networks=tuple(network.id for network in changes.deleted_networks),
        deleted_subnets=tuple(subnet.id for subnet in changes.deleted_subnets),
        deleted_nodes=tuple(node.id for node in changes.deleted_nodes),
        departures=tuple(departures),
        security_groups=tuple(group.id for group in changes.security_groups),
        deleted_security_groups=tuple(group.id for group in changes.deleted_security_groups),
        identities=tuple((one.network_id, one.number) for one in changes.identities),
        deleted_identities=tuple((one.network_id, one.number) for one in changes.deleted_identities),
    )
    return record if record != ChangeRecord(revision) else None
