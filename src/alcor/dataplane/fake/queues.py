"""The queues of limited ports, as the software switch keeps them. Called by the switch and its state.

What waits goes out at its queue's rate, and what finds no room is dropped. This model lets a packet pass at once that a
real queue would let wait: it says which packets come through, not when. It is the virtual scheduling of ITU-T I.371
(annex A.2): `free_ns` is when the queue will be empty.
"""

from __future__ import annotations

import msgspec

from alcor.dataplane.base import EipLimit, LocalPort, RateLimit
from alcor.model.addresses import Ip

FIRST_OF_EIPS = 1 << 40
"""Queues of external addresses are numbered by these, above those of ports."""


class Queue(msgspec.Struct, gc=False):
    """One queue. `free_ns` is of the monotonic clock."""

    limit: RateLimit
    ifindex: int
    """Of the port whose it is."""
    free_ns: int = 0

    def admit(self, length: int, now_ns: int) -> bool:
        """A packet of so many bytes comes: True when there is room."""
        waits_ns = max(0, self.free_ns - now_ns)
        waiting = waits_ns * self.limit.bytes_per_s // 1_000_000_000 - self.limit.burst_bytes
        if waiting + length > self.limit.queue_bytes:
            return False
        self.free_ns = now_ns + waits_ns + length * 1_000_000_000 // self.limit.bytes_per_s
        return True


def numbers(port: LocalPort, ifindex: int) -> tuple[int, int]:
    """The queues of what the port sends and of what it is given; 0 where it is not limited."""
    return 2 * ifindex if port.egress_limit else 0, 2 * ifindex + 1 if port.ingress_limit else 0


def eip_numbers(port: LocalPort, ip: Ip) -> tuple[int, int]:
    """The queues of what leaves from one of the port's external addresses and of what comes for it; 0 where it is not
    limited."""
    limit = next((one for one in port.eip_limits if one.ip == ip), EipLimit(ip, None, None))
    base = FIRST_OF_EIPS + 2 * int.from_bytes(ip[12:], "big")
    return base if limit.egress else 0, base + 1 if limit.ingress else 0


def _limits(port: LocalPort, ifindex: int) -> dict[int, RateLimit]:
    """By queue."""
    wanted = [(numbers(port, ifindex), (port.egress_limit, port.ingress_limit))]
    wanted += [(eip_numbers(port, one.ip), (one.egress, one.ingress)) for one in port.eip_limits]
    pairs = (pair for named, limits in wanted for pair in zip(named, limits, strict=True))
    return {number: limit for number, limit in pairs if limit is not None}


def put(queues: dict[int, Queue], port: LocalPort, ifindex: int) -> None:
    """Gives the port the queues that it is to have; one that has its limit already goes on as it is."""
    limits = _limits(port, ifindex)
    for number in [number for number, queue in queues.items() if queue.ifindex == ifindex and number not in limits]:
        del queues[number]
    for number, limit in limits.items():
        if number not in queues or (queues[number].limit, queues[number].ifindex) != (limit, ifindex):
            queues[number] = Queue(limit, ifindex)


def remove(queues: dict[int, Queue], ifindex: int) -> None:
    """Takes the port's queues away."""
    for number in [number for number, queue in queues.items() if queue.ifindex == ifindex]:
        del queues[number]
