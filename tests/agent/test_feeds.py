"""News from the bus: what the controller signed is taken; what others say, even with the VPC's key, is not."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from alcor.agent.feeds import FeedKey, Feeds
from alcor.bus.base import news_subject
from alcor.model.ids import Id
from alcor.paths.base import Parcel
from alcor.paths.news import News
from alcor.wire.codec import BundleHead, Feed, Part, encode_bundle
from alcor.wire.fields import WireError
from alcor.wire.frames import BusNews, decode_news, encode_news, signed_part

VPC, OTHER = Id(b"v" * 16), Id(b"w" * 16)
EPOCH = 3
FORGED = encode_bundle(BundleHead(partition=1, epoch=EPOCH, sequence=9, host="", synced=False), [])


class Air:
    """A bus that anybody may say anything on, and that keeps what was said. Fills bus.base.Bus."""

    connected = True
    max_payload = 1 << 20

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []
        self.handlers: dict[str, list[Callable[[str, bytes], None]]] = {}

    def publish(self, subject: str, data: bytes) -> bool:
        self.said.append((subject, data))
        for handler in self.handlers.get(subject, ()):
            handler(subject, data)
        return True

    async def subscribe(self, subject: str, handler: Callable[[str, bytes], None]) -> "Air":
        self.handlers.setdefault(subject, []).append(handler)
        return self

    async def cancel(self) -> None:
        self.handlers.clear()


class Scene:
    """A controller's news and a host that takes it."""

    def __init__(self) -> None:
        self.air = Air()
        self.taken: list[tuple[FeedKey, bytes]] = []
        self.news = self.controller(b"s" * 32)
        self.feeds = Feeds(self.air, lambda key, bundle: self.taken.append((key, bundle)), lambda _: None)  # type: ignore[arg-type]

    def controller(self, secret: bytes, epoch: int = EPOCH) -> News:
        return News(
            bus=self.air,  # type: ignore[arg-type]
            partition=1,
            epoch=epoch,
            secret=secret,
            linger_s=lambda: 0.0,
            wait=lambda: False,
            missed=lambda hosts, parcel: None,
        )

    def give(self, vpc: Id = VPC, epoch: int = EPOCH) -> bytes:
        """The host is given the VPC's key, as its session does."""
        key = self.news.key(vpc)
        assert key is not None
        self.feeds.offer(1, epoch, [Feed(vpc, key, self.news.verifier)])
        return key

    async def say(self, vpc: Id = VPC) -> bytes:
        """The controller's own news; the message as it was on the bus."""
        before = len(self.air.said)
        assert self.news.publish(Parcel(vpc, Part(b""), False), ("a", "b"))
        async with asyncio.timeout(5):
            while len(self.air.said) == before:
                await asyncio.sleep(0)
        return self.air.said[-1][1]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    running = asyncio.create_task(scene.feeds.run())
    yield scene
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def subscribed(scene: Scene, *vpcs: Id) -> None:
    async with asyncio.timeout(5):
        while scene.feeds.taken(1, EPOCH) != frozenset(vpcs):
            await asyncio.sleep(0)


async def test_the_controllers_news_is_taken(scene: Scene) -> None:
    """Opened, and by whom it is about."""
    scene.give()
    await subscribed(scene, VPC)
    await scene.say()
    ((key, bundle),) = scene.taken
    assert key == FeedKey(1, VPC)
    assert bundle
    assert scene.feeds.dropped == 0


def sealed(key: bytes, vpc: Id = VPC) -> bytes:
    """A forged bundle, sealed as it should be."""
    nonce = b"n" * 12
    return nonce + AESGCM(key).encrypt(nonce, FORGED, news_subject(1, vpc).encode())


async def test_a_host_that_holds_the_key_cannot_forge(scene: Scene) -> None:
    """It can seal what it likes: without the controller's signature, by its own, by one of another message, by one for
    another VPC or another life of the controller, nothing of it is taken."""
    key = scene.give()
    other_key = scene.give(OTHER)
    await subscribed(scene, VPC, OTHER)
    true = decode_news(await scene.say())
    elsewhere = decode_news(await scene.say(OTHER))
    scene.taken.clear()
    mine = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
    forged, subject = sealed(key), news_subject(1, VPC)
    lies = [
        BusNews(EPOCH, forged, bytes(64)),
        BusNews(EPOCH, forged, mine.sign(signed_part(subject, EPOCH, forged))),
        BusNews(EPOCH, forged, true.signature),
        BusNews(EPOCH + 1, true.sealed, true.signature),
        BusNews(EPOCH - 1, true.sealed, true.signature),
        elsewhere,
        BusNews(EPOCH, true.sealed[:-1] + bytes((true.sealed[-1] ^ 1,)), true.signature),
    ]
    for lie in lies:
        scene.air.publish(subject, encode_news(lie))
    scene.air.publish(news_subject(1, OTHER), encode_news(BusNews(EPOCH, sealed(other_key, OTHER), true.signature)))
    assert scene.taken == []
    assert scene.feeds.dropped == len(lies) + 1
    another = scene.controller(b"t" * 32)
    another.key(VPC)
    assert another.publish(Parcel(VPC, Part(b""), False), ("a", "b"))
    await asyncio.sleep(0.01)
    assert scene.taken == []  # who is not this controller is not believed, whatever he calls himself


async def test_news_that_comes_again_is_dropped(scene: Scene) -> None:
    """The same bytes, or older ones behind newer: counted as repeated; what is new goes on being taken, also under a
    key that came anew, and in the controller's next life, which counts from the beginning."""
    scene.give()
    await subscribed(scene, VPC)
    first, second = await scene.say(), await scene.say()
    assert (len(scene.taken), scene.feeds.repeated) == (2, 0)
    for said in (second, first):
        scene.air.publish(news_subject(1, VPC), said)
    scene.give()
    scene.air.publish(news_subject(1, VPC), second)
    assert (len(scene.taken), scene.feeds.repeated, scene.feeds.dropped) == (2, 3, 3)
    await scene.say()
    assert len(scene.taken) == 3
    scene.news = scene.controller(b"t" * 32, EPOCH + 1)
    scene.give(epoch=EPOCH + 1)
    await scene.say()
    assert (len(scene.taken), scene.feeds.repeated) == (4, 3)


async def test_a_host_that_does_not_carry_the_vpc_gains_nothing(scene: Scene) -> None:
    """It may hear what is said, but has no key: nothing in it can be read, and nothing is taken."""
    plain = b"10.0.0.7 is where you want to go"
    heard: list[bytes] = []
    await scene.air.subscribe(news_subject(1, VPC), lambda _, data: heard.append(data))
    scene.give(OTHER)
    await subscribed(scene, OTHER)
    assert scene.news.key(VPC) is not None
    assert scene.news.publish(Parcel(VPC, Part(plain), False), ("a", "b"))
    async with asyncio.timeout(5):
        while not heard:
            await asyncio.sleep(0)
    assert plain not in heard[0]
    assert scene.taken == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_news(BusNews(EPOCH, b"s" * 40, b"")), "bus_news.signature"),
        (encode_news(BusNews(EPOCH, b"s" * 40, bytes(63))), "bus_news.signature"),
        (encode_news(BusNews(EPOCH, b"s" * 12, bytes(64))), "bus_news.sealed"),
        (encode_news(BusNews(0, b"s" * 40, bytes(64))), "bus_news.epoch"),
        (b"\xff", "not a protobuf message"),
    ],
)
def test_malformed_news_is_refused(data: bytes, reason: str) -> None:
    """The field is named."""
    with pytest.raises(WireError, match=reason):
        decode_news(data)
