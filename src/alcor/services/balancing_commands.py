"""What a caller may ask about load balancing: commands, as values. Made by api and loops, answered by services.

As in commands: a field that is UNSET in a change is left as it is. Octavia has no revisions, so nothing has `if_match`.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from alcor.model.addresses import Ip
from alcor.model.balancing import Algorithm, MonitorType, Protocol
from alcor.model.ids import Id
from alcor.services.commands import Command


class CreateLoadBalancer(Command, frozen=True, gc=False, kw_only=True):
    """-> LoadBalancer. At least one of the VIP's network, subnet and port is given; its port is made if it is not."""

    project_id: str = ""
    name: str = ""
    description: str = ""
    network_id: Id | None = None
    subnet_id: Id | None = None
    port_id: Id | None = None
    ip: Ip | None = None
    admin_state_up: bool = True


class UpdateLoadBalancer(Command, frozen=True, gc=False, kw_only=True):
    """-> LoadBalancer."""

    id: Id
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET


class DeleteLoadBalancer(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Refused while it has listeners or pools, unless `cascade`; a port that was made for it goes with it."""

    id: Id
    port_id: Id
    """Its VIP's."""
    cascade: bool = False


class CreateListener(Command, frozen=True, gc=False, kw_only=True):
    """-> Listener."""

    load_balancer_id: Id
    protocol: Protocol
    port: int
    project_id: str = ""
    name: str = ""
    description: str = ""
    pool_id: Id | None = None
    admin_state_up: bool = True


class UpdateListener(Command, frozen=True, gc=False, kw_only=True):
    """-> Listener."""

    id: Id
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    pool_id: Id | UnsetType | None = UNSET
    admin_state_up: bool | UnsetType = UNSET


class DeleteListener(Command, frozen=True, gc=False, kw_only=True):
    """-> None."""

    id: Id


class CreatePool(Command, frozen=True, gc=False, kw_only=True):
    """-> MemberPool. Of a balancer, or of a listener, whose default it becomes."""

    protocol: Protocol
    algorithm: Algorithm
    load_balancer_id: Id | None = None
    listener_id: Id | None = None
    project_id: str = ""
    name: str = ""
    description: str = ""
    persistence: bool = False
    admin_state_up: bool = True


class UpdatePool(Command, frozen=True, gc=False, kw_only=True):
    """-> MemberPool."""

    id: Id
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    algorithm: Algorithm | UnsetType = UNSET
    persistence: bool | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET


class DeletePool(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Its members and its monitor go with it; listeners that had it have none."""

    id: Id


class MemberSpec(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    ip: Ip
    port: int
    project_id: str = ""
    name: str | UnsetType = UNSET
    weight: int | UnsetType = UNSET
    subnet_id: Id | None = None
    admin_state_up: bool | UnsetType = UNSET


class CreateMember(Command, frozen=True, gc=False, kw_only=True):
    """-> Member."""

    pool_id: Id
    spec: MemberSpec


class UpdateMember(Command, frozen=True, gc=False, kw_only=True):
    """-> Member."""

    pool_id: Id
    id: Id
    name: str | UnsetType = UNSET
    weight: int | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET


class DeleteMember(Command, frozen=True, gc=False, kw_only=True):
    """-> None."""

    pool_id: Id
    id: Id


class ReplaceMembers(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Afterwards the pool has exactly these members (`additive`: these too); who is there already, by address
    and port, is changed. All or nothing."""

    pool_id: Id
    specs: tuple[MemberSpec, ...]
    additive: bool = False


class CreateHealthMonitor(Command, frozen=True, gc=False, kw_only=True):
    """-> HealthMonitor."""

    pool_id: Id
    type: MonitorType
    delay_s: int
    timeout_s: int
    rise: int
    fall: int = 3
    project_id: str = ""
    name: str = ""
    http_method: str = ""
    url_path: str = ""
    expected_codes: str = ""
    admin_state_up: bool = True


class UpdateHealthMonitor(Command, frozen=True, gc=False, kw_only=True):
    """-> HealthMonitor."""

    id: Id
    name: str | UnsetType = UNSET
    delay_s: int | UnsetType = UNSET
    timeout_s: int | UnsetType = UNSET
    rise: int | UnsetType = UNSET
    fall: int | UnsetType = UNSET
    http_method: str | UnsetType = UNSET
    url_path: str | UnsetType = UNSET
    expected_codes: str | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET


class DeleteHealthMonitor(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Its pool's members are not probed any more, and all of them answer."""

    id: Id


class MemberReport(msgspec.Struct, frozen=True, gc=False):
    """A host's word about a member that it probes."""

    id: Id
    healthy: bool


class RecordMemberReports(Command, frozen=True, gc=False, kw_only=True):
    """-> None. Reports of unknown members, and of those that are not probed, change nothing."""

    reports: tuple[MemberReport, ...]
