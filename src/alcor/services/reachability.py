"""The question "why did this packet not arrive?" and its answer, as values. Pure.

Asked by api, answered by loops.reachability.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from alcor.model.addresses import Ip
from alcor.model.ids import Id


class Outcome(StrEnum):
    """What becomes of the packet."""

    DELIVERED = "delivered"
    ANSWERED = "answered"
    """By a gateway, or for a load balancer's address (a ping)."""
    LEFT = "left"
    """For outside: it goes out of the host's external device, to nobody that is known here."""
    DROPPED = "dropped"
    """By the data plane; `reason` is its word for it (docs/pipeline.md)."""
    IMPOSSIBLE = "impossible"
    """It never gets as far: not bound, no address, no route, a host that is down."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Would the first packet of such a connection arrive? One of the two sources is set, and one of the two
    destinations."""

    source: Id | None = None
    """A port."""
    source_ip: Ip | None = None
    """An address outside: then the destination is a floating IP's address or, of IPv6, a port's own."""
    project_id: str = ""
    """Who asks; empty: may see everything."""
    destination_port: Id | None = None
    destination_ip: Ip | None = None
    protocol: int = 1
    """IP protocol number; 1 and 58 both mean a ping of the destination's family."""
    port: int = 0
    """Destination port, for protocols that have some."""


class MemberAnswer(msgspec.Struct, frozen=True):
    """What would become of the packet at one member of a load balancer's pool."""

    ip: Ip
    port: int
    weight: int
    takes: bool
    """New connections may go there: it has weight and has not failed."""
    outcome: Outcome
    reason: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict, and how it came about."""

    outcome: Outcome
    reason: str
    """One word: a drop reason, or not_bound, not_associated, not_answered, no_address, no_route,
    host_down; empty when it arrives."""
    decided_by: str
    """The step that decides, in words."""
    steps: tuple[str, ...]
    """All of them, each behind the name of its host."""
    egress_rule: Id | None = None
    """The security group rule that lets it out; None: none does, or none is asked."""
    ingress_rule: Id | None = None
    """The one that lets it in. Not told of another project's port."""
    members: tuple[MemberAnswer, ...] = ()
    """Of a load balancer's listener, when the packet is for one."""


class ReachabilityView(Protocol):
    """Who knows."""

    def ask(self, question: Question) -> Answer:
        """Computed from desired state, off the event loop. Raises PortNotFound, FloatingIPNotFound, InvalidInput,
        StoreError."""
        ...
