"""The judges of the fault suite find what is planted: stale and missing endpoints, leaked addresses, faults that are
none."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from alcor.dataplane.endpoints import EndpointKey
from alcor.lab.audit import NOBODY, Auditor, Carried, Findings, Reader, compare, expected
from alcor.lab.client import ApiError, Client, Resource
from alcor.lab.faults import Kind, Planned, Struck
from alcor.lab.ledger import FILL, Ledger
from alcor.lab.topology import Machine
from alcor.model.addresses import parse_ip, parse_mac

VNI, SIZE = 77, 4
TIGHT = ("network", "tight", SIZE)


def machine(number: int) -> Machine:
    nowhere = Path("/nowhere")
    ip = parse_ip(f"10.200.1.{number}")
    return Machine(name=f"host-{number}", netns=None, ip=ip, pin_dir=nowhere, netns_dir=nowhere, data_dir=nowhere)


HOSTS = (machine(1), machine(2), machine(3))


def row(port: str, host: str, ip: str, mac: str, **changes: object) -> Resource:
    shown: Resource = {
        "id": port,
        "name": port,
        "binding:host_id": host,
        "network_id": "network",
        "mac_address": mac,
        "status": "ACTIVE",
        "fixed_ips": [{"subnet_id": "wide", "ip_address": ip}],
    }
    return {**shown, **changes}


ROWS = {
    "a": row("a", "host-1", "10.0.0.2", "02:00:00:00:00:01"),
    "b": row("b", "host-2", "10.0.0.3", "02:00:00:00:00:02"),
}
A, B = EndpointKey(VNI, parse_ip("10.0.0.2")), EndpointKey(VNI, parse_ip("10.0.0.3"))
GHOST = EndpointKey(VNI, parse_ip("10.0.0.99"))
MAC_A, MAC_B = parse_mac("02:00:00:00:00:01"), parse_mac("02:00:00:00:00:02")


def test_what_hosts_must_carry() -> None:
    """Their own ports; of others those of the VPCs they carry. A host without a port carries nothing."""
    wanted = expected(ROWS, {"network": VNI}, HOSTS)
    own = frozenset({"a"})
    assert wanted["host-1"] == Carried(own, own, {A: MAC_A}, {B: (MAC_B, HOSTS[1].ip)})
    assert wanted["host-3"] == Carried(frozenset(), frozenset(), {}, {})


@pytest.mark.parametrize(
    ("changes", "missing", "stale"),
    [
        ({}, 0, 0),
        ({"ports": frozenset()}, 1, 0),
        ({"namespaces": frozenset()}, 1, 0),
        ({"local": {}}, 1, 0),
        ({"remote": {}}, 1, 0),
        ({"ports": frozenset({"a", "ghost"})}, 0, 1),
        ({"namespaces": frozenset({"a", "ghost"})}, 0, 1),
        ({"local": {A: MAC_A, GHOST: MAC_B}}, 0, 1),
        ({"local": {A: MAC_B}}, 0, 1),
        ({"remote": {B: (MAC_B, HOSTS[1].ip), GHOST: (MAC_B, HOSTS[1].ip)}}, 0, 1),
        ({"remote": {B: (MAC_B, HOSTS[2].ip)}}, 0, 1),
    ],
)
def test_anything_else_is_found(changes: dict[str, Any], missing: int, stale: int) -> None:
    """Absent, left over, or of before a move."""
    wanted = expected(ROWS, {"network": VNI}, HOSTS)["host-1"]
    assert tuple(map(len, compare("host-1", wanted, wanted._replace(**changes)))) == (missing, stale)


class Region:
    """An API of ports and one tight subnet, which may lose addresses, or give the same one twice."""

    def __init__(self, rows: dict[str, Resource]) -> None:
        self.rows = dict(rows)
        self.on_demand = False
        self.lost = 0
        self.twice = 0
        self._number = 0

    def pages(self, resource: str, **query: str) -> Iterator[Resource]:
        if resource == "networks":
            return iter([{"id": "network", "provider:segmentation_id": VNI, "on_demand": self.on_demand}])
        return iter(list(self.rows.values()))

    def create_many(self, _: str, bodies: list[Resource]) -> list[Resource]:
        held = sum(one["fixed_ips"][0]["subnet_id"] == "tight" for one in self.rows.values())
        if held + len(bodies) > SIZE - self.lost + self.twice:
            raise ApiError(409, "IpAddressGenerationFailure")
        made = []
        for body in bodies:
            self._number += 1
            port = f"filled-{self._number}"
            made.append(row(port, "", "10.9.0.2", "02:00:00:00:00:09", name=body["name"], fixed_ips=body["fixed_ips"]))
        self.rows.update({one["id"]: one for one in made})
        return made

    def delete(self, _: str, identifier: str) -> None:
        del self.rows[identifier]


class Kernel:
    """What hosts carry: as they must, but for what is planted."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.planted: dict[str, dict[str, Any]] = {}

    def read(self, host: Machine) -> Carried:
        right = expected(self.region.rows, {"network": VNI}, HOSTS)[host.name]
        return right._replace(**self.planted.get(host.name, {}))


class World:
    """An auditor with everything that it looks at."""

    def __init__(self, directory: Path) -> None:
        self.region = Region(ROWS)
        self.kernel = Kernel(self.region)
        self.ledger = Ledger()
        self.ledger.created(list(ROWS.values()))
        self.auditor = Auditor(
            cast(Client, self.region), self.ledger, HOSTS, cast(Reader, self.kernel), directory / "alcor.db", TIGHT
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    sqlite3.connect(tmp_path / "alcor.db").close()
    monkeypatch.setattr("alcor.lab.audit.check_connection", lambda _: [])
    return World(tmp_path)


def test_a_whole_lab_is_clean(world: World) -> None:
    """No finding, no leak, and what was filled to look for leaks is gone again."""
    assert world.auditor.look() == Findings()
    assert world.auditor.leaks() == ()
    assert world.region.rows == ROWS


def test_a_planted_stale_endpoint_is_found(world: World) -> None:
    """On the very host, with the VNI."""
    world.kernel.planted["host-3"] = {"remote": {GHOST: (MAC_A, HOSTS[0].ip)}}
    assert world.auditor.look().stale == (f"host-3 has a stale remote endpoint of VNI {VNI}",)


def test_what_is_learnt_on_demand_must_be_true(world: World) -> None:
    """A host need not know an address, and may know that nobody has it; but not that somebody is where he is not."""
    world.region.on_demand = True
    for learnt, stale in (
        ({}, 0),
        ({B: (MAC_B, HOSTS[1].ip), GHOST: NOBODY}, 0),
        ({B: NOBODY}, 1),
        ({B: (MAC_B, HOSTS[2].ip)}, 1),
        ({GHOST: (MAC_A, HOSTS[0].ip)}, 1),
    ):
        world.kernel.planted["host-1"] = {"remote": learnt}
        found = world.auditor.look()
        assert (len(found.missing), len(found.stale)) == (0, stale)
        assert world.auditor.carried()[0].remote == {}


def test_a_port_that_no_host_carries_is_found(world: World) -> None:
    """Although the API says ACTIVE."""
    world.kernel.planted["host-2"] = {"ports": frozenset()}
    assert world.auditor.look().missing == ("host-2 does not carry port b",)


def test_a_port_that_is_not_active_is_found(world: World) -> None:
    """With its reason."""
    world.region.rows["a"] = {**ROWS["a"], "status": "DOWN", "binding:vif_details": {"error": "no room"}}
    assert world.auditor.look().unsettled == ("a on host-1 is DOWN (no room)",)


def test_a_lost_port_and_one_that_came_back_are_found(world: World) -> None:
    """Acknowledged and gone; deleted and there."""
    del world.region.rows["b"]
    world.region.rows["c"] = row("c", "host-1", "10.0.0.4", "02:00:00:00:00:03")
    found = world.auditor.look()
    assert (len(found.lost), len(found.stale)) == (1, 1)
    assert not found.clean


@pytest.mark.parametrize(("fault", "words"), [("lost", "are not to be had"), ("twice", "could be had")])
def test_a_leaked_address_is_found(world: World, fault: str, words: str) -> None:
    """One that nobody has and nobody can get; and one too many, which then two have."""
    setattr(world.region, fault, 1)
    (found,) = world.auditor.leaks()
    assert words in found


def test_what_is_left_of_an_earlier_look_for_leaks_goes(world: World) -> None:
    """It is no leak."""
    left = {"name": f"{FILL}3", "fixed_ips": [{"subnet_id": "tight", "ip_address": "10.9.0.3"}]}
    world.region.rows["left"] = row("left", "", "10.9.0.3", "02:00:00:00:00:08", **left)
    assert world.auditor.leaks() == ()
    assert world.region.rows == ROWS


def test_a_broken_store_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own rules."""
    monkeypatch.setattr("alcor.lab.audit.check_connection", lambda _: ["address 10.9.0.2 is held by nobody"])
    assert world.auditor.leaks() == ("address 10.9.0.2 is held by nobody",)


def test_which_pings_a_fault_may_cost() -> None:
    """A cut: those between two struck hosts. A loss: those of a struck host. Anything else: none."""

    def nothing(*_: object) -> Struck:
        return Struck(lambda: None)

    def cuts(*, severs: bool = False, loses: bool = False, isolates: bool = False) -> list[bool]:
        kind = Kind(name="k", strike=nothing, severs=severs, loses=loses, isolates=isolates)
        planned = Planned(kind, ("one", "two"), 1.0)
        return [planned.cuts("one", "two"), planned.cuts("one", "three"), planned.cuts("three", "four")]

    assert cuts() == [False, False, False]
    assert cuts(severs=True) == [True, False, False]
    assert cuts(loses=True) == [True, True, False]
    assert cuts(isolates=True) == [True, True, False]


def test_between_whom_no_packet_may_get_through() -> None:
    """Two hosts that are cut from each other; one that is cut off, and every other."""

    def severed(victims: tuple[str, ...], *, severs: bool = False, isolates: bool = False) -> list[tuple[str, str]]:
        kind = Kind(name="k", strike=lambda *_: Struck(lambda: None), severs=severs, isolates=isolates)
        return Planned(kind, victims, 1.0).severed(["one", "two", "three"])

    assert severed(("one", "two")) == []
    assert severed(("two", "one"), severs=True) == [("two", "one")]
    assert severed(("two",), isolates=True) == [("two", "one"), ("two", "three")]
