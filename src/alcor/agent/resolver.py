"""Finds out where addresses of VPCs on demand are: packets wait here, questions go up, answers come down.

Called by core, on its event loop, beside the worker thread: a packet that waits does not wait for ports being wired.
`demand` (pure) decides; here are the data plane's misses, the streams and the clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from alcor.agent.demand import Demand, DemandLimits, Step
from alcor.agent.state import OnDemand, ScopeKey
from alcor.dataplane.base import DataPlaneError, Misses
from alcor.dataplane.endpoints import EndpointKey
from alcor.model.nouns import Claim
from alcor.wire.fields import WireError
from alcor.wire.lookups import decode_answers, encode_lookup

_log = logging.getLogger(__name__)

TICK_S = 0.25
"""While something waits. An idle host sleeps: 100 that did not took a tenth of a core."""


class Resolver:
    """See the module. Everything on one event loop."""

    def __init__(
        self,
        host: str,
        misses: Misses,
        clock: Callable[[], float],
        say: Callable[[int, bytes], bool],
        moved: Callable[[ScopeKey, Sequence[Claim]], None],
        limits: DemandLimits | None = None,
    ) -> None:
        """`say(partition, report)` sends to the partition's controller; False: none is there. `moved` is told which
        addresses of a VPC are at another MAC now, once the data plane has it."""
        self._host = host
        self._misses = misses
        self._clock = clock
        self._say = say
        self._moved = moved
        self._demand = Demand(limits)
        self._live: set[int] = set()
        self._woken = asyncio.Event()
        """What time brings, and when, may be something else now."""

    @property
    def learnt(self) -> int:
        """Addresses of which something is known."""
        return len(self._demand.entries)

    async def run(self) -> None:
        """Answers misses until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._misses.fileno(), self.drain)
        try:
            while True:
                rest = self._demand.rest(self._clock())
                if rest is None or rest > TICK_S:
                    self._woken.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(rest):
                            await self._woken.wait()
                await asyncio.sleep(TICK_S)
                self.tick()
        finally:
            loop.remove_reader(self._misses.fileno())

    def serve(self, vpcs: Mapping[int, OnDemand], learnt: Sequence[EndpointKey]) -> None:
        """These VPCs, by VNI, are on demand now, and no others. `learnt`: what the data plane holds of them."""
        self._do(self._demand.serve(vpcs, learnt, self._clock()))
        self._woken.set()
        self._ask()

    def live(self, partition: int) -> None:
        """A session of that partition's controller began: it knows nothing of what is held here."""
        self._live.add(partition)
        self._demand.restart(partition)
        self._woken.set()
        self._ask()

    def gone(self, partition: int) -> None:
        """It is over: what is known stays, questions wait."""
        self._live.discard(partition)

    def answers(self, partition: int, bundle: bytes) -> None:
        """A bundle of answers came. Raises WireError."""
        told = decode_answers(bundle)
        if told.host != self._host or told.partition != partition:
            raise WireError(f"bundle.answers: for host '{told.host}' and partition {told.partition}")
        step = self._demand.answered(partition, told.answers, self._clock())
        self._do(step)
        self._woken.set()
        for vpc, claims in step.moved.items():
            self._moved(vpc, claims)
        self._ask()

    def drain(self) -> None:
        """Takes the packets that wait."""
        try:
            misses = self._misses.take()
        except DataPlaneError as error:
            _log.error("packets that wait for an address cannot be taken: %s", error)
            return
        self._do(self._demand.missed(misses, self._clock()))
        self._woken.set()
        self._ask()

    def tick(self) -> None:
        """Does what time alone brings."""
        now = self._clock()
        self._do(self._demand.tick(now))
        due = self._demand.due(now)
        if due:
            try:
                used = self._misses.used(due)
            except DataPlaneError as error:
                _log.warning("cannot tell what is still used: %s", error)
                used = frozenset(due)
            self._do(self._demand.aged(due, used, now))
        self._ask()

    def _do(self, step: Step) -> None:
        try:
            if step.found or step.absent:
                self._misses.learn(step.found, step.absent)
            if step.forget:
                self._misses.forget(step.forget)
            if step.release:
                self._misses.release(step.release)
        except DataPlaneError as error:
            _log.error("what was learnt cannot be told to the data plane: %s", error)

    def _ask(self) -> None:
        now = self._clock()
        for partition in sorted({key.partition for key in self._demand.vpcs.values()} & self._live):
            while (lookup := self._demand.lookup(partition, now)) is not None:
                if not self._say(partition, encode_lookup(lookup)):
                    break
