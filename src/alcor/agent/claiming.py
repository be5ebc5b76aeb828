"""What workloads announce, told to the ports' controllers. Called by the agent, on its event loop.

A controller that does not listen is not told later: meanwhile the address may have been announced elsewhere, and
whoever has it announces it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from alcor.agent.state import Desired, ScopeKey
from alcor.hostsvc.announcements import announcement
from alcor.model.ids import Id
from alcor.model.nouns import Claim
from alcor.wire.reports import Ack, ClaimAck, encode_ack

CLAIMS_A_SECOND = 8
"""Of one port that are told. Two ports that both say they have an address cost their VPC's hosts no more than that."""
MAX_COUNTED = 4096
"""Ports whose claims are counted at a time."""


def interested(
    desired: Desired, vpc: ScopeKey, claims: Iterable[Claim], interface_of: Callable[[Id], int | None]
) -> list[tuple[int, bytes]]:
    """What is to be said to which interface: to all local ports of the VPC but the one that has the address."""
    told = []
    frames = [(claim, announcement(claim)) for claim in claims]
    for port in desired.ports_of(vpc):
        ifindex, goal = interface_of(port), desired.port(port)
        if ifindex is not None and goal is not None:
            told += [(ifindex, frame) for claim, frame in frames if claim not in goal.claims]
    return told


class Claiming:
    """See the module."""

    def __init__(
        self, desired: Callable[[], Desired], say: Callable[[int, bytes], bool], clock: Callable[[], float]
    ) -> None:
        """`say(partition, report)` tells a controller."""
        self._desired = desired
        self._say = say
        self._clock = clock
        self._counts: dict[Id, tuple[int, int]] = {}
        """Port -> the second, and how many claims in it."""

    def announced(self, port: Id, claim: Claim) -> None:
        """The port's workload says that it has the address."""
        desired = self._desired()
        partition, goal = desired.ports.get(port), desired.port(port)
        if partition is None or goal is None or claim in goal.claims or not self._may_tell(port):
            return
        self._say(partition, encode_ack(Ack(sequence=0, claims=(ClaimAck(port, goal.vpc_id, claim),))))

    def _may_tell(self, port: Id) -> bool:
        second = int(self._clock())
        since, count = self._counts.get(port, (second, 0))
        if since != second:
            count = 0
        if port not in self._counts and len(self._counts) >= MAX_COUNTED:
            self._counts = {one: known for one, known in self._counts.items() if known[0] == second}
        self._counts[port] = second, count + 1
        return count < CLAIMS_A_SECOND
