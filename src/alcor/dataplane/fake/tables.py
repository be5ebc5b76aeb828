"""What the maps hold, as Python records: the rows that docs/pipeline.md names. Pure.

Called by the pipeline model, the fake driver and the tests. Policy's rows are in policy.py.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

import msgspec

from alcor.dataplane.base import Route, RouteKey, TranslationKey
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake.lb import BalanceTables
from alcor.dataplane.fake.policy import PolicyTables
from alcor.dataplane.fake.sharing import SharingTables
from alcor.model.addresses import Ip, Mac, Prefix
from alcor.model.ids import Id


class PortFlag(IntFlag):
    """Flags of a row of `ports`."""

    ROUTED = 1
    PEER = 2
    UP = 4
    OPEN = 8
    PAIRS = 16
    ROUTES = 32
    SERVED = 256
    ANSWERS = 512
    """Load-balanced connections from outside came to it. Packets set it, nobody else."""


class LocalFlag(IntFlag):
    """Flags of a row of `local`."""

    GATEWAY = 1
    PEER = 2
    DOWN = 4
    VIP = 8
    """A load balancer's address; ifindex 0."""
    BALANCED = 16
    """Its VPC has load balancers."""


class Use(IntEnum):
    """How a row of `remote` came there, and whether packets follow it."""

    PRELOADED = 0
    IDLE = 1
    RECENT = 2
    ABSENT = 3
    """Nobody has the address."""


DSCP_MARKED = 0x40


class PortRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `ports`: the interface is a port. (`digest` is the driver's; packets never meet it.)"""

    id: Id
    vni: int
    mtu: int
    mac: Mac
    flags: int
    identity: int = 0
    digest: int = 0
    queue_out: int = 0
    """Where what it sends waits; 0: it does not."""
    queue_in: int = 0
    dscp: int = 0
    """DSCP_MARKED and what its packets are marked with; 0: they are not."""


class LocalRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `local`: who on this host has the address. A gateway has ifindex 0 and the router's MAC."""

    ifindex: int
    flags: int
    mac: Mac
    identity: int = 0
    queue: int = 0
    """Where what is for it waits; 0: it does not."""


class RemoteRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `remote`: which host has the address, and the port's MAC there. Of `forwards`: where it went."""

    host_ip: Ip
    mac: Mac
    identity: int = 0
    use: int = 0


class Sender(NamedTuple):
    """A row of `senders`: a MAC and addresses that a port may send from beside its own."""

    mac: Mac
    prefix: Prefix


class MacKey(NamedTuple):
    """A port of this host by its MAC."""

    vni: int
    mac: Mac


class HostConfig(msgspec.Struct, frozen=True, gc=False):
    """The row of `config`: this host's tunnel end."""

    underlay_ip: Ip
    underlay_ifindex: int
    vxlan_port: int


class ExternalDevice(msgspec.Struct, frozen=True, gc=False):
    """The row of `external`: where this host meets external networks."""

    ifindex: int
    mac: Mac


class EipRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `eips`: of an external address what it stands for inside; of a port's address what stands for it
    outside, and how packets from it go on."""

    ip: Ip
    """The other address, ..."""
    vni: int
    """... and where it is."""
    ifindex: int
    """Of the port whose it is."""
    gateway: Ip | None = None
    """Of the external subnet."""
    mask: int = 0
    """Of the external subnet."""
    queue: int = 0
    """Where what is for it (of a port's address: from it) waits; 0: it does not."""


class ForwardingKey(NamedTuple):
    """An address, and a port of TCP or UDP; VNI OUTSIDE for an external one."""

    vni: int
    ip: Ip
    protocol: int
    port: int


class ForwardingRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `forwardings`: the other address and port. `other` is as in `eips`."""

    other: EipRow
    port: int


class Tables(msgspec.Struct, frozen=True, gc=False):
    """What the maps hold, as Python records."""

    config: HostConfig
    ports: dict[int, PortRow] = msgspec.field(default_factory=dict)
    local: dict[EndpointKey, LocalRow] = msgspec.field(default_factory=dict)
    remote: dict[EndpointKey, RemoteRow] = msgspec.field(default_factory=dict)
    forwards: dict[EndpointKey, RemoteRow] = msgspec.field(default_factory=dict)
    on_demand: set[int] = msgspec.field(default_factory=set)
    """VNIs."""
    senders: dict[int, tuple[Sender, ...]] = msgspec.field(default_factory=dict)
    """By ifindex."""
    routes: dict[RouteKey, Route] = msgspec.field(default_factory=dict)
    translations: dict[TranslationKey, int] = msgspec.field(default_factory=dict)
    macs: dict[MacKey, LocalRow] = msgspec.field(default_factory=dict)
    routers: dict[int, tuple[Ip | None, Ip | None]] = msgspec.field(default_factory=dict)
    """By ifindex: where the port's routers are, IPv4 and IPv6."""
    policy: PolicyTables = msgspec.field(default_factory=PolicyTables)
    external: ExternalDevice | None = None
    eips: dict[EndpointKey, EipRow] = msgspec.field(default_factory=dict)
    """A row of an external address whose other side is OUTSIDE too: `forwardings` has it."""
    forwardings: dict[ForwardingKey, ForwardingRow] = msgspec.field(default_factory=dict)
    balance: BalanceTables = msgspec.field(default_factory=BalanceTables)
    sharing: SharingTables = msgspec.field(default_factory=SharingTables)
