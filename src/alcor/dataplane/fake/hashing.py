"""Hashes by which packets choose: of next hops (step R), of ports of a shared address. Pure.

Called by routing and sharing; route.h is the same in C.
"""

from __future__ import annotations

from alcor.model.addresses import Ip

WORD = 0xFFFFFFFF


def hash_end(ip: Ip, port: int) -> int:
    """32 bits of an address and port: FNV-1a, word by word."""
    value = 0x811C9DC5
    for at in range(0, 16, 4):
        value = (value ^ int.from_bytes(ip[at : at + 4], "big")) * 0x01000193 & WORD
    return (value ^ port) * 0x01000193 & WORD


def finalize(value: int) -> int:
    """MurmurHash3's finalizer: every bit of 32 reaches every bit of the hash."""
    value = (value ^ value >> 16) * 0x85EBCA6B & WORD
    value = (value ^ value >> 13) * 0xC2B2AE35 & WORD
    return value ^ value >> 16
