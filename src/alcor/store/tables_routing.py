"""The tables of routing: routers, peerings. Pure. Part of schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from alcor.model.ids import Id, ordinal_of
from alcor.model.nouns import ExtraRoute, Peering, Router, RouterGateway, RouterInterface
from alcor.store.table import OWNED, Table, id_bytes

ROUTING_SCHEMA = """
CREATE TABLE routers (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, project_id TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL,
    admin_state_up INTEGER NOT NULL, routes BLOB NOT NULL, interfaces BLOB NOT NULL, created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL, revision INTEGER NOT NULL
);
CREATE INDEX router_name ON routers (name) WHERE name <> '';
CREATE INDEX router_project ON routers (project_id) WHERE project_id <> '';

CREATE TABLE peerings (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, project_id TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL,
    network_id BLOB NOT NULL, peer_network_id BLOB NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL
);
CREATE INDEX peering_name ON peerings (name) WHERE name <> '';
CREATE INDEX peering_project ON peerings (project_id) WHERE project_id <> '';
CREATE INDEX peering_network ON peerings (network_id);
CREATE INDEX peering_peer ON peerings (peer_network_id);
"""

_encode = msgspec.msgpack.Encoder().encode
encode_routes: Callable[[tuple[ExtraRoute, ...]], bytes] = _encode
decode_routes = msgspec.msgpack.Decoder(tuple[ExtraRoute, ...]).decode
_gateway = msgspec.msgpack.Decoder(RouterGateway).decode
_interfaces = msgspec.msgpack.Decoder(tuple[RouterInterface, ...]).decode


def router_row(router: Router) -> tuple[Any, ...]:
    return (
        ordinal_of(router.id),
        router.id,
        router.project_id,
        router.name,
        router.description,
        router.admin_state_up,
        encode_routes(router.routes),
        _encode(router.interfaces),
        router.created_at,
        router.updated_at,
        router.revision,
        _encode(router.gateway) if router.gateway is not None else b"",
    )


def router_of(row: tuple[Any, ...]) -> Router:
    return Router(
        id=Id(row[0]),
        project_id=row[1],
        name=row[2],
        description=row[3],
        admin_state_up=bool(row[4]),
        routes=decode_routes(row[5]),
        interfaces=_interfaces(row[6]),
        created_at=row[7],
        updated_at=row[8],
        revision=row[9],
        gateway=_gateway(row[10]) if row[10] else None,
    )


def peering_row(peering: Peering) -> tuple[Any, ...]:
    return (
        ordinal_of(peering.id),
        peering.id,
        peering.project_id,
        peering.name,
        peering.description,
        peering.network_id,
        peering.peer_network_id,
        peering.created_at,
        peering.updated_at,
        peering.revision,
    )


def peering_of(row: tuple[Any, ...]) -> Peering:
    return Peering(
        id=Id(row[0]),
        project_id=row[1],
        name=row[2],
        description=row[3],
        network_id=Id(row[4]),
        peer_network_id=Id(row[5]),
        created_at=row[6],
        updated_at=row[7],
        revision=row[8],
    )


ROUTERS = Table(
    "routers",
    "routers",
    ("n", *Router.__struct_fields__),
    router_row,
    router_of,
    {**OWNED, "admin_state_up": int},
    ("id", "name", "project_id"),
)
PEERINGS = Table(
    "peerings",
    "VPC peerings",
    ("n", *Peering.__struct_fields__),
    peering_row,
    peering_of,
    {**OWNED, "network_id": id_bytes, "peer_network_id": id_bytes},
    ("id", "name", "network_id", "peer_network_id", "project_id"),
)
