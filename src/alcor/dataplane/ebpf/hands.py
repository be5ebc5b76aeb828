"""Makes, changes and removes the namespaces and interfaces of many ports at once. Called by the driver.

What is sent is `wiring`'s (pure); here is when and from where. Ports go in chunks. Helper threads make the namespaces
of the next chunks (most of unshare(2) runs outside the kernel's RTNL lock) while this one gets its host side, one batch
of messages, and then its inside, by a thread that enters one namespace after another: so no other thread ever leaves
the host's. What remains is bound by RTNL (docs/rooms/wiring.md has the profile), and two threads that both need it only
spin. A port that fails is undone and explained; the others are carried.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from alcor.dataplane.base import LocalPort
from alcor.dataplane.ebpf import attaching, wiring
from alcor.dataplane.ebpf.planning import Numbers
from alcor.dataplane.ebpf.pool import Pool
from alcor.dataplane.ebpf.wiring import Step
from alcor.dataplane.kernel import links, netns
from alcor.dataplane.kernel.netlink import Ack, Netlink
from alcor.model.ids import Id
from alcor.model.nouns import PortKind

_log = logging.getLogger(__name__)

CHUNK, SMALLEST_CHUNK, CHUNKS_AT_LEAST = 64, 16, 8
"""Ports per batch: enough to fill a sendmsg, few enough that the stages overlap and descriptors stay bounded; a small
plan is cut smaller, so that its first namespaces are waited for but a moment. Every chunk costs the machine a block and
its grace periods: too small ones slow down whoever else wants RTNL."""
NAMESPACE_THREADS = 2
"""More only wait for each other (484 us a namespace with one, 252 with two, 223 with four, measured on 2 cores)."""
OWN_BLOCK_FROM = 4
"""Ports of a chunk from which they get a block of their own. Joining a block that runs a program makes the kernel wait
for an RCU grace period (synchronize_rcu_expedited under RTNL, by profile), attaching the program to a block that ports
have joined costs one for all of them."""
CHUNKS_AHEAD = 4
"""Chunks whose namespaces may be ready and waiting for the later stages."""
QUEUE_PATIENCE_S, QUEUE_POLL_S, MAX_QUEUE_POLL_S = 1.0, 0.002, 0.032
"""For the kernel's link watch, which holds events back for a second at most: of all ports that are made together."""
DELETE_GROUP_BASE = 0x41C00000
NO_FD = -1


class Job(NamedTuple):
    """A port and the index of its interface on the host."""

    port: LocalPort
    ifindex: int


class Change(NamedTuple):
    """A port as it is and as it is to be, the index of its interface on the host, whether our qdisc is on it, and
    whether all of it is as it should be."""

    old: LocalPort
    new: LocalPort
    ifindex: int
    attached: bool
    right: bool = False


Place = int | str
"""The descriptor of a port's namespace (NO_FD: it needs none), or why there is none."""


class Hands:
    """Works in the network namespace of the thread that makes it; use it from that thread only."""

    def __init__(self, netns_dir: Path, pool_size: int) -> None:
        """Starts its helper threads and the pool."""
        self._netns_dir = netns_dir
        self._home = netns.open_own()
        self._netlink = Netlink()
        self.pool = Pool(pool_size)
        self.program = NO_FD
        """The descriptor of the ports' program; set before anything is made."""
        self._patience_s = QUEUE_PATIENCE_S
        """What is left of it."""
        self.blocks = Numbers(wiring.MAIN_BLOCK + 1, wiring.LAST_BLOCK)
        self._makers = ThreadPoolExecutor(NAMESPACE_THREADS, thread_name_prefix="netns-make")
        self._inside = ThreadPoolExecutor(1, thread_name_prefix="netns-inside")

    def close(self) -> None:
        """Ends the threads. What was made stays."""
        self._makers.shutdown()
        self._inside.shutdown()
        self.pool.close()
        self._netlink.close()
        os.close(self._home)

    @property
    def netlink(self) -> Netlink:
        """The socket in the host's namespace."""
        return self._netlink

    # ---- making ----

    def make(self, jobs: Sequence[Job], carry: Callable[[list[Job]], dict[Id, str]]) -> dict[Id, str]:
        """Makes the ports; returns an error for each that failed, which is undone whole.

        `carry` is called with the ports of each chunk that are made, and returns errors of its own (it writes their
        table rows). Taps' devices must not exist; adopted interfaces must, at the index given.
        """
        errors: dict[Id, str] = {}
        undo: list[Job] = []
        self._patience_s = QUEUE_PATIENCE_S
        size = max(SMALLEST_CHUNK, min(CHUNK, len(jobs) // CHUNKS_AT_LEAST))
        chunks = [jobs[at : at + size] for at in range(0, len(jobs), size)]
        ahead: deque[tuple[Sequence[Job], Future[list[Place]]]] = deque()
        with self.pool.paused():
            try:
                for at in range(len(chunks)):
                    for chunk in chunks[at + len(ahead) : at + CHUNKS_AHEAD]:
                        ahead.append((chunk, self._begin_places(chunk)))
                    chunk, places = ahead.popleft()
                    begun, failed = self._make_chunk(chunk, places.result(), errors)
                    failed |= carry([job for job in begun if job.port.id not in failed])
                    undo += [job for job in begun if job.port.id in failed]
                    errors |= failed
            finally:
                for _, places in ahead:
                    _close_all(places.result())
        if undo:
            self.remove(undo, verify=True)
        return errors

    def _begin_places(self, chunk: Sequence[Job]) -> Future[list[Place]]:
        """Starts making the chunk's namespaces. One that needs no thread is answered at once."""
        own = [job for job in chunk if wiring.owns_netns(job.port)]
        pooled = self.pool.take(len(own))
        return self._makers.submit(self._places, chunk, pooled)

    def _places(self, chunk: Sequence[Job], pooled: list[int]) -> list[Place]:
        places: list[Place] = []
        try:
            for job in chunk:
                places.append(self._place(job.port, pooled))
        finally:
            netns.set_net(self._home)
        return places

    def _place(self, port: LocalPort, pooled: list[int]) -> Place:
        if port.kind is not PortKind.CONTAINER:
            return NO_FD
        path = wiring.netns_path(port, self._netns_dir)
        if port.netns:
            return _open(path)
        fd = NO_FD
        try:
            fd = pooled.pop() if pooled else netns.make_here()
            netns.bind(fd, path)
        except FileExistsError:
            os.close(fd)
            return f"the namespace name {path} is taken by something that is not Alcor's: remove it (ip netns delete)"
        except OSError as error:
            if fd != NO_FD:
                os.close(fd)
            return f"making namespace {path} failed ({error})"
        return fd

    def _make_chunk(
        self, chunk: Sequence[Job], places: list[Place], errors: dict[Id, str]
    ) -> tuple[list[Job], dict[Id, str]]:
        """Host side of a chunk, then its inside, by the helper thread, which closes the descriptors.

        Returns the ports for which something was made, and those of them that failed; the others are in `errors`.
        """
        begun: list[tuple[Job, int]] = []
        for job, place in zip(chunk, places, strict=True):
            problem = place if isinstance(place, str) else ""
            if not problem and job.port.kind is PortKind.TAP:
                problem = self._make_device(job)
            if problem:
                errors[job.port.id] = problem
            elif isinstance(place, int):
                begun.append((job, place))
        failed = self._make_host_side(begun)
        rest = []
        for job, fd in begun:
            if fd == NO_FD:
                continue
            if job.port.id in failed:
                os.close(fd)
            else:
                rest.append((job.port, fd, wiring.inner_steps(job.port, job.ifindex)))
        failed = self._inside.submit(self._configure, rest, failed).result()
        self._await_queues([job.ifindex for job, fd in begun if fd != NO_FD and job.port.id not in failed])
        return [job for job, _ in begun], failed

    def _await_queues(self, indexes: Sequence[int]) -> None:
        """Until these transmit, or patience ends: the first answer to a container must not be lost, or it asks again a
        second later (ARP, RFC 4861's RETRANS_TIMER)."""
        pause_s = QUEUE_POLL_S
        try:
            while (indexes := links.silent(self._netlink, indexes)) and self._patience_s > 0:
                time.sleep(pause_s)
                self._patience_s -= pause_s
                pause_s = min(2 * pause_s, MAX_QUEUE_POLL_S)
        except OSError as error:
            _log.warning("whether ports transmit cannot be told: %s", error)
        else:
            if indexes:
                _log.warning("%d ports do not transmit yet, the first at interface %d", len(indexes), indexes[0])

    def _make_host_side(self, begun: Sequence[tuple[Job, int]]) -> dict[Id, str]:
        """Sends the host's steps of a chunk in one go, with the block's program at the end of them."""
        own_block = len(begun) >= OWN_BLOCK_FROM
        block = self.blocks.take() if own_block else wiring.MAIN_BLOCK
        steps = [(job, step) for job, fd in begun for step in wiring.host_steps(job.port, job.ifindex, fd, block)]
        if not own_block:
            return self._carry_out(self._netlink, steps)
        attach = Step(attaching.block_filter(self.program, block))
        failed = self._carry_out(self._netlink, [*steps, (begun[-1][0], attach)])
        if begun[-1][0].port.id not in failed:
            return failed
        # The last of them failed: by itself, or because the program could not be attached, and then all have failed.
        if self._runs_program(block):
            return failed
        return {job.port.id: failed[begun[-1][0].port.id] for job, _ in begun} | failed

    def _runs_program(self, block: int) -> bool:
        return bool(links.filters(self._netlink, block=block))

    def _make_device(self, job: Job) -> str:
        try:
            links.create_tap(wiring.host_name(job.port), job.ifindex)
        except OSError as error:
            return (
                f"making interface {wiring.host_name(job.port)} failed ({error.strerror}): is the name taken by "
                f"something that is not Alcor's, or /dev/net/tun missing?"
            )
        return ""

    def _configure(self, rest: Sequence[tuple[LocalPort, int, Sequence[Step]]], errors: dict[Id, str]) -> dict[Id, str]:
        """Sends every container's inner steps from inside its namespace and closes the descriptors (helper thread)."""
        try:
            for port, fd, steps in rest:
                try:
                    netns.set_net(fd)
                    with Netlink(0) as inner:
                        errors |= self._carry_out(inner, [(Job(port, 0), step) for step in steps])
                except OSError as error:
                    errors[port.id] = f"working inside the port's namespace failed ({error})"
                finally:
                    os.close(fd)
        finally:
            netns.set_net(self._home)
        return errors

    def _carry_out(self, netlink: Netlink, steps: Sequence[tuple[Job, Step]]) -> dict[Id, str]:
        """Sends the steps; the first refusal of each port, explained."""
        if not steps:
            return {}
        errors: dict[Id, str] = {}
        answers = netlink.send([step.message for _, step in steps])
        for (job, step), answer in zip(steps, answers, strict=True):
            if answer.errno and answer.errno not in step.allow and job.port.id not in errors:
                errors[job.port.id] = wiring.explain(job.port, step.message, answer)
        return errors

    # ---- changing ----

    def change(self, changes: Sequence[Change]) -> dict[Id, str]:
        """Changes ports in place; returns an error for each that could not be: make it anew."""
        steps = [
            (Job(one.new, one.ifindex), step)
            for one in changes
            for step in wiring.host_changes(one.old, one.new, one.ifindex, attached=one.attached)
        ]
        errors = self._carry_out(self._netlink, steps)
        rest = []
        mended: list[Change] = []
        for one in changes:
            if one.new.kind is not PortKind.CONTAINER or one.new.id in errors:
                continue
            place = _open(wiring.netns_path(one.new, self._netns_dir))
            if isinstance(place, str):
                errors[one.new.id] = place
            else:
                rest.append((one.new, place, wiring.inner_changes(one.old, one.new, one.ifindex)))
                mended.append(one)
        errors = self._inside.submit(self._configure, rest, errors).result()
        self._patience_s = QUEUE_PATIENCE_S
        self._await_queues([one.ifindex for one in mended if one.new.id not in errors])
        return errors

    # ---- removing ----

    def remove(self, jobs: Sequence[Job], *, verify: bool = False) -> dict[Id, str]:
        """Removes what `make` made for the ports; what is absent is gone already. Returns an error for each that
        stayed. A namespace or an interface that we were given stays, without our qdisc.

        With `verify`, an interface goes only if it is seen to be the port's: for ports that were not made whole.
        """
        adopted = [job for job in jobs if job.port.kind is PortKind.ADOPTED]
        if adopted:
            self.detach(job.ifindex for job in adopted)
        wired = {job.ifindex: job.port for job in jobs if job.port.kind is not PortKind.ADOPTED}
        if verify:
            there = {one.ifindex: one for one in links.links(self._netlink)}
            wired = {at: port for at, port in wired.items() if at in there and wiring.is_ours(there[at], port)}
        error = self.delete_links(list(wired))
        errors = {job.port.id: error for job in jobs} if error else {}
        for job in jobs:
            if wiring.owns_netns(job.port):
                try:
                    netns.delete(wiring.netns_path(job.port, self._netns_dir))
                except OSError as refused:
                    errors[job.port.id] = f"removing the port's namespace failed ({refused}): it is tried again"
        return errors

    def delete_links(self, indexes: Sequence[int]) -> str:
        """Deletes interfaces in one go: 0.35 ms each, where one message each costs 15-20 ms. Returns an error or ""."""
        if not indexes:
            return ""
        # A number of our own for this one deletion, so that nothing else can be in the group.
        group = DELETE_GROUP_BASE | secrets.randbits(20)
        self._netlink.send([links.set_link(index, group=group) for index in indexes])
        answer: Ack = self._netlink.send([links.delete_group(group)])[0]
        if answer.errno and answer.errno not in wiring.ABSENT:
            return f"deleting interfaces refused ({answer}): it is tried again"
        return ""

    def detach(self, indexes: Iterable[int]) -> None:
        """Removes our qdisc from interfaces that are not ours; another's stays."""
        wanted = set(indexes)
        ours = [one.ifindex for one in links.qdiscs(self._netlink) if wiring.is_our_block(one.ingress_block)]
        self._netlink.send([links.delete_clsact(index) for index in ours if index in wanted])


def _close_all(places: Sequence[Place]) -> None:
    for place in places:
        if isinstance(place, int) and place != NO_FD:
            os.close(place)


def _open(path: Path) -> Place:
    try:
        return netns.open_path(path)
    except FileNotFoundError:
        return f"netns '{path}' is not there: make it before the port, or leave `netns` empty"
    except OSError as error:
        return f"netns '{path}' cannot be opened ({error.strerror}): is it a network namespace?"
