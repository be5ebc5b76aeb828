"""What hosts are told of VPCs on demand without having asked: where the packets come from that they will answer."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest
from tests.services.world import World

from alcor.loops import answer as answering
from alcor.loops.answer import Answers
from alcor.loops.views import Views
from alcor.model.addresses import Ip, Prefix, link_local, parse_ip
from alcor.model.nouns import Claim, Port
from alcor.paths.base import Path
from alcor.services.commands import AddressPairSpec, ClaimReport, RecordClaims
from alcor.wire.lookups import Answer, Found, Lookup, Wanted

VIP, NOBODY = parse_ip("10.0.0.100"), parse_ip("10.0.0.200")
A, B = "host-a", "host-b"


class Line:
    """Fills what Answers calls of paths.base.Path: takes answers."""

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.told: list[tuple[str, Answer]] = []

    def listening(self, host: str) -> bool:
        return host not in self.away

    def answer(self, host: str, answers: Sequence[Answer]) -> None:
        self.told += [(host, one) for one in answers]


class Cloud(World):
    """A VPC on demand with ports on two hosts, and who answers."""

    def __init__(self) -> None:
        super().__init__()
        for number, name in enumerate((A, B), 1):
            self.node(name, f"172.16.0.{number}")
        self.vpc = self.network(cidr="10.0.0.0/16")
        self.subnet(self.vpc, "10.0.0.0/24")
        pair = AddressPairSpec(prefix=Prefix(VIP, 32))
        self.a, self.b, self.near = (
            self.port(self.vpc, host=host, address_pairs=pairs) for host, pairs in ((A, (pair,)), (B, ()), (A, ()))
        )
        self.line = Line()
        self.serve()

    def serve(self) -> None:
        """A controller's life begins."""
        self.views = Views(self.store)
        self.views.on_demand.add(self.vpc.id)
        self.answers = Answers(self.store, self.views)

    async def ask(self, host: str, ips: Sequence[Ip], sources: Sequence[Ip] = ()) -> list[tuple[str, Answer]]:
        """The hints that the question brings about."""
        self.line.told.clear()
        lookup = Lookup((Wanted(self.vpc.id, tuple(ips), (), tuple(sources)),))
        self.answers.asked(cast(Path, self.line), host, lookup)
        await asyncio.sleep(0)
        assert host in [name for name, one in self.line.told if not one.unasked]
        return [(name, one) for name, one in self.line.told if one.unasked]

    def hint(self, port: Port, ip: Ip | None = None) -> Answer:
        """Where the port is, as a hint."""
        underlay = {node.name: node.underlay_ip for node in self.store.nodes()}[port.host]
        found = Found(ip or own(port), port.mac, underlay, port.identity)
        return Answer(self.vpc.id, self.views.revision, (found,), unasked=True)


def own(port: Port) -> Ip:
    return port.fixed_ips[0].ip


async def test_who_is_asked_about_is_told_who_asks() -> None:
    """Its host alone, and as of the last published commit."""
    cloud = Cloud()
    assert [(B, cloud.hint(cloud.a))] == await cloud.ask(A, [own(cloud.b)], [own(cloud.a)])


async def test_a_claimed_address_asks_too() -> None:
    """The source may be any address that the port has now: here one of its pairs."""
    cloud = Cloud()
    cloud.do(RecordClaims(reports=(ClaimReport(cloud.a.id, cloud.vpc.id, A, Claim(VIP, cloud.a.mac)),)))
    cloud.serve()
    assert [(B, cloud.hint(cloud.a, VIP))] == await cloud.ask(A, [own(cloud.b)], [VIP])


async def test_a_host_speaks_of_its_own_ports_only() -> None:
    """A source that is at another host, or nobody's, or unsaid, is told to nobody."""
    cloud = Cloud()
    for source in (own(cloud.b), NOBODY, Ip(bytes(16)), parse_ip("192.0.2.1"), link_local(cloud.a.mac)):
        assert [] == await cloud.ask(A, [own(cloud.b)], [source])
    assert [] == await cloud.ask(B, [own(cloud.near)], [own(cloud.a)])
    assert [] == await cloud.ask(A, [own(cloud.b)])


async def test_there_is_nobody_to_tell() -> None:
    """Of an address that nobody has, or that is on the very host; and of a host that is away, or not on demand."""
    cloud = Cloud()
    assert [] == await cloud.ask(A, [NOBODY, own(cloud.near)], [own(cloud.a), own(cloud.a)])
    cloud.line.away.add(B)
    assert [] == await cloud.ask(A, [own(cloud.b)], [own(cloud.a)])
    cloud.line.away.clear()
    cloud.views.on_demand.clear()
    assert [] == await cloud.ask(A, [own(cloud.b)], [own(cloud.a)])


async def test_a_host_that_does_not_need_the_vpc_yet_is_not_told() -> None:
    """Its first port there is committed, and not yet published."""
    cloud = Cloud()
    cloud.node("host-c", "172.16.0.3")
    cloud.serve()
    first = cloud.port(cloud.vpc, host="host-c")
    assert [] == await cloud.ask(A, [own(first)], [own(cloud.a)])
    cloud.serve()
    assert [("host-c", cloud.hint(cloud.a))] == await cloud.ask(A, [own(first)], [own(cloud.a)])


async def test_a_host_that_holds_it_is_not_told() -> None:
    """It asked itself; once it has forgotten, it is told again."""
    cloud = Cloud()
    await cloud.ask(B, [own(cloud.a)])
    assert [] == await cloud.ask(A, [own(cloud.b)], [own(cloud.a)])
    forget = Lookup((Wanted(cloud.vpc.id, (), (own(cloud.a),)),))
    cloud.answers.asked(cast(Path, cloud.line), B, forget)
    assert [(B, cloud.hint(cloud.a))] == await cloud.ask(A, [own(cloud.b)], [own(cloud.a)])


async def test_a_hint_is_not_remembered() -> None:
    """Who must hear of changes is who asked: whoever keeps a hint does."""
    cloud = Cloud()
    await cloud.ask(A, [own(cloud.b)], [own(cloud.a)])
    assert 1 == cloud.answers.held


async def test_who_asks_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """While questions wait beyond those that are answered now, nobody is told unasked."""
    cloud = Cloud()
    monkeypatch.setattr(answering, "SLICE", 1)
    for wanted in (Wanted(cloud.vpc.id, (own(cloud.b),), (), (own(cloud.a),)), Wanted(cloud.vpc.id, (NOBODY,))):
        cloud.answers.asked(cast(Path, cloud.line), A, Lookup((wanted,)))
    for _ in range(2):
        await asyncio.sleep(0)
    assert [A, A] == [host for host, _ in cloud.line.told]
    assert [(B, cloud.hint(cloud.a))] == await cloud.ask(A, [own(cloud.b)], [own(cloud.a)])


async def test_nobody_is_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same hint comes once a second; and all of them have a bound."""
    cloud = Cloud()
    question = (A, [own(cloud.b)] * 3, [own(cloud.a)] * 3)
    assert [(B, cloud.hint(cloud.a))] == await cloud.ask(*question)
    assert [] == await cloud.ask(*question)
    loop = asyncio.get_running_loop()
    later = loop.time() + answering.HINTS_S
    monkeypatch.setattr(loop, "time", lambda: later)
    monkeypatch.setattr(answering, "MAX_HINTS", 1)
    assert [(B, cloud.hint(cloud.a))] == await cloud.ask(A, [own(cloud.b)] * 2, [own(cloud.a), own(cloud.near)])
