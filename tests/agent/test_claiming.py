"""Claiming: what a workload announces is told once, not too often; other workloads of the host hear of it."""

from tests.goalstate.histories import network_id, play
from tests.goalstate.test_delta import whole

from alcor.agent.claiming import CLAIMS_A_SECOND, Claiming, interested
from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.goalstate.snapshot import host_snapshot
from alcor.hostsvc.announcements import announcement
from alcor.model.addresses import Mac, parse_ip
from alcor.model.ids import Id
from alcor.model.nouns import Claim
from alcor.wire.reports import Ack, ClaimAck, decode_report

VIP = parse_ip("10.0.0.201")
MAC = Mac(b"\0\0\x5e\0\1\1")


class Scene:
    """Host a with two ports of a VPC, of which the first claims VIP."""

    def __init__(self) -> None:
        self.desired = Desired()
        commits = play([[("port", 0, 0, 0), ("port", 2, 0, 1), ("port", 4, 1, 2)], [("claim", 0, 0, 1)]])
        rows = commits[-1].after
        self.one, self.two = rows.of_host("a")
        updates = whole(rows, network_id(0)), host_snapshot(rows.revision, rows.of_host("a"))
        self.touched = Touched()
        self.desired.take(1, 1, updates, synced=True, touched=self.touched)
        self.said: list[tuple[int, ClaimAck]] = []
        self.now = 100.0
        self.claiming = Claiming(lambda: self.desired, self.say, lambda: self.now)

    def say(self, partition: int, report: bytes) -> bool:
        ack = decode_report(report)
        assert isinstance(ack, Ack)
        self.said += [(partition, claim) for claim in ack.claims]
        return True


def test_an_announcement_is_told_to_the_ports_controller() -> None:
    """With its VPC; one that is known already is not, nor one of a port that is not here."""
    scene = Scene()
    claim = Claim(VIP, scene.two.mac)
    scene.claiming.announced(scene.two.id, claim)
    assert [(1, ClaimAck(scene.two.id, network_id(0), claim))] == scene.said
    scene.claiming.announced(scene.one.id, scene.one.claims[0])
    scene.claiming.announced(Id(b"x" * 16), claim)
    assert 1 == len(scene.said)


def test_a_port_tells_so_many_in_a_second() -> None:
    """The others are not told; a second later it may again, and other ports may meanwhile."""
    scene = Scene()
    for number in range(20):
        scene.claiming.announced(scene.two.id, Claim(parse_ip(f"10.0.0.{number}"), MAC))
    assert CLAIMS_A_SECOND == len(scene.said)
    scene.claiming.announced(scene.one.id, Claim(VIP, scene.two.mac))
    scene.now += 1
    scene.claiming.announced(scene.two.id, Claim(VIP, MAC))
    assert CLAIMS_A_SECOND + 2 == len(scene.said)


def test_the_other_ports_of_the_host_hear_of_a_claim() -> None:
    """Whoever has it does not, nor who has no interface."""
    scene = Scene()
    (claim,) = scene.one.claims
    key = ScopeKey(1, network_id(0))
    assert {key: {VIP: claim}} == scene.touched.claims
    told = interested(scene.desired, key, [claim], {scene.one.id: 7, scene.two.id: 8}.get)
    assert [(8, announcement(claim))] == told
    assert [] == interested(scene.desired, key, [claim], {scene.one.id: 7}.get)
