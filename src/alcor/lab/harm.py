"""Ways to do harm to a lab, and to undo it: routes that swallow, disks that fill up, files with wrong bytes, clocks.

Called by faults. Everything is inside the lab's own namespaces and below its run directory.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from alcor.dataplane.kernel.links import RT_TABLE_MAIN, RTA_DST, RTM_DELROUTE, RTM_NEWROUTE, RTPROT_STATIC
from alcor.dataplane.kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink, attribute, message
from alcor.kit.clock import LAB_CLOCK_BYTES
from alcor.lab.pings import visit
from alcor.model.addresses import Ip

KNOCK_S = 0.25
"""On a lab's links an answer takes a thousandth of that."""
FILLER = "filler"
BLOCK = bytes(1 << 20)
RTN_BLACKHOLE = 6
SETTLED_S = 5.0
PAGE_BYTES = 4096
_ROUTE = struct.Struct("=8BI")
"""struct rtmsg (rtnetlink(7)): family, lengths, tos, table, protocol, scope, type, flags."""
_RULE = struct.Struct("=8BI")
"""struct fib_rule_hdr: family, lengths, tos, table, two reserved, action, flags."""
AF_INET, IPPROTO_TCP = 2, 6
RTM_NEWRULE, RTM_DELRULE, FR_ACT_BLACKHOLE = 32, 33, 6
FRA_DST, FRA_PRIORITY, FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE = 1, 6, 22, 23, 24
RULE_PRIORITY = 100
HARMED_BYTES = 64


def swallow(namespace: Path, targets: Sequence[Ip]) -> None:
    """What is sent from that namespace to these addresses is dropped, silently. Idempotent."""
    _routes(namespace, [message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _blackhole(ip)) for ip in targets])


def restore(namespace: Path, targets: Sequence[Ip]) -> None:
    """Undoes `swallow`. Idempotent."""
    _routes(namespace, [message(RTM_DELROUTE, 0, _blackhole(ip)) for ip in targets])


def swallow_port(namespace: Path, target: Ip, port: int, *, towards: bool) -> None:
    """What is sent from that namespace to that TCP port of an address (or, if not `towards`, from that port to that
    address) is dropped."""
    _routes(namespace, [message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, _rule(target, port, towards))])


def restore_port(namespace: Path, target: Ip, port: int, *, towards: bool) -> None:
    """Undoes `swallow_port`."""
    _routes(namespace, [message(RTM_DELRULE, 0, _rule(target, port, towards))])


def reaches(namespace: Path, address: str, port: int) -> bool:
    """A TCP connection from that namespace is accepted."""

    def knock(_: Path) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as knocking:
            knocking.settimeout(KNOCK_S)
            try:
                return knocking.connect_ex((address, port)) == 0
            except OSError:
                return False

    (answer,) = visit([namespace], knock)
    return answer


def _rule(target: Ip, port: int, towards: bool) -> bytes:
    """struct fib_rule_hdr and its attributes (linux/fib_rules.h)."""
    head = _RULE.pack(AF_INET, 32, 0, 0, 0, 0, 0, FR_ACT_BLACKHOLE, 0)
    ports = attribute(FRA_DPORT_RANGE if towards else FRA_SPORT_RANGE, struct.pack("=HH", port, port))
    chosen = attribute(FRA_PRIORITY, struct.pack("=I", RULE_PRIORITY)) + attribute(FRA_IP_PROTO, bytes([IPPROTO_TCP]))
    return head + attribute(FRA_DST, target[12:]) + chosen + ports


def _blackhole(ip: Ip) -> bytes:
    head = _ROUTE.pack(AF_INET, 32, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_BLACKHOLE, 0)
    return head + attribute(RTA_DST, ip[12:])


def _routes(namespace: Path, messages: Sequence[bytes]) -> None:
    def change(_: Path) -> None:
        with Netlink() as netlink:
            netlink.check(messages, frozenset({errno.ESRCH}))

    visit([namespace], change)


def fill(directory: Path) -> None:
    """Takes all the room on the (small, own) disk that `directory` is on."""
    descriptor = os.open(directory / FILLER, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        for block in (BLOCK, BLOCK[:PAGE_BYTES]):
            with suppress(OSError):
                while os.write(descriptor, block):
                    pass
    finally:
        os.close(descriptor)


def free(directory: Path) -> None:
    """Gives it back. Idempotent."""
    (directory / FILLER).unlink(missing_ok=True)


def flip_bytes(path: Path, dice: random.Random) -> str:
    """Changes a run of bytes in the middle of a file; says what was done. An empty or absent file stays."""
    size = path.stat().st_size if path.exists() else 0
    if not size:
        return "nothing to damage"
    start = dice.randrange(size)
    with path.open("r+b") as file:
        file.seek(start)
        harmed = bytes(byte ^ dice.randrange(1, 256) for byte in file.read(HARMED_BYTES))
        file.seek(start)
        file.write(harmed)
    return f"{len(harmed)} bytes from {start} of {size}"


def cut_short(path: Path, dice: random.Random) -> str:
    """Cuts a file off anywhere; says what was done."""
    size = path.stat().st_size if path.exists() else 0
    left = dice.randrange(size) if size else 0
    if size:
        os.truncate(path, left)
    return f"cut from {size} to {left} bytes"


def damage_database(path: Path, good: Path, dice: random.Random) -> str:
    """Keeps a whole copy of a database nobody has open, then overwrites some of its pages; says which.

    First everything is brought from the log into the file, so that the damage is where readers look.
    """
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(path, good)
    pages = path.stat().st_size // PAGE_BYTES
    harmed = sorted(dice.sample(range(pages), min(pages, 1 + pages // 3)))
    with path.open("r+b") as file:
        for page in harmed:
            file.seek(page * PAGE_BYTES)
            file.write(dice.randbytes(PAGE_BYTES))
    return f"{len(harmed)} of {pages} pages" + (", the first too" if harmed[0] == 0 else "")


def restore_database(path: Path, good: Path) -> None:
    """Puts the whole copy back."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(good, path)
    good.unlink()


def set_clock(path: Path, shift_ms: int) -> None:
    """How far the wall clock of the lab's processes is off (kit.clock)."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(shift_ms.to_bytes(LAB_CLOCK_BYTES, "little", signed=True))
