"""Which number is free: addresses of a subnet, MACs of a network, VNIs. Pure.

Called by services, which plan an allocation while they compute a command and apply it only when the command holds:
`plan` changes nothing, `apply` does. Numbers given out for the first time come first, in ascending order from a
cursor; numbers that were given back wait until nothing fresh is left, then all of them become fresh again (so that
an address whose last owner is still remembered by somebody's ARP table is the last to come back).

pyroaring enters Alcor here and nowhere else. 1,000 addresses of a /8 cost some 0.05 ms, however full it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pyroaring import BitMap64

from alcor.model.addresses import V4_MAPPED, Ip, Mac, Prefix, ip_to_int
from alcor.model.ids import Id
from alcor.model.nouns import Pool

MAC_PREFIX = 0xFA163E
"""The first three bytes of the MACs that Alcor chooses: OpenStack's, locally administered and unicast."""
MAX_VNI = (1 << 24) - 1

_SMALLEST_WINDOW = 64


class Exhausted(Exception):
    """Fewer numbers are free than were asked for; `free` of them are."""

    def __init__(self, free: int) -> None:
        super().__init__(f"{free} free")
        self.free = free


class Taken(Exception):
    """The number asked for has an owner already, or was asked for twice."""

    def __init__(self, value: int) -> None:
        super().__init__(str(value))
        self.value = value


class Allocation(NamedTuple):
    """A planned change to one allocator: what `apply` will do."""

    chosen: list[int]
    """Numbers chosen by the allocator, in order."""
    exact: Sequence[int]
    """Numbers that the caller named."""
    released: Sequence[int]
    cursor: int
    reopened: bool
    """The freed generation became fresh."""


class Range(NamedTuple):
    """A run of numbers, both ends included."""

    first: int
    last: int


class Allocator:
    """Numbers of some ranges, each owned at most once.

    Numbers outside the ranges can be taken by name (`exact`), never by choice. Numbers have at most 64 bits: a MAC, or
    the interface part of an IPv6 address.
    """

    __slots__ = ("_cursor", "_freed", "_ranges", "_size", "_used")

    def __init__(self, ranges: Iterable[Range], *, start: int | None = None) -> None:
        self._ranges = sorted(ranges)
        self._size = sum(last - first + 1 for first, last in self._ranges)
        self._cursor = start if start is not None else (self._ranges[0].first if self._ranges else 0)
        self._used = BitMap64()
        self._freed = BitMap64()

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and value in self._used

    def __len__(self) -> int:
        """How many numbers have an owner."""
        return len(self._used)

    @property
    def free(self) -> int:
        """How many numbers of the ranges have no owner."""
        return self._size - sum(self._used.range_cardinality(first, last + 1) for first, last in self._ranges)

    def used(self) -> set[int]:
        """Every number that has an owner (for the invariant checker)."""
        return set(self._used)

    def restore(self, used: Iterable[int]) -> None:
        """Takes over numbers found owned at start. What was freed before is not known any more: the cursor goes behind
        the last number given out, so holes come back last."""
        self._used.update(used)
        for first, last in reversed(self._segments(self._cursor)):
            count = self._used.rank(last)
            if count and (highest := self._used[count - 1]) >= first:
                self._cursor = highest + 1
                return

    def plan(self, count: int = 0, *, exact: Sequence[int] = (), release: Sequence[int] = ()) -> Allocation:
        """Gives back `release`, takes `exact`, and chooses `count` numbers more; changes nothing.

        Raises Taken, or Exhausted. What is released in this very plan may be named in `exact`, but is not chosen.
        """
        if exact:
            self._check_exact(exact, release)
        if not count:
            return Allocation([], exact, release, self._cursor, False)
        cursor = self._cursor
        if count == 1 and not exact and self._fresh(cursor):
            # The same answer as the search's, without its bitmaps: a third of the cost of a command for one port.
            return Allocation([cursor], exact, release, cursor + 1, False)
        barred = BitMap64(exact)
        chosen = self._search(count, (self._used, self._freed, barred))
        if len(chosen) == count:
            return Allocation(chosen, exact, release, chosen[-1] + 1, False)
        # Nothing fresh is left: open the freed generation.
        barred.update(chosen)
        more = self._search(count - len(chosen), (self._used, barred))
        if len(chosen) + len(more) < count:
            raise Exhausted(len(chosen) + len(more))
        return Allocation(chosen + more, exact, release, more[-1] + 1, True)

    def apply(self, allocation: Allocation) -> None:
        """Does what `plan` planned. Plans are applied in the order in which they were made, each before the next."""
        if allocation.released:
            self._used.difference_update(BitMap64(allocation.released))
        if allocation.reopened:
            self._freed.clear()
        if allocation.released:
            self._freed.update(allocation.released)
        for taken in (allocation.exact, allocation.chosen):
            if taken:
                self._used.update(taken)
                if self._freed:
                    self._freed.difference_update(BitMap64(taken))
        self._cursor = allocation.cursor

    def reshape(self, ranges: Iterable[Range]) -> None:
        """Other ranges from now on; owners keep their numbers."""
        self._ranges = sorted(ranges)
        self._size = sum(last - first + 1 for first, last in self._ranges)

    def _check_exact(self, exact: Sequence[int], release: Sequence[int]) -> None:
        seen: set[int] = set()
        given_back = set(release)
        for value in exact:
            if value in seen or (value in self._used and value not in given_back):
                raise Taken(value)
            seen.add(value)

    def _fresh(self, value: int) -> bool:
        """True when the number is ours to give and nobody has it or had it lately."""
        if value in self._used or value in self._freed:
            return False
        return any(first <= value <= last for first, last in self._ranges)

    def _segments(self, start: int) -> list[Range]:
        """The ranges in the order of the search: from `start` to the end, then from the beginning to `start`."""
        ahead = [Range(max(first, start), last) for first, last in self._ranges if last >= start]
        behind = [Range(first, min(last, start - 1)) for first, last in self._ranges if first < start]
        return ahead + behind

    def _search(self, count: int, without: tuple[BitMap64, ...]) -> list[int]:
        """Up to `count` numbers that are in none of `without`, in the order of the search.

        Looks through windows that double while they come back short, so a long owned stretch costs its logarithm.
        """
        found: list[int] = []
        for first, last in self._segments(self._cursor):
            low, width = first, max(_SMALLEST_WINDOW, count - len(found))
            while low <= last:
                high = min(last, low + width - 1)
                window = BitMap64(range(low, high + 1))
                for bits in without:
                    window -= bits
                need = count - len(found)
                found.extend(window[:need] if len(window) > need else window)
                if len(found) == count:
                    return found
                low, width = high + 1, width * 2
        return found


def address_allocator(cidr: Prefix, pools: Sequence[Pool]) -> Allocator:
    """Addresses of a subnet, as offsets from its first address; chosen from the pools."""
    return Allocator(pool_ranges(cidr, pools))


def pool_ranges(cidr: Prefix, pools: Sequence[Pool]) -> list[Range]:
    """The pools as offsets from the subnet's first address."""
    base = cidr.first
    return [Range(ip_to_int(pool.first) - base, ip_to_int(pool.last) - base) for pool in pools]


def addresses_at(cidr: Prefix, offsets: Iterable[int]) -> list[Ip]:
    """The addresses at these offsets from the subnet's first."""
    base = cidr.first
    if cidr.version == 4:
        return [Ip(V4_MAPPED + (base + offset).to_bytes(4, "big")) for offset in offsets]
    return [Ip((base + offset).to_bytes(16, "big")) for offset in offsets]


def mac_allocator(network_id: Id) -> Allocator:
    """MACs of a network, as 48-bit integers. Networks start at different places, so that a frame that strays into
    another network is unlikely to meet its own address there."""
    first = MAC_PREFIX << 24
    offset = int.from_bytes(hashlib.blake2b(network_id, digest_size=3).digest(), "big")
    return Allocator([Range(first, first | 0xFFFFFF)], start=first + offset)


def mac_from_int(value: int) -> Mac:
    """The MAC of a 48-bit integer."""
    return Mac(value.to_bytes(6, "big"))


def mac_to_int(mac: Mac) -> int:
    """The MAC as a 48-bit integer."""
    return int.from_bytes(mac, "big")


def vni_allocator() -> Allocator:
    """Virtual network identifiers: 1 to 2^24 - 1 (RFC 7348 has 24 bits; 0 is left alone)."""
    return Allocator([Range(1, MAX_VNI)])
