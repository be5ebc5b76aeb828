"""The sharing loop: which hosts share routers' addresses outside, and who answers for them. Wired by roles.

Level-triggered: it compares what a router's gateway says with who carries ports of its networks, what hosts said of
themselves and how they are (services.sharing is the rule), and submits what differs. The publisher wakes it with what
moved; on a timer it looks for answerers that are down, and at some of all routers in turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from alcor.model.ids import Id, format_id
from alcor.model.nouns import Node, Router
from alcor.services.commands import Carrier, Control, ShareAddress
from alcor.services.errors import ControlPlaneBusy
from alcor.services.health import HealthView, Reach
from alcor.services.sharing import shared

_log = logging.getLogger(__name__)

TICK_S = 0.2
AT_ONCE = 100
"""Routers that are looked at in one tick without a reason."""
PATIENCE_S = 15.0
"""A host that was not heard yet, after the controller's start, is taken for what it was for so long."""


class World(Protocol):
    """What is published (Publisher)."""

    def sharers(self) -> dict[Id, Router]:
        """The routers whose addresses hosts share."""
        ...

    def sharers_of(self, identifier: Id) -> Iterable[Id]:
        """Those that have the network, or are that router."""
        ...

    def carriers(self, network_id: Id) -> dict[str, int]:
        """Host -> its ports of the network."""
        ...

    def node(self, name: str) -> Node | None:
        """A host."""
        ...

    def published(self) -> int:
        """The last commit of which all this is."""
        ...

    def caught_up(self, host: str) -> int:
        """The commit as of which the host said that it carries what it should and nothing else; 0: it has not said."""
        ...


class SharingLoop:
    """See the module. `run` it in a task group; `moved` is called on the same event loop."""

    def __init__(self, control: Control, world: World, health: HealthView) -> None:
        self._control = control
        self._world = world
        self._health = health
        self._waiting: set[Id] = set()
        self._turn: deque[Id] = deque()
        self._short: set[Id] = set()
        """Routers of which it was said that a host got nothing."""
        self._leaving: dict[tuple[Id, str], int] = {}
        """(router, host that has blocks and no ports any more) -> the commit as of which it was seen so."""
        self._until = 0.0
        self._wake = asyncio.Event()

    def moved(self, identifiers: Iterable[Id]) -> None:
        """Ports came to or left hosts in these networks, or these routers changed; quick."""
        for identifier in identifiers:
            self._waiting.update(self._world.sharers_of(identifier))
        if self._waiting:
            self._wake.set()

    async def run(self) -> None:
        """Runs until cancelled. Raises what ends the control plane (ControlPlaneStopped)."""
        loop = asyncio.get_running_loop()
        self._until = loop.time() + PATIENCE_S
        due = loop.time()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, due - loop.time()))
            self._wake.clear()
            if loop.time() >= due:
                due = loop.time() + TICK_S
                self._look_around()
            waiting, self._waiting = self._waiting, set()
            for identifier in sorted(waiting):
                try:
                    await self._look(identifier, patient=loop.time() < self._until)
                except ControlPlaneBusy:
                    self._waiting.add(identifier)

    def _look_around(self) -> None:
        """On the timer: routers whose answerer is gone, and the next ones in turn."""
        routers = self._world.sharers()
        self._short &= routers.keys()
        self._leaving = {key: commit for key, commit in self._leaving.items() if key[0] in routers}
        for identifier, router in routers.items():
            gateway = router.gateway
            if gateway is not None and gateway.blocks and not self._is_up(gateway.answerer):
                self._waiting.add(identifier)
        if not self._turn:
            self._turn.extend(sorted(routers))
        for _ in range(min(AT_ONCE, len(self._turn))):
            self._waiting.add(self._turn.popleft())

    async def _look(self, identifier: Id, *, patient: bool) -> None:
        router = self._world.sharers().get(identifier)
        gateway = router.gateway if router is not None else None
        if router is None or gateway is None:
            return
        carriers = self._carriers(router, patient=patient)
        wanted = shared(gateway, carriers)
        if wanted.without and identifier not in self._short:
            _log.error(
                "router %s: no ports of its address are left for hosts %s: their ports do not reach outside",
                *(format_id(identifier), ", ".join(wanted.without)),
            )
        (self._short.add if wanted.without else self._short.discard)(identifier)
        if wanted != gateway:
            command = ShareAddress(id=identifier, gateway_port_id=gateway.port_id, carriers=tuple(carriers))
            await self._control.submit(command)

    def _carriers(self, router: Router, *, patient: bool) -> list[Carrier]:
        """The hosts that are to share its address: those that have ports of its networks, and an external device. A
        host that had no session in this life has what it had."""
        ports: dict[str, int] = {}
        for network_id in router.networks:
            for host, count in self._world.carriers(network_id).items():
                ports[host] = ports.get(host, 0) + count
        gateway = router.gateway
        known = {one.host for one in gateway.blocks} if gateway is not None else set()
        found = []
        for host, count in sorted(ports.items()):
            node, health = self._world.node(host), self._health.health(host)
            if node is None or not (host in known if health.outside is None else health.outside):
                continue
            unheard = patient and not health.heard_at and gateway is not None and host == gateway.answerer
            found.append(Carrier(host, node.underlay_ip, count, unheard or self._is_up(host)))
        found += self._leavers(router, known - ports.keys())
        return sorted(found, key=lambda carrier: carrier.host)

    def _leavers(self, router: Router, hosts: set[str]) -> list[Carrier]:
        """The hosts that have blocks and no ports any more, as far as they may not have heard of it: until then their
        blocks are nobody else's, or two hosts would send from the same ports."""
        for key in [key for key in self._leaving if key[0] == router.id and key[1] not in hosts]:
            del self._leaving[key]
        found = []
        for host in hosts:
            since = self._leaving.setdefault((router.id, host), max(self._world.published(), router.revision))
            node = self._world.node(host)
            if node is not None and self._world.caught_up(host) < since:
                found.append(Carrier(host, node.underlay_ip, 0, False))
        return found

    def _is_up(self, host: str) -> bool:
        health = self._health.health(host)
        return bool(health.heard_at) and health.state is not Reach.DOWN
