"""Puts services of load balancers into the tables, and takes them out. Called by the driver.

A connection never meets half a service: its backends and its table are there before its row is, and its table is
swapped whole. At last its epoch grows, and every connection asks with its next packet whether its backend may keep it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from alcor.dataplane.base import DataPlaneError, Service, ServiceCounters, ServiceKey
from alcor.dataplane.ebpf import services
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.ebpf.services import MAX_SERVICES, SERVICE, SERVICE_TRAFFIC, SLOT
from alcor.dataplane.kernel import bpf


class _Known(msgspec.Struct):
    """What the tables hold of one service."""

    slot: int
    digest: int
    backends: dict[bytes, bytes]


class Balancing:
    """The services of a host as the kernel has them, read once and then followed."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._known: dict[ServiceKey, _Known] | None = None

    def observe(self) -> dict[ServiceKey, int]:
        """Reads the tables: each service's digest."""
        program = self._program
        rows: dict[int, dict[bytes, bytes]] = {}
        for key, state in program.backends.items():
            rows.setdefault(services.slot_of_backend(key), {})[key] = state
        known = {}
        for key, value in program.services.items():
            slot, _, digest = SERVICE.unpack(value)
            known[services.unpack_service_key(key)] = _Known(slot, digest, rows.get(slot, {}))
        self._known = known
        return {named: one.digest for named, one in known.items()}

    def put(self, wanted: Sequence[Service]) -> None:
        """Makes these services so. Raises DataPlaneError; what was done is right, and the rest can be tried again."""
        if not wanted:
            return
        known = self._read()
        self._known = None
        taken = {one.slot for one in known.values()}
        free = iter(slot for slot in range(MAX_SERVICES) if slot not in taken)
        now_ns = time.monotonic_ns()
        for service in wanted:
            one = known.get(service.key)
            if one is None:
                slot = next(free, None)
                if slot is None:
                    raise DataPlaneError(f"this host carries {MAX_SERVICES} services already: move ports of other VPCs")
                one = known[service.key] = self._begin(slot)
            self._change(service, one, now_ns)
        self._known = known

    def remove(self, keys: Sequence[ServiceKey]) -> None:
        """Takes services out, and ends their connections; an absent one is passed over. Raises BpfError."""
        known = self._read()
        gone = [(key, known[key]) for key in keys if key in known]
        if not gone:
            return
        self._known = None
        program = self._program
        packed = b"".join(services.pack_service_key(key) for key, _ in gone)
        program.services.delete_batch(packed, len(gone))
        for key, one in gone:
            self._renew(one.slot)
            program.maglev.delete(SLOT.pack(one.slot))
            program.backends.delete_batch(b"".join(one.backends), len(one.backends))
            del known[key]
        self._known = known

    def counters(self) -> dict[ServiceKey, ServiceCounters]:
        """Traffic per service, all CPUs added up."""
        found = {}
        for key, one in self._read().items():
            stored = self._program.service_counters.get(SLOT.pack(one.slot)) or b""
            found[key] = ServiceCounters(*bpf.sum_per_cpu(stored, SERVICE_TRAFFIC))
        return found

    def _begin(self, slot: int) -> _Known:
        """A slot for a new service: what another one left there is not its own."""
        program = self._program
        left = [key for key, _ in program.backends.items() if services.slot_of_backend(key) == slot]
        program.backends.delete_batch(b"".join(left), len(left))
        program.service_counters.put(SLOT.pack(slot), bytes(program.service_counters.stored_size))
        return _Known(slot, 0, {})

    def _change(self, service: Service, one: _Known, now_ns: int) -> None:
        program = self._program
        rows = services.backend_rows(service, one.slot, one.backends, now_ns)
        program.backends.update_batch(b"".join(rows), b"".join(rows.values()), len(rows))
        gone = [key for key in one.backends if key not in rows]
        one.backends |= rows
        table = bpf.create_map(bpf.MAP_TYPE_ARRAY, SLOT.size, services.MAGLEV_BYTES, 1, "maglev table")
        try:
            table.put(SLOT.pack(0), services.pack_maglev(service))
            program.maglev.put(SLOT.pack(one.slot), SLOT.pack(table.fd))
        finally:
            table.close()
        program.services.put(services.pack_service_key(service.key), services.pack_service(service, one.slot))
        program.backends.delete_batch(b"".join(gone), len(gone))
        for key in gone:
            del one.backends[key]
        self._renew(one.slot)
        one.digest = service.digest()

    def _renew(self, slot: int) -> None:
        """Every connection of the service asks anew."""
        key = SLOT.pack(slot)
        kept = self._program.service_epochs.get(key)
        number = SLOT.unpack(kept)[0] if kept is not None else 0
        self._program.service_epochs.put(key, SLOT.pack((number + 1) & 0xFFFFFFFF))

    def _read(self) -> dict[ServiceKey, _Known]:
        if self._known is None:
            self.observe()
        assert self._known is not None
        return self._known
