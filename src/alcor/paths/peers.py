"""Who carries goal state to a host that cannot be reached: a healthy host near it that does not share its fate. Pure.

Called by rescue. Near is the same availability zone; what shares its fate is the same failure domain (a rack, a power
feed): whatever cut the target off may have cut its neighbours off too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

Host = TypeVar("Host")

WINDOW = 256
"""Of the hosts there are, so many are looked at, from a random one on: enough to find a good one in a large region."""


class Peer(NamedTuple):
    """A host that may carry, or the one to be reached."""

    host: str
    zone: str = ""
    domain: str = ""
    load: int = 0
    """Relays that it carries now."""


def window(hosts: Sequence[Host], roll: float) -> list[Host]:
    """Up to WINDOW of the hosts, in their order, from a random one on; `roll` in [0, 1) spreads targets over them."""
    first = int(roll * len(hosts))
    return [hosts[(first + place) % len(hosts)] for place in range(min(WINDOW, len(hosts)))]


def choose(target: Peer, peers: Sequence[Peer], *, count: int, max_load: int) -> list[str]:
    """Up to `count` peers, the best first: same zone and another failure domain, same zone, then any; among those the
    least loaded, equals in their order. A peer with `max_load` relays is passed by."""
    able = [peer for peer in peers if peer.host != target.host and peer.load < max_load]
    able.sort(key=lambda peer: (_distance(target, peer), peer.load))
    return [peer.host for peer in able[:count]]


def _distance(target: Peer, peer: Peer) -> int:
    if peer.zone != target.zone:
        return 2
    return 1 if target.domain and peer.domain == target.domain else 0
