"""Lists as Neutron gives them: filters, fields, sorting, pages and their links. Called by the resources.

`GET /v2.0/ports?network_id=A&network_id=B&fields=id&sort_key=name&sort_dir=asc&limit=10&marker=ID&page_reverse=True`:
values of one name are ORed, names are ANDed, an unknown name is refused (extension filter-validation). Every list is
paged, by the server's limit if the client names none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec

from alcor.api.bodies import View
from alcor.api.context import Context
from alcor.api.errors import BadRequest, Reply
from alcor.api.exchange import Call
from alcor.model.ids import Id, parse_id
from alcor.services.errors import NotFound
from alcor.store.base import MarkerNotFound, Query, QueryError

Noun = TypeVar("Noun")
Parse = Callable[[str], object]
"""Text of a query to a value of the noun. ValueError: no resource can have that value. BadRequest: not asked right."""

_encoder = msgspec.json.Encoder()
_RESERVED = frozenset({"fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir"})
_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})


class Filter(NamedTuple):
    """How a name in the query selects: the noun's attribute, and what its text means."""

    attribute: str
    parse: Parse = str


class Constant(NamedTuple):
    """An attribute that has the same value in every resource."""

    value: object


class Compound(NamedTuple):
    """An attribute that is a list of objects: `fixed_ips=ip_address=10.0.0.5` asks for a part of one."""

    parts: Mapping[str, Filter]


Column = Filter | Constant | Compound


class Listing(NamedTuple):
    """What can be asked of one collection."""

    collection: str
    not_found: type[NotFound]
    filters: Mapping[str, Column]


class Page(NamedTuple):
    """A question, read. `query` is None when no resource can match."""

    query: Query | None
    fields: tuple[str, ...]
    limited: bool
    """The client named a limit: its page has links at both ends."""


def boolean(text: str) -> bool:
    """Neutron's booleans in a query."""
    lowered = text.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise BadRequest(f"Invalid input for operation: '{text}' cannot be converted to boolean.")


def integer(text: str) -> int:
    """A number in a query; anything else matches nothing."""
    if len(text) > 18 or not text.isascii():
        raise ValueError(text)
    return int(text)


IDENTIFIER = Filter("id", parse_id)
STANDARD: dict[str, Column] = {
    "id": IDENTIFIER,
    "name": Filter("name"),
    "revision_number": Filter("revision", integer),
}
"""What every resource has."""
OWNED: dict[str, Column] = {
    **STANDARD,
    "description": Filter("description"),
    "project_id": Filter("project_id"),
    "tenant_id": Filter("project_id"),
}
"""What every resource of a project has."""


def read_page(call: Call, listing: Listing) -> Page:
    """The question in a request's query string. Raises BadRequest, or the resource's NotFound for a bad marker."""
    asked: dict[str, list[str]] = {}
    for name, value in call.query():
        column = listing.filters.get(name)
        if isinstance(column, Compound):
            name, value = _part(name, value, column)
        asked.setdefault(name, []).append(value)
    unknown = sorted(name for name in asked if name not in listing.filters and name not in _RESERVED)
    if unknown:
        raise BadRequest(f"{unknown} is invalid attribute for filtering")
    limit = _limit(asked.get("limit", []))
    marker = asked.get("marker", [""])[-1]
    filters: dict[str, tuple[object, ...]] = {}
    possible = True
    for name in sorted(asked.keys() - _RESERVED):
        possible = _add_filter(filters, listing.filters[name], asked[name]) and possible
    query = Query(
        filters=filters,
        sort=_sort(asked.get("sort_key", []), asked.get("sort_dir", []), listing),
        limit=min(limit, call.limits.page_items) or call.limits.page_items,
        marker=_marker(marker, listing) if marker else None,
        reverse=boolean(asked.get("page_reverse", ["false"])[-1]),
    )
    fields = tuple(dict.fromkeys(field for field in asked.get("fields", []) if field))
    return Page(query if possible else None, fields, limited=limit > 0)


async def find_page(
    context: Context, listing: Listing, page: Page, question: Callable[[Query], Sequence[Noun]]
) -> Sequence[Noun]:
    """What the store answers. Raises BadRequest for a question it refuses, NotFound for a lost marker."""
    query = page.query
    if query is None:
        return []
    try:
        return await context.read(lambda: question(query))
    except MarkerNotFound as error:
        raise listing.not_found(str(error)) from None
    except QueryError as error:
        raise BadRequest(f"{error}") from None


def _limit(texts: Sequence[str]) -> int:
    text = texts[-1] if texts else "0"
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise BadRequest(f"Bad limit request: Limit must be an integer 0 or greater and not '{text}'.")
    return int(text)


def _marker(text: str, listing: Listing) -> Id:
    try:
        return parse_id(text)
    except ValueError:
        raise listing.not_found(f"The marker '{text}' is no id of {listing.collection}.") from None


def _sort(keys: Sequence[str], directions: Sequence[str], listing: Listing) -> tuple[tuple[str, bool], ...]:
    keys, directions = [key for key in keys if key], [direction for direction in directions if direction]
    if len(keys) != len(directions):
        raise BadRequest("The number of sort_keys and sort_dirs must be same")
    found: dict[str, bool] = {}
    for key, direction in zip(keys, directions, strict=True):
        column = listing.filters.get(key)
        if column is None or isinstance(column, Compound):
            raise BadRequest(f"['{key}'] is invalid attribute for sort_keys")
        if direction not in ("asc", "desc"):
            raise BadRequest(f"['{direction}'] is invalid value for sort_dirs, valid value is 'asc' and 'desc'")
        if isinstance(column, Filter):
            found.setdefault(column.attribute, direction == "asc")
    return tuple(found.items())


def _part(name: str, text: str, column: Compound) -> tuple[str, str]:
    part, equals, value = text.partition("=")
    if not equals or part not in column.parts:
        known = ", ".join(f"{name}={known}=..." for known in sorted(column.parts))
        raise BadRequest(f"Invalid input for {name}. Reason: '{text}' is none of {known}.")
    return part, value


def _add_filter(filters: dict[str, tuple[object, ...]], column: Column, texts: Sequence[str]) -> bool:
    """Adds what the texts ask; False when nothing can match."""
    if not isinstance(column, Filter):
        return isinstance(column, Constant) and any(_same(column.value, text) for text in texts)
    values: list[object] = []
    for text in texts:
        try:
            values.append(column.parse(text))
        except ValueError:
            continue
    if column.attribute in filters:  # Two names of one attribute (project_id, tenant_id) are ANDed like any others.
        values = [value for value in filters[column.attribute] if value in values]
    filters[column.attribute] = tuple(dict.fromkeys(values))
    return bool(values)


def _same(value: object, text: str) -> bool:
    if isinstance(value, bool):
        return boolean(text) is value
    return text == ("" if value is None else str(value))


def page_reply(call: Call, listing: Listing, page: Page, views: Sequence[View]) -> Reply:
    """The page as a body: the views (all of their fields, or those asked for) and the links to its neighbours."""
    body: dict[str, object] = {listing.collection: select(views, page.fields)}
    links = _links(call, page, [view.id for view in views])
    if links:
        body[f"{listing.collection}_links"] = links
    return Reply(200, _encoder.encode(body))


def select(views: Sequence[View], fields: tuple[str, ...]) -> Sequence[object]:
    """The views cut to those fields (unknown ones are ignored, as in Neutron); all of each when none is named."""
    if not fields:
        return views
    return [cut(view, fields) for view in views]


def cut(view: View, fields: Iterable[str]) -> dict[str, object]:
    """One view cut to those fields."""
    whole = msgspec.to_builtins(view)
    return {name: whole[name] for name in fields if name in whole}


def read_fields(call: Call) -> tuple[str, ...]:
    """The `fields` of a request for one resource; Neutron ignores whatever else is asked there."""
    return tuple(dict.fromkeys(value for name, value in call.query() if name == "fields" and value))


def _links(call: Call, page: Page, ids: Sequence[str]) -> list[dict[str, str]]:
    """Neutron's links (api_common.get_pagination_links): a page that is not full is the last in its direction."""
    query = page.query
    if query is None or not (page.limited or len(ids) == query.limit or query.marker or query.reverse):
        return []
    full = len(ids) == query.limit
    rest = [(name, value) for name, value in call.query() if name not in ("marker", "page_reverse")]
    url = call.path_url()
    links = []
    if full or query.reverse:
        marker = [("marker", ids[-1])] if ids else []
        links.append({"rel": "next", "href": f"{url}?{urlencode(rest + marker)}"})
    if full or not query.reverse:
        marker = [("marker", ids[0])] if ids else []
        links.append({"rel": "previous", "href": f"{url}?{urlencode([*rest, *marker, ('page_reverse', 'True')])}"})
    return links
