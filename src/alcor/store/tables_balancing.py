"""The tables of load balancing: balancers, listeners, pools, members, health monitors. Pure. Part of schema.

Each has columns for what is looked up by, and the whole noun as msgpack: nobody asks the database for anything else of
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from alcor.model.balancing import HealthMonitor, Listener, LoadBalancer, Member, MemberPool
from alcor.model.ids import ordinal_of
from alcor.store.table import Table, id_bytes

_NAMES = ("load_balancers", "listeners", "member_pools", "members", "health_monitors")
BALANCING_SCHEMA = "".join(
    f"""
CREATE TABLE {name} (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, project_id TEXT NOT NULL, name TEXT NOT NULL, parent BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX {name}_name ON {name} (name) WHERE name <> '';
CREATE INDEX {name}_project ON {name} (project_id) WHERE project_id <> '';
CREATE INDEX {name}_parent ON {name} (parent);
"""
    for name in _NAMES
)

_encode = msgspec.msgpack.Encoder().encode


def balancing_row(noun: Any) -> tuple[Any, ...]:
    return ordinal_of(noun.id), noun.id, noun.project_id, noun.name, noun.parent, _encode(noun)


def _table(name: str, word: str, noun: type) -> Table:
    decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(noun).decode
    return Table(
        name,
        word,
        ("n", "id", "project_id", "name", "parent", "body"),
        balancing_row,
        lambda row: decode(row[4]),
        {"id": id_bytes, "project_id": str, "name": str, "parent": id_bytes},
        ("id", "name", "parent", "project_id"),
    )


LOAD_BALANCERS = _table("load_balancers", "load balancers", LoadBalancer)
LISTENERS = _table("listeners", "listeners", Listener)
MEMBER_POOLS = _table("member_pools", "pools", MemberPool)
MEMBERS = _table("members", "members", Member)
HEALTH_MONITORS = _table("health_monitors", "health monitors", HealthMonitor)
