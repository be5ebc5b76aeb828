"""The digest of a scope: what two parties compare to know that they hold the same objects. Pure.

Called by merge (to keep a running digest) and snapshot (the truth). Order-independent, and updated in place: add what
came, subtract what went. It is a multilinear hash (Carter and Wegman 1979) modulo the prime 2^61-1: the sum, over the
objects, of the id as a number times a weight of kind and revision. The weight is BLAKE2b-64 (RFC 7693) over kind (1
byte) and revision (8 bytes, big-endian). Objects of one commit share a weight, so a thousand of them cost a thousand
multiplications, where a hash of each would take three times as long (0.18 ms against 0.65). Two different sets agree
by chance only, one in 2^61; it is no defence against somebody who may choose ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat

from alcor.goalstate.objects import Goal

DIGEST_MODULUS = (1 << 61) - 1
WEIGHTS_KEPT = 4096
_number = int.from_bytes


def object_digest(kind: int, identifier: bytes, revision: int) -> int:
    """One object's share of its scope's digest, before the sum is taken modulo DIGEST_MODULUS."""
    return _weight(kind, revision) * _number(identifier, "big")


def digest_of_many(kind: int, identifiers: Sequence[bytes], revisions: Sequence[int]) -> int:
    """The sum of `object_digest` over objects of one kind; quick when many share a revision."""
    few = set(revisions)
    if len(few) == 1:
        return _weight(kind, few.pop()) * sum(map(_number, identifiers))  # big-endian is what it takes them for
    return sum(map(object_digest, repeat(kind), identifiers, revisions))


def digest(objects: Iterable[Goal]) -> int:
    """The digest of those objects, in whatever order; 0 for none."""
    return sum(object_digest(goal.key.kind, goal.id, goal.revision) for goal in objects) % DIGEST_MODULUS


@lru_cache(WEIGHTS_KEPT)
def _weight(kind: int, revision: int) -> int:
    named = bytes((kind,)) + revision.to_bytes(8, "big")
    return int.from_bytes(blake2b(named, digest_size=8).digest(), "big")
