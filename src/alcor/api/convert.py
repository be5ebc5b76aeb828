"""Text of the API to the model's values and back, and the loop over a bulk. Called by the resources. Pure.

Every parser raises FieldError, which names the field. Ids and times repeat within a request, so their text is cached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

from msgspec import UNSET, UnsetType

from alcor.api.errors import FieldError
from alcor.api.exchange import Call
from alcor.model.addresses import Ip, Mac, Prefix, parse_ip, parse_mac, parse_prefix
from alcor.model.ids import Id, format_id, parse_id
from alcor.services.errors import NotFound

SLICE = 2000
"""Items converted before other requests get their turn: some 8 ms."""

Given = TypeVar("Given")
Made = TypeVar("Made")

id_text = lru_cache(maxsize=8192)(format_id)
"""The text of an id that repeats (networks and subnets)."""
_id_of = lru_cache(maxsize=8192)(parse_id)


@lru_cache(maxsize=1024)
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def time_text(milliseconds: int) -> str:
    """Milliseconds since the epoch as ISO 8601, to the second, as Neutron writes it."""
    return _second_text(milliseconds // 1000)


def identifier(text: str, field: str) -> Id:
    """An id in a body."""
    try:
        return _id_of(text)
    except ValueError as error:
        raise FieldError(field, str(error)) from None


def member(call: Call, not_found: type[NotFound], noun: str) -> Id:
    """The id in a member's path. What is no id is nobody's: NotFound, as clients that look up by name expect."""
    try:
        return parse_id(call.member)
    except ValueError:
        raise not_found(f"{noun} {call.member} could not be found.") from None


def parent(call: Call, not_found: type[NotFound], noun: str) -> Id:
    """The id in the middle of a path, of what the collection is in."""
    try:
        return parse_id(call.parent)
    except ValueError:
        raise not_found(f"{noun} {call.parent} could not be found.") from None


def ip(text: str, field: str) -> Ip:
    """An address in a body."""
    try:
        return parse_ip(text)
    except ValueError as error:
        raise FieldError(field, str(error)) from None


def mac(text: str, field: str) -> Mac:
    """A MAC in a body."""
    try:
        return parse_mac(text)
    except ValueError as error:
        raise FieldError(field, str(error)) from None


def prefix(text: str, field: str) -> Prefix:
    """A CIDR in a body."""
    try:
        return parse_prefix(text)
    except ValueError as error:
        raise FieldError(field, str(error)) from None


def number(value: int | str, field: str, low: int, high: int) -> int:
    """A number in a body, as such or as text. A number's own limits were checked with its type."""
    found = int(value)
    only(field, low <= found <= high, f"{found} is not {low} to {high}")
    return found


def project(project_id: str | UnsetType, tenant_id: str | UnsetType, default: str) -> str:
    """Whose the resource shall be. `tenant_id` is Neutron's older name of `project_id`."""
    if project_id is UNSET:
        return default if tenant_id is UNSET else tenant_id
    if tenant_id is not UNSET and tenant_id != project_id:
        raise FieldError("tenant_id", f"it says '{tenant_id}', project_id says '{project_id}'")
    return project_id


def only(field: str, holds: bool, reason: str) -> None:
    """Refuses a value that Alcor would have to ignore."""
    if not holds:
        raise FieldError(field, reason)


async def each(items: Sequence[Given], make: Callable[[Given], Made], collection: str, *, bulk: bool) -> list[Made]:
    """`make` of every item; an error in a bulk says which. Lets other requests in between slices."""
    made: list[Made] = []
    try:
        for start in range(0, len(items), SLICE):
            if start:
                await asyncio.sleep(0)
            made.extend(map(make, items[start : start + SLICE]))
    except FieldError as error:
        raise FieldError(f"{collection}[{len(made)}].{error.field}" if bulk else error.field, error.reason) from None
    return made
