"""Security groups and their rules: create, change, delete; the default group of a project. Pure.

Called by services.dispatch. Words, validation and messages are Neutron's. A rule that comes or goes bumps its group's
revision in the same commit: that is what hosts are told by. Which number stands for which set of groups is identities'.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from alcor.model.ids import Id, format_id
from alcor.model.nouns import Direction, SecurityGroup, SecurityGroupRule
from alcor.services.commands import (
    CreateSecurityGroupRules,
    CreateSecurityGroups,
    DeleteSecurityGroup,
    DeleteSecurityGroupRule,
    EnsureDefaultGroup,
    SecurityGroupRuleSpec,
    UpdateSecurityGroup,
)
from alcor.services.errors import (
    OverQuota,
    SecurityGroupCannotRemoveDefault,
    SecurityGroupCannotUpdateDefault,
    SecurityGroupDefaultAlreadyExists,
    SecurityGroupInUse,
    SecurityGroupNotFound,
    SecurityGroupRuleExists,
    SecurityGroupRuleNotFound,
)
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.revisions import changed_fields, check_if_match
from alcor.services.rules import check_rule
from alcor.store.base import Changes

DEFAULT_NAME = "default"
RULES_A_GROUP = 10_000
RULES_A_PROJECT = 100_000
GROUPS_A_PROJECT = 10_000
"""Quotas, until projects have their own."""


def create_security_groups(indexes: Indexes, command: CreateSecurityGroups, stamp: Stamp) -> Outcome:
    """Makes the groups, each with rules that let everything out (as in Neutron)."""
    groups: list[SecurityGroup] = []
    rules: list[SecurityGroupRule] = []
    counted: dict[str, int] = {}
    for identifier, spec in zip(stamp.ids, command.specs, strict=True):
        if spec.name == DEFAULT_NAME:
            raise SecurityGroupDefaultAlreadyExists("Default security group already exists.")
        counted[spec.project_id] = counted.get(spec.project_id, 0) + 1
        group = SecurityGroup(
            id=identifier,
            project_id=spec.project_id,
            name=spec.name,
            description=spec.description,
            created_at=stamp.now,
            updated_at=stamp.now,
            revision=stamp.revision,
        )
        groups.append(group)
        rules += _plain_rules(group, stamp, (Direction.EGRESS,))
    for project_id, more in counted.items():
        if len(indexes.groups_of.get(project_id, ())) + more > GROUPS_A_PROJECT:
            raise OverQuota("Quota exceeded for resources: ['security_group'].")
    return Outcome(tuple(groups), Changes(security_groups=groups, rules=rules))


def ensure_default_group(indexes: Indexes, command: EnsureDefaultGroup, stamp: Stamp) -> Outcome:
    """The project's default group, made when it has none."""
    changes = Changes()
    group = default_group(indexes, command.project_id, stamp, changes)
    return Outcome(group, changes)


def default_group(indexes: Indexes, project_id: str, stamp: Stamp, changes: Changes) -> SecurityGroup:
    """The project's default group; a new one goes into `changes`, with Neutron's four rules."""
    known = indexes.default_groups.get(project_id)
    if known is not None:
        return indexes.security_groups[known]
    for fresh in changes.security_groups:
        if fresh.name == DEFAULT_NAME and fresh.project_id == project_id:
            return fresh
    (identifier,) = stamp.spare(1)
    group = SecurityGroup(
        id=identifier,
        project_id=project_id,
        name=DEFAULT_NAME,
        description="Default security group",
        created_at=stamp.now,
        updated_at=stamp.now,
        revision=stamp.revision,
    )
    changes.security_groups.append(group)
    changes.rules += _plain_rules(group, stamp, (Direction.EGRESS, Direction.INGRESS))
    return group


def update_security_group(indexes: Indexes, command: UpdateSecurityGroup, stamp: Stamp) -> Outcome:
    """Changes what the command sets. Nothing different: nothing is written, the revision stays."""
    before = find_security_group(indexes, command.id)
    check_if_match(before, command.if_match)
    fields: dict[str, Any] = changed_fields(before, command, ("name", "description"))
    if not fields:
        return Outcome(before, Changes())
    if "name" in fields and before.name == DEFAULT_NAME:
        raise SecurityGroupCannotUpdateDefault("Updating default security group not allowed.")
    if fields.get("name") == DEFAULT_NAME:
        raise SecurityGroupDefaultAlreadyExists("Default security group already exists.")
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    return Outcome(after, Changes(security_groups=[after]))


def delete_security_group(indexes: Indexes, command: DeleteSecurityGroup, stamp: Stamp) -> Outcome:
    """Deletes a group that no port is in, its rules, other groups' rules that name it, and the identities that do."""
    group = find_security_group(indexes, command.id)
    check_if_match(group, command.if_match)
    if group.name == DEFAULT_NAME:
        raise SecurityGroupCannotRemoveDefault("Insufficient rights for removing default security group.")
    identities = indexes.identities_with(group.id)
    if any(indexes.ports_with[one.network_id, one.number] for one in identities):
        raise SecurityGroupInUse(f"Security Group {format_id(group.id)} in use.")
    naming = [rule for rule in indexes.rules.values() if rule.remote_group == group.id and rule.group_id != group.id]
    changes = Changes(
        deleted_security_groups=[group],
        deleted_rules=[*indexes.rules_of.get(group.id, {}).values(), *naming],
        deleted_identities=identities,
        security_groups=_bumped(indexes, {rule.group_id for rule in naming}, stamp),
    )
    return Outcome(None, changes)


def create_security_group_rules(indexes: Indexes, command: CreateSecurityGroupRules, stamp: Stamp) -> Outcome:
    """Makes the rules, all or none. Raises SecurityGroupRuleExists for one that is there already."""
    rules: list[SecurityGroupRule] = []
    meanings: dict[Id, set[tuple[object, ...]]] = {}
    for identifier, spec in zip(stamp.ids, command.specs, strict=True):
        group = find_security_group(indexes, spec.group_id)
        _check_owner(group, spec.project_id)
        if spec.remote_group is not None:
            _check_owner(find_security_group(indexes, spec.remote_group), group.project_id)
        rule = _rule(identifier, group, spec, stamp)
        known = meanings.get(group.id)
        if known is None:
            known = {_meaning(one) for one in indexes.rules_of.get(group.id, {}).values()}
            meanings[group.id] = known
        if _meaning(rule) in known:
            raise SecurityGroupRuleExists(f"Security group rule already exists. Rule id is {_twin(indexes, rule)}.")
        known.add(_meaning(rule))
        if len(known) > RULES_A_GROUP:
            raise OverQuota(
                f"Quota exceeded for resources: ['security_group_rule']: a group has at most {RULES_A_GROUP}."
            )
        rules.append(rule)
    _check_project_quota(indexes, rules)
    bumped = _bumped(indexes, {rule.group_id for rule in rules}, stamp)
    return Outcome(tuple(rules), Changes(rules=rules, security_groups=bumped))


def delete_security_group_rule(indexes: Indexes, command: DeleteSecurityGroupRule, stamp: Stamp) -> Outcome:
    """Deletes a rule; the connections that it allowed are cut."""
    rule = indexes.rules.get(command.id)
    if rule is None:
        raise SecurityGroupRuleNotFound(f"Security group rule {format_id(command.id)} does not exist")
    check_if_match(rule, command.if_match)
    return Outcome(None, Changes(deleted_rules=[rule], security_groups=_bumped(indexes, {rule.group_id}, stamp)))


def find_security_group(indexes: Indexes, group_id: Id) -> SecurityGroup:
    """The group of an id. Raises SecurityGroupNotFound."""
    group = indexes.security_groups.get(group_id)
    if group is None:
        raise SecurityGroupNotFound(f"Security group {format_id(group_id)} does not exist")
    return group


def check_groups(indexes: Indexes, group_ids: Iterable[Id], project_id: str) -> tuple[Id, ...]:
    """The groups of a port of that project, sorted, each once. Raises SecurityGroupNotFound, for a foreign one too."""
    found = tuple(sorted(set(group_ids)))
    for group_id in found:
        _check_owner(find_security_group(indexes, group_id), project_id)
    return found


def _check_owner(group: SecurityGroup, project_id: str) -> None:
    if group.project_id != project_id:
        raise SecurityGroupNotFound(f"Security group {format_id(group.id)} does not exist")


def _plain_rules(group: SecurityGroup, stamp: Stamp, directions: tuple[Direction, ...]) -> list[SecurityGroupRule]:
    """For both families: everything out; with INGRESS, everything in from the group itself."""
    rules = []
    ids = iter(stamp.spare(2 * len(directions)))
    for direction in directions:
        for version in (4, 6):
            remote = group.id if direction is Direction.INGRESS else None
            spec = SecurityGroupRuleSpec(group_id=group.id, direction=direction, version=version, remote_group=remote)
            rules.append(_rule(next(ids), group, spec, stamp))
    return rules


def _rule(identifier: Id, group: SecurityGroup, spec: SecurityGroupRuleSpec, stamp: Stamp) -> SecurityGroupRule:
    check_rule(spec)
    return SecurityGroupRule(
        id=identifier,
        group_id=group.id,
        project_id=group.project_id,
        description=spec.description,
        direction=spec.direction,
        version=spec.version,
        protocol=spec.protocol,
        protocol_name=spec.protocol_name,
        port_min=spec.port_min,
        port_max=spec.port_max,
        remote_prefix=spec.remote_prefix,
        remote_group=spec.remote_group,
        created_at=stamp.now,
        updated_at=stamp.now,
        revision=stamp.revision,
    )


def _meaning(rule: SecurityGroupRule) -> tuple[object, ...]:
    """What two rules of a group must not share."""
    return (
        *(rule.direction, rule.version, rule.protocol, rule.port_min, rule.port_max),
        *(rule.remote_prefix, rule.remote_group),
    )


def _twin(indexes: Indexes, rule: SecurityGroupRule) -> str:
    for one in indexes.rules_of.get(rule.group_id, {}).values():
        if _meaning(one) == _meaning(rule):
            return format_id(one.id)
    return "in the same request"


def _check_project_quota(indexes: Indexes, rules: Sequence[SecurityGroupRule]) -> None:
    for project_id in {rule.project_id for rule in rules}:
        more = sum(rule.project_id == project_id for rule in rules)
        if indexes.rules_in_project[project_id] + more > RULES_A_PROJECT:
            raise OverQuota("Quota exceeded for resources: ['security_group_rule'].")


def _bumped(indexes: Indexes, group_ids: Iterable[Id], stamp: Stamp) -> list[SecurityGroup]:
    return [
        replace(indexes.security_groups[group_id], updated_at=stamp.now, revision=stamp.revision)
        for group_id in sorted(group_ids)
    ]
