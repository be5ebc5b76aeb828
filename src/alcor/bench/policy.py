"""`alcor bench policy`: what security groups cost a packet and a connection, beside Linux bridge + VXLAN + nftables.

Called by the command line. One pair of containers across two hosts, without groups and then with 10, 100 and 10,000
rules in each direction, of which the last one allows what is sent; the bridge has the same rules in its forward chain,
behind `ct state established accept`. Two figures for each: CPU per packet of a flow that is established (UDP, 64
bytes), and CPU per TCP connection, opened and reset. All take turns within every round. And one more: how long an agent
takes to take in a VPC of a million endpoints, from the bundle to the table.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from alcor.agent.config import AgentConfig
from alcor.agent.reconcile import Received, Reconciler
from alcor.bench.compiling import compiled
from alcor.bench.dataplane import CPU_QUANTILE, PAYLOAD, RECEIVE_BUFFER_BYTES, SOURCE, TIMEOUT_S, traffic
from alcor.bench.dataplane_beds import (
    HOST_IPS,
    IPS,
    MTU,
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
from alcor.dataplane.base import DataPlaneError, Plan, Policy, PolicyKey, Rule
from alcor.dataplane.kernel import netns
from alcor.goalstate.objects import (
    HOST_SCOPE,
    EndpointGoal,
    PortAddress,
    PortGoal,
    ScopeUpdate,
    SubnetGoal,
    VpcGoal,
)
from alcor.goalstate.objects import Goal as GoalObject
from alcor.lab.results import Goal, percentile
from alcor.lab.rundir import DEFAULT_RUN_DIR, RunDirectory
from alcor.model.addresses import Mac, Prefix, format_ip, ip_from_int
from alcor.model.ids import Id, make_id
from alcor.model.nouns import PortKind
from alcor.wire.codec import BundleHead, encode_bundle, encode_part

CHUNKS, PER_CHUNK = 200, 256
CONNECTION_CHUNKS, CONNECTIONS_A_CHUNK = 60, 50
IDENTITY = 1
RULES = (10, 100, 10_000)
COMPARED_RULES = 100
ENDPOINTS = 1_000_000
GOAL_COST, GOAL_GROWTH, GOAL_LOAD_S = 1.15, 1.2, 5.0

Progress = Callable[[str], None]


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way between the two containers: medians over the rounds, and every round."""

    name: str
    rules: int
    """In each direction; 0: nothing is filtered."""
    cpu_ns_per_packet: float
    cpu_ns_per_connection: float
    packet_rounds_ns: tuple[float, ...]
    connection_rounds_ns: tuple[float, ...]


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


class _Case(msgspec.Struct, kw_only=True):
    """What is measured: how to set it up, and what it showed."""

    name: str
    rules: int
    bed: Bed
    prepare: Callable[[], None]
    packet_ns: list[float] = []
    connection_ns: list[float] = []


def run(rounds: int = 5, progress: Progress | None = None, run_dir: Path = DEFAULT_RUN_DIR) -> PolicyBench:
    """Measures everything; about 10 s a round. Raises DataPlaneError without root, or without nft(8)."""
    if os.geteuid() != 0:
        raise DataPlaneError("alcor bench policy makes network namespaces and loads BPF programs: run it as root")
    if rounds < 1:
        raise DataPlaneError("rounds must be at least 1")
    say = progress or (lambda _: None)
    run_directory = RunDirectory.make(run_dir, mounts=True)
    with compiled(SOURCE) as program, ExitStack() as stack:
        stack.callback(run_directory.remove)
        cases, hosts = _cases(run_directory, stack)
        for number in range(1, rounds + 1):
            for case in cases:
                say(f"round {number} of {rounds}: {case.name}")
                case.prepare()
                check(case.bed)
                case.packet_ns.append(_packets(program, case.bed))
                case.connection_ns.append(_connections(program, case.bed))
        say(f"{ENDPOINTS:,} endpoints into one host")
        endpoints_s, table_s = _endpoints(hosts[0], run_directory.data)
    ways = tuple(_summary(case) for case in cases)
    return PolicyBench(
        kernel=os.uname().release,
        rounds=rounds,
        ways=ways,
        endpoints=ENDPOINTS,
        endpoints_s=endpoints_s,
        table_s=table_s,
        goals=_goals(ways, endpoints_s, table_s),
    )


def _cases(run_directory: RunDirectory, stack: ExitStack) -> tuple[list[_Case], tuple[Host, Host]]:
    bed, hosts = alcor_bed(run_directory, stack)
    bridge, bridge_hosts = bridge_bed(run_directory)
    named = [("Alcor, no groups", 0), *((f"Alcor, {rules:,} rules", rules) for rules in RULES)]
    cases = [_Case(name=name, rules=rules, bed=bed, prepare=partial(_filter, hosts, rules)) for name, rules in named]
    named = [(bridge.name, 0), (f"{bridge.name} + nftables, {COMPARED_RULES:,} rules", COMPARED_RULES)]
    cases += [
        _Case(name=name, rules=rules, bed=bridge, prepare=partial(_nft, bridge_hosts, rules)) for name, rules in named
    ]
    return cases, hosts


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


# ---- measuring ----


def _packets(program: Path, bed: Bed) -> float:
    """CPU ns per packet of a flow that was answered once."""
    with _flow(bed) as (client, server):
        chunks = traffic(program, "udp", client, server, CHUNKS, PER_CHUNK, PAYLOAD)
    return percentile([float(line) for line in chunks], CPU_QUANTILE)


@contextmanager
def _flow(bed: Bed) -> Iterator[tuple[int, int]]:
    """Two connected datagram sockets that have heard from each other."""
    with ExitStack() as stack:
        server, client = (
            stack.enter_context(
                inside(bed.namespaces[number], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            )
            for number in (1, 0)
        )
        so_rcvbufforce = 33
        server.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, RECEIVE_BUFFER_BYTES)
        server.bind((bed.server_ip, 0))
        client.connect(server.getsockname())
        for one in (client, server):
            one.settimeout(TIMEOUT_S)
        client.send(b"there?")
        _, address = server.recvfrom(64)
        server.sendto(b"here", address)
        client.recv(64)
        for one in (client, server):
            one.setblocking(True)
        yield client.fileno(), server.fileno()


def _connections(program: Path, bed: Bed) -> float:
    """CPU ns per TCP connection."""
    fd = netns.open_path(bed.namespaces[0])
    try:
        with inside(bed.namespaces[1], lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
            listener.bind((bed.server_ip, 0))
            listener.listen(16)
            chunks = traffic(program, "connect", fd, listener.fileno(), CONNECTION_CHUNKS, CONNECTIONS_A_CHUNK)
    finally:
        os.close(fd)
    return percentile([float(line) for line in chunks], CPU_QUANTILE)


def _endpoints(host: Host, directory: Path) -> tuple[float, float]:
    """Seconds that an agent takes to take in a VPC with so many endpoints, from the bundle to the table; and of these
    what the table takes."""
    vpc, subnet, port = (Id(bytes((number,)) * 16) for number in (7, 8, 9))
    first = ip_from_int(0x0B000002, 4)
    objects: list[GoalObject] = [
        VpcGoal(vpc, 1, VNI + 1, MTU, True),
        SubnetGoal(subnet, 1, Prefix(ip_from_int(0x0B000000, 4), 8), None),
    ]
    mac = Mac(bytes.fromhex("020000000099"))
    objects += [
        EndpointGoal(make_id(number + 1, bytes(11)), 1, mac, (ip_from_int(0x0B000003 + number, 4),), HOST_IPS[1], 0)
        for number in range(ENDPOINTS)
    ]
    own_mac, place = Mac(bytes.fromhex("020000000098")), PortAddress(first, subnet)
    mine = PortGoal(port, 1, vpc, own_mac, (place,), True, PortKind.CONTAINER, "", "")
    parts = [
        encode_part(ScopeUpdate(scope=scope, revision=1, snapshot=True, objects=tuple(some)))
        for scope, some in ((HOST_SCOPE, [mine]), (vpc, objects))
    ]
    head = BundleHead(partition=1, epoch=1, sequence=1, host="bench", synced=True)
    bundle = encode_bundle(head, parts)
    del objects, parts
    config = AgentConfig(host="bench", state_dir=directory, listen="127.0.0.1", port=0, tls_dir=directory)

    def load() -> tuple[float, float]:
        agent = Reconciler(config, host.driver, time.monotonic, lambda: 0.5)
        agent.start()
        try:
            started = time.monotonic()
            (answer,) = agent.handle([Received(bundle, started, 1)])
            took = time.monotonic() - started
        finally:
            agent.close()
        if answer.ack is None or answer.ack.error or any(one.error for one in answer.ack.ports):
            raise DataPlaneError(f"the agent refused the bench's bundle: {answer}")
        return took, answer.ack.timings.tables_us / 1e6

    return host.worker.submit(load).result()


def _summary(case: _Case) -> Way:
    return Way(
        name=case.name,
        rules=case.rules,
        cpu_ns_per_packet=statistics.median(case.packet_ns),
        cpu_ns_per_connection=statistics.median(case.connection_ns),
        packet_rounds_ns=tuple(case.packet_ns),
        connection_rounds_ns=tuple(case.connection_ns),
    )


def _goals(ways: Sequence[Way], endpoints_s: float, table_s: float) -> tuple[Goal, ...]:
    bare, few, compared, many, bridge, nft = ways
    cost, growth = compared.cpu_ns_per_packet / bare.cpu_ns_per_packet, many.cpu_ns_per_packet / few.cpu_ns_per_packet
    theirs = nft.cpu_ns_per_packet / bridge.cpu_ns_per_packet
    rate, their_rate = 1e9 / compared.cpu_ns_per_connection, 1e9 / nft.cpu_ns_per_connection
    connection_growth = many.cpu_ns_per_connection / few.cpu_ns_per_connection
    return (
        Goal(
            name=f"CPU per packet, {compared.rules} rules and connections followed",
            goal=f"at most {GOAL_COST}x of the same path without",
            measured=f"{cost:.2f}x ({bare.cpu_ns_per_packet:.0f} -> {compared.cpu_ns_per_packet:.0f} ns); "
            f"bridge + VXLAN + nftables {nft.cpu_ns_per_packet:.0f} ns, {theirs:.2f}x of itself without",
            reached=cost <= GOAL_COST,
        ),
        Goal(
            name=f"CPU per packet, {many.rules:,} rules",
            goal=f"at most {GOAL_GROWTH}x of {few.rules} rules",
            measured=f"{growth:.2f}x (a new connection {connection_growth:.2f}x)",
            reached=growth <= GOAL_GROWTH,
        ),
        Goal(
            name=f"new connections a second of a core, {compared.rules} rules",
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
