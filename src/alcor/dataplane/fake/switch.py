"""The fake's kernel: a software switch that forwards frames by the pipeline model. Called by the fake driver.

One switch is one host. It holds the tables, the devices and a software workload behind every port, and exchanges VXLAN
datagrams with other switches over a real UDP socket, so a lab without root runs whole processes with real datagrams
between them. A driver comes and goes; the switch stays, in this object or, with a directory, in a file.

Threads: the driver calls from one thread, datagrams arrive on a thread of the switch's own; one lock serialises them.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from alcor.dataplane.base import DataPlaneError, LocalPort, Miss, Request, Route, RouteKey
from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.fake import frames, state
from alcor.dataplane.fake.nat import from_eip_queue, from_external
from alcor.dataplane.fake.outside6 import beyond, coming
from alcor.dataplane.fake.pipeline import from_overlay, from_port, to_port
from alcor.dataplane.fake.requests import FakeRequests
from alcor.dataplane.fake.state import Carried, State
from alcor.dataplane.fake.tables import ExternalDevice, HostConfig, PortFlag, RemoteRow, Use
from alcor.dataplane.fake.walk import Verdict, VerdictKind
from alcor.dataplane.fake.workload import Echo, Workload
from alcor.kit.bell import Bell
from alcor.kit.sockets import set_receive_buffer
from alcor.model.addresses import Ip, Mac, format_ip, ip_version, parse_ip
from alcor.model.ids import Id, format_id

MAX_IN_FLIGHT = 4096
"""Frames on their way between workloads of one host at one moment; what comes on top is lost, as on any wire."""
MAX_DATAGRAM = 65535
RECEIVE_BUFFER = 8 << 20
"""Bytes of datagrams, with the kernel's own beside each, that wait while forwarding does: some 3,500 full ones."""
UNDERLAY_IFINDEX, EXTERNAL_IFINDEX = 1, 2
_OUTER = frames.IPV4_LENGTH + frames.UDP_LENGTH
_UNDERLAY_MAC = Mac(b"\x02" + b"\0" * 5)


class Pings(NamedTuple):
    """What became of a series of echo requests. Times in microseconds, one per answer."""

    sent: int
    received: int
    round_trip_us: tuple[int, ...]


class Switch:
    """One host's data plane in software. Thread-safe."""

    def __init__(
        self, underlay_ip: Ip, vxlan_port: int = 4789, directory: Path | None = None, *, external: Mac | None = None
    ) -> None:
        """Takes up the state of `directory`, if there is one. Frames reach other hosts once `open` was called.
        `external`: the MAC of an external device, whose wire are `sent_outside` and `receive_outside`."""
        kept = state.load(directory) if directory else State()
        self._directory = directory
        self._config = HostConfig(underlay_ip, UNDERLAY_IFINDEX, vxlan_port)
        device = ExternalDevice(EXTERNAL_IFINDEX, external) if external is not None else None
        self._carried = Carried(self._config, kept, device)
        self.sent_outside: deque[tuple[Ip, bytes]] = deque(maxlen=MAX_IN_FLIGHT)
        """What left through the external device: the neighbour that it went to, and the IP packet."""
        self._workloads = {ifindex: Workload(device.port) for ifindex, device in kept.devices.items()}
        self._changed = threading.Condition()
        self._identifiers = itertools.count(1)
        self._socket: socket.socket | None = None
        self._receiver: threading.Thread | None = None
        self._held: deque[Miss] = deque()
        self._bell = Bell()
        """Rung while packets are held."""
        self.requests = FakeRequests(self._give, self._refuse_request, self._served)
        """See dataplane.base."""
        self.refusals: dict[Id, str] = {}
        """Fault injection for tests: work on these ports fails with that error."""

    @property
    def external(self) -> bool:
        """It has an external device."""
        return self._carried.tables.external is not None

    # ---- life ----

    def open(self) -> Self:
        """Binds the tunnel end and starts to receive. Raises DataPlaneError when the address cannot be had."""
        config = self._config
        where = (format_ip(config.underlay_ip), config.vxlan_port)
        if ip_version(config.underlay_ip) != 4:
            raise DataPlaneError(f"underlay address {where[0]} is not IPv4; give the host an IPv4 address")
        tunnel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            tunnel.bind(where)
        except OSError as error:
            tunnel.close()
            raise DataPlaneError(f"cannot receive VXLAN at {where[0]}:{where[1]}: {error}; choose another") from error
        set_receive_buffer(tunnel, RECEIVE_BUFFER)
        self._socket = tunnel
        self._receiver = threading.Thread(target=self._receive, args=(tunnel,), name=f"vxlan-{where[0]}", daemon=True)
        self._receiver.start()
        return self

    def close(self) -> None:
        """Saves and stops: the host is off. Closing again does nothing."""
        with self._changed:
            self.save()
            tunnel, self._socket = self._socket, None
            self._bell.close()
            self.requests.close()
        if tunnel is None or self._receiver is None:
            return
        # The receiver sleeps in recvfrom; an empty datagram to itself wakes it to see that the switch is closed.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", tunnel.getsockname())
        self._receiver.join()
        tunnel.close()

    def __enter__(self) -> Self:
        return self if self._socket else self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- what the driver does ----

    @contextmanager
    def changing(self) -> Iterator[Carried]:
        """The tables and devices, to read or to change; forwarding waits meanwhile, so keep it short."""
        with self._changed:
            yield self._carried

    def put_port(self, port: LocalPort) -> None:
        """Carries the port, its workload with it. Raises DataPlaneError."""
        with self._changed:
            self._refuse(port.id)
            before, had = self._carried.ifindex_of(port.id), set[Ip]()
            if before is not None:
                had = beyond(self._carried.tables, self._carried.devices[before].port, before)
            self._carried.put_port(port)
            ifindex = self._carried.ifindex_of(port.id)
            if before is not None and before != ifindex:
                self._workloads.pop(before, None)
            if ifindex is not None:
                self._workloads.setdefault(ifindex, Workload(port)).configure(port)
                self._announce(beyond(self._carried.tables, port, ifindex) - had)

    def put_routes(self, routes: Sequence[tuple[RouteKey, Route]]) -> None:
        """Makes these routes so; addresses that ports have outside by them are announced there."""
        with self._changed:
            tables = self._carried.tables
            fresh = coming(tables, routes)
            tables.routes.update(routes)
            ports = [(ifindex, self._carried.devices[ifindex].port) for ifindex in tables.ports] if fresh else []
            found = {ip for ifindex, port in ports for ip in beyond(tables, port, ifindex)}
            self._announce(ip for ip in found if any(ip in key.prefix for key in fresh))

    def _announce(self, ips: Iterable[Ip]) -> None:
        """Everybody outside is told that these IPv6 addresses are here."""
        device = self._carried.tables.external
        if device is not None:
            told = [frames.announcement(ip, device.mac)[frames.ETHERNET_LENGTH :] for ip in sorted(ips)]
            self.sent_outside.extend((frames.ALL_NODES, packet) for packet in told)
            self._changed.notify_all()

    def remove_port(self, port_id: Id) -> None:
        """Undoes what `put_port` made; the absent port is removed already. Raises DataPlaneError."""
        with self._changed:
            self._refuse(port_id)
            ifindex = self._carried.ifindex_of(port_id)
            if ifindex is not None:
                self._carried.remove_device(ifindex)
                self._workloads.pop(ifindex, None)

    def remove_orphan(self, name: str) -> None:
        """Removes a half-made device of ours. Anything else by that name stays."""
        with self._changed:
            ifindex = self._carried.orphans().get(name)
            if ifindex is not None:
                self._carried.remove_device(ifindex)
                self._workloads.pop(ifindex, None)

    def save(self) -> None:
        """Writes everything to the directory, if there is one, for another process. Raises DataPlaneError."""
        with self._changed:
            if self._directory is not None:
                state.save(self._directory, self._carried.state())

    # ---- packets that wait for an address: fills dataplane.base.Misses ----

    def fileno(self) -> int:
        """See dataplane.base."""
        return self._bell.fileno()

    def take(self) -> list[Miss]:
        """See dataplane.base."""
        with self._changed:
            taken = list(self._held)
            self._held.clear()
            self._bell.hush()
            return taken

    def learn(self, found: Sequence[tuple[EndpointKey, Endpoint]], absent: Sequence[EndpointKey]) -> None:
        """See dataplane.base."""
        nobody = RemoteRow(Ip(bytes(16)), Mac(bytes(6)), 0, int(Use.ABSENT))
        with self._changed:
            tables = self._carried.tables
            for key, end in found:
                if key.vni in tables.on_demand:
                    tables.remote[key] = RemoteRow(end.host_ip, end.mac, end.identity, int(Use.RECENT))
            tables.remote.update({key: nobody for key in absent if key.vni in tables.on_demand})

    def forget(self, keys: Sequence[EndpointKey]) -> None:
        """See dataplane.base."""
        with self._changed:
            tables = self._carried.tables
            for key in keys:
                if key.vni in tables.on_demand:
                    tables.remote.pop(key, None)

    def used(self, keys: Sequence[EndpointKey]) -> frozenset[EndpointKey]:
        """See dataplane.base."""
        with self._changed:
            remote = self._carried.tables.remote
            found = frozenset(key for key in keys if key in remote and remote[key].use == Use.RECENT)
            for key in found:
                remote[key] = msgspec.structs.replace(remote[key], use=int(Use.IDLE))
            return found

    def release(self, misses: Sequence[Miss]) -> None:
        """See dataplane.base."""
        with self._changed:
            for miss in misses:
                self._carry(miss.ifindex, miss.frame, held=True)

    # ---- the world around the host ----

    def add_foreign(self, name: str) -> None:
        """Somebody else makes an interface (by name) or a namespace (by path), for ports to adopt or to enter."""
        with self._changed:
            self._carried.foreign.add(name)

    def foreign(self) -> frozenset[str]:
        """What somebody else made: as it was, whatever the driver did."""
        with self._changed:
            return frozenset(self._carried.foreign)

    def inject(self, port_id: Id, frame: bytes) -> Verdict:
        """The workload sends the frame as it is; returns what became of it and why."""
        with self._changed:
            return self._carry(self._require(port_id), frame)

    def send(self, port_id: Id, destination: Ip, protocol: int, payload: bytes) -> None:
        """The workload sends an IPv4 packet, after ARP where needed. Raises DataPlaneError when it has no route."""
        with self._changed:
            ifindex = self._require(port_id)
            try:
                outgoing = self._workloads[ifindex].send(destination, protocol, payload)
            except ValueError as error:
                raise DataPlaneError(f"port {format_id(port_id)}: {error}; give its subnet one") from None
            for frame in outgoing:
                self._carry(ifindex, frame)

    def received(self, port_id: Id, timeout_s: float = 0.0) -> tuple[bytes, ...]:
        """The frames that the workload was given since the last call (the newest 1,024), waiting for the first."""
        with self._changed:
            workload = self._workloads[self._require(port_id)]
            self._changed.wait_for(lambda: len(workload.received) > 0, timeout_s)
            taken = tuple(workload.received)
            workload.received.clear()
            return taken

    def ping(self, port_id: Id, destination: Ip, count: int = 1, timeout_s: float = 1.0) -> Pings:
        """Sends echo requests one after another, each waiting for its answer for at most `timeout_s`. Blocks."""
        identifier = next(self._identifiers) & 0xFFFF
        round_trips: list[int] = []
        for sequence in range(count):
            echo = Echo(destination, identifier, sequence & 0xFFFF)
            message = frames.icmp_echo(frames.ICMP_ECHO_REQUEST, identifier, echo.sequence, b"alcor" * 8)
            with self._changed:
                echoes = self._workloads[self._require(port_id)].echoes
                started = time.monotonic_ns()
                self.send(port_id, destination, frames.PROTOCOL_ICMP, message)
                if self._changed.wait_for(partial(echoes.__contains__, echo), timeout_s):
                    round_trips.append((time.monotonic_ns() - started) // 1000)
        return Pings(count, len(round_trips), tuple(round_trips))

    # ---- forwarding (the lock is held) ----

    def _carry(self, ifindex: int, frame: bytes, *, held: bool = False) -> Verdict:
        """Forwards a frame and everything that workloads of this host send because of it."""
        first = from_port(self._carried.tables, ifindex, frame, time.monotonic_ns(), held=held)
        waiting: deque[tuple[int, bytes]] = deque()
        first = self._enact(first, ifindex, waiting)
        self._settle(waiting)
        return first

    def _settle(self, waiting: deque[tuple[int, bytes]]) -> None:
        while waiting:
            ifindex, frame = waiting.popleft()
            self._enact(from_port(self._carried.tables, ifindex, frame, time.monotonic_ns()), ifindex, waiting)
        self._changed.notify_all()

    def _enact(self, verdict: Verdict, source: int, waiting: deque[tuple[int, bytes]]) -> Verdict:
        """Does what the verdict says; returns the last one, for a packet that waited on its way."""
        while verdict.kind is VerdictKind.QUEUE:
            verdict = self._queue(verdict)
        for one in verdict.counts:
            self._carried.count(one)
        if verdict.reason is not None:
            self._carried.count_drop(verdict.ifindex, verdict.reason)
        if verdict.sought is not None:
            self._hold(Miss(verdict.sought, verdict.ifindex, verdict.frame))
        elif verdict.kind is VerdictKind.SERVE:
            if not self.requests.ask(Request(self._carried.tables.ports[source].id, source, verdict.frame)):
                self._carried.count_drop(source, DropReason.SERVICE_LIMIT)
        elif verdict.next_hop is not None:
            self.sent_outside.append((verdict.next_hop, verdict.frame[frames.ETHERNET_LENGTH :]))
        elif verdict.kind is VerdictKind.REPLY and verdict.ifindex == EXTERNAL_IFINDEX:
            ether, packet = frames.parse_ethernet(verdict.frame), verdict.frame[frames.ETHERNET_LENGTH :]
            if ether is not None and ether.ethertype == frames.TYPE_IPV4:
                self.sent_outside.append((frames.mapped(packet[16:20]), packet))
            elif ether is not None and ether.ethertype == frames.TYPE_IPV6:
                self.sent_outside.append((Ip(packet[24:40]), packet))
        elif verdict.kind is VerdictKind.TURN:
            tables, now_ns = self._carried.tables, time.monotonic_ns()
            again = from_external(tables, verdict.ifindex, verdict.frame, now_ns, queued=verdict.outside)
            self._enact(again, verdict.ifindex, waiting)
        elif verdict.host_ip is not None:
            self._transmit(source, verdict.host_ip, verdict.frame[_OUTER:])
        elif verdict.kind in (VerdictKind.DELIVER, VerdictKind.REPLY) and verdict.ifindex in self._workloads:
            answers = self._workloads[verdict.ifindex].receive(verdict.frame)
            waiting.extend((verdict.ifindex, answer) for answer in answers[: MAX_IN_FLIGHT - len(waiting)])
        return verdict

    def _queue(self, verdict: Verdict) -> Verdict:
        """What becomes of a packet that has to wait: it does not, here, but is dropped when there is no room."""
        for one in verdict.counts:
            self._carried.count(one)
        queue, now_ns = self._carried.queues.get(verdict.queue), time.monotonic_ns()
        if queue is not None and not queue.admit(len(verdict.frame), now_ns):
            reason = DropReason.EIP_RATE_LIMIT if verdict.outside else DropReason.RATE_LIMIT
            steps = (*verdict.steps, f"Q: queue {verdict.queue} is full: drop {reason.word}")
            return msgspec.structs.replace(
                verdict, kind=VerdictKind.DROP, reason=reason, ifindex=queue.ifindex, steps=steps, counts=()
            )
        if verdict.outside:
            after = from_eip_queue(self._carried.tables, verdict.frame, received=verdict.received)
        elif verdict.received:
            after = to_port(self._carried.tables, verdict.ifindex, verdict.frame)
        else:
            after = from_port(self._carried.tables, verdict.ifindex, verdict.frame, now_ns, queued=True)
        return msgspec.structs.replace(after, steps=(*verdict.steps, *after.steps))

    def _give(self, ifindex: int, frame: bytes) -> None:
        """A service's answer to a port."""
        with self._changed:
            waiting: deque[tuple[int, bytes]] = deque()
            self._enact(to_port(self._carried.tables, ifindex, frame), ifindex, waiting)
            self._settle(waiting)

    def _served(self) -> dict[Id, int]:
        with self._changed:
            rows = self._carried.tables.ports.items()
            return {row.id: ifindex for ifindex, row in rows if row.flags & PortFlag.SERVED}

    def _refuse_request(self, request: Request) -> None:
        with self._changed:
            self._carry(request.ifindex, request.frame, held=True)

    def _hold(self, miss: Miss) -> None:
        if len(self._held) >= MAX_IN_FLIGHT:
            self._carried.count_drop(miss.ifindex, DropReason.MISS_LIMIT)
            return
        self._held.append(miss)
        self._bell.ring()

    def _transmit(self, source: int, host_ip: Ip, datagram: bytes) -> None:
        try:
            if self._socket is None:
                raise OSError("the tunnel end is not open")
            self._socket.sendto(datagram, socket.MSG_DONTWAIT, (format_ip(host_ip), self._config.vxlan_port))
        except OSError:
            self._carried.count_drop(source, DropReason.ENCAP_FAILED)

    def _receive(self, tunnel: socket.socket) -> None:
        """The receiving thread: every datagram becomes the frame that the underlay interface would have seen."""
        config = self._config
        while True:
            try:
                datagram, (address, port) = tunnel.recvfrom(MAX_DATAGRAM)
            except ConnectionError:
                continue  # An ICMP error that an earlier datagram of ours caused: its host is away.
            with self._changed:
                if self._socket is not tunnel:
                    return
                outer = frames.udp(port, config.vxlan_port, datagram)
                packet = frames.ipv4(parse_ip(address), config.underlay_ip, frames.PROTOCOL_UDP, outer)
                frame = frames.ethernet(_UNDERLAY_MAC, _UNDERLAY_MAC, frames.TYPE_IPV4, packet)
                waiting: deque[tuple[int, bytes]] = deque()
                self._enact(from_overlay(self._carried.tables, frame, time.monotonic_ns()), 0, waiting)
                self._settle(waiting)

    def left(self, timeout_s: float) -> tuple[Ip, bytes] | None:
        """Takes the oldest of `sent_outside`; waits for one."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self.sent_outside), timeout_s)
            return self.sent_outside.popleft() if self.sent_outside else None

    def receive_outside(self, frame: bytes) -> Verdict:
        """The external device receives a frame; what became of it."""
        with self._changed:
            tables = self._carried.tables
            verdict = from_external(tables, EXTERNAL_IFINDEX, frame, time.monotonic_ns())
            waiting: deque[tuple[int, bytes]] = deque()
            self._enact(verdict, EXTERNAL_IFINDEX, waiting)
            self._settle(waiting)
            return verdict

    def _refuse(self, port_id: Id) -> None:
        if port_id in self.refusals:
            raise DataPlaneError(self.refusals[port_id])

    def _require(self, port_id: Id) -> int:
        ifindex = self._carried.ifindex_of(port_id)
        if ifindex is None:
            raise DataPlaneError(f"port {format_id(port_id)} is not on this host; ask the host that it is bound to")
        return ifindex
