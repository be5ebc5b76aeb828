"""Pings that go on while faults strike, and quick proofs after each. Called by campaign.

With real packets a few pings stream all the time a fault lasts; none may be lost. The software switch is part of its
agent's process, so there only what follows a fault is asked.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from alcor.lab import fakeproofs
from alcor.lab.frames import Captures
from alcor.lab.pings import NONCE_BYTES, Ping, Stream, ping_all
from alcor.lab.proofs import World
from alcor.lab.results import LabError
from alcor.lab.workloads import Pair, Workload, ring

STREAMS = 4
INTERVAL_S = 0.01
FRESH = 10
STRANGERS = 3
SILENCE_S = 0.15
PATIENCE_S = 3.0
POLL_S = 0.02

Cuts = Callable[[str, str], bool]
"""Whether packets between these two hosts may be lost, by what has struck."""


class Pulse:
    """Pings between the workloads of a world that no churn touches."""

    def __init__(self, world: World, driver: str, dice: random.Random) -> None:
        self._vpcs = (list(world.vpc), list(world.twin))
        self._real = driver == "ebpf"
        self._dice = dice
        self._streams: list[Stream] = []
        self._busy: set[str] = set()

    def start(self, cuts: Cuts) -> None:
        """Streams begin, on ways that are not cut."""
        if not self._real:
            return
        for number in range(STREAMS):
            here, there = self._pair(self._vpcs[number % 2], cuts)
            self._busy.update((here.id, there.id))
            self._streams.append(Stream(Ping(source=here.netns, target=there.ip), INTERVAL_S))

    def stop(self) -> tuple[int, int]:
        """(sent, lost). Idempotent."""
        results = [stream.stop() for stream in self._streams]
        self._streams, self._busy = [], set()
        return sum(one.sent for one in results), sum(one.lost for one in results)

    def fresh(self, cuts: Cuts) -> list[str]:
        """Who cannot be reached by whom, of some that have not spoken to each other lately."""
        if not self._real:
            return []
        pairs = [self._pair(self._vpcs[number % 2], cuts) for number in range(FRESH)]
        answers = ping_all([Ping(source=a.netns, target=b.ip) for a, b in pairs], timeout_s=PATIENCE_S)
        return [
            f"no answer from {b.ip} on {b.host.name} to {a.ip} on {a.host.name}"
            for (a, b), answer in zip(pairs, answers, strict=True)
            if not answer.answered
        ]

    def across(self, severed: Collection[tuple[str, str]]) -> list[str]:
        """Who does reach whom although they are on hosts that are cut from each other: then the cut is none."""
        if not self._real or not severed:
            return []
        at = {one.host.name: one for one in self._vpcs[0]}
        pairs = [(at[here], at[there]) for here, there in severed if here in at and there in at]
        answers = ping_all([Ping(source=a.netns, target=b.ip) for a, b in pairs], timeout_s=SILENCE_S)
        wrong = [
            f"{b.ip} on {b.host.name} answered {a.ip} on {a.host.name} over an underlay that is cut"
            for (a, b), answer in zip(pairs, answers, strict=True)
            if answer.answered
        ]
        return wrong if pairs else ["no containers on hosts that are cut from each other: the cut is not proved"]

    def whole(self) -> list[str]:
        """What is wrong with reachability (around all hosts, in each VPC) and isolation (between the VPCs)."""
        around = [pair for vpc in self._vpcs for pair in ring(vpc)]
        if not self._real:
            return _switched(around)
        answers = ping_all([Ping(source=a.netns, target=b.ip) for a, b in around], timeout_s=PATIENCE_S)
        wrong = [
            f"no answer from {b.ip} on {b.host.name} to {a.ip} on {a.host.name}"
            for (a, b), answer in zip(around, answers, strict=True)
            if not answer.answered
        ]
        return wrong + self._strangers()

    def _strangers(self) -> list[str]:
        """The twin pings addresses that only the first VPC has. (An answer is none of these workloads' doing: the churn
        makes ports in the twin, too.)"""
        taken = {one.ip for one in self._vpcs[1]}
        targets = [one for one in self._vpcs[0] if one.ip not in taken]
        if not targets or not self._vpcs[1]:
            return []
        pairs = [(self._dice.choice(self._vpcs[1]), self._dice.choice(targets)) for _ in range(STRANGERS)]
        nonce = secrets.token_bytes(NONCE_BYTES)
        with Captures([b.netns for _, b in pairs]) as captures:
            pings = [Ping(source=a.netns, target=b.ip, nonce=nonce) for a, b in pairs]
            ping_all(pings, timeout_s=SILENCE_S, resend_s=SILENCE_S / 3)
            seen = captures.count(nonce)
        return [f"{a.ip} of the twin VPC reached {b.ip}" for (a, b), count in zip(pairs, seen, strict=True) if count]

    def _pair(self, them: Sequence[Workload], cuts: Cuts) -> Pair:
        while True:
            here, there = self._dice.sample(list(them), 2)
            cut = here.host.name != there.host.name and cuts(here.host.name, there.host.name)
            if not cut and not {here.id, there.id} & self._busy:
                return here, there


def _switched(pairs: Sequence[Pair]) -> list[str]:
    wrong = []
    for here, there in pairs:
        question: dict[str, object] = {"op": "ping", "port": here.id, "destination": there.ip, "count": 1}
        answer = _ask(here, {**question, "timeout_s": PATIENCE_S})
        if answer["received"] != 1:
            wrong.append(f"no answer from {there.ip} on {there.host.name} to {here.ip} on {here.host.name}")
    return wrong


def _ask(one: Workload, question: dict[str, object]) -> dict[str, Any]:
    """Asks the workload's agent, which may just now be taking its place back from the standby."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return fakeproofs.ask(one.host, question)
        except LabError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)
