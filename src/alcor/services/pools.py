"""Pools: the members that answer for listeners. Create, change, delete. Pure.

Called by services.dispatch.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from alcor.model.balancing import MemberPool
from alcor.model.ids import format_id
from alcor.services.balancing import POOLS_A_NETWORK, check_quota, invalid
from alcor.services.balancing_commands import CreatePool, DeletePool, UpdatePool
from alcor.services.errors import ListenerHasPool
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.listeners import check_pool
from alcor.services.revisions import changed_fields
from alcor.store.base import Changes


def create_pool(indexes: Indexes, command: CreatePool, stamp: Stamp) -> Outcome:
    """Makes the pool; a listener that is named gets it as its default."""
    index = indexes.balancing
    listener = index.listener(command.listener_id) if command.listener_id is not None else None
    if listener is not None:
        balancer = index.load_balancer(listener.load_balancer_id)
        if command.load_balancer_id not in (None, balancer.id):
            raise invalid(f"Listener {format_id(listener.id)} belongs to another load balancer")
        if listener.pool_id is not None:
            raise ListenerHasPool(f"Listener {format_id(listener.id)} already has a default pool")
    elif command.load_balancer_id is not None:
        balancer = index.load_balancer(command.load_balancer_id)
    else:
        raise invalid("Must provide at least one of: loadbalancer_id, listener_id")
    check_quota("Pool", sum(one.network_id == balancer.network_id for one in index.pools.values()) + 1, POOLS_A_NETWORK)
    pool = MemberPool(
        id=stamp.ids[0],
        project_id=balancer.project_id,
        name=command.name,
        description=command.description,
        network_id=balancer.network_id,
        load_balancer_id=balancer.id,
        protocol=command.protocol,
        algorithm=command.algorithm,
        persistence=command.persistence,
        admin_state_up=command.admin_state_up,
        created_at=stamp.now,
        updated_at=stamp.now,
        revision=stamp.revision,
    )
    changes = Changes(member_pools=[pool])
    if listener is not None:
        check_pool(pool, balancer.id, listener.protocol)
        changes.listeners.append(replace(listener, pool_id=pool.id, updated_at=stamp.now, revision=stamp.revision))
        changes.load_balancers.append(index.bumped(balancer.id, stamp.now, stamp.revision))
    return Outcome(pool, changes)


def update_pool(indexes: Indexes, command: UpdatePool, stamp: Stamp) -> Outcome:
    """Changes what the command sets."""
    before = indexes.balancing.pool(command.id)
    names = ("name", "description", "algorithm", "persistence", "admin_state_up")
    fields: dict[str, Any] = changed_fields(before, command, names)
    if not fields:
        return Outcome(before, Changes())
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    return Outcome(after, Changes(member_pools=[after]))


def delete_pool(indexes: Indexes, command: DeletePool, stamp: Stamp) -> Outcome:
    """Deletes the pool, its members and its monitor; listeners that had it answer for nobody."""
    index = indexes.balancing
    pool = index.pool(command.id)
    changes = Changes(deleted_member_pools=[pool], deleted_members=list(index.members_of.get(pool.id, {}).values()))
    if pool.id in index.monitor_of:
        changes.deleted_health_monitors.append(index.monitor_of[pool.id])
    for listener in index.listeners_of.get(pool.load_balancer_id, {}).values():
        if listener.pool_id == pool.id:
            changes.listeners.append(replace(listener, pool_id=None, updated_at=stamp.now, revision=stamp.revision))
    if changes.listeners:
        changes.load_balancers.append(index.bumped(pool.load_balancer_id, stamp.now, stamp.revision))
    return Outcome(None, changes)
