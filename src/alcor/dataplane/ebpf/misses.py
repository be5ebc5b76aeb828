"""Packets that wait for an address: taken from the program's ring, sent on when it is known. Made by the driver.

Fills `dataplane.base.Misses`; the agent calls it on its event loop, while the driver works on another thread. What was
asked for is in `remote` beside what was preloaded, marked by its `use`; the two never meet, for a VNI is on demand or
it is not, and a lock stands between changing that (the driver) and learning (here).

A packet goes on as if it had just come from its port: written into one end of a veth pair, it enters the program at
the other, its mark saying which port sent it. Its checksum and segments may still be the kernel's to make; the
virtio_net_hdr in front says so (include/uapi/linux/virtio_net.h; packet(7), PACKET_VNET_HDR).
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import Final

from alcor.dataplane.base import DataPlaneError, Miss
from alcor.dataplane.ebpf import tables
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.ebpf.tables import EndpointUse
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.kernel.bpf import BpfError
from alcor.dataplane.kernel.libbpf import RingBuffer

_log = logging.getLogger(__name__)

SOL_PACKET, PACKET_VNET_HDR, SO_MARK = 263, 15, 36
_MARK: Final = struct.Struct("=I")
_VNET: Final = struct.Struct("=BBHHHH")
NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 1, 0, 1, 4, 5
ETHERNET, TCP, UDP = 14, 6, 17
SEND_BUFFER = 4 << 20
_CHECKSUM_AT: Final = {TCP: 16, UDP: 6}


class EbpfMisses:
    """See the module."""

    def __init__(self, program: Program, device: str) -> None:
        """`device` is the end of the pair that packets are written into, in the network namespace of the calling
        thread. Raises DataPlaneError."""
        self._program = program
        self._wire = _open_wire(device)
        self._ring = RingBuffer(program.misses.fd)
        self._lock = Lock()
        self._on_demand = {tables.unpack_vni(key) for key, _ in program.on_demand.items()}
        self._learnt: dict[int, set[bytes]] = {}
        """VNI -> keys of `remote` that may hold what was learnt: so that taking it away does not read the whole map."""
        if self._on_demand:
            for key, value in program.remote.items():
                if tables.unpack_use(value) is not EndpointUse.PRELOADED:
                    self._learnt.setdefault(tables.unpack_key(key).vni, set()).add(key)

    def close(self) -> None:
        """Lets go of ring and socket."""
        self._ring.close()
        self._wire.close()

    # What the driver does.

    def begin(self, vnis: Sequence[int]) -> None:
        """Packets for unknown addresses of these VNIs are held from now on."""
        if vnis:
            self._program.on_demand.update_batch(*tables.pack_vnis(vnis), len(vnis))
            with self._lock:
                self._on_demand.update(vnis)

    def stop_learning(self, vnis: Iterable[int]) -> None:
        """Nothing is learnt of these any more: their endpoints are about to be preloaded, or removed."""
        with self._lock:
            self._on_demand.difference_update(vnis)

    def end(self, vnis: Sequence[int]) -> None:
        """Packets for unknown addresses of these are dropped from now on; what was learnt of them goes."""
        self._program.on_demand.delete_batch(tables.pack_vnis(vnis)[0], len(vnis))
        remote, stale = self._program.remote, list[bytes]()
        for vni in vnis:
            for key in sorted(self._learnt.pop(vni, ())):
                value = remote.get(key)
                if value is not None and tables.unpack_use(value) is not EndpointUse.PRELOADED:
                    stale.append(key)
        remote.delete_batch(b"".join(stale), len(stale))

    # What the agent does.

    def fileno(self) -> int:
        """Readable when there is something to take."""
        return self._ring.fileno()

    def take(self) -> list[Miss]:
        """Everything that waits in the ring."""
        return [tables.unpack_miss(record) for record in self._ring.take()]

    def learn(self, found: Sequence[tuple[EndpointKey, Endpoint]], absent: Sequence[EndpointKey]) -> None:
        """See dataplane.base."""
        with self._lock:
            known = self._on_demand
            here = [(key, end) for key, end in found if key.vni in known]
            gone = [key for key in absent if key.vni in known]
            for key in (*(key for key, _ in here), *gone):
                self._learnt.setdefault(key.vni, set()).add(tables.pack_key(key))
            try:
                self._program.remote.update_batch(*tables.pack_endpoints(here, EndpointUse.RECENT), len(here))
                self._program.remote.update_batch(*tables.pack_absent(gone), len(gone))
            except BpfError as error:  # the map is full: these packets are dropped, and the next ones ask again
                _log.error("endpoints could not be learnt: %s", error)

    def forget(self, keys: Sequence[EndpointKey]) -> None:
        """See dataplane.base."""
        with self._lock:
            gone = [key for key in keys if key.vni in self._on_demand]
            self._program.remote.delete_batch(tables.pack_keys(gone), len(gone))
            for key in gone:
                self._learnt.get(key.vni, set()).discard(tables.pack_key(key))

    def used(self, keys: Sequence[EndpointKey]) -> frozenset[EndpointKey]:
        """See dataplane.base."""
        found = set()
        with self._lock:
            for key in keys:
                value = self._program.remote.get(tables.pack_key(key)) if key.vni in self._on_demand else None
                if value is not None and tables.unpack_use(value) is EndpointUse.RECENT:
                    found.add(key)
                    idle = tables.pack_endpoint(tables.unpack_endpoint(value), EndpointUse.IDLE)
                    self._program.remote.put(tables.pack_key(key), idle)
        return frozenset(found)

    def release(self, misses: Sequence[Miss]) -> None:
        """See dataplane.base."""
        refused = ""
        for miss in misses:
            try:
                self.send(miss.ifindex, miss.frame, miss.gso_size)
            except OSError as error:
                refused = str(error)
        if refused:
            _log.warning("of %d held packets some could not be sent on: %s", len(misses), refused)

    def send(self, mark: int, frame: bytes, gso_size: int) -> None:
        """Writes the frame into the way back, with that mark. Raises OSError."""
        marked = (socket.SOL_SOCKET, SO_MARK, _MARK.pack(mark))
        self._wire.sendmsg([vnet_header(frame, gso_size), frame], [marked])


def _open_wire(device: str) -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        wire.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        wire.bind((device, 0))
    except OSError as error:
        wire.close()
        raise DataPlaneError(f"held packets cannot go on by interface '{device}' ({error})") from None
    return wire


def vnet_header(frame: bytes, gso_size: int) -> bytes:
    """The virtio_net_hdr of a frame as a port sent it: what of it the kernel has yet to do. Pure.

    A checksum that is yet to be made holds the sum of the pseudo header (RFC 9293 section 3.1, RFC 768): one in 65,536
    finished ones looks the same, and comes out the same.
    """
    nothing = _VNET.pack(0, GSO_NONE, 0, 0, 0, 0)
    place = _transport(frame)
    if place is None:
        return nothing
    version, protocol, start, end = place
    offset = _CHECKSUM_AT[protocol]
    field = int.from_bytes(frame[start + offset : start + offset + 2], "big")
    addresses = frame[26:34] if version == 4 else frame[22:54]
    if not gso_size and field != _pseudo_sum(addresses, protocol, end - start):
        return nothing
    kind, header = GSO_NONE, start
    if gso_size and protocol == TCP:
        kind = GSO_TCPV4 if version == 4 else GSO_TCPV6
        header = start + (frame[start + 12] >> 4) * 4
    elif gso_size:
        kind, header = GSO_UDP_L4, start + 8
    return _VNET.pack(NEEDS_CSUM, kind, header, gso_size, start, offset)


def _transport(frame: bytes) -> tuple[int, int, int, int] | None:
    """(IP version, protocol, where the transport header begins, where the packet ends) of a whole TCP or UDP packet."""
    if len(frame) >= 34 and frame[12:14] == b"\x08\x00" and not int.from_bytes(frame[20:22], "big") & 0x3FFF:
        version, protocol = 4, frame[23]
        start, end = ETHERNET + (frame[14] & 15) * 4, ETHERNET + int.from_bytes(frame[16:18], "big")
    elif len(frame) >= 54 and frame[12:14] == b"\x86\xdd":
        version, protocol, start = 6, frame[20], ETHERNET + 40
        end = start + int.from_bytes(frame[18:20], "big")
    else:
        return None
    if protocol not in _CHECKSUM_AT or end < start + (20 if protocol == TCP else 8) or len(frame) < end:
        return None
    return version, protocol, start, end


def _pseudo_sum(addresses: bytes, protocol: int, length: int) -> int:
    total: int = sum(struct.unpack(f"!{len(addresses) // 2}H", addresses)) + protocol + length
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
