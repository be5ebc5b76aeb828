"""The tables of quality of service: policies, rules, and where policies are used. Pure. Part of schema."""

from __future__ import annotations

from typing import Any

from alcor.model.ids import Id, ordinal_of
from alcor.model.nouns import Direction
from alcor.model.qos import QosBinding, QosPolicy, QosRule, QosRuleKind
from alcor.store.table import OWNED, TIMES, Table, id_bytes

QOS_SCHEMA = """
CREATE TABLE qos_policies (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, project_id TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL,
    shared INTEGER NOT NULL, is_default INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL
);
CREATE INDEX qos_policy_name ON qos_policies (name) WHERE name <> '';
CREATE INDEX qos_policy_project ON qos_policies (project_id) WHERE project_id <> '';

CREATE TABLE qos_rules (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, policy_id BLOB NOT NULL, kind TEXT NOT NULL, direction TEXT NOT NULL,
    max_kbps INTEGER NOT NULL, max_burst_kbps INTEGER NOT NULL, dscp_mark INTEGER NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, revision INTEGER NOT NULL
);
CREATE INDEX qos_rule_policy ON qos_rules (policy_id);

-- Which networks' hosts know which policy.
CREATE TABLE qos_bindings (
    network INTEGER NOT NULL, policy_id BLOB NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY (network, policy_id)
) WITHOUT ROWID;
"""
QOS_PORT_INDEX = """
CREATE INDEX port_qos_policy ON ports (qos_policy_id) WHERE qos_policy_id <> x'';
"""
"""Its tables are older than those above."""
QOS_COLUMNS = """
ALTER TABLE networks ADD COLUMN qos_policy_id BLOB NOT NULL DEFAULT x'';
ALTER TABLE ports ADD COLUMN qos_policy_id BLOB NOT NULL DEFAULT x'';
"""
"""For tables from before there were policies."""
BINDING_COLUMNS = ("network", "policy_id", "revision")


def policy_row(policy: QosPolicy) -> tuple[Any, ...]:
    return (
        ordinal_of(policy.id),
        policy.id,
        policy.project_id,
        policy.name,
        policy.description,
        policy.shared,
        policy.is_default,
        policy.created_at,
        policy.updated_at,
        policy.revision,
    )


def policy_of(row: tuple[Any, ...]) -> QosPolicy:
    return QosPolicy(
        id=Id(row[0]),
        project_id=row[1],
        name=row[2],
        description=row[3],
        shared=bool(row[4]),
        is_default=bool(row[5]),
        created_at=row[6],
        updated_at=row[7],
        revision=row[8],
    )


def qos_rule_row(rule: QosRule) -> tuple[Any, ...]:
    return (
        ordinal_of(rule.id),
        rule.id,
        rule.policy_id,
        rule.kind.value,
        rule.direction.value,
        rule.max_kbps,
        rule.max_burst_kbps,
        rule.dscp_mark,
        rule.created_at,
        rule.updated_at,
        rule.revision,
    )


def qos_rule_of(row: tuple[Any, ...]) -> QosRule:
    return QosRule(
        id=Id(row[0]),
        policy_id=Id(row[1]),
        kind=QosRuleKind(row[2]),
        direction=Direction(row[3]),
        max_kbps=row[4],
        max_burst_kbps=row[5],
        dscp_mark=row[6],
        created_at=row[7],
        updated_at=row[8],
        revision=row[9],
    )


def binding_row(binding: QosBinding) -> tuple[Any, ...]:
    return ordinal_of(binding.network_id), binding.policy_id, binding.revision


def binding_of(row: tuple[Any, ...]) -> QosBinding:
    """`network_id` is the network's id, joined in, where `binding_row` has its number."""
    return QosBinding(network_id=Id(row[0]), policy_id=Id(row[1]), revision=row[2])


QOS_POLICIES = Table(
    "qos_policies",
    "QoS policies",
    ("n", *QosPolicy.__struct_fields__),
    policy_row,
    policy_of,
    {**OWNED, "shared": int, "is_default": int},
    ("id", "name", "project_id"),
)
QOS_RULES = Table(
    "qos_rules",
    "QoS rules",
    ("n", *QosRule.__struct_fields__),
    qos_rule_row,
    qos_rule_of,
    {
        "id": id_bytes,
        "policy_id": id_bytes,
        "kind": str,
        "direction": str,
        "max_kbps": int,
        "max_burst_kbps": int,
        "dscp_mark": int,
        **TIMES,
    },
    ("id", "policy_id"),
)
