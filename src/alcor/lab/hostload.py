"""Goal state for one host, straight to its agent: what a host alone can do, serial against parallel. Called by onehost.

Run as `python -m alcor.lab.hostload JSON` inside the controller's namespace. It speaks the fast path exactly as the
server does (the same code), for a host that no server knows. One JSON object per line on standard output: how many
ports are done; at the end the result.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from alcor.goalstate.objects import (
    HOST_SCOPE,
    EndpointGoal,
    Goal,
    Kind,
    PortAddress,
    PortGoal,
    ScopeUpdate,
    SubnetGoal,
    Tombstone,
    VpcGoal,
)
from alcor.lab.results import repeats_of
from alcor.lab.settling import settle
from alcor.model.addresses import Ip, Mac, ip_from_int, parse_ip, parse_prefix
from alcor.model.ids import Id, make_id
from alcor.model.nouns import Node, PortKind
from alcor.paths.base import Parcel, PathName, Session
from alcor.paths.delivery import Delivery
from alcor.paths.fast import GrpcDialer
from alcor.paths.link import CONTROLLER, load_credentials
from alcor.wire.codec import encode_part
from alcor.wire.lookups import Lookup
from alcor.wire.reports import Ack, Heartbeat, Hello, Timings

CIDR = parse_prefix("10.0.0.0/8")
GATEWAY = parse_ip("10.0.0.1")
VNI = 4242
ACK_TIMEOUT_S = 120.0
PARTITION, EPOCH = 1, 1
REVISION_PER_LOAD = 10_000


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    host: str
    address: str
    port: int
    tls_dir: str
    scales: tuple[int, ...]
    mtu: int
    real: bool
    """Ports are namespaces and interfaces: between two loads the kernel must be given time to remove them."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One scale. `timings` are the agent's own, of the one message with all ports."""

    ports: int
    serial_ms: float
    batch_ms: float
    timings: Timings


class Load:
    """So many ports of one VPC on the host, as goal state; revisions grow with every message."""

    def __init__(self, host_ip: Ip, mtu: int, ports: int, first_revision: int) -> None:
        self._revision = first_revision
        self._vpc = self._new_id()
        subnet = self._new_id()
        self._base: tuple[Goal, ...] = (
            VpcGoal(self._vpc, first_revision, VNI, mtu, True),
            SubnetGoal(subnet, first_revision, CIDR, GATEWAY),
        )
        self._host_ip = host_ip
        self._subnet = subnet
        self.ids = [self._new_id() for _ in range(ports)]

    def opening(self) -> Parcel:
        """The VPC without endpoints."""
        return self._parcel(self._vpc, self._base, snapshot=True)

    def ports(self, numbers: Iterable[int]) -> list[Parcel]:
        """These ports and their endpoints."""
        self._revision += 1
        chosen = list(numbers)
        return [
            self._parcel(self._vpc, [self._endpoint(number) for number in chosen]),
            self._parcel(HOST_SCOPE, [self._port(number) for number in chosen]),
        ]

    def gone(self) -> list[Parcel]:
        """All of them deleted."""
        self._revision += 1
        dead = tuple(Tombstone(Kind.PORT, one, self._revision) for one in sorted(self.ids))
        update = ScopeUpdate(scope=HOST_SCOPE, revision=self._revision, snapshot=False, objects=(), tombstones=dead)
        return [Parcel(HOST_SCOPE, encode_part(update), False)]

    def _port(self, number: int) -> PortGoal:
        address = PortAddress(ip_from_int(CIDR.first + 256 + number, 4), self._subnet)
        kind = PortKind.CONTAINER
        return PortGoal(self.ids[number], self._revision, self._vpc, self._mac(number), (address,), True, kind, "", "")

    def _endpoint(self, number: int) -> EndpointGoal:
        ip = ip_from_int(CIDR.first + 256 + number, 4)
        return EndpointGoal(self.ids[number], self._revision, self._mac(number), (ip,), self._host_ip)

    def _mac(self, number: int) -> Mac:
        return Mac(b"\xfa\x16\x3e" + number.to_bytes(3, "big"))

    def _parcel(self, scope: Id, objects: Sequence[Goal], *, snapshot: bool = False) -> Parcel:
        ordered = tuple(sorted(objects, key=lambda one: one.key))
        update = ScopeUpdate(scope=scope, revision=self._revision, snapshot=snapshot, objects=ordered)
        return Parcel(scope, encode_part(update), snapshot)

    @staticmethod
    def _new_id() -> Id:
        return make_id(secrets.randbits(39), secrets.token_bytes(11))


class Word:
    """What the host says, as far as a load waits for it. Fills paths.base.Events."""

    def __init__(self) -> None:
        self.session: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._waiting: set[Id] = set()
        self._done: asyncio.Future[Ack] | None = None

    async def answer(self, ids: Iterable[Id]) -> Ack:
        """The ack with which the last of these ports was acknowledged. Raises RuntimeError when one was refused."""
        self._waiting = set(ids)
        self._done = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(ACK_TIMEOUT_S):
            return await self._done

    def greeted(self, session: Session, hello: Hello) -> None:
        if self.session.done():
            self._fail("the agent's stream ended and began again")
        else:
            self.session.set_result(session)

    def acknowledged(self, session: Session, ack: Ack) -> None:
        if self._done is None or self._done.done():
            return
        for port in ack.ports:
            if port.error:
                self._fail(f"port {port.id.hex()}: {port.error}")
                return
            self._waiting.discard(port.id)
        if not self._waiting:
            self._done.set_result(ack)

    def heard(self, host: str, path: PathName, heartbeat: Heartbeat) -> None:
        """It answers by acks; that is enough here."""

    def asked(self, session: Session, lookup: Lookup) -> None:
        """Nothing is on demand here."""

    def overflowed(self, session: Session, scopes: frozenset[Id]) -> None:
        self._fail("more goal state waited than may wait")

    def refused(self, session: Session, reason: str, attempts: int) -> None:
        self._fail(f"the agent refused goal state: {reason}")

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(RuntimeError(why))


Say = Callable[[int], None]


async def measure(order: Order, say: Say) -> list[Measured]:
    """Every scale, serial then parallel; the last load stays on the host. `say` is told how many ports are done."""
    word = Word()
    credentials = load_credentials(Path(order.tls_dir), CONTROLLER)
    path = Delivery(
        partition=PARTITION,
        epoch=EPOCH,
        dialers={PathName.FAST: GrpcDialer(partition=PARTITION, epoch=EPOCH, credentials=credentials)},
        events=word,
        roll=lambda: 0.5,
    )
    running = asyncio.create_task(path.run())
    try:
        path.connect(_node(order))
        async with asyncio.timeout(ACK_TIMEOUT_S):
            path.begin(await word.session, [])
        return await _scales(order, path, word, say)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _scales(order: Order, path: Delivery, word: Word, say: Say) -> list[Measured]:
    found, done, loads = [], 0, 0

    async def once(ports: int, *, together: bool, last: bool = False) -> tuple[float, Timings]:
        """One load, one port per message or `together`: how long it took. Taken off again unless it is the `last`."""
        nonlocal done, loads
        loads += 1
        load = Load(parse_ip(order.address), order.mtu, ports, loads * REVISION_PER_LOAD)
        started = time.perf_counter()
        timings = Timings()
        for first in range(0, ports, ports if together else 1):
            numbers = range(first, first + (ports if together else 1))
            opening = [load.opening()] if first == 0 else []
            path.offer(order.host, opening + load.ports(numbers))
            timings = (await word.answer(load.ids[number] for number in numbers)).timings
            done += len(numbers)
            say(done)
        elapsed_ms = (time.perf_counter() - started) * 1000
        if not last:
            path.offer(order.host, load.gone())
            await word.answer(load.ids)
            if order.real:
                await asyncio.to_thread(settle)
        return elapsed_ms, timings

    for ports in order.scales:
        repeats = repeats_of(ports)
        serial = [(await once(ports, together=False))[0] for _ in range(repeats)]
        ends_here = ports == order.scales[-1]
        batch = [await once(ports, together=True, last=ends_here and n == repeats - 1) for n in range(repeats)]
        found.append(
            Measured(
                ports=ports,
                serial_ms=statistics.median(serial),
                batch_ms=statistics.median(elapsed_ms for elapsed_ms, _ in batch),
                timings=batch[-1][1],
            )
        )
    return found


def _node(order: Order) -> Node:
    return Node(
        id=make_id(1, bytes(11)),
        name=order.host,
        underlay_ip=parse_ip(order.address),
        agent_host=order.address,
        agent_port=order.port,
        created_at=0,
        updated_at=0,
        revision=1,
    )


def main() -> None:
    """The program."""
    order = msgspec.json.decode(sys.argv[1], type=Order)

    def say(done: int) -> None:
        print(json.dumps({"done": done}), flush=True)  # noqa: T201 - the lab reads it

    measured = asyncio.run(measure(order, say))
    print(json.dumps({"result": msgspec.to_builtins(measured)}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
