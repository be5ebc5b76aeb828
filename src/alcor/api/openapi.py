"""The OpenAPI 3.1 document, from the Structs and the listings that the handlers themselves use. Called by app. Pure.

`python -m alcor.api.openapi > docs/openapi.json` writes the committed copy; a test fails when the two differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from alcor.api import (
    floating_ips,
    networks,
    nodes,
    peerings,
    port_forwardings,
    ports,
    qos,
    routers,
    security_groups,
    subnets,
)
from alcor.api.bodies import (
    AgentUpdate,
    AgentView,
    HealthEventView,
    Input,
    NetworkCreate,
    NetworkUpdate,
    NetworkView,
    NodeCreate,
    NodeUpdate,
    NodeView,
    PortCreate,
    PortUpdate,
    PortView,
    SubnetCreate,
    SubnetUpdate,
    SubnetView,
    View,
)
from alcor.api.discovery import Extension, Link
from alcor.api.errors import ErrorBody
from alcor.api.listing import Compound, Constant, Filter, Listing, boolean
from alcor.api.nat_bodies import (
    FloatingIpCreate,
    FloatingIpUpdate,
    FloatingIpView,
    PortForwardingCreate,
    PortForwardingUpdate,
    PortForwardingView,
)
from alcor.api.qos_bodies import QosPolicyCreate, QosPolicyUpdate, QosPolicyView, QosRuleTypeView
from alcor.api.reachability import ReachabilityAnswer, ReachabilityQuestion
from alcor.api.routing_bodies import (
    ExtraRoutesBody,
    RouterCreate,
    RouterInterfaceBody,
    RouterInterfaceView,
    RouterUpdate,
    RouterView,
    VpcPeeringCreate,
    VpcPeeringUpdate,
    VpcPeeringView,
)
from alcor.api.security_bodies import (
    SecurityGroupCreate,
    SecurityGroupRuleCreate,
    SecurityGroupRuleView,
    SecurityGroupUpdate,
    SecurityGroupView,
)

Json = dict[str, Any]


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


RESOURCES = (
    Resource("network", networks.LISTING, NetworkCreate, NetworkUpdate, NetworkView, True, (404, 409), (409,)),
    Resource("subnet", subnets.LISTING, SubnetCreate, SubnetUpdate, SubnetView, True, (404, 409), (409,)),
    Resource("port", ports.LISTING, PortCreate, PortUpdate, PortView, True, (404, 409), ()),
    Resource(
        *("security_group", security_groups.GROUPS, SecurityGroupCreate, SecurityGroupUpdate, SecurityGroupView),
        *(True, (409,), (409,)),
    ),
    Resource(
        *("security_group_rule", security_groups.RULES, SecurityGroupRuleCreate, None, SecurityGroupRuleView),
        *(True, (404, 409), ()),
    ),
    Resource("router", routers.LISTING, RouterCreate, RouterUpdate, RouterView, True, (404, 409), (409,)),
    Resource(
        *("vpc_peering", peerings.LISTING, VpcPeeringCreate, VpcPeeringUpdate, VpcPeeringView, True),
        *((404, 409), ()),
    ),
    Resource(
        *("floatingip", floating_ips.LISTING, FloatingIpCreate, FloatingIpUpdate, FloatingIpView),
        *(True, (404, 409), ()),
    ),
    Resource("node", nodes.LISTING, NodeCreate, NodeUpdate, NodeView, False, (409,), (409,)),
    Resource(
        *("policy", qos.POLICIES, QosPolicyCreate, QosPolicyUpdate, QosPolicyView, True, (409,), (409,)),
        path="qos/policies",
    ),
    *(
        Resource(
            *(words.one, words.listing, words.create, words.update, words.view, False, (404, 409), ()),
            path=f"qos/policies/{{policy_id}}/{words.listing.collection}",
            inside="policy_id",
        )
        for words in qos.RULES
    ),
)

PORT_FORWARDING = Resource(
    *("port_forwarding", port_forwardings.LISTING, PortForwardingCreate, PortForwardingUpdate, PortForwardingView),
    *(False, (404, 409), (409,)),
)
DESCRIBED = (*RESOURCES, PORT_FORWARDING)
_ERRORS = {
    400: "The request cannot be read, or names a value that cannot be; the message names the field.",
    404: "Nobody has that id, or an id in the body.",
    409: "True of the value, but not of the present state: in use, exhausted, overlapping.",
    412: "`If-Match` names another revision than the present one.",
    413: "The body is larger than the server's limit.",
    500: "A fault of the server; its log has the id that the message names.",
    503: "Too much waits, or the control plane is stopping: nothing was done. See `Retry-After`.",
}


def document() -> Json:
    """The whole document, as plain JSON values."""
    plain: Json = msgspec.json.decode(msgspec.json.encode(_document()))
    return plain


def _document() -> Json:
    paths: Json = {}
    for resource in RESOURCES:
        path = resource.path or resource.listing.collection.replace("_", "-")
        inside = [_in_path(resource.inside)] if resource.inside else []
        collection: Json = {"get": _list(resource), "post": _create(resource)}
        paths[f"/v2.0/{path}"] = {"parameters": inside, **collection} if inside else collection
        paths[f"/v2.0/{path}/{{{resource.one}_id}}"] = {
            "parameters": [*inside, _in_path(f"{resource.one}_id")],
            "get": _show(resource),
            **({} if resource.update is None else {"put": _update(resource, resource.update)}),
            "delete": _delete(resource),
        }
    paths |= _router_actions()
    paths |= _port_forwardings()
    paths |= _discovery() | _quality()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Alcor",
            "version": "2.0",
            "description": "OpenStack Networking v2.0, and Alcor's own resources beside it in the same style.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:9696", "description": "`alcor server` with its defaults"}],
        "tags": [{"name": resource.listing.collection} for resource in DESCRIBED] + [{"name": "discovery"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": {f"Error{status}": _error(status) for status in _ERRORS},
            "parameters": _parameters(),
        },
    }


@lru_cache(maxsize=1)
def served() -> bytes:
    """The document as GET /v2.0/openapi.json answers it."""
    return msgspec.json.encode(document())


def _schemas() -> Json:
    types = [
        kind for resource in DESCRIBED for kind in (resource.create, resource.update, resource.view) if kind is not None
    ]
    _, found = msgspec.json.schema_components(
        [
            *types,
            *(ErrorBody, Link, Extension, AgentUpdate, AgentView, HealthEventView),
            *(ReachabilityQuestion, ReachabilityAnswer, QosRuleTypeView),
            *(ReachabilityQuestion, ReachabilityAnswer, RouterInterfaceBody, RouterInterfaceView, ExtraRoutesBody),
        ],
        ref_template="#/components/schemas/{name}",
    )
    for resource in DESCRIBED:
        whole = found[resource.view.__name__]
        part = {key: value for key, value in whole.items() if key != "required"}
        found[_part_name(resource)] = {**part, "title": _part_name(resource), "minProperties": 0}
    for schema in found.values():
        _one_line(schema)
    return dict(sorted(found.items()))


def _part_name(resource: Resource) -> str:
    """The view's schema when `fields` may leave out any of it."""
    return resource.view.__name__.removesuffix("View") + "Part"


def _one_line(schema: Json) -> None:
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _object(properties: Json, required: Sequence[str], *, closed: bool = False) -> Json:
    schema: Json = {"type": "object", "properties": properties, "required": list(required)}
    if closed:
        schema["additionalProperties"] = False
    return schema


def _answer(description: str, schema: Json) -> Json:
    return {"description": description, "content": _json(schema)}


def _error(status: int) -> Json:
    response = _answer(_ERRORS[status], _ref("ErrorBody"))
    if status == 503:
        response["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return response


def _errors(*statuses: int) -> Json:
    return {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in sorted({*statuses, 500})}


def _operation(tag: str, name: str, summary: str, responses: Json, **rest: Any) -> Json:
    return {"tags": [tag], "operationId": name, "summary": summary, **rest, "responses": responses}


def _list(resource: Resource) -> Json:
    many = resource.listing.collection
    body = _object(
        {
            many: {"type": "array", "items": _ref(_part_name(resource))},
            f"{many}_links": {"type": "array", "items": _ref("Link")},
        },
        [many],
    )
    return _operation(
        many,
        f"list_{many}",
        f"Lists {many}, in pages.",
        {"200": _answer(f"A page of {many}, and links to its neighbours.", body), **_errors(400, 404)},
        parameters=[
            *(_shared(name) for name in ("fields", "limit", "marker", "page_reverse")),
            *_sorting(resource.listing),
            *_filters(resource.listing),
        ],
    )


def _create(resource: Resource) -> Json:
    one, many = resource.one, resource.listing.collection
    item, view = _ref(resource.create.__name__), _ref(resource.view.__name__)
    sent = [
        _object({one: item}, [one], closed=True),
        _object({many: {"type": "array", "items": item, "minItems": 1}}, [many], closed=True),
    ]
    got = [_object({one: view}, [one]), _object({many: {"type": "array", "items": view}}, [many])]
    return _operation(
        many,
        f"create_{many}",
        f"Makes one of the {many}, or any number of them: all or none, in one transaction.",
        {
            "201": _answer("Made, and durable. A bulk answers in its own order.", {"oneOf": got}),
            **_errors(400, 413, 503, *resource.create_errors),
        },
        **({"parameters": [_shared("project")]} if resource.owned else {}),
        requestBody={"required": True, "content": _json({"oneOf": sent})},
    )


def _show(resource: Resource) -> Json:
    one = resource.one
    body = _object({one: _ref(_part_name(resource))}, [one])
    return _operation(
        resource.listing.collection,
        f"show_{one}",
        f"Shows a {one}.",
        {"200": _answer(f"The {one}.", body), **_errors(400, 404)},
        parameters=[_shared("fields")],
    )


def _update(resource: Resource, update: type[Input]) -> Json:
    one = resource.one
    return _operation(
        resource.listing.collection,
        f"update_{one}",
        f"Changes what is given of a {one}.",
        {
            "200": _answer("Changed, and durable.", _object({one: _ref(resource.view.__name__)}, [one])),
            **_errors(400, 404, 409, 412, 413, 503),
        },
        parameters=[_shared("if_match")],
        requestBody={
            "required": True,
            "content": _json(_object({one: _ref(update.__name__)}, [one], closed=True)),
        },
    )


def _delete(resource: Resource) -> Json:
    one = resource.one
    return _operation(
        resource.listing.collection,
        f"delete_{one}",
        f"Deletes a {one}.",
        {"204": {"description": "Gone, durably."}, **_errors(400, 404, 412, 503, *resource.delete_errors)},
        parameters=[_shared("if_match")],
    )


def _in_path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}


def _port_forwardings() -> Json:
    """Of a floating IP: the operations of any resource, at a path below it."""
    resource = PORT_FORWARDING
    ids = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in ("floatingip_id", "port_forwarding_id")
    ]
    path = "/v2.0/floatingips/{floatingip_id}/port_forwardings"
    return {
        path: {"parameters": ids[:1], "get": _list(resource), "post": _create(resource)},
        f"{path}/{{port_forwarding_id}}": {
            "parameters": ids,
            "get": _show(resource),
            "put": _update(resource, PortForwardingUpdate),
            "delete": _delete(resource),
        },
    }


def _router_actions() -> Json:
    """What is done to a router beside changing it."""
    interface, view = _ref("RouterInterfaceBody"), _ref("RouterInterfaceView")
    routes = _object({"router": _ref("ExtraRoutesBody")}, ["router"], closed=True)
    router = _object({"router": _ref("RouterView")}, ["router"])
    member = {"name": "router_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    return {
        f"/v2.0/routers/{{router_id}}/{action}": {
            "parameters": [member],
            "put": _operation(
                "routers",
                action,
                summary,
                {"200": _answer("Done, and durable.", got), **_errors(400, 404, 409, 412, 413, 503)},
                parameters=[_shared("if_match")],
                requestBody={"required": True, "content": _json(sent)},
            ),
        }
        for action, summary, sent, got in (
            ("add_router_interface", "Gives a router an address in a subnet.", interface, view),
            ("remove_router_interface", "Takes it away again, with its port.", interface, view),
            ("add_extraroutes", "Adds routes; those that are there already stay.", routes, router),
            ("remove_extraroutes", "Removes routes; those that are not there are passed over.", routes, router),
        )
    }


def _shared(name: str) -> Json:
    return {"$ref": f"#/components/parameters/{name}"}


def _query(name: str, description: str, schema: Json, *, repeated: bool = False) -> Json:
    schema = {"type": "array", "items": schema} if repeated else schema
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _header(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _parameters() -> Json:
    text: Json = {"type": "string"}
    return {
        "fields": _query("fields", "Attributes to show; all when none is named.", text, repeated=True),
        "limit": _query(
            "limit",
            "Items of a page, at most the server's limit; 0 stands for that.",
            {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
        ),
        "marker": _query(
            "marker",
            "The id of the last item of the page before; empty: from the beginning.",
            {**text, "anyOf": [{"format": "uuid"}, {"maxLength": 0}]},
        ),
        "page_reverse": _query("page_reverse", "The page before the marker instead.", {"type": "boolean"}),
        "project": _header("X-Project-Id", "Whose the resource is, unless its body says so.", text),
        "if_match": _header(
            "If-Match", "Do it only to that revision.", {**text, "pattern": r"^(\*|revision_number=[0-9]{1,18})$"}
        ),
    }


def _sorting(listing: Listing) -> list[Json]:
    keys = sorted(name for name, column in listing.filters.items() if not isinstance(column, Compound))
    return [
        _query("sort_key", "Attributes to sort by, as many as sort_dir.", {"enum": keys}, repeated=True),
        _query("sort_dir", "The direction of each sort_key.", {"enum": ["asc", "desc"]}, repeated=True),
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
        found.append(_query(name, _filter_text(column), schema, repeated=True))
    return found


def _filter_text(column: Filter | Constant | Compound) -> str:
    if isinstance(column, Constant):
        return f"Always {json.dumps(column.value)}; any other value selects nothing."
    return "Selects what has one of these values."


def _discovery() -> Json:
    links = {"type": "array", "items": _ref("Link")}
    text: Json = {"type": "string"}
    version = _object({"id": text, "status": text, "links": links}, ["id", "status", "links"])
    entry = _object({"name": text, "collection": text, "links": links}, ["name", "collection", "links"])
    extension = _ref("Extension")

    extension_path = _shown("show_extension", "One extension.", "extension", extension)
    extension_path["responses"] |= _errors(404)
    extension_path["parameters"] = [{"name": "alias", "in": "path", "required": True, "schema": text}]
    return {
        **_hosts(),
        "/v2.0/reachability": {"post": _reachability()},
        "/": {
            "get": _shown("list_versions", "The versions of the API.", "versions", {"type": "array", "items": version})
        },
        "/v2.0": {
            "get": _shown(
                "list_resources", "The resources.", "resources", {"type": "array", "items": entry}, version=version
            )
        },
        "/v2.0/extensions": {
            "get": _shown("list_extensions", "The extensions.", "extensions", {"type": "array", "items": extension})
        },
        "/v2.0/extensions/{alias}": {"get": extension_path},
        "/v2.0/openapi.json": {
            "get": _operation(
                "discovery",
                "show_openapi",
                "This document.",
                {"200": _answer("OpenAPI 3.1.", {"type": "object"}), **_errors()},
            )
        },
    }


def _shown(name: str, summary: str, key: str, schema: Json, **more: Json) -> Json:
    body = _object({key: schema, **more}, [key, *more])
    return _operation("discovery", name, summary, {"200": _answer(summary, body), **_errors()})


def _hosts() -> Json:
    """How hosts are."""
    agent = _shown("show_agent", "A host's agent, and how it is.", "agent", _ref("AgentView"))
    agent["responses"] |= _errors(404)
    return {
        "/v2.0/agents": {"get": _shown("list_agents", "Hosts' agents.", "agents", _list_of("AgentView"))},
        "/v2.0/agents/{agent_id}": {
            "parameters": [_in_path("agent_id")],
            "get": agent,
            "put": _operation(
                "discovery",
                "update_agent",
                "Drains a host, or gives it back.",
                {
                    "200": _answer("Changed, and durable.", _object({"agent": _ref("AgentView")}, ["agent"])),
                    **_errors(400, 404, 409, 412, 413, 503),
                },
                parameters=[_shared("if_match")],
                requestBody={
                    "required": True,
                    "content": _json(_object({"agent": _ref("AgentUpdate")}, ["agent"], closed=True)),
                },
            ),
        },
        "/v2.0/health-events": {
            "get": _shown(
                "list_health_events",
                "What happened to hosts lately, oldest first.",
                "health_events",
                _list_of("HealthEventView"),
            )
        },
    }


def _quality() -> Json:
    """Of quality of service, what is no plain resource: rules by their id alone, kinds of rules."""
    found: Json = {}
    for words in qos.RULES:
        rule = next(one for one in RESOURCES if one.one == words.one)
        alias = rule._replace(one=f"alias_{words.one}")
        path = f"/v2.0/qos/alias-{words.listing.collection.replace('_', '-')}"
        found[f"{path}/{{{words.one}_id}}"] = {
            "parameters": [_in_path(f"{words.one}_id")],
            "get": _show(alias),
            "put": _update(alias, words.update),
            "delete": _delete(alias),
        }
    for kind in qos.UNSUPPORTED:
        refuse = _operation(
            "policies", f"create_{kind}_rule", f"Refused: no host carries {kind} rules out.", _errors(409, 413)
        )
        found[f"/v2.0/qos/policies/{{policy_id}}/{kind}_rules"] = {
            "parameters": [_in_path("policy_id")],
            "post": refuse,
        }
    kinds, kind_view = _list_of("QosRuleTypeView"), _ref("QosRuleTypeView")
    one = _shown("show_rule_type", "What a kind of rule can say.", "rule_type", kind_view)
    one["responses"] |= _errors(404)
    one["parameters"] = [{"name": "type", "in": "path", "required": True, "schema": {"type": "string"}}]
    found["/v2.0/qos/rule-types/{type}"] = {"get": one}
    found["/v2.0/qos/rule-types"] = {
        "get": _shown("list_rule_types", "The kinds of rules that hosts carry out.", "rule_types", kinds)
    }
    return found


def _reachability() -> Json:
    return _operation(
        "discovery",
        "ask_reachability",
        "Would this packet arrive, and if not, why?",
        {
            "200": _answer("The verdict.", _object({"reachability": _ref("ReachabilityAnswer")}, ["reachability"])),
            **_errors(400, 404, 413),
        },
        parameters=[_shared("project")],
        requestBody={
            "required": True,
            "content": _json(_object({"reachability": _ref("ReachabilityQuestion")}, ["reachability"], closed=True)),
        },
    )


def _list_of(name: str) -> Json:
    return {"type": "array", "items": _ref(name)}


def main() -> None:
    """Writes the document to standard output."""
    sys.stdout.write(json.dumps(document(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
