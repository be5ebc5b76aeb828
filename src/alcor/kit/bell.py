"""A descriptor that is readable while it was rung and not yet hushed: wakes an event loop from any thread."""

from __future__ import annotations

import os
from contextlib import suppress


class Bell:
    """An eventfd(2). Ringing it twice is ringing it once."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def ring(self) -> None:
        """Makes it readable."""
        os.eventfd_write(self._fd, 1)

    def hush(self) -> None:
        """Makes it unreadable."""
        with suppress(BlockingIOError):  # it was not rung
            os.eventfd_read(self._fd)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Gives the descriptor back; again does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
