"""Network namespaces: made, named, entered, deleted; and the pool of ready ones."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from alcor.dataplane.ebpf import pool as pool_module
from alcor.dataplane.ebpf.pool import Pool
from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.netlink import Netlink

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: these tests drive the real kernel; run them as root"),
]
FILL_TIMEOUT_S = 30


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory of namespaces, emptied at the end."""
    path = tmp_path / "netns"
    path.mkdir()
    yield path
    for name in netns.names(path):
        netns.delete(path / name)


def test_namespaces_are_made_in_bulk_and_differ(directory: Path) -> None:
    """Every name is a namespace of its own, and none is the caller's."""
    paths = [directory / f"n{number}" for number in range(10)]
    netns.create_many(paths)
    assert [path.name for path in paths] == netns.names(directory)
    assert 10 == len({path.stat().st_ino for path in paths} - {Path(netns.OWN).stat().st_ino})


def test_a_bulk_that_fails_leaves_nothing(directory: Path) -> None:
    """One name is taken: those made before it are removed again, the taken one stays."""
    netns.create(directory / "taken")
    before = (directory / "taken").stat().st_ino
    with pytest.raises(FileExistsError):
        netns.create_many([directory / "a", directory / "taken", directory / "b"])
    assert ["taken"] == netns.names(directory)
    assert before == (directory / "taken").stat().st_ino


def test_a_name_left_by_a_reboot_is_used_again(directory: Path) -> None:
    """An empty file on which nothing is mounted is no namespace; one with content is somebody's."""
    (directory / "stale").touch()
    netns.create(directory / "stale")
    assert netns.is_named(directory / "stale")
    (directory / "foreign").write_text("mine")
    with pytest.raises(FileExistsError):
        netns.create(directory / "foreign")
    assert "mine" == (directory / "foreign").read_text()
    (directory / "foreign").unlink()


def test_deleting_is_idempotent(directory: Path) -> None:
    """What is absent is gone already."""
    netns.create(directory / "one")
    netns.delete(directory / "one")
    netns.delete(directory / "one")
    assert [] == netns.names(directory)
    assert [] == netns.names(directory / "nowhere")


def test_what_is_no_namespace_is_refused(directory: Path) -> None:
    """A plain file, as is left where a bind mount was undone, is told from a namespace."""
    (directory / "file").touch()
    with pytest.raises(OSError, match="not a network namespace"):
        netns.open_path(directory / "file")
    with pytest.raises(FileNotFoundError):
        netns.open_path(directory / "nothing")


def test_entering_ends_where_it_began(directory: Path) -> None:
    """Inside the block the thread is in the other namespace; afterwards, and after an error, in its own."""
    netns.create(directory / "other")
    fd = netns.open_path(directory / "other")
    own = netns.open_own()
    try:
        with pytest.raises(RuntimeError), netns.enter(fd):
            inside = netns.open_own()
            assert netns.inode(fd) == netns.inode(inside)
            os.close(inside)
            raise RuntimeError
        after = netns.open_own()
        assert netns.inode(own) == netns.inode(after)
        os.close(after)
    finally:
        os.close(fd)
        os.close(own)


def test_a_call_runs_elsewhere_and_hands_back_results_and_errors(directory: Path) -> None:
    """The function sees the other namespace's interfaces on a thread of its own; its error is the caller's."""
    netns.create(directory / "other")
    fd = netns.open_path(directory / "other")
    try:
        with netns.call(fd, Netlink) as netlink:
            assert ["lo"] == [one.name for one in links.links(netlink)]
        assert threading.get_ident() != netns.call(fd, threading.get_ident)
        with pytest.raises(ZeroDivisionError):
            netns.call(fd, lambda: 1 // 0)
    finally:
        os.close(fd)


def test_the_machines_own_namespace_is_known(directory: Path) -> None:
    """One of ours is not the machine's; where the test runs is, unless somebody already runs it in one of his."""
    netns.create(directory / "other")
    fd = netns.open_path(directory / "other")
    try:
        assert not netns.call(fd, netns.in_machines_own)
        assert Path("/proc/sys/net/core/dev_weight").exists() <= netns.on_own_thread(netns.in_machines_own)
    finally:
        os.close(fd)


class TestPool:
    def test_it_fills_and_fills_again(self) -> None:
        """What was taken is replaced in the background; never more than its size is ready."""
        pool = Pool(4)
        try:
            assert pool.wait_full(FILL_TIMEOUT_S)
            taken = pool.take(3)
            assert 3 == len({netns.inode(fd) for fd in taken})
            assert pool.wait_full(FILL_TIMEOUT_S)
            assert 4 == pool.ready
            for fd in taken:
                os.close(fd)
        finally:
            pool.close()
        assert 0 == pool.ready

    def test_a_pooled_namespace_has_its_loopback_up_and_no_name(self, directory: Path) -> None:
        """It needs only a bind mount to be a named namespace."""
        pool = Pool(1)
        try:
            assert pool.wait_full(FILL_TIMEOUT_S)
            (fd,) = pool.take(1)
        finally:
            pool.close()
        netns.bind(fd, directory / "named")
        with netns.call(fd, Netlink) as netlink:
            (loopback,) = links.links(netlink)
        os.close(fd)
        assert ("lo", True) == (loopback.name, loopback.up)
        assert netns.is_named(directory / "named")

    def test_paused_it_makes_nothing(self) -> None:
        """Inside the block what is taken is not replaced; afterwards it is."""
        pool = Pool(2)
        try:
            assert pool.wait_full(FILL_TIMEOUT_S)
            with pool.paused():
                taken = pool.take(5)
                assert (2, 0) == (len(taken), pool.ready)
                assert not pool.wait_full(0.05)
            assert pool.wait_full(FILL_TIMEOUT_S)
            for fd in taken:
                os.close(fd)
        finally:
            pool.close()

    def test_it_rests_after_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was taken is replaced only when nothing was done for a while: each piece of work begins it anew."""
        monkeypatch.setattr(pool_module, "REST_S", 0.0)
        pool = Pool(1)
        try:
            assert pool.wait_full(FILL_TIMEOUT_S)
            monkeypatch.setattr(pool_module, "REST_S", 0.6)
            began = time.monotonic()
            for _ in range(3):
                with pool.paused():
                    for fd in pool.take(1):
                        os.close(fd)
                time.sleep(0.1)
            assert not pool.wait_full(0.0)
            assert pool.wait_full(FILL_TIMEOUT_S)
            assert time.monotonic() - began >= 0.8
        finally:
            pool.close()

    def test_size_zero_turns_it_off(self) -> None:
        """No thread, nothing to take."""
        pool = Pool(0)
        assert [] == pool.take(3)
        pool.close()
