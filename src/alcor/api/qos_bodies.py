"""The shapes of quality of service in REST. Called by qos and openapi. Pure."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from alcor.api.bodies import Input, Text, TimeText, UuidText, View
from alcor.model.nouns import Direction

KBPS_LIMIT = (1 << 31) - 1
DSCP_LIMIT = 63
Digits = Annotated[str, Meta(pattern="^[0-9]{1,10}$")]
"""A number as text: clients send some that way, and Neutron converts it."""
Rate = Annotated[int, Meta(ge=1, le=KBPS_LIMIT)] | Digits
Burst = Annotated[int, Meta(ge=0, le=KBPS_LIMIT)] | Digits
DscpMark = Annotated[int, Meta(ge=0, le=DSCP_LIMIT)] | Digits


class QosPolicyCreate(Input, kw_only=True):
    """A policy of quality of service; rules are added to it."""

    name: Text
    description: Text = ""
    project_id: Text | UnsetType = UNSET
    tenant_id: Text | UnsetType = UNSET
    shared: bool = False
    is_default: bool = False


class QosPolicyUpdate(Input, kw_only=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    shared: bool | UnsetType = UNSET
    is_default: bool | UnsetType = UNSET


class BandwidthLimitCreate(Input, kw_only=True):
    """How many thousands of bits a second a port's frames may take, one way, and how many may go at once."""

    max_kbps: Rate
    max_burst_kbps: Burst = 0
    direction: Direction = Direction.EGRESS


class BandwidthLimitUpdate(Input, kw_only=True):
    max_kbps: Rate | UnsetType = UNSET
    max_burst_kbps: Burst | UnsetType = UNSET
    direction: Direction | UnsetType = UNSET


class DscpMarkingCreate(Input, kw_only=True):
    """What a port's IP packets are marked with."""

    dscp_mark: DscpMark


class DscpMarkingUpdate(Input, kw_only=True):
    dscp_mark: DscpMark | UnsetType = UNSET


class BandwidthLimitView(View, kw_only=True):
    qos_policy_id: UuidText
    type: str = "bandwidth_limit"
    max_kbps: int
    max_burst_kbps: int
    direction: Direction


class DscpMarkingView(View, kw_only=True):
    qos_policy_id: UuidText
    type: str = "dscp_marking"
    dscp_mark: int


class QosPolicyView(View, kw_only=True):
    name: str
    description: str
    project_id: str
    tenant_id: str
    shared: bool
    is_default: bool
    rules: Annotated[list[Any], Meta(extra_json_schema={"items": {"type": "object"}})]
    """BandwidthLimitView and DscpMarkingView."""
    created_at: TimeText
    updated_at: TimeText
    revision_number: int


class QosRuleTypeView(msgspec.Struct, kw_only=True):
    """A kind of rule that hosts carry out, and (shown alone) by whom and with what."""

    type: str
    drivers: list[dict[str, Any]] | UnsetType = UNSET
