"""Which policies of quality of service a network's hosts must know, and what they say. Pure.

Called by delta and the publish loop, as snapshot.Groups is. A policy is in the scope of a network from its first use
there (QosBinding) until one of the two is deleted: ports may take it and leave it, and only they are published.
"""

from __future__ import annotations

from collections.abc import Iterable

from alcor.goalstate.objects import LimitGoal, QosGoal
from alcor.model.ids import Id
from alcor.model.nouns import Direction
from alcor.model.qos import QosBinding, QosPolicy, QosRule, QosRuleKind


class Policies:
    """Policies, their rules and bindings, as of one commit. Whoever makes it keeps it up to date: `put` and `drop`."""

    def __init__(
        self, policies: Iterable[QosPolicy] = (), rules: Iterable[QosRule] = (), bindings: Iterable[QosBinding] = ()
    ) -> None:
        self._policies: dict[Id, QosPolicy] = {}
        self._rules: dict[Id, dict[Id, QosRule]] = {}
        self._bindings: dict[Id, dict[Id, QosBinding]] = {}
        """Network -> policy."""
        self._users: dict[Id, set[Id]] = {}
        """Policy -> networks."""
        self.put(policies, rules, bindings)

    def put(
        self, policies: Iterable[QosPolicy] = (), rules: Iterable[QosRule] = (), bindings: Iterable[QosBinding] = ()
    ) -> None:
        """New and changed rows."""
        for policy in policies:
            self._policies[policy.id] = policy
        for rule in rules:
            self._rules.setdefault(rule.policy_id, {})[rule.id] = rule
        for binding in bindings:
            self._bindings.setdefault(binding.network_id, {})[binding.policy_id] = binding
            self._users.setdefault(binding.policy_id, set()).add(binding.network_id)

    def drop(
        self, policies: Iterable[QosPolicy] = (), rules: Iterable[QosRule] = (), bindings: Iterable[QosBinding] = ()
    ) -> None:
        """Deleted rows; an absent one is passed over."""
        for rule in rules:
            self._rules.get(rule.policy_id, {}).pop(rule.id, None)
        for binding in bindings:
            self._bindings.get(binding.network_id, {}).pop(binding.policy_id, None)
            self._users.get(binding.policy_id, set()).discard(binding.network_id)
        for policy in policies:
            self._policies.pop(policy.id, None)
            self._rules.pop(policy.id, None)
            self._users.pop(policy.id, None)

    def drop_network(self, network_id: Id) -> None:
        """A network that is gone, with its bindings."""
        self.drop(bindings=list(self._bindings.pop(network_id, {}).values()))

    def networks_of(self, policy_id: Id) -> list[Id]:
        """The networks whose hosts know the policy, sorted."""
        return sorted(self._users.get(policy_id, ()))

    def goal(self, network_id: Id, policy_id: Id) -> QosGoal | None:
        """The policy as the network's scope has it; None when it is not in there."""
        policy = self._policies.get(policy_id)
        binding = self._bindings.get(network_id, {}).get(policy_id)
        if policy is None or binding is None:
            return None
        limits: dict[Direction, LimitGoal] = {}
        dscp: int | None = None
        for rule in self._rules.get(policy_id, {}).values():
            if rule.kind is QosRuleKind.BANDWIDTH_LIMIT:
                limits[rule.direction] = LimitGoal(rule.max_kbps, rule.max_burst_kbps)
            else:
                dscp = rule.dscp_mark
        revision = max(policy.revision, binding.revision)
        return QosGoal(policy_id, revision, limits.get(Direction.EGRESS), limits.get(Direction.INGRESS), dscp)

    def goals(self, network_id: Id) -> list[QosGoal]:
        """All policies of the network's scope, sorted by key."""
        named = sorted(self._bindings.get(network_id, ()))
        return [goal for one in named if (goal := self.goal(network_id, one)) is not None]
