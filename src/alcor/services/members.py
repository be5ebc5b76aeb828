"""Members of pools: create, change, delete, replace all at once; and what hosts report of them. Pure.

Called by services.dispatch. A member is an address of the balancer's own VPC, of the VIP's family: its packets go there
as they are, but for address and port.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from alcor.model.addresses import ip_version
from alcor.model.balancing import LoadBalancer, Member, MemberPool, MemberStatus
from alcor.model.ids import Id
from alcor.services.balancing import check_quota, invalid, ip_text
from alcor.services.balancing_commands import (
    CreateMember,
    DeleteMember,
    MemberSpec,
    RecordMemberReports,
    ReplaceMembers,
    UpdateMember,
)
from alcor.services.errors import DuplicateMember
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.revisions import changed_fields
from alcor.store.base import Changes

MEMBERS_A_POOL = 1024
"""What a host spreads connections over (dataplane.base.MAX_BACKENDS)."""
_FIELDS = ("name", "weight", "admin_state_up")


def create_member(indexes: Indexes, command: CreateMember, stamp: Stamp) -> Outcome:
    """Makes the member."""
    index = indexes.balancing
    pool = index.pool(command.pool_id)
    spec = command.spec
    others = index.members_of.get(pool.id, {}).values()
    if any((one.ip, one.port) == (spec.ip, spec.port) for one in others):
        raise _duplicate(spec)
    check_quota("Member", len(others) + 1, MEMBERS_A_POOL)
    member = _member(indexes, pool, spec, stamp.ids[0], stamp)
    return Outcome(member, Changes(members=[member]))


def update_member(indexes: Indexes, command: UpdateMember, stamp: Stamp) -> Outcome:
    """Changes what the command sets."""
    before = indexes.balancing.member(command.pool_id, command.id)
    fields: dict[str, Any] = changed_fields(before, command, _FIELDS)
    if not fields:
        return Outcome(before, Changes())
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    return Outcome(after, Changes(members=[after]))


def delete_member(indexes: Indexes, command: DeleteMember) -> Outcome:
    """Deletes the member; hosts let its connections live for a while."""
    member = indexes.balancing.member(command.pool_id, command.id)
    return Outcome(None, Changes(deleted_members=[member]))


def replace_members(indexes: Indexes, command: ReplaceMembers, stamp: Stamp) -> Outcome:
    """Makes the pool have these members; those that are there, by address and port, keep what is not said."""
    index = indexes.balancing
    pool = index.pool(command.pool_id)
    known = {(one.ip, one.port): one for one in index.members_of.get(pool.id, {}).values()}
    wanted = {(spec.ip, spec.port): spec for spec in command.specs}
    if len(wanted) != len(command.specs):
        named = [(spec.ip, spec.port) for spec in command.specs]
        raise _duplicate(next(spec for spec in command.specs if named.count((spec.ip, spec.port)) > 1))
    left = [one for place, one in known.items() if place not in wanted]
    check_quota("Member", len(wanted) + (len(left) if command.additive else 0), MEMBERS_A_POOL)
    changes = Changes(deleted_members=[] if command.additive else left)
    ids = iter(stamp.ids)
    for place, spec in wanted.items():
        fresh = next(ids)
        before = known.get(place)
        if before is None:
            changes.members.append(_member(indexes, pool, spec, fresh, stamp))
            continue
        fields = {name: getattr(spec, name) for name in _FIELDS if getattr(spec, name) is not UNSET}
        after = replace(before, **fields)
        if after != before:
            changes.members.append(replace(after, updated_at=stamp.now, revision=stamp.revision))
    return Outcome(None, changes)


def record_member_reports(indexes: Indexes, command: RecordMemberReports, stamp: Stamp) -> Outcome:
    """What hosts found; the last word about a member counts. A change of status is a change that hosts are told."""
    index = indexes.balancing
    statuses = {one.id: MemberStatus.ONLINE if one.healthy else MemberStatus.ERROR for one in command.reports}
    changed = []
    for identifier, status in statuses.items():
        member = index.members.get(identifier)
        if member is None or member.status is status:
            continue
        if index.status_at_first(member.pool_id) is not MemberStatus.NO_MONITOR:
            changed.append(replace(member, status=status, revision=stamp.revision))
    return Outcome(None, Changes(members=changed))


def with_status(members: Sequence[Member], status: MemberStatus, revision: int) -> list[Member]:
    """Those of the members that have another status, with this one."""
    return [replace(one, status=status, revision=revision) for one in members if one.status is not status]


def _member(indexes: Indexes, pool: MemberPool, spec: MemberSpec, identifier: Id, stamp: Stamp) -> Member:
    balancer = indexes.balancing.load_balancers[pool.load_balancer_id]
    _check_place(indexes, balancer, spec)
    return Member(
        id=identifier,
        project_id=pool.project_id,
        name="" if spec.name is UNSET else spec.name,
        network_id=pool.network_id,
        pool_id=pool.id,
        ip=spec.ip,
        port=spec.port,
        weight=1 if spec.weight is UNSET else spec.weight,
        subnet_id=spec.subnet_id,
        admin_state_up=True if spec.admin_state_up is UNSET else spec.admin_state_up,
        status=indexes.balancing.status_at_first(pool.id),
        created_at=stamp.now,
        updated_at=stamp.now,
        revision=stamp.revision,
    )


def _check_place(indexes: Indexes, balancer: LoadBalancer, spec: MemberSpec) -> None:
    """Raises BalancingValidation for an address that is not of the balancer's VPC, or of another family."""
    address = ip_text(spec.ip)
    if ip_version(spec.ip) != ip_version(balancer.vip_ip):
        raise invalid(f"member address {address} and the VIP {ip_text(balancer.vip_ip)} are of different families")
    if spec.ip == balancer.vip_ip:
        raise invalid(f"member address {address} is the VIP")
    subnets = indexes.subnets_of.get(balancer.network_id, {})
    if spec.subnet_id is not None and spec.subnet_id not in subnets:
        raise invalid("subnet_id is not a subnet of the load balancer's network")
    if not any(
        spec.ip in subnet.cidr for subnet in subnets.values() if spec.subnet_id is None or subnet.id == spec.subnet_id
    ):
        raise invalid(f"member address {address} is not in a subnet of the load balancer's network")


def _duplicate(spec: MemberSpec) -> DuplicateMember:
    return DuplicateMember(
        f"Another member on this pool is already using ip {ip_text(spec.ip)} on protocol_port {spec.port}"
    )
