"""`alcor bench policy`: what security groups cost a packet and a connection, beside Linux bridge + VXLAN + nftables.

Called by the command line. One pair of containers across two hosts, without groups and then with 10, 100 and 10,000
rules in each direction, of which the last one allows what is sent; the bridge has the same rules in its forward chain,
behind `ct state established accept`. Two figures for each: CPU per packet of a flow that is established (UDP, 64
bytes), and CPU per TCP connection, opened and reset. All take turns within every round. And one more: how long an agent
takes to take in a VPC of a million endpoints, from the bundle to the table.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from alcor.bench.dataplane_beds import (
    HOST_IPS,
    IPS,
    PREFIX,
    VNI,
    Bed,
    Host,
    alcor_bed,
    bridge_bed,
    check,
    endpoint_of,
    inside,
    port_of,
)
from alcor.bench.rounds import CONNECTION, PACKET, Case, Place, Progress, Way, compare, place, ratio_goal, take_turns
from alcor.bench.taking import agent_on, vpc_with_port
from alcor.bench.traffic import connection_ns, flow_ns
from alcor.dataplane.base import DataPlaneError, Plan, Policy, PolicyKey, Rule
from alcor.goalstate.objects import EndpointGoal
from alcor.lab.results import Goal
from alcor.lab.rundir import DEFAULT_RUN_DIR
from alcor.model.addresses import Mac, Prefix, format_ip, ip_from_int
from alcor.model.ids import make_id

IDENTITY = 1
RULES = (10, 100, 10_000)
COMPARED_RULES = 100
ENDPOINTS = 1_000_000
GOAL_COST, GOAL_GROWTH, GOAL_LOAD_S = 1.15, 1.2, 5.0


class PolicyBench(msgspec.Struct, frozen=True, kw_only=True):
    """What `alcor bench policy` found. JSON-able."""

    kernel: str
    rounds: int
    ways: tuple[Way, ...]
    endpoints: int
    endpoints_s: float
    """From the bundle to the table, in one agent."""
    table_s: float
    """Of these, the table's."""
    goals: tuple[Goal, ...]


def run(rounds: int = 5, progress: Progress | None = None, run_dir: Path = DEFAULT_RUN_DIR) -> PolicyBench:
    """Measures everything; about 10 s a round. Raises DataPlaneError without root, or without nft(8)."""
    with place("policy", rounds, run_dir, progress) as at:
        cases, hosts = _cases(at)
        ways = take_turns(cases, rounds, at.say)
        at.say(f"{ENDPOINTS:,} endpoints into one host")
        endpoints_s, table_s = _endpoints(hosts[0], at.run.data)
    return PolicyBench(
        kernel=os.uname().release,
        rounds=rounds,
        ways=ways,
        endpoints=ENDPOINTS,
        endpoints_s=endpoints_s,
        table_s=table_s,
        goals=_goals(ways, endpoints_s, table_s),
    )


def _cases(at: Place) -> tuple[list[Case], tuple[Host, Host]]:
    bed, hosts = alcor_bed(at.run, at.stack)
    bridge, bridge_hosts = bridge_bed(at.run)

    def case(name: str, rules: int, where: Bed) -> Case:
        def prepare() -> None:
            if where is bed:
                _filter(hosts, rules)
            else:
                _nft(bridge_hosts, rules)
            check(where)

        target = where.server_ip
        return Case(
            name,
            prepare,
            {
                PACKET: partial(flow_ns, at.program, where, target),
                CONNECTION: partial(connection_ns, at.program, where, target),
            },
        )

    return [
        case("Alcor, no groups", 0, bed),
        *(case(f"Alcor, {rules:,} rules", rules, bed) for rules in RULES),
        case(bridge.name, 0, bridge),
        case(f"{bridge.name} + nftables, {COMPARED_RULES:,} rules", COMPARED_RULES, bridge),
    ], hosts


# ---- the rules, told to both ----


def _strangers(rules: int) -> Iterator[tuple[Prefix, int]]:
    """Addresses that nobody here has, and a port each: all rules but the last."""
    for number in range(rules - 1):
        yield Prefix(ip_from_int(0x0AC80000 + number, 4), 32), 1 + number % 60_000


def _filter(hosts: tuple[Host, Host], rules: int) -> None:
    """Gives both ports an identity with so many rules each way; 0: none."""
    everyone = Prefix(ip_from_int(int.from_bytes(IPS[0][12:], "big") >> 8 << 8, 4), PREFIX)
    sides = (False, True)
    found = [Rule(egress, 4, 6, port, port, prefix, None) for prefix, port in _strangers(rules) for egress in sides]
    found += [Rule(egress, 4, None, 0, 0xFFFF, everyone, None) for egress in sides]
    identity = IDENTITY if rules else 0
    policy = Policy(PolicyKey(VNI, IDENTITY), tuple(found))
    for number, host in enumerate(hosts):
        host.apply(
            Plan(
                put_policies=(policy,) if rules else (),
                put_endpoints=(endpoint_of(1 - number, identity),),
                put_ports=(port_of(number, identity),),
            )
        )


def _nft(hosts: tuple[Path, Path], rules: int) -> None:
    """The same rules in the forward chain of both hosts; 0: no chain."""
    lines = ["flush ruleset"]
    if rules:
        lines += [
            "add table ip groups",
            "add chain ip groups forward { type filter hook forward priority 0; policy drop; }",
            "add rule ip groups forward ct state established,related accept",
            "add rule ip groups forward ct state invalid drop",
            *(
                f"add rule ip groups forward ip saddr {format_ip(prefix.base)} tcp dport {port} accept"
                for prefix, port in _strangers(rules)
            ),
            f"add rule ip groups forward ip saddr {format_ip(IPS[0])}/{PREFIX} accept",
        ]
    script = "\n".join(lines)

    def load() -> None:
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1" if rules else "0")
        done = subprocess.run(["nft", "-f", "-"], input=script, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise DataPlaneError(f"nft: {done.stderr.strip()}")

    for host in hosts:
        inside(host, load)


# ---- the endpoints ----


def _endpoints(host: Host, directory: Path) -> tuple[float, float]:
    """Seconds that an agent takes to take in a VPC with so many endpoints, from the bundle to the table; and of these
    what the table takes."""
    first = ip_from_int(0x0B000002, 4)
    mac = Mac(bytes.fromhex("020000000099"))
    objects = vpc_with_port(first, Prefix(ip_from_int(0x0B000000, 4), 8)) + [
        EndpointGoal(make_id(number + 1, bytes(11)), 1, mac, (ip_from_int(0x0B000003 + number, 4),), HOST_IPS[1], 0)
        for number in range(ENDPOINTS)
    ]
    with agent_on(host, directory) as agent:
        taken = agent.take(objects)
    return taken.seconds, taken.tables_s


def _goals(ways: Sequence[Way], endpoints_s: float, table_s: float) -> tuple[Goal, ...]:
    bare, few, compared, many, bridge, nft = ways
    rate, their_rate = 1e9 / compared[CONNECTION], 1e9 / nft[CONNECTION]
    return (
        ratio_goal(
            f"CPU per packet, {COMPARED_RULES} rules and connections followed",
            GOAL_COST,
            "the same path without",
            (bare, compared),
            more=f"; bridge + VXLAN + nftables {nft[PACKET]:.0f} ns, {compare(bridge, nft).times:.2f}x of itself "
            "without",
        ),
        ratio_goal(
            f"CPU per packet, {RULES[-1]:,} rules",
            GOAL_GROWTH,
            f"{RULES[0]} rules",
            (few, many),
            more=f"; a new connection {compare(few, many, (CONNECTION,)).times:.2f}x",
        ),
        Goal(
            name=f"new connections a second of a core, {COMPARED_RULES} rules",
            goal="ahead of nftables and its connection tracking",
            measured=f"{rate:,.0f} against {their_rate:,.0f}",
            reached=rate > their_rate,
        ),
        Goal(
            name=f"{ENDPOINTS:,} endpoints into one host",
            goal=f"at most {GOAL_LOAD_S:.0f} s",
            measured=f"{endpoints_s:.2f} s from the bundle on, {table_s:.2f} s of it for the table",
            reached=endpoints_s <= GOAL_LOAD_S,
        ),
    )
