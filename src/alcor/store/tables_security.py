"""The tables of security groups: groups, rules, and networks' identities. Pure. Part of schema."""

from __future__ import annotations

from typing import Any

from alcor.model.addresses import parse_prefix
from alcor.model.ids import Id, ordinal_of
from alcor.model.nouns import Direction, Identity, SecurityGroup, SecurityGroupRule
from alcor.store.table import OWNED, Table, cidr_text, id_bytes, ids_of

SECURITY_SCHEMA = """
CREATE TABLE security_groups (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, project_id TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, revision INTEGER NOT NULL
);
CREATE INDEX security_group_name ON security_groups (name) WHERE name <> '';
CREATE INDEX security_group_project ON security_groups (project_id) WHERE project_id <> '';

CREATE TABLE security_group_rules (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, group_id BLOB NOT NULL, project_id TEXT NOT NULL,
    description TEXT NOT NULL, direction TEXT NOT NULL, version INTEGER NOT NULL, protocol INTEGER,
    protocol_name TEXT NOT NULL, port_min INTEGER, port_max INTEGER, remote_prefix TEXT NOT NULL,
    remote_group BLOB NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, revision INTEGER NOT NULL
);
CREATE INDEX security_group_rule_group ON security_group_rules (group_id);
CREATE INDEX security_group_rule_project ON security_group_rules (project_id) WHERE project_id <> '';

-- What a number stands for in a network: the ids of security groups, one after another.
CREATE TABLE identities (
    network INTEGER NOT NULL, number INTEGER NOT NULL, groups BLOB NOT NULL, revision INTEGER NOT NULL,
    PRIMARY KEY (network, number)
) WITHOUT ROWID;
"""


def security_group_row(group: SecurityGroup) -> tuple[Any, ...]:
    return (
        ordinal_of(group.id),
        group.id,
        group.project_id,
        group.name,
        group.description,
        group.created_at,
        group.updated_at,
        group.revision,
    )


def security_group_of(row: tuple[Any, ...]) -> SecurityGroup:
    return SecurityGroup(
        id=Id(row[0]),
        project_id=row[1],
        name=row[2],
        description=row[3],
        created_at=row[4],
        updated_at=row[5],
        revision=row[6],
    )


def rule_row(rule: SecurityGroupRule) -> tuple[Any, ...]:
    return (
        ordinal_of(rule.id),
        rule.id,
        rule.group_id,
        rule.project_id,
        rule.description,
        rule.direction.value,
        rule.version,
        rule.protocol,
        rule.protocol_name,
        rule.port_min,
        rule.port_max,
        cidr_text(rule.remote_prefix),
        rule.remote_group or b"",
        rule.created_at,
        rule.updated_at,
        rule.revision,
    )


def rule_of(row: tuple[Any, ...]) -> SecurityGroupRule:
    return SecurityGroupRule(
        id=Id(row[0]),
        group_id=Id(row[1]),
        project_id=row[2],
        description=row[3],
        direction=Direction(row[4]),
        version=row[5],
        protocol=row[6],
        protocol_name=row[7],
        port_min=row[8],
        port_max=row[9],
        remote_prefix=parse_prefix(row[10]) if row[10] else None,
        remote_group=Id(row[11]) if row[11] else None,
        created_at=row[12],
        updated_at=row[13],
        revision=row[14],
    )


def identity_row(identity: Identity) -> tuple[Any, ...]:
    return ordinal_of(identity.network_id), identity.number, b"".join(identity.groups), identity.revision


def identity_of(row: tuple[Any, ...]) -> Identity:
    """`network_id` is the network's id, joined in, where `identity_row` has its number."""
    return Identity(network_id=Id(row[0]), number=row[1], groups=ids_of(row[2]), revision=row[3])


SECURITY_GROUPS = Table(
    "security_groups",
    "security groups",
    ("n", *SecurityGroup.__struct_fields__),
    security_group_row,
    security_group_of,
    OWNED,
    ("id", "name", "project_id"),
)
RULES = Table(
    "security_group_rules",
    "security group rules",
    ("n", *SecurityGroupRule.__struct_fields__),
    rule_row,
    rule_of,
    {
        **{name: convert for name, convert in OWNED.items() if name != "name"},
        "group_id": id_bytes,
        "direction": str,
        "version": int,
        "protocol_name": str,
        "port_min": int,
        "port_max": int,
        "remote_prefix": cidr_text,
        "remote_group": id_bytes,
    },
    ("id", "group_id", "project_id"),
)
