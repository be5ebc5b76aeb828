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

MAX_TABLES = 64
"""Made before any is put in its place: a descriptor and 60 KiB each."""


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
        found = dict(program.services.items())
        rows: dict[int, dict[bytes, bytes]] = {}
        if found:  # else nothing leads to a backend, and the kernel takes 2.5 ms to walk through an empty table
            for key, state in program.backends.items():
                rows.setdefault(services.slot_of_backend(key), {})[key] = state
        known = {}
        for key, value in found.items():
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
        fresh: list[int] = []
        refused = ""
        changes: list[tuple[Service, _Known]] = []
        for service in wanted:
            one = known.get(service.key)
            if one is None:
                slot = next(free, None)
                if slot is None:
                    refused = f"this host carries {MAX_SERVICES} services already: move ports of other VPCs"
                    continue
                fresh.append(slot)
                one = known[service.key] = _Known(slot, 0, {})
            changes.append((service, one))
        self._clear(fresh)
        for at in range(0, len(changes), MAX_TABLES):
            self._change(changes[at : at + MAX_TABLES])
        self._known = known
        if refused:
            raise DataPlaneError(refused)

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
            program.maglev.delete(SLOT.pack(one.slot))  # the kernel deletes no batch of tables
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

    def _clear(self, slots: Sequence[int]) -> None:
        """Slots for new services: what others left there is not theirs."""
        if not slots:
            return
        program, cleared = self._program, frozenset(slots)
        left = [key for key, _ in program.backends.items() if services.slot_of_backend(key) in cleared]
        program.backends.delete_batch(b"".join(left), len(left))
        for slot in slots:
            program.service_counters.put(SLOT.pack(slot), bytes(program.service_counters.stored_size))

    def _change(self, changes: Sequence[tuple[Service, _Known]]) -> None:
        """All at once: for every write to `maglev` the kernel waits until no program uses the table that was there."""
        program, now_ns = self._program, time.monotonic_ns()
        gone: list[bytes] = []
        tables: list[bpf.BpfMap] = []
        try:
            for service, one in changes:
                rows = services.backend_rows(service, one.slot, one.backends, now_ns)
                program.backends.update_batch(b"".join(rows), b"".join(rows.values()), len(rows))
                gone += [key for key in one.backends if key not in rows]
                one.backends = rows
                table = bpf.create_map(bpf.MAP_TYPE_ARRAY, SLOT.size, services.MAGLEV_BYTES, 1, "maglev table")
                tables.append(table)
                table.put(SLOT.pack(0), services.pack_maglev(service))
            slots = [SLOT.pack(one.slot) for _, one in changes]
            program.maglev.update_batch(b"".join(slots), b"".join(SLOT.pack(one.fd) for one in tables), len(tables))
        finally:
            for table in tables:
                table.close()
        keys = b"".join(services.pack_service_key(service.key) for service, _ in changes)
        values = b"".join(services.pack_service(service, one.slot) for service, one in changes)
        program.services.update_batch(keys, values, len(changes))
        program.backends.delete_batch(b"".join(gone), len(gone))
        for service, one in changes:
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
