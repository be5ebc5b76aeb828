"""How a host does, as its agent says to local tooling. Made by reconcile."""

from __future__ import annotations

import msgspec

from alcor.agent.bgp import BgpStatus


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a host does. Ids are UUID text."""

    host: str
    in_sync: bool
    desired_ports: int
    carried_ports: int
    waiting_ports: tuple[str, ...]
    """Their VPC, subnet or security groups have not arrived."""
    failing_ports: dict[str, str]
    """With their reasons; they are retried."""
    endpoints: int
    broken: str
    """Why the data plane as a whole refuses; empty when it does not."""
    refused: dict[str, int]
    """What came and was not taken since the agent began: bundles, news of VPCs (and how much of that came again),
    streams, sessions and relays, messages of the bus."""
    bgp: BgpStatus | None
    """None: no speaker is told of external addresses."""
