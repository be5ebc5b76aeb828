"""Octavia's resources in the OpenAPI document: one resource in a POST, no If-Match, errors in Octavia's shape.

Called by openapi. Pure. Every path is there below `/v2/lbaas`, too, for clients that say so.
"""

from __future__ import annotations

from alcor.api import lbaas
from alcor.api import lbaas_bodies as bodies
from alcor.api.openapi_parts import (
    ERRORS,
    Json,
    Resource,
    answer,
    content,
    in_path,
    list_of,
    list_operation,
    object_of,
    operation,
    query,
    ref,
    retry_after,
    shared,
    show_operation,
)

BALANCER = Resource(
    *("loadbalancer", lbaas.BALANCERS.listing, bodies.LoadBalancerCreate, bodies.LoadBalancerUpdate),
    *(bodies.LoadBalancerView, True, (), ()),
)
LISTENER = Resource(
    *("listener", lbaas.LISTENERS.listing, bodies.ListenerCreate, bodies.ListenerUpdate, bodies.ListenerView),
    *(True, (), ()),
)
POOL = Resource("pool", lbaas.POOLS.listing, bodies.PoolCreate, bodies.PoolUpdate, bodies.PoolView, True, (), ())
MONITOR = Resource(
    *("healthmonitor", lbaas.MONITORS.listing, bodies.HealthMonitorCreate, bodies.HealthMonitorUpdate),
    *(bodies.HealthMonitorView, True, (), ()),
)
MEMBER = Resource(
    *("member", lbaas.MEMBERS.listing, bodies.MemberCreate, bodies.MemberUpdate, bodies.MemberView, False, (), ()),
    path="pools/{pool_id}/members",
    inside="pool_id",
)
RESOURCES = (BALANCER, LISTENER, POOL, MONITOR, MEMBER)
SCHEMAS = (bodies.Fault, bodies.StatsView, bodies.StatusTree, bodies.ProviderView)
PREFIX = lbaas.PREFIXES[0]
FAULTS = ERRORS | {
    403: "No more of them in this load balancer or pool.",
    501: "Octavia has it, Alcor has not: it balances TCP and UDP, and reads nothing above them.",
}


def paths() -> Json:
    """All of Octavia's that are served."""
    found: Json = {}
    for resource in RESOURCES:
        path = resource.path or resource.listing.collection
        inside = [in_path(resource.inside)] if resource.inside else []
        collection: Json = {"get": list_operation(resource, faults), "post": _create(resource)}
        found[f"{PREFIX}/{path}"] = {"parameters": inside, **collection} if inside else collection
        found[f"{PREFIX}/{path}/{{{resource.one}_id}}"] = {
            "parameters": [*inside, in_path(f"{resource.one}_id")],
            "get": show_operation(resource, faults),
            "put": _update(resource),
            "delete": _delete(resource),
        }
    found[f"{PREFIX}/pools/{{pool_id}}/members"]["put"] = _replace_members()
    return found | _statuses() | _rest()


def responses() -> Json:
    """The components that `faults` names."""
    found = {f"Fault{status}": answer(text, ref("Fault")) for status, text in FAULTS.items()}
    found["Fault503"] |= retry_after()
    return found


def faults(*statuses: int) -> Json:
    """Octavia's errors; a fault of the server may always be."""
    return {str(status): {"$ref": f"#/components/responses/Fault{status}"} for status in sorted({*statuses, 500})}


def _create(resource: Resource) -> Json:
    one, many = resource.one, resource.listing.collection
    sent = object_of({one: ref(resource.create.__name__)}, [one], closed=True)
    got = object_of({one: ref(resource.view.__name__)}, [one])
    return operation(
        many,
        f"create_{one}",
        f"Makes a {one}.",
        {"201": answer("Made, and durable.", got), **faults(400, 403, 404, 409, 413, 501, 503)},
        **({"parameters": [shared("project")]} if resource.owned else {}),
        requestBody={"required": True, "content": content(sent)},
    )


def _update(resource: Resource) -> Json:
    one = resource.one
    assert resource.update is not None
    sent = object_of({one: ref(resource.update.__name__)}, [one], closed=True)
    got = object_of({one: ref(resource.view.__name__)}, [one])
    return operation(
        resource.listing.collection,
        f"update_{one}",
        f"Changes what is given of a {one}.",
        {"200": answer("Changed, and durable.", got), **faults(400, 404, 409, 413, 501, 503)},
        requestBody={"required": True, "content": content(sent)},
    )


def _delete(resource: Resource) -> Json:
    cascade = query("cascade", "With all that it has; without, it must have nothing.", {"type": "boolean"})
    return operation(
        resource.listing.collection,
        f"delete_{resource.one}",
        f"Deletes a {resource.one}.",
        {"204": {"description": "Gone, durably."}, **faults(400, 404, 409, 503)},
        **({"parameters": [cascade]} if resource is BALANCER else {}),
    )


def _replace_members() -> Json:
    additive = query("additive_only", "Nobody is taken out.", {"type": "boolean"})
    sent = object_of({"members": list_of(bodies.MemberCreate.__name__)}, ["members"], closed=True)
    return operation(
        "members",
        "replace_members",
        "Makes these the members of the pool: who is there by address and port is changed, others come and go.",
        {"202": {"description": "Done, and durable."}, **faults(400, 403, 404, 409, 413, 501, 503)},
        parameters=[additive],
        requestBody={"required": True, "content": content(sent)},
    )


def _shown(tag: str, name: str, summary: str, body: Json, *statuses: int) -> Json:
    return operation(tag, name, summary, {"200": answer(summary, body), **faults(*statuses)})


def _statuses() -> Json:
    tree, stats = (
        object_of({"statuses": ref("StatusTree")}, ["statuses"]),
        object_of({"stats": ref("StatsView")}, ["stats"]),
    )
    balancer, listener = in_path("loadbalancer_id"), in_path("listener_id")
    summary = "A load balancer and all that it has, with their statuses."
    found: Json = {
        f"{PREFIX}/loadbalancers/{{loadbalancer_id}}/{name}": {
            "parameters": [balancer],
            "get": _shown("loadbalancers", f"show_loadbalancer_{name}", summary, tree, 400, 404),
        }
        for name in ("status", "statuses")
    }
    for one, place in (("loadbalancer", balancer), ("listener", listener)):
        found[f"{PREFIX}/{one}s/{{{one}_id}}/stats"] = {
            "parameters": [place],
            "get": _shown(f"{one}s", f"show_{one}_stats", f"What a {one} carried.", stats, 400, 404),
        }
    return found


def _rest() -> Json:
    none = object_of({"l7policies": {"type": "array", "maxItems": 0}}, ["l7policies"])
    providers = object_of({"providers": list_of("ProviderView")}, ["providers"])
    refused = operation(
        "l7policies", "create_l7policy", "Refused: nothing above TCP and UDP is read.", faults(413, 501)
    )
    return {
        f"{PREFIX}/l7policies": {
            "get": _shown("l7policies", "list_l7policies", "There are none.", none),
            "post": refused,
        },
        f"{PREFIX}/providers": {"get": _shown("providers", "list_providers", "Who balances.", providers)},
    }
