"""A VPC on demand while nobody answers questions: who is known is reached, who is not is not, and counters say why.

Made by underfault, called by campaign.

A packet for an unknown address waits in the data plane's ring for the agent (docs/pipeline.md, step H). A dead agent
takes none, so the ring fills up, and from then on each is dropped and counted as `miss_limit` at the port that sent it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import count

from alcor.lab import scenario
from alcor.lab.churn import Place, body
from alcor.lab.client import Client, await_true
from alcor.lab.frames import Captures, icmp_frame, send_frames
from alcor.lab.ledger import Ledger
from alcor.lab.live import LiveLab
from alcor.lab.pings import NONCE_BYTES, Ping, Stream, ping_all
from alcor.lab.results import LabError
from alcor.lab.workloads import Workload, workloads

SPARE = 20
"""Ports above what makes a VPC large."""
SENDERS, FRAMES = 3, 900
"""Together more than the ring holds (4 MiB, 2 KiB each); of each port fewer than it may have held in a second."""
ASKED = 5
REASON, LATER = "miss_limit", ("unresolved", "no_endpoint")
"""Why a packet is dropped for which there is no room; and why one that waited: nobody answered, or nobody is there."""
INTERVAL_S = 0.01
SILENCE_S = 0.15
PATIENCE_S = 10.0
POLL_S = 0.02


class Strangers:
    """See the module."""

    def __init__(self, lab: LiveLab, ledger: Ledger, check: Callable[[], None]) -> None:
        """Makes the VPC: some ports on the first host, one on the second, and so many more, bound to no host, that it
        is on demand."""
        self._lab = lab
        self._ledger = ledger
        self._check = check
        self._numbers = count()
        self._vpc = scenario.make_vpc(lab.client, "large", lab.topology)
        self._place = Place(network=self._vpc.id, subnet=self._vpc.subnets[0], room=0)
        here, there = lab.hosts[0].name, lab.hosts[1].name
        bodies = [body(self._place, here, f"large-{number}") for number in range(SENDERS + 1)]
        bodies.append(body(self._place, there, "large-friend"))
        rows, _ = scenario.provision(lab.client, bodies, progress=lambda _: None, check=check)
        *self._senders, self._quiet, self._friend = workloads(rows, lab.hosts, self._vpc.gateways)
        unbound = [body(self._place, "", f"unbound-{number}") for number in range(lab.options.on_demand_above + SPARE)]
        more = lab.client.create_many("ports", unbound)
        ledger.created([*rows, *more])
        self.ids = tuple(row["id"] for row in (*rows, *more))
        shown = f"/v2.0/networks/{self._vpc.id}"
        await_true(
            lambda: bool(lab.client.get(shown)["network"]["on_demand"]), "a VPC on demand", PATIENCE_S, POLL_S, check
        )

    def meet(self) -> Meeting:
        """To be called while all is well: two get to know each other, a third comes of whom nobody has heard."""
        (answer,) = ping_all([Ping(source=self._quiet.netns, target=self._friend.ip)])
        if not answer.answered:
            raise LabError(f"{self._friend.ip} cannot be reached in a VPC on demand before the fault")
        client = Client(self._lab.api_port)  # the lab's own connection is to a server that was killed since
        with closing(client):
            asked = body(self._place, self._friend.host.name, "stranger")
            # An address that nobody ever asked for: of one that had a port the hosts that asked are told again.
            asked["fixed_ips"][0]["ip_address"] = self.nobody()
            rows = client.create_many("ports", [asked])
            self._ledger.created(rows)
            port = f"/v2.0/ports/{rows[0]['id']}"
            await_true(
                lambda: client.get(port)["port"]["status"] == "ACTIVE", "a stranger", PATIENCE_S, POLL_S, self._check
            )
        (stranger,) = workloads(rows, self._lab.hosts, self._vpc.gateways)
        return Meeting(self, stranger)

    def part(self, stranger: Workload) -> None:
        """The third goes."""
        with closing(Client(self._lab.api_port)) as client:
            client.delete("ports", stranger.id)
        self._ledger.deleted(stranger.id)

    def dropped(self, one: Workload, reasons: Sequence[str] = (REASON,)) -> int:
        """Packets of that port that were dropped, for these reasons."""
        counted = self._lab.dropped_of(one)
        return sum(counted.get(reason, 0) for reason in reasons)

    def nobody(self) -> str:
        """An address of the subnet that no port has, another each time.

        To a port hundreds of packets that waited would come at once; its replies, which wait for ARP, use up what the
        kernel has for the echo replies of all namespaces together.
        """
        number = next(self._numbers)
        return f"10.0.{200 + number // 250 % 50}.{1 + number % 250}"

    @property
    def roles(self) -> tuple[Sequence[Workload], Workload, Workload]:
        """Who fills the ring; who then sends a few packets; and whom he knows."""
        return self._senders, self._quiet, self._friend


class Meeting:
    """One fault's worth: `judge` while it lasts, `close` once it is recovered from."""

    def __init__(self, strangers: Strangers, stranger: Workload) -> None:
        self._strangers = strangers
        self._stranger = stranger
        _, quiet, friend = strangers.roles
        self._before = self._explained()
        self._stream = Stream(Ping(source=quiet.netns, target=friend.ip), INTERVAL_S)

    def judge(self) -> list[str]:
        """What is wrong, while nobody answers questions."""
        senders, quiet, friend = self._strangers.roles
        nonce, nobody = secrets.token_bytes(NONCE_BYTES), self._strangers.nobody()
        before = self._strangers.dropped(quiet)
        with Captures([self._stranger.netns]) as captures:
            for one in senders:
                send_frames(one.netns, [self._frame(one, nobody, nonce)] * FRAMES)
            send_frames(quiet.netns, [self._frame(quiet, self._stranger.ip, nonce)] * ASKED)
            time.sleep(SILENCE_S)
            (arrived,) = captures.count(nonce)
        counted = self._strangers.dropped(quiet) - before
        wrong = [f"{arrived} packets reached {self._stranger.ip}, of whom nobody knew where he is"] if arrived else []
        if counted < ASKED:
            wrong.append(f"{counted} of {ASKED} packets to an unknown address counted as {REASON} at their port")
        (answer,) = ping_all([Ping(source=quiet.netns, target=friend.ip)], timeout_s=SILENCE_S)
        return wrong if answer.answered else [*wrong, f"{friend.ip} was known, and does not answer"]

    def stop(self) -> list[str]:
        """Gives up: all was never well again."""
        self._stream.stop()
        return []

    def close(self) -> list[str]:
        """What is wrong once all is well again: then the third is found, by a packet that is seen to come."""
        _, quiet, friend = self._strangers.roles
        found = self._stream.stop()
        wrong = [f"{found.lost} of {found.sent} pings to {friend.ip}, who was known, lost"] if found.lost else []
        nonce = secrets.token_bytes(NONCE_BYTES)
        with Captures([self._stranger.netns]) as captures:
            ping_all([Ping(source=quiet.netns, target=self._stranger.ip, nonce=nonce)], timeout_s=PATIENCE_S)
            (arrived,) = captures.count(nonce)
        if missing := self._unexplained():
            wrong.append(f"{missing} of {SENDERS * FRAMES} packets to nobody were dropped for no reason")
        self._strangers.part(self._stranger)
        return wrong if arrived else [*wrong, f"no packet reached {self._stranger.ip} once it could be asked for"]

    def _explained(self) -> int:
        """Packets of the senders that were dropped for a reason."""
        return sum(self._strangers.dropped(one, (REASON, *LATER)) for one in self._strangers.roles[0])

    def _unexplained(self) -> int:
        """How many of those sent to nobody were not dropped for a reason, in the end."""
        deadline = time.monotonic() + PATIENCE_S
        while (missing := self._before + SENDERS * FRAMES - self._explained()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return missing

    def _frame(self, one: Workload, target: str, nonce: bytes) -> bytes:
        mac = self._stranger.mac
        return icmp_frame(source_mac=one.mac, target_mac=mac, source=one.ip, target=target, payload=nonce)
