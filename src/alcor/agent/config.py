"""What an agent is told when it is made. Called by roles (which reads files and flags) and tests."""

from __future__ import annotations

from pathlib import Path

import msgspec

from alcor.agent.relay import RelayLimits
from alcor.hostsvc.serving import ServiceConfig
from alcor.kit.backoff import Backoff

DEFAULT_PORT = 50001


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One host's agent."""

    host: str
    """The node's name, as ports name it and as its certificate says."""
    state_dir: Path
    """Holds the journal and the lock: one agent runs per directory."""
    listen: str
    """Address that the gRPC server listens at."""
    port: int = DEFAULT_PORT
    """0: any free port (`Agent.port` says which)."""
    tls_dir: Path
    """Holds ca.pem, agent.pem and agent-key.pem."""
    heartbeat_s: float = 10.0
    """How often controllers are told that this host is there, on every path that is open."""
    sign_s: float = 1.0
    """How often its controller is told that it lives while a bundle is unanswered."""
    standby: bool = False
    """This is the standby, in the agent's place."""
    relay: RelayLimits = RelayLimits()
    """What is done for other hosts that controllers cannot reach."""
    audit_interval_s: float = 60.0
    """How often the data plane is observed anew and drift repaired."""
    services: ServiceConfig = ServiceConfig()
    """What its ports are answered with."""
    retry: Backoff = Backoff(first_s=0.5, cap_s=30.0)
    """For ports, and a data plane, that failed."""
