"""What a host missed of a scope, from the keys that changed and the objects as they are now. Pure.

Called by loops.catchup. The answer is a delta like any other, but for `confirms`: the digest that the host must have
once it has merged it. So it need not be known for sure what the host holds; a wrong base is noticed, and the host asks
for the scope whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from alcor.goalstate.objects import Goal, Key, Kind, ScopeUpdate, Tombstone
from alcor.model.ids import Id


def catch_up(
    scope: Id,
    revision: int,
    missed: Mapping[tuple[Kind, Id], int],
    present: Iterable[Goal],
    digest: int,
) -> ScopeUpdate:
    """The delta for who missed the last changes of these keys, each of its revision.

    `present` are the scope's objects as of `revision`: at least those of these keys that are there. What is not is
    gone. `digest` is the whole scope's, as of then.
    """
    objects = tuple(sorted((goal for goal in present if goal.key in missed), key=_key))
    there = {goal.key for goal in objects}
    gone = [
        Tombstone(Kind(kind), identifier, missed[kind, identifier])
        for kind, identifier in sorted(missed.keys() - there)
    ]
    return ScopeUpdate(
        scope=scope, revision=revision, snapshot=False, objects=objects, tombstones=tuple(gone), confirms=digest
    )


def _key(goal: Goal) -> Key:
    return goal.key
