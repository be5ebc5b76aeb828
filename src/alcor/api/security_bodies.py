"""The shapes of security groups and their rules in REST. Called by security_groups and openapi. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from alcor.api.bodies import Input, OnlyFalse, OnlyTrue, Text, TimeText, UuidText, View
from alcor.model.nouns import Direction

Number = Annotated[str, Meta(pattern="^[0-9]{1,5}$")]
"""A number as text: clients send some that way, and Neutron converts it."""
RangeEnd = int | Number | None
EtherType = Literal["IPv4", "IPv6", "ipv4", "ipv6"]


class SecurityGroupCreate(Input, kw_only=True):
    """A security group; it comes with rules that let everything out."""

    name: Text = ""
    description: Text = ""
    project_id: Text | UnsetType = UNSET
    tenant_id: Text | UnsetType = UNSET
    stateful: OnlyTrue = True


class SecurityGroupUpdate(Input, kw_only=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    stateful: OnlyTrue = True


class SecurityGroupRuleCreate(Input, kw_only=True):
    """What ports of the group may do. For ICMP the range is type and code."""

    security_group_id: UuidText
    direction: Direction
    ethertype: EtherType = "IPv4"
    protocol: str | int | None = None
    port_range_min: RangeEnd = None
    port_range_max: RangeEnd = None
    remote_ip_prefix: str | None = None
    remote_group_id: UuidText | None = None
    remote_address_group_id: None = None
    description: Text = ""
    project_id: Text | UnsetType = UNSET
    tenant_id: Text | UnsetType = UNSET


class SecurityGroupRuleView(View, kw_only=True):
    security_group_id: UuidText
    project_id: str
    tenant_id: str
    description: str
    direction: Direction
    ethertype: Literal["IPv4", "IPv6"]
    protocol: str | None
    port_range_min: int | None
    port_range_max: int | None
    remote_ip_prefix: str | None
    normalized_cidr: str | None
    remote_group_id: UuidText | None
    remote_address_group_id: None = None
    belongs_to_default_sg: bool | None = None
    created_at: TimeText
    updated_at: TimeText
    revision_number: int


class SecurityGroupView(View, kw_only=True):
    name: str
    description: str
    project_id: str
    tenant_id: str
    stateful: OnlyTrue = True
    shared: OnlyFalse = False
    security_group_rules: list[SecurityGroupRuleView]
    created_at: TimeText
    updated_at: TimeText
    revision_number: int
