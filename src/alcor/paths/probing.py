"""Telling hosts whom to probe. Called by delivery (hosts come, go, greet) and by the health monitor (see `poke`).

A host is told when its session begins and when its peers change; each telling is answered by a heartbeat at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from alcor.model.nouns import Node
from alcor.paths.neighbours import Neighbours
from alcor.wire.probes import Peers, Target, encode_peers

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.02, 60.0


class Probing:
    """See the module."""

    def __init__(self, partition: int, epoch: int, interval_s: float, send: Callable[[str, bytes], None]) -> None:
        """`interval_s`: between two probes of a peer; 0: hosts do not probe. `send` brings a message to a host that is
        in session."""
        self._partition = partition
        self._epoch = epoch
        self._interval_s = interval_s
        self._send = send
        self._neighbours = Neighbours()
        self._given: dict[str, tuple[Target, ...]] = {}
        """Host in session -> whom it was told to probe."""

    def connect(self, node: Node) -> None:
        """The node is there, or changed."""
        if self._interval_s:
            known = self._neighbours.before(node.name) if self._given else []
            self._neighbours.put(node)
            if self._given:
                self._tell([*known, *self._neighbours.before(node.name), node.name])

    def disconnect(self, host: str) -> None:
        """The node is gone."""
        if self._interval_s:
            self._given.pop(host, None)
            known = self._neighbours.before(host) if self._given else []
            self._neighbours.drop(host)
            self._tell(known)

    def greeted(self, host: str) -> None:
        """A session began: the host knows of no peers."""
        if self._interval_s:
            self._given.pop(host, None)
            targets = self._given[host] = self._targets(host)
            self._say(host, targets)

    def ended(self, host: str) -> None:
        """It has no session any more."""
        self._given.pop(host, None)

    def poke(self, host: str) -> bool:
        """Asks a host for a sign of life, now. False: it is in no session."""
        targets = self._given.get(host)
        if targets is not None:
            self._say(host, targets)
        return targets is not None

    def watches(self, watcher: str, host: str) -> bool:
        """That host was told to probe the other."""
        return any(target.host == host for target in self._given.get(watcher, ()))

    def _tell(self, hosts: Iterable[str]) -> None:
        for host in dict.fromkeys(hosts):
            before = self._given.get(host)
            if before is not None and (now := self._targets(host)) != before:
                self._given[host] = now
                self._say(host, now)

    def _targets(self, host: str) -> tuple[Target, ...]:
        peers = self._neighbours.peers(host)
        return tuple([Target(node.name, node.underlay_ip, node.agent_port) for node in peers])

    def _say(self, host: str, targets: tuple[Target, ...]) -> None:
        interval_ms = int(self._interval_s * 1000)
        self._send(host, encode_peers(Peers(self._partition, self._epoch, host, interval_ms, targets)))
