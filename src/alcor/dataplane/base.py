"""The port every driver fills: observe, apply, counters. Called by the agent; knows nothing of goal state's scopes.

A driver is told what to do as a `Plan`, a value: the agent computes it from desired and observed state, and applying
the same plan twice changes nothing. Work inside a plan is done in the order of `Plan`'s fields (docs/decisions/0004):
removals first, then what ports refer to, then ports, then what refers to ports.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from alcor.model.addresses import Ip, Mac
from alcor.model.ids import Id
from alcor.model.nouns import PortKind


class Address(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An address of a local port: the prefix length of its subnet and, if any, that subnet's gateway."""

    ip: Ip
    prefix_length: int
    gateway: Ip | None


class LocalPort(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A port as the data plane carries it. Equality means: nothing to do."""

    id: Id
    vni: int
    mac: Mac
    addresses: tuple[Address, ...]
    mtu: int
    admin_state_up: bool
    routed: bool
    """Frames to the router's MAC are routed inside the VNI."""
    kind: PortKind
    netns: str
    interface: str


class EndpointKey(NamedTuple):
    """An address in a VPC."""

    vni: int
    ip: Ip


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """Who has an address of a VPC that is on another host: the port's MAC and that host's tunnel end."""

    mac: Mac
    host_ip: Ip


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to change, in this order. Immutable, printable; empty means in sync.

    Removing what is absent succeeds. A port in `put_ports` that exists with other properties is changed in place
    where the driver can, else made anew; it is put as a whole, never merged.
    """

    remove_ports: tuple[Id, ...] = ()
    remove_endpoints: tuple[EndpointKey, ...] = ()
    remove_gateways: tuple[EndpointKey, ...] = ()
    put_gateways: tuple[EndpointKey, ...] = ()
    put_endpoints: tuple[tuple[EndpointKey, Endpoint], ...] = ()
    put_ports: tuple[LocalPort, ...] = ()

    @property
    def empty(self) -> bool:
        """True when there is nothing to do."""
        return not (
            self.remove_ports
            or self.remove_endpoints
            or self.remove_gateways
            or self.put_gateways
            or self.put_endpoints
            or self.put_ports
        )


class PortResult(msgspec.Struct, frozen=True, gc=False):
    """What became of one port of a plan. `error` is empty on success and says what to do next otherwise."""

    id: Id
    error: str
    elapsed_us: int
    """From the start of `apply` until this port was carried (or gone)."""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a plan. Ports are answered one by one; tables as a whole (`error` empty on success)."""

    ports: tuple[PortResult, ...]
    error: str
    wiring_us: int
    """Spent on namespaces and interfaces."""
    tables_us: int
    """Spent on the data plane's tables."""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What the data plane holds now, read from it, of what is Alcor's own."""

    ports: dict[Id, LocalPort]
    endpoints: dict[EndpointKey, Endpoint]
    gateways: frozenset[EndpointKey]
    orphans: tuple[str, ...] = ()
    """Half-made objects of ours (names), left by a crash: `sweep` removes them."""


class PortCounters(msgspec.Struct, frozen=True, gc=False):
    """Since the port was made. `sent` is what the workload sent, `received` what it was given."""

    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int
    dropped: dict[str, int]
    """Packets that the port sent or was to be given and that were dropped, by reason (docs/pipeline.md)."""


class Driver(Protocol):
    """A data plane of one host. Not thread-safe: the agent calls it from one worker thread."""

    name: str

    def observe(self) -> Observed:
        """Reads everything of ours from the data plane. Never from memory."""
        ...

    def apply(self, plan: Plan) -> Applied:
        """Carries the plan out; idempotent. Raises only for what no port is to blame for (DataPlaneError)."""
        ...

    def sweep(self, orphans: tuple[str, ...]) -> None:
        """Removes half-made objects of ours. Called once the agent is in sync."""
        ...

    def counters(self) -> dict[Id, PortCounters]:
        """Traffic per local port."""
        ...

    def close(self) -> None:
        """Lets go of handles; what is programmed stays and forwards on."""
        ...


class DataPlaneError(Exception):
    """The data plane as a whole refused: what was tried, the kernel's reason and what to do next."""
