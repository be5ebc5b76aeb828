"""What a BGP speaker is given: exactly what the data plane carries, whatever happened before, and nothing twice."""

import random
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.agent.test_rehearsal import config
from tests.goalstate.histories import network_id, play
from tests.goalstate.test_delta import whole

from alcor.agent.bgp import Bgp, BgpStatus
from alcor.agent.intake import Received
from alcor.agent.reconcile import Reconciler
from alcor.dataplane.base import (
    NO_ADDRESS,
    OUTSIDE,
    Address,
    Hop,
    LocalPort,
    Plan,
    Route,
    RouteKey,
    RouteKind,
    SharedAddress,
)
from alcor.goalstate.snapshot import host_snapshot
from alcor.kit.clock import FakeClock
from alcor.model.addresses import Ip, Mac, ip_from_int, parse_ip, parse_prefix
from alcor.model.ids import Id, make_id
from alcor.model.nouns import Claim, Eip, Forwarding, PortKind
from alcor.sim.tables import DictionaryDriver, Tables
from alcor.wire.codec import BundleHead, encode_bundle, encode_part

HERE, THERE = parse_ip("192.0.2.1"), parse_ip("192.0.2.2")
INSIDE = parse_ip("10.0.0.5")
ONE, TWO, THREE = (parse_ip(f"203.0.113.{number}") for number in (1, 2, 3))


class Table:
    """Fills SpeakerTable: holds addresses, counts what is written, and refuses when told to."""

    number = 179

    def __init__(self) -> None:
        self.there: set[Ip] = set()
        self.written: list[tuple[tuple[Ip, ...], tuple[Ip, ...]]] = []
        self.reads = 0
        self.broken = ""

    def read(self) -> set[Ip]:
        self.reads += 1
        return set(self.there)

    def change(self, put: Any, remove: Any) -> None:
        if self.broken:
            raise OSError(1, self.broken)
        assert not self.there & set(put), "what is right is not touched"
        self.there = (self.there | set(put)) - set(remove)
        self.written.append((tuple(put), tuple(remove)))


def port(
    number: int, *eips: Ip, forwarded: tuple[Ip, ...] = (), own: tuple[Ip, ...] = (), claimed: tuple[Ip, ...] = ()
) -> LocalPort:
    mac = Mac(b"\x02\0\0\0" + number.to_bytes(2, "big"))
    return LocalPort(
        id=make_id(number, bytes(11)),
        vni=7,
        mac=mac,
        addresses=tuple(Address(ip, 64, None) for ip in own),
        mtu=1450,
        admin_state_up=True,
        routed=True,
        kind=PortKind.CONTAINER,
        netns="",
        interface="",
        eips=tuple(Eip(ip, INSIDE, 24, None) for ip in sorted(eips)),
        forwardings=tuple(Forwarding(ip, 6, 80, INSIDE, 8080, 24, None) for ip in sorted(forwarded)),
        claims=tuple(Claim(ip, mac) for ip in claimed),
    )


def leads(prefix: str, vni: int = 7) -> tuple[RouteKey, Route]:
    """A route of VNI OUTSIDE."""
    return RouteKey(OUTSIDE, parse_prefix(prefix)), Route(RouteKind.CONNECTED, (Hop(vni, 1450, NO_ADDRESS),))


WIRE = leads("2001:db8:100::/40", OUTSIDE)
OWN = tuple(parse_ip(f"2001:db8:100:{number}::9") for number in (1, 2, 3))


def shared(answerer: Ip | None) -> SharedAddress:
    return SharedAddress(24, None, 1400, answerer, ((2, HERE), (3, THERE)))


class Rig:
    """A data plane, and a table that is to follow it; both outlive the agent."""

    def __init__(self) -> None:
        self.tables, self.table, self.clock = Tables(), Table(), FakeClock()
        self.tables.host_ip = HERE
        self.start()

    def start(self) -> None:
        self.driver = DictionaryDriver(self.tables)
        self.bgp = Bgp(self.table, HERE, self.clock.monotonic, lambda: 0.5)
        self.look()

    def look(self) -> None:
        """An audit."""
        self.bgp.observed(self.driver.observe())
        self.bgp.settle()

    def apply(self, **fields: Any) -> None:
        plan = Plan(**fields)
        self.bgp.applied(plan, self.driver.apply(plan))
        self.bgp.settle()

    def carried(self) -> set[Ip]:
        """Told from the data plane alone."""
        answers = {ip for ip, one in self.tables.shared.items() if one.answerer == HERE}
        found = answers | {ip for one in self.tables.ports.values() for ip in one.outer_ips()}
        for one in self.tables.ports.values():
            for ip in (*(own.ip for own in one.addresses), *(claim.ip for claim in one.claims)):
                outside = [key.prefix for key in self.tables.routes if key.vni == OUTSIDE and ip in key.prefix]
                longest = max(outside, key=lambda prefix: prefix.length, default=None)
                if longest and self.tables.routes[RouteKey(OUTSIDE, longest)].hops[0].vni == one.vni:
                    found.add(ip)
        return found


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_addresses_come_and_go_with_their_ports(rig: Rig) -> None:
    """EIPs, forwarded addresses, and shared ones that this host is the answerer of; ports without any are nothing."""
    rig.apply(put_ports=(port(1, ONE), port(2, forwarded=(TWO, TWO)), port(3)))
    assert {ONE, TWO} == rig.table.there
    rig.apply(put_shared=((THREE, shared(HERE)),))
    assert {ONE, TWO, THREE} == rig.table.there
    rig.apply(put_shared=((THREE, shared(THERE)),), remove_ports=(port(1).id, port(3).id))
    assert {TWO} == rig.table.there
    rig.apply(put_shared=((THREE, shared(HERE)),), put_ports=(port(2),))
    assert {THREE} == rig.table.there
    rig.apply(remove_shared=(THREE,))
    assert set() == rig.table.there


def test_own_addresses_are_outside_while_their_subnet_is_open(rig: Rig) -> None:
    """Fixed ones and claimed ones, IPv6 only; whether the port comes first or the route. Not those of the wire's own
    prefix, nor where the longest route leads to another VPC."""
    own = port(1, ONE, own=(OWN[0], INSIDE), claimed=(OWN[1],))
    rig.apply(put_ports=(own,), put_routes=(WIRE,))
    assert {ONE} == rig.table.there
    rig.apply(put_routes=(leads("2001:db8:100:1::/64"),))
    assert {ONE, OWN[0]} == rig.table.there
    rig.apply(put_routes=(leads("2001:db8:100:2::/64"), leads("2001:db8:100:3::/64", 8)), put_ports=(port(2, own=OWN),))
    assert {ONE, OWN[0], OWN[1]} == rig.table.there
    rig.apply(remove_ports=(own.id,))
    assert {OWN[0], OWN[1]} == rig.table.there
    rig.apply(put_routes=(leads("2001:db8:100:1::/80", 8),), remove_routes=(leads("2001:db8:100:2::/64")[0],))
    assert set() == rig.table.there
    rig.apply(remove_routes=(leads("2001:db8:100:1::/80")[0],))
    assert {OWN[0]} == rig.table.there
    rig.start()
    assert {OWN[0]} == rig.table.there == rig.carried()


def test_a_port_that_moves_on_the_host_keeps_its_own_address_announced(rig: Rig) -> None:
    """A route that is put again as it is writes nothing."""
    rig.apply(put_ports=(port(1, own=OWN[:1]),), put_routes=(WIRE, leads("2001:db8:100:1::/64")))
    rig.apply(put_routes=(leads("2001:db8:100:1::/64"),))
    rig.apply(remove_ports=(port(1).id,), put_ports=(port(2, own=OWN[:1]),))
    assert [((OWN[0],), ())] == rig.table.written


def test_what_moves_on_the_host_is_not_withdrawn(rig: Rig) -> None:
    """From port to port, in one plan or in two, in either order: nobody outside is to notice."""
    rig.apply(put_ports=(port(1, ONE), port(2)))
    rig.apply(put_ports=(port(1), port(2, ONE)))
    rig.bgp.applied(*(plan := Plan(remove_ports=(port(2).id,)), rig.driver.apply(plan)))
    rig.bgp.applied(*(plan := Plan(put_ports=(port(1, ONE),)), rig.driver.apply(plan)))
    rig.bgp.settle()
    assert [((ONE,), ())] == rig.table.written
    assert {ONE} == rig.table.there


def test_a_change_costs_what_changed(rig: Rig) -> None:
    """The table is read when the agent starts and at audits only; what did not change is not written."""
    rig.apply(put_ports=tuple(port(number, ip_from_int(number, 4)) for number in range(1, 200)))
    rig.apply(put_ports=(port(200, ONE),))
    rig.apply(put_ports=(replace(port(200, ONE), mtu=1400),))
    assert [((ONE,), ())] == rig.table.written[1:]
    assert 1 == rig.table.reads
    assert float("inf") == rig.bgp.due()


def test_an_agent_that_starts_withdraws_what_is_stale_and_touches_nothing_else(rig: Rig) -> None:
    """What the data plane does not carry goes, what lacks comes, what is right is not written again."""
    rig.apply(put_ports=(port(1, ONE), port(2, TWO)), put_shared=((THREE, shared(HERE)),))
    del rig.tables.ports[port(2).id]
    rig.table.there.remove(THREE)
    rig.table.written.clear()
    rig.start()
    assert [((THREE,), (TWO,))] == rig.table.written
    rig.look()
    assert 1 == len(rig.table.written)


def test_a_start_waits_for_the_first_plan(rig: Rig) -> None:
    """What the data plane lost and gets at once is not withdrawn in between."""
    rig.apply(put_ports=(port(1, ONE),))
    rig.tables.ports.clear()
    rig.bgp.observed(rig.driver.observe())
    rig.apply(put_ports=(port(1, ONE),))
    assert [((ONE,), ())] == rig.table.written


def test_what_failed_is_as_it_was(rig: Rig) -> None:
    """A port that could not be changed, or removed, keeps its addresses announced until it is observed."""
    rig.apply(put_ports=(port(1, ONE),))
    rig.tables.refused_ports[port(1).id] = "no"
    rig.apply(put_ports=(port(1, TWO), port(2, THREE)))
    assert {ONE, THREE} == rig.table.there
    rig.tables.tables_error = "full"
    rig.apply(put_ports=(port(2),), put_shared=((TWO, shared(HERE)),))
    assert {ONE, THREE} == rig.table.there
    rig.tables.tables_error = ""
    rig.look()
    assert rig.carried() == rig.table.there


def test_a_table_that_cannot_be_written_is_tried_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """With back-off, said once, shown in the status; then all of it is as it should be, also what changed meanwhile."""
    rig.table.broken = "Operation not permitted"
    rig.apply(put_ports=(port(1, ONE),))
    rig.apply(put_ports=(port(2, TWO),))
    assert BgpStatus(table=179, routes=0, error="Operation not permitted") == rig.bgp.status()
    waits = []
    for _ in range(8):
        waits.append(rig.bgp.due() - rig.clock.monotonic())
        rig.bgp.settle()  # too early
        rig.clock.advance(waits[-1])
        rig.bgp.settle()
    assert [0.375, 0.75, 1.5, 3.0, 6.0, 12.0, 22.5, 22.5] == waits
    assert 1 == len([one for one in caplog.records if "CAP_NET_ADMIN" in one.getMessage()])
    rig.table.broken = ""
    rig.clock.advance(30.0)
    rig.bgp.settle()
    assert {ONE, TWO} == rig.table.there
    assert BgpStatus(table=179, routes=2, error="") == rig.bgp.status()


@pytest.mark.parametrize("seed", range(20))
def test_changes_come_to_what_all_of_it_comes_to(seed: int) -> None:
    """Random plans, failures and restarts: after each the table is what the data plane carries, once it works."""
    dice, rig = random.Random(seed), Rig()
    ips = [ip_from_int(number, 4) for number in range(1, 9)]
    ids: list[Id] = [port(number).id for number in range(6)]
    for _ in range(60):
        free = [ip for ip in ips if dice.random() < 0.6]
        puts = []
        for number in dice.sample(range(6), dice.randrange(4)):
            taken = [free.pop() for _ in range(min(len(free), dice.randrange(3)))]
            split = dice.randrange(len(taken) + 1)
            own = [ip for ip in OWN if dice.random() < 0.3]
            puts.append(port(number, *taken[:split], forwarded=tuple(taken[split:]), own=tuple(own)))
        removed = [one for one in ids if one not in {put.id for put in puts} and dice.random() < 0.2]
        rig.tables.refused_ports = {one: "no" for one in ids if dice.random() < 0.1}
        rig.tables.tables_error = "full" if dice.random() < 0.1 else ""
        rig.table.broken = "no" if dice.random() < 0.1 else ""
        answerers = [(ip, shared(dice.choice((HERE, THERE, None)))) for ip in ips if dice.random() < 0.2]
        routes = [leads(f"2001:db8:100:{number}::/64", dice.choice((OUTSIDE, 7, 8))) for number in (1, 2, 3)]
        some = [route for route in routes if dice.random() < 0.2]
        rig.apply(
            put_routes=tuple(some),
            remove_routes=tuple(key for key, _ in routes if key not in dict(some) and dice.random() < 0.1),
            put_ports=tuple(puts),
            remove_ports=tuple(removed),
            put_shared=tuple(answerers),
            remove_shared=tuple(ip for ip in ips if dice.random() < 0.2 and ip not in dict(answerers)),
        )
        failed = bool(rig.tables.refused_ports or rig.tables.tables_error)
        rig.tables.refused_ports, rig.tables.tables_error, rig.table.broken = {}, "", ""
        if dice.random() < 0.1:
            rig.start()
        elif failed:  # as the reconciler does
            rig.look()
        rig.clock.advance(60.0)
        rig.bgp.settle()
        assert rig.carried() == rig.table.there


def test_a_reconciler_says_what_it_carries(tmp_path: Path) -> None:
    """By bundles, in its status, and when it starts again."""
    rows = play([[("port", 0, 0, 0)]])[-1].after
    (bare,) = rows.of_host("a")
    eips = (Eip(ONE, bare.fixed_ips[0].ip, 24, None),)
    tables, table, clock = Tables(), Table(), FakeClock()

    def start() -> tuple[Reconciler, Bgp]:
        bgp = Bgp(table, HERE, clock.monotonic, lambda: 0.5)
        made = Reconciler(config(tmp_path), DictionaryDriver(tables), clock.monotonic, lambda: 0.5, bgp=bgp)
        made.start()
        bgp.settle()
        return made, bgp

    first, bgp = start()
    for later, has in enumerate((eips, (), eips), 1):
        revision = rows.revision + later
        head = BundleHead(partition=1, epoch=1, sequence=later, host="a", synced=True)
        updates = host_snapshot(revision, [replace(bare, revision=revision, eips=has)]), whole(rows, network_id(0))
        first.handle([Received(encode_bundle(head, [encode_part(one) for one in updates]), 0.0, 7, 1, 1)])
        bgp.settle()
        assert {eip.ip for eip in has} == table.there
    assert BgpStatus(table=179, routes=1, error="") == first.status().bgp
    first.close()
    table.there, table.written = {TWO}, []
    second, _ = start()
    assert [((ONE,), (TWO,))] == table.written
    second.close()
