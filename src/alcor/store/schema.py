"""The SQLite schema, its version, and how nouns become rows and rows nouns. Pure.

Called by sqlite (which runs it) and memory (which filters and sorts by the same columns).

A row's number `n` is the ordinal of its id: the table is its own index by id, and other tables and indexes refer to a
row by a small integer. Measured on 100,000 ports with all their indexes, bulks of 1,000: 8 us of CPU and 314 bytes a
port; with 16-byte ids as keys 14 us and 448 bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from alcor.model.addresses import Ip, Mac, ip_from_int, parse_prefix
from alcor.model.balancing import HealthMonitor, Listener, LoadBalancer, Member, MemberPool
from alcor.model.ids import Id, ordinal_of
from alcor.model.nouns import (
    AddressPair,
    Claim,
    DhcpOption,
    Eip,
    FixedIp,
    FloatingIp,
    Forwarding,
    Ipv6Mode,
    Network,
    Node,
    Peering,
    Pool,
    Port,
    PortForwarding,
    PortKind,
    PortStatus,
    Router,
    Subnet,
)
from alcor.store.table import OWNED, TIMES, Table, cidr_text, id_bytes, ids_of, mac_number, words_text
from alcor.store.tables_balancing import (
    BALANCING_SCHEMA,
    HEALTH_MONITORS,
    LISTENERS,
    LOAD_BALANCERS,
    MEMBER_POOLS,
    MEMBERS,
)
from alcor.store.tables_nat import FLOATING_IPS, NAT_ANCHORS, NAT_LIMITS, NAT_SCHEMA, PORT_FORWARDINGS
from alcor.store.tables_qos import QOS_COLUMNS, QOS_PORT_INDEX, QOS_SCHEMA
from alcor.store.tables_routing import PEERINGS, ROUTERS, ROUTING_SCHEMA, decode_routes, encode_routes
from alcor.store.tables_security import SECURITY_SCHEMA

APPLICATION_ID = 0x416C6372
"""`Alcr`: what makes a SQLite file one of ours."""
SCHEMA_VERSION = 14

BASE_SCHEMA = """
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    last_ordinal INTEGER NOT NULL
);
INSERT INTO meta VALUES (1, 0, 0, 0);

CREATE TABLE networks (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, project_id TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL,
    cidr TEXT NOT NULL, vni INTEGER NOT NULL, mtu INTEGER NOT NULL, admin_state_up INTEGER NOT NULL,
    shared INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, revision INTEGER NOT NULL,
    on_demand INTEGER NOT NULL, dns_domain TEXT NOT NULL, qos_policy_id BLOB NOT NULL, external INTEGER NOT NULL
);
CREATE UNIQUE INDEX network_vni ON networks (vni);
CREATE INDEX network_name ON networks (name) WHERE name <> '';
CREATE INDEX network_project ON networks (project_id) WHERE project_id <> '';
CREATE INDEX network_external ON networks (external) WHERE external <> 0;

CREATE TABLE subnets (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, network_id BLOB NOT NULL, project_id TEXT NOT NULL, name TEXT NOT NULL,
    description TEXT NOT NULL, cidr TEXT NOT NULL, gateway BLOB NOT NULL, pools BLOB NOT NULL,
    enable_dhcp INTEGER NOT NULL, dns_nameservers TEXT NOT NULL, created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL, revision INTEGER NOT NULL, ra_mode TEXT NOT NULL, address_mode TEXT NOT NULL,
    host_routes BLOB NOT NULL, first BLOB NOT NULL, last BLOB NOT NULL,
    ip_version INTEGER AS (CASE WHEN instr(cidr, ':') THEN 6 ELSE 4 END)
);
CREATE INDEX subnet_network ON subnets (network_id);
CREATE INDEX subnet_name ON subnets (name) WHERE name <> '';
CREATE INDEX subnet_project ON subnets (project_id) WHERE project_id <> '';

CREATE TABLE nodes (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, name TEXT NOT NULL, underlay_ip BLOB NOT NULL, agent_host TEXT NOT NULL,
    agent_port INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, revision INTEGER NOT NULL,
    availability_zone TEXT NOT NULL, failure_domain TEXT NOT NULL, admin_state_up INTEGER NOT NULL
);
CREATE UNIQUE INDEX node_name ON nodes (name);
CREATE UNIQUE INDEX node_underlay_ip ON nodes (underlay_ip);

CREATE TABLE ports (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, network INTEGER NOT NULL, project_id TEXT NOT NULL, name TEXT NOT NULL,
    description TEXT NOT NULL, mac INTEGER NOT NULL, fixed_ips BLOB NOT NULL, host TEXT NOT NULL,
    device_id TEXT NOT NULL, device_owner TEXT NOT NULL, admin_state_up INTEGER NOT NULL, kind TEXT NOT NULL,
    netns TEXT NOT NULL, interface TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL, status TEXT NOT NULL, status_reason TEXT NOT NULL, realised_revision INTEGER NOT NULL,
    security_groups BLOB NOT NULL, port_security_enabled INTEGER NOT NULL, address_pairs BLOB NOT NULL,
    identity INTEGER NOT NULL, fast_path INTEGER NOT NULL, path TEXT NOT NULL, attempts INTEGER NOT NULL,
    realised_at INTEGER NOT NULL, dns_name TEXT NOT NULL, dhcp_options BLOB NOT NULL, qos_policy_id BLOB NOT NULL,
    eips BLOB NOT NULL, forwardings BLOB NOT NULL, claims BLOB NOT NULL
);
CREATE UNIQUE INDEX port_mac ON ports (network, mac);
CREATE INDEX port_network ON ports (network);
CREATE INDEX port_host ON ports (host, network) WHERE host <> '';
CREATE INDEX port_name ON ports (name) WHERE name <> '';
CREATE INDEX port_device_id ON ports (device_id) WHERE device_id <> '';
CREATE INDEX port_device_owner ON ports (device_owner) WHERE device_owner <> '';
CREATE INDEX port_project ON ports (project_id) WHERE project_id <> '';
CREATE INDEX port_dns_name ON ports (network, dns_name) WHERE dns_name <> '';
CREATE INDEX port_error ON ports (status) WHERE status = 'ERROR';
CREATE INDEX port_claims ON ports (n) WHERE claims <> x'';

-- The addresses of ports: `place` is the low 64 bits of the address, as a signed number.
CREATE TABLE addresses (
    subnet INTEGER NOT NULL, place INTEGER NOT NULL, port INTEGER NOT NULL, PRIMARY KEY (subnet, place)
) WITHOUT ROWID;
"""

LOG_SCHEMA = """
-- One row a commit: what it touched, by id, as msgpack of store.base.ChangeRecord.
CREATE TABLE changes (revision INTEGER PRIMARY KEY, record BLOB NOT NULL);
"""

SCHEMA = "".join(
    (
        *(BASE_SCHEMA, SECURITY_SCHEMA, QOS_SCHEMA, QOS_PORT_INDEX),
        *(ROUTING_SCHEMA, NAT_SCHEMA, BALANCING_SCHEMA, NAT_ANCHORS, NAT_LIMITS, LOG_SCHEMA),
    )
)

RESOURCES: dict[type, Table] = {
    Router: ROUTERS,
    Peering: PEERINGS,
    FloatingIp: FLOATING_IPS,
    PortForwarding: PORT_FORWARDINGS,
    LoadBalancer: LOAD_BALANCERS,
    Listener: LISTENERS,
    MemberPool: MEMBER_POOLS,
    Member: MEMBERS,
    HealthMonitor: HEALTH_MONITORS,
}
"""Tables that need no words of their own in the stores: `Changes` has a list of the table's name, and one more of what
was deleted; each row is its id's."""

MIGRATIONS = {
    1: """
ALTER TABLE nodes ADD COLUMN availability_zone TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN failure_domain TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN admin_state_up INTEGER NOT NULL DEFAULT 1;
ALTER TABLE ports ADD COLUMN fast_path INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ports ADD COLUMN path TEXT NOT NULL DEFAULT '';
ALTER TABLE ports ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ports ADD COLUMN realised_at INTEGER NOT NULL DEFAULT 0;
""",
    # Ports of before have no port security: nothing that runs is cut.
    2: f"""
ALTER TABLE subnets ADD COLUMN ip_version INTEGER AS (CASE WHEN instr(cidr, ':') THEN 6 ELSE 4 END);
ALTER TABLE ports ADD COLUMN security_groups BLOB NOT NULL DEFAULT x'';
ALTER TABLE ports ADD COLUMN port_security_enabled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ports ADD COLUMN address_pairs BLOB NOT NULL DEFAULT x'';
ALTER TABLE ports ADD COLUMN identity INTEGER NOT NULL DEFAULT 0;
{SECURITY_SCHEMA}""",
    3: "ALTER TABLE networks ADD COLUMN on_demand INTEGER NOT NULL DEFAULT 0;",
    4: """
ALTER TABLE networks ADD COLUMN dns_domain TEXT NOT NULL DEFAULT '';
ALTER TABLE subnets ADD COLUMN ra_mode TEXT NOT NULL DEFAULT '';
ALTER TABLE subnets ADD COLUMN address_mode TEXT NOT NULL DEFAULT '';
ALTER TABLE ports ADD COLUMN dns_name TEXT NOT NULL DEFAULT '';
ALTER TABLE ports ADD COLUMN dhcp_options BLOB NOT NULL DEFAULT x'';
CREATE INDEX port_dns_name ON ports (network, dns_name) WHERE dns_name <> '';
""",
    5: QOS_SCHEMA + QOS_COLUMNS + QOS_PORT_INDEX,
    6: f"ALTER TABLE subnets ADD COLUMN host_routes BLOB NOT NULL DEFAULT x'90';{ROUTING_SCHEMA}",
    7: f"""
ALTER TABLE networks ADD COLUMN external INTEGER NOT NULL DEFAULT 0;
CREATE INDEX network_external ON networks (external) WHERE external <> 0;
ALTER TABLE ports ADD COLUMN eips BLOB NOT NULL DEFAULT x'';
ALTER TABLE ports ADD COLUMN forwardings BLOB NOT NULL DEFAULT x'';
{NAT_SCHEMA}""",
    8: BALANCING_SCHEMA,
    9: """
ALTER TABLE ports ADD COLUMN claims BLOB NOT NULL DEFAULT x'';
CREATE INDEX port_claims ON ports (n) WHERE claims <> x'';
""",
    10: NAT_ANCHORS,
    11: NAT_LIMITS,
    # Routers' gateways have addresses of two families: an older Alcor would not read them, or lose one.
    12: "",
    13: "",
}
"""From that version to the next; each in a transaction of its own (and with sqlite.REWRITES)."""

_POOLS_ENCODER = msgspec.msgpack.Encoder()
_POOLS_DECODER = msgspec.msgpack.Decoder(tuple[Pool, ...])
_PAIRS_ENCODER = msgspec.msgpack.Encoder()
_PAIRS_DECODER = msgspec.msgpack.Decoder(tuple[AddressPair, ...])
_OPTIONS_ENCODER = msgspec.msgpack.Encoder()
_OPTIONS_DECODER = msgspec.msgpack.Decoder(tuple[DhcpOption, ...])
_EIPS_ENCODER = msgspec.msgpack.Encoder()
_EIPS_DECODER = msgspec.msgpack.Decoder(tuple[Eip, ...])
_CLAIMS_DECODER = msgspec.msgpack.Decoder(tuple[Claim, ...])
_FORWARDINGS_DECODER = msgspec.msgpack.Decoder(tuple[Forwarding, ...])
_NOTHING = bytearray()
_WORDS_DECODER = msgspec.json.Decoder(tuple[str, ...])


def place_of_ip(ip: bytes) -> int:
    """Where an address is in its subnet: its low 64 bits, as SQLite's signed integer. Unique in every subnet that a
    prefix of 64 bits or more, or IPv4, allows."""
    return int.from_bytes(ip[8:], "big", signed=True)


def network_row(network: Network) -> tuple[Any, ...]:
    return (
        ordinal_of(network.id),
        network.id,
        network.project_id,
        network.name,
        network.description,
        cidr_text(network.cidr),
        network.vni,
        network.mtu,
        network.admin_state_up,
        network.shared,
        network.created_at,
        network.updated_at,
        network.revision,
        network.on_demand,
        network.dns_domain,
        network.qos_policy_id or b"",
        network.external,
    )


def network_of(row: tuple[Any, ...]) -> Network:
    return Network(
        id=Id(row[0]),
        project_id=row[1],
        name=row[2],
        description=row[3],
        cidr=parse_prefix(row[4]) if row[4] else None,
        vni=row[5],
        mtu=row[6],
        admin_state_up=bool(row[7]),
        shared=bool(row[8]),
        created_at=row[9],
        updated_at=row[10],
        revision=row[11],
        on_demand=bool(row[12]),
        dns_domain=row[13],
        qos_policy_id=Id(row[14]) if row[14] else None,
        external=bool(row[15]),
    )


def subnet_row(subnet: Subnet) -> tuple[Any, ...]:
    last = ip_from_int(subnet.cidr.first + subnet.cidr.size - 1, subnet.cidr.version)
    return (
        ordinal_of(subnet.id),
        subnet.id,
        subnet.network_id,
        subnet.project_id,
        subnet.name,
        subnet.description,
        cidr_text(subnet.cidr),
        subnet.gateway or b"",
        _POOLS_ENCODER.encode(subnet.pools),
        subnet.enable_dhcp,
        words_text(subnet.dns_nameservers),
        subnet.created_at,
        subnet.updated_at,
        subnet.revision,
        subnet.ra_mode or "",
        subnet.address_mode or "",
        encode_routes(subnet.host_routes),
        subnet.cidr.base,
        last,
    )


def subnet_of(row: tuple[Any, ...]) -> Subnet:
    return Subnet(
        id=Id(row[0]),
        network_id=Id(row[1]),
        project_id=row[2],
        name=row[3],
        description=row[4],
        cidr=parse_prefix(row[5]),
        gateway=Ip(row[6]) if row[6] else None,
        pools=_POOLS_DECODER.decode(row[7]),
        enable_dhcp=bool(row[8]),
        dns_nameservers=_WORDS_DECODER.decode(row[9]),
        created_at=row[10],
        updated_at=row[11],
        revision=row[12],
        ra_mode=Ipv6Mode(row[13]) if row[13] else None,
        address_mode=Ipv6Mode(row[14]) if row[14] else None,
        host_routes=decode_routes(row[15]),
    )


def node_row(node: Node) -> tuple[Any, ...]:
    return (
        ordinal_of(node.id),
        node.id,
        node.name,
        node.underlay_ip,
        node.agent_host,
        node.agent_port,
        node.created_at,
        node.updated_at,
        node.revision,
        node.availability_zone,
        node.failure_domain,
        node.admin_state_up,
    )


def node_of(row: tuple[Any, ...]) -> Node:
    return Node(
        id=Id(row[0]),
        name=row[1],
        underlay_ip=Ip(row[2]),
        agent_host=row[3],
        agent_port=row[4],
        created_at=row[5],
        updated_at=row[6],
        revision=row[7],
        availability_zone=row[8],
        failure_domain=row[9],
        admin_state_up=bool(row[10]),
    )


def port_row(port: Port) -> tuple[Any, ...]:
    """The values are int, str and bytearray, nothing else: sqlite3 binds those at once (20-100 ns), while bytes, bool
    and enums go through its adapters first (250-400 ns each; together they were a tenth of the cost of a port)."""
    from_bytes = int.from_bytes
    addresses = bytearray()
    for fixed_ip in port.fixed_ips:
        addresses += fixed_ip.subnet_id
        addresses += fixed_ip.ip
    return (
        from_bytes(port.id[:5], "big"),
        bytearray(port.id),
        from_bytes(port.network_id[:5], "big"),
        port.project_id,
        port.name,
        port.description,
        from_bytes(port.mac, "big"),
        addresses,
        port.host,
        port.device_id,
        port.device_owner,
        1 if port.admin_state_up else 0,
        port.kind._value_,
        port.netns,
        port.interface,
        port.created_at,
        port.updated_at,
        port.revision,
        port.status._value_,
        port.status_reason,
        port.realised_revision,
        bytearray().join(port.security_groups),
        1 if port.port_security_enabled else 0,
        bytearray(_PAIRS_ENCODER.encode(port.address_pairs)) if port.address_pairs else _NOTHING,
        port.identity,
        1 if port.fast_path else 0,
        port.path,
        port.attempts,
        port.realised_at,
        port.dns_name,
        bytearray(_OPTIONS_ENCODER.encode(port.dhcp_options)) if port.dhcp_options else _NOTHING,
        bytearray(port.qos_policy_id) if port.qos_policy_id else _NOTHING,
        bytearray(_EIPS_ENCODER.encode(port.eips)) if port.eips else _NOTHING,
        bytearray(_EIPS_ENCODER.encode(port.forwardings)) if port.forwardings else _NOTHING,
        bytearray(_EIPS_ENCODER.encode(port.claims)) if port.claims else _NOTHING,
    )


def port_of(row: tuple[Any, ...]) -> Port:
    """`network_id` is the network's id, joined in, where `port_row` has its number."""
    addresses = row[6]
    return Port(
        id=Id(row[0]),
        network_id=Id(row[1]),
        project_id=row[2],
        name=row[3],
        description=row[4],
        mac=Mac(row[5].to_bytes(6, "big")),
        fixed_ips=tuple(
            [
                FixedIp(Id(addresses[at : at + 16]), Ip(addresses[at + 16 : at + 32]))
                for at in range(0, len(addresses), 32)
            ]
        ),
        host=row[7],
        device_id=row[8],
        device_owner=row[9],
        admin_state_up=bool(row[10]),
        kind=_KINDS[row[11]],
        netns=row[12],
        interface=row[13],
        created_at=row[14],
        updated_at=row[15],
        revision=row[16],
        status=_STATUSES[row[17]],
        status_reason=row[18],
        realised_revision=row[19],
        security_groups=ids_of(row[20]),
        port_security_enabled=bool(row[21]),
        address_pairs=_PAIRS_DECODER.decode(row[22]) if row[22] else (),
        identity=row[23],
        fast_path=bool(row[24]),
        path=row[25],
        attempts=row[26],
        realised_at=row[27],
        dns_name=row[28],
        dhcp_options=_OPTIONS_DECODER.decode(row[29]) if row[29] else (),
        qos_policy_id=Id(row[30]) if row[30] else None,
        eips=_EIPS_DECODER.decode(row[31]) if row[31] else (),
        forwardings=_FORWARDINGS_DECODER.decode(row[32]) if row[32] else (),
        claims=_CLAIMS_DECODER.decode(row[33]) if row[33] else (),
    )


_KINDS = {kind.value: kind for kind in PortKind}
_STATUSES = {status.value: status for status in PortStatus}


NETWORKS = Table(
    "networks",
    "networks",
    ("n", *Network.__struct_fields__),
    network_row,
    network_of,
    {
        **OWNED,
        "cidr": cidr_text,
        "vni": int,
        "mtu": int,
        "admin_state_up": int,
        "shared": int,
        "on_demand": int,
        "qos_policy_id": id_bytes,
        "external": int,
    },
    ("id", "vni", "name", "project_id"),
)
SUBNETS = Table(
    "subnets",
    "subnets",
    ("n", *Subnet.__struct_fields__, "first", "last"),
    subnet_row,
    subnet_of,
    {
        **OWNED,
        "network_id": id_bytes,
        "cidr": cidr_text,
        "gateway": id_bytes,
        "enable_dhcp": int,
        "ip_version": int,
        "dns_nameservers": words_text,
        "ra_mode": lambda mode: mode or "",
        "address_mode": lambda mode: mode or "",
    },
    ("id", "name", "network_id", "project_id"),
)
NODES = Table(
    "nodes",
    "nodes",
    ("n", *Node.__struct_fields__),
    node_row,
    node_of,
    {
        "id": id_bytes,
        "name": str,
        "underlay_ip": id_bytes,
        "agent_host": str,
        "agent_port": int,
        "availability_zone": str,
        "failure_domain": str,
        "admin_state_up": int,
        **TIMES,
    },
    ("id", "name", "underlay_ip"),
)
PORTS = Table(
    "ports",
    "ports",
    ("n", "id", "network", *Port.__struct_fields__[2:]),
    port_row,
    port_of,
    {
        **OWNED,
        "network_id": id_bytes,
        "mac": mac_number,
        "host": str,
        "device_id": str,
        "device_owner": str,
        "admin_state_up": int,
        "kind": str,
        "netns": str,
        "interface": str,
        "status": str,
        "status_reason": str,
        "realised_revision": int,
        "port_security_enabled": int,
        "ip": id_bytes,
        "subnet_id": id_bytes,
        "security_group": id_bytes,
        "qos_policy_id": id_bytes,
    },
    (
        *("id", "ip", "mac", "device_id", "name", "host", "subnet_id", "network_id", "security_group"),
        *("qos_policy_id", "device_owner", "project_id"),
    ),
)
