"""Quality of service: policies, their rules, and who has them. Pure: (indexes, command, stamp) -> outcome.

Called by services.dispatch; networks and ports bind policies through `Bindings`. Messages are Neutron's. Ports of any
project may have a policy: who may hand them out is a question for roles.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from alcor.model.ids import Id, format_id
from alcor.model.nouns import Eip, Forwarding, Port
from alcor.model.qos import QosBinding, QosPolicy, QosRule, QosRuleKind
from alcor.services.errors import (
    InvalidInput,
    QosPolicyDefaultAlreadyExists,
    QosPolicyInUse,
    QosPolicyNotFound,
    QosRuleNotFound,
    QoSRulesConflict,
)
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.services.qos_commands import (
    CreateQosPolicies,
    CreateQosRule,
    DeleteQosPolicy,
    DeleteQosRule,
    UpdateQosPolicy,
    UpdateQosRule,
)
from alcor.services.revisions import changed_fields, check_if_match
from alcor.store.base import Changes

MAX_KBPS = (1 << 31) - 1
DSCP_MARKS = frozenset((0, *range(8, 41, 2), 44, 46, 48, 56))
"""What Neutron takes: class selectors, assured and expedited forwarding, voice admit (RFC 2474, 2597, 3246, 5865)."""
_POLICY_FIELDS = ("name", "description", "shared", "is_default")
_RULE_FIELDS = ("direction", "max_kbps", "max_burst_kbps", "dscp_mark")


class Bindings:
    """The policies that one command's networks and ports need; new bindings go into its `changes`."""

    def __init__(self, indexes: Indexes, stamp: Stamp, changes: Changes) -> None:
        self._indexes = indexes
        self._stamp = stamp
        self._changes = changes
        self._fresh: set[tuple[Id, Id]] = set()

    def bind(self, network_id: Id, policy_id: Id | None) -> None:
        """The network's hosts will know the policy. Raises QosPolicyNotFound."""
        if policy_id is not None:
            find_policy(self._indexes, policy_id)
            self._bind(network_id, policy_id)

    def _bind(self, network_id: Id, policy_id: Id) -> None:
        bound = network_id, policy_id
        if bound in self._fresh or policy_id in self._indexes.qos.bindings.get(network_id, {}):
            return
        self._fresh.add(bound)
        binding = QosBinding(network_id=network_id, policy_id=policy_id, revision=self._stamp.revision)
        self._changes.qos_bindings.append(binding)

    def bind_ports(self, ports: Iterable[Port]) -> None:
        """Of each port the network and the policies: its own, and those of its external addresses or their networks.
        Raises QosPolicyNotFound."""
        for port in ports:
            self.bind(port.network_id, port.qos_policy_id)
            outer: list[Eip | Forwarding] = [*port.eips, *port.forwardings]
            for qos_id in (one.qos_id for one in outer if one.qos_id is not None):
                if qos_id in self._indexes.networks:
                    self._bind(port.network_id, qos_id)
                else:
                    self.bind(port.network_id, qos_id)


def bindings_to(indexes: Indexes, policy_id: Id) -> list[QosBinding]:
    """Of all networks those to the policy, or to that of the external network."""
    return [known[policy_id] for known in indexes.qos.bindings.values() if policy_id in known]


def find_policy(indexes: Indexes, policy_id: Id) -> QosPolicy:
    """The policy of an id. Raises QosPolicyNotFound."""
    policy = indexes.qos.policies.get(policy_id)
    if policy is None:
        raise QosPolicyNotFound(f"QoS policy {format_id(policy_id)} could not be found.")
    return policy


def create_qos_policies(indexes: Indexes, command: CreateQosPolicies, stamp: Stamp) -> Outcome:
    """Makes the policies, without rules."""
    policies = []
    defaults: set[str] = set()
    for identifier, spec in zip(stamp.ids, command.specs, strict=True):
        if spec.is_default:
            _check_default(indexes, spec.project_id, also=defaults)
            defaults.add(spec.project_id)
        policies.append(
            QosPolicy(
                id=identifier,
                project_id=spec.project_id,
                name=spec.name,
                description=spec.description,
                shared=spec.shared,
                is_default=spec.is_default,
                created_at=stamp.now,
                updated_at=stamp.now,
                revision=stamp.revision,
            )
        )
    return Outcome(tuple(policies), Changes(qos_policies=policies))


def update_qos_policy(indexes: Indexes, command: UpdateQosPolicy, stamp: Stamp) -> Outcome:
    """Changes what the command sets. Nothing different: nothing is written, the revision stays."""
    before = find_policy(indexes, command.id)
    check_if_match(before, command.if_match)
    fields: dict[str, Any] = changed_fields(before, command, _POLICY_FIELDS)
    if not fields:
        return Outcome(before, Changes())
    if fields.get("is_default"):
        _check_default(indexes, before.project_id)
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    return Outcome(after, Changes(qos_policies=[after]))


def delete_qos_policy(indexes: Indexes, command: DeleteQosPolicy) -> Outcome:
    """Deletes a policy that nobody has, with its rules and bindings."""
    policy = find_policy(indexes, command.id)
    check_if_match(policy, command.if_match)
    network = next((one for one in indexes.networks.values() if one.qos_policy_id == policy.id), None)
    if network is not None:
        raise QosPolicyInUse(f"QoS Policy {format_id(policy.id)} is used by network {format_id(network.id)}.")
    ports = indexes.qos.ports_with[policy.id]
    if ports:
        raise QosPolicyInUse(f"QoS Policy {format_id(policy.id)} is used by {ports} ports.")
    fip = next((one for one in indexes.floating_ips.values() if one.qos_policy_id == policy.id), None)
    if fip is not None:
        raise QosPolicyInUse(f"QoS Policy {format_id(policy.id)} is used by floating IP {format_id(fip.id)}.")
    changes = Changes(
        deleted_qos_policies=[policy],
        deleted_qos_rules=list(indexes.qos.rules_of.get(policy.id, {}).values()),
        deleted_qos_bindings=bindings_to(indexes, policy.id),
    )
    return Outcome(None, changes)


def create_qos_rule(indexes: Indexes, command: CreateQosRule, stamp: Stamp) -> Outcome:
    """Adds the rule to its policy: at most one of a kind and direction."""
    policy = find_policy(indexes, command.policy_id)
    (identifier,) = stamp.ids
    rule = QosRule(
        id=identifier,
        policy_id=policy.id,
        kind=command.kind,
        direction=command.direction,
        max_kbps=command.max_kbps,
        max_burst_kbps=command.max_burst_kbps,
        dscp_mark=command.dscp_mark,
        created_at=stamp.now,
        updated_at=stamp.now,
        revision=stamp.revision,
    )
    _check_rule(indexes, rule)
    return Outcome(rule, Changes(qos_rules=[rule], qos_policies=[_bumped(policy, stamp)]))


def update_qos_rule(indexes: Indexes, command: UpdateQosRule, stamp: Stamp) -> Outcome:
    """Changes what the command sets. It acts on the traffic that runs."""
    before = find_rule(indexes, command.id, command.policy_id, command.kind)
    check_if_match(before, command.if_match)
    fields: dict[str, Any] = changed_fields(before, command, _RULE_FIELDS)
    if not fields:
        return Outcome(before, Changes())
    after = replace(before, **fields, updated_at=stamp.now, revision=stamp.revision)
    _check_rule(indexes, after)
    policy = indexes.qos.policies[before.policy_id]
    return Outcome(after, Changes(qos_rules=[after], qos_policies=[_bumped(policy, stamp)]))


def delete_qos_rule(indexes: Indexes, command: DeleteQosRule, stamp: Stamp) -> Outcome:
    """Takes the rule out of its policy."""
    rule = find_rule(indexes, command.id, command.policy_id, command.kind)
    check_if_match(rule, command.if_match)
    policy = indexes.qos.policies[rule.policy_id]
    return Outcome(None, Changes(deleted_qos_rules=[rule], qos_policies=[_bumped(policy, stamp)]))


def find_rule(indexes: Indexes, rule_id: Id, policy_id: Id | None, kind: QosRuleKind) -> QosRule:
    """The rule of that id and kind in that policy (None: in any). Raises QosPolicyNotFound, QosRuleNotFound."""
    if policy_id is not None:
        find_policy(indexes, policy_id)
    rule = indexes.qos.rules.get(rule_id)
    if rule is None or rule.kind is not kind or policy_id not in (None, rule.policy_id):
        raise QosRuleNotFound(f"QoS rule of type {kind} {format_id(rule_id)} could not be found.")
    return rule


def _check_default(indexes: Indexes, project_id: str, also: set[str] | frozenset[str] = frozenset()) -> None:
    if project_id in also or default_policy(indexes, project_id) is not None:
        raise QosPolicyDefaultAlreadyExists(f"A default QoS policy exists for project {project_id}.")


def default_policy(indexes: Indexes, project_id: str) -> Id | None:
    """What new networks of the project get."""
    for policy in indexes.qos.policies.values():
        if policy.is_default and policy.project_id == project_id:
            return policy.id
    return None


def _check_rule(indexes: Indexes, rule: QosRule) -> None:
    if rule.kind is QosRuleKind.BANDWIDTH_LIMIT:
        if not 1 <= rule.max_kbps <= MAX_KBPS:
            raise InvalidInput(
                f"Invalid input for operation: max_kbps {rule.max_kbps} is not 1 to {MAX_KBPS}. To lift a limit delete "
                "its rule."
            )
        if not 0 <= rule.max_burst_kbps <= MAX_KBPS:
            raise InvalidInput(
                f"Invalid input for operation: max_burst_kbps {rule.max_burst_kbps} is not 0 to {MAX_KBPS}."
            )
    elif rule.dscp_mark not in DSCP_MARKS:
        known = ", ".join(map(str, sorted(DSCP_MARKS)))
        raise InvalidInput(f"Invalid input for operation: dscp_mark {rule.dscp_mark} is none of {known}.")
    for other in indexes.qos.rules_of.get(rule.policy_id, {}).values():
        if other.id != rule.id and (other.kind, other.direction) == (rule.kind, rule.direction):
            raise QoSRulesConflict(
                f"Rule {rule.kind} conflicts with rule {format_id(other.id)} which already exists in QoS Policy "
                f"{format_id(rule.policy_id)}."
            )


def _bumped(policy: QosPolicy, stamp: Stamp) -> QosPolicy:
    return replace(policy, updated_at=stamp.now, revision=stamp.revision)
