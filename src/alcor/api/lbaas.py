"""Octavia's API: load balancers, listeners, pools, members, health monitors. Called by app.

Paths, bodies, words and errors (`{"faultcode", "faultstring", "debuginfo"}`) are Octavia's, so that its clients work
unmodified. Everything is ACTIVE as soon as it is committed. What Octavia has and Alcor has not is refused with 501.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypeVar, cast

import msgspec
from msgspec import UNSET, UnsetType

from alcor.api import lbaas_bodies as bodies
from alcor.api import lbaas_views as views
from alcor.api.bodies import CreateReader, Input, UpdateReader, View
from alcor.api.context import Context
from alcor.api.convert import identifier, ip
from alcor.api.errors import RETRY_AFTER_S, ApiError, BadRequest, FieldError, Reply
from alcor.api.exchange import Call, Handler, Limits
from alcor.api.listing import STANDARD, Filter, Listing, boolean, cut, find_page, page_reply, read_fields, read_page
from alcor.api.tree import NoMethod, NoPath, Tree
from alcor.model.balancing import (
    Algorithm,
    Balancing,
    HealthMonitor,
    Listener,
    LoadBalancer,
    Member,
    MemberPool,
    MonitorType,
    Protocol,
)
from alcor.model.ids import Id, format_id, parse_id
from alcor.services import balancing_commands as commands
from alcor.services.commands import Command
from alcor.services.errors import (
    BalancingNotFound,
    BalancingUnsupported,
    DomainError,
    HealthMonitorNotFound,
    ListenerNotFound,
    LoadBalancerNotFound,
    MemberNotFound,
    PoolNotFound,
)
from alcor.services.traffic import Counts, Service
from alcor.store.base import Query, Store

PREFIXES = ("/v2.0/lbaas", "/v2/lbaas")
REFUSED = {
    "protocol": ("HTTP", "HTTPS", "TERMINATED_HTTPS", "SCTP", "PROMETHEUS", "PROXY", "PROXYV2"),
    "lb_algorithm": ("LEAST_CONNECTIONS",),
    "type": ("TLS-HELLO", "SCTP"),
    "session_persistence": ("HTTP_COOKIE", "APP_COOKIE"),
}
"""What Octavia knows and Alcor, which balances packets and reads no layer above TCP and UDP, does not."""
EMPTY = (
    *("additional_vips", "allowed_cidrs", "l7policies", "listeners", "pools", "sni_container_refs", "tags"),
    "vip_sg_ids",
)
"""Lists that Octavia's clients may send, and that must be empty."""

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_Word = TypeVar("_Word", bound=StrEnum)
Given = TypeVar("Given")
Sent = TypeVar("Sent", bound=Input)


def fault(error: Exception, request_id: str, what: str) -> Reply:
    """The reply to any failure, in Octavia's shape."""
    if isinstance(error, DomainError | ApiError):
        retry = ((b"retry-after", b"%d" % RETRY_AFTER_S),) if error.status == 503 else ()
        return _fault(error.status, error.message, retry)
    if isinstance(error, FieldError):
        return _fault(400, f"Invalid input for field/attribute {error.field}. {error.reason}")
    if isinstance(error, NoPath):
        return _fault(404, "The resource could not be found.")
    if isinstance(error, NoMethod):
        return _fault(405, "Method Not Allowed", ((b"allow", str(error).encode("ascii")),))
    _log.error("request failed: %s", what, exc_info=error, extra={"request_id": request_id})
    return _fault(500, f"Internal server error: the server's log has {request_id}.")


def _fault(status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    code: Literal["Server", "Client"] = "Server" if status >= 500 else "Client"
    return Reply(status, _encode(bodies.Fault(faultcode=code, faultstring=text)), headers)


class Resource(NamedTuple):
    """One of Octavia's collections."""

    noun: type[Any]
    one: str
    listing: Listing
    view: Callable[[Any, views.Family], View]
    label: str


def _listing(collection: str, error: type[BalancingNotFound], parent: str | None) -> Listing:
    filters: dict[str, Any] = {
        **{name: column for name, column in STANDARD.items() if name != "revision_number"},
        "project_id": Filter("project_id"),
        "tenant_id": Filter("project_id"),
    }
    if parent is not None:
        filters[parent] = Filter("parent", parse_id)
    return Listing(collection, error, filters)


BALANCERS = Resource(
    LoadBalancer,
    "loadbalancer",
    _listing("loadbalancers", LoadBalancerNotFound, "vip_network_id"),
    views.balancer_view,
    "Load Balancer",
)
LISTENERS = Resource(
    Listener,
    "listener",
    _listing("listeners", ListenerNotFound, "loadbalancer_id"),
    views.listener_view,
    "Listener",
)
POOLS = Resource(MemberPool, "pool", _listing("pools", PoolNotFound, "loadbalancer_id"), views.pool_view, "Pool")
MEMBERS = Resource(Member, "member", _listing("members", MemberNotFound, None), views.member_view, "Member")
MONITORS = Resource(
    HealthMonitor,
    "healthmonitor",
    _listing("healthmonitors", HealthMonitorNotFound, "pool_id"),
    views.monitor_view,
    "Health Monitor",
)

_balancer_creates = CreateReader(bodies.LoadBalancerCreate, bodies.LoadBalancerView, "loadbalancer", "loadbalancers")
_balancer_updates = UpdateReader(bodies.LoadBalancerUpdate, bodies.LoadBalancerView, "loadbalancer")
_listener_creates = CreateReader(bodies.ListenerCreate, bodies.ListenerView, "listener", "listeners")
_listener_updates = UpdateReader(bodies.ListenerUpdate, bodies.ListenerView, "listener")
_pool_creates = CreateReader(bodies.PoolCreate, bodies.PoolView, "pool", "pools")
_pool_updates = UpdateReader(bodies.PoolUpdate, bodies.PoolView, "pool")
_member_creates = CreateReader(bodies.MemberCreate, bodies.MemberView, "member", "members")
_member_updates = UpdateReader(bodies.MemberUpdate, bodies.MemberView, "member")
_monitor_creates = CreateReader(bodies.HealthMonitorCreate, bodies.HealthMonitorView, "healthmonitor", "healthmonitors")
_monitor_updates = UpdateReader(bodies.HealthMonitorUpdate, bodies.HealthMonitorView, "healthmonitor")


def make_tree(context: Context, limits: Limits) -> Tree:
    """All paths under a prefix."""
    return Tree(patterns(context), fault, limits)


def patterns(context: Context) -> Mapping[str, Mapping[str, Handler]]:
    """Path below the prefix -> method -> handler."""
    face = Lbaas(context)
    return {
        "/loadbalancers": {"GET": face.lister(BALANCERS), "POST": face.create_balancer},
        "/loadbalancers/{}": {
            "GET": face.shower(BALANCERS),
            "PUT": face.update_balancer,
            "DELETE": face.delete_balancer,
        },
        "/loadbalancers/{}/status": {"GET": face.status},
        "/loadbalancers/{}/statuses": {"GET": face.status},
        "/loadbalancers/{}/stats": {"GET": face.balancer_stats},
        "/listeners/{}/stats": {"GET": face.listener_stats},
        "/listeners": {"GET": face.lister(LISTENERS), "POST": face.create_listener},
        "/listeners/{}": {
            "GET": face.shower(LISTENERS),
            "PUT": face.update_listener,
            "DELETE": face.deleter(LISTENERS, lambda one: commands.DeleteListener(id=one)),
        },
        "/pools": {"GET": face.lister(POOLS), "POST": face.create_pool},
        "/pools/{}": {
            "GET": face.shower(POOLS),
            "PUT": face.update_pool,
            "DELETE": face.deleter(POOLS, lambda one: commands.DeletePool(id=one)),
        },
        "/pools/{}/members": {
            "GET": face.list_members,
            "POST": face.create_member,
            "PUT": face.replace_members,
        },
        "/pools/{}/members/{}": {
            "GET": face.show_member,
            "PUT": face.update_member,
            "DELETE": face.delete_member,
        },
        "/healthmonitors": {"GET": face.lister(MONITORS), "POST": face.create_monitor},
        "/healthmonitors/{}": {
            "GET": face.shower(MONITORS),
            "PUT": face.update_monitor,
            "DELETE": face.deleter(MONITORS, lambda one: commands.DeleteHealthMonitor(id=one)),
        },
        "/l7policies": {"GET": _no_policies, "POST": _refuse_policies},
        "/providers": {"GET": _providers},
    }


async def _no_policies(_call: Call) -> Reply:
    return Reply(200, _encode({"l7policies": []}))


async def _refuse_policies(_call: Call) -> Reply:
    raise _unsupported("L7 policies: it balances TCP and UDP and reads nothing above them")


async def _providers(_call: Call) -> Reply:
    view = bodies.ProviderView(name="alcor", description="On every host, by Maglev hashing.")
    return Reply(200, _encode({"providers": [view]}))


class Lbaas:
    """The handlers."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # ---- what all have ----

    def lister(self, resource: Resource) -> Handler:
        """GET of a collection."""

        async def answer(call: Call) -> Reply:
            return await self._list(call, resource, None)

        return answer

    def shower(self, resource: Resource) -> Handler:
        """GET of one."""

        async def answer(call: Call) -> Reply:
            row = self._row(resource, _place(call, 0, resource))
            return self._reply(resource, row, 200, read_fields(call))

        return answer

    def deleter(self, resource: Resource, command: Callable[[Id], Command]) -> Handler:
        """DELETE of one."""

        async def answer(call: Call) -> Reply:
            await self._context.control.submit(command(_place(call, 0, resource)))
            return Reply(204)

        return answer

    async def _list(self, call: Call, resource: Resource, parent: Id | None) -> Reply:
        page = read_page(call, resource.listing)
        if parent is not None and page.query is not None:
            query = msgspec.structs.replace(page.query, filters={**page.query.filters, "parent": (parent,)})
            page = page._replace(query=query)
        rows = await find_page(
            self._context,
            resource.listing,
            page,
            lambda query: self._context.store.list_rows(resource.noun, query),
        )
        family = await self._context.read(lambda: _family(self._context.store, rows))
        return page_reply(call, resource.listing, page, [resource.view(row, family) for row in rows])

    def _row(self, resource: Resource, identifier: Id) -> Any:
        found = self._context.store.list_rows(resource.noun, Query(filters={"id": (identifier,)}, limit=1))
        if not found:
            raise resource.listing.not_found(f"{resource.label} {format_id(identifier)} not found.")
        return found[0]

    def _reply(self, resource: Resource, row: Balancing, status: int, fields: tuple[str, ...] = ()) -> Reply:
        view = resource.view(row, _family(self._context.store, [row]))
        return Reply(status, _encode({resource.one: cut(view, fields) if fields else view}))

    async def _do(self, resource: Resource, command: Command, status: int) -> Reply:
        row = await self._context.control.submit(command)
        return self._reply(resource, cast(Balancing, row), status)

    # ---- load balancers ----

    async def create_balancer(self, call: Call) -> Reply:
        body = _one(_balancer_creates, call)
        command = commands.CreateLoadBalancer(
            project_id=_project(body.project_id, body.tenant_id, call),
            name=body.name,
            description=body.description,
            network_id=_optional(body.vip_network_id, "vip_network_id"),
            subnet_id=_optional(body.vip_subnet_id, "vip_subnet_id"),
            port_id=_optional(body.vip_port_id, "vip_port_id"),
            ip=None if body.vip_address is None else ip(body.vip_address, "vip_address"),
            admin_state_up=body.admin_state_up,
        )
        return await self._do(BALANCERS, command, 201)

    async def update_balancer(self, call: Call) -> Reply:
        body = _change(_balancer_updates, call)
        command = commands.UpdateLoadBalancer(
            id=_place(call, 0, BALANCERS),
            name=_said(body.name),
            description=_said(body.description),
            admin_state_up=body.admin_state_up,
        )
        return await self._do(BALANCERS, command, 200)

    async def delete_balancer(self, call: Call) -> Reply:
        row = cast(LoadBalancer, self._row(BALANCERS, _place(call, 0, BALANCERS)))
        cascade = any(name == "cascade" and boolean(value) for name, value in call.query())
        command = commands.DeleteLoadBalancer(id=row.id, port_id=row.vip_port_id, cascade=cascade)
        await self._context.control.submit(command)
        return Reply(204)

    async def status(self, call: Call) -> Reply:
        row = cast(LoadBalancer, self._row(BALANCERS, _place(call, 0, BALANCERS)))
        family = await self._context.read(lambda: views.family_of_balancers(self._context.store, [row.id]))
        return Reply(200, _encode({"statuses": views.status_tree(row, family)}))

    async def balancer_stats(self, call: Call) -> Reply:
        row = cast(LoadBalancer, self._row(BALANCERS, _place(call, 0, BALANCERS)))
        listeners = views.children(self._context.store, Listener, [row.id]).get(row.id, ())
        return self._stats(row, listeners)

    async def listener_stats(self, call: Call) -> Reply:
        listener = cast(Listener, self._row(LISTENERS, _place(call, 0, LISTENERS)))
        return self._stats(cast(LoadBalancer, self._row(BALANCERS, listener.load_balancer_id)), [listener])

    def _stats(self, balancer: LoadBalancer, listeners: Iterable[Listener]) -> Reply:
        total = Counts()
        for one in listeners:
            named = Service(balancer.network_id, balancer.vip_ip, one.protocol.number, one.port)
            total = total.plus(self._context.traffic.of(named))
        view = bodies.StatsView(
            active_connections=total.active,
            bytes_in=total.bytes_in,
            bytes_out=total.bytes_out,
            total_connections=total.connections,
        )
        return Reply(200, _encode({"stats": view}))

    # ---- listeners ----

    async def create_listener(self, call: Call) -> Reply:
        body = _one(_listener_creates, call)
        if body.insert_headers:
            raise _unsupported("insert_headers: it reads nothing above TCP and UDP")
        for name in ("client_data", "member_connect", "member_data", "tcp_inspect"):
            _check_timeout(name, getattr(body, f"timeout_{name}"))
        command = commands.CreateListener(
            load_balancer_id=identifier(body.loadbalancer_id, "loadbalancer_id"),
            protocol=_word(Protocol, "protocol", body.protocol),
            port=body.protocol_port,
            project_id=_project(body.project_id, body.tenant_id, call),
            name=body.name,
            description=body.description,
            pool_id=_optional(body.default_pool_id, "default_pool_id"),
            admin_state_up=body.admin_state_up,
        )
        return await self._do(LISTENERS, command, 201)

    async def update_listener(self, call: Call) -> Reply:
        body = _change(_listener_updates, call)
        pool: Id | UnsetType | None = UNSET
        if body.default_pool_id is not UNSET:
            pool = _optional(body.default_pool_id, "default_pool_id")
        command = commands.UpdateListener(
            id=_place(call, 0, LISTENERS),
            name=_said(body.name),
            description=_said(body.description),
            pool_id=pool,
            admin_state_up=body.admin_state_up,
        )
        return await self._do(LISTENERS, command, 200)

    # ---- pools ----

    async def create_pool(self, call: Call) -> Reply:
        body = _one(_pool_creates, call)
        command = commands.CreatePool(
            protocol=_word(Protocol, "protocol", body.protocol),
            algorithm=_word(Algorithm, "lb_algorithm", body.lb_algorithm),
            load_balancer_id=_optional(body.loadbalancer_id, "loadbalancer_id"),
            listener_id=_optional(body.listener_id, "listener_id"),
            project_id=_project(body.project_id, body.tenant_id, call),
            name=body.name,
            description=body.description,
            persistence=_persistence(body.session_persistence),
            admin_state_up=body.admin_state_up,
        )
        return await self._do(POOLS, command, 201)

    async def update_pool(self, call: Call) -> Reply:
        body = _change(_pool_updates, call)
        given = body.session_persistence
        command = commands.UpdatePool(
            id=_place(call, 0, POOLS),
            name=_said(body.name),
            description=_said(body.description),
            algorithm=UNSET if body.lb_algorithm is UNSET else _word(Algorithm, "lb_algorithm", body.lb_algorithm),
            persistence=UNSET if given is UNSET else _persistence(given),
            admin_state_up=body.admin_state_up,
        )
        return await self._do(POOLS, command, 200)

    # ---- members ----

    async def list_members(self, call: Call) -> Reply:
        pool = self._row(POOLS, _place(call, 0, POOLS))
        return await self._list(call, MEMBERS, pool.id)

    async def show_member(self, call: Call) -> Reply:
        row = self._row(MEMBERS, _place(call, 1, MEMBERS))
        if row.pool_id != _place(call, 0, POOLS):
            raise MemberNotFound(f"Member {format_id(row.id)} not found.")
        return self._reply(MEMBERS, row, 200, read_fields(call))

    async def create_member(self, call: Call) -> Reply:
        body = _one(_member_creates, call)
        command = commands.CreateMember(pool_id=_place(call, 0, POOLS), spec=_member_spec(body))
        return await self._do(MEMBERS, command, 201)

    async def replace_members(self, call: Call) -> Reply:
        found, _ = _member_creates.read(call.body, none=True)
        additive = any(name == "additive_only" and boolean(value) for name, value in call.query())
        specs = tuple([_member_spec(_check_lists(body)) for body in found])
        command = commands.ReplaceMembers(pool_id=_place(call, 0, POOLS), specs=specs, additive=additive)
        await self._context.control.submit(command)
        return Reply(202)

    async def update_member(self, call: Call) -> Reply:
        body = _change(_member_updates, call)
        command = commands.UpdateMember(
            pool_id=_place(call, 0, POOLS),
            id=_place(call, 1, MEMBERS),
            name=_said(body.name),
            weight=body.weight,
            admin_state_up=body.admin_state_up,
        )
        return await self._do(MEMBERS, command, 200)

    async def delete_member(self, call: Call) -> Reply:
        command = commands.DeleteMember(pool_id=_place(call, 0, POOLS), id=_place(call, 1, MEMBERS))
        await self._context.control.submit(command)
        return Reply(204)

    # ---- health monitors ----

    async def create_monitor(self, call: Call) -> Reply:
        body = _one(_monitor_creates, call)
        command = commands.CreateHealthMonitor(
            pool_id=identifier(body.pool_id, "pool_id"),
            type=_word(MonitorType, "type", body.type),
            delay_s=body.delay,
            timeout_s=body.timeout,
            rise=body.max_retries,
            fall=body.max_retries_down,
            project_id=_project(body.project_id, body.tenant_id, call),
            name=body.name,
            http_method=body.http_method or "",
            url_path=body.url_path or "",
            expected_codes=body.expected_codes or "",
            admin_state_up=body.admin_state_up,
        )
        return await self._do(MONITORS, command, 201)

    async def update_monitor(self, call: Call) -> Reply:
        body = _change(_monitor_updates, call)
        command = commands.UpdateHealthMonitor(
            id=_place(call, 0, MONITORS),
            name=_said(body.name),
            delay_s=body.delay,
            timeout_s=body.timeout,
            rise=body.max_retries,
            fall=body.max_retries_down,
            http_method=body.http_method,
            url_path=body.url_path,
            expected_codes=body.expected_codes,
            admin_state_up=body.admin_state_up,
        )
        return await self._do(MONITORS, command, 200)


# ---- reading ----


def _family(store: Store, rows: Iterable[Balancing]) -> views.Family:
    """What the views of these rows need beside them."""
    balancers = [
        row.id if isinstance(row, LoadBalancer) else row.load_balancer_id
        for row in rows
        if isinstance(row, LoadBalancer | Listener | MemberPool)
    ]
    return views.family_of_balancers(store, balancers) if balancers else views.Family()


def _one(reader: CreateReader[Any], call: Call) -> Any:
    found, bulk = reader.read(call.body)
    if bulk:
        raise BadRequest("Only one resource can be made by a request.")
    _check_lists(found[0])
    return found[0]


def _change(reader: UpdateReader[Sent], call: Call) -> Sent:
    return _check_lists(reader.read(call.body))


def _check_lists(body: Sent) -> Sent:
    """The body, unless it asks for what nobody would do."""
    for name in EMPTY:
        if getattr(body, name, None):
            raise _unsupported(name)
    return body


def _place(call: Call, at: int, resource: Resource) -> Id:
    """The id at that place of the path."""
    text = call.scope["path_params"]["places"][at]
    try:
        return parse_id(text)
    except ValueError:
        raise resource.listing.not_found(f"{resource.label} {text} not found.") from None


def _optional(text: str | None, field: str) -> Id | None:
    return None if text is None else identifier(text, field)


def _said(value: Given | UnsetType | None) -> Given | UnsetType:
    return UNSET if value is None else value


def _project(project_id: str | UnsetType | None, tenant_id: str | UnsetType | None, call: Call) -> str:
    for given in (project_id, tenant_id):
        if isinstance(given, str):
            return given
    return call.project_id()


def _word(words: type[_Word], field: str, text: str) -> _Word:
    """One of Octavia's words that Alcor keeps. Raises BalancingUnsupported for one that it does not."""
    if text in REFUSED.get(field, ()):
        raise _unsupported(f"{field} {text}")
    try:
        return words(text)
    except ValueError:
        known = ", ".join(one.value for one in words)
        raise FieldError(field, f"Value: '{text}'. Value should be one of: {known}") from None


def _persistence(body: bodies.Persistence | None) -> bool:
    if body is None:
        return False
    if body.type in REFUSED["session_persistence"] or body.cookie_name:
        raise _unsupported(f"session_persistence {body.type}: it reads nothing above TCP and UDP")
    if body.persistence_timeout or body.persistence_granularity:
        raise _unsupported("persistence_timeout and persistence_granularity: a client stays as long as members do")
    if body.type != "SOURCE_IP":
        raise FieldError("session_persistence", f"Value: '{body.type}'. Value should be one of: SOURCE_IP")
    return True


def _check_timeout(name: str, value: int | None) -> None:
    defaults = {"client_data": 50_000, "member_connect": 5_000, "member_data": 50_000, "tcp_inspect": 0}
    if value not in (None, defaults[name]):
        raise _unsupported(f"timeout_{name}: connections are not ended for being idle")


def _member_spec(body: bodies.MemberCreate) -> commands.MemberSpec:
    return commands.MemberSpec(
        ip=ip(body.address, "address"),
        port=body.protocol_port,
        name=_said(body.name),
        weight=_said(body.weight),
        subnet_id=_optional(body.subnet_id, "subnet_id"),
        admin_state_up=body.admin_state_up,
    )


def _unsupported(what: str) -> BalancingUnsupported:
    return BalancingUnsupported(f"Provider 'alcor' does not support a requested option: {what}")
