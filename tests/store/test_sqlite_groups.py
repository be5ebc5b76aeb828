"""Security groups in SQLite: rows come back as they went, ports are found by group, and what contradicts is told."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.services.world import World

from alcor.model.ids import Id
from alcor.model.nouns import Direction
from alcor.services.commands import (
    CreateSecurityGroupRules,
    CreateSecurityGroups,
    DeleteNetwork,
    DeletePorts,
    DeleteSecurityGroup,
    SecurityGroupRuleSpec,
    SecurityGroupSpec,
)
from alcor.store.base import Query
from alcor.store.memory import MemoryStore
from alcor.store.sqlite import SqliteStore


def filled(path: Path) -> tuple[World, Id, Id]:
    """A store with two groups, a rule between them, and ports; and the groups' ids."""
    world = World(store=SqliteStore(path))  # type: ignore[arg-type]
    network = world.network(cidr="10.0.0.0/16")
    world.subnet(network, "10.0.0.0/24")
    specs = (SecurityGroupSpec(name="web"), SecurityGroupSpec(name="db"))
    web, db = (group.id for group in world.do(CreateSecurityGroups(specs=specs)))
    rule = SecurityGroupRuleSpec(
        group_id=db,
        direction=Direction.INGRESS,
        protocol=6,
        protocol_name="tcp",
        port_min=1,
        port_max=9,
        remote_group=web,
    )
    world.do(CreateSecurityGroupRules(specs=(rule,)))
    world.ports(network, 3, security_groups=(web,))
    world.ports(network, 2, security_groups=(web, db))
    world.ports(network, 1)
    return world, web, db


def contents(store: MemoryStore) -> tuple[object, ...]:
    """All that is about groups."""
    counts = sorted(store.ports_of_identities())
    return store.security_groups(), store.security_group_rules(), store.identities(), counts


def test_groups_come_back_as_they_went(tmp_path: Path) -> None:
    """A second opening finds groups, rules, identities and counts as the first left them; memory agrees."""
    world, web, db = filled(tmp_path / "a.db")
    world.check()
    (network,) = world.store.networks()
    before = contents(world.store)
    world.store.close()
    again = World(store=SqliteStore(tmp_path / "a.db"))  # type: ignore[arg-type]
    again.check()
    store = again.store
    found = (
        store.security_groups(),
        store.security_group_rules(),
        store.identities(),
        sorted(store.ports_of_identities()),
    )
    assert before == found
    assert [(network.id, 1, 3), (network.id, 2, 2), (network.id, 3, 1)] == found[3]
    assert {(web,), tuple(sorted((web, db)))} <= {identity.groups for identity in found[2]}
    store.close()


@pytest.mark.parametrize(("which", "count"), [("web", 5), ("db", 2)])
def test_ports_are_found_by_group(tmp_path: Path, which: str, count: int) -> None:
    """The filter finds members, whatever other groups they are in."""
    world, web, db = filled(tmp_path / "a.db")
    query = Query(filters={"security_group": ({"web": web, "db": db}[which],)})
    assert count == len(world.store.list_ports(query))
    assert [] == world.store.list_ports(Query(filters={"security_group": (Id(bytes(16)),)}))
    world.store.close()


def test_a_deleted_group_leaves_nothing(tmp_path: Path) -> None:
    """Its rules, those that name it, and its identities go; with the network the rest of the identities go."""
    world, web, db = filled(tmp_path / "a.db")
    (network,) = world.store.networks()
    world.do(DeletePorts(ids=tuple(port.id for port in world.store.ports_of_network(network.id))))
    world.do(DeleteSecurityGroup(id=web))
    world.check()
    assert all(web not in identity.groups for identity in world.store.identities())
    assert [db] == sorted(group.id for group in world.store.security_groups() if group.name != "default")
    world.do(DeleteNetwork(id=network.id))
    assert [] == world.store.identities()
    world.check()
    world.store.close()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE ports SET identity = 77 WHERE n = (SELECT min(n) FROM ports)", "does not stand for"),
        ("UPDATE identities SET groups = x''", "does not stand for"),
        ("DELETE FROM security_groups WHERE name = 'db'", "rules are of a security group"),
    ],
)
def test_what_contradicts_is_told(tmp_path: Path, damage: str, words: str) -> None:
    """The check finds identities and rules that point nowhere."""
    world, _, _ = filled(tmp_path / "a.db")
    assert [] == world.store.check()
    world.store.close()
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute(damage)
        connection.commit()
    store = SqliteStore(tmp_path / "a.db")
    assert any(words in finding for finding in store.check())
    store.close()
