"""Light traffic on the API while faults strike: ports come, move, are renamed and go. Called by campaign.

One thread, one request at a time, dice with a seed. What was acknowledged, and what may have
happened, is in the ledger.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from itertools import count

import msgspec

from alcor.lab.client import ApiError, Client, Resource
from alcor.lab.ledger import Ledger, Want
from alcor.lab.results import LabError

REQUEST_S = 2.0
"""How long a request may take before its outcome is in doubt."""
PAUSE_S = 0.06
FEW, MANY = 8, 20
"""Ports that the churn keeps about."""
JOIN_S = 30.0


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet that ports may be made in."""

    network: str
    subnet: str
    room: int
    """Ports that the churn may have there."""


class Churn:
    """See the module. Use as a context."""

    def __init__(self, api_port: int, ledger: Ledger, hosts: Sequence[str], places: Sequence[Place], seed: int) -> None:
        self._client = Client(api_port, REQUEST_S)
        self._ledger = ledger
        self._hosts = list(hosts)
        self._places = list(places)
        self._dice = random.Random(seed)
        self._numbers = count(1)
        self._mine: dict[str, Place] = {}
        self._stop = threading.Event()
        self._go = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="churn", daemon=True)
        self.refused: list[str] = []
        """What the API refused although it made sense: not more than a few."""

    def __enter__(self) -> Churn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._go.set()
        self._thread.join(JOIN_S)
        self._client.close()

    def resume(self) -> None:
        """Goes on."""
        self._idle.clear()
        self._go.set()

    def halt(self) -> None:
        """No further request; one may still be under way until `idle`."""
        self._go.clear()

    @property
    def idle(self) -> bool:
        """No request is under way, and none will be until `resume`."""
        return self._idle.is_set()

    def forget(self, there: set[str]) -> None:
        """Only these ports are still there."""
        self._mine = {port: place for port, place in self._mine.items() if port in there}

    def adopt(self, port: str, place: Place) -> None:
        """The churn may from now on move and delete this port."""
        self._mine[port] = place

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._go.is_set():
                self._idle.set()
                self._go.wait()
                continue
            self._step()
            self._stop.wait(PAUSE_S * (0.5 + self._dice.random()))
        self._idle.set()

    def _step(self) -> None:
        known = set(self._ledger.sure())
        mine = [port for port in sorted(self._mine) if port in known]
        if len(mine) < FEW or (len(mine) < MANY and self._dice.random() < 0.3):
            self._create()
            return
        port = self._dice.choice(mine)
        act = self._dice.choices((self._delete, self._move, self._rename, self._readdress), (4, 3, 1, 2))[0]
        act(port)

    def _create(self) -> None:
        counts = {place.subnet: 0 for place in self._places}
        for place in self._mine.values():
            counts[place.subnet] += 1
        place = self._dice.choice(self._places)
        number = min(self._dice.choice((1, 1, 2, 3)), place.room - counts[place.subnet])
        if number <= 0:
            return
        bodies = [body(place, self._dice.choice(self._hosts), f"churn-{next(self._numbers)}") for _ in range(number)]
        try:
            rows = self._client.create_many("ports", bodies)
        except ApiError as error:
            self._refused(error, lambda: self._ledger.perhaps_created([one["name"] for one in bodies]))
        except LabError:
            self._ledger.perhaps_created([one["name"] for one in bodies])
        else:
            self._ledger.created(rows)
            self._mine.update(dict.fromkeys((row["id"] for row in rows), place))

    def _delete(self, port: str) -> None:
        self._mine.pop(port, None)
        try:
            self._client.delete("ports", port)
        except ApiError as error:
            self._refused(error, lambda: self._ledger.perhaps_deleted(port))
        except LabError:
            self._ledger.perhaps_deleted(port)
        else:
            self._ledger.deleted(port)

    def _move(self, port: str) -> None:
        want = self._ledger.want(port)
        host = self._dice.choice(self._hosts)
        self._change(port, {"binding:host_id": host}, Want(host, want.ip))

    def _rename(self, port: str) -> None:
        self._change(port, {"description": f"renamed {next(self._numbers)}"}, self._ledger.want(port))

    def _readdress(self, port: str) -> None:
        want, place = self._ledger.want(port), self._mine[port]
        self._change(port, {"fixed_ips": [{"subnet_id": place.subnet}]}, Want(want.host, ""))

    def _change(self, port: str, change: Resource, want: Want) -> None:
        try:
            row = self._client.request("PUT", f"/v2.0/ports/{port}", {"port": change})["port"]
        except ApiError as error:
            self._refused(error, lambda: self._ledger.perhaps_updated(port, want))
        except LabError:
            self._ledger.perhaps_updated(port, want)
        else:
            self._ledger.updated(row)

    def _refused(self, error: ApiError, doubt: Callable[[], None]) -> None:
        """A server that is stopping or whose disk is full says so (5xx), and whether it committed is in doubt."""
        if error.status >= 500:
            doubt()
        elif len(self.refused) < 10:
            self.refused.append(str(error))


def body(place: Place, host: str, name: str) -> Resource:
    """A port to ask for."""
    return {
        "network_id": place.network,
        "name": name,
        "binding:host_id": host,
        "device_owner": "container:lab",
        "fixed_ips": [{"subnet_id": place.subnet}],
    }
