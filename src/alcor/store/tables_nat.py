"""The tables of floating IPs and their port forwardings, and the gateways of routers. Pure. Part of schema."""

from __future__ import annotations

from typing import Any

from alcor.model.addresses import Ip
from alcor.model.ids import Id, ordinal_of
from alcor.model.nouns import FloatingIp, PortForwarding
from alcor.store.table import OWNED, Table, id_bytes

NAT_SCHEMA = """
-- Where the router leaves for outside: msgpack of nouns.RouterGateway, or empty.
ALTER TABLE routers ADD COLUMN gateway BLOB NOT NULL DEFAULT x'';

CREATE TABLE floating_ips (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, project_id TEXT NOT NULL, description TEXT NOT NULL,
    network_id BLOB NOT NULL, subnet_id BLOB NOT NULL, ip BLOB NOT NULL, external_port_id BLOB NOT NULL,
    port_id BLOB NOT NULL, fixed_ip BLOB NOT NULL, router_id BLOB NOT NULL, created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL, revision INTEGER NOT NULL
);
CREATE UNIQUE INDEX floating_ip_ip ON floating_ips (network_id, ip);
CREATE INDEX floating_ip_address ON floating_ips (ip);
CREATE INDEX floating_ip_port ON floating_ips (port_id) WHERE port_id <> x'';
CREATE INDEX floating_ip_router ON floating_ips (router_id) WHERE router_id <> x'';
CREATE INDEX floating_ip_project ON floating_ips (project_id) WHERE project_id <> '';

CREATE TABLE port_forwardings (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, floating_ip_id BLOB NOT NULL, project_id TEXT NOT NULL,
    description TEXT NOT NULL, protocol INTEGER NOT NULL, external_port INTEGER NOT NULL, port_id BLOB NOT NULL,
    fixed_ip BLOB NOT NULL, internal_port INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL
);
CREATE UNIQUE INDEX port_forwarding_outer ON port_forwardings (floating_ip_id, protocol, external_port);
CREATE INDEX port_forwarding_port ON port_forwardings (port_id);
"""

NAT_ANCHORS = """
ALTER TABLE floating_ips ADD COLUMN anchor_id BLOB NOT NULL DEFAULT x'';
"""

NAT_LIMITS = """
ALTER TABLE floating_ips ADD COLUMN qos_policy_id BLOB NOT NULL DEFAULT x'';
"""


def floating_ip_row(fip: FloatingIp) -> tuple[Any, ...]:
    return (
        ordinal_of(fip.id),
        fip.id,
        fip.project_id,
        fip.description,
        fip.network_id,
        fip.subnet_id,
        fip.ip,
        fip.external_port_id,
        fip.port_id or b"",
        fip.fixed_ip or b"",
        fip.router_id or b"",
        fip.created_at,
        fip.updated_at,
        fip.revision,
        fip.anchor_id or b"",
        fip.qos_policy_id or b"",
    )


def floating_ip_of(row: tuple[Any, ...]) -> FloatingIp:
    return FloatingIp(
        id=Id(row[0]),
        project_id=row[1],
        description=row[2],
        network_id=Id(row[3]),
        subnet_id=Id(row[4]),
        ip=Ip(row[5]),
        external_port_id=Id(row[6]),
        port_id=Id(row[7]) if row[7] else None,
        fixed_ip=Ip(row[8]) if row[8] else None,
        router_id=Id(row[9]) if row[9] else None,
        created_at=row[10],
        updated_at=row[11],
        revision=row[12],
        anchor_id=Id(row[13]) if row[13] else None,
        qos_policy_id=Id(row[14]) if row[14] else None,
    )


def port_forwarding_row(one: PortForwarding) -> tuple[Any, ...]:
    return (
        *(ordinal_of(one.id), one.id, one.floating_ip_id, one.project_id, one.description, one.protocol),
        *(one.external_port, one.port_id, one.fixed_ip, one.internal_port, one.created_at, one.updated_at),
        one.revision,
    )


def port_forwarding_of(row: tuple[Any, ...]) -> PortForwarding:
    return PortForwarding(
        id=Id(row[0]),
        floating_ip_id=Id(row[1]),
        project_id=row[2],
        description=row[3],
        protocol=row[4],
        external_port=row[5],
        port_id=Id(row[6]),
        fixed_ip=Ip(row[7]),
        internal_port=row[8],
        created_at=row[9],
        updated_at=row[10],
        revision=row[11],
    )


PORT_FORWARDINGS = Table(
    "port_forwardings",
    "port forwardings",
    ("n", *PortForwarding.__struct_fields__),
    port_forwarding_row,
    port_forwarding_of,
    {
        **{name: convert for name, convert in OWNED.items() if name not in ("name", "project_id")},
        **dict.fromkeys(("floating_ip_id", "port_id", "fixed_ip"), id_bytes),
        **dict.fromkeys(("protocol", "external_port", "internal_port"), int),
    },
    ("id", "floating_ip_id", "port_id"),
)
FLOATING_IPS = Table(
    "floating_ips",
    "floating IPs",
    ("n", *FloatingIp.__struct_fields__),
    floating_ip_row,
    floating_ip_of,
    {
        **{name: convert for name, convert in OWNED.items() if name != "name"},
        **dict.fromkeys(("network_id", "subnet_id", "ip", "port_id", "fixed_ip", "router_id"), id_bytes),
        "qos_policy_id": id_bytes,
    },
    ("id", "ip", "port_id", "router_id", "network_id", "project_id"),
)
