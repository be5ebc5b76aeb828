"""`alcor bench routing`: what a router costs a packet, beside the plain overlay and a Linux host that routes.

Called by the command line. Containers on two hosts: two of one network, and one of another that a router connects with
it. By Alcor: straight, and through the router with 10 and with 1,000 routes, whose prefixes lie all around the one that
is looked for. Beside it bridge + VXLAN, straight, and with the client's host as the router. A packet is UDP, 64 bytes,
of a flow that was answered. And how long an agent takes to take in a router with 1,000 routes, from the bundle.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from alcor.bench.dataplane_beds import (
    GATEWAYS,
    HOST_IPS,
    IPS,
    MTU,
    PREFIX,
    VNI,
    Bed,
    Host,
    alcor_bed,
    bridge_bed,
    endpoint_of,
    port_of,
    routed_bed,
)
from alcor.bench.rounds import (
    ANSWER,
    BOTH,
    PACKET,
    Case,
    Place,
    Progress,
    Way,
    compare,
    place,
    ratio_goal,
    take_turns,
    within_goal,
)
from alcor.bench.taking import SUBNET, VPC, Agent, agent_on, vpc_with_port
from alcor.bench.traffic import flow_ns
from alcor.dataplane.base import NO_ADDRESS, Address, Hop, LocalPort, Plan, Route, RouteKey, RouteKind
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.goalstate.objects import Goal as GoalObject
from alcor.goalstate.objects import InterfaceGoal, RouterGoal
from alcor.lab.results import Goal
from alcor.lab.rundir import DEFAULT_RUN_DIR
from alcor.model.addresses import Mac, Prefix, ip_from_int, parse_ip, parse_prefix
from alcor.model.ids import Id, format_id, make_id
from alcor.model.nouns import ExtraRoute

FEW, MANY = 10, 1000
REPEATS = 3
GOAL_COST, GOAL_GROWTH, GOAL_LOAD_S = 1.3, 1.2, 1.0
SUBNETS = (parse_prefix("10.9.0.0/24"), parse_prefix("10.9.1.0/24"))
VNIS = (VNI, VNI + 1)
SERVER, SERVER_MAC = parse_ip("10.9.1.12"), Mac(bytes.fromhex("020000000013"))
_FIRST = int.from_bytes(parse_ip("10.8.0.0")[12:], "big")


class RoutingBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `alcor bench routing` found. JSON-able."""

    kernel: str
    rounds: int
    ways: tuple[Way, ...]
    routes: int
    programmed_s: tuple[float, ...]
    """From the bundle until the host carries so many routes of a router, where it had ten; every time."""
    goals: tuple[Goal, ...]


def run(rounds: int = 5, progress: Progress | None = None, run_dir: Path = DEFAULT_RUN_DIR) -> RoutingBench:
    """Measures everything; about 5 s a round. Raises DataPlaneError without root."""
    with place("routing", rounds, run_dir, progress) as at:
        cases, hosts = _cases(at)
        ways = take_turns(cases, rounds, at.say)
        at.say(f"a router with {MANY:,} routes into one host")
        with agent_on(hosts[0], at.run.data) as agent:
            programmed_s = tuple(_programmed(agent, number) for number in range(REPEATS))
    return RoutingBench(
        kernel=os.uname().release,
        rounds=rounds,
        ways=ways,
        routes=MANY,
        programmed_s=programmed_s,
        goals=_goals(ways, programmed_s),
    )


def _cases(at: Place) -> tuple[list[Case], tuple[Host, Host]]:
    straight, hosts = alcor_bed(at.run, at.stack)
    for number, host in enumerate(hosts):
        host.apply(_networks(number))
    client, server = straight.namespaces
    routed = Bed(
        name="Alcor, routed", namespaces=(client, server.with_name(format_id(_server_port().id))), server=SERVER
    )

    def case(name: str, bed: Bed, prepare: Callable[[], object]) -> Case:
        cost = partial(flow_ns, at.program, bed, bed.server_ip)
        return Case(name, prepare, {PACKET: cost, ANSWER: partial(cost, back=True)})

    def nothing() -> None:
        pass

    bridge, linux = bridge_bed(at.run)[0], routed_bed(at.run, (SERVER,))[0]
    return [
        case("Alcor", straight, partial(_route, hosts, FEW)),
        *(case(f"Alcor, routed, {count:,} routes", routed, partial(_route, hosts, count)) for count in (FEW, MANY)),
        case(bridge.name, bridge, nothing),
        case(linux.name, linux, nothing),
    ], hosts


def _networks(number: int) -> Plan:
    """What a host has of the two networks but for their routes. The first runs the client, the other the servers."""
    client = msgspec.structs.replace(port_of(0), addresses=(Address(IPS[0], PREFIX, GATEWAYS[0]),), routes=True)
    server = (EndpointKey(VNIS[1], SERVER), Endpoint(SERVER_MAC, HOST_IPS[1]))
    return Plan(
        put_gateways=tuple(EndpointKey(vni, gateway) for vni, gateway in zip(VNIS, GATEWAYS, strict=True)),
        put_endpoints=(endpoint_of(0),) if number else (endpoint_of(1), server),
        put_ports=(_server_port(),) if number else (client,),
    )


def _server_port() -> LocalPort:
    """Of the other network."""
    return msgspec.structs.replace(
        port_of(1),
        id=make_id(3, bytes(11)),
        vni=VNIS[1],
        mac=SERVER_MAC,
        addresses=(Address(SERVER, PREFIX, GATEWAYS[1]),),
        routes=True,
    )


def _prefixes() -> list[Prefix]:
    """Neighbours of the two subnets: whoever looks these up in a trie must tell them apart bit by bit."""
    them = [Prefix(ip_from_int(_FIRST + (number << 8), 4), PREFIX) for number in range(MANY + len(SUBNETS))]
    return [prefix for prefix in them if prefix not in SUBNETS][:MANY]


def _route(hosts: Sequence[Host], count: int) -> None:
    """Gives the router so many routes, those to its own two networks among them, in both of them."""
    connected = [
        (prefix, Route(RouteKind.CONNECTED, (Hop(vni, MTU, NO_ADDRESS),)))
        for prefix, vni in zip(SUBNETS, VNIS, strict=True)
    ]
    extra, beyond = Route(RouteKind.HOPS, (Hop(VNI, MTU, IPS[1]),)), count - len(connected)
    others = _prefixes()
    put = [*connected, *((prefix, extra) for prefix in others[:beyond])]
    plan = Plan(
        put_routes=tuple((RouteKey(vni, prefix), route) for vni in VNIS for prefix, route in put),
        remove_routes=tuple(RouteKey(vni, prefix) for vni in VNIS for prefix in others[beyond:]),
    )
    for host in hosts:
        host.apply(plan)


def _programmed(agent: Agent, number: int) -> float:
    """Seconds that a router's ten routes take to become so many."""
    before, after = 2 * number + 1, 2 * number + 2
    cidr, address, nexthop = parse_prefix("11.0.0.0/24"), parse_ip("11.0.0.1"), parse_ip("11.0.0.3")
    interface = InterfaceGoal(VPC, SUBNET, cidr, address)

    def version(revision: int, count: int) -> list[GoalObject]:
        routes = tuple(sorted(ExtraRoute(prefix, nexthop) for prefix in _prefixes()[:count]))
        router = RouterGoal(Id(bytes((30,)) * 16), revision, (interface,), routes)
        return [*vpc_with_port(parse_ip("11.0.0.2"), cidr), router]

    agent.take(version(before, FEW))
    return agent.take(version(after, MANY)).seconds


def _goals(ways: Sequence[Way], programmed_s: Sequence[float]) -> tuple[Goal, ...]:
    straight, few, many, bridge, linux = ways
    return (
        ratio_goal(
            "CPU per packet between two networks through a router",
            GOAL_COST,
            "the plain overlay",
            (straight, few),
            BOTH,
            f"; bridge + VXLAN, routed {compare(bridge, linux, BOTH).times:.2f}x of itself without, "
            f"{compare(few, linux, BOTH).times:.2f}x of Alcor's",
        ),
        ratio_goal(f"CPU per packet, {MANY:,} routes", GOAL_GROWTH, f"{FEW}", (few, many), BOTH),
        within_goal(f"a router with {MANY:,} routes, from the bundle on", GOAL_LOAD_S, statistics.median(programmed_s)),
    )
