"""From what a commit changes to its row in the change log. Pure.

Called by sqlite and memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, groupby

from alcor.model.ids import Id
from alcor.model.nouns import Peering, Port, Router
from alcor.store.base import ChangeRecord, Changes, Departure
from alcor.store.schema import RESOURCES


def record_of(revision: int, changes: Changes) -> ChangeRecord | None:
    """The record, or None for a commit of nothing but statuses."""
    departures = [Departure(port.id, port.network_id, port.host) for port in changes.deleted_ports]
    departures += [
        Departure(before.id, before.network_id, before.host)
        for before, after in changes.changed_ports
        if before.host and before.host != after.host
    ]
    changed = [after for _, after in changes.changed_ports]
    roads: tuple[Router | Peering, ...] = (*changes.routers, *changes.peerings, *changes.deleted_peerings)
    connected = {network for road in roads for network in road.networks}
    record = ChangeRecord(
        revision=revision,
        networks=tuple(network.id for network in changes.networks),
        subnets=tuple(subnet.id for subnet in changes.subnets),
        nodes=tuple(node.id for node in changes.nodes),
        ports=tuple([port.id for port in changed] + [port.id for port in changes.new_ports]),
        deleted_networks=tuple(network.id for network in changes.deleted_networks),
        deleted_subnets=tuple(subnet.id for subnet in changes.deleted_subnets),
        deleted_nodes=tuple(node.id for node in changes.deleted_nodes),
        departures=tuple(departures),
        security_groups=tuple(group.id for group in changes.security_groups),
        deleted_security_groups=tuple(group.id for group in changes.deleted_security_groups),
        identities=tuple((one.network_id, one.number) for one in changes.identities),
        deleted_identities=tuple((one.network_id, one.number) for one in changes.deleted_identities),
        port_networks=_runs(chain(changed, changes.new_ports)),
        subnet_networks=tuple(subnet.network_id for subnet in changes.deleted_subnets),
        qos_policies=tuple(policy.id for policy in changes.qos_policies),
        deleted_qos_policies=tuple(policy.id for policy in changes.deleted_qos_policies),
        qos_bindings=tuple(
            (one.network_id, one.policy_id) for one in chain(changes.qos_bindings, changes.deleted_qos_bindings)
        ),
        resources=_named(changes, ""),
        deleted_resources=_named(changes, "deleted_"),
        road_networks=tuple(sorted(connected.union(changes.left_networks))),
        balancing_networks=tuple(sorted({row.network_id for some in changes.balancing() for row in some})),
    )
    return record if record != ChangeRecord(revision) else None


def _runs(ports: Iterable[Port]) -> tuple[tuple[Id, int], ...]:
    """Their networks, run by run: a request's ports are in few."""
    return tuple([(network, sum(1 for _ in run)) for network, run in groupby(port.network_id for port in ports)])


def _named(changes: Changes, prefix: str) -> tuple[tuple[str, Id], ...]:
    names = [table.name for table in RESOURCES.values()]
    return tuple((name, row.id) for name in names for row in getattr(changes, f"{prefix}{name}"))
