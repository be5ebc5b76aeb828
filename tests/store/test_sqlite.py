"""The SQLite file: whose it is, what it survives, what its errors say, and that no listing scans."""

import os
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.store.nouns import floating_ip, make, network, node, port, subnet, write

from alcor.model.addresses import parse_ip
from alcor.model.balancing import LoadBalancer
from alcor.model.nouns import FloatingIp, Peering, Router
from alcor.store.base import SCAN_BOUND, Changes, Query, QueryError, StoreError
from alcor.store.query import Listing
from alcor.store.schema import PORTS, SCHEMA_VERSION
from alcor.store.sqlite import CHUNK, SqliteStore


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    """Rows, revision, ordinal, epoch and log."""
    path = tmp_path / "alcor.db"
    store = SqliteStore(path)
    owner = network(1)
    ports = [port(ordinal, owner) for ordinal in range(2, 2 + 3 * CHUNK + 1)]
    write(store, networks=[owner], new_ports=ports)
    store.next_epoch()
    before = (store.revision(), store.last_ordinal(), store.changes_since(0, 9), store.list_ports(Query(limit=9999)))
    assert 3 * CHUNK + 1 == len(before[3])
    store.close()
    store.close()
    again = SqliteStore(path)
    assert before == (
        again.revision(),
        again.last_ordinal(),
        again.changes_since(0, 9),
        again.list_ports(Query(limit=9999)),
    )
    assert 2 == again.next_epoch()
    again.close()


def test_a_second_server_is_refused(tmp_path: Path) -> None:
    """The message has the path and the process that holds it; closing gives it up."""
    path = tmp_path / "alcor.db"
    store = SqliteStore(path)
    with pytest.raises(StoreError, match=rf"alcor\.db: another server has it open \(process {os.getpid()}\)"):
        SqliteStore(path)
    store.close()
    SqliteStore(path).close()


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    """It is left exactly as it was."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE precious (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not an Alcor database"):
        SqliteStore(path)
    assert before == path.read_bytes()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Whatever it is, it is left alone."""
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(StoreError, match=r"notes\.txt.*not a database.*choose another path"):
        SqliteStore(path)
    assert path.read_text().startswith("Dear diary")


QOS_TABLES = ("qos_policies", "qos_rules", "qos_bindings")


def test_an_older_schema_is_migrated(tmp_path: Path) -> None:
    """A database of version 1 opens with what it held; what is new has its defaults; the next start finds it done."""
    path = tmp_path / "old.db"
    added = {
        "nodes": ("availability_zone", "failure_domain", "admin_state_up"),
        "networks": ("on_demand", "dns_domain", "qos_policy_id", "external"),
        "subnets": ("ip_version", "ra_mode", "address_mode", "host_routes"),
        "ports": (
            *("fast_path", "path", "attempts", "realised_at"),
            *("security_groups", "port_security_enabled", "address_pairs", "identity"),
            *("dns_name", "dhcp_options", "qos_policy_id", "eips", "forwardings", "claims"),
        ),
    }
    SqliteStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP INDEX port_dns_name")
        connection.execute("DROP INDEX port_qos_policy")
        connection.execute("DROP INDEX network_external")
        connection.execute("DROP INDEX port_claims")
        for table, columns in added.items():
            for column in columns:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        for table in (
            *("security_groups", "security_group_rules", "identities", *QOS_TABLES),
            *("routers", "peerings", "floating_ips", "port_forwardings"),
            *("load_balancers", "listeners", "member_pools", "members", "health_monitors"),
        ):
            connection.execute(f"DROP TABLE {table}")
        values = "1, x'00', 'h1', x'00000000000000000000ffffc0a80001', 'h1', 50001, 5, 6, 7"
        connection.execute(f"INSERT INTO nodes VALUES ({values})")
        connection.execute("PRAGMA user_version=1")
        connection.commit()
    for _ in range(2):
        store = SqliteStore(path)
        (node,) = store.nodes()
        assert (node.name, node.revision, node.availability_zone, node.admin_state_up) == ("h1", 7, "", True)
        assert store.list_ports(Query()) == []
        assert (store.security_groups(), store.rows(Router), store.rows(Peering)) == ([], [], [])
        assert (store.qos_policies(), store.qos_rules(), store.qos_bindings()) == ([], [], [])
        assert store.rows(LoadBalancer) == []
        store.close()


def test_floating_ips_of_before_have_no_policy(tmp_path: Path) -> None:
    """A database of version 11 opens with its floating IPs, whose packets were not limited."""
    path = tmp_path / "old.db"
    store = SqliteStore(path)
    fip = floating_ip(9, make(7))
    write(store, floating_ips=[fip])
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE floating_ips DROP COLUMN qos_policy_id")
        connection.execute("PRAGMA user_version=11")
        connection.commit()
    store = SqliteStore(path)
    assert [replace(fip, qos_policy_id=None)] == store.rows(FloatingIp)
    store.close()


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, -1])
def test_another_schema_is_refused(tmp_path: Path, version: int) -> None:
    """Newer: run the newer Alcor. Older without a migration: say so."""
    path = tmp_path / "alcor.db"
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    with pytest.raises(StoreError, match=f"schema {version} "):
        SqliteStore(path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    """With what to do."""
    with pytest.raises(StoreError, match=r"nowhere/alcor\.db\.lock.*Create the directory"):
        SqliteStore(tmp_path / "nowhere" / "alcor.db")


def test_a_full_disk_stops_the_commit_whole(tmp_path: Path) -> None:
    """StoreError with what to do; nothing of the commit is there; with space again the store goes on."""
    store = SqliteStore(tmp_path / "alcor.db")
    owner = network(1)
    write(store, networks=[owner])
    ports = [port(ordinal, owner, description="x" * 2000) for ordinal in range(2, 500)]
    store._writer.execute("PRAGMA max_page_count=40")
    with pytest.raises(StoreError, match=r"alcor\.db: database or disk is full\. The disk is full: free space"):
        write(store, new_ports=ports)
    assert (1, []) == (store.revision(), store.list_ports(Query()))
    store._writer.execute("PRAGMA max_page_count=100000")
    write(store, new_ports=ports)
    assert 498 == len(store.list_ports(Query()))
    store.close()


def test_a_lock_of_another_program_is_an_error_that_says_so(tmp_path: Path) -> None:
    """A sqlite3 shell in a transaction, for longer than the time-out."""
    path = tmp_path / "alcor.db"
    store = SqliteStore(path, busy_timeout_ms=1)
    shell = sqlite3.connect(path, isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"database is locked\. Another process holds a lock"):
        write(store, networks=[network(1)])
    shell.execute("ROLLBACK")
    shell.close()
    write(store, networks=[network(1)])
    store.close()


def test_a_database_that_turns_read_only_is_an_error_that_says_so(tmp_path: Path) -> None:
    """As a disk that the kernel remounted."""
    store = SqliteStore(tmp_path / "alcor.db")
    store._writer.execute("PRAGMA query_only=1")
    with pytest.raises(StoreError, match=r"readonly database\. The file or its disk is read-only"):
        write(store, networks=[network(1)])
    store.close()


def test_readers_see_committed_state_only(tmp_path: Path) -> None:
    """A reader on another thread, while the writer is in the middle."""
    store = SqliteStore(tmp_path / "alcor.db")
    owner = network(1)
    write(store, networks=[owner])
    seen: list[int] = []
    store._writer.execute("BEGIN IMMEDIATE")
    store._writer.execute("DELETE FROM networks")
    reader = threading.Thread(target=lambda: seen.append(len(store.networks())))
    reader.start()
    reader.join()
    store._writer.execute("ROLLBACK")
    assert [1] == seen
    store.close()


def test_readers_cannot_write(tmp_path: Path) -> None:
    """Their connections are read-only."""
    store = SqliteStore(tmp_path / "alcor.db")
    with pytest.raises(StoreError, match="readonly"):
        store._read("DELETE FROM meta")
    store.close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """Reading after the end is an error, not a new connection."""
    store = SqliteStore(tmp_path / "alcor.db")
    store.close()
    with pytest.raises(StoreError):
        store.networks()


def test_the_checker_finds_what_is_wrong(tmp_path: Path) -> None:
    """Leaked addresses, dangling rows and wrong owners are found, each."""
    store = _small(tmp_path)
    assert [] == store.check()
    for sql, finding in (
        ("INSERT INTO addresses VALUES (2, 99, 77)", "leaked"),
        ("DELETE FROM addresses", "1 are referenced"),
        ("UPDATE addresses SET port = 6", "owner is (6,)"),
        ("DELETE FROM nodes", "node that does not exist"),
        ("DELETE FROM networks", "network that does not exist"),
        ("UPDATE meta SET last_ordinal = 1", "never given out"),
        ("UPDATE ports SET revision = 99", "newer than the newest commit"),
        ("UPDATE floating_ips SET qos_policy_id = x'77'", "floating IPs have a QoS policy that does not exist"),
        ("UPDATE ports SET status = 'ACTIVE' WHERE n = 6", "unbound ports are not DOWN"),
    ):
        store._writer.execute("BEGIN")
        store._writer.execute(sql)
        store._writer.execute("COMMIT")
        assert any(finding in sentence for sentence in store.check()), sql
        store.close()
        store = _small(tmp_path)
    store.close()


def _small(tmp_path: Path) -> SqliteStore:
    """One network, subnet and node, a bound port with an address, one without, and a floating IP."""
    for left in tmp_path.iterdir():
        left.unlink()
    store = SqliteStore(tmp_path / "alcor.db")
    owner = network(1)
    inside = subnet(2, owner, "10.0.0.0/24")
    write(store, networks=[owner], subnets=[inside], nodes=[node(3, "h1", "192.0.2.1")])
    write(store, new_ports=[port(5, owner, (inside, "10.0.0.5"), host="h1"), port(6, owner)])
    write(store, floating_ips=[floating_ip(7)])
    return store


def test_a_query_that_would_scan_is_refused(tmp_path: Path) -> None:
    """Beyond the bound: filters without an index and other orders; within an indexed filter they work."""
    store = SqliteStore(tmp_path / "alcor.db", scan_bound=3)
    owner, other = network(1), network(2)
    write(store, networks=[owner, other])
    write(store, new_ports=[port(n, owner, name=f"p{n}", description="x") for n in range(10, 15)])
    write(store, new_ports=[port(n, other, description="x") for n in range(20, 22)])
    for query in (
        Query(filters={"description": ("x",)}),
        Query(sort=(("name", True),)),
        Query(filters={"network_id": (owner.id,), "description": ("x",)}),
        Query(filters={"network_id": (owner.id,)}, sort=(("name", True),)),
    ):
        with pytest.raises(QueryError, match="more than 3 ports: too many to filter or sort"):
            store.list_ports(query)
    assert 2 == len(store.list_ports(Query(filters={"network_id": (other.id,), "description": ("x",)})))
    assert 1 == len(store.list_ports(Query(filters={"name": ("p11",), "description": ("x",)}, sort=(("host", True),))))
    assert 7 == len(store.list_ports(Query()))
    assert 5 == len(store.list_ports(Query(filters={"network_id": (owner.id,)})))
    store.close()


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"id": (make(5),)},
        {"network_id": (make(1),)},
        {"subnet_id": (make(2),)},
        {"ip": (parse_ip("10.0.0.5"),)},
        {"mac": (b"\x02" * 6,)},
        {"name": ("x",)},
        {"host": ("x",)},
        {"device_id": ("x",)},
        {"device_owner": ("x",)},
        {"project_id": ("x",)},
        {"name": ("x", "y"), "network_id": (make(1),)},
    ],
)
def test_no_listing_scans_the_ports(tmp_path: Path, filters: dict[str, tuple[object, ...]]) -> None:
    """SQLite's own plan: every listing by an indexed filter seeks, and what leads in the order of ids does not sort
    (a host's few ports, and those of one address or MAC, are sorted)."""
    store = SqliteStore(tmp_path / "alcor.db")
    owner = network(1)
    inside = subnet(2, owner, "10.0.0.0/24")
    write(store, networks=[owner], subnets=[inside], new_ports=[port(5, owner, (inside, "10.0.0.5"))])
    plans: list[str] = []

    def explain(sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        steps = [row[3] for row in store._writer.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
        if " FROM ports p" in sql and "count(*)" not in sql:
            plans.append("; ".join(steps))
        return store._read(sql, values)

    Listing(PORTS, Query(filters=filters), explain, SCAN_BOUND).rows()
    assert 1 == len(plans)
    assert ("SCAN p" in plans[0]) == (not filters), plans[0]
    streams = all(len(values) == 1 for values in filters.values()) and not {"id", "ip", "mac", "host"} & filters.keys()
    if streams:
        assert "TEMP B-TREE" not in plans[0], plans[0]
    store.close()


def test_changes_are_false_when_empty() -> None:
    """A batch that changes nothing is not written."""
    assert not Changes(last_ordinal=5)
    assert Changes(networks=[network(1)])
