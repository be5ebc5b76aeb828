"""The benches of the data plane run end to end on little traffic and leave nothing. No timing is judged."""

import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from alcor.bench import lb, nat, policy, qos, routing, traffic
from alcor.bench.rounds import ANSWER, CONNECTION, PACKET, Way
from alcor.dataplane.base import DataPlaneError

privileged = pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: the benchmark drives the real kernel; run as root")


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Few packets, few connections. Where the bench makes what it needs."""
    for name, value in {"CHUNKS": 2, "PER_CHUNK": 16, "CONNECTION_CHUNKS": 2, "CONNECTIONS_A_CHUNK": 3}.items():
        monkeypatch.setattr(traffic, name, value)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "run"


def check_run(found: Any, ways: tuple[Way, ...], run_dir: Path, *, goals: int) -> None:
    """Every way has all its figures for the one round; the result is JSON; nothing is left."""
    for way in ways:
        for cost in way.costs.values():
            assert 1 == len(cost.rounds_ns)
            assert cost.median_ns > 0
    assert goals == len(found.goals)
    assert found == msgspec.json.decode(msgspec.json.encode(found), type=type(found))
    assert str(run_dir) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert [] == [path for path in run_dir.glob("*") if path.is_dir()]
    assert [] == list((run_dir.parent / "temporary").iterdir())


@pytest.mark.parametrize("bench", [nat, policy, qos, routing, lb])
def test_no_rounds_are_refused(bench: Any, tmp_path: Path) -> None:
    """Before anything is made."""
    with pytest.raises(DataPlaneError, match=r"root|rounds must be at least 1"):
        bench.run(0, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.privileged
@privileged
def test_nat(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The overlay, EIP to EIP with few and many of them, and from a shared address."""
    monkeypatch.setattr(nat, "MANY", 12)
    found = nat.run(1, None, little)
    assert [{PACKET, ANSWER}] * 4 == [way.costs.keys() for way in found.ways]
    check_run(found, found.ways, little, goals=5)


@pytest.mark.privileged
@privileged
def test_policy(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet and a connection with rules and without, and beside bridge + VXLAN + nftables."""
    monkeypatch.setattr(policy, "ENDPOINTS", 50)
    monkeypatch.setattr(policy, "RULES", (10, 100, 200))
    found = policy.run(1, None, little)
    assert [{PACKET, CONNECTION}] * 6 == [way.costs.keys() for way in found.ways]
    check_run(found, found.ways, little, goals=4)


@pytest.mark.privileged
@privileged
def test_qos(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream each way through a limit of a port and of a floating IP, and what marks and queues cost a packet."""
    monkeypatch.setattr(qos, "STREAM_MS", 200)
    found = qos.run(1, None, little, rates=(100_000,))
    wanted = [(of, direction) for of in ("port", "floating IP") for direction in ("egress", "ingress")]
    assert wanted == [(rate.of, rate.direction) for rate in found.rates]
    assert 4 == len(found.ways)
    check_run(found, found.ways, little, goals=7)


@pytest.mark.privileged
@privileged
def test_routing(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Straight and through the router, by Alcor and by Linux; and a router that an agent takes in."""
    monkeypatch.setattr(routing, "MANY", 30)
    found = routing.run(1, None, little)
    assert [{PACKET, ANSWER}] * 5 == [way.costs.keys() for way in found.ways]
    assert 3 == len(found.programmed_s)
    check_run(found, found.ways, little, goals=3)


@pytest.mark.privileged
@privileged
def test_lb(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Alcor's load balancer with few and many members, by nftables and by HAProxy."""
    monkeypatch.setattr(lb, "MANY", 30)
    found = lb.run(1, None, little)
    way = {PACKET, ANSWER}
    expected = [{*way, CONNECTION}, way, {*way, CONNECTION}, way, {*way, CONNECTION}, {*way, CONNECTION}, {CONNECTION}]
    assert expected == [set(one.costs) for one in found.ways]
    assert found.haproxy
    check_run(found, found.ways, little, goals=5)
