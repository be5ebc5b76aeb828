"""Which backend a new connection goes to: Maglev's look-up table, and the hash that finds a place in it. Pure.

Called by both drivers; lb.h looks up the same table with the same hash. The table is that of Eisenbud et al., "Maglev:
A fast and reliable software network load balancer" (NSDI 2016), section 3.4: every backend has a permutation of all
places, from a hash of its own name alone, and the backends take turns to claim the first of theirs that is free. So
every host makes the same table, backends have equally many places (or as their weights say), and when one comes or goes
few places change hands beside its own.

Who fails is expected back, and must lose its new connections at once: its places are dealt out among the others, which
keep theirs, in a quarter to a tenth of the time of another table (decision 0034).
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from hashlib import blake2b

from msgspec.structs import replace

from alcor.dataplane.base import Backend, Service
from alcor.model.addresses import Ip

TABLE_SIZE = 16_381
"""A prime. With the 1,024 backends that a service may have, each has 15 or 16 places: even within 7 %."""
_FREE = 0xFFFF
_ROUNDS, _SHIFT = 8, 6_151
"""A place of who failed gets what is so many places further, or twice as many...: by then it is as good as drawn."""
_MASK = 0xFFFFFFFF


def usable(service: Service) -> tuple[Backend, ...]:
    """The backends that new connections go to, in their order."""
    return tuple([one for one in service.backends if one.weight and not one.failed])


@lru_cache(maxsize=128)
def places(service: Service) -> array[int]:
    """For each of TABLE_SIZE places the index in `usable` of who gets the connections; empty when there is nobody. Not
    to be changed."""
    named = [one for one in service.backends if one.weight]
    table = maglev_table(tuple([replace(one, failed=False) if one.failed else one for one in named]))
    alive = [index for index, one in enumerate(named) if not one.failed]
    if len(alive) == len(named) or not alive:
        return table if alive else array("H")
    numbers = array("H", [_FREE]) * len(named)
    for number, index in enumerate(alive):
        numbers[index] = number
    among = [numbers[index] for index in table]
    dealt = array("H", among)
    left = [at for at, one in enumerate(among) if one == _FREE]
    for shift in range(_SHIFT, (_ROUNDS + 1) * _SHIFT, _SHIFT):
        still = []
        for at in left:
            one = among[(at + shift) % TABLE_SIZE]
            if one == _FREE:
                still.append(at)
            else:
                dealt[at] = one
        left = still
    for turn, at in enumerate(left):
        dealt[at] = turn % len(alive)
    return dealt


@lru_cache(maxsize=128)
def maglev_table(backends: tuple[Backend, ...]) -> array[int]:
    """For each of TABLE_SIZE places the index of its backend; empty when there are none. Not to be changed.

    The order of the backends says who claims first, so give them sorted. A backend of weight w takes w / (largest
    weight) of the turns, and its first in any case. Weights must not be 0. Some 15 ms.
    """
    size = TABLE_SIZE
    table = array("H", [_FREE]) * size if backends else array("H")
    places, skips, weights = [], [], []
    for backend in backends:
        named = backend.ip + backend.port.to_bytes(2, "big")
        number = int.from_bytes(blake2b(named, digest_size=16, person=b"alcor-maglev").digest(), "little")
        places.append((number & 0xFFFFFFFFFFFFFFFF) % size)
        skips.append((number >> 64) % (size - 1) + 1)
        weights.append(backend.weight)
    largest = max(weights, default=1)
    credit = [largest] * len(weights)
    left = size if backends else 0
    while left:
        for index, weight in enumerate(weights):
            if credit[index] < largest:
                credit[index] += weight
                continue
            credit[index] += weight - largest
            place, skip = places[index], skips[index]
            while table[place] != _FREE:
                place += skip
                if place >= size:
                    place -= size
            table[place] = index
            place += skip
            places[index] = place - size if place >= size else place
            left -= 1
            if not left:
                break
    return table


def place_of(source: Ip, source_port: int) -> int:
    """The place of a connection in the table; with affinity the port is given as 0. lb.h has the same."""
    mixed = 0
    for at in range(0, 16, 4):
        mixed = _mix(mixed, int.from_bytes(source[at : at + 4], "big"))
    mixed = _mix(mixed, source_port)
    mixed = (mixed ^ (mixed >> 16)) * 0x85EBCA6B & _MASK
    return (mixed ^ (mixed >> 13)) % TABLE_SIZE


def _mix(mixed: int, word: int) -> int:
    mixed = (mixed ^ word) * 0x9E3779B1 & _MASK
    return mixed ^ (mixed >> 15)
