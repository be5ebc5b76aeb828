"""Packets and connections between two containers, and what they cost: traffic.c's client. Called by the benches of the
data plane.

What a path costs is the CPU time of the one thread that sends, on one core (traffic.c says why that is all of it).
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from alcor.bench.dataplane_beds import Bed, inside
from alcor.dataplane.base import DataPlaneError
from alcor.dataplane.kernel import netns
from alcor.lab.results import percentile

PAYLOAD = 64
CHUNKS, PER_CHUNK = 200, 256
CONNECTION_CHUNKS, CONNECTIONS_A_CHUNK = 60, 50
CPU_QUANTILE = 0.1
"""Of the chunks: interrupts of others only ever add."""
RECEIVE_BUFFER_BYTES = 8 << 20
TIMEOUT_S = 120.0
_SO_RCVBUFFORCE, _IP_PKTINFO = 33, 8


def traffic(program: Path, mode: str, client: int, server: int, *numbers: int) -> list[str]:
    """What traffic.c says, line by line. Raises DataPlaneError."""
    arguments = [str(program), mode, str(client), str(server), *map(str, numbers)]
    done = subprocess.run(
        arguments, pass_fds=(client, server), capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    if done.returncode:
        raise DataPlaneError(f"{' '.join(arguments[1:])}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def packet_ns(program: Path, ends: tuple[int, int], chunks: int = 0) -> float:
    """CPU ns per packet from the first of two connected datagram sockets to the other."""
    lines = traffic(program, "udp", *ends, chunks or CHUNKS, PER_CHUNK, PAYLOAD)
    return percentile([float(line) for line in lines], CPU_QUANTILE)


def flow_ns(program: Path, bed: Bed, target: str, ports: tuple[int, int] = (0, 0), *, back: bool = False) -> float:
    """CPU ns per packet of a flow to `target` that was answered once; `back`: of the answers. `ports`: the client's
    and the server's; 0: any."""
    with answered(bed, target, ports) as (client, server):
        return packet_ns(program, (server, client) if back else (client, server))


@contextmanager
def connected(bed: Bed, kind: socket.SocketKind, *, by: str = "") -> Iterator[tuple[int, int]]:
    """Descriptors of two connected sockets, one in each container. `by`: the address that the client of a stream knows
    the server by, when it is another."""
    with ExitStack() as stack:
        client, server = _sockets(bed, kind, stack)
        server.bind((bed.server_ip, 0))
        if kind is socket.SOCK_DGRAM:
            client.connect(server.getsockname())
            yield client.fileno(), server.fileno()
            return
        server.listen(1)
        server.settimeout(TIMEOUT_S)
        client.settimeout(TIMEOUT_S)
        client.connect((by or bed.server_ip, server.getsockname()[1]))
        accepted, _ = server.accept()
        stack.enter_context(accepted)
        for one in (client, accepted):
            one.setblocking(True)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client.fileno(), accepted.fileno()


@contextmanager
def answered(bed: Bed, target: str, ports: tuple[int, int] = (0, 0)) -> Iterator[tuple[int, int]]:
    """Two connected datagram sockets that have heard from each other, the client's connected to `target`."""
    with ExitStack() as stack:
        client, first = _sockets(bed, socket.SOCK_DGRAM, stack)
        client.bind(("", ports[0]))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        first.bind(("", ports[1]))
        for one in (client, first):
            one.settimeout(TIMEOUT_S)
        port = first.getsockname()[1]
        client.connect((target, port))
        client.send(b"there?")
        _, [(_, _, found)], _, address = first.recvmsg(64, 256)
        # Bound to the address that was asked, which of several it may be: the answer comes from there.
        server = stack.enter_context(_socket(bed.namespaces[1], socket.SOCK_DGRAM))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((socket.inet_ntoa(found[8:12]), port))
        first.close()
        server.connect(address)
        server.send(b"here")
        client.recv(64)
        client.setblocking(True)
        yield client.fileno(), server.fileno()


def connection_ns(program: Path, bed: Bed, target: str, port: int = 0, helper: int = 0) -> float:
    """CPU ns per TCP connection to `target`, opened and reset, that of the process `helper` on the way included (0:
    none). `port`: where the server listens, at all of its addresses; 0: any."""
    fd = netns.open_path(bed.namespaces[0])
    try:
        with _socket(bed.namespaces[1], socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", port))
            listener.listen(16)
            to = int.from_bytes(socket.inet_aton(target), "big"), listener.getsockname()[1]
            sizes = CONNECTION_CHUNKS, CONNECTIONS_A_CHUNK
            lines = traffic(program, "connect", fd, listener.fileno(), *sizes, *to, helper)
    finally:
        os.close(fd)
    return percentile([float(line) for line in lines], CPU_QUANTILE)


def _socket(where: Path, kind: socket.SocketKind) -> socket.socket:
    """Of a container. A datagram socket has room for a whole chunk."""
    one = inside(where, partial(socket.socket, socket.AF_INET, kind))
    if kind is socket.SOCK_DGRAM:
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    return one


def _sockets(bed: Bed, kind: socket.SocketKind, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """One in each container."""
    first, second = (stack.enter_context(_socket(where, kind)) for where in bed.namespaces)
    return first, second
