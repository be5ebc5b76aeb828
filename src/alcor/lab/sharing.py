"""A router's shared address, proved with real packets: containers without a floating IP on two hosts, and the world.
Called by outside, with its scene.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from alcor.dataplane.kernel import netns
from alcor.lab.client import Client
from alcor.lab.pings import Ping, ping_all
from alcor.lab.results import Proof
from alcor.lab.topology import FAR_AWAY, WORLD
from alcor.lab.transfers import echo
from alcor.model.addresses import format_ip
from alcor.model.blocks import BLOCK_PORTS

TRANSFER_BYTES = 4 << 20
PATIENCE_S, SILENCE_S = 5.0, 1.0
WARM_UP_S = 10.0


class Heard(NamedTuple):
    """What the world heard of a container, and the container of the world."""

    source: str
    port: int
    answer: bytes
    unasked: bytes
    """From a port of the world that it did not speak to."""


def prove(client: Client, router_id: str, world: Path, containers: Sequence[Path]) -> list[Proof]:
    """The containers are on two hosts and have no floating IP; sharing is switched on for it, and off again."""
    where = f"/v2.0/routers/{router_id}"
    gateway = client.get(where)["router"]["external_gateway_info"]
    on = {"external_gateway_info": {**_asked(gateway), "enable_snat": True}}
    client.request("PUT", where, {"router": on})
    try:
        ip = gateway["external_fixed_ips"][0]["ip_address"]
        # Hosts hear of their blocks a moment after the API has answered.
        ping_all([Ping(source=one, target=format_ip(WORLD)) for one in containers], timeout_s=WARM_UP_S, resend_s=0.1)
        heard = _talk(world, containers)
        return [_reach(containers), _share(heard, ip), _unasked(heard), _transfer(world, containers)]
    finally:
        client.request("PUT", where, {"router": {"external_gateway_info": _asked(gateway)}})


def _asked(gateway: dict[str, object]) -> dict[str, object]:
    """What to ask for to have that gateway."""
    return {name: value for name, value in gateway.items() if not name.startswith("alcor:")}


def _reach(containers: Sequence[Path]) -> Proof:
    targets = format_ip(WORLD), format_ip(FAR_AWAY)
    asked = [Ping(source=one, target=target) for one in containers for target in targets]
    answered = sum(one.answered for one in ping_all(asked))
    return Proof(
        name="ports without a floating IP reach the world",
        expectation="its router, and what is behind it, from two hosts at once",
        measured=f"{answered}/{len(asked)} answered",
        passed=answered == len(asked),
    )


def _share(heard: Sequence[Heard], ip: str) -> Proof:
    blocks = {one.port // BLOCK_PORTS for one in heard}
    sources = {one.source for one in heard}
    told = [one.answer for one in heard] == [b"answer"] * len(heard)
    return Proof(
        name="two hosts share their router's address",
        expectation="the world sees one address, and ports of another block from each host; each hears its answer",
        measured=f"{len(sources)} address, {len(blocks)} blocks" + ("" if told else ", an answer is missing"),
        passed=sources == {ip} and len(blocks) == len(heard) and told,
    )


def _unasked(heard: Sequence[Heard]) -> Proof:
    got, answered = sum(bool(one.unasked) for one in heard), sum(bool(one.answer) for one in heard)
    return Proof(
        name="who was not spoken to does not reach a shared address's ports",
        expectation="a datagram from another port of the world is not heard, the answer of the one that was is",
        measured=f"{got} of {len(heard)} unasked heard, {answered} of {len(heard)} answers",
        passed=not got and answered == len(heard),
    )


def _talk(world: Path, containers: Sequence[Path]) -> list[Heard]:
    """Each container says a word to a port of the world, which answers; another port there speaks first."""
    found = []
    with ExitStack() as stack:
        asked, other = [stack.enter_context(_udp(world)) for _ in range(2)]
        for one in (asked, other):
            one.bind((format_ip(WORLD), 0))
            one.settimeout(PATIENCE_S)
        speakers = [stack.enter_context(_udp(path)) for path in containers]
        for number, speaker in enumerate(speakers):
            speaker.settimeout(PATIENCE_S)
            speaker.sendto(bytes((number,)), asked.getsockname())
            source, port = asked.recvfrom(64)[1]
            other.sendto(b"unasked", (source, port))
            asked.sendto(b"answer", (source, port))
            words = [_word(speaker)]
            speaker.settimeout(SILENCE_S)
            words.append(_word(speaker))
            unasked = b"unasked" if b"unasked" in words else b""
            found.append(Heard(source, port, b"answer" if b"answer" in words else b"", unasked))
    return found


def _word(opened: socket.socket) -> bytes:
    """The next datagram; empty: none came."""
    try:
        return opened.recv(64)
    except TimeoutError:
        return b""


def _transfer(world: Path, containers: Sequence[Path]) -> Proof:
    """Both at once, to two servers of the world."""

    def one(path: Path) -> bool:
        return echo(path, world, format_ip(WORLD), TRANSFER_BYTES).equal

    with ThreadPoolExecutor(len(containers)) as pool:
        whole = sum(pool.map(one, containers))
    return Proof(
        name="TCP through a shared address",
        expectation=f"{TRANSFER_BYTES >> 20} MiB there and back from each of two hosts, at once",
        measured=f"{whole}/{len(containers)} equal",
        passed=whole == len(containers),
    )


def _udp(path: Path) -> socket.socket:
    fd = netns.open_path(path)
    try:
        return netns.call(fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    finally:
        os.close(fd)
