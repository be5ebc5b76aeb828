"""`alcor bench lb`: what a load balancer costs a packet and a connection, beside the overlay, nftables and HAProxy.

Called by the command line. Two containers on two hosts; the server has ten addresses, the members. By Alcor: straight
to the server, and to the balancer's address with 10 and with 1,000 members (who gets the flow is known beforehand, so
the other 990 need not be there). Beside it bridge + VXLAN, where the client's host routes to the servers' subnet: as it
is, with nftables' destination NAT to one of the ten at random, and with HAProxy in TCP mode on that same host, which is
as near to the client as a proxy can be. A packet is UDP, 64 bytes, of a flow that was answered; a connection is TCP,
opened and reset, and HAProxy's own CPU counts. And how long an agent takes to take in 1,000 members, from the bundle.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from alcor.bench.dataplane_beds import (
    HOST_IPS,
    IPS,
    MACS,
    PREFIX,
    VNI,
    Bed,
    Host,
    alcor_bed,
    inside,
    port_of,
    routed_bed,
)
from alcor.bench.rounds import (
    ANSWER,
    BOTH,
    CONNECTION,
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
from alcor.bench.taking import Agent, agent_on, vpc_with_port
from alcor.bench.traffic import connection_ns, flow_ns
from alcor.dataplane.base import Address, Backend, DataPlaneError, LocalPort, Plan, Service, ServiceKey
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.maglev import maglev_table, place_of, usable
from alcor.goalstate.objects import BalancerGoal, ListenerGoal, MemberGoal, PoolGoal
from alcor.goalstate.objects import Goal as GoalObject
from alcor.lab.results import Goal
from alcor.lab.rundir import DEFAULT_RUN_DIR
from alcor.model.addresses import Ip, Mac, Prefix, format_ip, ip_from_int, parse_ip
from alcor.model.ids import Id, make_id

FEW, MANY = 10, 1000
REPEATS = 3
GOAL_COST, GOAL_GROWTH, GOAL_LOAD_S = 1.3, 1.2, 1.0
PORT = 8080
TCP, UDP = 6, 17
VIP, VIP_MAC = parse_ip("10.9.0.100"), Mac(bytes.fromhex("0200000000c8"))
PATIENCE_S = 10.0


class LbBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `alcor bench lb` found. JSON-able."""

    kernel: str
    haproxy: str
    rounds: int
    ways: tuple[Way, ...]
    members: int
    programmed_s: tuple[float, ...]
    """From the bundle until the host carries so many members, where it had ten; every time."""
    goals: tuple[Goal, ...]


def run(rounds: int = 5, progress: Progress | None = None, run_dir: Path = DEFAULT_RUN_DIR) -> LbBench:
    """Measures everything; about 15 s a round. Raises DataPlaneError without root, nft(8) or haproxy(1)."""
    with place("lb", rounds, run_dir, progress) as at:
        cases, hosts, version = _cases(at)
        ways = take_turns(cases, rounds, at.say)
        at.say(f"{MANY:,} members into one host")
        with agent_on(hosts[0], at.run.data) as agent:
            programmed_s = tuple(_programmed(agent, number) for number in range(REPEATS))
    return LbBench(
        kernel=os.uname().release,
        haproxy=version,
        rounds=rounds,
        ways=ways,
        members=MANY,
        programmed_s=programmed_s,
        goals=_goals(ways, programmed_s),
    )


def _cases(at: Place) -> tuple[list[Case], tuple[Host, Host], str]:
    bed, hosts = alcor_bed(at.run, at.stack)
    servers, beyond = _from(IPS[1], FEW), _from(parse_ip("10.9.1.12"), FEW)
    routed, router = routed_bed(at.run, beyond, VIP)
    proxy, version = _haproxy(at, router, beyond)
    vip = format_ip(VIP)

    def case(
        name: str, where: Bed, target: str, prepare: Callable[[], object], ports: tuple[int, int] = (0, PORT)
    ) -> Case:
        cost = partial(flow_ns, at.program, where, target, ports)
        opened = partial(connection_ns, at.program, where, target, PORT)
        return Case(name, prepare, {PACKET: cost, ANSWER: partial(cost, back=True), CONNECTION: opened})

    def balanced(count: int) -> Case:
        services = _services(servers, count)
        source = _source_port(services[-1], servers)
        prepare = partial(_balance, hosts, servers, services)
        found = case(f"Alcor's load balancer, {count:,} members", bed, vip, prepare, (source, PORT))
        # Of more members than the server has addresses not all are there to accept a connection.
        return found if count <= len(servers) else _without(found, CONNECTION)

    plain = case("Alcor", bed, bed.server_ip, partial(_balance, hosts, servers, ()))
    beside = partial(_balance, hosts, servers, _services(servers, FEW))
    nat = case(f"{routed.name} + nftables, {FEW} members", routed, vip, partial(_nft, router, beyond))
    proxied = Case(
        f"{routed.name} + HAProxy, {FEW} members",
        partial(_nft, router, ()),
        {CONNECTION: partial(connection_ns, at.program, routed, vip, PORT, proxy)},
    )
    return (
        [
            plain,
            _without(case("Alcor, past a load balancer", bed, bed.server_ip, beside), CONNECTION),
            *(balanced(count) for count in (FEW, MANY)),
            case(routed.name, routed, routed.server_ip, partial(_nft, router, ())),
            nat,
            proxied,
        ],
        hosts,
        version,
    )


def _without(case: Case, what: str) -> Case:
    return case._replace(measures={name: measure for name, measure in case.measures.items() if name != what})


# ---- Alcor's ----


def _from(first: Ip, count: int) -> tuple[Ip, ...]:
    return tuple(ip_from_int(int.from_bytes(first[12:], "big") + number, 4) for number in range(count))


def _services(servers: Sequence[Ip], count: int) -> tuple[Service, ...]:
    """TCP and UDP at the VIP, over so many members: the servers, and addresses that nobody has."""
    others = _from(parse_ip("10.9.4.1"), count)
    members = tuple(sorted([Backend(ip, PORT) for ip in (*servers, *others)[:count]], key=lambda one: one.ip))
    return tuple(Service(ServiceKey(VNI, VIP, protocol, PORT), members) for protocol in (TCP, UDP))


def _source_port(service: Service, servers: Sequence[Ip]) -> int:
    """A source port with which the client meets one of the servers."""
    members = usable(service)
    table = maglev_table(members)
    return next(port for port in range(20_000, 60_000) if members[table[place_of(IPS[0], port)]].ip in servers)


def _balance(hosts: Sequence[Host], servers: Sequence[Ip], services: Sequence[Service]) -> None:
    """Gives both hosts these services; none: no load balancer."""
    key = EndpointKey(VNI, VIP)
    gone = [ServiceKey(VNI, VIP, protocol, PORT) for protocol in (TCP, UDP)]
    owners = ((IPS[0],), tuple(servers))
    for number, host in enumerate(hosts):
        other = Endpoint(MACS[1 - number], HOST_IPS[1 - number])
        host.apply(
            Plan(
                remove_vips=() if services else (key,),
                remove_services=() if services else tuple(gone),
                put_services=tuple(services),
                put_vips=((key, VIP_MAC),) if services else (),
                put_endpoints=tuple([(EndpointKey(VNI, ip), other) for ip in owners[1 - number]]),
                put_ports=(_port(number, owners[number], balanced=bool(services)),),
            )
        )


def _port(number: int, ips: Sequence[Ip], *, balanced: bool) -> LocalPort:
    addresses = tuple(Address(ip, PREFIX, None) for ip in ips)
    return msgspec.structs.replace(port_of(number), addresses=addresses, balanced=balanced)


def _programmed(agent: Agent, number: int) -> float:
    """Seconds that ten members take to become so many. The tables that it has made so far are forgotten."""
    cidr = Prefix(parse_ip("11.0.0.0"), 8)
    before, after = 2 * number + 1, 2 * number + 2
    balancer, pool = Id(bytes((20,)) * 16), Id(bytes((21,)) * 16)

    def version(revision: int, count: int) -> list[GoalObject]:
        listener = ListenerGoal(TCP, PORT, pool)
        found = [*vpc_with_port(parse_ip("11.0.0.2"), cidr)]
        found += [BalancerGoal(balancer, 1, parse_ip("11.0.0.9"), VIP_MAC, (listener,))]
        found += [PoolGoal(pool, 1, True, False, None)]
        members = [make_id(1 + at, revision.to_bytes(11, "big")) for at in range(count)]
        ips = _from(parse_ip("11.1.0.1"), count)
        found += [MemberGoal(id_, revision, pool, ip, PORT, 1, False) for id_, ip in zip(members, ips, strict=True)]
        return found

    agent.take(version(before, FEW))
    maglev_table.cache_clear()
    return agent.take(version(after, MANY)).seconds


# ---- nftables' and HAProxy's ----


def _nft(router: Path, members: Sequence[Ip]) -> None:
    """Destination NAT at the client's host from the VIP to one of the members, at random; none: no rules."""
    lines = ["flush ruleset"]
    if members:
        choice = ", ".join(f"{number} : {format_ip(ip)}" for number, ip in enumerate(members))
        lines += [
            "add table ip lb",
            "add chain ip lb arriving { type nat hook prerouting priority dstnat; }",
            f"add rule ip lb arriving ip daddr {format_ip(VIP)} meta l4proto {{ tcp, udp }} th dport {PORT} "
            f"dnat to numgen random mod {len(members)} map {{ {choice} }}",
        ]
    script = "\n".join(lines)

    def load() -> None:
        done = subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise DataPlaneError(f"nft: {done.stderr.strip()}")

    inside(router, load)


_HAPROXY = """
global
    nbthread 1
    maxconn 1000
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen lb
    bind {vip}:{port}
    balance roundrobin
"""


def _haproxy(at: Place, router: Path, members: Sequence[Ip]) -> tuple[int, str]:
    """HAProxy on the client's host, one thread, on the CPU that traffic.c is on; its process id and version."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise DataPlaneError("no haproxy(1), which the load balancer is measured beside: install haproxy")
    lines = [f"    server {number} {format_ip(ip)}:{PORT}" for number, ip in enumerate(members)]
    path = at.run.data / "haproxy.cfg"
    path.write_text(_HAPROXY.format(vip=format_ip(VIP), port=PORT) + "\n".join(lines) + "\n", encoding="utf-8")
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout.split()
    said = path.with_suffix(".log")
    with said.open("w", encoding="utf-8") as log:
        command = [program, "-db", "-f", str(path)]
        process = inside(router, lambda: subprocess.Popen(command, stdout=log, stderr=log))
    at.stack.callback(process.wait)
    at.stack.callback(process.kill)
    os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
    deadline = time.monotonic() + PATIENCE_S
    while not inside(router, _listens):
        if process.poll() is not None or time.monotonic() > deadline:
            raise DataPlaneError(f"haproxy does not listen: {said.read_text(encoding='utf-8').strip()[:500]}")
        time.sleep(0.05)
    return process.pid, next((word for word in version if word[:1].isdigit()), "")


def _listens() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        return one.connect_ex((format_ip(VIP), PORT)) == 0


# ---- what is said ----


def _goals(ways: Sequence[Way], programmed_s: Sequence[float]) -> tuple[Goal, ...]:
    plain, beside, few, many, routed, nat, proxied = ways
    rates = {way.name: 1e9 / way[CONNECTION] for way in (plain, few, routed, nat, proxied)}
    behind = [compare(few, way, (CONNECTION,)).times for way in (proxied, nat)]
    return (
        ratio_goal(
            "CPU per packet of an established flow, load-balanced",
            GOAL_COST,
            "the plain overlay",
            (plain, few),
            BOTH,
            f": to the member {compare(plain, few).times:.2f}x, from it "
            f"{compare(plain, few, (ANSWER,)).times:.2f}x; bridge + VXLAN + nftables "
            f"{compare(routed, nat, BOTH).times:.2f}x of itself without, "
            f"{compare(few, nat, BOTH).times:.2f}x of Alcor's",
        ),
        Goal(
            name=f"new connections a second of a core, {FEW} members",
            goal="ahead of HAProxy in TCP mode and of nftables' destination NAT",
            measured=f"{rates[few.name]:,.0f} against {rates[proxied.name]:,.0f} ({behind[0]:.1f}x of Alcor's CPU) and "
            f"{rates[nat.name]:,.0f} ({behind[1]:.1f}x); without a load balancer {rates[plain.name]:,.0f} against "
            f"{rates[routed.name]:,.0f}",
            reached=min(behind) > 1,
        ),
        ratio_goal(f"CPU per packet, {MANY:,} members", GOAL_GROWTH, f"{FEW}", (few, many), BOTH),
        within_goal(
            f"{MANY:,} members of a load balancer, from the bundle on", GOAL_LOAD_S, statistics.median(programmed_s)
        ),
        Goal(
            name="CPU per packet between ports of a VPC that has a load balancer",
            goal="said, not promised",
            measured=f"{compare(plain, beside, BOTH).times:.2f}x of one that has none",
            reached=None,
        ),
    )
