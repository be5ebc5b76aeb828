"""Health monitors of pools: create, change, delete. Pure.

Called by services.dispatch. With its monitor a pool's revision grows, and its members' statuses begin anew.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from alcor.model.balancing import HealthMonitor, MemberStatus, MonitorType, Protocol
from alcor.services.balancing import invalid
from alcor.services.balancing_commands import CreateHealthMonitor, DeleteHealthMonitor, UpdateHealthMonitor
from alcor.services.errors import DuplicateHealthMonitor
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.members import with_status
from alcor.services.revisions import changed_fields
from alcor.store.base import Changes

HTTP = frozenset((MonitorType.HTTP, MonitorType.HTTPS))
_FIELDS = (
    *("name", "delay_s", "timeout_s", "rise", "fall", "http_method", "url_path", "expected_codes"),
    "admin_state_up",
)


def create_health_monitor(indexes: Indexes, command: CreateHealthMonitor, stamp: Stamp) -> Outcome:
    """Makes the monitor: nothing is known of the pool's members until they are probed."""
    index = indexes.balancing
    pool = index.pool(command.pool_id)
    if pool.id in index.monitor_of:
        raise DuplicateHealthMonitor("This pool already has a health monitor")
    if (command.type is MonitorType.UDP_CONNECT) != (pool.protocol is Protocol.UDP) and (
        command.type is MonitorType.UDP_CONNECT or command.type is MonitorType.HTTPS
    ):
        raise invalid(
            f"The health monitor type '{command.type.value}' is invalid while the pool protocol is "
            f"'{pool.protocol.value}'."
        )
    http = command.type in HTTP
    monitor = HealthMonitor(
        id=stamp.ids[0],
        project_id=pool.project_id,
        name=command.name,
        network_id=pool.network_id,
        pool_id=pool.id,
        type=command.type,
        delay_s=command.delay_s,
        timeout_s=command.timeout_s,
        rise=command.rise,
        fall=command.fall,
        http_method=(command.http_method or "GET") if http else "",
        url_path=(command.url_path or "/") if http else "",
        expected_codes=(command.expected_codes or "200") if http else "",
        admin_state_up=command.admin_state_up,
        created_at=stamp.now,
        updated_at=stamp.now,
        revision=stamp.revision,
    )
    _check(monitor)
    return Outcome(monitor, _changes(indexes, monitor, stamp))


def update_health_monitor(indexes: Indexes, command: UpdateHealthMonitor, stamp: Stamp) -> Outcome:
    """Changes what the command sets."""
    before = indexes.balancing.monitor(command.id)
    fields: dict[str, Any] = changed_fields(before, command, _FIELDS)
    if not fields:
        return Outcome(before, Changes())
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    _check(after)
    if "admin_state_up" in fields:
        return Outcome(after, _changes(indexes, after, stamp))
    bumped = indexes.balancing.bumped_pool(after.pool_id, stamp.now, stamp.revision)
    return Outcome(after, Changes(health_monitors=[after], member_pools=[bumped]))


def delete_health_monitor(indexes: Indexes, command: DeleteHealthMonitor, stamp: Stamp) -> Outcome:
    """Deletes the monitor: all members answer."""
    index = indexes.balancing
    monitor = index.monitor(command.id)
    members = list(index.members_of.get(monitor.pool_id, {}).values())
    return Outcome(
        None,
        Changes(
            deleted_health_monitors=[monitor],
            member_pools=[index.bumped_pool(monitor.pool_id, stamp.now, stamp.revision)],
            members=with_status(members, MemberStatus.NO_MONITOR, stamp.revision),
        ),
    )


def _changes(indexes: Indexes, monitor: HealthMonitor, stamp: Stamp) -> Changes:
    index = indexes.balancing
    status = MemberStatus.OFFLINE if monitor.admin_state_up else MemberStatus.NO_MONITOR
    members = list(index.members_of.get(monitor.pool_id, {}).values())
    return Changes(
        health_monitors=[monitor],
        member_pools=[index.bumped_pool(monitor.pool_id, stamp.now, stamp.revision)],
        members=with_status(members, status, stamp.revision),
    )


def _check(monitor: HealthMonitor) -> None:
    if monitor.type not in HTTP and (monitor.http_method or monitor.url_path or monitor.expected_codes):
        raise invalid(f"http_method, url_path and expected_codes are of HTTP, not of {monitor.type.value}")
    if monitor.timeout_s > monitor.delay_s:
        raise invalid("The timeout must be less than or equal to the delay")
