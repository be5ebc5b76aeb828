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
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.dataplane import worlds

from alcor.dataplane.base import Endpoint
from alcor.dataplane.ebpf import tables as rows
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.fake.pipeline import Direction, DropReason, Tables, Verdict, VerdictKind, from_overlay, from_port
from alcor.dataplane.kernel import bpf, links, netns
from alcor.dataplane.kernel.netlink import Netlink

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: the compiled data plane needs root and BPF"),
]

PACKETS = int(os.environ.get("ALCOR_FUZZ_PACKETS", "30000"))
PACKETS_PER_WORLD = 250
KEPT_SEEDS: tuple[int, ...] = (1, 2, 3)
"""Seeds that failed once, and three to start with."""
IFINDEXES = list(range(1001, 1013))
UNDERLAY_IFINDEX = 1013
TC_ACT_OK, TC_ACT_SHOT, TC_ACT_REDIRECT = 0, 2, 7
ACTIONS = {VerdictKind.DROP: TC_ACT_SHOT, VerdictKind.PASS: TC_ACT_OK}
ETHERNET, OUTER_IP = 14, 20


class Kernel(NamedTuple):
    """The compiled program in a namespace of its own, and the one thread that lives there."""

    program: Program
    inside: ThreadPoolExecutor


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """The program, loaded over its own maps; interfaces with the worlds' indexes to run it at. All anonymous."""
    with ThreadPoolExecutor(max_workers=1) as inside, tempfile.TemporaryDirectory() as directory:
        namespace = inside.submit(netns.make_here).result()
        pins = Path(directory) / "bpf"
        try:
            inside.submit(_make_interfaces).result()
            config = rows.HostConfig(rows.Ip(bytes(16)), UNDERLAY_IFINDEX)
            with Program.open(None, pins, config, remote_entries=4096) as program:
                yield Kernel(program, inside)
        finally:
            if pins.exists():
                bpf.unmount_bpffs(pins)
            os.close(namespace)


def _make_interfaces() -> None:
    with Netlink() as netlink:
        pairs = [links.veth(f"p{index}", index, f"q{index}") for index in (*IFINDEXES, UNDERLAY_IFINDEX)]
        netlink.check(pairs)


def _load(program: Program, tables: Tables) -> None:
    """Makes the maps hold these tables and nothing else, every counter at zero."""
    for opened in (program.ports, program.local, program.remote, program.counters, program.drops):
        keys = [key for key, _ in opened.items()]
        opened.delete_batch(b"".join(keys), len(keys))
    config = tables.config
    program.config.put(rows.CONFIG_KEY, rows.pack_config(rows.HostConfig(*config_fields(config))))
    ports = [
        (ifindex, rows.PortRow(row.id, row.vni, row.mtu, row.mac, rows.PortFlag(row.flags), row.digest))
        for ifindex, row in tables.ports.items()
    ]
    program.ports.update_batch(*rows.pack_ports(ports), len(ports))
    local = [
        (key, rows.LocalRow(row.ifindex, rows.EndpointFlag(row.flags), row.mac)) for key, row in tables.local.items()
    ]
    program.local.update_batch(*rows.pack_locals(local), len(local))
    remote = [(key, Endpoint(row.mac, row.host_ip)) for key, row in tables.remote.items()]
    program.remote.update_batch(*rows.pack_endpoints(remote), len(remote))
    program.zero_counters(sorted(tables.ports))


def config_fields(config: object) -> tuple[rows.Ip, int, int]:
    """The tunnel end as both sides' records have it."""
    return config.underlay_ip, config.underlay_ifindex, config.vxlan_port  # type: ignore[attr-defined]


def _can_run(frame: bytes) -> bool:
    """A test run wants the headers that the kernel itself would look at; `test_short_frames` sends the shorter ones."""
    return len(frame) >= {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], ETHERNET + 1)


class Expected:
    """What the model says that the counters must show after a world's packets."""

    def __init__(self, tables: Tables) -> None:
        self.traffic = {ifindex: [0, 0, 0, 0] for ifindex in tables.ports}
        self.drops: dict[int, Counter[int]] = {}

    def add(self, verdict: Verdict) -> None:
        """Counts one packet."""
        for ifindex, direction, length in verdict.counts:
            at = 0 if direction is Direction.SENT else 2
            self.traffic[ifindex][at] += 1
            self.traffic[ifindex][at + 1] += length
        if verdict.reason is not None:
            self.drops.setdefault(verdict.ifindex, Counter())[int(verdict.reason)] += 1


def _differences(verdict: Verdict, run: bpf.TestRun) -> list[str]:
    """What the two sides disagree on; nothing, if all is well."""
    found = []
    detail = verdict.reason if verdict.reason is not None else verdict.ifindex
    if (verdict.kind, detail) != run.cb[:2]:
        found.append(f"verdict: model {verdict.kind.name} {detail}, program {run.cb[:2]}")
    if ACTIONS.get(verdict.kind, TC_ACT_REDIRECT) != run.retval:
        found.append(f"action: {run.retval}")
    if verdict.kind is VerdictKind.DROP:
        return found
    frame = run.frame
    if verdict.kind is VerdictKind.TUNNEL:
        frame = frame[ETHERNET:]
        port = slice(OUTER_IP, OUTER_IP + 2)
        if frame[OUTER_IP] & 0xC0 != 0xC0:
            found.append(f"outer source port {frame[port].hex()} is outside 0xc000-0xffff")
        frame = frame[: port.start] + verdict.frame[port] + frame[port.stop :]
    if verdict.frame != frame:
        found.append(f"bytes:\n  model   {verdict.frame.hex()}\n  program {frame.hex()}")
    return found


def _run_world(kernel: Kernel, seed: int) -> Counter[tuple[str, str]]:
    """One world's packets through both sides; fails with the seed. Returns how often each end was met."""
    rng = random.Random(seed)
    tables = worlds.random_tables(rng, IFINDEXES, UNDERLAY_IFINDEX)
    packets = [worlds.random_packet(rng, tables, IFINDEXES) for _ in range(PACKETS_PER_WORLD)]
    packets = [packet for packet in packets if _can_run(packet.frame)]
    program = kernel.program
    _load(program, tables)

    def run_all() -> list[bpf.TestRun]:
        return [
            bpf.test_run(
                program.from_port if packet.ifindex else program.from_overlay,
                packet.frame,
                packet.ifindex or UNDERLAY_IFINDEX,
            )
            for packet in packets
        ]

    expected, met = Expected(tables), Counter[tuple[str, str]]()
    for packet, run in zip(packets, kernel.inside.submit(run_all).result(), strict=True):
        come_in = "from_port" if packet.ifindex else "from_overlay"
        verdict = (
            from_port(tables, packet.ifindex, packet.frame) if packet.ifindex else from_overlay(tables, packet.frame)
        )
        expected.add(verdict)
        met[come_in, verdict.reason.word if verdict.reason else verdict.kind.name] += 1
        differences = _differences(verdict, run)
        if differences:
            pytest.fail(
                f"seed {seed}: {come_in} at {packet.ifindex}, frame {packet.frame.hex()}\n"
                f"{verdict.why}\n" + "\n".join(differences)
            )
    assert expected.traffic == {ifindex: list(row) for ifindex, row in program.traffic().items()}, f"seed {seed}"
    dropped = {ifindex: {int(r): n for r, n in reasons.items()} for ifindex, reasons in program.dropped().items()}
    assert expected.drops == dropped, f"seed {seed}"
    return met


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
    # Only memory or a huge packet makes the kernel refuse room for the outer headers.
    reasons = {reason.word for reason in DropReason} - {DropReason.ENCAP_FAILED.word}
    ends = {end for _, end in met}
    assert reasons | {kind.name for kind in VerdictKind} - {"DROP"} == ends, f"seeds from {start}: {met}"
