"""`alcor bench nat`: what an EIP costs a packet, beside the plain overlay of the same data plane, and 1,000 of them.

Called by the command line. Two containers on two hosts, whose external devices are one wire: by the overlay, and from
EIP to EIP, which translates every packet twice (source at the one host, destination at the other). The same with 10 and
with 1,000 EIPs on the sending host. And how long a host takes to be given 1,000 EIPs, for ports that it carries.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from alcor.bench.compiling import compiled
from alcor.bench.dataplane import CPU_QUANTILE, PAYLOAD, RECEIVE_BUFFER_BYTES, SOURCE, TIMEOUT_S, traffic
from alcor.bench.dataplane_beds import IPS, PREFIX, VNI, Bed, Host, alcor_bed, endpoint_of, inside, port_of
from alcor.bench.host_bed import container_ports, room_for_descriptors
from alcor.dataplane.base import (
    NO_ADDRESS,
    Address,
    DataPlaneError,
    EndpointKey,
    Hop,
    LocalPort,
    Plan,
    Route,
    RouteKey,
    RouteKind,
)
from alcor.lab.results import Goal, percentile
from alcor.lab.rundir import DEFAULT_RUN_DIR, RunDirectory
from alcor.model.addresses import format_ip, ip_from_int, parse_ip, parse_prefix
from alcor.model.nouns import Eip

CHUNKS, PER_CHUNK = 200, 256
FEW, MANY = 10, 1000
GOAL_COST, GOAL_GROWTH, GOAL_LOAD_S = 1.3, 1.2, 1.0
GATEWAY = parse_ip("10.9.0.1")
EIPS = (parse_ip("198.18.0.11"), parse_ip("198.18.0.12"))
OUTER_PREFIX = 16
_FIRST_OTHER = int.from_bytes(parse_ip("198.18.1.0")[12:], "big")

Progress = Callable[[str], None]


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way between the two containers: the median over the rounds, and every round."""

    name: str
    cpu_ns_per_packet: float
    rounds_ns: tuple[float, ...]


class NatBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `alcor bench nat` found. JSON-able."""

    kernel: str
    rounds: int
    ways: tuple[Way, ...]
    eips: int
    programmed_s: float
    """From the plan until the host carries so many EIPs more, of ports that it had."""
    goals: tuple[Goal, ...]


class _Case(msgspec.Struct, kw_only=True):
    name: str
    target: str
    prepare: Callable[[], object]
    packet_ns: list[float] = []


def run(rounds: int = 5, progress: Progress | None = None, run_dir: Path = DEFAULT_RUN_DIR) -> NatBench:
    """Measures everything; about 5 s a round, and 10 s for the ports. Raises DataPlaneError without root."""
    if os.geteuid() != 0:
        raise DataPlaneError("alcor bench nat makes network namespaces and loads BPF programs: run it as root")
    if rounds < 1:
        raise DataPlaneError("rounds must be at least 1")
    say = progress or (lambda _: None)
    run_directory = RunDirectory.make(run_dir, mounts=True)
    with compiled(SOURCE) as program, room_for_descriptors(MANY), ExitStack() as stack:
        stack.callback(run_directory.remove)
        bed, hosts = alcor_bed(run_directory, stack, external=True)
        for number, host in enumerate(hosts):
            host.apply(_outside(number))
        say(f"{MANY:,} ports on one host")
        others = container_ports(MANY, first=100)
        hosts[0].apply(Plan(put_ports=others))
        stack.callback(lambda: hosts[0].apply(Plan(remove_ports=tuple(one.id for one in others))))
        programmed_s = _program(hosts[0], others, MANY)
        cases = [
            _Case(name="overlay", target=format_ip(IPS[1]), prepare=partial(_program, hosts[0], others, 0)),
            *(
                _Case(
                    name=f"EIP to EIP, {count:,} on the host",
                    target=format_ip(EIPS[1]),
                    prepare=partial(_program, hosts[0], others, count),
                )
                for count in (FEW, MANY)
            ),
        ]
        for number in range(1, rounds + 1):
            for case in cases:
                say(f"round {number} of {rounds}: {case.name}")
                case.prepare()
                case.packet_ns.append(_packets(program, bed, case.target))
    ways = tuple(_summary(case) for case in cases)
    return NatBench(
        kernel=os.uname().release,
        rounds=rounds,
        ways=ways,
        eips=MANY,
        programmed_s=programmed_s,
        goals=_goals(ways, programmed_s),
    )


def _outside(number: int) -> Plan:
    """One of the two containers with an EIP, in a network whose router leads outside."""
    port = msgspec.structs.replace(
        port_of(number),
        addresses=(Address(IPS[number], PREFIX, GATEWAY),),
        routes=True,
        eips=(Eip(EIPS[number], IPS[number], OUTER_PREFIX, None),),
    )
    inner = RouteKey(VNI, parse_prefix("10.9.0.0/24"))
    return Plan(
        put_gateways=(EndpointKey(VNI, GATEWAY),),
        put_endpoints=(endpoint_of(1 - number),),
        put_routes=(
            (RouteKey(VNI, parse_prefix("0.0.0.0/0")), Route(RouteKind.OUTSIDE)),
            (inner, Route(RouteKind.CONNECTED, (Hop(VNI, port.mtu, NO_ADDRESS),))),
        ),
        put_ports=(port,),
    )


def _program(host: Host, ports: Sequence[LocalPort], count: int) -> float:
    """Gives the first so many of the ports an EIP, and the others none; seconds."""
    wanted = []
    for number, port in enumerate(ports):
        eip = Eip(ip_from_int(_FIRST_OTHER + number, 4), port.addresses[0].ip, OUTER_PREFIX, None)
        wanted.append(msgspec.structs.replace(port, eips=(eip,) if number < count else ()))
    plan = Plan(put_ports=tuple(wanted))
    started = time.monotonic()
    host.apply(plan)
    return time.monotonic() - started


def _packets(program: Path, bed: Bed, target: str) -> float:
    """CPU ns per packet of a flow that was answered once."""
    with _flow(bed, target) as (client, server):
        chunks = traffic(program, "udp", client, server, CHUNKS, PER_CHUNK, PAYLOAD)
    return percentile([float(line) for line in chunks], CPU_QUANTILE)


@contextmanager
def _flow(bed: Bed, target: str) -> Iterator[tuple[int, int]]:
    """Two datagram sockets that have heard from each other, the client's connected to `target`."""
    with ExitStack() as stack:
        client, server = (
            stack.enter_context(inside(path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            for path in bed.namespaces
        )
        so_rcvbufforce = 33
        server.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, RECEIVE_BUFFER_BYTES)
        server.bind((bed.server_ip, 0))
        client.connect((target, server.getsockname()[1]))
        for one in (client, server):
            one.settimeout(TIMEOUT_S)
        client.send(b"there?")
        _, address = server.recvfrom(64)
        server.sendto(b"here", address)
        client.recv(64)
        for one in (client, server):
            one.setblocking(True)
        yield client.fileno(), server.fileno()


def _summary(case: _Case) -> Way:
    return Way(name=case.name, cpu_ns_per_packet=statistics.median(case.packet_ns), rounds_ns=tuple(case.packet_ns))


def _goals(ways: Sequence[Way], programmed_s: float) -> tuple[Goal, ...]:
    plain, few, many = (way.cpu_ns_per_packet for way in ways)
    return (
        Goal(
            name="CPU per packet, EIP to EIP across hosts",
            goal=f"at most {GOAL_COST}x of the plain overlay",
            measured=f"{few / plain:.2f}x ({plain:.0f} -> {few:.0f} ns), translated at both hosts",
            reached=few <= GOAL_COST * plain,
        ),
        Goal(
            name=f"CPU per packet, {MANY:,} EIPs on the host",
            goal=f"at most {GOAL_GROWTH}x of {FEW}",
            measured=f"{many / few:.2f}x ({few:.0f} -> {many:.0f} ns)",
            reached=many <= GOAL_GROWTH * few,
        ),
        Goal(
            name=f"{MANY:,} EIPs for ports of one host",
            goal=f"programmed in at most {GOAL_LOAD_S:.0f} s",
            measured=f"{programmed_s:.2f} s",
            reached=programmed_s <= GOAL_LOAD_S,
        ),
    )
