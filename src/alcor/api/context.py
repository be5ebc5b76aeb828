"""What a resource's handlers are handed: control plane, store, and a way to read it off the loop. Made by app."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from alcor.services.commands import Control
from alcor.services.health import HealthView
from alcor.services.reachability import ReachabilityView
from alcor.services.traffic import Traffic
from alcor.services.waiting import Waits
from alcor.store.base import Store

Found = TypeVar("Found")


class Context:
    """The seams of the API. Reads of one row happen at once (microseconds); lists happen in `readers`."""

    def __init__(
        self,
        control: Control,
        store: Store,
        readers: Executor,
        health: HealthView | None = None,
        metrics: Callable[[], bytes] | None = None,
        reachability: ReachabilityView | None = None,
        traffic: Traffic | None = None,
        waits: Waits | None = None,
    ) -> None:
        self.control = control
        self.store = store
        self.health = health
        """None: nobody watches hosts."""
        self.metrics = metrics
        """The page for Prometheus; None: there is none."""
        self.reachability = reachability
        """None: nobody answers."""
        self.traffic = traffic or Traffic()
        """What load balancers carried."""
        self.waits = waits
        """None: nobody waits."""
        self._readers = readers

    async def read(self, question: Callable[[], Found]) -> Found:
        """The answer to a question of any size, without blocking the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, question)
