"""Agent and standby as real processes of one host: the standby serves while the agent is dead or hung, and yields."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.bus.servers import free_port
from tests.paths.test_fast import Recorder

from alcor.goalstate.objects import HOST_SCOPE, PortAddress, PortGoal, ScopeUpdate, SubnetGoal, VpcGoal
from alcor.kit import pki
from alcor.kit.backoff import Backoff
from alcor.model.addresses import Mac, Prefix, parse_ip
from alcor.model.ids import Id
from alcor.model.nouns import Node, PortKind
from alcor.paths.base import Parcel, PathName, Session
from alcor.paths.delivery import Delivery, DeliveryLimits
from alcor.paths.fast import GrpcDialer
from alcor.paths.ladder import LadderLimits
from alcor.paths.link import CONTROLLER, load_credentials
from alcor.wire.codec import encode_part
from alcor.wire.reports import Ack, Hello

HOST = "host-a"
VPC, SUBNET = Id(bytes(15) + b"\1"), Id(bytes(15) + b"\2")


class Listener(Recorder):
    """Keeps what the host said, and answers every Hello with nothing, so that offers are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.hellos: list[Hello] = []
        self.carried: set[Id] = set()

    def greeted(self, session: Session, hello: Hello) -> None:
        self.hellos.append(hello)
        super().greeted(session, hello)

    def acknowledged(self, session: Session, ack: Ack) -> None:
        self.carried |= {port.id for port in ack.ports if not port.error and not port.deleted}
        super().acknowledged(session, ack)


class Machine:
    """A host's two processes, with the fake driver, and a controller that keeps a session with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.events = Listener()
        pki.make_ca(directory / "ca")
        pki.issue(directory / "ca", directory / "tls", HOST, role="agent")
        pki.issue(directory / "ca", directory / "controller", "controller-1", role=CONTROLLER)
        (directory / "agent.toml").write_text(
            f'host = "{HOST}"\nlisten = "127.0.0.1:{self.port}"\nstate_dir = "{directory / "state"}"\n'
            f'tls_dir = "{directory / "tls"}"\ndriver = "fake"\nunderlay_ip = "127.0.0.1"\nvxlan_port = {free_port()}\n'
            "heartbeat_s = 0.1\nstandby_dead_s = 0.2\nstandby_hung_s = 1.0\n"
        )
        credentials = load_credentials(directory / "controller", CONTROLLER)
        self.delivery = Delivery(
            partition=1,
            epoch=1,
            dialers={PathName.FAST: GrpcDialer(partition=1, epoch=1, credentials=credentials)},
            events=self.events,
            roll=random.random,
            limits=DeliveryLimits(ladder=LadderLimits(backoff=Backoff(first_s=0.02, cap_s=0.2))),
        )
        self.events.path = self.delivery
        self.ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        """Where processes say that they are ready, as systemd would have it."""
        self.ready.bind(str(directory / "notify"))
        self.ready.settimeout(20)

    def start(self, name: str) -> None:
        """`agent` or `standby`."""
        flags = ["--standby"] if name == "standby" else []
        with (self.directory / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-c", "from alcor.roles.main import main; main()", "agent"]
            config = ["--config", str(self.directory / "agent.toml")]
            environment = os.environ | {"NOTIFY_SOCKET": str(self.directory / "notify")}
            self.processes[name] = subprocess.Popen(
                [*command, *config, *flags], stdout=log, stderr=log, env=environment
            )

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def offer_port(self, number: int) -> Id:
        """Asks the host to carry a port; answers its id."""
        identifier = Id(number.to_bytes(16, "big"))
        goal = PortGoal(
            identifier,
            number,
            VPC,
            Mac(b"\x02" + number.to_bytes(5, "big")),
            (PortAddress(parse_ip(f"10.0.0.{number % 200 + 2}"), SUBNET),),
            True,
            PortKind.TAP,
            "",
            "",
        )
        vpc = ScopeUpdate(
            scope=VPC,
            revision=1,
            snapshot=True,
            objects=(
                VpcGoal(VPC, 1, 77, 1450, True, True),
                SubnetGoal(SUBNET, 1, Prefix(parse_ip("10.0.0.0"), 24, 4), parse_ip("10.0.0.1")),
            ),
        )
        host = ScopeUpdate(scope=HOST_SCOPE, revision=number, snapshot=False, objects=(goal,))
        parcels = [Parcel(HOST_SCOPE, encode_part(host), False), Parcel(VPC, encode_part(vpc), True)]
        self.delivery.offer(HOST, parcels)
        return identifier

    async def until_served(self, *, standby: bool, since: int) -> None:
        """A session is there with whom is meant, made after `since` Hellos."""
        await self.events.until(
            lambda: (
                len(self.events.hellos) > since
                and self.events.hellos[-1].standby is standby
                and self.delivery.listening(HOST)
            )
        )

    async def until_carried(self, port: Id) -> None:
        await self.events.until(lambda: port in self.events.carried)


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path)
    task = asyncio.create_task(machine.delivery.run())
    node = Node(
        id=Id(bytes(16)),
        name=HOST,
        underlay_ip=parse_ip("127.0.0.1"),
        agent_host="127.0.0.1",
        agent_port=machine.port,
        created_at=0,
        updated_at=0,
        revision=1,
    )
    machine.delivery.connect(node)
    try:
        yield machine
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for name in list(machine.processes):
            machine.kill(name)
        machine.ready.close()


async def test_the_standby_serves_while_the_agent_is_dead_and_yields(machine: Machine) -> None:
    """SIGKILL: the standby takes the host over, with everything it carried, and carries more; a new agent gets it all
    back. Nothing is lost on the way."""
    machine.start("agent")
    await machine.until_served(standby=False, since=0)
    machine.start("standby")
    first = machine.offer_port(2)
    await machine.until_carried(first)

    seen = len(machine.events.hellos)
    machine.kill("agent")
    await machine.until_served(standby=True, since=seen)
    assert {held.scope for held in machine.events.hellos[-1].scopes} == {HOST_SCOPE, VPC}, "the journal is shared"
    second = machine.offer_port(3)
    await machine.until_carried(second)

    seen = len(machine.events.hellos)
    machine.start("agent")
    await machine.until_served(standby=False, since=seen)
    third = machine.offer_port(4)
    await machine.until_carried(third)
    assert machine.processes["standby"].poll() is None, "it waits for the next time"

    seen = len(machine.events.hellos)
    machine.kill("agent")
    await machine.until_served(standby=True, since=seen)


async def test_a_hung_agent_is_ended_before_its_place_is_taken(machine: Machine) -> None:
    """SIGSTOP: it holds the lock and answers nobody. Two that program one host would be worse than none."""
    machine.start("agent")
    await machine.until_served(standby=False, since=0)
    machine.start("standby")
    await asyncio.sleep(0.3)
    seen = len(machine.events.hellos)
    os.kill(machine.processes["agent"].pid, signal.SIGSTOP)
    await machine.until_served(standby=True, since=seen)
    assert machine.processes["agent"].wait(5) == -signal.SIGKILL
    port = machine.offer_port(2)
    await machine.until_carried(port)


async def test_an_agent_that_hangs_before_its_turn_is_ended_too(machine: Machine) -> None:
    """It has claimed its turn, the standby has yielded, and it never takes it: SIGSTOP in that moment."""
    machine.directory.joinpath("state").mkdir()
    holder = (
        "import fcntl, os, pathlib, sys, time; claim = open(sys.argv[1], 'w+');"
        "fcntl.flock(claim, fcntl.LOCK_EX);"
        "started = pathlib.Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19];"
        "claim.write(f'{os.getpid()} {started}'); claim.flush(); time.sleep(60)"
    )
    command = [sys.executable, "-c", holder, str(machine.directory / "state" / "claim")]
    machine.processes["agent"] = subprocess.Popen(command)
    machine.start("standby")
    await machine.until_served(standby=True, since=0)
    assert machine.processes["agent"].wait(5) == -signal.SIGKILL


async def test_a_standby_that_hangs_while_it_serves_is_ended(machine: Machine) -> None:
    """The agent that comes back waits for its place, but not for ever."""
    machine.start("agent")
    await machine.until_served(standby=False, since=0)
    machine.start("standby")
    await asyncio.sleep(0.3)
    seen = len(machine.events.hellos)
    machine.kill("agent")
    await machine.until_served(standby=True, since=seen)
    os.kill(machine.processes["standby"].pid, signal.SIGSTOP)
    seen = len(machine.events.hellos)
    machine.start("agent")
    await machine.until_served(standby=False, since=seen)
    assert machine.processes["standby"].wait(5) == -signal.SIGKILL


async def test_a_standby_without_work_ends_when_told(machine: Machine) -> None:
    """SIGTERM ends it at once, whether it waits or serves, with code 0."""
    machine.start("agent")
    await machine.until_served(standby=False, since=0)
    assert await asyncio.to_thread(machine.ready.recv, 64) == b"READY=1"
    machine.start("standby")
    assert await asyncio.to_thread(machine.ready.recv, 64) == b"READY=1"
    machine.processes["standby"].terminate()
    assert await asyncio.to_thread(machine.processes.pop("standby").wait, 10) == 0
    machine.kill("agent")
    seen = len(machine.events.hellos)
    machine.start("standby")
    await machine.until_served(standby=True, since=seen)
    machine.processes["standby"].terminate()
    assert await asyncio.to_thread(machine.processes.pop("standby").wait, 10) == 0
