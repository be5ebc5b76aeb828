"""Floating IPs over REST. Called by app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import UNSET, UnsetType

from alcor.api.bodies import CreateReader, UpdateReader, View
from alcor.api.collection import Collection
from alcor.api.convert import each, id_text, identifier, ip, project, time_text
from alcor.api.errors import Reply
from alcor.api.exchange import Call
from alcor.api.listing import OWNED, Filter, Listing
from alcor.api.nat_bodies import FloatingIpCreate, FloatingIpUpdate, FloatingIpView, ForwardingInView, PortDetails
from alcor.api.qos import qos_policy_id
from alcor.model.addresses import Ip, format_ip, format_mac, parse_ip
from alcor.model.ids import Id, format_id, parse_id
from alcor.model.nouns import FloatingIp, Port, PortForwarding, PortStatus
from alcor.services.commands import Command, CreateFloatingIps, DeleteFloatingIp, FloatingIpSpec, UpdateFloatingIp
from alcor.services.errors import FloatingIPNotFound
from alcor.services.port_forwardings import NAMES
from alcor.store.base import Query, Store

LISTING = Listing(
    "floatingips",
    FloatingIPNotFound,
    {
        **{name: column for name, column in OWNED.items() if name != "name"},
        "floating_network_id": Filter("network_id", parse_id),
        "floating_ip_address": Filter("ip", parse_ip),
        "port_id": Filter("port_id", parse_id),
        "fixed_ip_address": Filter("fixed_ip", parse_ip),
        "router_id": Filter("router_id", parse_id),
        "qos_policy_id": Filter("qos_policy_id", parse_id),
    },
)

FORWARDINGS_A_READ = 100_000
"""Of the floating IPs of one page: a port has 8, and a page at most some thousand."""

_creates = CreateReader(FloatingIpCreate, FloatingIpView, "floatingip", "floatingips")
_updates = UpdateReader(FloatingIpUpdate, FloatingIpView, "floatingip")
_STATUS: dict[PortStatus, Literal["ACTIVE", "DOWN", "ERROR"]] = {
    PortStatus.ACTIVE: "ACTIVE",
    PortStatus.ERROR: "ERROR",
}


Rows = list[FloatingIp]


class FloatingIps(Collection[FloatingIp]):
    """Handlers of /v2.0/floatingips and /v2.0/floatingips/{id}."""

    listing, one, noun = LISTING, "floatingip", "Floating IP"
    absent = "could not be found"

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _creates.read(call.body)
        owner = call.project_id()
        specs = await each(bodies, lambda body: _spec(body, owner), self.listing.collection, bulk=bulk)
        return await self._created(CreateFloatingIps(specs=tuple(specs)), bulk=bulk)

    async def update(self, call: Call) -> Reply:
        fip_id, body = self._member(call), _updates.read(call.body)
        port_id: Id | UnsetType | None = UNSET
        if body.port_id is not UNSET:
            port_id = identifier(body.port_id, "port_id") if body.port_id else None
        fixed_ip = UNSET if body.fixed_ip_address is UNSET else _address(body.fixed_ip_address, "fixed_ip_address")
        command = UpdateFloatingIp(
            id=fip_id,
            description=body.description,
            port_id=port_id,
            fixed_ip=fixed_ip,
            qos_policy_id=qos_policy_id(body.qos_policy_id),
            if_match=call.if_match(),
        )
        return await self._updated(command)

    def _find(self, query: Query) -> Sequence[FloatingIp]:
        return self._context.store.list_rows(FloatingIp, query)

    async def _views(self, rows: Sequence[FloatingIp]) -> Sequence[View]:
        wanted = [one for fip in rows for one in (fip.port_id, fip.anchor_id) if one is not None]
        store = self._context.store
        ports = {port.id: port for port in await self._context.read(lambda: store.get_ports(wanted))} if wanted else {}
        found: dict[Id, list[PortForwarding]] = {}
        query = Query(filters={"floating_ip_id": tuple(fip.id for fip in rows)}, limit=FORWARDINGS_A_READ)
        for one in await self._context.read(lambda: store.list_rows(PortForwarding, query)) if rows else ():
            found.setdefault(one.floating_ip_id, []).append(one)
        inherited = await self._context.read(lambda: _policies(store, rows)) if rows else {}
        return [
            floating_ip_view(
                *(fip, _find(ports, fip.port_id), found.get(fip.id, ()), _find(ports, fip.anchor_id)),
                inherited.get(fip.network_id),
            )
            for fip in rows
        ]

    def _deletion(self, identifier: Id, if_match: int | None) -> Command:
        return DeleteFloatingIp(id=identifier, if_match=if_match)


def _find(ports: Mapping[Id, Port], port_id: Id | None) -> Port | None:
    return ports.get(port_id) if port_id is not None else None


def _policies(store: Store, rows: Sequence[FloatingIp]) -> dict[Id, Id | None]:
    """What the rows' external networks have."""
    wanted = tuple(sorted({fip.network_id for fip in rows}))
    return {one.id: one.qos_policy_id for one in store.list_networks(Query(filters={"id": wanted}, limit=len(wanted)))}


def floating_ip_view(
    fip: FloatingIp,
    port: Port | None,
    forwardings: Sequence[PortForwarding],
    anchor: Port | None = None,
    network_policy_id: Id | None = None,
) -> FloatingIpView:
    """The floating IP as REST shows it; `port` is the one that it stands for, as it is now, `anchor` the one whose host
    answers in its place, `network_policy_id` what its external network has."""
    answering = anchor or port
    return FloatingIpView(
        id=format_id(fip.id),
        floating_network_id=id_text(fip.network_id),
        floating_ip_address=format_ip(fip.ip),
        router_id=None if fip.router_id is None else id_text(fip.router_id),
        port_id=None if fip.port_id is None else format_id(fip.port_id),
        fixed_ip_address=None if fip.fixed_ip is None else format_ip(fip.fixed_ip),
        status="DOWN" if answering is None else _STATUS.get(answering.status, "DOWN"),
        port_details=None if port is None else _details(port),
        port_forwardings=[
            ForwardingInView(NAMES[one.protocol], one.external_port, one.internal_port, format_ip(one.fixed_ip))
            for one in forwardings
        ],
        qos_policy_id=None if fip.qos_policy_id is None else id_text(fip.qos_policy_id),
        qos_network_policy_id=None if network_policy_id is None else id_text(network_policy_id),
        description=fip.description,
        project_id=fip.project_id,
        tenant_id=fip.project_id,
        created_at=time_text(fip.created_at),
        updated_at=time_text(fip.updated_at),
        revision_number=fip.revision,
    )


def _details(port: Port) -> PortDetails:
    return PortDetails(
        name=port.name,
        network_id=id_text(port.network_id),
        mac_address=format_mac(port.mac),
        admin_state_up=port.admin_state_up,
        status=port.status,
        device_id=port.device_id,
        device_owner=port.device_owner,
    )


def _spec(body: FloatingIpCreate, owner: str) -> FloatingIpSpec:
    return FloatingIpSpec(
        network_id=identifier(body.floating_network_id, "floating_network_id"),
        project_id=project(body.project_id, body.tenant_id, owner),
        description=body.description,
        subnet_id=identifier(body.subnet_id, "subnet_id") if body.subnet_id else None,
        ip=_address(body.floating_ip_address, "floating_ip_address"),
        port_id=identifier(body.port_id, "port_id") if body.port_id else None,
        fixed_ip=_address(body.fixed_ip_address, "fixed_ip_address"),
        qos_policy_id=qos_policy_id(body.qos_policy_id),
    )


def _address(text: str | UnsetType | None, field: str) -> Ip | None:
    return ip(text, field) if isinstance(text, str) else None
