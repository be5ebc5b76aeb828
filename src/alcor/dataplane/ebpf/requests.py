"""What ports ask of their host's services: taken from the program's ring, answered by way of held packets. Made by the
driver; fills `dataplane.base.Requests`.

An answer enters the program where held packets come back, its mark saying which port it is for; a request without an
answer comes back as it was, and is dropped and counted there.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from alcor.dataplane.base import Request
from alcor.dataplane.ebpf import tables
from alcor.dataplane.ebpf.misses import EbpfMisses
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.ebpf.tables import PortFlag
from alcor.dataplane.kernel.libbpf import RingBuffer
from alcor.model.ids import Id

_log = logging.getLogger(__name__)


class EbpfRequests:
    """See the module."""

    def __init__(self, program: Program, way_back: EbpfMisses) -> None:
        self._program = program
        self._ring = RingBuffer(program.requests.fd)
        self._way_back = way_back

    def close(self) -> None:
        """Lets go of the ring."""
        self._ring.close()

    def fileno(self) -> int:
        """Readable when there is something to take."""
        return self._ring.fileno()

    def take(self) -> list[Request]:
        """Everything that waits in the ring."""
        return [tables.unpack_request(record) for record in self._ring.take()]

    def interfaces(self) -> dict[Id, int]:
        """See dataplane.base."""
        rows = [(tables.unpack_ifindex(key), tables.unpack_port(row)) for key, row in self._program.ports.items()]
        return {row.id: ifindex for ifindex, row in rows if row.flags & PortFlag.SERVED}

    def answer(self, ifindex: int, frame: bytes) -> None:
        """See dataplane.base. What the wire does not take is lost, as on any wire: clients ask again."""
        try:
            self._way_back.send(ifindex | tables.MARK_TO_PORT, frame, 0)
        except OSError as error:
            _log.warning("an answer to interface %d could not be sent: %s", ifindex, error)

    def refuse(self, request: Request) -> None:
        """See dataplane.base."""
        with suppress(OSError):
            self._way_back.send(request.ifindex, request.frame, request.gso_size)
