"""News of VPCs waits behind ports, but not for long."""

import asyncio

from alcor.goalstate.objects import ScopeUpdate
from alcor.model.ids import Id
from alcor.paths.base import Parcel
from alcor.paths.news import PATIENCE_S, News
from alcor.wire.codec import encode_part

VPC = Id(b"v" * 16)


class Wire:
    """A bus that remembers what is published, and when."""

    connected = True
    max_payload = 1 << 20

    def __init__(self) -> None:
        self.published: list[float] = []

    def publish(self, subject: str, data: bytes) -> bool:
        self.published.append(asyncio.get_running_loop().time())
        return True


class Desk:
    """News over that bus; `wiring` says whether hosts wire ports."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.wiring = True
        self.asked = 0
        self.news = News(
            bus=self.wire,  # type: ignore[arg-type]
            partition=1,
            epoch=1,
            secret=bytes(32),
            linger_s=lambda: 0.005,
            wait=self.wait,
            missed=lambda hosts, parcel: None,
        )
        self.news.key(VPC)

    def wait(self) -> bool:
        self.asked += 1
        return self.wiring

    def say(self, revision: int) -> float:
        """When it was said."""
        update = ScopeUpdate(scope=VPC, revision=revision, snapshot=False, objects=())
        assert self.news.publish(Parcel(VPC, encode_part(update), False), ("h1", "h2"))
        return asyncio.get_running_loop().time()


async def _until_asked(desk: Desk, times: int) -> None:
    async with asyncio.timeout(10):
        while desk.asked < times:
            await asyncio.sleep(0.001)


async def test_it_goes_when_ports_are_wired() -> None:
    """One message for all that was gathered meanwhile."""
    desk = Desk()
    desk.say(1)
    await _until_asked(desk, 2)
    desk.say(2)
    assert desk.wire.published == []
    desk.wiring = False
    await _until_asked(desk, 3)
    assert len(desk.wire.published) == 1


async def test_it_does_not_wait_for_long() -> None:
    """Whoever is slow: it goes once its patience is over, and not before."""
    desk = Desk()
    said = desk.say(1)
    async with asyncio.timeout(10):
        while not desk.wire.published:
            await asyncio.sleep(0.001)
    assert desk.wire.published[0] >= said + PATIENCE_S
    assert desk.news._waiting == {}
