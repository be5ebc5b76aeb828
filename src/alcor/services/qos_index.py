"""What services know of quality of service without asking the store. Part of Indexes, whose rules it keeps."""

from __future__ import annotations

from collections import Counter

from alcor.model.ids import Id
from alcor.model.nouns import Port
from alcor.model.qos import QosBinding, QosPolicy, QosRule
from alcor.store.base import Changes, Store


class QosIndex:
    """Policies, rules, bindings, and how many ports have which policy."""

    def __init__(self, store: Store) -> None:
        self.policies: dict[Id, QosPolicy] = {}
        self.rules: dict[Id, QosRule] = {}
        self.rules_of: dict[Id, dict[Id, QosRule]] = {}
        """Policy -> its rules."""
        self.bindings: dict[Id, dict[Id, QosBinding]] = {}
        """Network -> policy."""
        self.ports_with: Counter[Id] = Counter(dict(store.ports_of_qos_policies()))
        """Policy -> how many ports have it as their own."""
        self.apply(
            Changes(qos_policies=store.qos_policies(), qos_rules=store.qos_rules(), qos_bindings=store.qos_bindings())
        )

    def apply(self, changes: Changes) -> None:
        """Makes one command's changes so."""
        for policy in changes.qos_policies:
            self.policies[policy.id] = policy
        for rule in changes.qos_rules:
            self.rules[rule.id] = rule
            self.rules_of.setdefault(rule.policy_id, {})[rule.id] = rule
        for binding in changes.qos_bindings:
            self.bindings.setdefault(binding.network_id, {})[binding.policy_id] = binding
        for rule in changes.deleted_qos_rules:
            del self.rules[rule.id]
            self.rules_of[rule.policy_id].pop(rule.id)
        for binding in changes.deleted_qos_bindings:
            self.bindings[binding.network_id].pop(binding.policy_id)
        for policy in changes.deleted_qos_policies:
            del self.policies[policy.id]
            self.rules_of.pop(policy.id, None)
        for network in changes.deleted_networks:
            self.bindings.pop(network.id, None)
        for port in changes.new_ports:
            self._count(port, 1)
        for before, after in changes.changed_ports:
            if before.qos_policy_id != after.qos_policy_id:
                self._count(before, -1)
                self._count(after, 1)
        for port in changes.deleted_ports:
            self._count(port, -1)

    def _count(self, port: Port, step: int) -> None:
        if port.qos_policy_id is not None:
            self.ports_with[port.qos_policy_id] += step
            if not self.ports_with[port.qos_policy_id]:
                del self.ports_with[port.qos_policy_id]
