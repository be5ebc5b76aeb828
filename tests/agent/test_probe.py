"""Probing peers: three questions without an answer make a peer silent; one answer, or a refusal, tells at once."""

import asyncio
import socket
from collections.abc import Iterable

import pytest

from alcor.agent.probe import MAX_ANSWERS, Prober, UdpProbes
from alcor.model.addresses import parse_ip
from alcor.wire.probes import Peers, Seen, Sighting, Target, answer_to, question

B, C = Target("b", parse_ip("10.0.0.2"), 50001), Target("c", parse_ip("10.0.0.3"), 50001)


class Bench:
    """A prober, its clock, and what it sent. Fills agent.probe.Pinger."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[tuple[Target, bytes]] = []
        self.kept: list[Target] = []
        self.changes = 0
        self.numbers = 0
        self.prober = Prober(self.changed, lambda: self.now, lambda: 0.5, self.entropy)
        self.prober.pinger = self

    def changed(self) -> None:
        self.changes += 1

    def entropy(self, size: int) -> bytes:
        self.numbers += 1
        return self.numbers.to_bytes(size, "big")

    def send(self, target: Target, nonce: bytes) -> None:
        self.sent.append((target, nonce))

    def keep(self, targets: Iterable[Target]) -> None:
        self.kept = list(targets)

    def give(self, *targets: Target, partition: int = 1, interval_ms: int = 200) -> None:
        self.prober.serve(Peers(partition, 1, "a", interval_ms, targets))

    def tick(self, *, after_s: float = 0.2) -> list[tuple[Target, bytes]]:
        self.now += after_s
        self.sent = []
        self.prober.tick()
        return self.sent

    def seen(self, partition: int = 1) -> dict[str, Seen]:
        return dict(self.prober.sightings(partition))


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_peer_is_silent_after_three_questions(bench: Bench) -> None:
    """Told once; an answer, even a late one, makes it reached again."""
    bench.give(B)
    ((_, first),) = bench.tick()
    assert bench.seen() == {}
    bench.prober.answered(B, first)
    assert (bench.seen(), bench.changes) == ({"b": Seen.REACHED}, 1)
    bench.tick()
    bench.tick()
    bench.tick()
    assert bench.seen() == {"b": Seen.REACHED}
    ((_, last),) = bench.tick()
    assert (bench.seen(), bench.changes) == ({"b": Seen.SILENT}, 2)
    bench.tick()
    bench.tick()
    assert bench.changes == 2
    bench.prober.answered(B, last)
    assert (bench.seen(), bench.changes) == ({"b": Seen.REACHED}, 3)


async def test_a_refusal_tells_the_machine_from_its_agent(bench: Bench) -> None:
    """Nobody listens, and somebody says so."""
    bench.give(B)
    bench.prober.refused(B)
    assert bench.seen() == {}  # nothing was asked yet
    bench.tick()
    bench.prober.refused(B)
    assert bench.seen() == {"b": Seen.REFUSED}


async def test_what_was_not_asked_is_no_answer(bench: Bench) -> None:
    """A nonce that was never sent, or to another, or by nobody's peer."""
    bench.give(B, C)
    (_, nonce_of_b), _ = bench.tick()
    bench.prober.answered(B, b"guessed!")
    bench.prober.answered(C, nonce_of_b)
    bench.prober.answered(Target("d", C.ip, 1), nonce_of_b)
    bench.prober.refused(Target("d", C.ip, 1))
    assert (bench.seen(), bench.changes) == ({}, 0)


async def test_a_process_that_stood_still_blames_nobody(bench: Bench) -> None:
    """Answers may be there and not yet read."""
    bench.give(B)
    bench.tick()
    for _ in range(10):
        bench.tick(after_s=0.5)
    assert bench.seen() == {}


async def test_peers_change(bench: Bench) -> None:
    """What is known of those that stay is kept; each partition is told of its own; none is told of nothing."""
    bench.give(B)
    ((_, nonce),) = bench.tick()
    bench.prober.answered(B, nonce)
    bench.give(C, partition=2)
    bench.give(B, C)
    assert bench.kept == [B, C]
    assert {target for target, _ in bench.tick()} == {B, C}
    assert (bench.seen(1), bench.seen(2)) == ({"b": Seen.REACHED}, {})
    bench.prober.gone(1)
    assert (bench.seen(1), bench.kept) == ({}, [C])
    bench.prober.gone(2)
    assert bench.tick() == []


# ---- datagrams ----


async def until(true: "asyncio.Event", seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        await true.wait()


async def test_two_hosts_see_each_other() -> None:
    """Over real sockets: reached while it listens, refused when it does not."""
    turned = asyncio.Event()
    loop = asyncio.get_running_loop()
    asker = Prober(turned.set, loop.time, lambda: 0.5)
    asked = Prober(lambda: None, loop.time, lambda: 0.5)
    port = free_port()
    mine, theirs = UdpProbes(asker, "127.0.0.1", 0), UdpProbes(asked, "127.0.0.1", port)
    asker.pinger = mine
    asker.serve(Peers(1, 1, "a", 20, (Target("b", parse_ip("127.0.0.1"), port),)))
    probing = asyncio.create_task(asker.run())
    try:
        await until(turned)
        assert asker.sightings(1) == (Sighting("b", Seen.REACHED),)
        turned.clear()
        theirs.close()
        await until(turned)
        assert asker.sightings(1) == (Sighting("b", Seen.REFUSED),)
    finally:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        mine.close()


async def test_only_questions_are_answered_and_not_too_many() -> None:
    """With as many bytes as came; what is no question gets nothing; in a second at most MAX_ANSWERS."""
    prober = Prober(lambda: None, lambda: 0.0, lambda: 0.5)
    port = free_port()
    probes = UdpProbes(prober, "127.0.0.1", port)
    loop = asyncio.get_running_loop()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setblocking(False)
            asking.connect(("127.0.0.1", port))
            await loop.sock_sendall(asking, b"x" * 24)
            await loop.sock_sendall(asking, question(b"12345678") + b"x")
            await loop.sock_sendall(asking, question(b"12345678"))
            async with asyncio.timeout(5.0):
                assert await loop.sock_recv(asking, 100) == answer_to(question(b"12345678"))
            probes._second, probes._answers = int(loop.time()) + 1, MAX_ANSWERS
            probes._loop = _Later(loop)  # type: ignore[assignment]
            await loop.sock_sendall(asking, question(b"12345678"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await loop.sock_recv(asking, 100)
            probes._loop = loop
    finally:
        probes.close()


class _Later:
    """A loop whose clock stands in the next second."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._second = int(loop.time()) + 1

    def time(self) -> float:
        return self._second + 0.5


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
