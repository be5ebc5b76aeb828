"""Security groups, proved with real packets: who is let in, who is not, how soon a change of rules acts. Called by run.

The members of a group on every host are pinged by one workload, many times a second; a rule that lets it in is made and
deleted again. From the request to the first answer of each host, and to the last, is what a change takes.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

from alcor.dataplane.kernel import netns
from alcor.lab.client import Client, Resource, await_true
from alcor.lab.pings import ECHO_REPLY, ICMP_HEADER, IP_HEADER, Ping, echo_request, ping_all
from alcor.lab.proofs import SILENCE_S, Drops, World
from alcor.lab.results import Proof, percentile
from alcor.lab.workloads import Workload, by_host

EVERY_S = 0.02
"""Between two pings of a host: how finely a change is timed."""
SETTLE_S = 5.0
QUIET_S = 0.5
CHANGES = 5
IDENTIFIER = 0x5347
_SEQUENCE = struct.Struct("!H")


class Policing(msgspec.Struct, kw_only=True):
    """What was proved, and how long changes took: one number for each host and change."""

    proofs: list[Proof] = []
    allowed_ms: list[float] = []
    cut_ms: list[float] = []


def police(
    client: Client, world: World, drops: Drops, progress: Callable[[int], None], check: Callable[[], None]
) -> Policing:
    """One member on every host that has a workload to spare; their groups are as before when it returns."""
    found = Policing()
    hosts = by_host(world.vpc)
    sender = world.vpc[0]
    members = [them[-1] for them in hosts.values() if them[-1].id != sender.id]
    if not members:
        return found
    before = {one.id: client.get(f"/v2.0/ports/{one.id}")["port"]["security_groups"] for one in (sender, *members)}
    group, welcoming = (_make_group(client, name) for name in ("lab members", "lab sender"))
    try:
        _make_rule(client, welcoming)
        wanted = {one.id: [group["id"]] for one in members}
        _regroup(client, {**wanted, sender.id: [*before[sender.id], welcoming["id"]]}, check)
        found.proofs.append(_closed(sender, members, drops))
        for number in range(CHANGES):
            _change(client, group, sender, members, found)
            progress(number + 1)
        found.proofs.append(_judge(found, len(members)))
    finally:
        _regroup(client, before, check)
        for one in (group, welcoming):
            client.delete("security-groups", one["id"])
    found.proofs.append(_open(sender, members))
    return found


def _make_group(client: Client, name: str) -> Resource:
    made: Resource = client.request("POST", "/v2.0/security-groups", {"security_group": {"name": name}})
    found: Resource = made["security_group"]
    return found


def _make_rule(client: Client, group: Resource) -> str:
    """Lets pings into the group; the rule's id."""
    body = {"security_group_id": group["id"], "direction": "ingress", "protocol": "icmp"}
    made = client.request("POST", "/v2.0/security-group-rules", {"security_group_rule": body})
    return str(made["security_group_rule"]["id"])


def _regroup(client: Client, groups: Mapping[str, Sequence[str]], check: Callable[[], None]) -> None:
    """Gives ports their groups, and waits until their hosts carry that."""
    for identifier, wanted in groups.items():
        client.request("PUT", f"/v2.0/ports/{identifier}", {"port": {"security_groups": list(wanted)}})

    def carried() -> bool:
        ports = (client.get(f"/v2.0/ports/{identifier}")["port"] for identifier in groups)
        return all(port["status"] == "ACTIVE" for port in ports)

    await_true(carried, "ports to be ACTIVE in their groups", 60.0, 0.05, check)


def _closed(sender: Workload, members: Sequence[Workload], drops: Drops) -> Proof:
    """Out of the group nobody is let in; what members begin is answered all the same."""
    before = [drops(one).get("policy_ingress", 0) for one in members]
    answers = ping_all([Ping(source=sender.netns, target=one.ip) for one in members], timeout_s=SILENCE_S)
    out = ping_all([Ping(source=one.netns, target=sender.ip) for one in members])
    counted = sum(drops(one).get("policy_ingress", 0) > was for one, was in zip(members, before, strict=True))
    answered, replied = sum(one.answered for one in answers), sum(one.answered for one in out)
    return Proof(
        name="another group does not get in",
        expectation="members of a group without ingress rules do not answer, and are answered themselves",
        measured=f"{answered} of {len(members)} answered, {counted} counted it as policy_ingress; "
        f"{replied}/{len(members)} were answered",
        passed=answered == 0 and counted == replied == len(members),
    )


def _open(sender: Workload, members: Sequence[Workload]) -> Proof:
    """Back in their old groups they answer again."""
    answers = ping_all([Ping(source=sender.netns, target=one.ip) for one in members])
    answered = sum(one.answered for one in answers)
    return Proof(
        name="back in their groups",
        expectation="they answer as before",
        measured=f"{answered}/{len(members)} answered",
        passed=answered == len(members),
    )


def _change(client: Client, group: Resource, sender: Workload, members: Sequence[Workload], found: Policing) -> None:
    """A rule comes, then goes, under pings."""
    with _Pinger(sender, [one.ip for one in members]) as pinger:
        pinger.run(2 * EVERY_S)
        started = time.monotonic()
        rule = _make_rule(client, group)
        pinger.run(SETTLE_S, until=lambda: len(pinger.first) == len(members))
        found.allowed_ms += [1000 * (pinger.first.get(one.ip, float("inf")) - started) for one in members]
        pinger.run(2 * EVERY_S)
        pinger.last.clear()
        started = time.monotonic()
        client.delete("security-group-rules", rule)
        pinger.run(SETTLE_S, until=lambda: pinger.quiet_for(QUIET_S, started))
        found.cut_ms += [1000 * max(0.0, pinger.last.get(one.ip, started) - started) for one in members]
        if not pinger.quiet_for(QUIET_S, started):
            found.cut_ms.append(float("inf"))


def _judge(found: Policing, members: int) -> Proof:
    worst, cut = max(found.allowed_ms), max(found.cut_ms)
    medians = f"{percentile(found.allowed_ms, 0.5):.0f} and {percentile(found.cut_ms, 0.5):.0f} ms"
    return Proof(
        name="rules act on running traffic",
        expectation="a rule that comes lets pings through on every host, one that goes cuts those that run",
        measured=f"{members} hosts, {CHANGES} changes each way: through after {worst:.0f} ms at most, cut after "
        f"{cut:.0f} ms at most (median {medians})",
        passed=worst < 1000 * SETTLE_S and cut < 1000 * SETTLE_S,
    )


class _Pinger:
    """Pings addresses in turn from one namespace and notes when each first and last answered. A context."""

    def __init__(self, sender: Workload, targets: Sequence[str]) -> None:
        fd = netns.open_path(sender.netns)
        try:
            self._socket = netns.call(fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        finally:
            os.close(fd)
        self._socket.setblocking(False)
        self._targets = targets
        self._sequence = 0
        self._next = time.monotonic()
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def __enter__(self) -> _Pinger:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Pings all of them every EVERY_S, for so long, or until it is so."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end and not (until is not None and until()):
            if now >= self._next:
                self._next = now + EVERY_S
                self._sequence = (self._sequence + 1) & 0xFFFF
                request = echo_request(IDENTIFIER, self._sequence, b"alcor")
                for target in self._targets:
                    with suppress(OSError):
                        self._socket.sendto(request, (target, 0))
            self._listen(max(0.0, min(self._next, end) - time.monotonic()))

    def _listen(self, seconds: float) -> None:
        if not select.select([self._socket], [], [], seconds)[0]:
            return
        now = time.monotonic()
        with suppress(BlockingIOError):
            while True:
                packet, (address, _) = self._socket.recvfrom(2048)
                message = packet[IP_HEADER : IP_HEADER + ICMP_HEADER]
                if message[0] == ECHO_REPLY and message[4:6] == _SEQUENCE.pack(IDENTIFIER):
                    self.first.setdefault(address, now)
                    self.last[address] = now

    def quiet_for(self, seconds: float, since: float) -> bool:
        """Nobody answered for so long."""
        return time.monotonic() - max([since, *self.last.values()]) >= seconds
