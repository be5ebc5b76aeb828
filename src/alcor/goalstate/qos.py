"""Which policies of quality of service a network's hosts must know, and what they say. Pure.

Called by delta and the publish loop, as snapshot.Groups is. A policy is in the scope of a network from its first use
there (QosBinding) until one of the two is deleted: ports may take it and leave it, and only they are published. An
external network stands in other networks' scopes for the policy that it has, or for none: its floating IPs name it, and
when it gets another policy, that is one object in each scope, and no port.
"""

from __future__ import annotations

from collections.abc import Iterable

from alcor.goalstate.objects import LimitGoal, QosGoal
from alcor.model.ids import Id
from alcor.model.nouns import Direction, Network
from alcor.model.qos import QosBinding, QosPolicy, QosRule, QosRuleKind


class Policies:
    """Policies, their rules and bindings, as of one commit. Whoever makes it keeps it up to date: `put` and `drop`."""

    def __init__(
        self,
        policies: Iterable[QosPolicy] = (),
        rules: Iterable[QosRule] = (),
        bindings: Iterable[QosBinding] = (),
        networks: Iterable[Network] = (),
    ) -> None:
        self._policies: dict[Id, QosPolicy] = {}
        self._rules: dict[Id, dict[Id, QosRule]] = {}
        self._bindings: dict[Id, dict[Id, QosBinding]] = {}
        """Network -> policy."""
        self._users: dict[Id, set[Id]] = {}
        """Policy, or external network -> networks."""
        self._outside: dict[Id, Network] = {}
        """External networks."""
        self.put(policies, rules, bindings, networks)

    def put(
        self,
        policies: Iterable[QosPolicy] = (),
        rules: Iterable[QosRule] = (),
        bindings: Iterable[QosBinding] = (),
        networks: Iterable[Network] = (),
    ) -> None:
        """New and changed rows."""
        for network in networks:
            if network.external:
                self._outside[network.id] = network
            else:
                self._outside.pop(network.id, None)
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
        self._outside.pop(network_id, None)
        self.drop(bindings=list(self._bindings.pop(network_id, {}).values()))

    def networks_of(self, policy_id: Id) -> list[Id]:
        """The networks whose hosts know the policy, or the external network's, sorted."""
        return sorted(self._users.get(policy_id, ()))

    def places_of(self, policy_id: Id) -> set[tuple[Id, Id]]:
        """(network, id of a QosGoal): where the policy is, as itself or as what an external network has."""
        users = self._users.get(policy_id, set())
        named = [one for one in users if one in self._outside and self._outside[one].qos_policy_id == policy_id]
        return {(user, policy_id) for user in users} | {(user, one) for one in named for user in self.networks_of(one)}

    def goal(self, network_id: Id, policy_id: Id) -> QosGoal | None:
        """The policy (or the external network's) as the network's scope has it; None when it is not in there."""
        binding = self._bindings.get(network_id, {}).get(policy_id)
        outside = self._outside.get(policy_id)
        policy = self._policies.get(policy_id if outside is None else outside.qos_policy_id or policy_id)
        if binding is None or (policy is None and outside is None):
            return None
        limits: dict[Direction, LimitGoal] = {}
        dscp: int | None = None
        for rule in self._rules.get(policy.id, {}).values() if policy is not None else ():
            if rule.kind is QosRuleKind.BANDWIDTH_LIMIT:
                limits[rule.direction] = LimitGoal(rule.max_kbps, rule.max_burst_kbps)
            else:
                dscp = rule.dscp_mark
        revision = max(one.revision for one in (binding, policy, outside) if one is not None)
        return QosGoal(policy_id, revision, limits.get(Direction.EGRESS), limits.get(Direction.INGRESS), dscp)

    def goals(self, network_id: Id) -> list[QosGoal]:
        """All policies of the network's scope, sorted by key."""
        named = sorted(self._bindings.get(network_id, ()))
        return [goal for one in named if (goal := self.goal(network_id, one)) is not None]
