"""Shared external addresses: rows of `shared` and `blocks`, put and removed. Called by the driver.

Blocks are written before the address's row says (by its digest) that it is whole; one whose digest is 0 is in between.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from alcor.dataplane.base import MAX_OWN_BLOCKS, OUTSIDE, SharedAddress
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.ebpf.tables import BLOCK_KEY, SHARED, pack_key, unpack_key
from alcor.dataplane.endpoints import EndpointKey
from alcor.model.addresses import Ip
from alcor.model.blocks import FIRST_BLOCK, LAST_BLOCK

OWN: Final = struct.Struct(f"={MAX_OWN_BLOCKS}H")
ANSWERS: Final = 1
"""Flag of a row of `shared`: this host answers for the address."""


def pack_shared(address: SharedAddress, host_ip: Ip, digest: int) -> bytes:
    """The row of `shared` as the host with that tunnel end has it."""
    mask = (0xFFFFFFFF << (32 - address.prefix_length)) & 0xFFFFFFFF
    gateway = address.gateway[12:] if address.gateway is not None else bytes(4)
    own = address.own(host_ip)
    packed = OWN.pack(*own, *[0] * (MAX_OWN_BLOCKS - len(own)))
    flags = ANSWERS if address.answerer == host_ip else 0
    return SHARED.pack(gateway, mask.to_bytes(4, "big"), address.mtu, flags, len(own), packed, digest)


def observe(program: Program) -> dict[Ip, int]:
    """Reads the digests."""
    return {unpack_key(key).ip: int(SHARED.unpack(value)[-1]) for key, value in program.shared.items()}


def observe_answers(program: Program) -> frozenset[Ip]:
    """The addresses that this host answers for."""
    return frozenset(unpack_key(key).ip for key, value in program.shared.items() if SHARED.unpack(value)[3] & ANSWERS)


def put(program: Program, host_ip: Ip, wanted: Sequence[tuple[Ip, SharedAddress]]) -> list[Ip]:
    """Makes the addresses so; returns those that this host answers for now and did not. Raises BpfError."""
    fresh = []
    for ip, address in wanted:
        key = pack_key(EndpointKey(OUTSIDE, ip))
        before = program.shared.get(key)
        if address.answerer == host_ip and not (before is not None and SHARED.unpack(before)[3] & ANSWERS):
            fresh.append(ip)
        program.shared.put(key, pack_shared(address, host_ip, 0))
        rows = {BLOCK_KEY.pack(ip, block): holder for block, holder in address.blocks}
        program.blocks.update_batch(b"".join(rows), b"".join(rows.values()), len(rows))
        _forget(program, ip, {block for block, _ in address.blocks})
        program.shared.put(key, pack_shared(address, host_ip, address.digest()))
    return fresh


def remove(program: Program, gone: Sequence[Ip]) -> None:
    """An absent one is removed already. Raises BpfError."""
    keys = [pack_key(EndpointKey(OUTSIDE, ip)) for ip in gone]
    program.shared.delete_batch(b"".join(keys), len(keys))
    for ip in gone:
        _forget(program, ip, set())


def _forget(program: Program, ip: Ip, kept: set[int]) -> None:
    keys = [BLOCK_KEY.pack(ip, block) for block in range(FIRST_BLOCK, LAST_BLOCK + 1) if block not in kept]
    program.blocks.delete_batch(b"".join(keys), len(keys))
