"""The digest of a scope: what two parties compare to know that they hold the same objects. Pure.

Called by merge (to keep a running digest) and snapshot (the truth). Order-independent: the sum modulo 2^64 of one
BLAKE2b-64 (RFC 7693) per object over kind (1 byte), id (16 bytes) and revision (8 bytes, big-endian). Sums can be
updated in place: add what came, subtract what went.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from alcor.goalstate.objects import Goal

DIGEST_MASK = (1 << 64) - 1


_KIND_BYTES = [bytes((kind,)) for kind in range(256)]


def object_digest(kind: int, identifier: bytes, revision: int) -> int:
    """One object's share of its scope's digest: 64 bits."""
    named = _KIND_BYTES[kind] + identifier + revision.to_bytes(8, "big")
    return int.from_bytes(blake2b(named, digest_size=8).digest(), "big")


def digest(objects: Iterable[Goal]) -> int:
    """The digest of those objects, in whatever order; 0 for none."""
    return sum(object_digest(goal.key.kind, goal.id, goal.revision) for goal in objects) & DIGEST_MASK
