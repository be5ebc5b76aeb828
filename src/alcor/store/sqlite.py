"""Desired state in one SQLite file: the embedded store. Fills store.base.Store; wired by roles.

One writer: the file is locked against a second server for as long as it is open. WAL with synchronous=FULL: a commit
that returned survives a power cut. Every other thread reads through a connection of its own, read-only, and sees
committed state. Writes are few, large statements (`CHUNK` rows each): sqlite3 gives up the GIL at each step, and with a
step a row a busy event loop beside it takes it each time (measured: 51,000 ports/s instead of 64,000).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from alcor.model.addresses import Ip, Mac, link_local
from alcor.model.ids import Id, ordinal_of
from alcor.model.nouns import Identity, Network, Node, Port, SecurityGroup, SecurityGroupRule, Subnet
from alcor.model.qos import QosBinding, QosPolicy, QosRule
from alcor.store.base import SCAN_BOUND, ChangeRecord, Changes, Location, Noun, Query, StoreError
from alcor.store.query import PORT_SELECT, Listing
from alcor.store.record import record_of
from alcor.store.rewriting import inherit_policies
from alcor.store.schema import (
    APPLICATION_ID,
    MIGRATIONS,
    NETWORKS,
    NODES,
    PORTS,
    RESOURCES,
    SCHEMA,
    SCHEMA_VERSION,
    SUBNETS,
    place_of_ip,
)
from alcor.store.sqlite_check import check_connection
from alcor.store.table import Table
from alcor.store.tables_qos import BINDING_COLUMNS, QOS_POLICIES, QOS_RULES, binding_of, binding_row
from alcor.store.tables_security import RULES, SECURITY_GROUPS, identity_of, identity_row

CHUNK = 128
"""Rows of one INSERT. Measured: 32 to 512 are a tie."""
KEPT_COMMITS = 4096
"""Commits that the change log remembers."""
CACHE_KIB = 64 * 1024
CHECKPOINT_PAGES = 4000
BUSY_TIMEOUT_MS = 5000
REWRITES = {13: inherit_policies}
"""What of a migration must read rows, by the version that it starts from."""


class SqliteStore:
    """See the module. `path` is made if it is missing; its directory must exist."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        scan_bound: int = SCAN_BOUND,
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    ) -> None:
        self._path = Path(path)
        self._scan_bound = scan_bound
        self._busy_timeout_ms = busy_timeout_ms
        self._record_encoder = msgspec.msgpack.Encoder()
        self._record_decoder = msgspec.msgpack.Decoder(ChangeRecord)
        self._readers = threading.local()
        self._all_readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._closed = False
        self._lock_fd = _lock(self._path)
        try:
            self._writer = self._open_writer()
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._last_ordinal = int(self._meta("last_ordinal"))

    # Writing: one thread.

    def commit(self, revision: int, changes: Changes) -> None:
        """Writes everything in one transaction; durable when it returns. See store.base."""
        writer = self._writer
        try:
            writer.execute("BEGIN IMMEDIATE")
            self._delete(changes)
            self._put_ports([after for _, after in changes.changed_ports], changed=True)
            self._put_ports(changes.new_ports)
            self._put(NETWORKS, changes.networks)
            self._put(SUBNETS, changes.subnets)
            self._put(NODES, changes.nodes)
            self._put(SECURITY_GROUPS, changes.security_groups)
            self._put(RULES, changes.rules)
            for table in RESOURCES.values():
                self._put(table, getattr(changes, table.name))
            identities = list(map(identity_row, changes.identities))
            self._insert("identities", ("network", "number", "groups", "revision"), identities, upsert=False)
            self._put(QOS_POLICIES, changes.qos_policies)
            self._put(QOS_RULES, changes.qos_rules)
            self._insert("qos_bindings", BINDING_COLUMNS, list(map(binding_row, changes.qos_bindings)), upsert=False)
            self._put_statuses(changes)
            record = record_of(revision, changes)
            if record is not None:
                writer.execute("INSERT INTO changes VALUES (?, ?)", (revision, self._record_encoder.encode(record)))
                writer.execute("DELETE FROM changes WHERE revision <= ?", (revision - KEPT_COMMITS,))
            ordinal = max(self._last_ordinal, changes.last_ordinal, _largest_ordinal(changes))
            writer.execute("UPDATE meta SET revision = ?, last_ordinal = ?", (revision, ordinal))
            writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise self._error(error) from error
        self._last_ordinal = ordinal

    def next_epoch(self) -> int:
        """See store.base."""
        try:
            self._writer.execute("UPDATE meta SET epoch = epoch + 1")
        except sqlite3.Error as error:
            raise self._error(error) from error
        return int(self._meta("epoch"))

    def close(self) -> None:
        """Closes every connection and gives up the lock. Doing it twice is allowed; reading afterwards is not."""
        if self._closed:
            return
        self._closed = True
        with self._readers_lock:
            readers, self._all_readers = self._all_readers, []
        for reader in readers:
            reader.close()
        self._writer.close()
        os.close(self._lock_fd)

    # Reading: any thread.

    def revision(self) -> int:
        """See store.base."""
        return int(self._meta("revision"))

    def last_ordinal(self) -> int:
        """See store.base."""
        return int(self._meta("last_ordinal"))

    def networks(self) -> list[Network]:
        """All of them, in the order of creation."""
        return self._all(NETWORKS)

    def subnets(self) -> list[Subnet]:
        """All of them, in the order of creation."""
        return self._all(SUBNETS)

    def nodes(self) -> list[Node]:
        """All of them, in the order of creation."""
        return self._all(NODES)

    def security_groups(self) -> list[SecurityGroup]:
        """All of them, in the order of creation."""
        return self._all(SECURITY_GROUPS)

    def security_group_rules(self) -> list[SecurityGroupRule]:
        """All of them, in the order of creation."""
        return self._all(RULES)

    def identities(self) -> list[Identity]:
        """All of them, by network and number."""
        rows = self._read(
            "SELECT w.id, i.number, i.groups, i.revision FROM identities i JOIN networks w ON w.n = i.network "
            "ORDER BY i.network, i.number"
        )
        return list(map(identity_of, rows))

    def ports_of_identities(self) -> Sequence[tuple[Id, int, int]]:
        """See store.base."""
        rows = self._read(
            "SELECT w.id, g.identity, g.ports FROM (SELECT network, identity, count(*) AS ports FROM ports "
            "WHERE identity <> 0 GROUP BY network, identity) g JOIN networks w ON w.n = g.network"
        )
        return [(Id(row[0]), row[1], row[2]) for row in rows]

    def qos_policies(self) -> list[QosPolicy]:
        """All of them, in the order of creation."""
        return self._all(QOS_POLICIES)

    def qos_rules(self) -> list[QosRule]:
        """All of them, in the order of creation."""
        return self._all(QOS_RULES)

    def qos_bindings(self) -> list[QosBinding]:
        """All of them, by network and policy."""
        rows = self._read(
            "SELECT w.id, b.policy_id, b.revision FROM qos_bindings b JOIN networks w ON w.n = b.network "
            "ORDER BY b.network, b.policy_id"
        )
        return list(map(binding_of, rows))

    def ports_of_qos_policies(self) -> Sequence[tuple[Id, int]]:
        """See store.base."""
        rows = self._read("SELECT qos_policy_id, count(*) FROM ports WHERE qos_policy_id <> x'' GROUP BY qos_policy_id")
        return [(Id(row[0]), row[1]) for row in rows]

    def get_ports(self, ids: Iterable[Id]) -> list[Port]:
        """See store.base."""
        wanted = list(ids)
        ordinals = _json_numbers(map(ordinal_of, wanted))
        rows = self._read(f"{PORT_SELECT} WHERE p.n IN (SELECT value FROM json_each(?))", (ordinals,))
        found = {row[0]: row for row in rows}
        return [PORTS.noun(found[identifier]) for identifier in wanted if identifier in found]

    def list_ports(self, query: Query) -> list[Port]:
        """See store.base."""
        return self._list(PORTS, query)

    def list_networks(self, query: Query) -> list[Network]:
        """See store.base."""
        return self._list(NETWORKS, query)

    def list_subnets(self, query: Query) -> list[Subnet]:
        """See store.base."""
        return self._list(SUBNETS, query)

    def list_nodes(self, query: Query) -> list[Node]:
        """See store.base."""
        return self._list(NODES, query)

    def list_security_groups(self, query: Query) -> list[SecurityGroup]:
        """See store.base."""
        return self._list(SECURITY_GROUPS, query)

    def list_security_group_rules(self, query: Query) -> list[SecurityGroupRule]:
        """See store.base."""
        return self._list(RULES, query)

    def list_qos_policies(self, query: Query) -> list[QosPolicy]:
        """See store.base."""
        return self._list(QOS_POLICIES, query)

    def list_qos_rules(self, query: Query) -> list[QosRule]:
        """See store.base."""
        return self._list(QOS_RULES, query)

    def rows(self, noun: type[Noun]) -> list[Noun]:
        """See store.base."""
        return self._all(RESOURCES[noun])

    def list_rows(self, noun: type[Noun], query: Query) -> list[Noun]:
        """See store.base."""
        return self._list(RESOURCES[noun], query)

    def ports_of_host(self, host: str) -> list[Port]:
        """In the order of creation."""
        if not host:
            return []
        return self._read_nouns(PORTS, f"{PORT_SELECT} WHERE p.host = ? AND p.host <> '' ORDER BY p.n", (host,))

    def ports_of_network(self, network_id: Id) -> list[Port]:
        """In the order of creation."""
        return self._read_nouns(
            PORTS, f"{PORT_SELECT} WHERE p.network = ? AND w.id = ? ORDER BY p.n", (ordinal_of(network_id), network_id)
        )

    def named_ports(self, network_id: Id) -> list[Port]:
        """See store.base."""
        return self._read_nouns(
            PORTS,
            f"{PORT_SELECT} WHERE p.network = ? AND w.id = ? AND p.dns_name <> '' ORDER BY p.n",
            (ordinal_of(network_id), network_id),
        )

    def claiming_ports(self) -> list[Port]:
        """See store.base."""
        return self._read_nouns(PORTS, f"{PORT_SELECT} WHERE p.claims <> x'' ORDER BY p.n")

    def locate(self, subnet_id: Id, ips: Sequence[Ip]) -> list[Location]:
        """See store.base."""
        wanted = {place_of_ip(ip): ip for ip in ips}
        rows = self._read(
            "SELECT a.place, p.mac, p.host, p.identity FROM addresses a JOIN ports p ON p.n = a.port "
            "WHERE a.subnet = ? AND a.place IN (SELECT value FROM json_each(?))",
            (ordinal_of(subnet_id), _json_numbers(wanted)),
        )
        return [Location(wanted[row[0]], Mac(row[1].to_bytes(6, "big")), row[2], row[3]) for row in rows]

    def locate_macs(self, network_id: Id, macs: Sequence[Mac]) -> list[Location]:
        """See store.base."""
        numbers = _json_numbers({int.from_bytes(mac, "big") for mac in macs})
        rows = self._read(
            "SELECT mac, host, identity, fixed_ips FROM ports "
            "WHERE network = ? AND mac IN (SELECT value FROM json_each(?))",
            (ordinal_of(network_id), numbers),
        )
        found = [(Mac(row[0].to_bytes(6, "big")), row[1], row[2]) for row in rows if any(row[3][16::32])]
        return [Location(link_local(mac), mac, host, identity) for mac, host, identity in found]

    def allocated_addresses(self, subnet_id: Id) -> list[int]:
        """See store.base."""
        ordinal = ordinal_of(subnet_id)
        subnet = self._read("SELECT first FROM subnets WHERE n = ? AND id = ?", (ordinal, subnet_id))
        if not subnet:
            return []
        base = place_of_ip(subnet[0][0])
        rows = self._read("SELECT place FROM addresses WHERE subnet = ?", (ordinal,))
        return sorted([(row[0] - base) & _OFFSET_MASK for row in rows])

    def allocated_macs(self, network_id: Id) -> list[int]:
        """See store.base."""
        rows = self._read("SELECT mac FROM ports WHERE network = ? ORDER BY mac", (ordinal_of(network_id),))
        return [row[0] for row in rows]

    def hosts_of_networks(self) -> Sequence[tuple[Id, str, int]]:
        """See store.base. Reads the index by host from end to end: at start, not on the way."""
        rows = self._read(
            "SELECT w.id, g.host, g.ports FROM (SELECT host, network, count(*) AS ports FROM ports "
            "INDEXED BY port_host WHERE host <> '' GROUP BY host, network) g JOIN networks w ON w.n = g.network"
        )
        return [(Id(row[0]), row[1], row[2]) for row in rows]

    def changes_since(self, revision: int, limit: int) -> list[ChangeRecord] | None:
        """See store.base."""
        rows = self._read("SELECT record FROM changes WHERE revision > ? ORDER BY revision LIMIT ?", (revision, limit))
        if revision < self.revision() - KEPT_COMMITS:
            return None
        return [self._record_decoder.decode(row[0]) for row in rows]

    def check(self) -> list[str]:
        """See store.base."""
        try:
            return check_connection(self._connection())
        except sqlite3.Error as error:
            raise self._error(error) from error

    # Inside.

    def _open_writer(self) -> sqlite3.Connection:
        writer: sqlite3.Connection | None = None
        try:
            writer = sqlite3.connect(
                self._path,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=512,
                timeout=self._busy_timeout_ms / 1000,
            )
            _adopt(writer, self._path)
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                f"busy_timeout={self._busy_timeout_ms}",
                f"cache_size=-{CACHE_KIB}",
                f"wal_autocheckpoint={CHECKPOINT_PAGES}",
            ):
                writer.execute(f"PRAGMA {pragma}")
            # Fails now rather than at the first commit where the file or its disk is read-only.
            writer.execute("UPDATE meta SET one = 1")
        except sqlite3.Error as error:
            if writer is not None:
                writer.close()
            raise self._error(error) from error
        except StoreError:
            if writer is not None:
                writer.close()
            raise
        return writer

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        if connection is None:
            if self._closed:
                raise StoreError(f"{self._path}: the store is closed")
            connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=self._busy_timeout_ms / 1000,
            )
            connection.execute("PRAGMA query_only=1")
            self._readers.connection = connection
            with self._readers_lock:
                self._all_readers.append(connection)
        return connection

    def _read(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _read_nouns(self, table: Table, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """As `_read`, each row made a noun as it comes: a million of each would keep the collector busy."""
        try:
            return list(map(table.noun, self._connection().execute(sql, values)))
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _meta(self, column: str) -> Any:
        return self._read(f"SELECT {column} FROM meta")[0][0]

    def _all(self, table: Table) -> list[Any]:
        columns = ", ".join(column for column in table.columns if column not in ("n", "first", "last"))
        return self._read_nouns(table, f"SELECT {columns} FROM {table.name} ORDER BY n")

    def _list(self, table: Table, query: Query) -> list[Any]:
        return [table.noun(row) for row in Listing(table, query, self._read, self._scan_bound).rows()]

    def _put(self, table: Table, nouns: Sequence[Any]) -> None:
        self._insert(table.name, table.columns, list(map(table.row, nouns)), upsert=True)

    def _put_ports(self, ports: Sequence[Port], *, changed: bool = False) -> None:
        if not ports:
            return
        self._insert(PORTS.name, PORTS.columns, list(map(PORTS.row, ports)), upsert=changed)
        from_bytes = int.from_bytes
        owned = [
            (from_bytes(fixed_ip.subnet_id[:5], "big"), from_bytes(fixed_ip.ip[8:], "big", signed=True), port_number)
            for port in ports
            for port_number in (from_bytes(port.id[:5], "big"),)
            for fixed_ip in port.fixed_ips
        ]
        self._insert("addresses", ("subnet", "place", "port"), owned, upsert=False)

    def _delete(self, changes: Changes) -> None:
        """Everything that goes, before anything comes: what is given back may be taken in the same commit."""
        execute = self._writer.execute
        places: dict[int, list[int]] = {}
        for port in chain(changes.deleted_ports, (before for before, _ in changes.changed_ports)):
            for fixed_ip in port.fixed_ips:
                places.setdefault(ordinal_of(fixed_ip.subnet_id), []).append(place_of_ip(fixed_ip.ip))
        for subnet, gone in places.items():
            execute(
                "DELETE FROM addresses WHERE subnet = ? AND place IN (SELECT value FROM json_each(?))",
                (subnet, _json_numbers(gone)),
            )
        for name, nouns in (
            ("ports", changes.deleted_ports),
            ("subnets", changes.deleted_subnets),
            ("networks", changes.deleted_networks),
            ("nodes", changes.deleted_nodes),
            ("security_groups", changes.deleted_security_groups),
            ("security_group_rules", changes.deleted_rules),
            ("qos_policies", changes.deleted_qos_policies),
            ("qos_rules", changes.deleted_qos_rules),
            *((table.name, getattr(changes, f"deleted_{table.name}")) for table in RESOURCES.values()),
        ):
            if nouns:
                ordinals = _json_numbers(ordinal_of(noun.id) for noun in nouns)
                execute(f"DELETE FROM {name} WHERE n IN (SELECT value FROM json_each(?))", (ordinals,))
        for identity in changes.deleted_identities:
            where = (ordinal_of(identity.network_id), identity.number)
            execute("DELETE FROM identities WHERE network = ? AND number = ?", where)
        for binding in changes.deleted_qos_bindings:
            row = binding_row(binding)
            execute("DELETE FROM qos_bindings WHERE network = ? AND policy_id = ?", row[:2])
        for network in changes.deleted_networks:
            for table in ("identities", "qos_bindings"):
                execute(f"DELETE FROM {table} WHERE network = ?", (ordinal_of(network.id),))

    def _put_statuses(self, changes: Changes) -> None:
        """One statement for all ports that get the same status, reason, way and time: nearly always one."""
        alike: dict[tuple[str, str, str, int, int], list[tuple[int, int]]] = {}
        for change in changes.statuses:
            key = (change.status.value, change.reason, change.path, change.attempts, change.realised_at)
            alike.setdefault(key, []).append((ordinal_of(change.id), change.realised_revision))
        for key, pairs in alike.items():
            self._writer.execute(
                "UPDATE ports SET status = ?, status_reason = ?, path = ?, attempts = ?, realised_at = ?, "
                "realised_revision = j.realised FROM "
                "(SELECT value ->> 0 AS port, value ->> 1 AS realised FROM json_each(?)) j WHERE n = j.port",
                (*key, msgspec.json.encode(pairs).decode()),
            )

    def _insert(self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]], *, upsert: bool) -> None:
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            self._writer.execute(_insert_sql(table, tuple(columns), len(part), upsert), list(chain.from_iterable(part)))

    def _roll_back(self) -> None:
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # The first error is the one that tells.

    def _error(self, error: sqlite3.Error) -> StoreError:
        return StoreError(f"{self._path}: {error}. {_advice(error)}")


def _lock(path: Path) -> int:
    """Holds `<path>.lock` for this process (flock: the kernel lets go of it however the process ends)."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"{lock_path}: {error.strerror}. Create the directory, or point the server at one it may write to."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StoreError(
            f"{path}: another server has it open (process {holder or 'unknown'}). Stop that one first, or give this "
            "one a file of its own."
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _adopt(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the tables of an empty file; refuses a file that is not ours, or newer than this code."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not tables and not application and not version:
        connection.executescript(
            f"BEGIN; {SCHEMA} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )
        return
    if application != APPLICATION_ID:
        raise StoreError(f"{path}: not an Alcor database (application id {application:#x}). Choose another path.")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema {version} was written by a newer Alcor, this one knows {SCHEMA_VERSION}. Run that version."
        )
    if version not in MIGRATIONS and version < SCHEMA_VERSION:
        raise StoreError(f"{path}: schema {version} has no migration to {SCHEMA_VERSION}. Use another path.")
    for step in range(version, SCHEMA_VERSION):
        connection.executescript(f"BEGIN; {MIGRATIONS[step]}")
        if step in REWRITES:
            REWRITES[step](connection)
        connection.execute(f"PRAGMA user_version={step + 1}")
        connection.execute("COMMIT")


@lru_cache(maxsize=1024)
def _insert_sql(table: str, columns: tuple[str, ...], rows: int, upsert: bool) -> str:
    """The statement for so many rows; the same string object each time, so that sqlite3's cache finds it fast."""
    one = f"({', '.join('?' * len(columns))})"
    conflict = ""
    if upsert:
        sets = ", ".join(f"{column} = excluded.{column}" for column in columns[1:])
        conflict = f" ON CONFLICT (n) DO UPDATE SET {sets}"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([one] * rows)}{conflict}"


def _json_numbers(numbers: Iterable[int]) -> str:
    return msgspec.json.encode(list(numbers)).decode()


def _largest_ordinal(changes: Changes) -> int:
    made: Iterator[Any] = chain(
        *(changes.new_ports, changes.networks, changes.subnets, changes.nodes),
        *(changes.security_groups, changes.rules, changes.qos_policies, changes.qos_rules),
        *(getattr(changes, table.name) for table in RESOURCES.values()),
    )
    return max((ordinal_of(noun.id) for noun in made), default=0)


def _advice(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return _ADVICE.get(code, "Nothing was written by this commit. Check the file with `PRAGMA integrity_check`.")


_OFFSET_MASK = (1 << 64) - 1
_ADVICE = {
    sqlite3.SQLITE_BUSY: "Another process holds a lock on the database: end it (a backup or a sqlite3 shell?).",
    sqlite3.SQLITE_LOCKED: "Another process holds a lock on the database: end it (a backup or a sqlite3 shell?).",
    sqlite3.SQLITE_READONLY: "The file or its disk is read-only: mount it writable and check its owner.",
    sqlite3.SQLITE_FULL: "The disk is full: free space, then start the server again.",
    sqlite3.SQLITE_IOERR: "The disk failed: look at the kernel's log, then start the server again.",
    sqlite3.SQLITE_CANTOPEN: "It cannot be opened: check that the directory exists and who may write there.",
    sqlite3.SQLITE_CORRUPT: "It is damaged: restore a backup, or use `.recover` of the sqlite3 shell on a copy.",
    sqlite3.SQLITE_NOTADB: "It is not a SQLite database: choose another path.",
    sqlite3.SQLITE_CONSTRAINT: "Two rows claim one number, which the indexes should have refused: report this.",
}
