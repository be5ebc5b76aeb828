"""A pool of ready network namespaces: making one costs 0.4 ms, taking one nothing. Called by `hands`.

A pooled namespace has no name, only a file descriptor held by this process and `lo` up; whoever takes it gives it its
name by one bind mount. So there is nothing to find again or to sweep after a crash: the kernel drops the namespaces of
a process that ended, and the next agent fills its pool anew. Refilling runs on the pool's own thread, never while the
driver works (`paused`), nor just after it: both would wait for the same kernel lock (RTNL), and so may a neighbour.
"""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from alcor.dataplane.kernel import netns
from alcor.dataplane.kernel.links import loopback_up
from alcor.dataplane.kernel.netlink import Netlink

MAX_SIZE = 16384
RESERVED_DESCRIPTORS = 256
"""Left to the rest of the process: the pool takes at most what its limit (RLIMIT_NOFILE) has beyond these."""
REST_S = 1.0
"""Without work before namespaces are made: by then a burst is over, and on the other hosts of a test machine, too."""
RETRY_S = 10.0
"""Between tries when the kernel refuses to make namespaces."""

log = logging.getLogger(__name__)


class Pool:
    """Ready namespaces, at most `size` of them; size 0 turns the pool off. Safe to use from several threads."""

    def __init__(self, size: int) -> None:
        """Fills in the background, REST_S from now. A size beyond the limit of open files is cut down to it."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        allowed = MAX_SIZE if limit == resource.RLIM_INFINITY else min(MAX_SIZE, max(0, limit - RESERVED_DESCRIPTORS))
        if size > allowed:
            log.warning("namespace pool cut from %d to %d: raise the limit of open files (ulimit -n)", size, allowed)
        self.size = max(0, min(size, allowed))
        self._ready: list[int] = []
        self._changed = threading.Condition()
        self._pauses = 0
        self._worked_at = time.monotonic()
        self._closed = False
        self._thread: threading.Thread | None = None
        if self.size:
            self._thread = threading.Thread(target=self._refill, name="netns-pool", daemon=True)
            self._thread.start()

    def take(self, count: int) -> list[int]:
        """Up to `count` namespaces, as descriptors that are now the caller's to close. Never waits."""
        with self._changed:
            count = min(count, len(self._ready))
            taken = self._ready[len(self._ready) - count :]
            del self._ready[len(self._ready) - count :]
            self._changed.notify_all()
        return taken

    @property
    def ready(self) -> int:
        """How many namespaces are ready now."""
        return len(self._ready)

    def wait_full(self, timeout_s: float) -> bool:
        """Waits until the pool is full; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or len(self._ready) >= self.size, timeout_s)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No namespace is begun inside the block."""
        with self._changed:
            self._pauses += 1
        try:
            yield
        finally:
            with self._changed:
                self._pauses -= 1
                self._worked_at = time.monotonic()
                self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread and lets go of the namespaces, which the kernel then removes. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for fd in self.take(len(self._ready)):
            os.close(fd)

    def _await_turn(self) -> bool:
        """Waits until one more is to be made; False: the pool is closed."""
        with self._changed:
            while not self._closed:
                rest_s = self._worked_at + REST_S - time.monotonic()
                if self._pauses or len(self._ready) >= self.size:
                    self._changed.wait()
                elif rest_s > 0:
                    self._changed.wait(rest_s)
                else:
                    return True
            return False

    def _refill(self) -> None:
        home = netns.open_own()
        try:
            while self._await_turn():
                try:
                    fd = make_ready()
                    # Idle inside a namespace, this thread would keep it alive after its port is gone.
                    netns.set_net(home)
                except OSError as error:
                    log.warning("making a namespace for the pool failed (%s): next try in %d s", error, RETRY_S)
                    with self._changed:
                        self._changed.wait_for(lambda: self._closed, RETRY_S)
                    continue
                with self._changed:
                    self._ready.append(fd)
                    self._changed.notify_all()
        finally:
            os.close(home)


def make_ready() -> int:
    """A fresh namespace with `lo` up, as a descriptor. Leaves the calling thread inside it."""
    fd = netns.make_here()
    try:
        with Netlink() as netlink:
            netlink.check([loopback_up()])
    except OSError:
        os.close(fd)
        raise
    return fd
