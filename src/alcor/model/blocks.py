"""Blocks of ports of an external address that hosts share: which host gets which. Pure.

Called by services.sharing (and loops.sharing, which asks whether anything would change). The ports above the well-known
ones are cut into blocks of 512; a host's ports get what it holds (RFC 7422 calls it a port block allocation). A host
keeps its blocks while it needs any: connections live in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

BLOCK_PORTS: Final = 512
FIRST_BLOCK, LAST_BLOCK = 1024 // BLOCK_PORTS, 65535 // BLOCK_PORTS
BLOCKS: Final = LAST_BLOCK - FIRST_BLOCK + 1
"""Of one address: 126."""
PORTS_PER_BLOCK: Final = 16
"""Ports (of hosts' networks) that a host has a block for."""
MAX_OF_HOST: Final = 16
"""Blocks of one address that one host can hold."""


class Assignment(NamedTuple):
    """Who holds which block (block -> host), and the hosts that have none because none is left, sorted."""

    holders: dict[int, str]
    without: tuple[str, ...]


def wanted_of(ports: int) -> int:
    """Blocks for a host with so many ports; at least one."""
    return min(MAX_OF_HOST, max(1, -(-ports // PORTS_PER_BLOCK)))


def assign(held: Mapping[int, str], hosts: Mapping[str, int]) -> Assignment:
    """The blocks for these hosts (host -> its ports), from what they hold now.

    Nobody loses a block that it has while it has ports, so a host whose ports become fewer keeps what it was given. A
    host's first block comes before any host's second; the lowest free block is taken.
    """
    kept = {block: host for block, host in held.items() if host in hosts}
    free = _Free(kept)
    counts = dict.fromkeys(hosts, 0)
    for host in kept.values():
        counts[host] += 1
    order = sorted(hosts)
    for rank in range(1, MAX_OF_HOST + 1):
        for host in order:
            if counts[host] < rank <= wanted_of(hosts[host]):
                block = free.take()
                if block is None:
                    break
                kept[block] = host
                counts[host] += 1
    without = tuple([host for host in order if not counts[host]])
    return Assignment(dict(sorted(kept.items())), without)


class _Free:
    """The free blocks of an address, as a bitmap."""

    def __init__(self, taken: Iterable[int]) -> None:
        self._bits = (1 << BLOCKS) - 1
        for block in taken:
            self._bits &= ~(1 << block - FIRST_BLOCK)

    def take(self) -> int | None:
        """The lowest; None: there is none."""
        if not self._bits:
            return None
        lowest = self._bits & -self._bits
        self._bits ^= lowest
        return lowest.bit_length() - 1 + FIRST_BLOCK
