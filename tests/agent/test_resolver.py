"""The resolver's own time: it rests until something is due, and wakes when something happens."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from alcor.agent.demand import DemandLimits
from alcor.agent.resolver import TICK_S, Resolver
from alcor.agent.state import OnDemand, ScopeKey
from alcor.dataplane.base import Miss
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.model.addresses import Mac, parse_ip
from alcor.model.ids import Id
from alcor.wire.lookups import Answer, Found, encode_answers

VPC, VNI = ScopeKey(1, Id(b"v" * 16)), 7
IP = parse_ip("10.0.0.9")
KEY = EndpointKey(VNI, IP)


class Recorder:
    """A data plane in which nothing is sent; what it is told, and asked."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        self.forgot: list[EndpointKey] = []
        self.asked = 0

    def fileno(self) -> int:
        return self._reading

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)

    def take(self) -> list[Miss]:
        return []

    def learn(self, found: Sequence[tuple[EndpointKey, Endpoint]], absent: Sequence[EndpointKey]) -> None:
        pass

    def forget(self, keys: Sequence[EndpointKey]) -> None:
        self.forgot += keys

    def used(self, keys: Sequence[EndpointKey]) -> frozenset[EndpointKey]:
        self.asked += 1
        return frozenset()

    def release(self, misses: Sequence[Miss]) -> None:
        pass


@asynccontextmanager
async def running(limits: DemandLimits, said: list[bytes]) -> AsyncIterator[tuple[Resolver, Recorder]]:
    misses = Recorder()

    def say(_: int, report: bytes) -> bool:
        said.append(report)
        return True

    resolver = Resolver("host-a", misses, time.monotonic, say, lambda *_: None, limits)
    task = asyncio.create_task(resolver.run())
    try:
        await asyncio.sleep(0)
        yield resolver, misses
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        misses.close()


async def test_what_nobody_uses_is_forgotten_when_it_is_due() -> None:
    """Neither before nor much later, though nothing else happens."""
    async with running(DemandLimits(idle_s=1.0), []) as (resolver, misses):
        resolver.serve({VNI: OnDemand(VPC, 1)}, [KEY])
        await asyncio.sleep(0.9)
        assert (0, []) == (misses.asked, misses.forgot)
        async with asyncio.timeout(10.0):
            while not misses.forgot:
                await asyncio.sleep(TICK_S / 5)
        assert [KEY] == misses.forgot


async def test_a_hint_wakes_it() -> None:
    """It is asked about soon, however long nothing would have been due."""
    said: list[bytes] = []
    async with running(DemandLimits(), said) as (resolver, _):
        resolver.serve({VNI: OnDemand(VPC, 1)}, [])
        resolver.live(1)
        await asyncio.sleep(2.5 * TICK_S)  # it rests
        assert not said
        hint = Answer(VPC.scope, 5, (Found(IP, Mac(b"\2\0\0\0\0\1"), parse_ip("172.16.0.2"), 0),), unasked=True)
        resolver.answers(1, encode_answers(1, 1, "host-a", [hint]))
        async with asyncio.timeout(10.0):
            while not said:
                await asyncio.sleep(TICK_S / 5)
    assert bytes(IP) in said[0]
