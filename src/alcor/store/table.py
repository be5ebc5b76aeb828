"""What a noun's table is, and what columns are made of. Pure.

Called by the files that describe tables (schema, tables_*), which schema puts together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from alcor.model.addresses import Prefix
from alcor.model.ids import Id


class Table(NamedTuple):
    """One noun's table: how it is written, read, filtered and sorted."""

    name: str
    word: str
    """The noun, for messages."""
    columns: tuple[str, ...]
    """In the order of `row`."""
    row: Callable[[Any], tuple[Any, ...]]
    noun: Callable[[tuple[Any, ...]], Any]
    """From a row of `columns` without `n`."""
    attributes: dict[str, Callable[[Any], Any]]
    """What can be filtered and sorted by -> a value of the noun's type as the column holds it."""
    drivers: tuple[str, ...]
    """Attributes that have an index, the most selective first."""


@lru_cache(maxsize=8192)
def ids_of(column: bytes) -> tuple[Id, ...]:
    """Ids one after another. Ports share few sets of them."""
    return tuple([Id(column[at : at + 16]) for at in range(0, len(column), 16)])


def cidr_text(value: Prefix | None) -> str:
    return "" if value is None else str(value)


def words_text(value: Sequence[str]) -> str:
    return msgspec.json.encode(value).decode()


def id_bytes(value: Any) -> bytes:
    return b"" if value is None else bytes(value)


def mac_number(value: Any) -> int:
    return int.from_bytes(value, "big")


TIMES: dict[str, Callable[[Any], Any]] = dict.fromkeys(("created_at", "updated_at", "revision"), int)
OWNED: dict[str, Callable[[Any], Any]] = {"id": id_bytes, "project_id": str, "name": str, "description": str, **TIMES}
