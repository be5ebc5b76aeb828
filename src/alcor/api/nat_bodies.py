"""The shapes of floating IPs' bodies. Called by floating_ips and openapi. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from alcor.api.bodies import Input, IpOrNone, IpText, MacText, Text, TimeText, UuidText, View
from alcor.model.nouns import PortStatus

OnlyEmpty = Annotated[str, Meta(max_length=0)]


class FloatingIpCreate(Input, kw_only=True):
    """An address of an external network; with `port_id` it stands for an address of that port at once."""

    floating_network_id: UuidText
    subnet_id: UuidText | UnsetType | None = UNSET
    floating_ip_address: IpOrNone | UnsetType = UNSET
    port_id: UuidText | UnsetType | None = UNSET
    fixed_ip_address: IpOrNone | UnsetType = UNSET
    description: Text = ""
    project_id: Text | UnsetType = UNSET
    tenant_id: Text | UnsetType = UNSET
    dns_name: OnlyEmpty = ""
    dns_domain: OnlyEmpty = ""
    qos_policy_id: UuidText | None = None


class FloatingIpUpdate(Input, kw_only=True):
    """`port_id` null takes it from its port."""

    port_id: UuidText | UnsetType | None = UNSET
    fixed_ip_address: IpOrNone | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    qos_policy_id: UuidText | UnsetType | None = UNSET


class PortDetails(msgspec.Struct, gc=False):
    """Of the port that a floating IP stands for."""

    name: str
    network_id: UuidText
    mac_address: MacText
    admin_state_up: bool
    status: PortStatus
    device_id: str
    device_owner: str


Layer4 = Literal["tcp", "udp"]
Layer4Port = Annotated[int, Meta(ge=1, le=65535)]


class PortForwardingCreate(Input, kw_only=True):
    """A port of the floating IP that stands for a port of an address of a port."""

    protocol: Layer4
    external_port: Layer4Port
    internal_port: Layer4Port
    internal_port_id: UuidText
    internal_ip_address: IpOrNone | UnsetType = UNSET
    description: Text = ""


class PortForwardingUpdate(Input, kw_only=True):
    protocol: Layer4 | UnsetType = UNSET
    external_port: Layer4Port | UnsetType = UNSET
    internal_port: Layer4Port | UnsetType = UNSET
    internal_ip_address: IpText | UnsetType = UNSET
    description: Text | UnsetType = UNSET


class PortForwardingView(View, kw_only=True):
    protocol: Layer4
    external_port: Layer4Port
    internal_port: Layer4Port
    internal_ip_address: IpText
    internal_port_id: UuidText
    description: str


class ForwardingInView(msgspec.Struct, gc=False):
    """A port forwarding as its floating IP shows it."""

    protocol: Layer4
    external_port: Layer4Port
    internal_port: Layer4Port
    internal_ip_address: IpText


class FloatingIpView(View, kw_only=True):
    floating_network_id: UuidText
    floating_ip_address: IpText
    router_id: UuidText | None
    port_id: UuidText | None
    fixed_ip_address: IpOrNone
    status: Literal["ACTIVE", "DOWN", "ERROR"]
    """ACTIVE once its port's host said that it answers for it."""
    port_details: PortDetails | None
    description: str
    project_id: str
    tenant_id: str
    dns_name: OnlyEmpty = ""
    dns_domain: OnlyEmpty = ""
    qos_policy_id: UuidText | None
    qos_network_policy_id: UuidText | None
    """Of its external network: in effect while it has none of its own."""
    port_forwardings: list[ForwardingInView]
    created_at: TimeText
    updated_at: TimeText
    revision_number: int
