"""The traffic control messages that queues need: an HTB with a class each, a FIFO of so many bytes in it.

Called by ebpf.queues. Builders are pure, as in links. HTB sends from a class at its rate, and a burst at once after a
rest; nothing is borrowed here. Sources: linux/pkt_sched.h, net/sched/sch_htb.c, net/sched/sch_fifo.c of kernel 6.18.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from alcor.dataplane.kernel.links import TCA_KIND, TCA_OPTIONS
from alcor.dataplane.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    attribute,
    attribute_text,
    message,
    nest,
    parse_attributes,
)

RTM_NEWQDISC, RTM_NEWTCLASS, RTM_DELTCLASS, RTM_GETTCLASS = 36, 40, 41, 42
TC_H_ROOT = 0xFFFFFFFF
TCA_STATS2, TCA_STATS_QUEUE = 7, 3
TCA_HTB_PARMS, TCA_HTB_INIT, TCA_HTB_RATE64, TCA_HTB_CEIL64 = 1, 2, 6, 7
HTB_VERSION, RATE_TO_QUANTUM = 3, 10
ETHERNET = 1
"""TC_LINKLAYER_ETHERNET: a packet is as long as it is; the kernel needs no table of times."""
QUANTUM_BYTES = 60_000
"""Of a turn among classes that borrow; ours do not, but the kernel complains of one that it finds odd."""
TICK_NS = 64
MAX_U32 = 0xFFFFFFFF

_TC = struct.Struct("=BxxxiIII")
_GLOBAL = struct.Struct("=5I")
"""struct tc_htb_glob: version, rate2quantum, default class (0: what names none goes at once), debug, direct
packets."""
_PARAMETERS = struct.Struct("=BBHhHI BBHhHI 5I")
"""struct tc_htb_opt: rate and ceiling (tc_ratespec: cell, link layer, overhead, align, mpu, rate), bursts in ticks,
quantum, level, priority."""
_U64 = struct.Struct("=Q")
_QUEUE = struct.Struct("=5I")
"""struct gnet_stats_queue: length, backlog, drops, requeues, overlimits."""


class Shape(NamedTuple):
    """What a class is told: its rate, and its burst as the time that it takes, as the kernel keeps it."""

    bytes_per_s: int
    burst_ticks: int


class Class(NamedTuple):
    """A class as the kernel has it."""

    minor: int
    shape: Shape
    drops: int
    """Packets that found no room, since it was made."""


def shape(bytes_per_s: int, burst_bytes: int) -> Shape:
    """The class of that rate and burst."""
    return Shape(bytes_per_s, min(burst_bytes * 1_000_000_000 // bytes_per_s // TICK_NS, MAX_U32))


def htb(index: int, major: int) -> bytes:
    """The interface's root qdisc, in which packets whose priority names no class go at once. EEXIST: it has another."""
    glob = attribute(TCA_HTB_INIT, _GLOBAL.pack(HTB_VERSION, RATE_TO_QUANTUM, 0, 0, 0))
    body = _TC.pack(0, index, major << 16, TC_H_ROOT, 0) + attribute_text(TCA_KIND, "htb") + nest(TCA_OPTIONS, glob)
    return message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)


def put_class(index: int, major: int, minor: int, wanted: Shape) -> bytes:
    """Makes the class or changes it; what waits in it stays."""
    rate = (0, ETHERNET, 0, 0, 0, min(wanted.bytes_per_s, MAX_U32))
    parameters = _PARAMETERS.pack(*rate, *rate, wanted.burst_ticks, wanted.burst_ticks, QUANTUM_BYTES, 0, 0)
    options = attribute(TCA_HTB_PARMS, parameters)
    if wanted.bytes_per_s > MAX_U32:
        rate64 = _U64.pack(wanted.bytes_per_s)
        options += attribute(TCA_HTB_RATE64, rate64) + attribute(TCA_HTB_CEIL64, rate64)
    body = _TC.pack(0, index, major << 16 | minor, major << 16, 0) + attribute_text(TCA_KIND, "htb")
    return message(RTM_NEWTCLASS, NLM_F_CREATE, body + nest(TCA_OPTIONS, options))


def put_fifo(index: int, major: int, minor: int, limit_bytes: int) -> bytes:
    """How much may wait in the class. The FIFO's handle is the class's number, by which it is found to be changed."""
    body = _TC.pack(0, index, minor << 16, major << 16 | minor, 0) + attribute_text(TCA_KIND, "bfifo")
    body += attribute(TCA_OPTIONS, struct.pack("=I", min(limit_bytes, MAX_U32)))
    return message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_class(index: int, major: int, minor: int) -> bytes:
    """Removes the class, and what waits in it. ENOENT when there is none."""
    return message(RTM_DELTCLASS, 0, _TC.pack(0, index, major << 16 | minor, major << 16, 0))


def classes(netlink: Netlink, index: int) -> list[Class]:
    """The classes of an interface, by number; none when it is not there."""
    request = message(RTM_GETTCLASS, NLM_F_DUMP, _TC.pack(0, index, 0, 0, 0))
    return sorted(netlink.dump(request, _parse))


def _parse(body: bytes) -> Class | None:
    handle = _TC.unpack_from(body)[2]
    found = parse_attributes(body, _TC.size)
    options = parse_attributes(found.get(TCA_OPTIONS, b""))
    if TCA_HTB_PARMS not in options:
        return None
    parameters = _PARAMETERS.unpack(options[TCA_HTB_PARMS])
    rate = _U64.unpack(options[TCA_HTB_RATE64])[0] if TCA_HTB_RATE64 in options else parameters[5]
    queue = parse_attributes(found.get(TCA_STATS2, b"")).get(TCA_STATS_QUEUE, bytes(_QUEUE.size))
    return Class(handle & 0xFFFF, Shape(rate, parameters[12]), _QUEUE.unpack_from(queue)[2])
