"""What ports of a fake host ask of its services. Made by the switch; fills `dataplane.base.Requests`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from alcor.dataplane.base import Request
from alcor.kit.bell import Bell
from alcor.model.ids import Id

MAX_WAITING = 4096


class FakeRequests:
    """A queue with a bell."""

    def __init__(
        self,
        give: Callable[[int, bytes], None],
        back: Callable[[Request], None],
        places: Callable[[], dict[Id, int]],
    ) -> None:
        """`give(ifindex, frame)` hands an answer to a port, `back` counts a request that has none, `places` says where
        served ports are."""
        self._places = places
        self._give = give
        self._back = back
        self._waiting: deque[Request] = deque()
        self._bell = Bell()
        self._lock = threading.Lock()

    def ask(self, request: Request) -> bool:
        """A port asks; False: too many wait."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting.append(request)
            self._bell.ring()
            return True

    def close(self) -> None:
        """Lets go of the bell."""
        self._bell.close()

    def fileno(self) -> int:
        """See dataplane.base."""
        return self._bell.fileno()

    def take(self) -> list[Request]:
        """See dataplane.base."""
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
            self._bell.hush()
            return taken

    def interfaces(self) -> dict[Id, int]:
        """See dataplane.base."""
        return self._places()

    def answer(self, ifindex: int, frame: bytes) -> None:
        """See dataplane.base."""
        self._give(ifindex, frame)

    def refuse(self, request: Request) -> None:
        """See dataplane.base."""
        self._back(request)
