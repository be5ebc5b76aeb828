"""What a caller may ask about quality of service: commands, as values, in the manner of `commands`."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from alcor.model.ids import Id
from alcor.model.nouns import Direction
from alcor.model.qos import QosRuleKind
from alcor.services.commands import Command


class QosPolicySpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    project_id: str = ""
    name: str
    description: str = ""
    shared: bool = False
    is_default: bool = False


class CreateQosPolicies(Command, frozen=True, gc=False, kw_only=True):
    """-> tuple[QosPolicy, ...]."""

    specs: tuple[QosPolicySpec, ...]


class UpdateQosPolicy(Command, frozen=True, gc=False, kw_only=True):
    """-> QosPolicy."""

    id: Id
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    shared: bool | UnsetType = UNSET
    is_default: bool | UnsetType = UNSET
    if_match: int | None = None


class DeleteQosPolicy(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Refused while a port or network has it; its rules go with it."""

    id: Id
    if_match: int | None = None


class CreateQosRule(Command, frozen=True, gc=False, kw_only=True):
    """-> QosRule. Of a limit the rate, burst and direction count, of a mark the DSCP."""

    policy_id: Id
    kind: QosRuleKind
    direction: Direction = Direction.EGRESS
    max_kbps: int = 0
    max_burst_kbps: int = 0
    dscp_mark: int = 0


class UpdateQosRule(Command, frozen=True, gc=False, kw_only=True):
    """-> QosRule. `policy_id` None: whatever policy has it."""

    id: Id
    policy_id: Id | None
    kind: QosRuleKind
    direction: Direction | UnsetType = UNSET
    max_kbps: int | UnsetType = UNSET
    max_burst_kbps: int | UnsetType = UNSET
    dscp_mark: int | UnsetType = UNSET
    if_match: int | None = None


class DeleteQosRule(Command, frozen=True, gc=False, kw_only=True):
    """-> None. `policy_id` None: whatever policy has it."""

    id: Id
    policy_id: Id | None
    kind: QosRuleKind
    if_match: int | None = None
