"""The least that a server of ports must do, without being one: what `alcor bench api` is held against.

For each bulk: decode the body, make the rows, write them in one durable transaction with `executemany`, encode the
answer. Same Structs, same rows, same tables and indexes, same SQLite settings; no HTTP, no validation, no allocation,
no concurrency. It takes its turn in the same run, so that the ratio survives a noisy machine. Called by bench.api.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from alcor.api.bodies import CreateReader, PortCreate, PortView
from alcor.api.ports import port_view
from alcor.model.addresses import Mac, ip_from_int
from alcor.model.ids import Id, make_id, ordinal_of
from alcor.model.nouns import FixedIp, Port, PortKind, PortStatus
from alcor.store.schema import PORTS, SCHEMA, place_of_ip
from alcor.store.sqlite import CACHE_KIB, CHECKPOINT_PAGES

_FIRST_IP = 10 << 24
_FIRST_MAC = 0xFA163E000000


def reference_rate(path: Path, body: bytes, ports: int, progress: Callable[[int], None] | None = None) -> float:
    """Ports a second for bulks of that body, until there are `ports` of them, into a new file at `path`."""
    reader = CreateReader(PortCreate, PortView, "port", "ports")
    encode = msgspec.json.Encoder().encode
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    insert_port = _insert("ports", len(PORTS.columns))
    insert_address = _insert("addresses", 3)
    subnet = make_id(1, os.urandom(11))
    done = 0
    began = time.perf_counter()
    while done < ports:
        bodies, _ = reader.read(body)
        made = [_port(item, subnet, done + at) for at, item in enumerate(bodies)]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(insert_port, map(PORTS.row, made))
        connection.executemany(
            insert_address,
            [
                (ordinal_of(fixed_ip.subnet_id), place_of_ip(fixed_ip.ip), ordinal_of(port.id))
                for port in made
                for fixed_ip in port.fixed_ips
            ],
        )
        connection.execute("COMMIT")
        encode({"ports": list(map(port_view, made))})
        done += len(made)
        if progress is not None:
            progress(done)
    seconds = time.perf_counter() - began
    connection.close()
    return done / seconds


def _insert(table: str, columns: int) -> str:
    return f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})"


def _port(body: PortCreate, subnet: Id, at: int) -> Port:
    now = time.time_ns() // 1_000_000
    return Port(
        id=make_id(at + 2, os.urandom(11)),
        network_id=Id(bytes.fromhex(body.network_id.replace("-", ""))),
        project_id="",
        name=body.name,
        description=body.description,
        mac=Mac((_FIRST_MAC + at).to_bytes(6, "big")),
        fixed_ips=(FixedIp(subnet, ip_from_int(_FIRST_IP + at, 4)),),
        host=body.host_id or "",
        device_id=body.device_id,
        device_owner=body.device_owner,
        admin_state_up=body.admin_state_up,
        kind=PortKind.CONTAINER,
        netns=body.netns,
        interface=body.interface,
        created_at=now,
        updated_at=now,
        revision=1,
        status=PortStatus.BUILD if body.host_id else PortStatus.DOWN,
        status_reason="",
        realised_revision=0,
    )
