"""The shapes of Octavia's resources in REST. Called by lbaas and openapi. Pure.

A body holds what Alcor honours. What Octavia has beyond that is named here with the one value that Alcor can keep, or
refused by name (`REFUSED`): nothing is taken and then not done.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from alcor.api.bodies import Input, IpText, OnlyEmptyList, Text, UuidText, View
from alcor.model.balancing import Algorithm, MonitorType, Protocol


def _word(words: type[StrEnum]) -> Meta:
    """The document names what is kept; what else Octavia has is read, and refused by name."""
    return Meta(extra_json_schema={"enum": [one.value for one in words]})


def _only(*values: object) -> Meta:
    """Likewise of a value that says nothing new."""
    return Meta(extra_json_schema={"enum": list(values)})


ProtocolText = Annotated[str, _word(Protocol)]
AlgorithmText = Annotated[str, _word(Algorithm)]
MonitorText = Annotated[str, _word(MonitorType)]

Port = Annotated[int, Meta(ge=1, le=65535)]
Weight = Annotated[int, Meta(ge=0, le=256)]
Seconds = Annotated[int, Meta(ge=1, le=86_400)]
Times = Annotated[int, Meta(ge=1, le=10)]
Long = Annotated[int, _only(50_000)] | None
Short = Annotated[int, _only(5_000)] | None
"""Octavia's defaults for connections that are idle, in milliseconds."""
UNLIMITED = -1


class Ref(msgspec.Struct, gc=False):
    """Names a resource."""

    id: UuidText


class LoadBalancerCreate(Input, kw_only=True):
    """A load balancer. One of the VIP's port, subnet and network must be given."""

    vip_subnet_id: UuidText | None = None
    vip_network_id: UuidText | None = None
    vip_port_id: UuidText | None = None
    vip_address: IpText | None = None
    name: Text = ""
    description: Text = ""
    project_id: Text | UnsetType | None = UNSET
    tenant_id: Text | UnsetType | None = UNSET
    admin_state_up: bool = True
    provider: Literal["alcor", "octavia", "ovn"] | None = None
    """Others' names are taken for clients that must say one; it is always alcor."""
    flavor_id: None = None
    availability_zone: None = None
    vip_qos_policy_id: None = None
    vip_sg_ids: OnlyEmptyList | None = None
    additional_vips: OnlyEmptyList = ()
    listeners: OnlyEmptyList = ()
    pools: OnlyEmptyList = ()
    tags: OnlyEmptyList = ()


class LoadBalancerUpdate(Input, kw_only=True):
    name: Text | UnsetType | None = UNSET
    description: Text | UnsetType | None = UNSET
    admin_state_up: bool | UnsetType = UNSET
    vip_qos_policy_id: None = None
    vip_sg_ids: OnlyEmptyList | None = None
    tags: OnlyEmptyList = ()


class Octavian(View, kw_only=True):
    """What every resource has."""

    name: str
    project_id: str
    tenant_id: str
    admin_state_up: bool
    provisioning_status: Literal["ACTIVE"] = "ACTIVE"
    """It is there as soon as it is committed; hosts follow within milliseconds."""
    operating_status: str
    created_at: str
    updated_at: str
    tags: OnlyEmptyList = ()


class LoadBalancerView(Octavian, kw_only=True):
    description: str
    vip_address: IpText
    vip_port_id: UuidText
    vip_subnet_id: UuidText
    vip_network_id: UuidText
    vip_qos_policy_id: None = None
    vip_vnic_type: Literal["normal"] = "normal"
    vip_sg_ids: OnlyEmptyList = ()
    additional_vips: OnlyEmptyList = ()
    provider: Literal["alcor"] = "alcor"
    flavor_id: None = None
    availability_zone: None = None
    listeners: list[Ref]
    pools: list[Ref]


class ListenerCreate(Input, kw_only=True):
    """A protocol and port of a load balancer's address."""

    loadbalancer_id: UuidText
    protocol: ProtocolText
    protocol_port: Port
    name: Text = ""
    description: Text = ""
    project_id: Text | UnsetType | None = UNSET
    tenant_id: Text | UnsetType | None = UNSET
    default_pool_id: UuidText | None = None
    admin_state_up: bool = True
    connection_limit: Literal[-1] | None = None
    insert_headers: Annotated[dict[str, str], Meta(extra_json_schema={"maxProperties": 0})] | None = None
    timeout_client_data: Long = None
    timeout_member_connect: Short = None
    timeout_member_data: Long = None
    timeout_tcp_inspect: Annotated[int, _only(0)] | None = None
    allowed_cidrs: OnlyEmptyList | None = None
    default_tls_container_ref: None = None
    sni_container_refs: OnlyEmptyList | None = None
    l7policies: OnlyEmptyList = ()
    tags: OnlyEmptyList = ()


class ListenerUpdate(Input, kw_only=True):
    name: Text | UnsetType | None = UNSET
    description: Text | UnsetType | None = UNSET
    default_pool_id: UuidText | UnsetType | None = UNSET
    admin_state_up: bool | UnsetType = UNSET
    connection_limit: Literal[-1] | None = None
    allowed_cidrs: OnlyEmptyList | None = None
    tags: OnlyEmptyList = ()


class ListenerView(Octavian, kw_only=True):
    description: str
    protocol: Literal["TCP", "UDP"]
    protocol_port: int
    loadbalancers: list[Ref]
    default_pool_id: UuidText | None
    connection_limit: int = UNLIMITED
    insert_headers: dict[str, str] = msgspec.field(default_factory=dict)
    timeout_client_data: None = None
    timeout_member_connect: None = None
    timeout_member_data: None = None
    timeout_tcp_inspect: None = None
    allowed_cidrs: None = None
    default_tls_container_ref: None = None
    sni_container_refs: OnlyEmptyList = ()
    l7policies: OnlyEmptyList = ()


class Persistence(Input, kw_only=True):
    """Only SOURCE_IP: connections are not looked into."""

    type: Annotated[str, _only("SOURCE_IP")]
    cookie_name: Annotated[str, _only("")] | None = None
    persistence_timeout: Annotated[int, _only(0)] | None = None
    persistence_granularity: Annotated[str, _only("")] | None = None


class PoolCreate(Input, kw_only=True):
    """Members that answer, for a listener or (to be named later) of a load balancer."""

    protocol: ProtocolText
    lb_algorithm: AlgorithmText
    loadbalancer_id: UuidText | None = None
    listener_id: UuidText | None = None
    name: Text = ""
    description: Text = ""
    project_id: Text | UnsetType | None = UNSET
    tenant_id: Text | UnsetType | None = UNSET
    session_persistence: Persistence | None = None
    admin_state_up: bool = True
    tls_enabled: Literal[False] = False
    tags: OnlyEmptyList = ()


class PoolUpdate(Input, kw_only=True):
    name: Text | UnsetType | None = UNSET
    description: Text | UnsetType | None = UNSET
    lb_algorithm: AlgorithmText | UnsetType = UNSET
    session_persistence: Persistence | UnsetType | None = UNSET
    admin_state_up: bool | UnsetType = UNSET
    tls_enabled: Literal[False] = False
    tags: OnlyEmptyList = ()


class PersistenceView(msgspec.Struct, gc=False):
    type: Literal["SOURCE_IP"] = "SOURCE_IP"
    cookie_name: None = None
    persistence_timeout: None = None
    persistence_granularity: None = None


class PoolView(Octavian, kw_only=True):
    description: str
    protocol: Literal["TCP", "UDP"]
    lb_algorithm: AlgorithmText
    session_persistence: PersistenceView | None
    loadbalancers: list[Ref]
    listeners: list[Ref]
    members: list[Ref]
    healthmonitor_id: UuidText | None
    tls_enabled: bool = False
    tls_container_ref: None = None
    ca_tls_container_ref: None = None
    crl_container_ref: None = None


class MemberCreate(Input, kw_only=True):
    """An address of the load balancer's network, and a port, that answers."""

    address: IpText
    protocol_port: Port
    name: Text | UnsetType | None = UNSET
    weight: Weight | UnsetType | None = UNSET
    subnet_id: UuidText | None = None
    admin_state_up: bool | UnsetType = UNSET
    project_id: Text | UnsetType | None = UNSET
    tenant_id: Text | UnsetType | None = UNSET
    backup: Literal[False] = False
    monitor_address: None = None
    monitor_port: None = None
    tags: OnlyEmptyList = ()


class MemberUpdate(Input, kw_only=True):
    name: Text | UnsetType | None = UNSET
    weight: Weight | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    backup: Literal[False] = False
    monitor_address: None = None
    monitor_port: None = None
    tags: OnlyEmptyList = ()


class MemberView(Octavian, kw_only=True):
    address: IpText
    protocol_port: int
    weight: int
    subnet_id: UuidText | None
    backup: bool = False
    monitor_address: None = None
    monitor_port: None = None


class HealthMonitorCreate(Input, kw_only=True):
    """How the members of a pool are probed."""

    pool_id: UuidText
    type: MonitorText
    delay: Seconds
    timeout: Seconds
    max_retries: Times
    max_retries_down: Times = 3
    name: Text = ""
    http_method: Annotated[str, Meta(max_length=16)] | None = None
    url_path: Annotated[str, Meta(max_length=255)] | None = None
    expected_codes: Annotated[str, Meta(max_length=64)] | None = None
    http_version: None = None
    domain_name: None = None
    project_id: Text | UnsetType | None = UNSET
    tenant_id: Text | UnsetType | None = UNSET
    admin_state_up: bool = True
    tags: OnlyEmptyList = ()


class HealthMonitorUpdate(Input, kw_only=True):
    name: Text | UnsetType | None = UNSET
    delay: Seconds | UnsetType = UNSET
    timeout: Seconds | UnsetType = UNSET
    max_retries: Times | UnsetType = UNSET
    max_retries_down: Times | UnsetType = UNSET
    http_method: Annotated[str, Meta(max_length=16)] | UnsetType = UNSET
    url_path: Annotated[str, Meta(max_length=255)] | UnsetType = UNSET
    expected_codes: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    tags: OnlyEmptyList = ()


class HealthMonitorView(Octavian, kw_only=True):
    type: MonitorText
    delay: int
    timeout: int
    max_retries: int
    max_retries_down: int
    http_method: str | None
    url_path: str | None
    expected_codes: str | None
    http_version: None = None
    domain_name: None = None
    pools: list[Ref]


class StatsView(msgspec.Struct, gc=False):
    """Since the listener was made, of all hosts that report. `active_connections`: TCP's that were not seen to end."""

    active_connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    request_errors: int = 0
    total_connections: int = 0


class ProviderView(msgspec.Struct, gc=False):
    """Who balances."""

    name: str
    description: str


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error."""

    faultcode: Literal["Client", "Server"]
    faultstring: str
    debuginfo: None = None


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a load balancer in its status tree."""

    id: UuidText
    name: str
    operating_status: str
    provisioning_status: Literal["ACTIVE"] = "ACTIVE"


class MemberBranch(Branch, frozen=True, kw_only=True):
    address: IpText
    protocol_port: int


class MonitorBranch(Branch, frozen=True, kw_only=True):
    type: MonitorText


class PoolBranch(Branch, frozen=True, kw_only=True):
    members: list[MemberBranch]
    healthmonitor: MonitorBranch | UnsetType = UNSET


class ListenerBranch(Branch, frozen=True, kw_only=True):
    pools: list[PoolBranch]


class BalancerBranch(Branch, frozen=True, kw_only=True):
    listeners: list[ListenerBranch]
    pools: list[PoolBranch]


class StatusTree(msgspec.Struct, frozen=True, kw_only=True):
    """A load balancer, with all that it has."""

    loadbalancer: BalancerBranch
