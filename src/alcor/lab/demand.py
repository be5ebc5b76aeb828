"""Large VPCs on demand, and ports that move, proved with real packets. Called by run.

The lab's VPC crosses the threshold by ports that are bound to no host, and back by their deletion, under pings that
must lose nothing. In between, containers that never spoke to each other do: what the first packet waits for at either
end (each asks for the other) is measured against the second.
"""

from __future__ import annotations

import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec

from alcor.lab.client import Client, await_true
from alcor.lab.live import LiveLab
from alcor.lab.pings import Ping, Stream, StreamResult, echo_request, forget_neighbours, open_icmp, ping_all, visit
from alcor.lab.proofs import SILENCE_S, Drops, World
from alcor.lab.results import Proof, percentile
from alcor.lab.scenario import Vpc
from alcor.lab.transfers import Transfer, echo
from alcor.lab.workloads import Pair, Workload, by_host, ring

STREAMS = 5
INTERVAL_S = 0.005
SETTLE_S = 0.5
FIRST_PACKETS = 300
NO_STRANGERS = "not tried: no two ports are left that never spoke; take four ports a host, or more"
BURSTS, BURST = 20, 20
AT_ONCE_S = 0.001
"""A sender that takes longer for a burst was interrupted: the answer may have come meanwhile, and what it sends then
overtakes what still waits."""
CONNECTS, CONNECT_BYTES, LOST_SYN_S = 20, 256 << 10, 0.9
TRANSFER_BYTES = 8 << 20
PATIENCE_S = 5.0
MIGRATIONS = 3
NEGATIVE = 5
SEED = 20


class Demand(msgspec.Struct, kw_only=True):
    """What was proved, and what first packets took beyond a second one."""

    proofs: list[Proof] = []
    added_ms: list[float] = []


def count() -> int:
    """Steps, for a progress bar."""
    return FIRST_PACKETS + MIGRATIONS


def prove(lab: LiveLab, world: World, vpc: Vpc, progress: Callable[[int], None]) -> Demand:
    """The VPC is as before when it returns."""
    found = Demand()
    if len(by_host(world.vpc)) < 3:
        return found
    extra = lab.options.on_demand_above - len(world.vpc) + 50
    body = {"network_id": vpc.id, "name": "filler", "device_owner": "lab:filler"}
    with _streams(world) as streams, _transfers(world) as transfers:
        fillers = [port["id"] for port in lab.client.create_many("ports", [body] * extra)]
        _await_demand(lab, vpc, on_demand=True)
        time.sleep(SETTLE_S)
    found.proofs.append(_crossed("a VPC grows too large to be preloaded", streams, transfers))
    pairs = _strangers(world)
    bursts, pairs = pairs[: min(BURSTS, len(pairs) // 4)], pairs[min(BURSTS, len(pairs) // 4) :]
    found.added_ms += _first_packets(pairs[:FIRST_PACKETS], progress)
    found.proofs.append(_judge_first(found.added_ms, min(len(pairs), FIRST_PACKETS)))
    found.proofs.append(_bursts(bursts))
    found.proofs.append(_connects(_strangers(world, across=True)[:CONNECTS]))
    found.proofs.append(_nobody(world, lab.drops))
    found.proofs += _migrations(lab, world, lambda done: progress(FIRST_PACKETS + done))
    with _streams(world) as streams, _transfers(world) as transfers:
        for identifier in fillers:
            lab.client.delete("ports", identifier)
        _await_demand(lab, vpc, on_demand=False)
        time.sleep(SETTLE_S)
    found.proofs.append(_crossed("it shrinks, and is preloaded again", streams, transfers))
    return found


@contextmanager
def _streams(world: World) -> Iterator[list[StreamResult]]:
    """Pings between some hosts meanwhile; what they counted, afterwards."""
    results: list[StreamResult] = []
    around = ring(world.vpc)
    step = max(1, len(around) // STREAMS)
    streams = [Stream(Ping(source=a.netns, target=b.ip), INTERVAL_S) for a, b in around[::step][:STREAMS]]
    try:
        time.sleep(SETTLE_S)
        yield results
    finally:
        results += [stream.stop() for stream in streams]


@contextmanager
def _transfers(world: World) -> Iterator[list[Transfer]]:
    """Bulk TCP between two hosts meanwhile, in segments that the kernel has yet to cut; what came of it, afterwards."""
    here, there = ring(world.vpc)[-1]
    results: list[Transfer] = []
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            results.append(echo(here.netns, there.netns, there.ip, TRANSFER_BYTES, seed=len(results)))

    thread = threading.Thread(target=repeat, name="transfers")
    thread.start()
    try:
        yield results
    finally:
        over.set()
        thread.join()


def _await_demand(lab: LiveLab, vpc: Vpc, *, on_demand: bool) -> None:
    def shown() -> bool:
        return bool(lab.client.get(f"/v2.0/networks/{vpc.id}")["network"]["on_demand"]) is on_demand

    await_true(shown, f"the VPC to be {'' if on_demand else 'not '}on demand", 30.0, 0.02, lab.check)


def _crossed(name: str, streams: Sequence[StreamResult], transfers: Sequence[Transfer]) -> Proof:
    sent, lost = sum(one.sent for one in streams), sum(one.lost for one in streams)
    worst = max((one.worst_rtt_ms for one in streams), default=0.0)
    return Proof(
        name=name,
        expectation="pings that run meanwhile lose nothing, TCP goes on",
        measured=f"{lost} of {sent:,} lost, {len(streams)} streams of {1 / INTERVAL_S:.0f} a second, "
        f"slowest {worst:.1f} ms; {sum(one.equal for one in transfers)}/{len(transfers)} transfers equal",
        passed=lost == 0 < sent and all(one.equal for one in transfers),
    )


def _strangers(world: World, *, across: bool = False) -> list[Pair]:
    """Pairs on different hosts that did not speak since the VPC is on demand, in one subnet or `across` two; each
    workload once."""
    rng = random.Random(SEED)
    busy = {one.id for pair in ring(world.vpc) for one in pair}
    them = [one for one in world.vpc if one.id not in busy]
    rng.shuffle(them)
    pairs = []
    waiting: dict[str, list[Workload]] = {}
    for one in them:
        partners = waiting.setdefault("" if across else one.subnet_id, [])
        for partner in partners:
            if partner.host.name != one.host.name and (partner.subnet_id != one.subnet_id) is across:
                partners.remove(partner)
                pairs.append((one, partner))
                break
        else:
            partners.append(one)
    return pairs


def _first_packets(pairs: Sequence[Pair], progress: Callable[[int], None]) -> list[float]:
    """For each pair, by how much the first echo was slower than the second; infinite when it was lost."""
    added = []
    for number, (here, there) in enumerate(pairs, 1):
        (opened,) = visit([here.netns], open_icmp)
        with opened:
            times = []
            for sequence in (1, 2):
                started = time.perf_counter()
                opened.sendto(echo_request(SEED, sequence, b"first"), (there.ip, 0))
                answered = bool(select.select([opened], [], [], PATIENCE_S)[0])
                if answered:
                    opened.recv(2048)
                times.append((time.perf_counter() - started) * 1000 if answered else float("inf"))
        added.append(times[0] - times[1] if times[1] < float("inf") else float("inf"))
        forget_neighbours([here.netns, there.netns])
        progress(number)
    return added


def _judge_first(added: Sequence[float], pairs: int) -> Proof:
    lost = sum(one == float("inf") for one in added)
    tail = f"p50 {percentile(list(added), 0.5):.1f} ms, p99 {percentile(list(added), 0.99):.1f} ms" if added else ""
    return Proof(
        name="first packets on demand",
        expectation="none is lost; both ends ask where the other is",
        measured=f"{lost} of {pairs} lost; slower than the second packet by {tail}",
        passed=lost == 0 < pairs,
    )


def _bursts(pairs: Sequence[Pair]) -> Proof:
    """Many packets at once to somebody unknown: all of them wait, none is lost, their order stays."""
    whole = at_once = ordered = 0
    for here, there in pairs:
        (opened,) = visit([here.netns], open_icmp)
        with opened:
            started = time.perf_counter()
            for sequence in range(1, BURST + 1):
                with suppress(OSError):
                    opened.sendto(echo_request(SEED, sequence, b"burst"), (there.ip, 0))
            swift = time.perf_counter() - started < AT_ONCE_S
            got: list[int] = []
            deadline = time.monotonic() + PATIENCE_S
            while len(got) < BURST and (left := deadline - time.monotonic()) > 0:
                if not select.select([opened], [], [], left)[0]:
                    break
                got.append(int.from_bytes(opened.recv(2048)[26:28], "big"))
        whole += len(got) == BURST
        at_once += swift
        ordered += swift and got == sorted(got)
    return Proof(
        name="bursts on demand",
        expectation=f"{BURST} packets at once to an unknown address: all are answered, in order",
        measured=f"{whole}/{len(pairs)} whole, {ordered}/{at_once} sent at once in order" if pairs else NO_STRANGERS,
        passed=whole == len(pairs) and 0 < at_once == ordered,
    )


def _connects(pairs: Sequence[Pair]) -> Proof:
    """TCP between subnets: the first packet is a SYN, its checksum not made yet. A lost one would cost a second."""
    transfers = [echo(here.netns, there.netns, there.ip, CONNECT_BYTES) for here, there in pairs]
    forget_neighbours([one.netns for pair in pairs for one in pair])
    equal = sum(one.equal for one in transfers)
    slowest = max((one.seconds for one in transfers), default=0.0)
    return Proof(
        name="TCP between strangers on demand",
        expectation=f"routed between subnets, {CONNECT_BYTES >> 10} KiB there and back: no SYN is lost",
        measured=f"{equal}/{len(pairs)} equal, slowest {1000 * slowest:.0f} ms" if pairs else NO_STRANGERS,
        passed=equal == len(pairs) > 0 and slowest < LOST_SYN_S,
    )


def _nobody(world: World, drops: Drops) -> Proof:
    """Addresses that nobody has are asked for once, and dropped with a reason."""
    taken = {one.ip for one in world.vpc}
    here = world.vpc[0]
    prefix = here.ip.rsplit(".", 2)[0]
    free = [ip for ip in (f"{prefix}.200.{number}" for number in range(1, 200)) if ip not in taken][:NEGATIVE]
    before = drops(here).get("arp_unknown", 0)
    answers = ping_all([Ping(source=here.netns, target=ip) for ip in free], timeout_s=SILENCE_S)
    counted = drops(here).get("arp_unknown", 0) - before
    answered = sum(one.answered for one in answers)
    return Proof(
        name="nobody on demand",
        expectation="an address that no port has does not answer, and is counted as arp_unknown",
        measured=f"{answered} of {len(free)} answered, {counted} dropped as arp_unknown",
        passed=answered == 0 and counted >= len(free),
    )


def _migrations(lab: LiveLab, world: World, progress: Callable[[int], None]) -> list[Proof]:
    """A port changes its host under pings: of one whose host hears of it, and of one whose agent is stopped."""
    hosts = list(by_host(world.vpc).values())
    gaps: list[float] = []
    after_lost = after_sent = deaf_lost = deaf_sent = 0
    for number in range(min(MIGRATIONS, len(hosts))):
        first, second, *others = hosts[number:] + hosts[:number]
        mover, target = first[-1], second[0].host
        deaf, hearing = others[0][-1], (others[1] if len(others) > 1 else second)[-1]
        moved = msgspec.structs.replace(mover, host=target, netns=target.netns_dir / mover.id)
        running = [Stream(Ping(source=one.netns, target=mover.ip), INTERVAL_S) for one in (hearing, deaf)]
        time.sleep(SETTLE_S)
        with _deaf(lab, deaf):
            _move(lab.client, moved, lab.check)
            settled = [Stream(Ping(source=one.netns, target=mover.ip), INTERVAL_S) for one in (hearing, deaf)]
            time.sleep(2 * SETTLE_S)
            heard, unheard = (stream.stop() for stream in settled)
            for stream in running:
                gaps.append(stream.stop().lost * INTERVAL_S * 1000)
        after_sent, after_lost = after_sent + heard.sent, after_lost + heard.lost
        deaf_sent, deaf_lost = deaf_sent + unheard.sent, deaf_lost + unheard.lost
        _move(lab.client, mover, lab.check)
        progress(number + 1)
    return [
        Proof(
            name="a port moves to another host",
            expectation="once its workload runs there, no packet for it is lost",
            measured=f"{after_lost} of {after_sent:,} lost; between the two hosts it did not exist for "
            f"{max(gaps, default=0.0):.0f} ms at most",
            passed=after_lost == 0 < after_sent,
        ),
        Proof(
            name="its old host sends on",
            expectation="a peer whose agent is stopped still sends to the old host: nothing is lost",
            measured=f"{deaf_lost} of {deaf_sent:,} lost",
            passed=deaf_lost == 0 < deaf_sent,
        ),
    ]


def _move(client: Client, workload: Workload, check: Callable[[], None]) -> None:
    """Binds the port to the workload's host, and waits until it is carried there."""
    path = f"/v2.0/ports/{workload.id}"
    client.request("PUT", path, {"port": {"binding:host_id": workload.host.name}})
    await_true(lambda: client.get(path)["port"]["status"] == "ACTIVE", "a port to move", 30.0, 0.005, check)


@contextmanager
def _deaf(lab: LiveLab, one: Workload) -> Iterator[None]:
    """The agent of the workload's host is stopped; what it programmed forwards on."""
    pid = lab.processes.running(one.host.name).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
