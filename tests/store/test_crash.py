"""Killed at any moment, a controller loses nothing that it acknowledged and gives nothing twice (promise P3).

The same database suffers KILLS times. The moment is the arrival of a random acknowledgement: the writer is then
anywhere in the next commits. A failure names the seed.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from alcor.loops.commit import Committer
from alcor.model.ids import Id, ordinal_of
from alcor.services.commands import CheckInvariants, CreatePorts, DeletePorts, PortSpec
from alcor.store.base import Query
from alcor.store.sqlite import SqliteStore

KILLS = 20
LONGEST_LIFE_S = 60
MOST_ACKNOWLEDGEMENTS = 25
VICTIM = Path(__file__).parent / "crash_writer.py"


class Ledger:
    """What was acknowledged so far, over all lives of the controller."""

    def __init__(self) -> None:
        self.alive: set[Id] = set()
        self.deleted: set[Id] = set()
        self.going: list[set[Id]] = []
        """Bulk deletions that were asked for; each happened whole or not at all."""
        self.revision = 0
        self.ordinal = 0

    def note(self, line: str) -> None:
        """One acknowledgement."""
        verb, revision, text = line.split()
        ids = {Id(bytes.fromhex(part)) for part in text.split(",")}
        if verb == "create":
            self.alive |= ids
            self.revision = max(self.revision, int(revision))
            self.ordinal = max(self.ordinal, *map(ordinal_of, ids))
        elif verb == "going":
            self.going.append(ids)
        else:
            self.alive -= ids
            self.deleted |= ids


def _live_and_die(path: Path, seed: int, ledger: Ledger) -> None:
    """One life: reads acknowledgements up to a random one, kills, and reads what was still said."""
    dice = random.Random(seed)
    victim = subprocess.Popen(
        [sys.executable, str(VICTIM), str(path), str(seed)], stdout=subprocess.PIPE, env=os.environ, text=True
    )
    assert victim.stdout is not None
    watchdog = threading.Timer(LONGEST_LIFE_S, victim.kill)
    watchdog.start()
    try:
        for _ in range(dice.randint(1, MOST_ACKNOWLEDGEMENTS)):
            line = victim.stdout.readline()
            assert line.endswith("\n"), f"seed {seed}: the writer ended by itself"
            ledger.note(line)
    finally:
        watchdog.cancel()
        victim.send_signal(signal.SIGKILL)
        rest = victim.stdout.read()
        victim.wait()
        victim.stdout.close()
    for line in rest.splitlines(keepends=True):
        if line.endswith("\n"):
            ledger.note(line)


async def _examine(path: Path, seed: int, ledger: Ledger) -> None:
    """What the next controller finds."""
    store = SqliteStore(path)
    present = {port.id: port for port in store.list_ports(Query(limit=100_000))}
    for ids in ledger.going:
        assert len(ids & present.keys()) in (0, len(ids)), f"seed {seed}: half of a bulk was deleted"
    # A deletion that was under way when the writer died was not acknowledged: it may have happened.
    lost = ledger.alive - present.keys() - set().union(*ledger.going)
    assert not lost, f"seed {seed}: lost {len(lost)} acknowledged ports"
    assert not ledger.deleted & present.keys(), f"seed {seed}: deleted ports are back"
    addresses = [(fixed.subnet_id, fixed.ip) for port in present.values() for fixed in port.fixed_ips]
    assert len(set(addresses)) == len(addresses), f"seed {seed}: an address has two owners"
    assert len({port.mac for port in present.values()}) == len(present), f"seed {seed}: a MAC has two owners"
    assert store.revision() >= ledger.revision, f"seed {seed}: the revision went back"
    assert store.last_ordinal() >= ledger.ordinal, f"seed {seed}: the ordinal went back"
    assert store.check() == [], f"seed {seed}"
    network = store.networks()[0]
    before = store.last_ordinal()
    control = Committer(store, clock=lambda: 1, entropy=os.urandom)
    control.start()
    made: Any = await control.submit(CreatePorts(specs=(PortSpec(network_id=network.id),) * 3))
    assert before < min(ordinal_of(port.id) for port in made), f"seed {seed}: an ordinal was given out twice"
    assert await control.submit(CheckInvariants()) == (), f"seed {seed}"
    await control.submit(DeletePorts(ids=tuple(port.id for port in made)))
    assert await control.submit(CheckInvariants()) == (), f"seed {seed}"
    control.close()
    store.close()
    ledger.alive &= present.keys()
    ledger.going = []


async def test_no_kill_loses_or_doubles_anything(tmp_path: Path) -> None:
    """Every acknowledged port is there, every acknowledged deletion stays, allocated == referenced, revisions and
    ordinals never go back; twenty times over."""
    seed = random.SystemRandom().randrange(1 << 30)
    ledger = Ledger()
    for life in range(KILLS):
        _live_and_die(tmp_path / "alcor.db", seed + life, ledger)
        await _examine(tmp_path / "alcor.db", seed + life, ledger)
    assert ledger.alive
    assert ledger.deleted
