"""What a host needs and does not hold. Pure. Called by reconcile.

A host forgets a VPC that nothing leads to, as far as it has heard; a router that leads there may have been on its way
by another line meanwhile. The controller, which knew of the router all the time, thinks that the VPC is held. So what
is needed and does not come by itself is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from alcor.agent.state import Desired, ScopeKey
from alcor.wire.reports import Ack, Held

PATIENCE_S = 2.0
"""Usually it is on its way, behind what led to it. It is asked for after this, and as often again."""


class Lacking:
    """See the module."""

    def __init__(self) -> None:
        self._asks: dict[ScopeKey, float] = {}
        """VPC that is lacking -> when to ask for it."""

    def look(self, desired: Desired, now: float) -> None:
        """Call it when roads or ports changed."""
        lacking = (key for key in desired.needed() if desired.vpc(key) is None)
        self._asks = {key: self._asks.get(key, now + PATIENCE_S) for key in lacking}

    def due(self) -> float | None:
        """When the next is to be asked for; None: nothing is lacking."""
        return min(self._asks.values(), default=None)

    def take(self, now: float, may_ask: Callable[[int], bool]) -> list[ScopeKey]:
        """Those to be asked for now, of partitions that may be asked; sorted. They are due again later."""
        due = sorted(key for key, at in self._asks.items() if at <= now)
        self._asks.update((key, now + PATIENCE_S) for key in due)
        return [key for key in due if may_ask(key.partition)]


def words(lacking: Mapping[int, Sequence[Held]], later: Iterable[tuple[int, Ack]]) -> list[tuple[int, Ack]]:
    """Later word, by partition, with the scopes that are asked for."""
    acks = {partition: Ack(sequence=0, scopes=tuple(scopes)) for partition, scopes in lacking.items()}
    for partition, ack in later:
        acks[partition] = msgspec.structs.replace(acks.get(partition, ack), ports=ack.ports)
    return sorted(acks.items())
