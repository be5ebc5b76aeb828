"""The REST face as one ASGI application: every path, and the handlers behind it. Called by roles and tests.

Starlette runs the lifespan and answers what is nowhere; the endpoints are Alcor's own (exchange), and their paths are
so few and so regular that two look-ups find them. Measured: a GET costs 26 us of CPU so, 38 us through Starlette's
router and middleware, 20 us as an empty ASGI application. A trailing slash is the same path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler, Lifespan, Receive, Scope, Send

from alcor.api import discovery, errors, lbaas, openapi, qos
from alcor.api.agents import Agents
from alcor.api.context import Context
from alcor.api.errors import Reply
from alcor.api.exchange import Call, Endpoint, Handler, Limits, next_request_id
from alcor.api.floating_ips import FloatingIps
from alcor.api.networks import Networks
from alcor.api.nodes import Nodes
from alcor.api.peerings import Peerings
from alcor.api.port_forwardings import PortForwardings
from alcor.api.ports import Ports
from alcor.api.reachability import ReachabilityHandler
from alcor.api.routers import Routers
from alcor.api.security_groups import SecurityGroupRules, SecurityGroups
from alcor.api.subnets import Subnets
from alcor.api.tree import Tree
from alcor.services.commands import Control
from alcor.services.health import HealthView
from alcor.services.reachability import ReachabilityView
from alcor.services.traffic import Traffic
from alcor.services.waiting import Waits
from alcor.store.base import Store

MEMBER = "/{member}"
PARENT = "/{parent}"
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
"""Prometheus's text format."""
READERS = 4
"""Threads that answer lists."""


def create_app(
    control: Control,
    store: Store,
    *,
    limits: Limits | None = None,
    health: HealthView | None = None,
    metrics: Callable[[], bytes] | None = None,
    reachability: ReachabilityView | None = None,
    traffic: Traffic | None = None,
    waits: Waits | None = None,
) -> Starlette:
    """The application. `health` answers how hosts are, `metrics` makes the page for Prometheus, `reachability` says why
    packets arrive or not, `traffic` what load balancers carried, `waits` when ports have left BUILD.

    It owns its reader threads (they end with the lifespan), not `control` and not `store`.
    """
    readers = ThreadPoolExecutor(READERS, thread_name_prefix="alcor-api-read")
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            readers.shutdown(wait=True, cancel_futures=True)

    context = Context(control, store, readers, health, metrics, reachability, traffic, waits)
    endpoints = {path: Endpoint(methods, limits) for path, methods in handlers(context).items()}
    tree = lbaas.make_tree(context, limits)
    return Application(
        endpoints, tree, lifespan=lifespan, exception_handlers={HTTPException: _http_error, Exception: _unexpected}
    )


class Application(Starlette):
    """See the module. `endpoints` by path; /{parent} in it stands for whatever is there, and so does /{member}: at its
    end, or before what is done to a member. `balancing` answers for all paths of Octavia's."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        balancing: Tree,
        *,
        lifespan: Lifespan[Starlette],
        exception_handlers: Mapping[Any, ExceptionHandler],
    ) -> None:
        self._balancing = balancing
        super().__init__(lifespan=lifespan, exception_handlers=exception_handlers)
        self._whole = {path: endpoint for path, endpoint in endpoints.items() if MEMBER not in path}
        self._parents = {
            path.removesuffix(MEMBER): endpoint for path, endpoint in endpoints.items() if path.endswith(MEMBER)
        }
        self._nested = {path.partition(PARENT)[0] for path in endpoints if PARENT in path}
        """Collections whose members have collections."""
        self._actions = {
            tuple(path.split(f"{MEMBER}/")): endpoint for path, endpoint in endpoints.items() if f"{MEMBER}/" in path
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            endpoint = self._find(scope)
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
            for prefix in lbaas.PREFIXES:
                if scope["path"].startswith(f"{prefix}/"):
                    await self._balancing.answer(prefix, scope, receive, send)
                    return
        await super().__call__(scope, receive, send)

    def _find(self, scope: Scope) -> Endpoint | None:
        path: str = scope["path"]
        endpoint = self._whole.get(path)
        if endpoint is None and path.endswith("/"):
            path = path[:-1]
            endpoint = self._whole.get(path)
        if endpoint is None:
            parent, _, member = path.rpartition("/")
            endpoint = self._parents.get(parent) if member else None
            if endpoint is None:
                action = member
                parent, _, member = parent.rpartition("/")
                endpoint = self._actions.get((parent, action)) if member else None
            scope["path_params"] = {"member": member}
            if endpoint is None and parent:
                endpoint = self._find_nested(scope, path)
        return endpoint

    def _find_nested(self, scope: Scope, path: str) -> Endpoint | None:
        """.../{parent}/collection and .../{parent}/collection/{member}."""
        steps = path.split("/")
        for below, known in ((1, self._whole), (2, self._parents)):
            base, rest = "/".join(steps[: -below - 1]), steps[-below:]
            if base in self._nested:
                scope["path_params"] = {"parent": steps[-below - 1], "member": rest[-1]}
                return known.get(f"{base}{PARENT}/{rest[0]}")
        return None


def handlers(context: Context) -> Mapping[str, Mapping[str, Handler]]:
    """Path -> method -> handler."""
    ports, networks, subnets, nodes = Ports(context), Networks(context), Subnets(context), Nodes(context)
    found: dict[str, dict[str, Handler]] = {}
    groups, rules, routers = SecurityGroups(context), SecurityGroupRules(context), Routers(context)
    for collection, resource in (
        *(("ports", ports), ("networks", networks), ("subnets", subnets), ("nodes", nodes)),
        *(("security-groups", groups), ("routers", routers), ("vpc-peerings", Peerings(context))),
        ("floatingips", FloatingIps(context)),
    ):
        found[f"/v2.0/{collection}"] = {"GET": resource.list, "POST": resource.create}
        found[f"/v2.0/{collection}/{{member}}"] = {
            "GET": resource.show,
            "PUT": resource.update,
            "DELETE": resource.delete,
        }
    for action, handler in (
        ("add_router_interface", routers.add_interface),
        ("remove_router_interface", routers.remove_interface),
        ("add_extraroutes", routers.add_extra_routes),
        ("remove_extraroutes", routers.remove_extra_routes),
    ):
        found[f"/v2.0/routers/{{member}}/{action}"] = {"PUT": handler}
    forwardings = PortForwardings(context)
    found["/v2.0/floatingips/{parent}/port_forwardings"] = {"GET": forwardings.list, "POST": forwardings.create}
    found["/v2.0/floatingips/{parent}/port_forwardings/{member}"] = {
        "GET": forwardings.show,
        "PUT": forwardings.update,
        "DELETE": forwardings.delete,
    }
    found["/v2.0/security-group-rules"] = {"GET": rules.list, "POST": rules.create}
    found["/v2.0/security-group-rules/{member}"] = {"GET": rules.show, "DELETE": rules.delete}
    found |= {path: dict(methods) for path, methods in qos.handlers(context).items()}
    agents = Agents(context)
    found["/v2.0/agents"] = {"GET": agents.list}
    found["/v2.0/agents/{member}"] = {"GET": agents.show, "PUT": agents.update}
    found["/v2.0/health-events"] = {"GET": agents.events}
    if context.metrics is not None:
        found["/metrics"] = {"GET": _metrics(context.metrics)}
    if context.reachability is not None:
        found["/v2.0/reachability"] = {"POST": ReachabilityHandler(context).ask}
    found["/"] = {"GET": discovery.versions}
    found["/v2.0"] = {"GET": discovery.resources}
    found["/v2.0/extensions"] = {"GET": discovery.extensions}
    found["/v2.0/extensions/{member}"] = {"GET": discovery.extension}
    found["/v2.0/openapi.json"] = {"GET": _openapi}
    return found


def _metrics(render: Callable[[], bytes]) -> Handler:
    async def metrics(_call: Call) -> Reply:
        return Reply(200, render(), content_type=METRICS_TYPE)

    return metrics


async def _openapi(_call: Call) -> Reply:
    return Reply(200, openapi.served())


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router refuses: no such path."""
    reply = errors.path_not_found(request.url.path)
    return _response(reply, next_request_id())


async def _unexpected(request: Request, error: Exception) -> Response:
    request_id = next_request_id()
    return _response(errors.to_reply(error, request_id, f"{request.method} {request.url.path}"), request_id)


def _response(reply: Reply, request_id: str) -> Response:
    headers = {name.decode("ascii"): value.decode("ascii") for name, value in reply.headers}
    headers["x-openstack-request-id"] = request_id
    return Response(reply.body, reply.status, headers, "application/json")
