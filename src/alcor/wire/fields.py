"""Single fields of messages, checked: what is malformed is a WireError that names the field.

Called by codec, reports and frames.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import chain

from alcor.model.addresses import Ip, Mac
from alcor.model.ids import Id

MAX_TEXT = 4096
"""Characters of a name, a path or an error; longer errors are cut when encoded."""
MAX_REVISION = (1 << 63) - 1
ENTRIES_AT_A_TIME = 1024


class WireError(ValueError):
    """Bytes that are no message of ours: which field, and what is wrong with it."""


def varint(value: int) -> bytes:
    """Base-128, least significant group first (protobuf's encoding of lengths)."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def check_id(value: bytes, where: str) -> Id:
    """16 bytes. Raises WireError."""
    if len(value) != 16:
        raise WireError(f"{where}: {len(value)} bytes, an id has 16")
    return Id(value)


def check_ip(value: bytes, where: str) -> Ip:
    """16 bytes. Raises WireError."""
    if len(value) != 16:
        raise WireError(f"{where}: {len(value)} bytes, an address has 16")
    return Ip(value)


def check_mac(value: bytes, where: str) -> Mac:
    """6 bytes, of one station. Raises WireError."""
    if len(value) != 6:
        raise WireError(f"{where}: {len(value)} bytes, a MAC has 6")
    if value[0] & 1:
        raise WireError(f"{where}: {value.hex(':')} is a group address")
    return Mac(value)


def check_revision(value: int, where: str) -> int:
    """1..2^63-1. Raises WireError."""
    if not 1 <= value <= MAX_REVISION:
        raise WireError(f"{where}: {value} is not in 1..2^63-1")
    return value


def check_text(value: str, where: str) -> str:
    """At most MAX_TEXT characters, without NUL. Raises WireError."""
    if len(value) > MAX_TEXT:
        raise WireError(f"{where}: more than {MAX_TEXT} characters")
    if "\0" in value:
        raise WireError(f"{where}: has a NUL character")
    return value


def cut(column: bytes, size: int, where: str) -> list[bytes]:
    """A column of entries of `size` bytes, entry by entry. Raises WireError."""
    if len(column) % size:
        raise WireError(f"{where}: {len(column)} bytes are not entries of {size}")
    many = _entries(size)
    whole = len(column) - len(column) % many.size
    entries: list[bytes] = list(chain.from_iterable(many.iter_unpack(memoryview(column)[:whole])))
    entries += [column[at : at + size] for at in range(whole, len(column), size)]
    return entries


@lru_cache
def _entries(size: int) -> struct.Struct:
    """Cuts so many at a time: a third of what a slice for each costs."""
    return struct.Struct(f"{size}s" * ENTRIES_AT_A_TIME)
