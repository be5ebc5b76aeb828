"""`alcor bench nat`: what an EIP costs a packet, beside the plain overlay of the same data plane, and 1,000 of them.

Called by the command line. Two containers on two hosts, whose external devices are one wire: by the overlay, and from
EIP to EIP, which translates every packet twice (source at the one host, destination at the other); from a router's
shared address to an EIP likewise, and the answers to that. EIP to EIP with 10 and with 1,000 EIPs on the sending host.
And how long a host takes to be given 1,000 EIPs, for ports that it carries.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from alcor.bench.dataplane_beds import IPS, PREFIX, VNI, Host, alcor_bed, endpoint_of, port_of
from alcor.bench.host_bed import container_ports, room_for_descriptors
from alcor.bench.rounds import ANSWER, PACKET, Case, Progress, Way, place, ratio_goal, take_turns, within_goal
from alcor.bench.traffic import flow_ns
from alcor.dataplane.base import NO_ADDRESS, Address, Hop, LocalPort, Plan, Route, RouteKey, RouteKind, SharedAddress
from alcor.dataplane.endpoints import EndpointKey
from alcor.lab.results import Goal
from alcor.lab.rundir import DEFAULT_RUN_DIR
from alcor.model.addresses import format_ip, ip_from_int, parse_ip, parse_prefix
from alcor.model.blocks import FIRST_BLOCK
from alcor.model.nouns import Eip

FEW, MANY = 10, 1000
GOAL_COST, GOAL_GROWTH, GOAL_LOAD_S = 1.3, 1.2, 1.0
GATEWAY = parse_ip("10.9.0.1")
EIPS = (parse_ip("198.18.0.11"), parse_ip("198.18.0.12"))
SHARED = parse_ip("198.18.0.13")
OUTER_PREFIX = 16
EVERYWHERE = RouteKey(VNI, parse_prefix("0.0.0.0/0"))
_FIRST_OTHER = int.from_bytes(parse_ip("198.18.1.0")[12:], "big")


class NatBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `alcor bench nat` found. JSON-able."""

    kernel: str
    rounds: int
    ways: tuple[Way, ...]
    eips: int
    programmed_s: float
    """From the plan until the host carries so many EIPs more, of ports that it had."""
    goals: tuple[Goal, ...]


def run(rounds: int = 5, progress: Progress | None = None, run_dir: Path = DEFAULT_RUN_DIR) -> NatBench:
    """Measures everything; about 5 s a round, and 10 s for the ports. Raises DataPlaneError without root."""
    with place("nat", rounds, run_dir, progress) as at, room_for_descriptors(MANY):
        bed, hosts = alcor_bed(at.run, at.stack, external=True)
        for number, host in enumerate(hosts):
            host.apply(outside(number))
        at.say(f"{MANY:,} ports on one host")
        others = container_ports(MANY, first=100)
        hosts[0].apply(Plan(put_ports=others))
        at.stack.callback(lambda: hosts[0].apply(Plan(remove_ports=tuple(one.id for one in others))))
        programmed_s = _program(hosts[0], others, MANY)

        def case(name: str, eips: int, target: str, *, shares: bool = False) -> Case:
            def prepare() -> None:
                hosts[0].apply(_leaving(shares=shares))
                _program(hosts[0], others, eips)

            cost = partial(flow_ns, at.program, bed, target)
            return Case(name, prepare, {PACKET: cost, ANSWER: partial(cost, back=True)})

        cases = [
            case("overlay", 0, bed.server_ip),
            *(case(f"EIP to EIP, {count:,} on the host", count, format_ip(EIPS[1])) for count in (FEW, MANY)),
            case("shared address to EIP", FEW, format_ip(EIPS[1]), shares=True),
        ]
        ways = take_turns(cases, rounds, at.say)
    return NatBench(
        kernel=os.uname().release,
        rounds=rounds,
        ways=ways,
        eips=MANY,
        programmed_s=programmed_s,
        goals=_goals(ways, programmed_s),
    )


def outside(number: int) -> Plan:
    """One of the two containers with an EIP, in a network whose router leads outside."""
    port = port_with(number, eip=True)
    inner = RouteKey(VNI, parse_prefix("10.9.0.0/24"))
    return Plan(
        put_gateways=(EndpointKey(VNI, GATEWAY),),
        put_endpoints=(endpoint_of(1 - number),),
        put_routes=(
            (EVERYWHERE, Route(RouteKind.OUTSIDE)),
            (inner, Route(RouteKind.CONNECTED, (Hop(VNI, port.mtu, NO_ADDRESS),))),
        ),
        put_ports=(port,),
    )


def port_with(number: int, *, eip: bool) -> LocalPort:
    """One of the two containers, whose network leads outside."""
    return msgspec.structs.replace(
        port_of(number),
        addresses=(Address(IPS[number], PREFIX, GATEWAY),),
        routes=True,
        eips=(Eip(EIPS[number], IPS[number], OUTER_PREFIX, None),) if eip else (),
    )


def _leaving(*, shares: bool) -> Plan:
    """The first host's container leaves by its EIP, or by the host's block of a shared address."""
    here = endpoint_of(0)[1].host_ip
    address = SharedAddress(OUTER_PREFIX, None, port_of(0).mtu, here, ((FIRST_BLOCK, here),))
    hops = (Hop(0, 0, SHARED),) if shares else ()
    return Plan(
        put_shared=((SHARED, address),),
        put_routes=((EVERYWHERE, Route(RouteKind.OUTSIDE, hops)),),
        put_ports=(port_with(0, eip=not shares),),
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


def _goals(ways: Sequence[Way], programmed_s: float) -> tuple[Goal, ...]:
    plain, few, many, shared = ways
    return (
        ratio_goal(
            "CPU per packet, EIP to EIP across hosts",
            GOAL_COST,
            "the plain overlay",
            (plain, few),
            more=", translated at both hosts",
        ),
        ratio_goal(
            "CPU per packet, from a shared address to an EIP",
            GOAL_COST,
            "the plain overlay",
            (plain, shared),
            more=", translated at both hosts",
        ),
        ratio_goal(
            "CPU per packet, answers to a shared address",
            GOAL_COST,
            "the plain overlay",
            (plain, shared),
            (ANSWER,),
            more=", translated at both hosts",
        ),
        ratio_goal(f"CPU per packet, {MANY:,} EIPs on the host", GOAL_GROWTH, f"{FEW}", (few, many)),
        within_goal(f"{MANY:,} EIPs for ports of one host", GOAL_LOAD_S, programmed_s),
    )
