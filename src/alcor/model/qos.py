"""The nouns of quality of service, as frozen records: policies, their rules, where they are used. Pure.

Called by services, store, goalstate and api, as nouns.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from alcor.model.ids import Id
from alcor.model.nouns import Direction


class QosRuleKind(StrEnum):
    """What a rule does; Neutron's words."""

    BANDWIDTH_LIMIT = "bandwidth_limit"
    DSCP_MARKING = "dscp_marking"


class QosPolicy(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What is done to the traffic of ports. `revision` also grows when a rule comes, changes or goes."""

    id: Id
    project_id: str
    name: str
    description: str
    shared: bool
    is_default: bool
    """New networks of its project have it, if they name no other."""
    created_at: int
    updated_at: int
    revision: int


class QosRule(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One thing that a policy does. A policy has at most one of a kind and direction."""

    id: Id
    policy_id: Id
    kind: QosRuleKind
    direction: Direction
    """Of a limit. A mark is always of what the port sends (EGRESS)."""
    max_kbps: int
    """Of a limit: thousands of bits a second."""
    max_burst_kbps: int
    """Of a limit: thousands of bits (in spite of Neutron's name) that may go at once; 0: what 50 ms take."""
    dscp_mark: int
    """Of a mark: 0..63."""
    created_at: int
    updated_at: int
    revision: int


class QosBinding(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A network's hosts know the policy: it, a port of it, or a floating IP of one, has it or had it.

    Made with the first use; gone with the network or the policy.
    """

    network_id: Id
    policy_id: Id
    """Or that of an external network: then it stands for the policy that this has, if any."""
    revision: int
