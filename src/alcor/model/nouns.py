"""The nouns of desired state, as frozen records. Pure.

Called by services, store, goalstate and api. `revision` is the number of the commit that last changed the desired
state of the resource; REST shows it as `revision_number`. Times are milliseconds since the epoch.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from alcor.model.addresses import Ip, Mac, Prefix
from alcor.model.ids import Id


class PortStatus(StrEnum):
    """Neutron's port states. ACTIVE only on the host's own word (promise P1)."""

    DOWN = "DOWN"
    """Not bound to a host, or administratively down and realised so."""
    BUILD = "BUILD"
    """Bound; the host has not acknowledged the present revision yet."""
    ACTIVE = "ACTIVE"
    """The host acknowledged that its kernel carries the present revision."""
    ERROR = "ERROR"
    """The host refused; `status_reason` says why."""


class PortKind(StrEnum):
    """What the agent does for the port's interface."""

    CONTAINER = "container"
    """Makes a veth, its inner end in a namespace that the agent makes, or in the one at `netns`."""
    TAP = "tap"
    """Makes a persistent tap device for a virtual machine."""
    ADOPTED = "adopted"
    """Takes the interface named `interface`, which somebody else made and keeps."""


class Network(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A network; with `cidr` it is a VPC, whose subnets route to each other."""

    id: Id
    project_id: str
    name: str
    description: str
    cidr: Prefix | None
    vni: int
    mtu: int
    admin_state_up: bool
    shared: bool
    created_at: int
    updated_at: int
    revision: int


class Pool(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An allocation pool: first and last address, both included."""

    first: Ip
    last: Ip


class Subnet(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A subnet of a network. `gateway` is None when it has none."""

    id: Id
    network_id: Id
    project_id: str
    name: str
    description: str
    cidr: Prefix
    gateway: Ip | None
    pools: tuple[Pool, ...]
    enable_dhcp: bool
    dns_nameservers: tuple[str, ...]
    created_at: int
    updated_at: int
    revision: int


class FixedIp(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One address of a port, in one subnet."""

    subnet_id: Id
    ip: Ip


class Port(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A port. `host` is the name of the node that runs it, empty when unbound.

    `status`, `status_reason`, `realised_revision`, `path`, `attempts` and `realised_at` are status, written by the
    status loop; they do not change `revision`.
    """

    id: Id
    network_id: Id
    project_id: str
    name: str
    description: str
    mac: Mac
    fixed_ips: tuple[FixedIp, ...]
    host: str
    device_id: str
    device_owner: str
    admin_state_up: bool
    kind: PortKind
    netns: str
    """A namespace to enter, as a path; empty: the agent makes one (containers only)."""
    interface: str
    """Interface name: inside the namespace for a container (default eth0), on the host for an adopted port."""
    created_at: int
    updated_at: int
    revision: int
    status: PortStatus
    status_reason: str
    realised_revision: int
    fast_path: bool = False
    """Its host is to be on the fast path when it changes, whatever else there is to do."""
    path: str = ""
    """Status: by which way the host's last word came (paths.base.PathName); empty: there was none."""
    attempts: int = 0
    """Status: dials that the session took in which it came."""
    realised_at: int = 0
    """Status: when it came; 0: it has not."""


class Node(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A compute host. `name` is what ports name in `binding:host_id`."""

    id: Id
    name: str
    underlay_ip: Ip
    """Where its tunnel end listens (VXLAN)."""
    agent_host: str
    """Where its agent's gRPC server listens: an address or a name."""
    agent_port: int
    created_at: int
    updated_at: int
    revision: int
    availability_zone: str = ""
    failure_domain: str = ""
    """What it shares its fate with: a rack, a power feed."""
    admin_state_up: bool = True
    """False: drained. It keeps its ports and takes no others."""
