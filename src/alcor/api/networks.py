"""Networks over REST. Called by app."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import UNSET

from alcor.api.bodies import (
    MTU_LIMIT,
    SEGMENT_LIMIT,
    CreateReader,
    NetworkCreate,
    NetworkUpdate,
    NetworkView,
    UpdateReader,
    View,
)
from alcor.api.collection import Collection
from alcor.api.convert import each, id_text, number, only, prefix, project, time_text
from alcor.api.errors import Reply
from alcor.api.exchange import Call
from alcor.api.listing import (
    OWNED,
    Constant,
    Filter,
    Listing,
    boolean,
    integer,
)
from alcor.api.naming import dns_domain
from alcor.api.qos import qos_policy_id
from alcor.model.addresses import parse_prefix
from alcor.model.ids import Id, format_id, parse_id
from alcor.model.nouns import Network
from alcor.services.commands import Command, CreateNetworks, DeleteNetwork, NetworkSpec, UpdateNetwork
from alcor.services.errors import NetworkNotFound
from alcor.store.base import Query, QueryError, Store


def _is_flat(text: str) -> bool:
    return _one_of(text, {"vxlan": False, "flat": True})


def _is_physical(text: str) -> bool:
    return _one_of(text, {"": False, EXTERNAL: True})


def _one_of(text: str, known: Mapping[str, bool]) -> bool:
    if text not in known:
        raise ValueError(text)
    return known[text]


EXTERNAL: Literal["external"] = "external"
"""The physical network that is behind every host's external device."""
LISTING = Listing(
    "networks",
    NetworkNotFound,
    {
        **OWNED,
        "admin_state_up": Filter("admin_state_up", boolean),
        "shared": Filter("shared", boolean),
        "on_demand": Filter("on_demand", boolean),
        "mtu": Filter("mtu", integer),
        "cidr": Filter("cidr", parse_prefix),
        "provider:segmentation_id": Filter("vni", integer),
        "provider:network_type": Filter("external", _is_flat),
        "provider:physical_network": Filter("external", _is_physical),
        "router:external": Filter("external", boolean),
        "port_security_enabled": Constant(True),
        "status": Constant("ACTIVE"),
        "qos_policy_id": Filter("qos_policy_id", parse_id),
    },
)
SUBNETS_A_READ = 10_000

_creates = CreateReader(NetworkCreate, NetworkView, "network", "networks")
_updates = UpdateReader(NetworkUpdate, NetworkView, "network")


class Networks(Collection[Network]):
    """Handlers of /v2.0/networks and /v2.0/networks/{id}."""

    listing, one, noun = LISTING, "network", "Network"

    async def create(self, call: Call) -> Reply:
        bodies, bulk = _creates.read(call.body)
        owner = call.project_id()
        specs = await each(bodies, lambda body: _spec(body, owner), self.listing.collection, bulk=bulk)
        return await self._created(CreateNetworks(specs=tuple(specs)), bulk=bulk)

    async def update(self, call: Call) -> Reply:
        identifier = self._member(call)
        return await self._updated(_change(identifier, _updates.read(call.body), call.if_match()))

    def _find(self, query: Query) -> Sequence[Network]:
        return self._context.store.list_networks(query)

    async def _views(self, rows: Sequence[Network]) -> Sequence[View]:
        ids = [network.id for network in rows]
        subnets = await self._context.read(lambda: subnets_of(self._context.store, ids))
        return [network_view(network, subnets.get(network.id, ())) for network in rows]

    def _deletion(self, identifier: Id, if_match: int | None) -> Command:
        return DeleteNetwork(id=identifier, if_match=if_match)


def subnets_of(store: Store, ids: Sequence[Id]) -> Mapping[Id, Sequence[Id]]:
    """The subnets of those networks, in the order of their ids."""
    try:
        return _subnets_of(store, ids)
    except QueryError:
        # Together they have more subnets than the store sorts; one network's it walks, however many.
        return {identifier: _subnets_of(store, (identifier,)).get(identifier, ()) for identifier in ids}


def _subnets_of(store: Store, ids: Sequence[Id]) -> Mapping[Id, Sequence[Id]]:
    found: dict[Id, list[Id]] = defaultdict(list)
    marker: Id | None = None
    while ids:
        query = Query(filters={"network_id": tuple(ids)}, limit=SUBNETS_A_READ, marker=marker)
        page = store.list_subnets(query)
        for subnet in page:
            found[subnet.network_id].append(subnet.id)
        if len(page) < SUBNETS_A_READ:
            break
        marker = page[-1].id
    return found


def network_view(network: Network, subnets: Sequence[Id]) -> NetworkView:
    """The network as REST shows it."""
    return NetworkView(
        id=format_id(network.id),
        name=network.name,
        description=network.description,
        project_id=network.project_id,
        tenant_id=network.project_id,
        admin_state_up=network.admin_state_up,
        shared=network.shared,
        subnets=[id_text(subnet) for subnet in subnets],
        mtu=network.mtu,
        cidr=None if network.cidr is None else str(network.cidr),
        network_type="flat" if network.external else "vxlan",
        segmentation_id=None if network.external else network.vni,
        physical_network=EXTERNAL if network.external else None,
        router_external=network.external,
        created_at=time_text(network.created_at),
        updated_at=time_text(network.updated_at),
        revision_number=network.revision,
        on_demand=network.on_demand,
        dns_domain=network.dns_domain,
        qos_policy_id=None if network.qos_policy_id is None else id_text(network.qos_policy_id),
    )


def _spec(body: NetworkCreate, owner: str) -> NetworkSpec:
    _check_neutral(body)
    _check_provider(body)
    only("availability_zone_hints", not body.availability_zone_hints, "there are no availability zones to ask for yet")
    return NetworkSpec(
        project_id=project(body.project_id, body.tenant_id, owner),
        name=body.name,
        description=body.description,
        cidr=None if body.cidr is None else prefix(body.cidr, "cidr"),
        vni=None
        if body.segmentation_id is UNSET or body.segmentation_id is None
        else number(body.segmentation_id, "provider:segmentation_id", 1, SEGMENT_LIMIT),
        mtu=None if body.mtu is UNSET else number(body.mtu, "mtu", 0, MTU_LIMIT) or None,
        admin_state_up=body.admin_state_up,
        shared=body.shared,
        dns_domain=dns_domain(body.dns_domain),
        qos_policy_id=qos_policy_id(body.qos_policy_id),
        external=body.router_external,
    )


def _change(identifier: Id, body: NetworkUpdate, if_match: int | None) -> UpdateNetwork:
    _check_neutral(body)
    return UpdateNetwork(
        id=identifier,
        name=body.name,
        description=body.description,
        cidr=prefix(body.cidr, "cidr") if isinstance(body.cidr, str) else body.cidr,
        mtu=UNSET if body.mtu is UNSET else number(body.mtu, "mtu", 0, MTU_LIMIT),
        admin_state_up=body.admin_state_up,
        shared=body.shared,
        dns_domain=body.dns_domain if body.dns_domain is UNSET else dns_domain(body.dns_domain),
        qos_policy_id=qos_policy_id(body.qos_policy_id),
        external=body.router_external,
        if_match=if_match,
    )


def _check_provider(body: NetworkCreate) -> None:
    """An external network is what is behind hosts' external devices, as it is; any other has a VNI of its own."""
    flat = body.router_external
    wanted = "flat" if flat else "vxlan"
    what = "an external network" if flat else "a network that is not external"
    only("provider:network_type", body.network_type in (UNSET, wanted), f"{what} is {wanted}")
    only("provider:physical_network", flat or body.physical_network is None, f"{what} has none")
    only("provider:segmentation_id", not flat or body.segmentation_id in (UNSET, None), f"{what} has none")


def _check_neutral(body: NetworkCreate | NetworkUpdate) -> None:
    only(
        "port_security_enabled",
        body.port_security_enabled,
        "ports send only their own addresses, always; leave it out or give true",
    )
