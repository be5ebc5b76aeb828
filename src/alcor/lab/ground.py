"""What faults may touch: the lab's processes, disks, clock and links, and how each is made whole again.

Called by faults and campaign. It plays the service manager, too: `tend` starts again whatever has ended, as
`Restart=always` would.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

from alcor.lab.harm import set_clock
from alcor.lab.live import LiveLab
from alcor.lab.processes import standby_of, start_server, start_standby
from alcor.lab.topology import Machine

SERVER = "server"
BUS = "nats-server"
END_S = 20.0
NEVER = 1_000_000
TAKE_OVER_S, POLL_S = 5.0, 0.01
RESTART_S = 0.5
"""Between two starts of what keeps ending."""


class Ground:
    """See the module."""

    def __init__(self, lab: LiveLab, dice: random.Random) -> None:
        self.lab = lab
        self.dice = dice
        self.processes = lab.processes
        self.hosts = lab.hosts
        self.away: set[str] = set()
        """Processes that a fault keeps down: `tend` leaves them alone."""
        self._started: dict[str, float] = {}
        self.restarts: list[str] = []
        """What ended by itself and was started again, since last asked."""
        for name in self.names():
            self.processes.may_end(name)

    def names(self) -> list[str]:
        """Every process that is to run."""
        return [SERVER, *(host.name for host in self.hosts), *(standby_of(host.name) for host in self.hosts)]

    @property
    def database(self) -> Path:
        """The server's store."""
        return self.lab.topology.controller.data_dir / "alcor.db"

    def machine(self, name: str) -> Machine:
        """The host of that name."""
        return next(host for host in self.hosts if host.name == name)

    def journal(self, host: Machine) -> Path:
        """Its agent's journal."""
        return host.data_dir / "state" / "journal"

    def displaced(self) -> tuple[str, ...]:
        """Hosts that are not served by their agent: a standby serves in its place, or nobody does (agent.turn)."""
        return tuple(host.name for host in self.hosts if not self._in_place(host))

    def _in_place(self, host: Machine) -> bool:
        return self.serves(host.name, host)

    def serves(self, name: str, host: Machine) -> bool:
        """That process, the host's agent or its standby, holds the host's lock (agent.turn)."""
        words = (host.data_dir / "state" / "lock").read_text().split()
        if not words or not self.processes.alive(name):
            return False
        return int(words[0]) == self.processes.running(name).pid

    def serves_since(self, host: Machine) -> float:
        """When whoever holds the host's lock took it, in seconds since 1970: it signs it then."""
        return (host.data_dir / "state" / "lock").stat().st_mtime

    def taken_over(self, host: Machine) -> bool:
        """The standby serves in its dead agent's place; waits for that."""
        deadline = time.monotonic() + TAKE_OVER_S
        while not self.serves(standby_of(host.name), host):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def absent(self) -> tuple[str, ...]:
        """Processes that are to run, and do not."""
        return tuple(name for name in self.names() if not self.processes.alive(name))

    def bus_pid(self) -> int:
        """Of the nats-server, which is the server's child; 0 while there is none (proc(5), task/children)."""
        if not self.processes.alive(SERVER):
            return 0
        children = Path(f"/proc/{self.processes.running(SERVER).pid}/task")
        with suppress(OSError):
            for task in children.iterdir():
                for child in (task / "children").read_text().split():
                    if Path(f"/proc/{child}/comm").read_text().strip() == BUS:
                        return int(child)
        return 0

    def signal_bus(self, number: int, pid: int = 0) -> int:
        """Sends a signal to the nats-server (if it is still that one), and answers its pid."""
        now = self.bus_pid()
        if now and pid in (0, now):
            os.kill(now, number)
        return now

    def set_clock(self, shift_ms: int) -> None:
        """Makes the server's wall clock jump. Agents read none (tests/lab/test_clocks.py)."""
        set_clock(self.lab.clock_file, shift_ms)

    def reads_clock(self) -> bool:
        """The server reads that clock: it has its file mapped (kit.clock; proc(5))."""
        if not self.processes.alive(SERVER):
            return False
        return str(self.lab.clock_file) in Path(f"/proc/{self.processes.running(SERVER).pid}/maps").read_text()

    def preload_all(self) -> None:
        """The server starts anew, and no VPC grows too large to be preloaded."""
        self.kill(SERVER, number=signal.SIGTERM)
        config = self.lab.topology.controller.data_dir / "server.toml"
        config.write_text(re.sub(r"(?m)^on_demand_above = \d+$", f"on_demand_above = {NEVER}", config.read_text()))
        self.start(SERVER)

    def kill(self, *names: str, number: int = signal.SIGKILL) -> None:
        """Ends processes at once, and keeps them down."""
        self.away.update(names)
        alive = [name for name in names if self.processes.alive(name)]
        for name in alive:
            self.processes.signal(name, number)
        for name in alive:
            self.processes.ended(name, END_S)

    def start(self, *names: str, fresh: bool = False) -> None:
        """Starts processes (again); does not wait until they answer. `fresh`: agents in a new interpreter."""
        self.away.difference_update(names)
        for name in names:
            if not self.processes.alive(name):
                self._start(name, fresh=fresh)

    def freeze(self, *names: str) -> None:
        """SIGSTOP."""
        for name in names:
            if self.processes.alive(name):
                self.processes.signal(name, signal.SIGSTOP)

    def thaw(self, *names: str) -> None:
        """SIGCONT."""
        for name in names:
            if self.processes.alive(name):
                self.processes.signal(name, signal.SIGCONT)

    def tend(self) -> None:
        """Starts what has ended by itself."""
        for name in self.names():
            fresh = time.monotonic() - self._started.get(name, 0.0) < RESTART_S
            if name not in self.away and not fresh and not self.processes.alive(name):
                self.restarts.append(name)
                self._start(name)

    def _start(self, name: str, *, fresh: bool = False) -> None:
        self._started[name] = time.monotonic()
        if name == SERVER:
            start_server(self.processes, self.lab.topology, self.lab.listener)
            return
        host = self.machine(name.removesuffix(standby_of("")))
        if name == standby_of(host.name):
            start_standby(self.processes, host)
        else:
            config = host.data_dir / "agent.toml"
            self.processes.start(name, ["agent", "--config", str(config)], netns_path=host.netns, fresh=fresh)
