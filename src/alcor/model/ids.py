"""Identifiers: 16 bytes inside, UUID text outside. Pure.

A new id is a UUIDv8 (RFC 9562 5.8) whose first 40 bits are an ordinal that only grows: rows append to the end of a
B-tree, and the first 11 characters of the text, from which Nova makes a tap's name, never repeat in a partition.
docs/decisions/0002 has the reasons.
"""

from __future__ import annotations

from typing import NewType

Id = NewType("Id", bytes)
"""16 bytes."""

ORDINAL_BITS = 40

_VERSION_AND_VARIANT = (8 << 76) | (2 << 62)
_RANDOM_MASK = ((1 << 88) - 1) & ~(0xF << 76) & ~(3 << 62)


def make_id(ordinal: int, entropy: bytes) -> Id:
    """The id with that ordinal (40 bits) and 11 bytes of entropy; version 8, variant RFC 9562."""
    head = ordinal.to_bytes(5, "big") + entropy[:1]
    return Id(head + bytes((0x80 | (entropy[1] & 0x0F), entropy[2], 0x80 | (entropy[3] & 0x3F))) + entropy[4:11])


def make_ids(first_ordinal: int, count: int, entropy: bytes) -> list[Id]:
    """`count` ids with consecutive ordinals, from 11 bytes of entropy each: `make_id` in bulk."""
    ids = []
    for index in range(count):
        random = int.from_bytes(entropy[index * 11 : index * 11 + 11], "big")
        value = ((first_ordinal + index) << 88) | random & _RANDOM_MASK | _VERSION_AND_VARIANT
        ids.append(Id(value.to_bytes(16, "big")))
    return ids


def ordinal_of(identifier: Id) -> int:
    """The ordinal in an id that `make_id` made."""
    return int.from_bytes(identifier[:5], "big")


def format_id(identifier: Id) -> str:
    """The id as UUID text, lower case."""
    text = identifier.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_id(text: str) -> Id:
    """The id of a UUID text (36 characters, or 32 without dashes). Raises ValueError with the text in it."""
    digits = text.replace("-", "")
    if len(digits) != 32 or not digits.isascii():
        raise ValueError(f"'{text}' is not a valid UUID")
    try:
        return Id(bytes.fromhex(digits))
    except ValueError:
        raise ValueError(f"'{text}' is not a valid UUID") from None
