"""Ports over REST: the hot path. Called by app.

A bulk of 1,000 is decoded straight into Structs, converted once, submitted as one command, viewed once, encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

from msgspec import UNSET, UnsetType

from alcor.api.bodies import (
    AddressPairBody,
    AddressPairView,
    CreateReader,
    FixedIpCreate,
    FixedIpView,
    PortCreate,
    PortUpdate,
    PortView,
    Provisioning,
    UpdateReader,
    View,
    VifDetails,
)
from alcor.api.collection import Collection
from alcor.api.convert import each, id_text, identifier, ip, mac, only, project, time_text
from alcor.api.errors import FieldError, Headers, Reply
from alcor.api.exchange import Call
from alcor.api.listing import (
    OWNED,
    Compound,
    Constant,
    Filter,
    Listing,
    boolean,
    find_page,
    read_page,
)
from alcor.api.naming import assignment, dns_name, domains, option_changes, option_views, options
from alcor.api.qos import qos_policy_id
from alcor.model.addresses import Prefix, format_ip, network_of, parse_ip, parse_mac
from alcor.model.ids import Id, format_id, parse_id
from alcor.model.nouns import Port, PortKind, PortStatus
from alcor.services.commands import (
    AddressPairSpec,
    Command,
    CreatePorts,
    DeletePorts,
    FixedIpSpec,
    PortSpec,
    UpdatePort,
)
from alcor.services.errors import PortNotFound
from alcor.store.base import Query

_ADDRESS = {"subnet_id": Filter("subnet_id", parse_id), "ip_address": Filter("ip", parse_ip)}
LISTING = Listing(
    "ports",
    PortNotFound,
    {
        **OWNED,
        "network_id": Filter("network_id", parse_id),
        "mac_address": Filter("mac", parse_mac),
        "binding:host_id": Filter("host"),
        "device_id": Filter("device_id"),
        "device_owner": Filter("device_owner"),
        "admin_state_up": Filter("admin_state_up", boolean),
        "status": Filter("status"),
        **_ADDRESS,
        "fixed_ips": Compound(_ADDRESS),
        "alcor:kind": Filter("kind"),
        "binding:vnic_type": Constant("normal"),
        "port_security_enabled": Filter("port_security_enabled", boolean),
        "security_groups": Filter("security_group", parse_id),
        "qos_policy_id": Filter("qos_policy_id", parse_id),
    },
)

_creates = CreateReader(PortCreate, PortView, "port", "ports")
_updates = UpdateReader(PortUpdate, PortView, "port")
_UNBOUND_DETAILS = VifDetails()
_NOT_YET = Provisioning()
_NO_DOMAINS: Mapping[Id, str] = {}
_NO_PROFILE: dict[str, object] = {}


class Ports(Collection[Port]):
    """Handlers of /v2.0/ports and /v2.0/ports/{id}."""

    listing, one, noun = LISTING, "port", "Port"

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _creates.read(call.body)
        owner = call.project_id()
        specs = await each(bodies, lambda body: _spec(body, owner), self.listing.collection, bulk=bulk)
        rows = cast(Sequence[Port], await self._context.control.submit(CreatePorts(specs=tuple(specs))))
        rows, applied = await self._built(call, rows)
        return (await self._answer(201, rows, bulk=bulk))._replace(headers=applied)

    async def update(self, call: Call) -> Reply:
        change = _change(self._member(call), _updates.read(call.body), call.if_match())
        row = cast(Port, await self._context.control.submit(change))
        rows, applied = await self._built(call, (row,))
        return (await self._answer(200, rows, bulk=False))._replace(headers=applied)

    async def list(self, call: Call) -> Reply:
        applied: Headers = ()
        if call.wait_s():
            page = read_page(call, self.listing)
            _, applied = await self._built(call, await find_page(self._context, self.listing, page, self._find))
        return (await super().list(call))._replace(headers=applied)

    async def show(self, call: Call) -> Reply:
        _, applied = await self._built(call, self._get(self._member(call)))
        return (await super().show(call))._replace(headers=applied)

    async def _built(self, call: Call, rows: Sequence[Port]) -> tuple[Sequence[Port], Headers]:
        """The rows as they are once their hosts have answered, if the client would wait for that; and what says so."""
        waits, seconds = self._context.waits, call.wait_s()
        if waits is None or not seconds:
            return rows, ()
        ids = [row.id for row in rows if row.status is PortStatus.BUILD]
        if ids:
            found = {row.id: row for row in await waits.until_built(ids, lambda: self._read(ids), seconds)}
            rows = [found.get(row.id, row) for row in rows]  # one that was deleted meanwhile is shown as it was made
        return rows, ((b"preference-applied", b"wait=%d" % seconds),)

    async def _read(self, ids: Sequence[Id]) -> Sequence[Port]:
        get = self._context.store.get_ports
        return get(ids) if len(ids) == 1 else await self._context.read(lambda: get(ids))

    def _find(self, query: Query) -> Sequence[Port]:
        return self._context.store.list_ports(query)

    def _get(self, identifier: Id) -> Sequence[Port]:
        return self._context.store.get_ports((identifier,))

    async def _views(self, rows: Sequence[Port]) -> Sequence[View]:
        store = self._context.store
        known = domains(store, rows) if len(rows) == 1 else await self._context.read(lambda: domains(store, rows))
        return await each(rows, lambda port: port_view(port, known), self.listing.collection, bulk=True)

    def _deletion(self, identifier: Id, if_match: int | None) -> Command:
        return DeletePorts(ids=(identifier,), if_match=if_match)


def port_view(port: Port, known: Mapping[Id, str] = _NO_DOMAINS) -> PortView:
    """The port as REST shows it. `known`: the domains of networks that have one."""
    project_id = port.project_id
    created = time_text(port.created_at)
    return PortView(
        id=format_id(port.id),
        network_id=id_text(port.network_id),
        name=port.name,
        description=port.description,
        project_id=project_id,
        tenant_id=project_id,
        mac_address=port.mac.hex(":"),
        fixed_ips=[FixedIpView(id_text(fixed_ip.subnet_id), format_ip(fixed_ip.ip)) for fixed_ip in port.fixed_ips],
        status=port.status,
        admin_state_up=port.admin_state_up,
        device_id=port.device_id,
        device_owner=port.device_owner,
        host_id=port.host,
        vif_type=_vif_type(port),
        vif_details=VifDetails(port.realised_revision, port.status_reason) if port.host else _UNBOUND_DETAILS,
        profile=_NO_PROFILE,
        kind=port.kind,
        netns=port.netns,
        interface=port.interface,
        fast_path=port.fast_path,
        port_security_enabled=port.port_security_enabled,
        security_groups=[id_text(group) for group in port.security_groups],
        allowed_address_pairs=[
            AddressPairView(_pair_text(pair.prefix), pair.mac.hex(":")) for pair in port.address_pairs
        ],
        extra_dhcp_opts=option_views(port.dhcp_options),
        dns_name=port.dns_name,
        dns_assignment=assignment(port, known.get(port.network_id, "")),
        qos_policy_id=None if port.qos_policy_id is None else id_text(port.qos_policy_id),
        provisioning=_provisioning(port) if port.realised_at or port.path else _NOT_YET,
        created_at=created,
        updated_at=created if port.updated_at == port.created_at else time_text(port.updated_at),
        revision_number=port.revision,
    )


def _provisioning(port: Port) -> Provisioning:
    present = port.realised_at > 0 and port.realised_revision == port.revision
    return Provisioning(
        path=cast(Literal["fast", "normal", "rescue"], port.path) if port.path else None,
        attempts=port.attempts,
        requested_at=time_text(port.updated_at),
        realised_at=time_text(port.realised_at) if port.realised_at else None,
        elapsed_ms=max(0, port.realised_at - port.updated_at) if present else None,
    )


def _vif_type(port: Port) -> Literal["unbound", "tap", "other", "binding_failed"]:
    """Neutron's word for how the host plugs the port: Nova takes a tap that exists as `tap`."""
    if not port.host:
        return "unbound"
    if port.status is PortStatus.ERROR:
        return "binding_failed"
    return "tap" if port.kind is PortKind.TAP else "other"


def _spec(body: PortCreate, owner: str) -> PortSpec:
    _check_neutral(body)
    return PortSpec(
        network_id=identifier(body.network_id, "network_id"),
        project_id=project(body.project_id, body.tenant_id, owner),
        name=body.name,
        description=body.description,
        mac=None if body.mac_address is UNSET else mac(body.mac_address, "mac_address"),
        fixed_ips=None if body.fixed_ips is UNSET else _fixed_ips(body.fixed_ips),
        host=body.host_id or "",
        device_id=body.device_id,
        device_owner=body.device_owner,
        admin_state_up=body.admin_state_up,
        kind=None if body.kind is UNSET else body.kind,
        netns=body.netns,
        interface=body.interface,
        fast_path=body.fast_path,
        security_groups=None if not isinstance(body.security_groups, list) else _groups(body.security_groups),
        port_security_enabled=None if body.port_security_enabled is UNSET else body.port_security_enabled,
        address_pairs=_pairs(body.allowed_address_pairs) if body.allowed_address_pairs else (),
        dns_name=dns_name(body.dns_name),
        dhcp_options=options(body.extra_dhcp_opts) if body.extra_dhcp_opts else (),
        qos_policy_id=qos_policy_id(body.qos_policy_id),
    )


def _change(port_id: Id, body: PortUpdate, if_match: int | None) -> UpdatePort:
    _check_neutral(body)
    host: str | UnsetType = "" if body.host_id is None else body.host_id
    return UpdatePort(
        id=port_id,
        name=body.name,
        description=body.description,
        mac=UNSET if body.mac_address is UNSET else mac(body.mac_address, "mac_address"),
        fixed_ips=UNSET if body.fixed_ips is UNSET else _fixed_ips(body.fixed_ips),
        host=host,
        device_id=body.device_id,
        device_owner=body.device_owner,
        admin_state_up=body.admin_state_up,
        kind=body.kind,
        netns=body.netns,
        interface=body.interface,
        fast_path=body.fast_path,
        security_groups=_groups(body.security_groups) if isinstance(body.security_groups, list) else _none(body),
        port_security_enabled=body.port_security_enabled,
        address_pairs=UNSET if body.allowed_address_pairs is UNSET else _pairs(body.allowed_address_pairs or []),
        dns_name=body.dns_name if body.dns_name is UNSET else dns_name(body.dns_name),
        dhcp_options=option_changes(body.extra_dhcp_opts) if body.extra_dhcp_opts else UNSET,
        qos_policy_id=qos_policy_id(body.qos_policy_id),
        if_match=if_match,
    )


def _none(body: PortUpdate) -> UnsetType | tuple[Id, ...]:
    """`security_groups` of a change that is no list: null stands for none (as in Neutron)."""
    return UNSET if body.security_groups is UNSET else ()


def _groups(texts: Sequence[str]) -> tuple[Id, ...]:
    return tuple([identifier(text, "security_groups") for text in texts])


def _pairs(bodies: Sequence[AddressPairBody]) -> tuple[AddressPairSpec, ...]:
    specs = []
    for at, body in enumerate(bodies):
        try:
            found = network_of(body.ip_address)
        except ValueError as error:
            raise FieldError(f"allowed_address_pairs[{at}].ip_address", str(error)) from None
        where = f"allowed_address_pairs[{at}].mac_address"
        specs.append(
            AddressPairSpec(prefix=found, mac=None if body.mac_address is UNSET else mac(body.mac_address, where))
        )
    return tuple(specs)


def _pair_text(prefix: Prefix) -> str:
    """A CIDR, or an address where it is one."""
    whole = prefix.length == (32 if prefix.version == 4 else 128)
    return format_ip(prefix.base) if whole else str(prefix)


def _fixed_ips(bodies: Sequence[FixedIpCreate]) -> tuple[FixedIpSpec, ...]:
    specs = []
    for at, body in enumerate(bodies):
        subnet_id, address = body.subnet_id, body.ip_address
        if subnet_id is UNSET and address is UNSET:
            raise FieldError(f"fixed_ips[{at}]", "it needs subnet_id, ip_address, or both")
        specs.append(
            FixedIpSpec(
                subnet_id=None if subnet_id is UNSET else identifier(subnet_id, f"fixed_ips[{at}].subnet_id"),
                ip=None if address is UNSET else ip(address, f"fixed_ips[{at}].ip_address"),
            )
        )
    return tuple(specs)


def _check_neutral(body: PortCreate | PortUpdate) -> None:
    """Refuses what Alcor does not honour yet; never stores it silently."""
    if body.profile:
        only("binding:profile", not body.profile, "no profile is understood; leave it out or give {}")
