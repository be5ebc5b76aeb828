"""The queues of limited ports, as the software switch keeps them. Called by the switch and its state.

What waits goes out at its queue's rate, and what finds no room is dropped. This model lets a packet pass at once that a
real queue would let wait: it says which packets come through, not when. It is the virtual scheduling of ITU-T I.371
(annex A.2): `free_ns` is when the queue will be empty.
"""

from __future__ import annotations

import msgspec

from alcor.dataplane.base import LocalPort, RateLimit


class Queue(msgspec.Struct, gc=False):
    """One queue. `free_ns` is of the monotonic clock."""

    limit: RateLimit
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


def put(queues: dict[int, Queue], port: LocalPort, ifindex: int) -> None:
    """Gives the port the queues that it is to have; one that has its limit already goes on as it is."""
    for number, limit in ((2 * ifindex, port.egress_limit), (2 * ifindex + 1, port.ingress_limit)):
        if limit is None:
            queues.pop(number, None)
        elif number not in queues or queues[number].limit != limit:
            queues[number] = Queue(limit)


def remove(queues: dict[int, Queue], ifindex: int) -> None:
    """Takes the port's queues away."""
    queues.pop(2 * ifindex, None)
    queues.pop(2 * ifindex + 1, None)
