"""The proofs: claims about the network, each put to real packets between real containers. Called by run and tests.

Positive ones wait for at most pings.TIMEOUT_S: a port is ACTIVE when its own host carries it, and word of it may still
be on its way to other hosts. Negative ones never rest on silence alone: each has a control that shows that the same
packet, sent by one who may, arrives, and that the right one took it.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from alcor.lab.frames import Captures, icmp_frame, send_frames
from alcor.lab.pings import NONCE_BYTES, WAVE, Answer, Ping, ping_all
from alcor.lab.results import Proof
from alcor.lab.transfers import echo
from alcor.lab.workloads import Pair, Workload, across_subnets, by_host, everybody, neighbours, ring
from alcor.model.addresses import ROUTER_MAC

SILENCE_S = 1.0
"""How long a negative proof listens."""
TRANSFER_BYTES = 32 << 20
TRANSFERS = 3
FULL_SIZE_PAIRS = 20
SPOOFS = 25
SETTLE_S = 5.0

Progress = Callable[[int], None]
Drops = Callable[[Workload], Mapping[str, int]]
"""Packets dropped on the workload's host so far, by reason (docs/pipeline.md)."""


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What the proofs are about: a VPC, and another one with the same CIDR that has some of its very addresses."""

    vpc: tuple[Workload, ...]
    twin: tuple[Workload, ...]
    mtu: int


def count_pings(world: World) -> int:
    """How many pings `reachability` makes, for a progress bar."""
    return sum(len(pings) for _, _, pings in _reachability(world))


def reachability(world: World, progress: Progress) -> list[Proof]:
    """Everybody who should be reached is: same host, other hosts, other subnets, gateways, at full size."""
    done = 0
    proofs = []

    def advance(count: int) -> None:
        progress(done + count)

    for name, expectation, pings in _reachability(world):
        if pings:
            proofs.append(_judge(name, expectation, ping_all(pings, progress=advance)))
            done += len(pings)
    return proofs


def _reachability(world: World) -> list[tuple[str, str, list[Ping]]]:
    hosts = len(by_host(world.vpc))
    firsts = [them[0] for them in by_host(world.vpc).values()]
    around = ring(world.vpc)
    step = max(1, len(around) // FULL_SIZE_PAIRS)
    return [
        ("around all hosts", f"a ping from every one of {hosts} hosts to the next", _pings(around)),
        ("on the same host", "two containers of one host", _pings(neighbours(world.vpc))),
        (
            "between subnets",
            "routed inside the VPC, on the same host and to another",
            _pings(across_subnets(world.vpc)),
        ),
        ("gateway", "the gateway answers on every host", [Ping(source=w.netns, target=w.gateway) for w in firsts]),
        ("everybody", f"every one of {len(world.vpc):,} containers pings another", _pings(everybody(world.vpc))),
        (
            "full size",
            f"{world.mtu} bytes with DF across hosts, not fragmented",
            [Ping(source=a.netns, target=b.ip, size=world.mtu) for a, b in around[::step][:FULL_SIZE_PAIRS]],
        ),
    ]


def _pings(pairs: Sequence[Pair]) -> list[Ping]:
    return [Ping(source=a.netns, target=b.ip) for a, b in pairs]


def _judge(name: str, expectation: str, answers: Sequence[Answer]) -> Proof:
    answered = [answer for answer in answers if answer.answered]
    first = sum(answer.sent == 1 for answer in answered)
    measured = f"{len(answered):,}/{len(answers):,} answered, {first:,} at the first packet"
    if answered:
        median = statistics.median(answer.rtt_ms for answer in answered)
        measured += f", median {median:.2f} ms with {min(len(answers), WAVE)} at a time"
    return Proof(name=name, expectation=expectation, measured=measured, passed=len(answered) == len(answers) > 0)


def too_big(world: World) -> list[Proof]:
    """A packet larger than the MTU is refused at its source rather than lost on the way."""
    pairs = ring(world.vpc)[:1]
    if not pairs:
        return []
    ((here, there),) = pairs
    (answer,) = ping_all([Ping(source=here.netns, target=there.ip, size=world.mtu + 1)], timeout_s=SILENCE_S)
    measured = "answered" if answer.answered else "refused at the source (EMSGSIZE)"
    return [Proof(name="above the MTU", expectation="not sent with DF", measured=measured, passed=not answer.answered)]


def transfers(world: World, progress: Progress) -> list[Proof]:
    """TCP carries bulk data across hosts unharmed."""
    pairs = ring(world.vpc)
    chosen = pairs[:: max(1, len(pairs) // TRANSFERS)][:TRANSFERS]
    if not chosen:
        return []
    results = []
    for number, (here, there) in enumerate(chosen, 1):
        results.append(echo(here.netns, there.netns, there.ip, TRANSFER_BYTES, seed=number))
        progress(number)
    whole = sum(result.equal for result in results)
    rate = statistics.median(2 * result.returned_bytes * 8 / result.seconds / 1e9 for result in results)
    problem = next((result.error for result in results if result.error), "")
    return [
        Proof(
            name="TCP echo across hosts",
            expectation=f"{TRANSFER_BYTES >> 20} MiB there and back, equal byte by byte",
            measured=f"{whole}/{len(results)} equal, {rate:.1f} Gbit/s both ways together"
            + (f": {problem}" * bool(problem)),
            passed=whole == len(results),
        )
    ]


# ---- isolation ----


def isolation(world: World) -> list[Proof]:
    """Another VPC with the same CIDR and the same addresses is another world."""
    if len(world.twin) < 2:
        return []
    return [*_not_across(world), *_right_one(world)]


def _not_across(world: World) -> list[Proof]:
    """Addresses that only the VPC has do not answer to the twin."""
    taken = {one.ip for one in world.twin}
    only_there = [one for one in world.vpc if one.ip not in taken]
    pairs = [(one, only_there[i % len(only_there)]) for i, one in enumerate(world.twin)] if only_there else []
    if not pairs:
        return []
    nonce = secrets.token_bytes(NONCE_BYTES)
    targets = [there for _, there in pairs]
    with Captures([there.netns for there in targets]) as captures:
        answers = ping_all(
            [Ping(source=a.netns, target=b.ip, nonce=nonce) for a, b in pairs], timeout_s=SILENCE_S, resend_s=0.2
        )
        seen = sum(captures.count(nonce))
        # Control: a member of the VPC itself pings the same targets, and there the captures do see it.
        members = [next((one for one in world.vpc if one.id != target.id), target) for target in targets]
        ping_all([Ping(source=m.netns, target=t.ip, nonce=nonce) for m, t in zip(members, targets, strict=True)])
        control = sum(count > 0 for count in captures.count(nonce))
    answered = sum(answer.answered for answer in answers)
    tried = sum(answer.sent for answer in answers)
    return [
        Proof(
            name="another VPC does not answer",
            expectation="same CIDR, addresses of the first VPC only: no answer, no frame arrives",
            measured=f"{answered} of {tried} answered, {seen} crossed; from inside {control}/{len(targets)} arrive",
            passed=answered == 0 and seen == 0 and control == len(targets),
        )
    ]


def _right_one(world: World) -> list[Proof]:
    """Of two workloads with the same address in two VPCs, the one in the sender's VPC gets the packet."""
    by_ip = {one.ip: one for one in world.vpc}
    doubles = [(one, by_ip[one.ip]) for one in world.twin if one.ip in by_ip]
    if len(doubles) < 2:
        return []
    nonce = secrets.token_bytes(NONCE_BYTES)
    inside, outside = [mine for mine, _ in doubles], [theirs for _, theirs in doubles]
    senders = [*inside[1:], inside[0]]
    with Captures([one.netns for one in inside]) as ours, Captures([one.netns for one in outside]) as others:
        answers = ping_all(
            [Ping(source=a.netns, target=b.ip, nonce=nonce) for a, b in zip(senders, inside, strict=True)]
        )
        right, wrong = ours.count(nonce), sum(others.count(nonce))
    answered = sum(answer.answered for answer in answers)
    reached = sum(count > 0 for count in right)
    return [
        Proof(
            name="the same address in two VPCs",
            expectation="each VPC's own workload answers; the other never sees the packet",
            measured=f"{answered}/{len(doubles)} answered by their own ({reached} seen there), {wrong} at the other",
            passed=answered == reached == len(doubles) and wrong == 0,
        )
    ]


# ---- anti-spoofing ----


def spoofing(world: World, drops: Drops) -> list[Proof]:
    """A port sends only its own MAC and addresses; what else it tries is dropped, and counted with its reason."""
    proofs = []
    places = [("on the same host", neighbours(world.vpc)[:1]), ("to another host", ring(world.vpc)[:1])]
    for where, pairs in places:
        for sender, victim in pairs:
            stranger = next((one for one in reversed(world.vpc) if one.id not in (sender.id, victim.id)), victim)
            proofs.append(_spoof("source IP", "spoofed_ip", where, sender, victim, drops, ip=stranger.ip))
            proofs.append(_spoof("source MAC", "spoofed_mac", where, sender, victim, drops, mac=stranger.mac))
    return proofs


def _spoof(
    what: str, reason: str, where: str, sender: Workload, victim: Workload, drops: Drops, *, ip: str = "", mac: str = ""
) -> Proof:
    forged_nonce, honest_nonce = secrets.token_bytes(NONCE_BYTES), secrets.token_bytes(NONCE_BYTES)
    target_mac = victim.mac if victim.subnet_id == sender.subnet_id else ROUTER_MAC

    def frame(source_ip: str, source_mac: str, nonce: bytes) -> bytes:
        return icmp_frame(
            source_mac=source_mac, target_mac=target_mac, source=source_ip, target=victim.ip, payload=nonce
        )

    before = drops(sender).get(reason, 0)
    with Captures([victim.netns]) as captures:
        send_frames(sender.netns, [frame(sender.ip, sender.mac, honest_nonce)] * SPOOFS)
        honest = _await_frames(captures, honest_nonce, SPOOFS)
        send_frames(sender.netns, [frame(ip or sender.ip, mac or sender.mac, forged_nonce)] * SPOOFS)
        time.sleep(SILENCE_S)
        (forged,) = captures.count(forged_nonce)
    counted = drops(sender).get(reason, 0) - before
    return Proof(
        name=f"spoofed {what}, {where}",
        expectation=f"{SPOOFS} forged frames dropped and counted as {reason}; {SPOOFS} honest ones arrive",
        measured=f"{forged} forged arrived, {counted} counted as {reason}; {honest} honest arrived",
        passed=forged == 0 and counted >= SPOOFS and honest == SPOOFS,
    )


def _await_frames(captures: Captures, nonce: bytes, expected: int) -> int:
    seen, deadline = 0, time.monotonic() + SETTLE_S
    while seen < expected and time.monotonic() < deadline:
        seen += captures.count(nonce)[0]
        time.sleep(0.002)
    return seen
