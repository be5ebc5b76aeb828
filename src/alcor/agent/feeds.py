"""The news of VPCs that this host takes from the bus: keys, subscriptions, and opening what comes.

Called by core, on its event loop. A key came in a bundle, over a session; news is taken only of the epoch that the key
is of, and only if the controller signed it: every host of the VPC has its key. What is not signed or cannot be opened
is dropped and counted: the next heartbeat shows what is missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from alcor.bus.base import Bus, BusError, Subscription, news_subject
from alcor.model.ids import Id
from alcor.wire.codec import Feed
from alcor.wire.fields import WireError
from alcor.wire.frames import NONCE_BYTES, decode_news, signed_part

_log = logging.getLogger(__name__)


class FeedKey(NamedTuple):
    """Names a feed on this host."""

    partition: int
    vpc: Id


class _Open(NamedTuple):
    epoch: int
    cipher: AESGCM
    verifier: Ed25519PublicKey
    life: bytes
    """The verifier's bytes: which life of the controller counts."""


class Feeds:
    """See the module. `start` on the event loop."""

    def __init__(self, bus: Bus, news: Callable[[FeedKey, bytes], None], told: Callable[[int], None]) -> None:
        """`news` takes an opened Bundle; `told(partition)`: what is taken from the bus has changed."""
        self._bus = bus
        self._news = news
        self._told = told
        self._keys: dict[FeedKey, _Open] = {}
        self._subscriptions: dict[FeedKey, Subscription] = {}
        self._work: asyncio.Queue[tuple[FeedKey, bool]] = asyncio.Queue()
        Ed25519PrivateKey.generate().public_key()  # loads the library, 2 ms (measured): not when the first key comes
        self.dropped = 0
        """News that was not the controller's, could not be opened, or came again."""
        self.repeated = 0
        """What of it came again, or behind newer news."""
        self._newest: dict[FeedKey, tuple[bytes, int]] = {}
        """Life of the controller and nonce of the last news taken. A controller counts its news up, and the bus keeps
        its order: what does not grow is a replay. (Or it was overtaken on the way while the controller changed servers
        of the bus: then its VPC is asked for whole.)"""

    def taken(self, partition: int, epoch: int) -> frozenset[Id]:
        """The VPCs of which news of that epoch arrives now."""
        if not self._bus.connected:
            return frozenset()
        return frozenset(
            key.vpc
            for key, opened in self._keys.items()
            if key.partition == partition and opened.epoch == epoch and key in self._subscriptions
        )

    def offer(self, partition: int, epoch: int, feeds: Iterable[Feed]) -> None:
        """Takes keys in; subscribes soon."""
        for feed in feeds:
            key = FeedKey(partition, feed.vpc)
            known = self._keys.get(key)
            if known is None or known.epoch <= epoch:
                verifier = Ed25519PublicKey.from_public_bytes(feed.verifier)
                self._keys[key] = _Open(epoch, AESGCM(feed.key), verifier, feed.verifier)
                self._work.put_nowait((key, True))

    def keep(self, held: frozenset[FeedKey]) -> None:
        """Forgets the feeds of VPCs that the host no longer holds."""
        for key in sorted(self._keys.keys() - held):
            del self._keys[key]
            self._newest.pop(key, None)
            self._work.put_nowait((key, False))

    async def run(self) -> None:
        """Subscribes and unsubscribes until cancelled."""
        while True:
            partitions = set()
            work = [await self._work.get()]
            while not self._work.empty():
                work.append(self._work.get_nowait())
            for key, wanted in dict(work).items():
                if wanted and key in self._keys:
                    if key not in self._subscriptions:
                        await self._subscribe(key)
                    partitions.add(key.partition)
                elif key not in self._keys and key in self._subscriptions:
                    await self._subscriptions.pop(key).cancel()
                    partitions.add(key.partition)
            for partition in sorted(partitions):
                self._told(partition)

    async def _subscribe(self, key: FeedKey) -> None:
        def take(subject: str, data: bytes) -> None:
            self._open(key, subject, data)

        try:
            self._subscriptions[key] = await self._bus.subscribe(news_subject(key.partition, key.vpc), take)
        except BusError as error:
            _log.warning("news of VPC %s will come over the session instead: %s", key.vpc.hex(), error)

    def _open(self, key: FeedKey, subject: str, data: bytes) -> None:
        opened = self._keys.get(key)
        try:
            news = decode_news(data)
            if opened is None or news.epoch != opened.epoch:
                self.dropped += 1
                return
            opened.verifier.verify(news.signature, signed_part(subject, news.epoch, news.sealed))
            nonce, sealed = news.sealed[:NONCE_BYTES], news.sealed[NONCE_BYTES:]
            bundle = opened.cipher.decrypt(nonce, sealed, subject.encode())
        except (WireError, InvalidSignature, InvalidTag) as error:
            if not self.dropped:
                reason = "the controller did not sign it" if isinstance(error, InvalidSignature) else str(error)
                _log.warning("news of VPC %s is dropped: %s", key.vpc.hex(), reason or "its seal is broken")
            self.dropped += 1
            return
        number = int.from_bytes(nonce, "big")
        life, newest = self._newest.get(key, (opened.life, 0))
        if life == opened.life and number <= newest:
            self.dropped += 1
            self.repeated += 1
            return
        self._newest[key] = opened.life, number
        self._news(key, bundle)
