"""A page of a listing as SQL that never scans a large table. Calls the reader that it is given; called by sqlite.

One filter drives: the first of the table's `drivers` that the query names, forced by unary plus on every other column
(SQLite has no statistics here and would guess). Where the driver leaves rows in the order of their ids, a page is a
walk along its index. Where there is more to do, another filter or another order, the driver must leave at most
`scan_bound` rows, which is counted first; else the query is refused with QueryError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from alcor.model.ids import Id, ordinal_of
from alcor.store.base import MarkerNotFound, Query, QueryError
from alcor.store.schema import PORTS, SUBNETS, place_of_ip
from alcor.store.table import Table

Read = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]

PORT_COLUMNS = ", ".join("w.id" if column == "network" else f"p.{column}" for column in PORTS.columns if column != "n")
PORT_SELECT = f"SELECT {PORT_COLUMNS} FROM ports p JOIN networks w ON w.n = p.network"

_PARTIAL = {"host", "name", "device_id", "device_owner", "project_id"}
"""Indexed only where not empty (nodes' names are never empty; a needless condition does no harm)."""


class Clause:
    """A condition and its values."""

    __slots__ = ("sql", "values")

    def __init__(self, sql: str, values: Sequence[Any]) -> None:
        self.sql = sql
        self.values = values


class Listing:
    """One query against one table."""

    def __init__(self, table: Table, query: Query, read: Read, scan_bound: int) -> None:
        self._table = table
        self._query = query
        self._read = read
        self._scan_bound = scan_bound
        self._filters = {name: self._values(name, values) for name, values in query.filters.items()}
        for name, _ in query.sort:
            self._check_attribute(name)
            if table is PORTS and name in ("ip", "subnet_id", "security_group"):
                raise QueryError(f"ports cannot be sorted by {name}, of which a port may have several")
        if query.limit < 1:
            raise QueryError(f"limit {query.limit} must be at least 1")

    def rows(self) -> list[tuple[Any, ...]]:
        """The page. Raises QueryError, MarkerNotFound."""
        if any(not values for values in self._filters.values()):
            return []
        driver = self._driver()
        streams = driver is None or (driver != "ip" and len(self._filters[driver]) == 1)
        driving = [] if driver is None else [self._clause(driver, driving=True)]
        if driving and not driving[0].values and driver == "ip":
            return []
        rest = [self._clause(name, driving=False) for name in self._filters if name != driver]
        sort = self._sort()
        if not streams or rest or len(sort) > 1 or sort[0][0] != "id":
            self._check_bound(driving, driver)
        where = driving + rest
        if self._query.marker is not None:
            where.append(self._after(self._query.marker, sort))
        # With unary plus the order is sorted for, without it walked along.
        order = ", ".join(
            f"{self._column(name) if name != 'id' else 'p.n'} {'ASC' if up else 'DESC'}" for name, up in sort
        )
        rows = self._read(
            f"{self._select()} {_where(where)} ORDER BY {order} LIMIT ?", (*_values(where), self._query.limit)
        )
        return rows[::-1] if self._query.reverse else rows

    def _select(self) -> str:
        if self._table is PORTS:
            return PORT_SELECT
        columns = ", ".join(f"p.{column}" for column in self._table.columns if column not in ("n", "first", "last"))
        return f"SELECT {columns} FROM {self._table.name} p"

    def _sort(self) -> list[tuple[str, bool]]:
        """The whole order, ending with the id; turned round for a page backwards."""
        sort: list[tuple[str, bool]] = []
        for name, up in self._query.sort:
            if all(name != earlier for earlier, _ in sort):
                sort.append((name, up))
            if name == "id":
                break
        if not sort or sort[-1][0] != "id":
            sort.append(("id", True))
        return [(name, up != self._query.reverse) for name, up in sort]

    def _check_attribute(self, name: str) -> Callable[[Any], Any]:
        convert = self._table.attributes.get(name)
        if convert is None:
            raise QueryError(f"{self._table.word} have no attribute {name} to filter or sort by")
        return convert

    def _values(self, name: str, values: Sequence[object]) -> tuple[Any, ...]:
        convert = self._check_attribute(name)
        try:
            return tuple(dict.fromkeys(convert(value) for value in values))
        except (TypeError, ValueError) as error:
            raise QueryError(f"{name}: {error}") from None

    def _driver(self) -> str | None:
        for name in self._table.drivers:
            values = self._filters.get(name)
            if values and not (name in _PARTIAL and "" in values) and not (name == "qos_policy_id" and b"" in values):
                return name
        if self._table is PORTS and self._filters.get("status") == ("ERROR",):
            return "status"
        return None

    def _column(self, name: str) -> str:
        if name == "network_id" and self._table is PORTS:
            return "+p.network"
        return f"+p.{name}"

    def _clause(self, name: str, *, driving: bool) -> Clause:
        values = self._filters[name]
        mark = "" if driving else "+"
        if name == "id":
            ordinals = [ordinal_of(Id(value)) for value in values]
            return Clause(f"{mark}p.n {_in(values)} AND +p.id {_in(values)}", (*ordinals, *values))
        if self._table is PORTS:
            if name == "network_id":
                return Clause(
                    f"{mark}p.network {_in(values)} AND w.id {_in(values)}",
                    (*[ordinal_of(Id(value)) for value in values], *values),
                )
            if name in ("ip", "subnet_id"):
                return self._address_clause(name, mark)
            if name == "security_group":
                return self._group_clause(mark)
            if name == "mac" and driving:
                # The index is by network, then MAC: a seek in each network.
                return Clause(f"p.network IN (SELECT n FROM networks) AND p.mac {_in(values)}", values)
        if driving and name in _PARTIAL:
            return Clause(f"p.{name} {_in(values)} AND p.{name} <> ''", values)
        if driving and name == "qos_policy_id":
            return Clause(f"p.{name} {_in(values)} AND p.{name} <> x''", values)
        if driving and name == "status":
            return Clause("p.status = 'ERROR'", ())
        return Clause(f"{mark}p.{name} {_in(values)}", values)

    def _address_clause(self, name: str, mark: str) -> Clause:
        """Ports by their addresses. `ip` and `subnet_id` together mean an address that is both; then `ip` leads."""
        subnets = self._filters.get("subnet_id")
        if name == "subnet_id":
            assert subnets is not None
            if "ip" in self._filters:
                return Clause("1", ())
            networks = self._read(
                f"SELECT DISTINCT w.n FROM subnets s JOIN networks w ON w.id = s.network_id WHERE s.n {_in(subnets)} "
                f"AND s.id {_in(subnets)}",
                (*[ordinal_of(Id(value)) for value in subnets], *subnets),
            )
            # A subnet's ports are a good part of its network's: walk those, in the order of ids.
            ordinals = [row[0] for row in networks]
            inside = " OR ".join(["instr(p.fixed_ips, ?) > 0"] * len(subnets))
            return Clause(f"{mark}p.network {_in(ordinals)} AND ({inside})", (*ordinals, *subnets))
        ports: list[int] = []
        for ip in self._filters["ip"]:
            if len(ip) != 16:
                raise QueryError("ip: an address has 16 bytes")
            rows = self._read(
                f"SELECT a.port FROM {SUBNETS.name} s JOIN addresses a ON a.subnet = s.n AND a.place = ? "
                f"WHERE s.first <= ? AND s.last >= ?" + ("" if subnets is None else f" AND s.id {_in(subnets)}"),
                (place_of_ip(ip), ip, ip, *(subnets or ())),
            )
            ports += [row[0] for row in rows]
        return Clause(f"{mark}p.n {_in(ports)}", ports)

    def _group_clause(self, mark: str) -> Clause:
        """Ports by a security group: those with an identity that names it, found among the ports of its networks."""
        groups = self._filters["security_group"]
        inside = " OR ".join(["instr(groups, ?) > 0"] * len(groups))
        networks = self._read(f"SELECT DISTINCT network FROM identities WHERE {inside}", groups)
        ordinals = [row[0] for row in networks]
        member = " OR ".join(["instr(p.security_groups, ?) > 0"] * len(groups))
        return Clause(f"{mark}p.network {_in(ordinals)} AND ({member})", (*ordinals, *groups))

    def _check_bound(self, driving: list[Clause], driver: str | None) -> None:
        join = " JOIN networks w ON w.n = p.network" if self._table is PORTS and driver == "network_id" else ""
        rows = self._read(
            f"SELECT count(*) FROM (SELECT 1 FROM {self._table.name} p{join} {_where(driving)} LIMIT ?)",
            (*_values(driving), self._scan_bound + 1),
        )
        if rows[0][0] > self._scan_bound:
            left = "there are" if driver is None else f"the filter by {driver} leaves"
            raise QueryError(
                f"{left} more than {self._scan_bound} {self._table.word}: too many to filter or sort by attributes "
                f"without an index. Add a filter by one of {', '.join(self._table.drivers)}, or sort by id only."
            )

    def _after(self, marker: Id, sort: list[tuple[str, bool]]) -> Clause:
        """The rows behind the marker's in that order."""
        columns = [("p.n" if name == "id" else self._column(name), up) for name, up in sort]
        found = self._read(
            f"SELECT {', '.join(column for column, _ in columns)} FROM {self._table.name} p WHERE p.n = ? AND p.id = ?",
            (ordinal_of(marker), marker),
        )
        if not found:
            raise MarkerNotFound(f"marker {marker.hex()} is none of the {self._table.word}: start again without it")
        parts, values = [], []
        for index, (column, up) in enumerate(columns):
            same = [f"{earlier} = ?" for earlier, _ in columns[:index]]
            parts.append("(" + " AND ".join([*same, f"{column} {'>' if up else '<'} ?"]) + ")")
            values += [*found[0][:index], found[0][index]]
        return Clause("(" + " OR ".join(parts) + ")", values)


def _in(values: Sequence[Any]) -> str:
    # `= ?` lets SQLite see that the order of the index is the order of ids.
    return "= ?" if len(values) == 1 else f"IN ({', '.join('?' * len(values))})"


def _where(clauses: list[Clause]) -> str:
    return "WHERE " + " AND ".join(clause.sql for clause in clauses) if clauses else ""


def _values(clauses: list[Clause]) -> list[Any]:
    return [value for clause in clauses for value in clause.values]
