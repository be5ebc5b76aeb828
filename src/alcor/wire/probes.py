"""Probes: who is to probe whom (Peers, down), what came of it (Sighting, up), and the datagrams between hosts.

Called by paths.probing, agent.probe and reports. Encoding trusts its caller; decoding trusts nobody.

A datagram has 24 bytes: `AlcorPrb`, kind (1 question, 2 answer), seven zeros, a nonce of 8 bytes. An answer is the
question with the other kind: never longer, so nobody is flooded with what he did not send. It carries no secret and is
not signed; who cannot see the question cannot guess the nonce. Who sits on the way can make a dead host look alive for
as long as he answers, and nothing else: what a host carries is told by its sessions.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

import msgspec
from google.protobuf.message import DecodeError

from alcor.model.addresses import Ip
from alcor.wire import alcor_pb2 as pb
from alcor.wire.fields import WireError, check_ip, check_revision, check_text

MAX_PEERS = 16
NONCE_BYTES = 8
_MAGIC = b"AlcorPrb"
_QUESTION, _ANSWER = 1, 2
DATAGRAM_BYTES = 24
_FIRST_BYTES = b"\xb2\x09"
"""The tag of Bundle.peers."""
MIN_INTERVAL_MS, MAX_INTERVAL_MS = 20, 60_000


class Seen(IntEnum):
    """How a host is seen from another. The numbers are on the wire."""

    REACHED = 1
    """It answers."""
    REFUSED = 2
    """The machine says that nobody listens: it is there, its agent is not."""
    SILENT = 3
    """Nobody answers."""


class Sighting(NamedTuple):
    """What a host knows of a peer of its."""

    host: str
    seen: Seen


class Target(NamedTuple):
    """A peer to be probed."""

    host: str
    ip: Ip
    port: int
    """UDP; the number of its agent's TCP port."""


class Peers(msgspec.Struct, frozen=True):
    """The hosts that one is to probe, all of them."""

    partition: int
    epoch: int
    host: str
    interval_ms: int
    targets: tuple[Target, ...]


def encode_peers(peers: Peers) -> bytes:
    """A Bundle message of peers: they come first, and its sequence is 0."""
    first = pb.Bundle()
    first.peers.interval_ms = peers.interval_ms
    for target in peers.targets:
        first.peers.peers.add(host=target.host, ip=target.ip, port=target.port)
    rest = pb.Bundle(partition=peers.partition, epoch=peers.epoch, host=peers.host)
    return first.SerializeToString() + rest.SerializeToString()


def has_peers(bundle: bytes) -> bool:
    """The message is a bundle of peers: to be decoded by `decode_peers`, and not acknowledged."""
    return bundle[:2] == _FIRST_BYTES


def decode_peers(bundle: bytes) -> Peers:
    """A bundle of peers, checked. Raises WireError."""
    try:
        message = pb.Bundle.FromString(bundle)
    except DecodeError as error:
        raise WireError(f"bundle: not a protobuf message ({error})") from None
    if message.sequence or message.scopes or message.feeds or message.synced or message.answers:
        raise WireError("bundle.peers: nothing else may be in a bundle of peers")
    peers = message.peers
    if len(peers.peers) > MAX_PEERS:
        raise WireError(f"bundle.peers: {len(peers.peers)}, at most {MAX_PEERS}")
    if not MIN_INTERVAL_MS <= peers.interval_ms <= MAX_INTERVAL_MS:
        raise WireError(f"bundle.peers.interval_ms: {peers.interval_ms} is not {MIN_INTERVAL_MS}..{MAX_INTERVAL_MS}")
    targets = []
    for peer in peers.peers:
        if not 1 <= peer.port <= 65535:
            raise WireError(f"bundle.peers.port: {peer.port} is not in 1..65535")
        name = check_text(peer.host, "bundle.peers.host")
        targets.append(Target(name, check_ip(peer.ip, "bundle.peers.ip"), peer.port))
    epoch = check_revision(message.epoch, "bundle.epoch")
    host = check_text(message.host, "bundle.host")
    return Peers(message.partition, epoch, host, peers.interval_ms, tuple(targets))


def decode_sightings(messages: Iterable[pb.Sighting]) -> tuple[Sighting, ...]:
    """A heartbeat's. Raises WireError."""
    sightings = []
    for message in messages:
        if not Seen.REACHED <= message.seen <= Seen.SILENT:
            raise WireError(f"heartbeat.sightings.seen: {message.seen} is not in 1..3")
        sightings.append(Sighting(check_text(message.host, "heartbeat.sightings.host"), Seen(message.seen)))
    if len(sightings) > MAX_PEERS:
        raise WireError(f"heartbeat.sightings: {len(sightings)}, at most {MAX_PEERS}")
    if len({one.host for one in sightings}) != len(sightings):
        raise WireError("heartbeat.sightings: the same host twice")
    return tuple(sightings)


def question(nonce: bytes) -> bytes:
    """The datagram that asks."""
    return _MAGIC + bytes((_QUESTION, 0, 0, 0, 0, 0, 0, 0)) + nonce


def answer_to(datagram: bytes) -> bytes | None:
    """What to send back for it; None: it is no question."""
    if len(datagram) != DATAGRAM_BYTES or datagram[:9] != _MAGIC + bytes((_QUESTION,)):
        return None
    return datagram[:8] + bytes((_ANSWER,)) + datagram[9:]


def answered_nonce(datagram: bytes) -> bytes | None:
    """The nonce of an answer; None: it is none."""
    if len(datagram) != DATAGRAM_BYTES or datagram[:9] != _MAGIC + bytes((_ANSWER,)):
        return None
    return datagram[16:]
