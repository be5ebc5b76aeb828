"""Services of load balancers as rows of the tables `services`, `maglev`, `backends` and `service_counters`. Pure.

Called by balancing (which writes them), program and tests; alcor.h has the layouts, docs/pipeline.md (steps B and U)
says how they are looked up.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from alcor.dataplane.base import DRAIN_S, MAX_BACKENDS, Service, ServiceKey
from alcor.dataplane.maglev import TABLE_SIZE, places, usable
from alcor.model.addresses import Ip

SERVICE_KEY: Final = struct.Struct("=I16s2sBx")
SERVICE: Final = struct.Struct("=IIQ")
SLOT: Final = struct.Struct("=I")
"""Key of `maglev`, `service_epochs` and `service_counters`; value of `service_epochs`."""
BACKEND_KEY: Final = struct.Struct("=I16s2s2x")
BACKEND_STATE: Final = struct.Struct("=QI4x")
BACKEND: Final = struct.Struct("=16s2s2x")
MAGLEV_HEAD: Final = struct.Struct("=I")
MAGLEV_BYTES: Final = MAGLEV_HEAD.size + 2 * TABLE_SIZE + 2 + BACKEND.size * MAX_BACKENDS
"""The one value of a table of `maglev`."""
BALANCED: Final = struct.Struct("=16s2sBxII4xQQ")
SERVICE_TRAFFIC: Final = struct.Struct("=6Q")
MAX_SERVICES: Final = 4096
AFFINITY: Final = 1
BALANCED_BACK: Final = 1
"""In a key of `balanced`, after the protocol."""


class ServiceRow(NamedTuple):
    """A row of `services`."""

    slot: int
    flags: int
    digest: int


def pack_service_key(key: ServiceKey) -> bytes:
    """Key of `services`."""
    return SERVICE_KEY.pack(key.vni, key.ip, key.port.to_bytes(2, "big"), key.protocol)


def unpack_service_key(key: bytes) -> ServiceKey:
    """The service that a key of `services` names."""
    vni, ip, port, protocol = SERVICE_KEY.unpack(key)
    return ServiceKey(vni, Ip(ip), protocol, int.from_bytes(port, "big"))


def pack_service(service: Service, slot: int) -> bytes:
    """Value of `services`."""
    return SERVICE.pack(slot, AFFINITY if service.affinity else 0, service.digest())


def pack_maglev(service: Service) -> bytes:
    """The value of the service's table of `maglev`."""
    chosen = usable(service)
    found = bytearray(MAGLEV_BYTES)
    MAGLEV_HEAD.pack_into(found, 0, len(chosen))
    table = places(service).tobytes()
    found[MAGLEV_HEAD.size : MAGLEV_HEAD.size + len(table)] = table
    at = MAGLEV_BYTES - BACKEND.size * MAX_BACKENDS
    for one in chosen:
        BACKEND.pack_into(found, at, one.ip, one.port.to_bytes(2, "big"))
        at += BACKEND.size
    return bytes(found)


def slot_of_backend(key: bytes) -> int:
    """The slot in a key of `backends`."""
    return int(BACKEND_KEY.unpack(key)[0])


def is_expired(state: bytes, now_ns: int) -> bool:
    """True for a row of `backends` that keeps nothing any more."""
    until_ns, _ = BACKEND_STATE.unpack(state)
    return bool(until_ns) and until_ns <= now_ns


def backend_rows(service: Service, slot: int, before: Mapping[bytes, bytes], now_ns: int) -> dict[bytes, bytes]:
    """The rows of `backends` of a service that had `before`: who was taken out keeps its connections for a while."""
    rows = {
        BACKEND_KEY.pack(slot, one.ip, one.port.to_bytes(2, "big")): BACKEND_STATE.pack(0, one.failed)
        for one in service.backends
    }
    for key, state in before.items():
        if key not in rows and not is_expired(state, now_ns):
            until_ns, failed = BACKEND_STATE.unpack(state)
            rows[key] = BACKEND_STATE.pack(until_ns or now_ns + DRAIN_S * 1_000_000_000, failed)
    return rows
