"""News of VPCs by the bus: what changes is sealed and published once, whatever the number of hosts. Called by delivery.

Who holds a VPC's key can read its news; a host is given it in its session, with the first update of the VPC that it is
sent there. All hosts of a VPC hold the same key, so it says nothing of who wrote: that is what the signature is for, by
a key that never leaves this process (Ed25519, RFC 8032), whose public half comes with the VPC's. When a host leaves a
VPC the key is changed, though not more often than every REKEY_S: hosts get the new one in the same way.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Sequence

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from alcor.bus.base import Bus, news_subject
from alcor.model.ids import Id
from alcor.paths.base import Parcel
from alcor.wire.codec import BundleHead, Part, encode_bundle
from alcor.wire.frames import NONCE_BYTES, BusNews, encode_news, signed_part

HEADROOM = 512
"""Of a bus message, around the updates: the seal, the signature, the bundle's head."""
REKEY_S = 60.0
"""At most so long a host that left a VPC can read its news."""
PATIENCE_S = 0.1
"""News goes behind ports: of one that its own host still wires nobody needs to hear. But it waits no longer than
this, whoever is slow."""
SETTLE_S = 0.02
"""So long after its host answered, news of a port may go: its status is committed by then, and whoever asked has seen
it, before all of its peers are busy with the news (100 of them on two cores, a lab, were 100 ms in the way)."""


class _Vpc(msgspec.Struct):
    generation: int
    key: bytes
    since: float
    left: bool = False
    """A host that has the key carries the VPC no more."""


class _Waiting(msgspec.Struct):
    since: float
    parcels: list[Parcel] = []
    hosts: list[tuple[str, ...]] = []
    """Of each parcel, whom it must reach."""
    size: int = 0


class News:
    """See the module. Its methods belong to the event loop."""

    def __init__(
        self,
        *,
        bus: Bus,
        partition: int,
        epoch: int,
        secret: bytes,
        linger_s: Callable[[], float],
        wait: Callable[[], bool],
        missed: Callable[[Sequence[str], Parcel], None],
    ) -> None:
        """`secret`: 32 random bytes of this process. `linger_s`: how long to gather. `wait` says after it whether
        to go on gathering, up to PATIENCE_S. `missed` is told what could not be published after all, and whose it
        is."""
        self._bus = bus
        self._partition = partition
        self._epoch = epoch
        self._secret = secret
        self._signer = Ed25519PrivateKey.from_private_bytes(hmac.digest(secret, b"signer of news", hashlib.sha256))
        self.verifier = self._signer.public_key().public_bytes_raw()
        """Shows what is this process's own news."""
        self._linger_s = linger_s
        self._wait = wait
        self._missed = missed
        self._vpcs: dict[Id, _Vpc] = {}
        self._waiting: dict[Id, _Waiting] = {}
        self._number = 0

    def key(self, vpc: Id) -> bytes | None:
        """What opens the VPC's news from now on; None while there is no bus."""
        if not self._bus.connected:
            return None
        now = asyncio.get_running_loop().time()
        known = self._vpcs.get(vpc)
        if known is None:
            known = self._vpcs[vpc] = _Vpc(1, self._derive(vpc, 1), now)
        elif known.left and now - known.since >= REKEY_S and vpc not in self._waiting:
            generation = known.generation + 1
            known = self._vpcs[vpc] = _Vpc(generation, self._derive(vpc, generation), now)
        return known.key

    def left(self, vpc: Id) -> None:
        """A host that was given the key carries the VPC no more."""
        known = self._vpcs.get(vpc)
        if known is not None:
            known.left = True

    def publish(self, parcel: Parcel, hosts: tuple[str, ...]) -> bool:
        """Publishes soon, with what else comes of that VPC. False: not possible, send it another way."""
        if not self._bus.connected or len(parcel.part) > self._room():
            return False
        waiting = self._waiting.get(parcel.scope)
        if waiting is None:
            waiting = self._waiting[parcel.scope] = _Waiting(asyncio.get_running_loop().time())
            self._flush_later(parcel.scope)
        waiting.parcels.append(parcel)
        waiting.hosts.append(hosts)
        waiting.size += len(parcel.part)
        return True

    def _room(self) -> int:
        return self._bus.max_payload - HEADROOM

    def _derive(self, vpc: Id, generation: int) -> bytes:
        return hmac.digest(self._secret, vpc + generation.to_bytes(8, "big"), hashlib.sha256)

    def _flush_later(self, vpc: Id, most_s: float = PATIENCE_S) -> None:
        asyncio.get_running_loop().call_later(min(self._linger_s(), most_s), self._flush, vpc)

    def _flush(self, vpc: Id) -> None:
        """As few messages as the bus's largest allows."""
        left_s = self._waiting[vpc].since + PATIENCE_S - asyncio.get_running_loop().time()
        if left_s > 0 and self._wait():
            self._flush_later(vpc, left_s)
            return
        waiting = self._waiting.pop(vpc)
        room, first, size = self._room(), 0, 0
        for place, parcel in enumerate(waiting.parcels):
            if size + len(parcel.part) > room and place > first:
                self._send(vpc, waiting, first, place)
                first, size = place, 0
            size += len(parcel.part)
        self._send(vpc, waiting, first, len(waiting.parcels))

    def _send(self, vpc: Id, waiting: _Waiting, first: int, last: int) -> None:
        self._number += 1
        head = BundleHead(partition=self._partition, epoch=self._epoch, sequence=self._number, host="", synced=False)
        parts: list[Part] = [parcel.part for parcel in waiting.parcels[first:last]]
        subject = news_subject(self._partition, vpc)
        nonce = self._number.to_bytes(NONCE_BYTES, "big")  # no number is used twice, so no nonce under any key
        sealed = AESGCM(self._vpcs[vpc].key).encrypt(nonce, encode_bundle(head, parts), subject.encode())
        sealed = nonce + sealed
        signature = self._signer.sign(signed_part(subject, self._epoch, sealed))
        if not self._bus.publish(subject, encode_news(BusNews(self._epoch, sealed, signature))):
            for parcel, hosts in zip(waiting.parcels[first:last], waiting.hosts[first:last], strict=True):
                self._missed(hosts, parcel)
