"""The proofs can fail: on a network without Alcor, where nobody is kept from anything."""

from pathlib import Path

import pytest
from tests.lab.plain import MTU, bridge

from alcor.lab import proofs
from alcor.lab.pings import Ping, Stream, ping_all
from alcor.lab.proofs import World
from alcor.lab.transfers import echo

pytestmark = [pytest.mark.privileged, pytest.mark.usefixtures("needs_root")]


def test_a_plain_bridge_fails_the_negative_proofs(run_dir: Path) -> None:
    """A bridge lets spoofed frames through and counts nothing; two "VPCs" on it answer each other."""
    with bridge(run_dir, 6) as them:
        world = World(vpc=tuple(them[:4]), twin=tuple(them[4:]), mtu=MTU)
        spoofed = proofs.spoofing(world, lambda _: {})
        assert [proof.passed for proof in spoofed] == [False, False]
        assert all("25 honest arrived" in proof.measured for proof in spoofed)
        (across,) = proofs.isolation(world)
        assert (across.name, across.passed) == ("another VPC does not answer", False)


def test_a_plain_bridge_passes_what_is_plain_switching(run_dir: Path) -> None:
    """Pings around, at full size, above the MTU, to a gateway, and bulk TCP."""
    with bridge(run_dir, 3) as them:
        world = World(vpc=tuple(them), twin=(), mtu=MTU)
        done: list[int] = []
        found = {proof.name: proof.passed for proof in proofs.reachability(world, done.append)}
        assert found == {"around all hosts": True, "gateway": True, "everybody": True, "full size": True}
        assert done[-1] == proofs.count_pings(world)
        assert [proof.passed for proof in proofs.too_big(world)] == [True]
        result = echo(them[0].netns, them[1].netns, them[1].ip, 1 << 20)
        assert (result.equal, result.returned_bytes) == (True, 1 << 20)


def test_silence_is_no_answer(run_dir: Path) -> None:
    """An address that nobody has is not answered, and a stream to it loses everything."""
    with bridge(run_dir, 2) as (here, there):
        (answer,) = ping_all([Ping(source=here.netns, target="10.5.0.200")], timeout_s=0.2)
        assert not answer.answered
        lost = Stream(Ping(source=here.netns, target="10.5.0.200"), 0.01).stop(grace_s=0.1)
        assert lost.lost == lost.sent > 0
        kept = Stream(Ping(source=here.netns, target=there.ip), 0.001)
        while not kept.answered:
            pass
        assert kept.stop().lost == 0
