"""The shapes of request and response bodies, and how a body becomes one. Called by the resources and openapi. Pure.

A `...Create` or `...Update` holds exactly the attributes that Alcor honours: an unknown one is refused, never stored.
Attributes of Neutron that have only one honest value so far (no DHCP options, no profile, ...) are taken with that
value, because clients send it, and refused with any other; `Only` marks them. Text that a person writes is bounded as
in Neutron.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from alcor.api.errors import BadRequest
from alcor.model.nouns import Ipv6Mode, PortKind, PortStatus
from alcor.services.health import Reach

NAME_LENGTH = 255
PATH_LENGTH = 4095
INTERFACE_LENGTH = 15
"""IFNAMSIZ less the final zero."""

Text = Annotated[str, Meta(max_length=NAME_LENGTH)]
PathText = Annotated[str, Meta(max_length=PATH_LENGTH)]
InterfaceText = Annotated[str, Meta(max_length=INTERFACE_LENGTH)]
UuidText = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
_EITHER = {"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
_CIDR = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"
IpText = Annotated[str, Meta(extra_json_schema=_EITHER)]
IpOrNone = Annotated[str | None, Meta(extra_json_schema={"anyOf": [*_EITHER["anyOf"], {"type": "null"}]})]
CidrText = Annotated[str, Meta(extra_json_schema={"pattern": _CIDR, "example": "10.0.0.0/16"})]
CidrOrNone = Annotated[str | None, Meta(extra_json_schema={"pattern": _CIDR})]
MacText = Annotated[str, Meta(extra_json_schema={"pattern": "^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$"})]
TimeText = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Digits = Annotated[str, Meta(pattern="^[0-9]{1,8}$")]
"""A number as text: the openstack command sends some that way, and Neutron converts it."""
MTU_LIMIT = 65535
SEGMENT_LIMIT = (1 << 24) - 1
Mtu = Annotated[int, Meta(ge=0, le=MTU_LIMIT)] | Digits
"""0 stands for the default, as in Neutron."""
Segment = Annotated[int, Meta(ge=1, le=SEGMENT_LIMIT)] | Digits
TcpPort = Annotated[int, Meta(ge=1, le=65535)]
OnlyTrue = Annotated[bool, Meta(extra_json_schema={"enum": [True]})]
OnlyFalse = Annotated[bool, Meta(extra_json_schema={"enum": [False]})]
OnlyEmptyList = Annotated[tuple[str, ...], Meta(extra_json_schema={"maxItems": 0})]
OnlyEmptyObject = Annotated[dict[str, Any], Meta(extra_json_schema={"maxProperties": 0})]


class Input(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The root of what a client sends."""


class View(msgspec.Struct, kw_only=True, gc=False):
    """The root of what a client gets."""

    id: UuidText


class NetworkCreate(Input, kw_only=True):
    """A network; with `cidr` it is a VPC."""

    name: Text = ""
    description: Text = ""
    project_id: Text | UnsetType = UNSET
    tenant_id: Text | UnsetType = UNSET
    cidr: CidrOrNone = None
    mtu: Mtu | UnsetType = UNSET
    admin_state_up: bool = True
    shared: bool = False
    network_type: Literal["vxlan", "flat"] | UnsetType = field(default=UNSET, name="provider:network_type")
    """`flat` for an external network, `vxlan` for any other: what it gets if it does not say."""
    segmentation_id: Segment | UnsetType | None = field(default=UNSET, name="provider:segmentation_id")
    physical_network: Literal["external"] | None = field(default=None, name="provider:physical_network")
    """`external`, of an external network: what is behind every host's external device."""
    router_external: bool = field(default=False, name="router:external")
    port_security_enabled: OnlyTrue = True
    availability_zone_hints: OnlyEmptyList = ()
    dns_domain: Text = ""
    qos_policy_id: UuidText | None = None


class NetworkUpdate(Input, kw_only=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    cidr: CidrOrNone | UnsetType = UNSET
    mtu: Mtu | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    shared: bool | UnsetType = UNSET
    router_external: bool | UnsetType = field(default=UNSET, name="router:external")
    port_security_enabled: OnlyTrue = True
    dns_domain: Text | UnsetType = UNSET
    qos_policy_id: UuidText | UnsetType | None = UNSET


class NetworkView(View, kw_only=True):
    name: str
    description: str
    project_id: str
    tenant_id: str
    status: Literal["ACTIVE"] = "ACTIVE"
    """A network is there as soon as it is committed; its ports tell how they fare."""
    admin_state_up: bool
    shared: bool
    subnets: list[UuidText]
    mtu: int
    cidr: CidrOrNone
    network_type: Literal["vxlan", "flat"] = field(name="provider:network_type")
    segmentation_id: int | None = field(name="provider:segmentation_id")
    """The VNI; null of an external network."""
    physical_network: Literal["external"] | None = field(name="provider:physical_network")
    router_external: bool = field(name="router:external")
    port_security_enabled: OnlyTrue = True
    availability_zone_hints: OnlyEmptyList = ()
    availability_zones: OnlyEmptyList = ()
    dns_domain: str
    created_at: TimeText
    updated_at: TimeText
    revision_number: int
    on_demand: bool
    """Too large to be preloaded: its hosts ask where an address is when a packet for it comes. Read-only."""
    qos_policy_id: UuidText | None


class PoolBody(Input, kw_only=True):
    """A range of addresses, both ends included."""

    start: IpText
    end: IpText


class HostRouteBody(Input, kw_only=True):
    """A route that workloads of the subnet are told to have; `nexthop` is the subnet's gateway_ip."""

    destination: CidrText
    nexthop: IpText


class RouteView(msgspec.Struct, gc=False):
    destination: CidrText
    nexthop: IpOrNone


class SubnetCreate(Input, kw_only=True):
    """A subnet; `gateway_ip` is the first address when left out, none when null."""

    network_id: UuidText
    cidr: CidrText
    name: Text = ""
    description: Text = ""
    project_id: Text | UnsetType = UNSET
    tenant_id: Text | UnsetType = UNSET
    ip_version: Literal[4, 6] = 4
    gateway_ip: IpOrNone | UnsetType = UNSET
    allocation_pools: list[PoolBody] | UnsetType = UNSET
    enable_dhcp: bool = True
    dns_nameservers: list[IpText] = []
    host_routes: list[HostRouteBody] = []
    service_types: OnlyEmptyList = ()
    subnetpool_id: None = None
    ipv6_address_mode: Ipv6Mode | None = None
    ipv6_ra_mode: Ipv6Mode | None = None


class SubnetUpdate(Input, kw_only=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    gateway_ip: IpOrNone | UnsetType = UNSET
    allocation_pools: list[PoolBody] | UnsetType = UNSET
    enable_dhcp: bool | UnsetType = UNSET
    dns_nameservers: list[IpText] | UnsetType = UNSET
    host_routes: list[HostRouteBody] | UnsetType = UNSET
    service_types: OnlyEmptyList = ()


class SubnetView(View, kw_only=True):
    name: str
    description: str
    project_id: str
    tenant_id: str
    network_id: UuidText
    cidr: CidrText
    ip_version: Literal[4, 6]
    gateway_ip: IpOrNone
    allocation_pools: list[PoolBody]
    enable_dhcp: bool
    dns_nameservers: tuple[str, ...]
    host_routes: list[RouteView]
    service_types: OnlyEmptyList = ()
    subnetpool_id: None = None
    ipv6_address_mode: Ipv6Mode | None
    ipv6_ra_mode: Ipv6Mode | None
    created_at: TimeText
    updated_at: TimeText
    revision_number: int


class FixedIpCreate(Input, kw_only=True):
    """An address to have: in that subnet, or that very one, or both. At least one of the two."""

    subnet_id: UuidText | UnsetType = UNSET
    ip_address: IpText | UnsetType = UNSET


class FixedIpView(msgspec.Struct, gc=False):
    subnet_id: UuidText
    ip_address: IpText


class AddressPairBody(Input, kw_only=True):
    """Addresses that the port may send from beside its own: one, or a CIDR; with its own MAC when none is given."""

    ip_address: str
    mac_address: MacText | UnsetType = UNSET


class AddressPairView(msgspec.Struct, gc=False):
    ip_address: str
    mac_address: MacText


class DhcpOptionBody(Input, kw_only=True):
    """A DHCP option by its name (dnsmasq's) or number. In a change, a value of null takes it away."""

    opt_name: Annotated[str, Meta(min_length=1, max_length=64)]
    opt_value: Text | None
    ip_version: Literal[4, 6] = 4


class DhcpOptionView(msgspec.Struct, gc=False):
    opt_name: str
    opt_value: str
    ip_version: Literal[4, 6]


class DnsAssignment(msgspec.Struct, gc=False):
    """Under which name an address of the port is found."""

    ip_address: IpText
    hostname: str
    fqdn: str


class PortCreate(Input, kw_only=True):
    """A port. Without `fixed_ips` it gets an address of each family that the network has; with [] none."""

    network_id: UuidText
    name: Text = ""
    description: Text = ""
    project_id: Text | UnsetType = UNSET
    tenant_id: Text | UnsetType = UNSET
    mac_address: MacText | UnsetType = UNSET
    fixed_ips: list[FixedIpCreate] | UnsetType = UNSET
    security_groups: list[UuidText] | UnsetType | None = UNSET
    port_security_enabled: bool | UnsetType = UNSET
    allowed_address_pairs: list[AddressPairBody] = []
    host_id: Text | None = field(default="", name="binding:host_id")
    device_id: Text = ""
    device_owner: Text = ""
    admin_state_up: bool = True
    kind: PortKind | UnsetType = field(default=UNSET, name="alcor:kind")
    netns: PathText = field(default="", name="alcor:netns")
    interface: InterfaceText = field(default="", name="alcor:interface")
    fast_path: bool = field(default=False, name="alcor:fast_path")
    vnic_type: Literal["normal"] = field(default="normal", name="binding:vnic_type")
    profile: OnlyEmptyObject | None = field(default=None, name="binding:profile")
    extra_dhcp_opts: list[DhcpOptionBody] | None = None
    dns_name: Text = ""
    qos_policy_id: UuidText | None = None


class PortUpdate(Input, kw_only=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    mac_address: MacText | UnsetType = UNSET
    fixed_ips: list[FixedIpCreate] | UnsetType = UNSET
    security_groups: list[UuidText] | UnsetType | None = UNSET
    port_security_enabled: bool | UnsetType = UNSET
    allowed_address_pairs: list[AddressPairBody] | UnsetType | None = UNSET
    host_id: Text | UnsetType | None = field(default=UNSET, name="binding:host_id")
    device_id: Text | UnsetType = UNSET
    device_owner: Text | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    kind: PortKind | UnsetType = field(default=UNSET, name="alcor:kind")
    netns: PathText | UnsetType = field(default=UNSET, name="alcor:netns")
    interface: InterfaceText | UnsetType = field(default=UNSET, name="alcor:interface")
    fast_path: bool | UnsetType = field(default=UNSET, name="alcor:fast_path")
    vnic_type: Literal["normal"] = field(default="normal", name="binding:vnic_type")
    profile: OnlyEmptyObject | None = field(default=None, name="binding:profile")
    extra_dhcp_opts: list[DhcpOptionBody] | None = None
    dns_name: Text | UnsetType = UNSET
    qos_policy_id: UuidText | UnsetType | None = UNSET


class VifDetails(msgspec.Struct, omit_defaults=True, gc=False):
    """What the host said last: the revision that its kernel carries, and why it refused the present one."""

    realised_revision: int = 0
    error: str = ""


class Provisioning(msgspec.Struct, gc=False):
    """How the host's last word about the port came: by which path (fast, normal, rescue; null: not yet), after how many
    dials, when, and how long after the port's present revision was asked for."""

    path: Literal["fast", "normal", "rescue"] | None = None
    attempts: int = 0
    requested_at: TimeText | None = None
    realised_at: TimeText | None = None
    elapsed_ms: int | None = None


class PortView(View, kw_only=True):
    network_id: UuidText
    name: str
    description: str
    project_id: str
    tenant_id: str
    mac_address: MacText
    fixed_ips: list[FixedIpView]
    status: PortStatus
    admin_state_up: bool
    device_id: str
    device_owner: str
    host_id: str = field(name="binding:host_id")
    vif_type: Literal["unbound", "tap", "other", "binding_failed"] = field(name="binding:vif_type")
    vif_details: VifDetails = field(name="binding:vif_details")
    vnic_type: Literal["normal"] = field(default="normal", name="binding:vnic_type")
    profile: OnlyEmptyObject = field(default_factory=dict, name="binding:profile")
    kind: PortKind = field(name="alcor:kind")
    netns: str = field(name="alcor:netns")
    interface: str = field(name="alcor:interface")
    fast_path: bool = field(name="alcor:fast_path")
    provisioning: Provisioning = field(name="alcor:provisioning")
    port_security_enabled: bool
    security_groups: list[UuidText]
    allowed_address_pairs: list[AddressPairView]
    extra_dhcp_opts: list[DhcpOptionView]
    dns_name: str
    dns_assignment: list[DnsAssignment]
    qos_policy_id: UuidText | None
    created_at: TimeText
    updated_at: TimeText
    revision_number: int


class NodeCreate(Input, kw_only=True):
    """A compute host. `agent_host` is `local_ip` when left out."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH)]
    local_ip: IpText
    agent_host: Text = ""
    agent_port: TcpPort = 50001
    availability_zone: Text = ""
    failure_domain: Text = ""
    admin_state_up: bool = True


class NodeUpdate(Input, kw_only=True):
    local_ip: IpText | UnsetType = UNSET
    agent_host: Text | UnsetType = UNSET
    agent_port: TcpPort | UnsetType = UNSET
    availability_zone: Text | UnsetType = UNSET
    failure_domain: Text | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET


class NodeView(View, kw_only=True):
    name: str
    local_ip: IpText
    agent_host: str
    agent_port: int
    availability_zone: str
    failure_domain: str
    admin_state_up: bool
    created_at: TimeText
    updated_at: TimeText
    revision_number: int


class AgentUpdate(Input, kw_only=True):
    admin_state_up: bool | UnsetType = UNSET


class AgentPeers(msgspec.Struct, kw_only=True):
    """How many of the hosts that probe it reach it, find its machine but no agent, or hear nothing."""

    reached: int
    refused: int
    silent: int


class AgentConfigurations(msgspec.Struct, kw_only=True):
    """How a host is: its state and since when, who speaks for it, by which path it was last heard, how often it is."""

    state: Reach
    since: TimeText | None
    path: str | None
    attempts: int
    standby: bool
    heartbeat_s: float
    peers: AgentPeers


class AgentView(View, kw_only=True):
    """A node as Neutron's agents show a host. `alive`: the agent itself was heard lately, by whatever path."""

    host: str
    agent_type: Literal["Alcor agent"] = "Alcor agent"
    binary: Literal["alcor-agent"] = "alcor-agent"
    topic: Literal["N/A"] = "N/A"
    availability_zone: str | None
    admin_state_up: bool
    alive: bool
    heartbeat_timestamp: TimeText | None
    created_at: TimeText
    started_at: TimeText
    description: None = None
    resources_synced: None = None
    configurations: AgentConfigurations


class HealthEventView(msgspec.Struct, kw_only=True):
    """A host changed its state (up, suspect, down), or who speaks for it (agent, standby)."""

    at: TimeText
    host: str
    was: str
    now: str
    detail: str


Body = TypeVar("Body", bound=Input)


class CreateReader(Generic[Body]):
    """Reads `{"port": {...}}` and `{"ports": [{...}, ...]}`."""

    def __init__(self, kind: type[Body], view: type[View], one: str, many: str) -> None:
        self._one, self._many = one, many
        envelope = msgspec.defstruct(
            f"{kind.__name__}Envelope",
            [(one, kind | UnsetType, UNSET), (many, list[kind] | UnsetType, UNSET)],  # type: ignore[valid-type]
            kw_only=True,
            forbid_unknown_fields=True,
        )
        self._decoder = msgspec.json.Decoder(envelope)
        self._readable = _names(view)

    def read(self, raw: bytes, *, none: bool = False) -> tuple[list[Body], bool]:
        """The bodies, and whether they came as a bulk; `none`: of none too. Raises BadRequest."""
        envelope = _decode(self._decoder, raw, self._readable, "POST")
        one: Body | UnsetType = getattr(envelope, self._one)
        many: list[Body] | UnsetType = getattr(envelope, self._many)
        if one is UNSET and many is UNSET:
            raise BadRequest(f"Unable to find '{self._one}' or '{self._many}' in request body")
        if many is UNSET:
            assert one is not UNSET
            return [one], False
        if one is not UNSET:
            raise BadRequest(f"Give '{self._one}' or '{self._many}', not both")
        if not many and not none:
            raise BadRequest(f"Resources required: '{self._many}' is empty")
        return many, True


class UpdateReader(Generic[Body]):
    """Reads `{"port": {...}}` of a PUT."""

    def __init__(self, kind: type[Body], view: type[View], one: str) -> None:
        self._one = one
        envelope = msgspec.defstruct(f"{kind.__name__}Envelope", [(one, kind)], forbid_unknown_fields=True)
        self._decoder = msgspec.json.Decoder(envelope)
        self._readable = _names(view)

    def read(self, raw: bytes) -> Body:
        """The body. Raises BadRequest."""
        body: Body = getattr(_decode(self._decoder, raw, self._readable, "PUT"), self._one)
        return body


Plain = TypeVar("Plain", bound=Input)


def read_plain(decoder: msgspec.json.Decoder[Plain], raw: bytes, view: type[View]) -> Plain:
    """A PUT's body that is not inside another object. Raises BadRequest."""
    body: Plain = _decode(decoder, raw, _names(view), "PUT")
    return body


_PLACE = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)


def _decode(decoder: msgspec.json.Decoder[Any], raw: bytes, readable: Iterable[str], method: str) -> Any:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise BadRequest(_explain(str(error), readable, method)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "it is empty" if not raw else f"{error}"
        raise BadRequest(f"The request body is not valid JSON: {reason}") from None


def _explain(text: str, readable: Iterable[str], method: str) -> str:
    """msgspec's words in Neutron's: the field first."""
    match = _PLACE.fullmatch(text)
    what, where = (match["what"], match["where"] or "") if match else (text, "")
    inside = f" in {where}" if where else ""
    if unknown := _UNKNOWN.fullmatch(what):
        if unknown[1] in readable:
            return f"Attribute '{unknown[1]}' not allowed in {method}{inside}"
        return f"Unrecognized attribute(s) '{unknown[1]}'{inside}"
    if missing := _MISSING.fullmatch(what):
        return f"Failed to parse request. Required attribute '{missing[1]}' not specified{inside}"
    return f"Invalid input for {where or 'the request body'}. Reason: {what}."


def _names(view: type[View]) -> frozenset[str]:
    return frozenset(found.encode_name for found in msgspec.structs.fields(view))
