from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Ipv6Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NONE: _ClassVar[Ipv6Mode]
    SLAAC: _ClassVar[Ipv6Mode]
    STATEFUL: _ClassVar[Ipv6Mode]
    STATELESS: _ClassVar[Ipv6Mode]
NONE: Ipv6Mode
SLAAC: Ipv6Mode
STATEFUL: Ipv6Mode
STATELESS: Ipv6Mode

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("partition", "epoch", "sequence", "scopes", "host", "synced", "feeds", "answers", "peers")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    FEEDS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    partition: int
    epoch: int
    sequence: int
    scopes: _containers.RepeatedCompositeFieldContainer[ScopeUpdate]
    host: str
    synced: bool
    feeds: _containers.RepeatedCompositeFieldContainer[Feed]
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    peers: Peers
    def __init__(self, partition: _Optional[int] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., scopes: _Optional[_Iterable[_Union[ScopeUpdate, _Mapping]]] = ..., host: _Optional[str] = ..., synced: _Optional[bool] = ..., feeds: _Optional[_Iterable[_Union[Feed, _Mapping]]] = ..., answers: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ..., peers: _Optional[_Union[Peers, _Mapping]] = ...) -> None: ...

class Peers(_message.Message):
    __slots__ = ("peers", "interval_ms")
    PEERS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    interval_ms: int
    def __init__(self, peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., interval_ms: _Optional[int] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("host", "ip", "port")
    HOST_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    host: str
    ip: bytes
    port: int
    def __init__(self, host: _Optional[str] = ..., ip: _Optional[bytes] = ..., port: _Optional[int] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("vpc", "revision", "ips", "macs", "host_ips", "hosts", "identities", "absent", "unlearn", "unasked")
    VPC_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    IPS_FIELD_NUMBER: _ClassVar[int]
    MACS_FIELD_NUMBER: _ClassVar[int]
    HOST_IPS_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    UNLEARN_FIELD_NUMBER: _ClassVar[int]
    UNASKED_FIELD_NUMBER: _ClassVar[int]
    vpc: bytes
    revision: int
    ips: bytes
    macs: bytes
    host_ips: bytes
    hosts: _containers.RepeatedScalarFieldContainer[int]
    identities: _containers.RepeatedScalarFieldContainer[int]
    absent: bytes
    unlearn: bytes
    unasked: bool
    def __init__(self, vpc: _Optional[bytes] = ..., revision: _Optional[int] = ..., ips: _Optional[bytes] = ..., macs: _Optional[bytes] = ..., host_ips: _Optional[bytes] = ..., hosts: _Optional[_Iterable[int]] = ..., identities: _Optional[_Iterable[int]] = ..., absent: _Optional[bytes] = ..., unlearn: _Optional[bytes] = ..., unasked: _Optional[bool] = ...) -> None: ...

class Feed(_message.Message):
    __slots__ = ("vpc", "key", "verifier")
    VPC_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    vpc: bytes
    key: bytes
    verifier: bytes
    def __init__(self, vpc: _Optional[bytes] = ..., key: _Optional[bytes] = ..., verifier: _Optional[bytes] = ...) -> None: ...

class ScopeUpdate(_message.Message):
    __slots__ = ("scope", "revision", "snapshot", "vpcs", "subnets", "ports", "tombstones", "endpoints", "previous", "identities", "groups", "names", "confirms", "qos", "routers", "peerings", "balancers", "pools", "members", "partial")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    VPCS_FIELD_NUMBER: _ClassVar[int]
    SUBNETS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONES_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    CONFIRMS_FIELD_NUMBER: _ClassVar[int]
    QOS_FIELD_NUMBER: _ClassVar[int]
    ROUTERS_FIELD_NUMBER: _ClassVar[int]
    PEERINGS_FIELD_NUMBER: _ClassVar[int]
    BALANCERS_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    scope: bytes
    revision: int
    snapshot: bool
    vpcs: _containers.RepeatedCompositeFieldContainer[Vpc]
    subnets: _containers.RepeatedCompositeFieldContainer[Subnet]
    ports: _containers.RepeatedCompositeFieldContainer[Port]
    tombstones: _containers.RepeatedCompositeFieldContainer[Tombstone]
    endpoints: Endpoints
    previous: int
    identities: _containers.RepeatedCompositeFieldContainer[Identity]
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    names: _containers.RepeatedCompositeFieldContainer[Name]
    confirms: int
    qos: _containers.RepeatedCompositeFieldContainer[Qos]
    routers: _containers.RepeatedCompositeFieldContainer[Router]
    peerings: _containers.RepeatedCompositeFieldContainer[Peering]
    balancers: _containers.RepeatedCompositeFieldContainer[Balancer]
    pools: _containers.RepeatedCompositeFieldContainer[Pool]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    partial: bool
    def __init__(self, scope: _Optional[bytes] = ..., revision: _Optional[int] = ..., snapshot: _Optional[bool] = ..., vpcs: _Optional[_Iterable[_Union[Vpc, _Mapping]]] = ..., subnets: _Optional[_Iterable[_Union[Subnet, _Mapping]]] = ..., ports: _Optional[_Iterable[_Union[Port, _Mapping]]] = ..., tombstones: _Optional[_Iterable[_Union[Tombstone, _Mapping]]] = ..., endpoints: _Optional[_Union[Endpoints, _Mapping]] = ..., previous: _Optional[int] = ..., identities: _Optional[_Iterable[_Union[Identity, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., names: _Optional[_Iterable[_Union[Name, _Mapping]]] = ..., confirms: _Optional[int] = ..., qos: _Optional[_Iterable[_Union[Qos, _Mapping]]] = ..., routers: _Optional[_Iterable[_Union[Router, _Mapping]]] = ..., peerings: _Optional[_Iterable[_Union[Peering, _Mapping]]] = ..., balancers: _Optional[_Iterable[_Union[Balancer, _Mapping]]] = ..., pools: _Optional[_Iterable[_Union[Pool, _Mapping]]] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., partial: _Optional[bool] = ...) -> None: ...

class Vpc(_message.Message):
    __slots__ = ("id", "revision", "vni", "mtu", "routed", "admin_state_up", "on_demand", "dns_domain", "qos_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VNI_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    ROUTED_FIELD_NUMBER: _ClassVar[int]
    ADMIN_STATE_UP_FIELD_NUMBER: _ClassVar[int]
    ON_DEMAND_FIELD_NUMBER: _ClassVar[int]
    DNS_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    QOS_ID_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    vni: int
    mtu: int
    routed: bool
    admin_state_up: bool
    on_demand: bool
    dns_domain: str
    qos_id: bytes
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., vni: _Optional[int] = ..., mtu: _Optional[int] = ..., routed: _Optional[bool] = ..., admin_state_up: _Optional[bool] = ..., on_demand: _Optional[bool] = ..., dns_domain: _Optional[str] = ..., qos_id: _Optional[bytes] = ...) -> None: ...

class Subnet(_message.Message):
    __slots__ = ("id", "revision", "base", "prefix_length", "ip_version", "gateway", "host_routes", "dhcp", "nameservers", "ra_mode", "address_mode")
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    IP_VERSION_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    HOST_ROUTES_FIELD_NUMBER: _ClassVar[int]
    DHCP_FIELD_NUMBER: _ClassVar[int]
    NAMESERVERS_FIELD_NUMBER: _ClassVar[int]
    RA_MODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_MODE_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    base: bytes
    prefix_length: int
    ip_version: int
    gateway: bytes
    host_routes: _containers.RepeatedCompositeFieldContainer[Router.Route]
    dhcp: bool
    nameservers: bytes
    ra_mode: Ipv6Mode
    address_mode: Ipv6Mode
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., base: _Optional[bytes] = ..., prefix_length: _Optional[int] = ..., ip_version: _Optional[int] = ..., gateway: _Optional[bytes] = ..., host_routes: _Optional[_Iterable[_Union[Router.Route, _Mapping]]] = ..., dhcp: _Optional[bool] = ..., nameservers: _Optional[bytes] = ..., ra_mode: _Optional[_Union[Ipv6Mode, str]] = ..., address_mode: _Optional[_Union[Ipv6Mode, str]] = ...) -> None: ...

class Name(_message.Message):
    __slots__ = ("id", "revision", "name", "ips")
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IPS_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    name: str
    ips: bytes
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., name: _Optional[str] = ..., ips: _Optional[bytes] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ("revision", "number", "groups")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    number: int
    groups: bytes
    def __init__(self, revision: _Optional[int] = ..., number: _Optional[int] = ..., groups: _Optional[bytes] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("id", "revision", "rules")
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    rules: _containers.RepeatedCompositeFieldContainer[Rule]
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., rules: _Optional[_Iterable[_Union[Rule, _Mapping]]] = ...) -> None: ...

class Rule(_message.Message):
    __slots__ = ("egress", "ip_version", "protocol", "first", "last", "base", "prefix_length", "group")
    EGRESS_FIELD_NUMBER: _ClassVar[int]
    IP_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    egress: bool
    ip_version: int
    protocol: int
    first: int
    last: int
    base: bytes
    prefix_length: int
    group: bytes
    def __init__(self, egress: _Optional[bool] = ..., ip_version: _Optional[int] = ..., protocol: _Optional[int] = ..., first: _Optional[int] = ..., last: _Optional[int] = ..., base: _Optional[bytes] = ..., prefix_length: _Optional[int] = ..., group: _Optional[bytes] = ...) -> None: ...

class Router(_message.Message):
    __slots__ = ("id", "revision", "interfaces", "routes", "outside", "shared", "outside6")
    class Interface(_message.Message):
        __slots__ = ("vpc", "subnet_id", "base", "prefix_length", "ip_version", "ip")
        VPC_FIELD_NUMBER: _ClassVar[int]
        SUBNET_ID_FIELD_NUMBER: _ClassVar[int]
        BASE_FIELD_NUMBER: _ClassVar[int]
        PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
        IP_VERSION_FIELD_NUMBER: _ClassVar[int]
        IP_FIELD_NUMBER: _ClassVar[int]
        vpc: bytes
        subnet_id: bytes
        base: bytes
        prefix_length: int
        ip_version: int
        ip: bytes
        def __init__(self, vpc: _Optional[bytes] = ..., subnet_id: _Optional[bytes] = ..., base: _Optional[bytes] = ..., prefix_length: _Optional[int] = ..., ip_version: _Optional[int] = ..., ip: _Optional[bytes] = ...) -> None: ...
    class Route(_message.Message):
        __slots__ = ("base", "prefix_length", "ip_version", "nexthop")
        BASE_FIELD_NUMBER: _ClassVar[int]
        PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
        IP_VERSION_FIELD_NUMBER: _ClassVar[int]
        NEXTHOP_FIELD_NUMBER: _ClassVar[int]
        base: bytes
        prefix_length: int
        ip_version: int
        nexthop: bytes
        def __init__(self, base: _Optional[bytes] = ..., prefix_length: _Optional[int] = ..., ip_version: _Optional[int] = ..., nexthop: _Optional[bytes] = ...) -> None: ...
    class Shared(_message.Message):
        __slots__ = ("ip", "prefix_length", "gateway", "answerer", "blocks", "holders")
        IP_FIELD_NUMBER: _ClassVar[int]
        PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
        GATEWAY_FIELD_NUMBER: _ClassVar[int]
        ANSWERER_FIELD_NUMBER: _ClassVar[int]
        BLOCKS_FIELD_NUMBER: _ClassVar[int]
        HOLDERS_FIELD_NUMBER: _ClassVar[int]
        ip: bytes
        prefix_length: int
        gateway: bytes
        answerer: bytes
        blocks: _containers.RepeatedScalarFieldContainer[int]
        holders: bytes
        def __init__(self, ip: _Optional[bytes] = ..., prefix_length: _Optional[int] = ..., gateway: _Optional[bytes] = ..., answerer: _Optional[bytes] = ..., blocks: _Optional[_Iterable[int]] = ..., holders: _Optional[bytes] = ...) -> None: ...
    class Outside6(_message.Message):
        __slots__ = ("base", "prefix_length", "gateway")
        BASE_FIELD_NUMBER: _ClassVar[int]
        PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
        GATEWAY_FIELD_NUMBER: _ClassVar[int]
        base: bytes
        prefix_length: int
        gateway: bytes
        def __init__(self, base: _Optional[bytes] = ..., prefix_length: _Optional[int] = ..., gateway: _Optional[bytes] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE6_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    interfaces: _containers.RepeatedCompositeFieldContainer[Router.Interface]
    routes: _containers.RepeatedCompositeFieldContainer[Router.Route]
    outside: bool
    shared: Router.Shared
    outside6: Router.Outside6
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., interfaces: _Optional[_Iterable[_Union[Router.Interface, _Mapping]]] = ..., routes: _Optional[_Iterable[_Union[Router.Route, _Mapping]]] = ..., outside: _Optional[bool] = ..., shared: _Optional[_Union[Router.Shared, _Mapping]] = ..., outside6: _Optional[_Union[Router.Outside6, _Mapping]] = ...) -> None: ...

class Peering(_message.Message):
    __slots__ = ("id", "revision", "vpcs")
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VPCS_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    vpcs: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., vpcs: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Balancer(_message.Message):
    __slots__ = ("id", "revision", "vip", "mac", "listeners")
    class Listener(_message.Message):
        __slots__ = ("protocol", "port", "pool")
        PROTOCOL_FIELD_NUMBER: _ClassVar[int]
        PORT_FIELD_NUMBER: _ClassVar[int]
        POOL_FIELD_NUMBER: _ClassVar[int]
        protocol: int
        port: int
        pool: bytes
        def __init__(self, protocol: _Optional[int] = ..., port: _Optional[int] = ..., pool: _Optional[bytes] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VIP_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    LISTENERS_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    vip: bytes
    mac: bytes
    listeners: _containers.RepeatedCompositeFieldContainer[Balancer.Listener]
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., vip: _Optional[bytes] = ..., mac: _Optional[bytes] = ..., listeners: _Optional[_Iterable[_Union[Balancer.Listener, _Mapping]]] = ...) -> None: ...

class Pool(_message.Message):
    __slots__ = ("id", "revision", "disabled", "affinity", "monitor")
    class Monitor(_message.Message):
        __slots__ = ("type", "delay_s", "timeout_s", "rise", "fall", "http_method", "url_path", "expected_codes")
        TYPE_FIELD_NUMBER: _ClassVar[int]
        DELAY_S_FIELD_NUMBER: _ClassVar[int]
        TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
        RISE_FIELD_NUMBER: _ClassVar[int]
        FALL_FIELD_NUMBER: _ClassVar[int]
        HTTP_METHOD_FIELD_NUMBER: _ClassVar[int]
        URL_PATH_FIELD_NUMBER: _ClassVar[int]
        EXPECTED_CODES_FIELD_NUMBER: _ClassVar[int]
        type: str
        delay_s: int
        timeout_s: int
        rise: int
        fall: int
        http_method: str
        url_path: str
        expected_codes: str
        def __init__(self, type: _Optional[str] = ..., delay_s: _Optional[int] = ..., timeout_s: _Optional[int] = ..., rise: _Optional[int] = ..., fall: _Optional[int] = ..., http_method: _Optional[str] = ..., url_path: _Optional[str] = ..., expected_codes: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DISABLED_FIELD_NUMBER: _ClassVar[int]
    AFFINITY_FIELD_NUMBER: _ClassVar[int]
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    disabled: bool
    affinity: bool
    monitor: Pool.Monitor
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., disabled: _Optional[bool] = ..., affinity: _Optional[bool] = ..., monitor: _Optional[_Union[Pool.Monitor, _Mapping]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("id", "revision", "pool", "ip", "port", "weight", "failed")
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    pool: bytes
    ip: bytes
    port: int
    weight: int
    failed: bool
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., pool: _Optional[bytes] = ..., ip: _Optional[bytes] = ..., port: _Optional[int] = ..., weight: _Optional[int] = ..., failed: _Optional[bool] = ...) -> None: ...

class Port(_message.Message):
    __slots__ = ("id", "revision", "vpc_id", "mac", "addresses", "admin_state_up", "kind", "netns", "interface", "identity", "sends_anything", "pairs", "project_id", "device_id", "dns_name", "dhcp_options", "qos_id", "eips", "forwardings", "claims")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CONTAINER: _ClassVar[Port.Kind]
        TAP: _ClassVar[Port.Kind]
        ADOPTED: _ClassVar[Port.Kind]
    CONTAINER: Port.Kind
    TAP: Port.Kind
    ADOPTED: Port.Kind
    class Address(_message.Message):
        __slots__ = ("ip", "subnet_id")
        IP_FIELD_NUMBER: _ClassVar[int]
        SUBNET_ID_FIELD_NUMBER: _ClassVar[int]
        ip: bytes
        subnet_id: bytes
        def __init__(self, ip: _Optional[bytes] = ..., subnet_id: _Optional[bytes] = ...) -> None: ...
    class Pair(_message.Message):
        __slots__ = ("base", "prefix_length", "ip_version", "mac")
        BASE_FIELD_NUMBER: _ClassVar[int]
        PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
        IP_VERSION_FIELD_NUMBER: _ClassVar[int]
        MAC_FIELD_NUMBER: _ClassVar[int]
        base: bytes
        prefix_length: int
        ip_version: int
        mac: bytes
        def __init__(self, base: _Optional[bytes] = ..., prefix_length: _Optional[int] = ..., ip_version: _Optional[int] = ..., mac: _Optional[bytes] = ...) -> None: ...
    class DhcpOption(_message.Message):
        __slots__ = ("ip_version", "name", "value")
        IP_VERSION_FIELD_NUMBER: _ClassVar[int]
        NAME_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        ip_version: int
        name: str
        value: str
        def __init__(self, ip_version: _Optional[int] = ..., name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class Eip(_message.Message):
        __slots__ = ("ip", "inside", "prefix_length", "gateway", "qos_id")
        IP_FIELD_NUMBER: _ClassVar[int]
        INSIDE_FIELD_NUMBER: _ClassVar[int]
        PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
        GATEWAY_FIELD_NUMBER: _ClassVar[int]
        QOS_ID_FIELD_NUMBER: _ClassVar[int]
        ip: bytes
        inside: bytes
        prefix_length: int
        gateway: bytes
        qos_id: bytes
        def __init__(self, ip: _Optional[bytes] = ..., inside: _Optional[bytes] = ..., prefix_length: _Optional[int] = ..., gateway: _Optional[bytes] = ..., qos_id: _Optional[bytes] = ...) -> None: ...
    class Forwarding(_message.Message):
        __slots__ = ("address", "protocol", "port", "inside_port")
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        PROTOCOL_FIELD_NUMBER: _ClassVar[int]
        PORT_FIELD_NUMBER: _ClassVar[int]
        INSIDE_PORT_FIELD_NUMBER: _ClassVar[int]
        address: Port.Eip
        protocol: int
        port: int
        inside_port: int
        def __init__(self, address: _Optional[_Union[Port.Eip, _Mapping]] = ..., protocol: _Optional[int] = ..., port: _Optional[int] = ..., inside_port: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    ADMIN_STATE_UP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NETNS_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SENDS_ANYTHING_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    PROJECT_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    DNS_NAME_FIELD_NUMBER: _ClassVar[int]
    DHCP_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    QOS_ID_FIELD_NUMBER: _ClassVar[int]
    EIPS_FIELD_NUMBER: _ClassVar[int]
    FORWARDINGS_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    vpc_id: bytes
    mac: bytes
    addresses: _containers.RepeatedCompositeFieldContainer[Port.Address]
    admin_state_up: bool
    kind: Port.Kind
    netns: str
    interface: str
    identity: int
    sends_anything: bool
    pairs: _containers.RepeatedCompositeFieldContainer[Port.Pair]
    project_id: str
    device_id: str
    dns_name: str
    dhcp_options: _containers.RepeatedCompositeFieldContainer[Port.DhcpOption]
    qos_id: bytes
    eips: _containers.RepeatedCompositeFieldContainer[Port.Eip]
    forwardings: _containers.RepeatedCompositeFieldContainer[Port.Forwarding]
    claims: _containers.RepeatedCompositeFieldContainer[Claim]
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., vpc_id: _Optional[bytes] = ..., mac: _Optional[bytes] = ..., addresses: _Optional[_Iterable[_Union[Port.Address, _Mapping]]] = ..., admin_state_up: _Optional[bool] = ..., kind: _Optional[_Union[Port.Kind, str]] = ..., netns: _Optional[str] = ..., interface: _Optional[str] = ..., identity: _Optional[int] = ..., sends_anything: _Optional[bool] = ..., pairs: _Optional[_Iterable[_Union[Port.Pair, _Mapping]]] = ..., project_id: _Optional[str] = ..., device_id: _Optional[str] = ..., dns_name: _Optional[str] = ..., dhcp_options: _Optional[_Iterable[_Union[Port.DhcpOption, _Mapping]]] = ..., qos_id: _Optional[bytes] = ..., eips: _Optional[_Iterable[_Union[Port.Eip, _Mapping]]] = ..., forwardings: _Optional[_Iterable[_Union[Port.Forwarding, _Mapping]]] = ..., claims: _Optional[_Iterable[_Union[Claim, _Mapping]]] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("ip", "mac")
    IP_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    ip: bytes
    mac: bytes
    def __init__(self, ip: _Optional[bytes] = ..., mac: _Optional[bytes] = ...) -> None: ...

class Qos(_message.Message):
    __slots__ = ("id", "revision", "egress", "ingress", "dscp")
    class Limit(_message.Message):
        __slots__ = ("kbps", "burst_kbit")
        KBPS_FIELD_NUMBER: _ClassVar[int]
        BURST_KBIT_FIELD_NUMBER: _ClassVar[int]
        kbps: int
        burst_kbit: int
        def __init__(self, kbps: _Optional[int] = ..., burst_kbit: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    EGRESS_FIELD_NUMBER: _ClassVar[int]
    INGRESS_FIELD_NUMBER: _ClassVar[int]
    DSCP_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    egress: Qos.Limit
    ingress: Qos.Limit
    dscp: int
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., egress: _Optional[_Union[Qos.Limit, _Mapping]] = ..., ingress: _Optional[_Union[Qos.Limit, _Mapping]] = ..., dscp: _Optional[int] = ...) -> None: ...

class Endpoints(_message.Message):
    __slots__ = ("ids", "revisions", "macs", "ips", "ip_counts", "host_ips", "hosts", "identities", "claims")
    class Claimed(_message.Message):
        __slots__ = ("endpoint", "claim")
        ENDPOINT_FIELD_NUMBER: _ClassVar[int]
        CLAIM_FIELD_NUMBER: _ClassVar[int]
        endpoint: int
        claim: Claim
        def __init__(self, endpoint: _Optional[int] = ..., claim: _Optional[_Union[Claim, _Mapping]] = ...) -> None: ...
    IDS_FIELD_NUMBER: _ClassVar[int]
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    MACS_FIELD_NUMBER: _ClassVar[int]
    IPS_FIELD_NUMBER: _ClassVar[int]
    IP_COUNTS_FIELD_NUMBER: _ClassVar[int]
    HOST_IPS_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    ids: bytes
    revisions: _containers.RepeatedScalarFieldContainer[int]
    macs: bytes
    ips: bytes
    ip_counts: _containers.RepeatedScalarFieldContainer[int]
    host_ips: bytes
    hosts: _containers.RepeatedScalarFieldContainer[int]
    identities: _containers.RepeatedScalarFieldContainer[int]
    claims: _containers.RepeatedCompositeFieldContainer[Endpoints.Claimed]
    def __init__(self, ids: _Optional[bytes] = ..., revisions: _Optional[_Iterable[int]] = ..., macs: _Optional[bytes] = ..., ips: _Optional[bytes] = ..., ip_counts: _Optional[_Iterable[int]] = ..., host_ips: _Optional[bytes] = ..., hosts: _Optional[_Iterable[int]] = ..., identities: _Optional[_Iterable[int]] = ..., claims: _Optional[_Iterable[_Union[Endpoints.Claimed, _Mapping]]] = ...) -> None: ...

class Tombstone(_message.Message):
    __slots__ = ("kind", "id", "revision", "successor")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SUCCESSOR_FIELD_NUMBER: _ClassVar[int]
    kind: int
    id: bytes
    revision: int
    successor: Endpoints
    def __init__(self, kind: _Optional[int] = ..., id: _Optional[bytes] = ..., revision: _Optional[int] = ..., successor: _Optional[_Union[Endpoints, _Mapping]] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("hello", "ack", "heartbeat", "feeding", "lookup")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    FEEDING_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    ack: Ack
    heartbeat: Heartbeat
    feeding: Feeding
    lookup: Lookup
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., feeding: _Optional[_Union[Feeding, _Mapping]] = ..., lookup: _Optional[_Union[Lookup, _Mapping]] = ...) -> None: ...

class Lookup(_message.Message):
    __slots__ = ("vpcs",)
    VPCS_FIELD_NUMBER: _ClassVar[int]
    vpcs: _containers.RepeatedCompositeFieldContainer[Wanted]
    def __init__(self, vpcs: _Optional[_Iterable[_Union[Wanted, _Mapping]]] = ...) -> None: ...

class Wanted(_message.Message):
    __slots__ = ("vpc", "ips", "forgotten", "sources")
    VPC_FIELD_NUMBER: _ClassVar[int]
    IPS_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    vpc: bytes
    ips: bytes
    forgotten: bytes
    sources: bytes
    def __init__(self, vpc: _Optional[bytes] = ..., ips: _Optional[bytes] = ..., forgotten: _Optional[bytes] = ..., sources: _Optional[bytes] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("host", "epoch", "interval_ms", "scopes", "standby", "settled", "sightings", "services")
    HOST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    SIGHTINGS_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    host: str
    epoch: int
    interval_ms: int
    scopes: _containers.RepeatedCompositeFieldContainer[ScopeState]
    standby: bool
    settled: bool
    sightings: _containers.RepeatedCompositeFieldContainer[Sighting]
    services: _containers.RepeatedCompositeFieldContainer[ServiceCounts]
    def __init__(self, host: _Optional[str] = ..., epoch: _Optional[int] = ..., interval_ms: _Optional[int] = ..., scopes: _Optional[_Iterable[_Union[ScopeState, _Mapping]]] = ..., standby: _Optional[bool] = ..., settled: _Optional[bool] = ..., sightings: _Optional[_Iterable[_Union[Sighting, _Mapping]]] = ..., services: _Optional[_Iterable[_Union[ServiceCounts, _Mapping]]] = ...) -> None: ...

class Sighting(_message.Message):
    __slots__ = ("host", "seen")
    HOST_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    host: str
    seen: int
    def __init__(self, host: _Optional[str] = ..., seen: _Optional[int] = ...) -> None: ...

class ServiceCounts(_message.Message):
    __slots__ = ("vpc", "ip", "protocol", "port", "connections", "closed", "bytes_in", "bytes_out")
    VPC_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    vpc: bytes
    ip: bytes
    protocol: int
    port: int
    connections: int
    closed: int
    bytes_in: int
    bytes_out: int
    def __init__(self, vpc: _Optional[bytes] = ..., ip: _Optional[bytes] = ..., protocol: _Optional[int] = ..., port: _Optional[int] = ..., connections: _Optional[int] = ..., closed: _Optional[int] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ...) -> None: ...

class Feeding(_message.Message):
    __slots__ = ("vpcs",)
    VPCS_FIELD_NUMBER: _ClassVar[int]
    vpcs: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, vpcs: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("host", "epoch", "scopes", "standby", "heartbeat_ms", "sign_ms", "outside")
    HOST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    SIGN_MS_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_FIELD_NUMBER: _ClassVar[int]
    host: str
    epoch: int
    scopes: _containers.RepeatedCompositeFieldContainer[ScopeState]
    standby: bool
    heartbeat_ms: int
    sign_ms: int
    outside: bool
    def __init__(self, host: _Optional[str] = ..., epoch: _Optional[int] = ..., scopes: _Optional[_Iterable[_Union[ScopeState, _Mapping]]] = ..., standby: _Optional[bool] = ..., heartbeat_ms: _Optional[int] = ..., sign_ms: _Optional[int] = ..., outside: _Optional[bool] = ...) -> None: ...

class ScopeState(_message.Message):
    __slots__ = ("scope", "revision", "digest")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    scope: bytes
    revision: int
    digest: int
    def __init__(self, scope: _Optional[bytes] = ..., revision: _Optional[int] = ..., digest: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("sequence", "error", "ports", "scopes", "timings", "members", "claims")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    error: str
    ports: _containers.RepeatedCompositeFieldContainer[PortAck]
    scopes: _containers.RepeatedCompositeFieldContainer[ScopeState]
    timings: Timings
    members: _containers.RepeatedCompositeFieldContainer[MemberAck]
    claims: _containers.RepeatedCompositeFieldContainer[ClaimAck]
    def __init__(self, sequence: _Optional[int] = ..., error: _Optional[str] = ..., ports: _Optional[_Iterable[_Union[PortAck, _Mapping]]] = ..., scopes: _Optional[_Iterable[_Union[ScopeState, _Mapping]]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., members: _Optional[_Iterable[_Union[MemberAck, _Mapping]]] = ..., claims: _Optional[_Iterable[_Union[ClaimAck, _Mapping]]] = ...) -> None: ...

class ClaimAck(_message.Message):
    __slots__ = ("port", "vpc", "claim")
    PORT_FIELD_NUMBER: _ClassVar[int]
    VPC_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    port: bytes
    vpc: bytes
    claim: Claim
    def __init__(self, port: _Optional[bytes] = ..., vpc: _Optional[bytes] = ..., claim: _Optional[_Union[Claim, _Mapping]] = ...) -> None: ...

class MemberAck(_message.Message):
    __slots__ = ("id", "healthy")
    ID_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    healthy: bool
    def __init__(self, id: _Optional[bytes] = ..., healthy: _Optional[bool] = ...) -> None: ...

class PortAck(_message.Message):
    __slots__ = ("id", "revision", "deleted", "error", "elapsed_us")
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_US_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    revision: int
    deleted: bool
    error: str
    elapsed_us: int
    def __init__(self, id: _Optional[bytes] = ..., revision: _Optional[int] = ..., deleted: _Optional[bool] = ..., error: _Optional[str] = ..., elapsed_us: _Optional[int] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("merge_us", "journal_us", "plan_us", "wiring_us", "tables_us", "total_us")
    MERGE_US_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_US_FIELD_NUMBER: _ClassVar[int]
    PLAN_US_FIELD_NUMBER: _ClassVar[int]
    WIRING_US_FIELD_NUMBER: _ClassVar[int]
    TABLES_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    merge_us: int
    journal_us: int
    plan_us: int
    wiring_us: int
    tables_us: int
    total_us: int
    def __init__(self, merge_us: _Optional[int] = ..., journal_us: _Optional[int] = ..., plan_us: _Optional[int] = ..., wiring_us: _Optional[int] = ..., tables_us: _Optional[int] = ..., total_us: _Optional[int] = ...) -> None: ...

class BusMessage(_message.Message):
    __slots__ = ("session", "number", "hail", "piece", "end", "more")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    HAIL_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    session: int
    number: int
    hail: Hail
    piece: bytes
    end: str
    more: bool
    def __init__(self, session: _Optional[int] = ..., number: _Optional[int] = ..., hail: _Optional[_Union[Hail, _Mapping]] = ..., piece: _Optional[bytes] = ..., end: _Optional[str] = ..., more: _Optional[bool] = ...) -> None: ...

class Hail(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class BusNews(_message.Message):
    __slots__ = ("epoch", "sealed", "signature")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    sealed: bytes
    signature: bytes
    def __init__(self, epoch: _Optional[int] = ..., sealed: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...
