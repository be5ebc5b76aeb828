"""Who probes whom: every host a few others, near it but of other failure domains. Pure but for its own state.

Called by probing. The hosts stand in a ring, ordered by zone and within it by a hash of the name, so that neighbours
in a rack are strangers in the ring. A host probes the next ones that are not of its failure domain: as many whatever
the size of the region, and nearly as many probe it. A host that comes or goes changes the peers of those just before.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from hashlib import blake2b

from alcor.model.nouns import Node

PEERS = 3
"""That a host probes."""
WINDOW = 32
"""Of the ring, looked at for them."""

_Place = tuple[str, bytes, str]


class Neighbours:
    """See the module."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._ring: list[_Place] | None = None
        """Sorted; None: to be sorted when it is next looked at, so that many who come at once cost little."""

    def put(self, node: Node) -> None:
        """The host is there, or elsewhere than before."""
        before = self._nodes.get(node.name)
        if before is not None and _place(before) == _place(node):
            self._nodes[node.name] = node
            return
        self.drop(node.name)
        self._nodes[node.name] = node
        if self._ring is not None:
            insort(self._ring, _place(node))

    def drop(self, host: str) -> None:
        """The host is gone."""
        node = self._nodes.pop(host, None)
        if node is not None and self._ring is not None:
            del self._ring[bisect_left(self._ring, _place(node))]

    def peers(self, host: str) -> tuple[Node, ...]:
        """Whom it probes, best first; none of a host that is not there."""
        mine = self._nodes.get(host)
        if mine is None:
            return ()
        others = [self._nodes[name] for name in self._around(host, 1)]
        strangers = [one for one in others if not mine.failure_domain or one.failure_domain != mine.failure_domain]
        relatives = [one for one in others if one not in strangers]
        return tuple((strangers + relatives)[:PEERS])

    def before(self, host: str) -> list[str]:
        """The hosts whose peers it may be, or have been."""
        return list(self._around(host, -1))

    def _around(self, host: str, step: int) -> Iterator[str]:
        """The next WINDOW hosts of the ring, that way; each once, and not the host itself."""
        if self._ring is None:
            self._ring = sorted(_place(node) for node in self._nodes.values())
        ring, node = self._ring, self._nodes.get(host)
        if node is None:
            return
        here = bisect_left(ring, _place(node))
        for distance in range(1, min(WINDOW + 1, len(ring))):
            yield ring[(here + step * distance) % len(ring)][2]


def _place(node: Node) -> _Place:
    return node.availability_zone, blake2b(node.name.encode(), digest_size=8).digest(), node.name
