"""The nouns of load balancing: balancers, listeners, pools, members, health monitors. Pure.

Called by services, store, goalstate and api. A balancer's `revision` also grows when a listener of it comes, goes or
changes, a pool's when its monitor does: that is what hosts are told by. Words are Octavia's.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from alcor.model.addresses import Ip
from alcor.model.ids import Id


class Protocol(StrEnum):
    """What a listener and a pool carry."""

    TCP = "TCP"
    UDP = "UDP"

    @property
    def number(self) -> int:
        """IP protocol number."""
        return 6 if self is Protocol.TCP else 17


class Algorithm(StrEnum):
    """How a pool's members share new connections; each by Maglev's table."""

    ROUND_ROBIN = "ROUND_ROBIN"
    """By source address and port: every connection anew."""
    SOURCE_IP_PORT = "SOURCE_IP_PORT"
    SOURCE_IP = "SOURCE_IP"
    """By source address: a client has one member."""


class MonitorType(StrEnum):
    """How a member's health is probed."""

    TCP = "TCP"
    HTTP = "HTTP"
    HTTPS = "HTTPS"
    PING = "PING"
    UDP_CONNECT = "UDP-CONNECT"


class MemberStatus(StrEnum):
    """How a member does, of Octavia's operating statuses."""

    NO_MONITOR = "NO_MONITOR"
    OFFLINE = "OFFLINE"
    """Not probed yet; it gets connections until it is known better."""
    ONLINE = "ONLINE"
    ERROR = "ERROR"
    """Its monitor found it failing: it gets no new connections."""


class LoadBalancer(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An address of a network that connections are spread from. `vip_port_id` is the port that has the address."""

    id: Id
    project_id: str
    name: str
    description: str
    network_id: Id
    vip_subnet_id: Id
    vip_port_id: Id
    vip_ip: Ip
    vip_mac: bytes
    admin_state_up: bool
    created_at: int
    updated_at: int
    revision: int
    owns_port: bool = True
    """The port was made for it, and goes with it."""

    @property
    def parent(self) -> Id:
        return self.network_id


class Listener(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A protocol and port of a balancer's address. `pool_id` is None while nobody answers there."""

    id: Id
    project_id: str
    name: str
    description: str
    network_id: Id
    load_balancer_id: Id
    protocol: Protocol
    port: int
    pool_id: Id | None
    admin_state_up: bool
    created_at: int
    updated_at: int
    revision: int

    @property
    def parent(self) -> Id:
        return self.load_balancer_id


class MemberPool(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Members that answer for a balancer's listeners. `persistence`: a client stays with one member, whatever the
    algorithm."""

    id: Id
    project_id: str
    name: str
    description: str
    network_id: Id
    load_balancer_id: Id
    protocol: Protocol
    algorithm: Algorithm
    persistence: bool
    admin_state_up: bool
    created_at: int
    updated_at: int
    revision: int

    @property
    def parent(self) -> Id:
        return self.load_balancer_id


class Member(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An address and port that answers. `weight` 0: it keeps its connections and gets no new ones."""

    id: Id
    project_id: str
    name: str
    network_id: Id
    pool_id: Id
    ip: Ip
    port: int
    weight: int
    subnet_id: Id | None
    admin_state_up: bool
    status: MemberStatus
    created_at: int
    updated_at: int
    revision: int

    @property
    def parent(self) -> Id:
        return self.pool_id


class HealthMonitor(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """How the members of a pool are probed: every `delay_s`, each probe waiting for `timeout_s`; `rise` good ones in a
    row make a member ONLINE, `fall` bad ones ERROR."""

    id: Id
    project_id: str
    name: str
    network_id: Id
    pool_id: Id
    type: MonitorType
    delay_s: int
    timeout_s: int
    rise: int
    fall: int
    http_method: str
    url_path: str
    expected_codes: str
    admin_state_up: bool
    created_at: int
    updated_at: int
    revision: int

    @property
    def parent(self) -> Id:
        return self.pool_id


Balancing = LoadBalancer | Listener | MemberPool | Member | HealthMonitor
BALANCING: tuple[type[Balancing], ...] = (LoadBalancer, Listener, MemberPool, Member, HealthMonitor)
