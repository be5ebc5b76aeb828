"""Listeners: a protocol and port of a load balancer's address. Create, change, delete. Pure.

Called by services.dispatch. The balancer's revision grows with each: that is what hosts are told by.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from alcor.model.balancing import Listener, MemberPool, Protocol
from alcor.model.ids import Id, format_id
from alcor.services.balancing import LISTENERS_A_NETWORK, check_quota, invalid
from alcor.services.balancing_commands import CreateListener, DeleteListener, UpdateListener
from alcor.services.errors import DuplicateListener
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.revisions import changed_fields
from alcor.store.base import Changes


def create_listener(indexes: Indexes, command: CreateListener, stamp: Stamp) -> Outcome:
    """Makes the listener. Its protocol and port are its alone on the balancer."""
    index = indexes.balancing
    balancer = index.load_balancer(command.load_balancer_id)
    for other in index.listeners_of.get(balancer.id, {}).values():
        if (other.protocol, other.port) == (command.protocol, command.port):
            raise DuplicateListener(
                "Another Listener on this Load Balancer is already using protocol "
                f"{command.protocol.value} and protocol_port {command.port}"
            )
    check_quota(
        "Listener",
        sum(one.network_id == balancer.network_id for one in index.listeners.values()) + 1,
        LISTENERS_A_NETWORK,
    )
    if command.pool_id is not None:
        check_pool(index.pool(command.pool_id), balancer.id, command.protocol)
    listener = Listener(
        id=stamp.ids[0],
        project_id=balancer.project_id,
        name=command.name,
        description=command.description,
        network_id=balancer.network_id,
        load_balancer_id=balancer.id,
        protocol=command.protocol,
        port=command.port,
        pool_id=command.pool_id,
        admin_state_up=command.admin_state_up,
        created_at=stamp.now,
        updated_at=stamp.now,
        revision=stamp.revision,
    )
    bumped = index.bumped(balancer.id, stamp.now, stamp.revision)
    return Outcome(listener, Changes(listeners=[listener], load_balancers=[bumped]))


def update_listener(indexes: Indexes, command: UpdateListener, stamp: Stamp) -> Outcome:
    """Changes what the command sets."""
    index = indexes.balancing
    before = index.listener(command.id)
    fields: dict[str, Any] = changed_fields(before, command, ("name", "description", "pool_id", "admin_state_up"))
    if not fields:
        return Outcome(before, Changes())
    if fields.get("pool_id") is not None:
        check_pool(index.pool(fields["pool_id"]), before.load_balancer_id, before.protocol)
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    bumped = index.bumped(before.load_balancer_id, stamp.now, stamp.revision)
    return Outcome(after, Changes(listeners=[after], load_balancers=[bumped]))


def delete_listener(indexes: Indexes, command: DeleteListener, stamp: Stamp) -> Outcome:
    """Deletes the listener; its connections end."""
    index = indexes.balancing
    listener = index.listener(command.id)
    bumped = index.bumped(listener.load_balancer_id, stamp.now, stamp.revision)
    return Outcome(None, Changes(deleted_listeners=[listener], load_balancers=[bumped]))


def check_pool(pool: MemberPool, balancer_id: Id, protocol: Protocol) -> None:
    """Raises BalancingValidation for a pool that cannot answer for a listener."""
    if pool.load_balancer_id != balancer_id:
        raise invalid(f"Pool {format_id(pool.id)} belongs to another load balancer")
    if pool.protocol is not protocol:
        raise invalid(
            f"The pool protocol '{pool.protocol.value}' is invalid while the listener protocol is '{protocol.value}'."
        )
