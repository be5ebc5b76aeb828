"""Subnets over REST. Called by app."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from alcor.api.bodies import (
    CreateReader,
    HostRouteBody,
    PoolBody,
    SubnetCreate,
    SubnetUpdate,
    SubnetView,
    UpdateReader,
    View,
)
from alcor.api.collection import Collection
from alcor.api.convert import each, id_text, identifier, ip, only, prefix, project, time_text
from alcor.api.errors import FieldError, Reply
from alcor.api.exchange import Call
from alcor.api.listing import (
    OWNED,
    Constant,
    Filter,
    Listing,
    boolean,
    integer,
)
from alcor.api.routing_bodies import route_views
from alcor.model.addresses import Ip, format_ip, parse_ip, parse_prefix
from alcor.model.ids import Id, format_id, parse_id
from alcor.model.nouns import ExtraRoute, Pool, Subnet
from alcor.services.commands import Command, CreateSubnets, DeleteSubnet, SubnetSpec, UpdateSubnet
from alcor.services.errors import SubnetNotFound
from alcor.store.base import Query

LISTING = Listing(
    "subnets",
    SubnetNotFound,
    {
        **OWNED,
        "network_id": Filter("network_id", parse_id),
        "cidr": Filter("cidr", parse_prefix),
        "gateway_ip": Filter("gateway", lambda text: parse_ip(text) if text else None),
        "enable_dhcp": Filter("enable_dhcp", boolean),
        "ip_version": Filter("ip_version", integer),
        "subnetpool_id": Constant(None),
        "ipv6_address_mode": Filter("address_mode"),
        "ipv6_ra_mode": Filter("ra_mode"),
        "shared": Constant(False),
        "router:external": Constant(False),
    },
)

_creates = CreateReader(SubnetCreate, SubnetView, "subnet", "subnets")
_updates = UpdateReader(SubnetUpdate, SubnetView, "subnet")


class Subnets(Collection[Subnet]):
    """Handlers of /v2.0/subnets and /v2.0/subnets/{id}."""

    listing, one, noun = LISTING, "subnet", "Subnet"

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _creates.read(call.body)
        owner = call.project_id()
        specs = await each(bodies, lambda body: _spec(body, owner), self.listing.collection, bulk=bulk)
        return await self._created(CreateSubnets(specs=tuple(specs)), bulk=bulk)

    async def update(self, call: Call) -> Reply:
        identifier = self._member(call)
        return await self._updated(_change(identifier, _updates.read(call.body), call.if_match()))

    def _find(self, query: Query) -> Sequence[Subnet]:
        return self._context.store.list_subnets(query)

    async def _views(self, rows: Sequence[Subnet]) -> Sequence[View]:
        return [subnet_view(row) for row in rows]

    def _deletion(self, identifier: Id, if_match: int | None) -> Command:
        return DeleteSubnet(id=identifier, if_match=if_match)


def subnet_view(subnet: Subnet) -> SubnetView:
    """The subnet as REST shows it."""
    return SubnetView(
        id=format_id(subnet.id),
        name=subnet.name,
        description=subnet.description,
        project_id=subnet.project_id,
        tenant_id=subnet.project_id,
        network_id=id_text(subnet.network_id),
        cidr=str(subnet.cidr),
        ip_version=4 if subnet.cidr.version == 4 else 6,
        gateway_ip=None if subnet.gateway is None else format_ip(subnet.gateway),
        allocation_pools=[PoolBody(start=format_ip(pool.first), end=format_ip(pool.last)) for pool in subnet.pools],
        enable_dhcp=subnet.enable_dhcp,
        dns_nameservers=subnet.dns_nameservers,
        host_routes=route_views(subnet.host_routes),
        ipv6_ra_mode=subnet.ra_mode,
        ipv6_address_mode=subnet.address_mode,
        created_at=time_text(subnet.created_at),
        updated_at=time_text(subnet.updated_at),
        revision_number=subnet.revision,
    )


def _spec(body: SubnetCreate, owner: str) -> SubnetSpec:
    _check_neutral(body)
    cidr = prefix(body.cidr, "cidr")
    if cidr.version != body.ip_version:
        raise FieldError("ip_version", f"it says {body.ip_version}, cidr {cidr} is of version {cidr.version}")
    return SubnetSpec(
        network_id=identifier(body.network_id, "network_id"),
        cidr=cidr,
        project_id=project(body.project_id, body.tenant_id, owner),
        name=body.name,
        description=body.description,
        gateway=_gateway(body.gateway_ip),
        pools=None if body.allocation_pools is UNSET else _pools(body.allocation_pools),
        enable_dhcp=body.enable_dhcp,
        dns_nameservers=_nameservers(body.dns_nameservers),
        host_routes=_host_routes(body.host_routes),
        ra_mode=body.ipv6_ra_mode,
        address_mode=body.ipv6_address_mode,
    )


def _change(subnet_id: Id, body: SubnetUpdate, if_match: int | None) -> UpdateSubnet:
    _check_neutral(body)
    return UpdateSubnet(
        id=subnet_id,
        name=body.name,
        description=body.description,
        gateway=_gateway(body.gateway_ip),
        pools=UNSET if body.allocation_pools is UNSET else _pools(body.allocation_pools),
        enable_dhcp=body.enable_dhcp,
        dns_nameservers=UNSET if body.dns_nameservers is UNSET else _nameservers(body.dns_nameservers),
        host_routes=UNSET if body.host_routes is UNSET else _host_routes(body.host_routes),
        if_match=if_match,
    )


def _gateway(text: str | UnsetType | None) -> Ip | UnsetType | None:
    return ip(text, "gateway_ip") if isinstance(text, str) else text


def _pools(bodies: Sequence[PoolBody]) -> tuple[Pool, ...]:
    return tuple(
        Pool(ip(body.start, f"allocation_pools[{at}].start"), ip(body.end, f"allocation_pools[{at}].end"))
        for at, body in enumerate(bodies)
    )


def _nameservers(texts: Sequence[str]) -> tuple[str, ...]:
    servers = tuple(format_ip(ip(text, f"dns_nameservers[{at}]")) for at, text in enumerate(texts))
    only("dns_nameservers", len(set(servers)) == len(servers), "an address is in it twice")
    return servers


def _host_routes(bodies: Sequence[HostRouteBody]) -> tuple[ExtraRoute, ...]:
    """Sorted, each once."""
    found = {
        ExtraRoute(
            prefix(body.destination, f"host_routes[{at}].destination"), ip(body.nexthop, f"host_routes[{at}].nexthop")
        )
        for at, body in enumerate(bodies)
    }
    only("host_routes", len(found) == len(bodies), "a route is in it twice")
    return tuple(sorted(found))


def _check_neutral(body: SubnetCreate | SubnetUpdate) -> None:
    only("service_types", not body.service_types, "service types are not offered; leave it out or give []")
