"""`alcor bench qos`: does TCP get the rate that its port is limited to, and what does a queue cost a packet?

Called by the command line. One pair of containers across two hosts. Rates: a stream of 10 s through a limit of what the
port sends, and of what the other is given; likewise from one floating IP to another, of which one is limited. The rate
is of Ethernet frames, so what TCP can carry of it is its payload's share of a full frame. Cost: CPU per packet (UDP, 64
bytes) without a policy, with a mark, and through queues that are never full; all take turns within every round.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from alcor.bench.dataplane_beds import MTU, Bed, Host, alcor_bed, check, port_of
from alcor.bench.nat import EIPS, outside, port_with
from alcor.bench.rounds import PACKET, Case, Place, Progress, Way, compare, place, take_turns
from alcor.bench.traffic import connected, flow_ns, traffic
from alcor.dataplane.base import EipLimit, LocalPort, Plan, RateLimit
from alcor.lab.results import Goal
from alcor.lab.rundir import DEFAULT_RUN_DIR
from alcor.model.addresses import format_ip

RATES_KBPS = (1_000, 10_000, 100_000, 1_000_000)
STREAM_MS = 10_000
NEVER_FULL = RateLimit(20_000_000, 1_000_000)
FRAME, SEGMENT = MTU + 14, MTU - 20 - 32
"""Bytes of a full frame, and of TCP's payload in it (20 of IP, 20 of TCP, 12 of timestamps)."""
GOAL_ERROR = 0.02
PORT, EIP = "port", "floating IP"


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A stream through a limit, `of` a port or a floating IP. `error`: how far it was from what TCP can carry at that
    rate."""

    of: str
    direction: str
    kbps: int
    seconds: float
    goodput_kbps: float
    error: float
    dropped: int
    """Packets that found no room in the queue."""


class QosBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `alcor bench qos` found. JSON-able."""

    kernel: str
    rates: tuple[Rate, ...]
    ways: tuple[Way, ...]
    goals: tuple[Goal, ...]


def run(
    rounds: int = 5,
    progress: Progress | None = None,
    run_dir: Path = DEFAULT_RUN_DIR,
    rates: Sequence[int] = RATES_KBPS,
) -> QosBench:
    """Measures everything; 40 s a rate and 2 s a round. Raises DataPlaneError without root."""
    with place("qos", rounds, run_dir, progress) as at:
        bed, hosts = alcor_bed(at.run, at.stack, external=True)
        check(bed)
        measured = [_stream(at, bed, hosts, PORT, number, kbps) for kbps in rates for number in range(2)]
        ways = take_turns(_cases(at.program, bed, hosts), rounds, at.say)
        for number, host in enumerate(hosts):
            host.apply(outside(number))
        measured += [_stream(at, bed, hosts, EIP, number, kbps) for kbps in rates for number in range(2)]
    return QosBench(kernel=os.uname().release, rates=tuple(measured), ways=ways, goals=_goals(measured, ways))


def _put(host: Host, port: LocalPort) -> None:
    host.apply(Plan(put_ports=(port,)))


def _limited(of: str, number: int, limit: RateLimit) -> tuple[LocalPort, LocalPort]:
    """The container's port, without a limit and with it, one way: 0 sends, 1 receives."""
    if of == PORT:
        plain = port_of(number)
        return plain, msgspec.structs.replace(plain, **{("egress_limit", "ingress_limit")[number]: limit})
    plain = port_with(number, eip=True)
    one = EipLimit(EIPS[number], None if number else limit, limit if number else None)
    return plain, msgspec.structs.replace(plain, eip_limits=(one,))


def _stream(at: Place, bed: Bed, hosts: Sequence[Host], of: str, number: int, kbps: int) -> Rate:
    """Container 0 sends to container 1; the limit is at `number`, so that 0 is egress and 1 ingress."""
    host, direction = hosts[number], ("egress", "ingress")[number]
    at.say(f"a stream of {STREAM_MS // 1000} s through {kbps / 1000:g} Mbit/s of a {of}, {direction}")
    plain, limited = _limited(of, number, RateLimit(kbps))
    _put(host, limited)
    with connected(bed, socket.SOCK_STREAM, by=format_ip(EIPS[1]) if of == EIP else "") as (client, server):
        (line,) = traffic(at.program, "stream", client, server, STREAM_MS)
    counted = host.worker.submit(host.driver.counters).result()[plain.id].dropped
    _put(host, plain)
    received, elapsed_ns, _ = (int(word) for word in line.split())
    goodput = received * 8_000_000 / elapsed_ns
    return Rate(
        of=of,
        direction=direction,
        kbps=kbps,
        seconds=elapsed_ns / 1e9,
        goodput_kbps=goodput,
        error=goodput / (kbps * SEGMENT / FRAME) - 1,
        dropped=counted.get("rate_limit" if of == PORT else "eip_rate_limit", 0),
    )


def _cases(program: Path, bed: Bed, hosts: Sequence[Host]) -> list[Case]:
    """What each of them changes of the sender's port, and of the receiver's."""
    changes: dict[str, tuple[dict[str, object], dict[str, object]]] = {
        "no policy": ({}, {}),
        "a mark": ({"dscp": 46}, {}),
        "a queue of the sender": ({"egress_limit": NEVER_FULL}, {}),
        "a queue of the receiver": ({}, {"ingress_limit": NEVER_FULL}),
    }

    def prepare(both: tuple[dict[str, object], dict[str, object]]) -> None:
        for number, change in enumerate(both):
            _put(hosts[number], msgspec.structs.replace(port_of(number), **change))

    cost = partial(flow_ns, program, bed, bed.server_ip)
    return [Case(name, partial(prepare, both), {PACKET: cost}) for name, both in changes.items()]


def _goals(rates: Sequence[Rate], ways: Sequence[Way]) -> tuple[Goal, ...]:
    goals = [
        Goal(
            name=f"TCP through {rate.kbps / 1000:g} Mbit/s of a {rate.of}, {rate.direction}, {STREAM_MS // 1000} s",
            goal=f"within {GOAL_ERROR:.0%} of the rate",
            measured=f"{rate.error:+.2%}: {rate.goodput_kbps / 1000:.3f} Mbit/s of payload, {rate.dropped} dropped",
            reached=abs(rate.error) <= GOAL_ERROR,
        )
        for rate in rates
    ]
    plain = ways[0]
    goals += [
        Goal(
            name=f"CPU per packet with {way.name}",
            goal="said, not promised",
            measured=f"{compare(plain, way).times:.2f}x of {plain[PACKET]:.0f} ns without a policy",
            reached=None,
        )
        for way in ways[1:]
    ]
    return tuple(goals)
