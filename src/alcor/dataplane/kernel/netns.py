"""Network namespaces: make, name, open, enter, delete. Called by the pool, wiring, the bench and the lab.

A namespace has a name when its file (/proc/.../ns/net) is bind-mounted on a file of that name in a directory, as `ip
netns` does in /run/netns. Python 3.11 has no os.setns, so libc is called; a namespace belongs to a *thread*, so the
functions that move a thread either use a thread of their own (`call`, `create`) or say so (`enter`). Never `enter` on
an event loop's thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

RUN_NETNS = Path("/run/netns")
"""Where `ip netns` looks."""

CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 0x2
OWN = "/proc/thread-self/ns/net"

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def _checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare_net() -> None:
    """Moves the calling thread into a fresh namespace. Raises OSError."""
    _checked(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")


def set_net(fd: int) -> None:
    """Moves the calling thread into the namespace of `fd`. Raises OSError."""
    _checked(_libc.setns(fd, CLONE_NEWNET), f"setns({fd}, CLONE_NEWNET)")


def open_own() -> int:
    """A file descriptor of the calling thread's namespace; the caller closes it."""
    return os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)


def open_path(path: str | Path) -> int:
    """A file descriptor of the namespace at `path`; the caller closes it.

    Raises FileNotFoundError when nothing is there, and OSError(EINVAL) when what is there is no network namespace
    (a plain file: its bind mount was made in another mount namespace, or was undone).
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if os.fstat(fd).st_dev != _nsfs_device():
        os.close(fd)
        raise OSError(errno.EINVAL, f"{path} is not a network namespace")
    return fd


def _nsfs_device() -> int:
    return Path(OWN).stat().st_dev  # one nsfs in the kernel, for namespaces of every kind


def inode(fd: int) -> int:
    """The number that tells namespaces apart."""
    return os.fstat(fd).st_ino


def in_machines_own() -> bool:
    """True when the calling thread is in the machine's own namespace: the initial one, or that of process 1.

    The initial one is known by settings that only it has; process 1's cannot be read without CAP_SYS_PTRACE over it.
    """
    if Path("/proc/sys/net/core/dev_weight").exists():
        return True
    try:
        return Path("/proc/1/ns/net").stat().st_ino == Path(OWN).stat().st_ino
    except OSError:
        return False


@contextmanager
def enter(fd: int) -> Iterator[None]:
    """The calling thread is in the namespace of `fd` inside the block, and back afterwards.

    For a thread that does nothing else meanwhile: a worker or a test, never an event loop. A thread that cannot come
    back would act in a wrong namespace, so that failure is not caught.
    """
    back = open_own()
    try:
        set_net(fd)
        try:
            yield
        finally:
            set_net(back)
    finally:
        os.close(back)


def call(fd: int, function: Callable[[], T]) -> T:
    """What `function` returns (or raises) when run inside the namespace of `fd`, on a thread of its own."""

    def inside() -> T:
        set_net(fd)
        return function()

    return on_own_thread(inside)


def on_own_thread(function: Callable[[], T]) -> T:
    """What `function` returns (or raises) on a thread that ends with it, so that it may change its namespace."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # handed to the caller
            failure.append(error)

    thread = threading.Thread(target=run, name="netns", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def make_here() -> int:
    """A fresh namespace's file descriptor. Leaves the calling thread inside it: for a thread of one's own."""
    unshare_net()
    return open_own()


def bind(fd: int, path: Path) -> None:
    """Gives the namespace of `fd` a name: bind-mounts it on `path`, whose directory must exist.

    Raises FileExistsError when the name is taken. An empty file on which nothing is mounted is no name: a reboot
    leaves such where /run is on a disk.
    """
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except FileExistsError:
        if is_named(path) or not path.is_file() or path.stat().st_size:
            raise
    try:
        _mount(b"/proc/thread-self/fd/%d" % fd, path)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _mount(source: bytes, path: Path) -> None:
    _checked(_libc.mount(source, os.fsencode(path), b"none", MS_BIND, None), f"bind mount on {path}")


def is_named(path: Path) -> bool:
    """True when `path` names a namespace."""
    try:
        return path.stat().st_dev == _nsfs_device()
    except OSError:
        return False


def create(path: Path) -> None:
    """Makes a fresh namespace named `path`. Raises FileExistsError when the name is taken. Its `lo` is down."""
    create_many([path])


def create_many(paths: Sequence[Path]) -> None:
    """Makes a fresh namespace for every path, on one thread (the kernel makes them one at a time anyway).

    All or nothing: when one fails, those made by this call are removed again and the error is raised.
    """

    def work() -> None:
        made: list[Path] = []
        try:
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                fd = make_here()
                try:
                    bind(fd, path)
                finally:
                    os.close(fd)
                made.append(path)
        except BaseException:
            for path in made:
                delete(path)
            raise

    on_own_thread(work)


def delete(path: Path) -> None:
    """Takes the name away; the namespace goes with its last user. What is absent is gone already. Idempotent."""
    if _libc.umount2(os.fsencode(path), MNT_DETACH):
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOENT):
            raise OSError(code, f"umount {path}: {os.strerror(code)}")
    with suppress(FileNotFoundError):
        path.unlink()


def names(directory: Path = RUN_NETNS) -> list[str]:
    """The names in a directory of namespaces, sorted; a directory that is not there holds none."""
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        return []
