"""What the OpenAPI document is put together from: schemas, answers, the operations of a resource. Pure.

Called by openapi and openapi_lbaas.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from alcor.api.bodies import Input, View
from alcor.api.listing import Compound, Constant, Filter, Listing, boolean
from alcor.services.waiting import MAX_WAIT_S

Json = dict[str, Any]
Refusals = Callable[..., Json]
"""Statuses to the answers that say no."""


class Resource(NamedTuple):
    """What the document says of one resource."""

    one: str
    listing: Listing
    create: type[Input]
    update: type[Input] | None
    """None: it never changes."""
    view: type[View]
    owned: bool
    """Belongs to a project."""
    create_errors: Sequence[int]
    delete_errors: Sequence[int]
    path: str = ""
    """Empty: the collection, with dashes."""
    inside: str = ""
    """The parameter in its path, of what it is in."""
    waits: bool = False
    """Its answers wait for hosts when the client would have them."""


ERRORS = {
    400: "The request cannot be read, or names a value that cannot be; the message names the field.",
    404: "Nobody has that id, or an id in the body.",
    409: "True of the value, but not of the present state: in use, exhausted, overlapping.",
    412: "`If-Match` names another revision than the present one.",
    413: "The body is larger than the server's limit.",
    500: "A fault of the server; its log has the id that the message names.",
    503: "Too much waits, or the control plane is stopping: nothing was done. See `Retry-After`.",
}


def part_name(resource: Resource) -> str:
    """The view's schema when `fields` may leave out any of it."""
    return resource.view.__name__.removesuffix("View") + "Part"


def one_line(schema: Json) -> None:
    """A description as one line, in place."""
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())


def ref(name: str) -> Json:
    """A component's schema, by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def content(schema: Json) -> Json:
    """JSON of that schema."""
    return {"application/json": {"schema": schema}}


def object_of(properties: Json, required: Sequence[str], *, closed: bool = False) -> Json:
    """An object; `closed`: it has nothing else."""
    schema: Json = {"type": "object", "properties": properties, "required": list(required)}
    if closed:
        schema["additionalProperties"] = False
    return schema


def answer(description: str, schema: Json) -> Json:
    """An answer with a body."""
    return {"description": description, "content": content(schema)}


def error(status: int) -> Json:
    """The component that `errors` names."""
    response = answer(ERRORS[status], ref("ErrorBody"))
    if status == 503:
        response |= retry_after()
    return response


def retry_after() -> Json:
    """What the answer 503 has beside its body."""
    return {"headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}}


def errors(*statuses: int) -> Json:
    """Neutron's errors; a fault of the server may always be."""
    return {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in sorted({*statuses, 500})}


def operation(tag: str, name: str, summary: str, responses: Json, **rest: Any) -> Json:
    """A method of a path."""
    return {"tags": [tag], "operationId": name, "summary": summary, **rest, "responses": responses}


def list_operation(resource: Resource, refusals: Refusals = errors) -> Json:
    """GET of a collection."""
    many = resource.listing.collection
    body = object_of(
        {
            many: {"type": "array", "items": ref(part_name(resource))},
            f"{many}_links": {"type": "array", "items": ref("Link")},
        },
        [many],
    )
    return operation(
        many,
        f"list_{many}",
        f"Lists {many}, in pages.",
        {
            "200": _waited(resource, answer(f"A page of {many}, and links to its neighbours.", body)),
            **refusals(400, 404),
        },
        parameters=[
            *_wait(resource),
            *(shared(name) for name in ("fields", "limit", "marker", "page_reverse")),
            *_sorting(resource.listing),
            *_filters(resource.listing),
        ],
    )


def create_operation(resource: Resource) -> Json:
    """POST of a collection."""
    one, many = resource.one, resource.listing.collection
    item, view = ref(resource.create.__name__), ref(resource.view.__name__)
    sent = [
        object_of({one: item}, [one], closed=True),
        object_of({many: {"type": "array", "items": item, "minItems": 1}}, [many], closed=True),
    ]
    got = [object_of({one: view}, [one]), object_of({many: {"type": "array", "items": view}}, [many])]
    return operation(
        many,
        f"create_{many}",
        f"Makes one of the {many}, or any number of them: all or none, in one transaction.",
        {
            "201": _waited(resource, answer("Made, and durable. A bulk answers in its own order.", {"oneOf": got})),
            **errors(400, 413, 503, *resource.create_errors),
        },
        **({"parameters": found} if (found := _of_creation(resource)) else {}),
        requestBody={"required": True, "content": content({"oneOf": sent})},
    )


def show_operation(resource: Resource, refusals: Refusals = errors) -> Json:
    """GET of one."""
    one = resource.one
    body = object_of({one: ref(part_name(resource))}, [one])
    return operation(
        resource.listing.collection,
        f"show_{one}",
        f"Shows a {one}.",
        {"200": _waited(resource, answer(f"The {one}.", body)), **refusals(400, 404)},
        parameters=[shared("fields"), *_wait(resource)],
    )


def update_operation(resource: Resource, update: type[Input]) -> Json:
    """PUT of one."""
    one = resource.one
    return operation(
        resource.listing.collection,
        f"update_{one}",
        f"Changes what is given of a {one}.",
        {
            "200": _waited(
                resource, answer("Changed, and durable.", object_of({one: ref(resource.view.__name__)}, [one]))
            ),
            **errors(400, 404, 409, 412, 413, 503),
        },
        parameters=[shared("if_match"), *_wait(resource)],
        requestBody={
            "required": True,
            "content": content(object_of({one: ref(update.__name__)}, [one], closed=True)),
        },
    )


def delete_operation(resource: Resource) -> Json:
    """DELETE of one."""
    one = resource.one
    return operation(
        resource.listing.collection,
        f"delete_{one}",
        f"Deletes a {one}.",
        {"204": {"description": "Gone, durably."}, **errors(400, 404, 412, 503, *resource.delete_errors)},
        parameters=[shared("if_match")],
    )


def in_path(name: str) -> Json:
    """An id in the path."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}


def shared(name: str) -> Json:
    """One of `parameters`."""
    return {"$ref": f"#/components/parameters/{name}"}


def query(name: str, description: str, schema: Json, *, repeated: bool = False) -> Json:
    """A parameter of the query string."""
    schema = {"type": "array", "items": schema} if repeated else schema
    return {"name": name, "in": "query", "description": description, "schema": schema}


def header(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def parameters() -> Json:
    """What many operations take."""
    text: Json = {"type": "string"}
    return {
        "fields": query("fields", "Attributes to show; all when none is named.", text, repeated=True),
        "limit": query(
            "limit",
            "Items of a page, at most the server's limit; 0 stands for that.",
            {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
        ),
        "marker": query(
            "marker",
            "The id of the last item of the page before; empty: from the beginning.",
            {**text, "anyOf": [{"format": "uuid"}, {"maxLength": 0}]},
        ),
        "page_reverse": query("page_reverse", "The page before the marker instead.", {"type": "boolean"}),
        "project": header("X-Project-Id", "Whose the resource is, unless its body says so.", text),
        "if_match": header(
            "If-Match", "Do it only to that revision.", {**text, "pattern": r"^(\*|revision_number=[0-9]{1,18})$"}
        ),
        "prefer": header(
            "Prefer",
            f"`wait=N` (RFC 7240): the answer waits until each of its ports has left BUILD, N seconds at most, and "
            f"{MAX_WAIT_S} in any case.",
            text,
        ),
    }


def _wait(resource: Resource) -> list[Json]:
    return [shared("prefer")] if resource.waits else []


def _of_creation(resource: Resource) -> list[Json]:
    return [*([shared("project")] if resource.owned else []), *_wait(resource)]


def _waited(resource: Resource, found: Json) -> Json:
    """The answer, with the header that says how long it would have waited."""
    if not resource.waits:
        return found
    said: Json = {"description": "`wait=N`, if it was asked for.", "schema": {"type": "string"}}
    return {**found, "headers": {"Preference-Applied": said}}


def _sorting(listing: Listing) -> list[Json]:
    keys = sorted(name for name, column in listing.filters.items() if not isinstance(column, Compound))
    return [
        query("sort_key", "Attributes to sort by, as many as sort_dir.", {"enum": keys}, repeated=True),
        query("sort_dir", "The direction of each sort_key.", {"enum": ["asc", "desc"]}, repeated=True),
    ]


def _filters(listing: Listing) -> list[Json]:
    found = []
    for name, column in sorted(listing.filters.items()):
        if isinstance(column, Compound):
            parts = "|".join(sorted(column.parts))
            schema: Json = {"type": "string", "pattern": f"^({parts})=.*$"}
        elif isinstance(column, Filter):
            # Only a boolean must be one; any other text that no resource can have selects nothing.
            schema = {"type": "boolean" if column.parse is boolean else "string"}
        else:
            schema = {"type": "boolean"} if isinstance(column.value, bool) else {"type": "string"}
        found.append(query(name, _filter_text(column), schema, repeated=True))
    return found


def _filter_text(column: Filter | Constant | Compound) -> str:
    if isinstance(column, Constant):
        return f"Always {json.dumps(column.value)}; any other value selects nothing."
    return "Selects what has one of these values."


def shown(name: str, summary: str, key: str, schema: Json, **more: Json) -> Json:
    """A GET that answers with one thing under a key."""
    body = object_of({key: schema, **more}, [key, *more])
    return operation("discovery", name, summary, {"200": answer(summary, body), **errors()})


def list_of(name: str) -> Json:
    """An array of a component."""
    return {"type": "array", "items": ref(name)}
