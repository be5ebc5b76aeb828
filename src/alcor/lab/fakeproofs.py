"""Proofs over the software switch, for machines without root or BPF. Called by run.

No packet is real here: the agents' `fake` drivers carry them, over UDP between the agents' loopback addresses. The lab
asks the agents over their control sockets (agent.control): `ping`, `inject`, `counters`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

from alcor.lab.frames import icmp_frame
from alcor.lab.processes import control_socket
from alcor.lab.proofs import Progress, World
from alcor.lab.results import LabError, Proof
from alcor.lab.topology import Machine
from alcor.lab.workloads import Pair, Workload, across_subnets, by_host, everybody, neighbours, ring

TIMEOUT_S = 30.0
PATIENCE_S, SILENCE_S = 5.0, 0.3
MAX_ANSWER = 1 << 20


def ask(host: Machine, request: dict[str, object]) -> dict[str, Any]:
    """One question to a host's agent over its control socket. Raises LabError when it cannot answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(TIMEOUT_S)
            channel.connect(str(control_socket(host)))
            channel.sendall(json.dumps(request).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n") and len(data) < MAX_ANSWER and (more := channel.recv(65536)):
                data += more
    except OSError as error:
        raise LabError(f"the agent of {host.name} does not answer at {control_socket(host)}: {error}") from None
    answer = json.loads(data or b'{"error": "it hung up"}')
    if "result" not in answer:
        raise LabError(f"the agent of {host.name}: {answer.get('error')}")
    result: dict[str, Any] = answer["result"]
    return result


def count(world: World) -> int:
    """How many questions `prove` asks, for a progress bar."""
    return sum(len(pairs) for _, _, pairs in _reachable(world)) + len(by_host(world.vpc)) + 2 * len(world.twin)


def prove(world: World, progress: Progress) -> list[Proof]:
    """Reachability, isolation and anti-spoofing, as the software switch has it."""
    done = 0
    found = []

    def pinged(targets: Sequence[tuple[Workload, str]], wait_s: float = PATIENCE_S) -> int:
        nonlocal done
        answered = 0
        for here, ip in targets:
            answer = ask(here.host, {"op": "ping", "port": here.id, "destination": ip, "count": 1, "timeout_s": wait_s})
            answered += int(answer["received"] == answer["sent"] > 0)
            done += 1
            progress(done)
        return answered

    for name, expectation, pairs in _reachable(world):
        if pairs:
            found.append(_judge(name, expectation, pinged([(a, b.ip) for a, b in pairs]), len(pairs)))
    firsts = [them[0] for them in by_host(world.vpc).values()]
    found.append(_judge("gateway", "answers on every host", pinged([(a, a.gateway) for a in firsts]), len(firsts)))
    taken = {one.ip for one in world.twin}
    beyond = [one for one in world.vpc if one.ip not in taken]
    across = [(one, beyond[number % len(beyond)].ip) for number, one in enumerate(world.twin)] if beyond else []
    if across:
        answered = pinged(across, SILENCE_S)
        expectation = "same CIDR, addresses of the first VPC only: no answer"
        measured = f"{answered} of {len(across)} answered"
        found.append(
            Proof(name="another VPC does not answer", expectation=expectation, measured=measured, passed=not answered)
        )
    by_ip = {one.ip: one for one in world.vpc}
    doubles = [one for one in world.twin if one.ip in by_ip]
    if len(doubles) > 1:
        before = sum(_received(by_ip[one.ip]) for one in doubles)
        around = list(zip([*doubles[1:], doubles[0]], [one.ip for one in doubles], strict=True))
        answered = pinged(around)
        strayed = sum(_received(by_ip[one.ip]) for one in doubles) - before
        expectation = "each VPC's own workload answers; the other never sees the packet"
        measured = f"{answered}/{len(around)} answered by their own, {strayed} at the other"
        passed = answered == len(around) and not strayed
        found.append(
            Proof(name="the same address in two VPCs", expectation=expectation, measured=measured, passed=passed)
        )
    return [*found, *_spoofing(world)]


def _reachable(world: World) -> list[tuple[str, str, list[Pair]]]:
    return [
        ("around all hosts", f"every one of {len(by_host(world.vpc))} hosts to the next", ring(world.vpc)),
        ("on the same host", "two containers of one host", neighbours(world.vpc)),
        ("between subnets", "routed inside the VPC", across_subnets(world.vpc)),
        ("everybody", f"every one of {len(world.vpc):,} containers", everybody(world.vpc)),
    ]


def _judge(name: str, expectation: str, answered: int, asked: int) -> Proof:
    measured = f"{answered:,}/{asked:,} answered"
    return Proof(name=name, expectation=expectation, measured=measured, passed=answered == asked > 0)


def _spoofing(world: World) -> list[Proof]:
    if len(world.vpc) < 3:
        return []
    sender, victim, stranger = world.vpc[0], world.vpc[1], world.vpc[-1]
    found = []
    for what, reason, ip, mac in (
        ("source IP", "spoofed_ip", stranger.ip, sender.mac),
        ("source MAC", "spoofed_mac", sender.ip, stranger.mac),
    ):
        frame = icmp_frame(source_mac=mac, target_mac=victim.mac, source=ip, target=victim.ip, payload=bytes(16))
        before = _dropped(sender, reason)
        verdict = ask(sender.host, {"op": "inject", "port": sender.id, "frame": frame.hex()})["kind"]
        counted = _dropped(sender, reason) - before
        found.append(
            Proof(
                name=f"spoofed {what}",
                expectation=f"dropped and counted as {reason}",
                measured=f"{verdict}, {counted} counted",
                passed=(verdict, counted) == ("drop", 1),
            )
        )
    return found


def _received(one: Workload) -> int:
    return int(ask(one.host, {"op": "counters"}).get(one.id, {}).get("received_packets", 0))


def _dropped(one: Workload, reason: str) -> int:
    counters = ask(one.host, {"op": "counters"})
    return int(counters.get(one.id, {}).get("dropped", {}).get(reason, 0))
