"""The compiled program and the executable model decide alike, packet by packet and byte by byte.

Random tables, random packets (honest ones, and honest ones bent), both sides, from a seed. A failure prints the seed:
add it to KEPT_SEEDS. ALCOR_FUZZ_PACKETS says how many packets, ALCOR_FUZZ_SEED where to start (default: anywhere).

What is compared: the verdict and its detail (`skb->cb`), the TC action, the bytes of every packet that leaves, and the
counters and drops of all interfaces. What is not: the flow hash in the outer source port, which is the kernel's, and
the outer Ethernet header, which the kernel's neighbour lookup fills in later.
"""

import os
import random
import secrets
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.dataplane import balances, outside, talks, worlds

from alcor.dataplane.base import OUTSIDE, Miss, Request
from alcor.dataplane.drops import DropReason
from alcor.dataplane.ebpf import routes, services, sharing
from alcor.dataplane.ebpf import tables as rows
from alcor.dataplane.ebpf.balancing import Balancing
from alcor.dataplane.ebpf.policing import Policing
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.ebpf.queues import QUEUE_HANDLE, QUEUED_INDEX
from alcor.dataplane.endpoints import Endpoint
from alcor.dataplane.fake.lb import BalancedKey, Way
from alcor.dataplane.fake.nat import from_eip_queue, from_external
from alcor.dataplane.fake.pipeline import from_overlay, from_port, to_port
from alcor.dataplane.fake.policy import FlowKey
from alcor.dataplane.fake.sharing import Binding, BindingKey
from alcor.dataplane.fake.tables import EipRow, RemoteRow, Sender, Tables
from alcor.dataplane.fake.walk import Direction, Verdict, VerdictKind
from alcor.dataplane.kernel import bpf, links, netns
from alcor.dataplane.kernel.libbpf import RingBuffer
from alcor.dataplane.kernel.netlink import Netlink
from alcor.model.addresses import Ip, ip_version

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: the compiled data plane needs root and BPF"),
]

PACKETS = int(os.environ.get("ALCOR_FUZZ_PACKETS", "30000"))
PACKETS_PER_WORLD = 300
PHASES = 3
"""Of a world: between them rules change and connections age."""
KEPT_SEEDS: tuple[int, ...] = (1, 2, 3)
"""Seeds that failed once, and three to start with."""
IFINDEXES = list(range(1001, 1013))
UNDERLAY_IFINDEX = 1013
HELD_IFINDEX = 1014
INTERFACES = (*IFINDEXES, UNDERLAY_IFINDEX, HELD_IFINDEX, outside.IFINDEX)
TC_ACT_OK, TC_ACT_SHOT, TC_ACT_STOLEN, TC_ACT_REDIRECT = 0, 2, 4, 7
ACTIONS = {
    VerdictKind.DROP: TC_ACT_SHOT,
    VerdictKind.PASS: TC_ACT_OK,
    VerdictKind.HOLD: TC_ACT_STOLEN,
    VerdictKind.SERVE: TC_ACT_STOLEN,
}
ANSWERS = "a backend answers what came from outside"
BEYOND = {
    VerdictKind.EXTERNAL: "IPv6 leaves",
    VerdictKind.TURN: "IPv6 turns back",
    VerdictKind.DELIVER: "IPv6 comes in",
    VerdictKind.REPLY: "IPv6 is asked for",
}
"""Ends of IPv6 packets outside."""
LIMITED = "what leaves waits for its EIP", "what comes waits for its EIP"
ETHERNET, OUTER_IP, VLAN = 14, 20, b"\x81\0"


class Kernel(NamedTuple):
    """The compiled program in a namespace of its own, and the one thread that lives there."""

    program: Program
    inside: ThreadPoolExecutor
    ring: RingBuffer
    requests: RingBuffer


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """The program, loaded over its own maps; interfaces with the worlds' indexes to run it at. All anonymous."""
    with ThreadPoolExecutor(max_workers=1) as inside, tempfile.TemporaryDirectory() as directory:
        namespace = inside.submit(netns.make_here).result()
        pins = Path(directory) / "bpf"
        try:
            inside.submit(_make_interfaces).result()
            config = rows.HostConfig(Ip(bytes(16)), UNDERLAY_IFINDEX)
            with Program.open(
                None, pins, config, remote_entries=4096, translation_entries=4096, flow_entries=16384
            ) as program:
                ring = RingBuffer(program.misses.fd)
                requests = RingBuffer(program.requests.fd)
                yield Kernel(program, inside, ring, requests)
                ring.close()
                requests.close()
        finally:
            if pins.exists():
                bpf.unmount_bpffs(pins)
            os.close(namespace)


def _make_interfaces() -> None:
    # This thread's namespace alone: no router solicitations of IPv6 among the counted packets.
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    with Netlink() as netlink:
        pairs = [links.veth(f"p{index}", index, f"q{index}") for index in INTERFACES]
        netlink.check([*pairs, links.veth("queued", QUEUED_INDEX, "queue")])


def _load(program: Program, tables: Tables, onlink_length: int = 0) -> None:
    """Makes the maps hold these tables and nothing else, every counter at zero.

    The underlay's on-link prefix decides who looks for the next hop, and nothing that is compared here.
    """
    for opened in (
        *(program.ports, program.local, program.remote, program.senders, program.counters, program.drops),
        *(program.policies, program.rules, program.prefixes, program.flows, program.fragments),
        *(program.forwards, program.on_demand, program.request_rates, program.eips, program.forwardings),
        *(program.routers, program.told_rates),
        *(program.routes, program.translations, program.macs),
        *(program.services, program.backends, program.balanced, program.shared, program.blocks, program.bindings),
    ):
        keys = [key for key, _ in opened.items()]
        opened.delete_batch(b"".join(keys), len(keys))
    _load_policies(program, tables)
    for slot in range(64):
        program.service_epochs.put(services.SLOT.pack(slot), services.SLOT.pack(0))
    Balancing(program).put([row.service for row in tables.balance.services.values()])
    senders = [
        rows.SENDER_KEY.pack(96 + one.prefix.length + (96 if one.prefix.version == 4 else 0), ifindex, *_sender(one))
        for ifindex, some in tables.senders.items()
        for one in some
    ]
    program.senders.update_batch(b"".join(senders), rows.SENDER_VALUE * len(senders), len(senders))
    config = tables.config
    end = rows.HostConfig(config.underlay_ip, config.underlay_ifindex, config.vxlan_port, onlink_length, HELD_IFINDEX)
    program.config.put(rows.CONFIG_KEY, rows.pack_config(end))
    ports = [
        (
            ifindex,
            rows.PortRow(
                id=row.id,
                vni=row.vni,
                mtu=row.mtu,
                mac=row.mac,
                flags=rows.PortFlag(row.flags),
                identity=row.identity,
                digest=row.digest,
                queues=rows.Queues(row.queue_out, row.queue_in),
                dscp=row.dscp,
            ),
        )
        for ifindex, row in tables.ports.items()
    ]
    program.ports.update_batch(*rows.pack_ports(ports), len(ports))
    local = [
        (key, rows.LocalRow(row.ifindex, rows.EndpointFlag(row.flags), row.mac, row.identity, row.queue))
        for key, row in tables.local.items()
    ]
    program.local.update_batch(*rows.pack_locals(local), len(local))
    for key, row in tables.remote.items():
        program.remote.put(rows.pack_key(key), _remote(row))
    for key, row in tables.forwards.items():
        program.forwards.put(rows.pack_key(key), _remote(row))
    program.routes.update_batch(*routes.pack_routes(list(tables.routes.items())), len(tables.routes))
    translations = list(tables.translations.items())
    program.translations.update_batch(*routes.pack_translations(translations), len(translations))
    macs = [
        (rows.MacKey(*key), rows.LocalRow(row.ifindex, rows.EndpointFlag(row.flags), row.mac, row.identity, row.queue))
        for key, row in tables.macs.items()
    ]
    program.macs.update_batch(*rows.pack_macs(macs), len(macs))
    for ifindex, (v4, v6) in tables.routers.items():
        program.routers.put(rows.pack_ifindex(ifindex), rows.ROUTER.pack(v4 or bytes(16), v6 or bytes(16)))
    program.on_demand.update_batch(*rows.pack_vnis(sorted(tables.on_demand)), len(tables.on_demand))
    _load_outside(program, tables)
    program.zero_counters(sorted(tables.ports))


def _load_outside(program: Program, tables: Tables) -> None:
    device = tables.external
    program.external.put(
        rows.CONFIG_KEY, rows.EXTERNAL.pack(*((device.ifindex, device.mac) if device else (0, bytes(6))))
    )
    for key, row in tables.eips.items():
        program.eips.put(rows.pack_key(key), rows.EIP.pack(*_pack_eip(key.vni, row)))
    sharing.put(program, tables.config.underlay_ip, sorted(tables.sharing.shared.items(), key=lambda one: one[0]))
    bindings = {_pack_binding_key(key): _pack_binding(row) for key, row in tables.sharing.bindings.items()}
    program.bindings.update_batch(b"".join(bindings), b"".join(bindings.values()), len(bindings))
    for named, forwarding in tables.forwardings.items():
        head = _pack_eip(named.vni, forwarding.other)
        raw = rows.FORWARDING_KEY.pack(named.vni, named.ip, named.port.to_bytes(2, "big"), named.protocol)
        program.forwardings.put(raw, rows.FORWARDING.pack(*head, forwarding.port.to_bytes(2, "big")))


def _pack_eip(vni: int, row: EipRow) -> tuple[bytes, int, int, bytes, bytes]:
    """The fields of a row under a key of that VNI."""
    if vni == OUTSIDE:
        return row.ip, row.vni, row.ifindex, rows.IFINDEX.pack(row.queue), bytes(4)
    gateway = row.gateway[12:] if row.gateway else bytes(4)
    return row.ip, row.queue, row.ifindex, gateway, row.mask.to_bytes(4, "big")


def _pack_binding_key(key: BindingKey) -> bytes:
    local, remote, ifindex, *ports, protocol = key.flow
    packed = rows.FLOW_KEY.pack(local, remote, ifindex, *(port.to_bytes(2, "big") for port in ports), protocol)
    return packed[:-3] + bytes((key.back, 0, 0))


def _pack_binding(row: Binding) -> bytes:
    """As if it had been used just now."""
    now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return rows.BINDING.pack(row.ip, row.vni, row.ifindex, now_ns, row.port.to_bytes(2, "big"), int(row.flags))


def _remote(row: RemoteRow) -> bytes:
    return rows.pack_endpoint(Endpoint(row.mac, row.host_ip, row.identity), rows.EndpointUse(row.use))


def _sender(one: Sender) -> tuple[bytes, bytes]:
    return one.mac, one.prefix.base


def _load_policies(program: Program, tables: Tables) -> None:
    """Makes the tables of policy hold these policies, of this generation; connections stay."""
    policing = Policing(program)
    policing.remove(policing.observe())
    policing.put(list(tables.policy.policies.values()))
    program.generation.put(rows.CONFIG_KEY, tables.policy.generation.to_bytes(4, sys.byteorder))


def _flows(program: Program) -> dict[FlowKey, tuple[object, ...]]:
    """The connections that the program knows, without their clocks."""
    found: dict[FlowKey, tuple[object, ...]] = {}
    for key, value in program.flows.items():
        local, remote, ifindex, local_port, remote_port, protocol = rows.FLOW_KEY.unpack(key)
        _, generation, identity, selector, state, egress, fins = rows.FLOW.unpack(value)
        ports = int.from_bytes(local_port, "big"), int.from_bytes(remote_port, "big")
        named = FlowKey(Ip(local), Ip(remote), ifindex, *ports, protocol)
        found[named] = generation, identity, int.from_bytes(selector, "big"), state, bool(egress), fins
    return found


def _bindings(program: Program) -> dict[BindingKey, tuple[object, ...]]:
    """The connections through shared addresses that the program knows, without their clocks."""
    found: dict[BindingKey, tuple[object, ...]] = {}
    for key, value in program.bindings.items():
        local, remote, ifindex, local_port, remote_port, protocol = rows.FLOW_KEY.unpack(key)
        ports = int.from_bytes(local_port, "big"), int.from_bytes(remote_port, "big")
        flow = FlowKey(Ip(local), Ip(remote), ifindex, *ports, protocol)
        ip, vni, index, _, port, flags = rows.BINDING.unpack(value)
        found[BindingKey(flow, back=bool(key[-3]))] = ip, vni, index, int.from_bytes(port, "big"), flags
    return found


def _modelled_bindings(tables: Tables) -> dict[BindingKey, tuple[object, ...]]:
    return {
        key: (row.ip, row.vni, row.ifindex, row.port, int(row.flags)) for key, row in tables.sharing.bindings.items()
    }


def _age_bindings(program: Program, tables: Tables, ns: int) -> None:
    for key, value in list(program.bindings.items()):
        ip, vni, ifindex, seen_ns, *rest = rows.BINDING.unpack(value)
        program.bindings.put(key, rows.BINDING.pack(ip, vni, ifindex, (seen_ns - ns) % (1 << 64), *rest))
    for row in tables.sharing.bindings.values():
        row.seen_ns -= ns


def _balanced(program: Program) -> dict[BalancedKey, tuple[object, ...]]:
    """The choices that the program remembers, without their clocks."""
    found: dict[BalancedKey, tuple[object, ...]] = {}
    for key, value in program.balanced.items():
        local, remote, ifindex, local_port, remote_port, protocol = rows.FLOW_KEY.unpack(key)
        ports = int.from_bytes(local_port, "big"), int.from_bytes(remote_port, "big")
        flow = FlowKey(Ip(local), Ip(remote), ifindex, *ports, protocol)
        ip, port, flags, slot, epoch, _, until_ns = services.BALANCED.unpack(value)
        found[BalancedKey(flow, Way(key[-3]))] = ip, int.from_bytes(port, "big"), flags, slot, epoch, until_ns > 0
    return found


def _modelled_balanced(tables: Tables) -> dict[BalancedKey, tuple[object, ...]]:
    return {
        key: (row.ip, row.port, int(row.flags), row.slot, row.epoch, row.until_ns > 0)
        for key, row in tables.balance.balanced.items()
    }


def _age_balanced(program: Program, tables: Tables, ns: int) -> None:
    for key, value in list(program.balanced.items()):
        *rest, seen_ns, until_ns = services.BALANCED.unpack(value)
        program.balanced.put(key, services.BALANCED.pack(*rest, seen_ns - ns, until_ns and until_ns - ns))
    for key, value in list(program.backends.items()):
        until_ns, failed = services.BACKEND_STATE.unpack(value)
        program.backends.put(key, services.BACKEND_STATE.pack(until_ns and until_ns - ns, failed))
    for row in tables.balance.balanced.values():
        row.seen_ns -= ns
        row.until_ns = row.until_ns and row.until_ns - ns
    for service in tables.balance.services.values():
        states = service.backends.items()
        service.backends = {name: (until and until - ns, failed) for name, (until, failed) in states}


def _modelled_flows(tables: Tables) -> dict[FlowKey, tuple[object, ...]]:
    return {
        key: (flow.generation, flow.identity, flow.selector, int(flow.state), flow.egress, flow.fins)
        for key, flow in tables.policy.flows.items()
    }


def _age(program: Program, tables: Tables, seconds: int) -> None:
    """Makes every connection older, on both sides."""
    for key, value in list(program.flows.items()):
        seen_ns, *rest = rows.FLOW.unpack(value)
        aged_ns = (seen_ns - seconds * 10**9) % (
            1 << 64
        )  # the kernel counts from its start, which may be less long ago
        program.flows.put(key, rows.FLOW.pack(aged_ns, *rest))
    for flow in tables.policy.flows.values():
        flow.seen_ns -= seconds * 10**9
    _age_balanced(program, tables, seconds * 10**9)
    _age_bindings(program, tables, seconds * 10**9)


def _can_run(frame: bytes) -> bool:
    """A test run wants the headers that the kernel itself would look at; shorter frames: `test_frames_cut_anywhere`."""
    return len(frame) >= {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], ETHERNET + 1)


class Expected:
    """What the model says that the counters must show after a world's packets."""

    def __init__(self, tables: Tables) -> None:
        self.traffic = {ifindex: [0, 0, 0, 0] for ifindex in tables.ports}
        self.drops: dict[int, Counter[int]] = {}

    def add(self, verdict: Verdict) -> None:
        """Counts one packet."""
        for ifindex, direction, length in verdict.counts:
            if ifindex == outside.IFINDEX:
                continue  # no port: its packets are not counted
            at = 0 if direction is Direction.SENT else 2
            self.traffic[ifindex][at] += 1
            self.traffic[ifindex][at + 1] += length
        if verdict.reason is not None:
            self.drops.setdefault(verdict.ifindex, Counter())[int(verdict.reason)] += 1


def _differences(packet: worlds.Packet, verdict: Verdict, run: bpf.TestRun) -> list[str]:
    """What the two sides disagree on; nothing, if all is well."""
    found = []
    detail = verdict.reason if verdict.kind is VerdictKind.DROP else verdict.queue or verdict.ifindex
    if verdict.kind is VerdictKind.QUEUE:
        mark = verdict.ifindex | rows.MARK_TO_PORT * verdict.received | rows.MARK_OUTSIDE * verdict.outside
        waits = mark, QUEUE_HANDLE << 16 | verdict.queue
        if waits != (run.mark, run.priority):
            found.append(f"mark and priority: model {waits}, program {run.mark, run.priority}")
    if verdict.kind is VerdictKind.TURN and run.mark != rows.MARK_CAME_IN * verdict.outside:
        found.append(f"mark of what turns: {run.mark:#x}")
    if verdict.kind in (VerdictKind.DROP, VerdictKind.QUEUE) and verdict.ifindex != run.cb[2]:
        found.append(f"blame: model {verdict.ifindex}, program {run.cb[2]}")
    if (verdict.kind, detail) != run.cb[:2]:
        found.append(f"verdict: model {verdict.kind.name} {detail}, program {run.cb[:2]}")
    if ACTIONS.get(verdict.kind, TC_ACT_REDIRECT) != run.retval:
        found.append(f"action: {run.retval}")
    if verdict.kind is VerdictKind.DROP:
        return found
    frame = run.frame
    if verdict.next_hop is not None:
        hop = run.cb[3].to_bytes(4, sys.byteorder), run.cb[4].to_bytes(4, sys.byteorder)
        if verdict.next_hop[12:] != hop[0] or (ip_version(verdict.next_hop) == 6 and verdict.next_hop[:4] != hop[1]):
            found.append(f"next hop: model {verdict.next_hop.hex()}, program {hop}")
    if verdict.kind is VerdictKind.TUNNEL:
        frame = frame[ETHERNET:]
    if verdict.kind is VerdictKind.TUNNEL and packet.ifindex:
        port = slice(OUTER_IP, OUTER_IP + 2)
        if frame[OUTER_IP] & 0xC0 != 0xC0:
            found.append(f"outer source port {frame[port].hex()} is outside 0xc000-0xffff")
        frame = frame[: port.start] + verdict.frame[port] + frame[port.stop :]
    if verdict.frame != frame:
        found.append(f"bytes:\n  model   {verdict.frame.hex()}\n  program {frame.hex()}")
    return found


def _model(tables: Tables, packet: worlds.Packet) -> Verdict:
    now_ns = 1 << 60
    if packet.of_eip:
        return from_eip_queue(tables, packet.frame, received=packet.to_port)
    if packet.to_port:
        return to_port(tables, packet.ifindex, packet.frame)
    if packet.ifindex == outside.IFINDEX:
        return from_external(tables, packet.ifindex, packet.frame, now_ns, queued=packet.queued)
    if packet.ifindex:
        return from_port(tables, packet.ifindex, packet.frame, now_ns, held=packet.held, queued=packet.queued)
    return from_overlay(tables, packet.frame, now_ns)


def _beyond(packet: worlds.Packet, verdict: Verdict) -> str | None:
    """What became of an IPv6 packet to or from outside; None: it is none, or was dropped."""
    comes = _comes_in(packet)
    if packet.frame[12:14] != b"\x86\xdd" or verdict.reason is not None:
        return None
    return BEYOND.get(verdict.kind) if comes == (verdict.kind in (VerdictKind.DELIVER, VerdictKind.REPLY)) else None


def _enters(packet: worlds.Packet) -> int:
    if packet.held or (packet.queued and not _comes_in(packet)):
        return HELD_IFINDEX if packet.held else QUEUED_INDEX
    return packet.ifindex or UNDERLAY_IFINDEX


def _comes_in(packet: worlds.Packet) -> bool:
    """At the external device."""
    return packet.ifindex == outside.IFINDEX and not packet.of_eip


def _mark(packet: worlds.Packet) -> int:
    """Of a packet that comes back."""
    if not packet.held and not packet.queued:
        return 0
    if _comes_in(packet):
        return rows.MARK_CAME_IN
    return packet.ifindex | rows.MARK_TO_PORT * packet.to_port | rows.MARK_OUTSIDE * packet.of_eip


def _entry(program: Program, ifindex: int) -> int:
    """The program that runs where a packet comes in."""
    if ifindex == outside.IFINDEX:
        return program.from_external
    return program.from_overlay if ifindex in (0, UNDERLAY_IFINDEX) else program.from_port


def _drops(program: Program) -> dict[int, dict[int, int]]:
    return {ifindex: {int(r): n for r, n in reasons.items()} for ifindex, reasons in program.dropped().items()}


def _total(drops: Mapping[int, Mapping[int, int]]) -> int:
    return sum(sum(reasons.values()) for reasons in drops.values())


def _run_world(kernel: Kernel, seed: int) -> Counter[tuple[str, str]]:
    """One world's packets through both sides; fails with the seed. Returns how often each end was met."""
    rng = random.Random(seed)
    tables = worlds.random_tables(rng, IFINDEXES, UNDERLAY_IFINDEX)
    program = kernel.program
    _load(program, tables, rng.choice((0, 24)))
    expected, met = Expected(tables), Counter[tuple[str, str]]()
    for _ in range(PHASES):
        packets = worlds.random_packets(rng, tables, IFINDEXES, PACKETS_PER_WORLD // PHASES)
        packets = [packet for packet in packets if _can_run(packet.frame)]
        _run_packets(kernel, seed, tables, packets, expected, met)
        assert _modelled_flows(tables) == _flows(program), f"seed {seed}"
        assert _modelled_balanced(tables) == _balanced(program), f"seed {seed}"
        assert _modelled_bindings(tables) == _bindings(program), f"seed {seed}"
        assert tables.balance.counters() == dict(sorted(Balancing(program).counters().items())), f"seed {seed}"
        _age(program, tables, rng.choice((0, 0, 20, 70, 200, 400)))
        if rng.random() < 0.7:
            gone, changed = balances.random_changes(rng, tables)
            balancing = Balancing(program)
            balancing.remove(gone)
            balancing.put(changed)
        if rng.random() < 0.7:
            tables.policy.policies.clear()
            tables.policy.policies.update(talks.random_policies(rng, worlds.VNIS))
            tables.policy.generation += 1
            _load_policies(program, tables)
    assert expected.traffic == {ifindex: list(row) for ifindex, row in program.traffic().items()}, f"seed {seed}"
    assert expected.drops == _drops(program), f"seed {seed}"
    return met


def _run_packets(
    kernel: Kernel,
    seed: int,
    tables: Tables,
    packets: list[worlds.Packet],
    expected: Expected,
    met: Counter[tuple[str, str]],
) -> None:
    program = kernel.program

    def run_all() -> list[bpf.TestRun]:
        return [
            bpf.test_run(
                program.from_port if packet.of_eip else _entry(program, packet.ifindex),
                packet.frame,
                _enters(packet),
                mark=_mark(packet),
            )
            for packet in packets
        ]

    held: list[Miss] = []
    asked: list[Request] = []
    for packet, run in zip(packets, kernel.inside.submit(run_all).result(), strict=True):
        come_in = {0: "from_overlay", outside.IFINDEX: "from_external"}.get(packet.ifindex, "from_port")
        come_in = "eip_queue" if packet.of_eip else come_in
        verdict = _model(tables, packet)
        expected.add(verdict)
        met[come_in, verdict.reason.word if verdict.reason else verdict.kind.name] += 1
        met[come_in, verdict.kind.name] += 1
        if verdict.outside:
            met[come_in, LIMITED[verdict.received]] += 1
        beyond = _beyond(packet, verdict)
        if beyond is not None:
            met[come_in, beyond] += 1
        if any(step.startswith("O: it answers") for step in verdict.steps):
            met[verdict.kind.name, ANSWERS] += 1
        if verdict.sought is not None:
            held.append(Miss(verdict.sought, verdict.ifindex, verdict.frame))
        if verdict.kind is VerdictKind.SERVE:
            asked.append(Request(tables.ports[packet.ifindex].id, packet.ifindex, packet.frame))
        differences = _differences(packet, verdict, run)
        if differences:
            pytest.fail(
                f"seed {seed}: {come_in} at {packet.ifindex}, frame {packet.frame.hex()}\n"
                f"{verdict.why}\n" + "\n".join(differences)
            )
    assert held == [rows.unpack_miss(record) for record in kernel.ring.take()], f"seed {seed}"
    assert asked == [rows.unpack_request(record) for record in kernel.requests.take()], f"seed {seed}"
    used = {key: rows.unpack_use(program.remote.get(rows.pack_key(key)) or b"") for key in tables.remote}
    assert {key: row.use for key, row in tables.remote.items()} == used, f"seed {seed}"


@pytest.mark.parametrize("seed", KEPT_SEEDS)
def test_a_kept_seed_stays_fixed(kernel: Kernel, seed: int) -> None:
    """A world that once told the two sides apart does so no more."""
    _run_world(kernel, seed)


def test_program_and_model_agree(kernel: Kernel) -> None:
    """Over tens of thousands of packets of every kind the two sides never differ, and every step is met."""
    start = int(os.environ.get("ALCOR_FUZZ_SEED", secrets.randbelow(1 << 48)))
    met: Counter[tuple[str, str]] = Counter()
    for seed in range(start, start + max(1, PACKETS // PACKETS_PER_WORLD)):
        met += _run_world(kernel, seed)
    # Only memory or a huge packet makes the kernel refuse room for the outer headers, or for a connection.
    # Nor does anything here send so much that it could not be held.
    # And queues are the kernel's own; and few worlds fill a shared address.
    rare = {DropReason.ENCAP_FAILED, DropReason.FLOWS_FULL, DropReason.MISS_LIMIT, DropReason.SERVICE_LIMIT}
    rare |= {DropReason.RATE_LIMIT, DropReason.EIP_RATE_LIMIT, DropReason.SNAT_FULL}
    reasons = {reason.word for reason in DropReason if reason not in rare}
    missed = (reasons | {kind.name for kind in VerdictKind} | {ANSWERS, *LIMITED, *BEYOND.values()}) - {
        end for _, end in met
    }
    assert not missed, f"seeds from {start}: {met}"


def _send(program: Program, sent: list[worlds.Packet]) -> None:
    """Sends the frames into the wires of their interfaces, at whose other ends the program runs."""
    with Netlink() as netlink:
        for ifindex in (*IFINDEXES, UNDERLAY_IFINDEX, outside.IFINDEX):
            entry = _entry(program, ifindex)
            netlink.check([links.set_link(ifindex, up=True), links.clsact(ifindex)])
            netlink.check([links.bpf_filter(entry, "alcor", index=ifindex)])
            netlink.check([links.set_link(socket.if_nametoindex(f"q{ifindex}"), up=True)])
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        for packet in sent:
            wire.sendto(packet.frame, (f"q{packet.ifindex or UNDERLAY_IFINDEX}", 0))


def test_frames_cut_anywhere(kernel: Kernel) -> None:
    """Frames cut at every length, as real interfaces take them, are dropped for the reason that the model gives."""
    rng = random.Random(4)
    tables = worlds.random_tables(rng, IFINDEXES, UNDERLAY_IFINDEX)
    expected, sent = Expected(tables), []
    for _ in range(400):
        whole = worlds.random_packet(rng, tables, IFINDEXES)
        packet = worlds.Packet(whole.ifindex, whole.frame[: rng.randrange(ETHERNET, 110)])
        verdict = _model(tables, packet)
        # What goes on would meet other interfaces' programs; the kernel wants 14 bytes to send; and a VLAN tag it takes
        # out of the frame (four bytes fewer to count) before any program sees it.
        cut_and_dropped = verdict.kind is VerdictKind.DROP and len(packet.frame) >= ETHERNET
        if cut_and_dropped and packet.frame[12:14] != VLAN:
            expected.add(verdict)
            sent.append(packet)
    _load(kernel.program, tables)
    kernel.inside.submit(_send, kernel.program, sent).result()
    deadline = time.monotonic() + 10
    while _total(_drops(kernel.program)) < _total(expected.drops) and time.monotonic() < deadline:
        os.sched_yield()
    assert expected.drops == _drops(kernel.program)
    assert expected.traffic == {ifindex: list(row) for ifindex, row in kernel.program.traffic().items()}
