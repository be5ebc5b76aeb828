"""What the bus carries (alcor.proto: BusMessage, BusNews) and the relay's chunks, and back. Called by paths and agent.

Encoding trusts its caller; decoding trusts nobody: what is malformed is a WireError that names the field.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from google.protobuf.message import DecodeError

from alcor.wire import alcor_pb2 as pb
from alcor.wire.fields import MAX_TEXT, WireError, check_revision, check_text

NONCE_BYTES = 12
SIGNATURE_BYTES = 64
MAX_CHUNK_BYTES = 1 << 20
"""Of what a relay carries at once."""


class Hail(msgspec.Struct, frozen=True):
    """A controller asks a host to greet it: the first message of a session."""

    epoch: int


class Piece(msgspec.Struct, frozen=True):
    """A Bundle or Report, or with `more` a part of it that the next message continues."""

    data: bytes
    more: bool = False


class End(msgspec.Struct, frozen=True):
    """The session is over, and why."""

    reason: str


Body: TypeAlias = Hail | Piece | End


class BusMessage(msgspec.Struct, frozen=True):
    """One message of a session. Numbers count from 1 each way; session 0 belongs to none (heartbeats)."""

    session: int
    number: int
    body: Body


class BusNews(msgspec.Struct, frozen=True):
    """News of a VPC: nonce and AES-256-GCM of a Bundle; and who says so."""

    epoch: int
    sealed: bytes
    signature: bytes


def signed_part(subject: str, epoch: int, sealed: bytes) -> bytes:
    """What a controller signs of news (RFC 8032, Ed25519): also where it is said, and by which of its lives."""
    where = subject.encode()
    return b"".join((b"alcor news 1\0", epoch.to_bytes(8, "big"), len(where).to_bytes(2, "big"), where, sealed))


def encode_bus_message(message: BusMessage) -> bytes:
    """A BusMessage message. Reasons are cut to MAX_TEXT characters."""
    out = pb.BusMessage(session=message.session, number=message.number)
    body = message.body
    if isinstance(body, Hail):
        out.hail.epoch = body.epoch
    elif isinstance(body, Piece):
        out.piece, out.more = body.data, body.more
    else:
        out.end = body.reason[:MAX_TEXT]
    return out.SerializeToString()


def decode_bus_message(data: bytes) -> BusMessage:
    """Raises WireError."""
    try:
        message = pb.BusMessage.FromString(data)
    except DecodeError as error:
        raise WireError(f"bus message: not a protobuf message ({error})") from None
    which = message.WhichOneof("body")
    body: Body
    if which == "hail":
        body = Hail(check_revision(message.hail.epoch, "hail.epoch"))
    elif which == "piece":
        body = Piece(message.piece, message.more)
    elif which == "end":
        body = End(check_text(message.end, "end"))
    else:
        raise WireError("bus message: neither a hail, a piece nor an end")
    return BusMessage(message.session, message.number, body)


def encode_news(news: BusNews) -> bytes:
    """A BusNews message."""
    return pb.BusNews(epoch=news.epoch, sealed=news.sealed, signature=news.signature).SerializeToString()


def decode_news(data: bytes) -> BusNews:
    """Raises WireError."""
    try:
        message = pb.BusNews.FromString(data)
    except DecodeError as error:
        raise WireError(f"bus news: not a protobuf message ({error})") from None
    if len(message.sealed) <= NONCE_BYTES:
        raise WireError(f"bus_news.sealed: {len(message.sealed)} bytes, more than the nonce's {NONCE_BYTES} are due")
    if len(message.signature) != SIGNATURE_BYTES:
        raise WireError(f"bus_news.signature: {len(message.signature)} bytes, {SIGNATURE_BYTES} are due")
    return BusNews(check_revision(message.epoch, "bus_news.epoch"), message.sealed, message.signature)


def encode_chunk(data: bytes) -> bytes:
    """A Chunk message."""
    return pb.Chunk(data=data).SerializeToString()


def decode_chunk(data: bytes) -> bytes:
    """The bytes of a Chunk message. Raises WireError."""
    try:
        chunk: bytes = pb.Chunk.FromString(data).data
    except DecodeError as error:
        raise WireError(f"chunk: not a protobuf message ({error})") from None
    if len(chunk) > MAX_CHUNK_BYTES:
        raise WireError(f"chunk.data: {len(chunk)} bytes, at most {MAX_CHUNK_BYTES} are due")
    return chunk
