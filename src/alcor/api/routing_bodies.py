"""The shapes of routers, their routes and interfaces, and VPC peerings in REST. Called by the resources and openapi."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from alcor.api.bodies import (
    CidrText,
    Input,
    IpOrNone,
    IpText,
    OnlyEmptyList,
    OnlyFalse,
    OnlyTrue,
    RouteView,
    Text,
    TimeText,
    UuidText,
    View,
)
from alcor.api.convert import ip, prefix
from alcor.api.errors import FieldError
from alcor.model.addresses import format_ip
from alcor.model.nouns import ExtraRoute


class RouteBody(Input, kw_only=True):
    """What is for `destination` goes to `nexthop`; several with one destination share it. Without a next hop (or of
    type blackhole) it goes nowhere."""

    destination: CidrText
    nexthop: IpOrNone = None
    type: Literal["blackhole"] | UnsetType = UNSET


class GatewayAddress(Input, kw_only=True):
    """An address outside: in that subnet, or that very one, or both."""

    subnet_id: UuidText | UnsetType = UNSET
    ip_address: IpText | UnsetType = UNSET


class GatewayBody(Input, kw_only=True):
    """Where the router leaves for outside: an external network. Without one it has no gateway."""

    network_id: UuidText | None = None
    enable_snat: bool = True
    """Ports without a floating IP have the router's IPv4 address outside."""
    external_fixed_ips: Annotated[tuple[GatewayAddress, ...], Meta(max_length=2)] = ()
    """At most one of each family; none: one of each that the network has subnets of. With an IPv6 address the router's
    subnets inside that external subnet are outside with their own addresses."""


class GatewayAddressView(msgspec.Struct, gc=False):
    subnet_id: UuidText
    ip_address: IpText


class GatewayView(msgspec.Struct, gc=False):
    network_id: UuidText
    external_fixed_ips: list[GatewayAddressView]
    enable_snat: bool
    hosts_without_snat: list[str] = msgspec.field(name="alcor:hosts_without_snat", default_factory=list)
    """Whose ports do not reach outside, because all ports of the router's address are given out; at most 16 of them."""


class RouterCreate(Input, kw_only=True):
    """A router: on every host, between the subnets that it gets interfaces in."""

    name: Text = ""
    description: Text = ""
    project_id: Text | UnsetType = UNSET
    tenant_id: Text | UnsetType = UNSET
    admin_state_up: bool = True
    distributed: OnlyTrue = True
    ha: OnlyFalse = False
    external_gateway_info: GatewayBody | None = None
    flavor_id: None = None
    availability_zone_hints: OnlyEmptyList = ()


class RouterUpdate(Input, kw_only=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    routes: list[RouteBody] | UnsetType | None = UNSET
    distributed: OnlyTrue = True
    ha: OnlyFalse = False
    external_gateway_info: GatewayBody | UnsetType | None = UNSET


class RouterView(View, kw_only=True):
    name: str
    description: str
    project_id: str
    tenant_id: str
    status: Literal["ACTIVE"] = "ACTIVE"
    admin_state_up: bool
    distributed: OnlyTrue = True
    ha: OnlyFalse = False
    external_gateway_info: GatewayView | None
    routes: list[RouteView]
    flavor_id: None = None
    availability_zone_hints: OnlyEmptyList = ()
    availability_zones: OnlyEmptyList = ()
    created_at: TimeText
    updated_at: TimeText
    revision_number: int


class RouterInterfaceBody(Input, kw_only=True):
    """By which subnet or port: one of the two to add, one or both to remove."""

    subnet_id: UuidText | UnsetType = UNSET
    port_id: UuidText | UnsetType = UNSET


class RouterInterfaceView(View, kw_only=True):
    """`id` is the router's."""

    project_id: str
    tenant_id: str
    network_id: UuidText
    port_id: UuidText
    subnet_id: UuidText
    subnet_ids: list[UuidText]


class ExtraRoutesBody(Input, kw_only=True):
    routes: Annotated[list[RouteBody], Meta(min_length=1)]


class VpcPeeringCreate(Input, kw_only=True):
    """Two VPCs whose subnets reach each other from then on."""

    network_id: UuidText
    peer_network_id: UuidText
    name: Text = ""
    description: Text = ""
    project_id: Text | UnsetType = UNSET
    tenant_id: Text | UnsetType = UNSET


class VpcPeeringUpdate(Input, kw_only=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET


class VpcPeeringView(View, kw_only=True):
    name: str
    description: str
    project_id: str
    tenant_id: str
    status: Literal["ACTIVE"] = "ACTIVE"
    network_id: UuidText
    peer_network_id: UuidText
    created_at: TimeText
    updated_at: TimeText
    revision_number: int


def routes_of(bodies: Sequence[RouteBody], field: str) -> list[ExtraRoute]:
    """The routes of a body. Raises FieldError."""
    found = []
    for at, body in enumerate(bodies):
        if body.type is not UNSET and body.nexthop is not None:
            raise FieldError(f"{field}[{at}].nexthop", "a blackhole has none")
        nexthop = None if body.nexthop is None else ip(body.nexthop, f"{field}[{at}].nexthop")
        found.append(ExtraRoute(prefix(body.destination, f"{field}[{at}].destination"), nexthop))
    return found


def route_views(routes: Sequence[ExtraRoute]) -> list[RouteView]:
    """The routes as REST shows them."""
    return [
        RouteView(str(route.destination), None if route.nexthop is None else format_ip(route.nexthop))
        for route in routes
    ]
