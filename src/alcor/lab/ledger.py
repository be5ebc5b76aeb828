"""What the API has acknowledged, so that it can be held to it. Pure. Kept by churn, read by audit.

A request whose answer never came (the server was killed, or did not answer in time) leaves a doubt: either outcome is
right, until a look at what there is settles it. Everything else is exact.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alcor.lab.client import Resource

FILL = "fill-"
"""Names of ports that the audit makes to count free addresses, and removes."""


class Want(NamedTuple):
    """Where a port is to be: its host, and its address ("": any)."""

    host: str
    ip: str

    def met_by(self, row: Resource) -> bool:
        """The port that the API shows is as wanted."""
        return str(row["binding:host_id"]) == self.host and self.ip in ("", address_of(row))


class Verdict(NamedTuple):
    """What the API shows, against what it has acknowledged. Ids, sorted; the words say what is wrong with them."""

    lost: tuple[str, ...]
    stale: tuple[str, ...]
    words: tuple[str, ...]


def address_of(row: Resource) -> str:
    """The (only) address of a port."""
    return str(row["fixed_ips"][0]["ip_address"])


class Ledger:
    """See the module. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sure: dict[str, Want] = {}
        self._doubts: dict[str, list[Want | None]] = {}
        """Port -> what it may be besides; None: gone."""
        self._maybe: set[str] = set()
        """Names of ports that may have been created."""
        self.acknowledged = 0
        """Requests answered with success."""
        self.unanswered = 0

    def created(self, rows: Sequence[Resource]) -> None:
        """The API said 201."""
        with self._lock:
            self.acknowledged += 1
            for row in rows:
                self._sure[row["id"]] = Want(row["binding:host_id"], address_of(row))

    def perhaps_created(self, names: Sequence[str]) -> None:
        """A POST of ports with these names was not answered."""
        with self._lock:
            self.unanswered += 1
            self._maybe.update(names)

    def updated(self, row: Resource) -> None:
        """The API said 200."""
        with self._lock:
            self.acknowledged += 1
            self._sure[row["id"]] = Want(row["binding:host_id"], address_of(row))
            self._doubts.pop(row["id"], None)

    def perhaps_updated(self, port: str, want: Want) -> None:
        """A PUT was not answered: the port is as before, or as wanted."""
        self._doubt(port, want)

    def deleted(self, port: str) -> None:
        """The API said 204."""
        with self._lock:
            self.acknowledged += 1
            self._sure.pop(port, None)
            self._doubts.pop(port, None)

    def perhaps_deleted(self, port: str) -> None:
        """A DELETE was not answered."""
        self._doubt(port, None)

    def _doubt(self, port: str, outcome: Want | None) -> None:
        with self._lock:
            self.unanswered += 1
            self._doubts.setdefault(port, []).append(outcome)

    def want(self, port: str) -> Want:
        """What was acknowledged of a port. Raises KeyError."""
        with self._lock:
            return self._sure[port]

    def sure(self) -> list[str]:
        """Ports that are there without doubt."""
        with self._lock:
            return sorted(self._sure.keys() - self._doubts.keys())

    def judge(self, rows: Mapping[str, Resource]) -> Verdict:
        """The ports that the API shows, by id, against what it has acknowledged."""
        lost, stale, words = [], [], []
        with self._lock:
            for port, want in self._sure.items():
                outcomes: list[Want | None] = [want, *self._doubts.get(port, ())]
                row = rows.get(port)
                if row is None and None not in outcomes:
                    lost.append(port)
                    words.append(f"port {port} on {want.host} was acknowledged and is not there")
                elif row is not None and not any(one is not None and one.met_by(row) for one in outcomes):
                    lost.append(port)
                    shown = f"{row['binding:host_id']} {address_of(row)}"
                    words.append(f"port {port} was acknowledged at {want.host} {want.ip} and is at {shown}")
            for port, row in rows.items():
                if port not in self._sure and row["name"] not in self._maybe:
                    stale.append(port)
                    words.append(f"port {port} ({row['name']}) was deleted, or never asked for, and is there")
        return Verdict(tuple(sorted(lost)), tuple(sorted(stale)), tuple(sorted(words)))

    def settle(self, rows: Mapping[str, Resource]) -> None:
        """What the API shows is now what it is held to; doubts end. Names of creations that are not there stay in
        doubt: the request may still wait in a socket."""
        with self._lock:
            self._sure = {port: Want(row["binding:host_id"], address_of(row)) for port, row in rows.items()}
            self._doubts.clear()
            self._maybe -= {str(row["name"]) for row in rows.values()}
