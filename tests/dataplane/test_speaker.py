"""The table that a BGP speaker reads, in a real kernel: ours is put, found and removed, all else is left alone."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from alcor.dataplane.kernel import netns
from alcor.dataplane.kernel.speaker import KernelSpeakerTable
from alcor.model.addresses import Ip, ip_from_int, parse_ip

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: these tests drive the real kernel; run them as root"),
]
T = TypeVar("T")
NUMBER, ONE, TWO = 179, parse_ip("198.51.100.7"), parse_ip("203.0.113.9")


class Kernel:
    """A table in a namespace of its own, used on one thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.run(netns.unshare_net)
        self.table = self.run(lambda: KernelSpeakerTable(NUMBER))

    def reopen(self) -> None:
        """As another agent finds it."""
        self.table.close()
        self.table = self.run(lambda: KernelSpeakerTable(NUMBER))

    def run(self, function: Callable[[], T]) -> T:
        return self._thread.submit(function).result()

    def ip(self, *words: str) -> list[str]:
        """What ip(8) says there, by line."""
        done = self.run(lambda: subprocess.run(("ip", *words), capture_output=True, text=True, check=True))
        return [" ".join(line.split()) for line in done.stdout.splitlines()]

    def close(self) -> None:
        self.table.close()
        self._thread.shutdown()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    opened = Kernel()
    yield opened
    opened.close()


def test_what_is_put_is_found_and_what_is_removed_is_gone(kernel: Kernel) -> None:
    """Also by who opens the table anew; a table that was never written is empty; what is absent is removed already."""
    assert set() == kernel.table.read()
    kernel.table.change([ONE, TWO], [])
    kernel.reopen()
    assert {ONE, TWO} == kernel.table.read()
    shown = kernel.ip("route", "show", "table", str(NUMBER))
    assert ["blackhole 198.51.100.7 proto 137", "blackhole 203.0.113.9 proto 137"] == shown
    for _ in range(2):
        kernel.table.change([], [ONE])
        assert {TWO} == kernel.table.read()
    assert [] == kernel.ip("route", "show", "table", "main")


def test_ipv6_goes_by_the_same_number(kernel: Kernel) -> None:
    """A table of each family; a route of either comes and goes by itself, and others' are left alone."""
    six = parse_ip("2001:db8:100:1::9")
    kernel.table.change([ONE, six], [])
    kernel.reopen()
    assert {ONE, six} == kernel.table.read()
    (shown,) = kernel.ip("-6", "route", "show", "table", str(NUMBER))
    assert shown.startswith("blackhole 2001:db8:100:1::9 dev lo proto 137")
    kernel.ip("-6", "route", "add", "blackhole", "2001:db8:100:1::a", "table", str(NUMBER), "proto", "static")
    with pytest.raises(OSError, match="has a route to 2001:db8:100:1::a that is not Alcor's"):
        kernel.table.change([parse_ip("2001:db8:100:1::a")], [])
    kernel.table.change([], [parse_ip("2001:db8:100:1::a")])
    for _ in range(2):
        kernel.table.change([], [six])
        assert {ONE} == kernel.table.read()
    assert 1 == len(kernel.ip("-6", "route", "show", "table", str(NUMBER)))


def test_many_go_at_once(kernel: Kernel) -> None:
    """A thousand addresses are put and removed by two calls."""
    many = [ip_from_int((198 << 24) + (18 << 16) + number, 4) for number in range(1000)]
    kernel.table.change(many, [])
    assert set(many) == kernel.table.read()
    kernel.table.change([], many)
    assert set() == kernel.table.read()


def test_what_is_not_ours_is_left_alone(kernel: Kernel) -> None:
    """Routes of others, in this table and in others: not found, not removed, and said when they are in the way."""
    others: dict[Ip, str] = {ONE: "198.51.100.7", TWO: "203.0.113.9"}
    for text in others.values():
        kernel.ip("route", "add", "blackhole", text, "table", str(NUMBER), "proto", "static")
        kernel.ip("route", "add", "blackhole", text, "table", str(NUMBER + 1), "proto", "137")
    assert set() == kernel.table.read()
    kernel.table.change([], list(others))
    three = parse_ip("203.0.113.10")
    with pytest.raises(OSError, match=r"table 179 has a route to 198\.51\.100\.7 that is not Alcor's") as raised:
        kernel.table.change([ONE, three], [])
    assert errno.EEXIST == raised.value.errno
    assert {three} == kernel.table.read()
    assert 3 == len(kernel.ip("route", "show", "table", str(NUMBER)))
    assert 2 == len(kernel.ip("route", "show", "table", str(NUMBER + 1)))
