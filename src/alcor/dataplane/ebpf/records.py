"""The map `records`: each port's description, by the index of its interface. Called by the driver.

The compiled program does not read it; it is in the kernel, pinned beside the tables, so that a new agent can say what a
port looks like and what a crash left half-made. A record is a claim; `sorting` believes what the kernel confirms.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

from alcor.dataplane.base import DataPlaneError, LocalPort
from alcor.dataplane.ebpf import tables, wiring
from alcor.dataplane.ebpf.hands import Job
from alcor.dataplane.kernel import bpf
from alcor.dataplane.kernel.bpf import BpfError, BpfMap

NAME = "records"
MAX_RECORDS = 65536
BPF_F_NO_PREALLOC = 1


class Records:
    """The open map."""

    def __init__(self, opened: BpfMap) -> None:
        """Takes over the map. Use `open`."""
        self._map = opened

    @classmethod
    def open(cls, pin_dir: Path) -> Records:
        """Finds the map pinned in `pin_dir`, or makes and pins it."""
        path = pin_dir / NAME
        try:
            found = BpfMap.open(path)
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
            size = wiring.MAX_RECORD_BYTES
            found = bpf.create_map(bpf.MAP_TYPE_HASH, tables.IFINDEX.size, size, MAX_RECORDS, NAME, BPF_F_NO_PREALLOC)
            bpf.pin(found.fd, path)
        if (found.key_size, found.value_size) != (tables.IFINDEX.size, wiring.MAX_RECORD_BYTES):
            found.close()
            raise DataPlaneError(f"the map pinned at {path} is another version's: remove it and restart the agent")
        return cls(found)

    def close(self) -> None:
        """Lets go of the map, which stays pinned."""
        self._map.close()

    def all(self) -> dict[int, LocalPort | None]:
        """Every record; None for one that cannot be read."""
        return {tables.unpack_ifindex(key): wiring.decode_record(value) for key, value in self._map.items()}

    def keep(self, jobs: Sequence[Job]) -> None:
        """Writes the ports' records."""
        values = b"".join([wiring.encode_record(job.port) for job in jobs])
        self._map.update_batch(tables.pack_ifindexes(job.ifindex for job in jobs), values, len(jobs))

    def forget(self, ifindexes: Sequence[int]) -> None:
        """Removes records; an absent one is passed over."""
        self._map.delete_batch(tables.pack_ifindexes(ifindexes), len(ifindexes))
