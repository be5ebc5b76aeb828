"""The victim of the crash test: creates, changes and deletes ports in bulk until it is killed, and says what was
acknowledged, a line each: `create|going|delete REVISION ID,ID,...`, where `going` announces a deletion.
Run as a program: `crash_writer.py PATH SEED`."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from typing import Any

from alcor.loops.commit import Committer
from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.services.commands import (
    CreateNetworks,
    CreateNodes,
    CreatePorts,
    CreateSubnets,
    DeletePorts,
    FixedIpSpec,
    NetworkSpec,
    NodeSpec,
    PortSpec,
    SubnetSpec,
    UpdatePort,
)
from alcor.services.errors import Conflict
from alcor.store.base import Query
from alcor.store.sqlite import SqliteStore

WORKERS = 4
LARGEST_BULK = 120


def tell(verb: str, revision: int, ids: list[Id]) -> None:
    """One line, one write."""
    os.write(1, f"{verb} {revision} {','.join(identifier.hex() for identifier in ids)}\n".encode())


async def prepare(control: Committer, store: SqliteStore) -> Id:
    """The network, its subnet and two nodes; made by the first victim."""
    for network in store.networks():
        if store.subnets() and store.nodes():
            return network.id
    made: Any = await control.submit(CreateNetworks(specs=(NetworkSpec(name="crash"),)))
    network_id: Id = made[0].id
    nodes = tuple(
        NodeSpec(name=name, underlay_ip=parse_ip(ip)) for name, ip in (("h1", "192.0.2.1"), ("h2", "192.0.2.2"))
    )
    await control.submit(CreateSubnets(specs=(SubnetSpec(network_id=network_id, cidr=parse_prefix("10.0.0.0/21")),)))
    await control.submit(CreateNodes(specs=nodes))
    return network_id


async def work(control: Committer, network_id: Id, mine: list[Id], dice: random.Random) -> None:
    """Until the end: bulks with and without named addresses, updates, and bulk deletions of what was made, also by
    earlier victims (`mine`)."""
    while True:
        specs = [PortSpec(network_id=network_id, host=dice.choice(["", "h1", "h2"]))] * dice.randint(1, LARGEST_BULK)
        named = parse_ip(f"10.0.{dice.randint(0, 7)}.{dice.randint(2, 250)}")
        specs.append(PortSpec(network_id=network_id, fixed_ips=(FixedIpSpec(ip=named),)))
        try:
            ports: Any = await control.submit(CreatePorts(specs=tuple(specs)))
        except Conflict:  # Full, or the named address is taken: make room.
            ports = ()
        if ports:
            tell("create", ports[0].revision, [port.id for port in ports])
            mine += [port.id for port in ports]
            changed: Any = await control.submit(UpdatePort(id=ports[0].id, fixed_ips=(), host="h2"))
            tell("create", changed.revision, [changed.id])
        dice.shuffle(mine)
        gone, mine = mine[: len(mine) // 2], mine[len(mine) // 2 :]
        if gone:
            tell("going", 0, gone)
            await control.submit(DeletePorts(ids=tuple(gone)))
            tell("delete", 0, gone)


async def main(path: str, seed: int) -> None:
    store = SqliteStore(path)
    control = Committer(store, clock=lambda: time.time_ns() // 1_000_000, entropy=os.urandom)
    control.start()
    network_id = await prepare(control, store)
    left = [port.id for port in store.list_ports(Query(limit=100_000))]
    async with asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(work(control, network_id, left[number::WORKERS], random.Random(seed * WORKERS + number)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
