"""The OpenAPI 3.1 document, from the Structs and the listings that the handlers themselves use. Called by app. Pure.

`python -m alcor.api.openapi > docs/openapi.json` writes the committed copy; a test fails when the two differ.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache

import msgspec

from alcor.api import (
    floating_ips,
    networks,
    nodes,
    openapi_lbaas,
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
)
from alcor.api.discovery import Extension, Link
from alcor.api.errors import ErrorBody
from alcor.api.nat_bodies import (
    FloatingIpCreate,
    FloatingIpUpdate,
    FloatingIpView,
    PortForwardingCreate,
    PortForwardingUpdate,
    PortForwardingView,
)
from alcor.api.openapi_parts import (
    ERRORS,
    Json,
    Resource,
    answer,
    content,
    create_operation,
    delete_operation,
    error,
    errors,
    in_path,
    list_of,
    list_operation,
    object_of,
    one_line,
    operation,
    parameters,
    part_name,
    ref,
    shared,
    show_operation,
    shown,
    update_operation,
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

RESOURCES = (
    Resource("network", networks.LISTING, NetworkCreate, NetworkUpdate, NetworkView, True, (404, 409), (409,)),
    Resource("subnet", subnets.LISTING, SubnetCreate, SubnetUpdate, SubnetView, True, (404, 409), (409,)),
    Resource("port", ports.LISTING, PortCreate, PortUpdate, PortView, True, (404, 409), (), waits=True),
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
DESCRIBED = (*RESOURCES, PORT_FORWARDING, *openapi_lbaas.RESOURCES)


def document() -> Json:
    """The whole document, as plain JSON values."""
    plain: Json = msgspec.json.decode(msgspec.json.encode(_document()))
    return plain


def _document() -> Json:
    paths: Json = {}
    for resource in RESOURCES:
        path = resource.path or resource.listing.collection.replace("_", "-")
        inside = [in_path(resource.inside)] if resource.inside else []
        collection: Json = {"get": list_operation(resource), "post": create_operation(resource)}
        paths[f"/v2.0/{path}"] = {"parameters": inside, **collection} if inside else collection
        paths[f"/v2.0/{path}/{{{resource.one}_id}}"] = {
            "parameters": [*inside, in_path(f"{resource.one}_id")],
            "get": show_operation(resource),
            **({} if resource.update is None else {"put": update_operation(resource, resource.update)}),
            "delete": delete_operation(resource),
        }
    paths |= _router_actions()
    paths |= _port_forwardings()
    paths |= _discovery() | _quality() | openapi_lbaas.paths()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Alcor",
            "version": "2.0",
            "description": "OpenStack Networking v2.0, Octavia's load balancers (below /v2/lbaas, too), and "
            "Alcor's own resources beside them in the same style.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:9696", "description": "`alcor server` with its defaults"}],
        "tags": [{"name": resource.listing.collection} for resource in DESCRIBED]
        + [{"name": name} for name in ("l7policies", "providers", "discovery")],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": {f"Error{status}": error(status) for status in ERRORS} | openapi_lbaas.responses(),
            "parameters": parameters(),
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
            *openapi_lbaas.SCHEMAS,
            *(ReachabilityQuestion, ReachabilityAnswer, RouterInterfaceBody, RouterInterfaceView, ExtraRoutesBody),
        ],
        ref_template="#/components/schemas/{name}",
    )
    for resource in DESCRIBED:
        whole = found[resource.view.__name__]
        part = {key: value for key, value in whole.items() if key != "required"}
        found[part_name(resource)] = {**part, "title": part_name(resource), "minProperties": 0}
    for schema in found.values():
        one_line(schema)
    return dict(sorted(found.items()))


def _port_forwardings() -> Json:
    """Of a floating IP: the operations of any resource, at a path below it."""
    resource = PORT_FORWARDING
    ids = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in ("floatingip_id", "port_forwarding_id")
    ]
    path = "/v2.0/floatingips/{floatingip_id}/port_forwardings"
    return {
        path: {"parameters": ids[:1], "get": list_operation(resource), "post": create_operation(resource)},
        f"{path}/{{port_forwarding_id}}": {
            "parameters": ids,
            "get": show_operation(resource),
            "put": update_operation(resource, PortForwardingUpdate),
            "delete": delete_operation(resource),
        },
    }


def _router_actions() -> Json:
    """What is done to a router beside changing it."""
    interface, view = ref("RouterInterfaceBody"), ref("RouterInterfaceView")
    routes = object_of({"router": ref("ExtraRoutesBody")}, ["router"], closed=True)
    router = object_of({"router": ref("RouterView")}, ["router"])
    member = {"name": "router_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    return {
        f"/v2.0/routers/{{router_id}}/{action}": {
            "parameters": [member],
            "put": operation(
                "routers",
                action,
                summary,
                {"200": answer("Done, and durable.", got), **errors(400, 404, 409, 412, 413, 503)},
                parameters=[shared("if_match")],
                requestBody={"required": True, "content": content(sent)},
            ),
        }
        for action, summary, sent, got in (
            ("add_router_interface", "Gives a router an address in a subnet.", interface, view),
            ("remove_router_interface", "Takes it away again, with its port.", interface, view),
            ("add_extraroutes", "Adds routes; those that are there already stay.", routes, router),
            ("remove_extraroutes", "Removes routes; those that are not there are passed over.", routes, router),
        )
    }


def _discovery() -> Json:
    links = {"type": "array", "items": ref("Link")}
    text: Json = {"type": "string"}
    version = object_of({"id": text, "status": text, "links": links}, ["id", "status", "links"])
    entry = object_of({"name": text, "collection": text, "links": links}, ["name", "collection", "links"])
    extension = ref("Extension")

    extension_path = shown("show_extension", "One extension.", "extension", extension)
    extension_path["responses"] |= errors(404)
    extension_path["parameters"] = [{"name": "alias", "in": "path", "required": True, "schema": text}]
    return {
        **_hosts(),
        "/v2.0/reachability": {"post": _reachability()},
        "/": {
            "get": shown("list_versions", "The versions of the API.", "versions", {"type": "array", "items": version})
        },
        "/v2.0": {
            "get": shown(
                "list_resources", "The resources.", "resources", {"type": "array", "items": entry}, version=version
            )
        },
        "/v2.0/extensions": {
            "get": shown("list_extensions", "The extensions.", "extensions", {"type": "array", "items": extension})
        },
        "/v2.0/extensions/{alias}": {"get": extension_path},
        "/v2.0/openapi.json": {
            "get": operation(
                "discovery",
                "show_openapi",
                "This document.",
                {"200": answer("OpenAPI 3.1.", {"type": "object"}), **errors()},
            )
        },
    }


def _hosts() -> Json:
    """How hosts are."""
    agent = shown("show_agent", "A host's agent, and how it is.", "agent", ref("AgentView"))
    agent["responses"] |= errors(404)
    return {
        "/v2.0/agents": {"get": shown("list_agents", "Hosts' agents.", "agents", list_of("AgentView"))},
        "/v2.0/agents/{agent_id}": {
            "parameters": [in_path("agent_id")],
            "get": agent,
            "put": operation(
                "discovery",
                "update_agent",
                "Drains a host, or gives it back.",
                {
                    "200": answer("Changed, and durable.", object_of({"agent": ref("AgentView")}, ["agent"])),
                    **errors(400, 404, 409, 412, 413, 503),
                },
                parameters=[shared("if_match")],
                requestBody={
                    "required": True,
                    "content": content(object_of({"agent": ref("AgentUpdate")}, ["agent"], closed=True)),
                },
            ),
        },
        "/v2.0/health-events": {
            "get": shown(
                "list_health_events",
                "What happened to hosts lately, oldest first.",
                "health_events",
                list_of("HealthEventView"),
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
            "parameters": [in_path(f"{words.one}_id")],
            "get": show_operation(alias),
            "put": update_operation(alias, words.update),
            "delete": delete_operation(alias),
        }
    for kind in qos.UNSUPPORTED:
        refuse = operation(
            "policies", f"create_{kind}_rule", f"Refused: no host carries {kind} rules out.", errors(409, 413)
        )
        found[f"/v2.0/qos/policies/{{policy_id}}/{kind}_rules"] = {
            "parameters": [in_path("policy_id")],
            "post": refuse,
        }
    kinds, kind_view = list_of("QosRuleTypeView"), ref("QosRuleTypeView")
    one = shown("show_rule_type", "What a kind of rule can say.", "rule_type", kind_view)
    one["responses"] |= errors(404)
    one["parameters"] = [{"name": "type", "in": "path", "required": True, "schema": {"type": "string"}}]
    found["/v2.0/qos/rule-types/{type}"] = {"get": one}
    found["/v2.0/qos/rule-types"] = {
        "get": shown("list_rule_types", "The kinds of rules that hosts carry out.", "rule_types", kinds)
    }
    return found


def _reachability() -> Json:
    return operation(
        "discovery",
        "ask_reachability",
        "Would this packet arrive, and if not, why?",
        {
            "200": answer("The verdict.", object_of({"reachability": ref("ReachabilityAnswer")}, ["reachability"])),
            **errors(400, 404, 413),
        },
        parameters=[shared("project")],
        requestBody={
            "required": True,
            "content": content(object_of({"reachability": ref("ReachabilityQuestion")}, ["reachability"], closed=True)),
        },
    )


def main() -> None:
    """Writes the document to standard output."""
    sys.stdout.write(json.dumps(document(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
