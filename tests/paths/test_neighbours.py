"""Who probes whom: a few each, of other failure domains, and few are told when one comes or goes."""

from collections import Counter

from msgspec.structs import replace
from tests.goalstate.histories import start

from alcor.model.nouns import Node
from alcor.paths.neighbours import PEERS, WINDOW, Neighbours
from alcor.paths.probing import Probing
from alcor.wire.probes import decode_peers

SOME = next(iter(start().nodes.values()))


def node(number: int, *, zone: str = "z", domain: str = "", port: int = 50001) -> Node:
    return replace(SOME, name=f"h{number}", availability_zone=zone, failure_domain=domain, agent_port=port)


def ring(nodes: list[Node]) -> Neighbours:
    neighbours = Neighbours()
    for one in nodes:
        neighbours.put(one)
    return neighbours


def test_everybody_probes_and_is_probed_by_a_few() -> None:
    """Whatever the size of the region: three of the same zone and of other racks; nobody by more than some."""
    nodes = [node(n, zone=f"z{n % 3}", domain=f"rack-{n % 30}") for n in range(600)]
    neighbours = ring(nodes)
    by_name = {one.name: one for one in nodes}
    probed: Counter[str] = Counter()
    for one in nodes:
        peers = neighbours.peers(one.name)
        assert len({peer.name for peer in peers} - {one.name}) == PEERS
        assert all(peer.failure_domain != one.failure_domain for peer in peers)
        probed.update(peer.name for peer in peers)
    assert (
        sum(peer.availability_zone == one.availability_zone for one in nodes for peer in neighbours.peers(one.name))
        > 1780
    )
    assert probed.keys() == by_name.keys()
    assert max(probed.values()) <= 2 * PEERS


def test_small_regions() -> None:
    """Nobody probes himself; one rack alone is better than nobody."""
    assert ring([node(1)]).peers("h1") == ()
    assert [one.name for one in ring([node(1), node(2)]).peers("h1")] == ["h2"]
    assert {one.name for one in ring([node(n, domain="r") for n in range(4)]).peers("h1")} == {"h0", "h2", "h3"}
    assert ring([node(1)]).peers("h9") == ()


def test_hosts_come_and_go() -> None:
    """In any order, looked at in between or not, the ring is the same."""
    nodes = [node(n, domain=f"r{n % 4}") for n in range(40)]
    once = ring(nodes)
    again = ring(nodes[::-1])
    again.peers("h1")
    again.put(node(3, zone="elsewhere"))
    again.drop("h5")
    again.drop("nobody")
    again.put(nodes[5])
    again.put(nodes[3])
    for one in nodes:
        assert once.peers(one.name) == again.peers(one.name)
        assert len(once.before(one.name)) == WINDOW


class Told:
    """What hosts were told."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[str]] = {}
        self.count = 0

    def __call__(self, host: str, bundle: bytes) -> None:
        peers = decode_peers(bundle)
        assert (peers.host, peers.interval_ms) == (host, 200)
        self.hosts[host] = [target.host for target in peers.targets]
        self.count += 1


def test_hosts_in_session_are_told_of_their_peers() -> None:
    """When they greet, and when these change: those just before who came or went, however many there are."""
    told = Told()
    probing = Probing(1, 1, 0.2, told)
    for number in range(100):
        probing.connect(node(number))
    assert told.count == 0
    for number in range(100):
        probing.greeted(f"h{number}")
    assert told.count == 100
    gone = told.hosts["h7"][0]
    probing.disconnect(gone)
    assert told.count == 103
    assert gone not in {name for host, names in told.hosts.items() if host != gone for name in names}
    probing.connect(node(int(gone[1:])))
    assert told.count == 106
    probing.connect(node(8, port=1))  # it listens elsewhere
    assert told.count == 109
    assert probing.watches("h7", told.hosts["h7"][0])
    assert not probing.watches("h7", "h7")
    assert probing.poke("h7")
    probing.ended("h7")
    assert not probing.poke("h7")
    assert not probing.watches("h7", told.hosts["h7"][0])
    assert told.count == 110


def test_nobody_probes_where_it_is_off() -> None:
    """No message, no ring."""
    told = Told()
    probing = Probing(1, 1, 0.0, told)
    probing.connect(node(1))
    probing.connect(node(2))
    probing.greeted("h1")
    probing.disconnect("h2")
    assert (told.count, probing.poke("h1")) == (0, False)
