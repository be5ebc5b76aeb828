"""Callers that wait until ports have left BUILD, woken by the commits that say so. Fills services.waiting.

Wired by roles. A caller is entered before the ports are read, and a commit is durable before it is told here: whichever
comes first, no word is missed. So a single port costs its caller one request and the controller two reads, instead of a
question every millisecond beside the work that is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from alcor.model.ids import Id
from alcor.model.nouns import Port, PortStatus
from alcor.store.base import Changes

MAX_WAITED_FOR = 262_144
"""Ports, of all callers together, about: a wait beyond is none."""


class _Wait:
    """One caller: the ports that are still waited for, and what ends it."""

    __slots__ = ("done", "left", "loop")

    def __init__(self, ids: Iterable[Id]) -> None:
        self.loop = asyncio.get_running_loop()
        self.left = set(ids)
        self.done: asyncio.Future[None] = self.loop.create_future()

    def built(self, identifier: Id) -> None:
        """One less."""
        self.left.discard(identifier)
        if not self.left:
            self.end()

    def end(self) -> None:
        """Wakes the caller. Idempotent."""
        if not self.done.done():
            self.done.set_result(None)


class PortWaits:
    """See the module. `until_built` and `close` belong to one event loop, `committed` to the writer's thread."""

    def __init__(self) -> None:
        self._waits: dict[Id, set[_Wait]] = {}
        self._waited_for = 0
        """Ports of all callers; one that two wait for counts twice."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def committed(self, changes: Changes) -> None:
        """The writer's listener: what has left BUILD, or is gone, wakes who waits for it."""
        loop = self._loop
        if not self._waits or loop is None:
            return
        told = [change.id for change in changes.statuses]
        told += [port.id for port in changes.deleted_ports]
        told += [after.id for _, after in changes.changed_ports if after.status is not PortStatus.BUILD]
        if told:
            with suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(self._tell, told)

    async def until_built(
        self, ids: Sequence[Id], read: Callable[[], Awaitable[Sequence[Port]]], seconds: float
    ) -> Sequence[Port]:
        """See services.waiting.Waits."""
        if self._closed or self._waited_for + len(ids) > MAX_WAITED_FOR:
            return await read()
        wait = _Wait(ids)
        self._loop = wait.loop
        for identifier in wait.left:
            self._waits.setdefault(identifier, set()).add(wait)
        waited = tuple(wait.left)
        self._waited_for += len(waited)
        try:
            ports = await read()
            building = {port.id for port in ports if port.status is PortStatus.BUILD}
            if building:
                wait.left &= building
                if wait.left:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(seconds):
                            await wait.done
                ports = await read()  # also when they were told of while they were read
            return ports
        finally:
            self._forget(wait, waited)

    def close(self) -> None:
        """Ends every wait, and those to come."""
        self._closed = True
        for waits in self._waits.values():
            for wait in waits:
                wait.end()

    def _tell(self, ids: Sequence[Id]) -> None:
        for identifier in ids:
            for wait in self._waits.get(identifier, ()):
                wait.built(identifier)

    def _forget(self, wait: _Wait, ids: Sequence[Id]) -> None:
        for identifier in ids:
            waits = self._waits[identifier]
            waits.discard(wait)
            if not waits:
                del self._waits[identifier]
        self._waited_for -= len(ids)
