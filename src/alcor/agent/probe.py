"""Probing peers: is that host there, seen from here? And answering their probes.

Called by core, on its event loop. The controller says whom to probe and how often (a few, whatever the size of the
region); what is found goes up in heartbeats, at once when it changes. The datagrams are wire.probes'. A question
costs an answer of the same size, so many a second at most.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from alcor.model.addresses import format_ip
from alcor.wire.probes import (
    DATAGRAM_BYTES,
    MAX_PEERS,
    NONCE_BYTES,
    Peers,
    Seen,
    Sighting,
    Target,
    answer_to,
    answered_nonce,
    question,
)

_log = logging.getLogger(__name__)

MISSES = 3
"""Probes in a row without an answer: the peer is silent."""
MAX_ANSWERS = 512
"""A second. Some three hosts probe this one; who asks more is not answered."""
REMEMBERED = 8
"""Nonces of a peer: an answer may be that late."""
_READ_AT_ONCE = 64


class Pinger(Protocol):
    """Sends questions. Answers come back by `Prober.answered` and `Prober.refused`."""

    def send(self, target: Target, nonce: bytes) -> None:
        """One question; lost without a word if it cannot be sent."""
        ...

    def keep(self, targets: Iterable[Target]) -> None:
        """Only these are sent to from now on."""
        ...


class _Peer:
    __slots__ = ("answered", "misses", "nonces", "seen")

    def __init__(self) -> None:
        self.seen: Seen | None = None
        """None: no word yet."""
        self.misses = 0
        self.answered = True
        self.nonces: deque[bytes] = deque(maxlen=REMEMBERED)


class Prober:
    """See the module. `run` it; its methods belong to the event loop."""

    def __init__(
        self,
        changed: Callable[[], None],
        clock: Callable[[], float],
        roll: Callable[[], float],
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`changed` is called when a peer is seen otherwise than before. `clock`: monotonic seconds."""
        self.pinger: Pinger | None = None
        self._changed = changed
        self._clock = clock
        self._roll = roll
        self._entropy = entropy
        self._told: dict[int, Peers] = {}
        """By partition."""
        self._peers: dict[Target, _Peer] = {}
        self._ticked = 0.0
        self._wake = asyncio.Event()

    def serve(self, peers: Peers) -> None:
        """A partition's controller says whom to probe."""
        self._told[peers.partition] = peers
        self._choose()

    def gone(self, partition: int) -> None:
        """Nobody listens to that partition's sightings any more."""
        if self._told.pop(partition, None) is not None:
            self._choose()

    def sightings(self, partition: int) -> tuple[Sighting, ...]:
        """What is known of the peers that it named."""
        told = self._told.get(partition)
        if told is None:
            return ()
        seen = ((target.host, self._peers[target].seen) for target in told.targets)
        return tuple([Sighting(host, one) for host, one in seen if one is not None][:MAX_PEERS])

    def answered(self, target: Target, nonce: bytes) -> None:
        """An answer came."""
        peer = self._peers.get(target)
        if peer is not None and nonce in peer.nonces:
            self._see(peer, Seen.REACHED)

    def refused(self, target: Target) -> None:
        """The machine says that nobody listens there."""
        peer = self._peers.get(target)
        if peer is not None and peer.nonces:
            self._see(peer, Seen.REFUSED)

    async def run(self) -> None:
        """Probes until cancelled."""
        while True:
            if not self._peers:
                self._wake.clear()
                await self._wake.wait()
            self.tick()
            await asyncio.sleep(self._interval_s() * (0.9 + 0.2 * self._roll()))

    def tick(self) -> None:
        """One question to each peer; whoever left the last ones unanswered is silent."""
        now = self._clock()
        # If this process stood still, answers may be there and not read: nobody is to blame.
        stood_still = now - self._ticked > 2 * self._interval_s()
        self._ticked = now
        turned = False
        for target, peer in self._peers.items():
            if not peer.answered and not stood_still:
                peer.misses += 1
                if peer.misses >= MISSES and peer.seen is not Seen.SILENT:
                    peer.seen, turned = Seen.SILENT, True
            nonce = self._entropy(NONCE_BYTES)
            peer.nonces.append(nonce)
            peer.answered = False
            if self.pinger is not None:
                self.pinger.send(target, nonce)
        if turned:
            self._changed()

    def _see(self, peer: _Peer, seen: Seen) -> None:
        peer.answered, peer.misses = True, 0
        if peer.seen is not seen:
            peer.seen = seen
            self._changed()

    def _interval_s(self) -> float:
        return min((told.interval_ms for told in self._told.values()), default=1000) / 1000

    def _choose(self) -> None:
        wanted = dict.fromkeys(target for told in self._told.values() for target in told.targets)
        self._peers = {target: self._peers.get(target) or _Peer() for target in wanted}
        if self.pinger is not None:
            self.pinger.keep(wanted)
        self._wake.set()


class UdpProbes:
    """Real datagrams: answers questions at an address, and asks from there. Fills Pinger."""

    def __init__(self, prober: Prober, address: str, port: int) -> None:
        """Raises OSError when the address is taken."""
        self._prober = prober
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[Target, socket.socket] = {}
        self._second, self._answers = 0, 0
        self._listener = _bound(address, port)
        self._loop.add_reader(self._listener, self._answer)

    def close(self) -> None:
        """Asks and answers no more."""
        self.keep(())
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def send(self, target: Target, nonce: bytes) -> None:
        """See Pinger. A socket a peer, connected: so the kernel tells of refusals."""
        asking = self._sockets.get(target)
        try:
            if asking is None:
                asking = self._open(target)
            asking.send(question(nonce))
        except ConnectionRefusedError:
            self._prober.refused(target)
        except OSError as error:  # no route, full buffer: it counts as a question without an answer
            _log.debug("cannot probe %s: %s", target.host, error)

    def keep(self, targets: Iterable[Target]) -> None:
        """See Pinger."""
        wanted = set(targets)
        for target in self._sockets.keys() - wanted:
            asking = self._sockets.pop(target)
            self._loop.remove_reader(asking)
            asking.close()

    def _open(self, target: Target) -> socket.socket:
        asking = _bound(self._address, 0)
        try:
            asking.connect((format_ip(target.ip), target.port))
        except OSError:
            asking.close()
            raise
        self._sockets[target] = asking
        self._loop.add_reader(asking, self._hear, target, asking)
        return asking

    def _hear(self, target: Target, asking: socket.socket) -> None:
        try:
            nonce = answered_nonce(asking.recv(DATAGRAM_BYTES + 1))
        except ConnectionRefusedError:
            self._prober.refused(target)
        except OSError:  # nothing there after all, or no route: silence tells
            return
        else:
            if nonce is not None:
                self._prober.answered(target, nonce)

    def _answer(self) -> None:
        second = int(self._loop.time())
        if second != self._second:
            self._second, self._answers = second, 0
        for _ in range(_READ_AT_ONCE):
            try:
                datagram, sender = self._listener.recvfrom(DATAGRAM_BYTES + 1)
                answer = answer_to(datagram)
                if answer is not None and self._answers < MAX_ANSWERS:
                    self._answers += 1
                    self._listener.sendto(answer, sender)
            except BlockingIOError:
                return
            except OSError as error:  # an earlier answer was refused, or there is no way back
                _log.debug("cannot answer a probe: %s", error)


def _bound(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.bind((address, port))
    except OSError as error:
        made.close()
        raise OSError(f"cannot listen for probes at {address}:{port} (UDP): {error.strerror}") from None
    return made
