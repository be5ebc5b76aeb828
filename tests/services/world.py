"""A small cloud for the tests of services: indexes over a memory store, and one commit a command."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from alcor.model.addresses import Mac, parse_ip, parse_mac, parse_prefix
from alcor.model.ids import Id, make_ids
from alcor.model.nouns import Network, Node, Port, Subnet
from alcor.services import invariants
from alcor.services.commands import (
    Command,
    CreateNetworks,
    CreateNodes,
    CreatePorts,
    CreateSubnets,
    FixedIpSpec,
    NetworkSpec,
    NodeSpec,
    PortReport,
    PortSpec,
    RecordPortReports,
    SubnetSpec,
)
from alcor.services.dispatch import compute, ids_needed, rows_named
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.store.memory import MemoryStore

NOBODY = Id(b"\xee" * 16)


class World:
    """Runs commands as the writer does: compute, apply, commit; and checks nothing leaked, with `check`."""

    def __init__(self, *, max_mtu: int = 1450, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.indexes = Indexes(self.store, max_mtu=max_mtu)
        self.revision = self.store.revision()
        self.ordinal = self.store.last_ordinal()
        self.now = 1_700_000_000_000
        self._random = random.Random(7)
        self._spent = 0

    def compute(self, command: Command) -> Outcome:
        """What the command comes to; changes nothing."""
        count = ids_needed(command)
        self._spent = count

        def spare(wanted: int) -> Sequence[Id]:
            self._spent += wanted
            return make_ids(self.ordinal + self._spent - wanted + 1, wanted, self._random.randbytes(11 * wanted))

        ids = make_ids(self.ordinal + 1, count, self._random.randbytes(11 * count))
        stamp = Stamp(self.revision + 1, self.now, ids, spare)
        named = {port.id: port for port in self.store.get_ports(rows_named(self.indexes, command))}
        return compute(self.indexes, named, command, stamp)

    def do(self, command: Command) -> Any:
        """The command's answer; it is committed."""
        outcome = self.compute(command)
        self.now += 1000
        self.ordinal += self._spent
        if outcome.changes:
            self.revision += 1
            self.indexes.apply(outcome)
            self.store.commit(self.revision, outcome.changes)
        return outcome.answer

    def check(self) -> None:
        """Allocated == referenced, in memory and in the store."""
        assert () == invariants.check(self.indexes)
        assert [] == self.store.check()

    def network(self, **fields: Any) -> Network:
        if isinstance(fields.get("cidr"), str):
            fields["cidr"] = parse_prefix(fields["cidr"])
        found: Network = self.do(CreateNetworks(specs=(NetworkSpec(**fields),)))[0]
        return found

    def subnet(self, network: Network, cidr: str, **fields: Any) -> Subnet:
        spec = SubnetSpec(network_id=network.id, cidr=parse_prefix(cidr), **fields)
        found: Subnet = self.do(CreateSubnets(specs=(spec,)))[0]
        return found

    def node(self, name: str, ip: str) -> Node:
        found: Node = self.do(CreateNodes(specs=(NodeSpec(name=name, underlay_ip=parse_ip(ip)),)))[0]
        return found

    def port(self, network: Network, **fields: Any) -> Port:
        return self.ports(network, 1, **fields)[0]

    def ports(self, network: Network, count: int, **fields: Any) -> tuple[Port, ...]:
        found: tuple[Port, ...] = self.do(CreatePorts(specs=(PortSpec(network_id=network.id, **fields),) * count))
        return found

    def stored(self, port: Port) -> Port:
        """The port as the store has it now."""
        return self.store.get_ports([port.id])[0]

    def report(self, port: Port, *, revision: int | None = None, host: str | None = None, error: str = "") -> Port:
        """Lets a host report; answers the port afterwards."""
        word = PortReport(
            port.id, port.host if host is None else host, port.revision if revision is None else revision, error
        )
        self.do(RecordPortReports(reports=(word,)))
        return self.stored(port)


def fixed(*addresses: str | Id) -> tuple[FixedIpSpec, ...]:
    """Fixed IP specs: a text is an address, an id is a subnet."""
    return tuple(
        FixedIpSpec(ip=parse_ip(address)) if isinstance(address, str) else FixedIpSpec(subnet_id=address)
        for address in addresses
    )


def mac(text: str) -> Mac:
    """A MAC of its text."""
    return parse_mac(text)
