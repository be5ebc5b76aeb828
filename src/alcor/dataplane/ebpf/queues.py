"""The queues in which packets of limited ports wait: classes of one HTB per host, made when the first is needed.

Called by the driver.

The programs send what has to wait into the wire `alcor-queue`; its qdisc lets each class's packets through at their
rate, and they come out of `alcor-queued`, where the ports' program takes them up again (qos.h, step Q of the pipeline).
Rows of `ports` and `local` name a queue by its number, which is the class's: a new driver finds out from the kernel
alone whose is which. Why a wire and not the ports' own interfaces: what is redirected passes a container's by, a tap
has no queue for what its machine sends, and an adopted one has qdiscs of its owner's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from alcor.dataplane.base import NO_ADDRESS, DataPlaneError, LocalPort, RateLimit
from alcor.dataplane.ebpf import attaching
from alcor.dataplane.ebpf.planning import Numbers
from alcor.dataplane.ebpf.program import Program
from alcor.dataplane.ebpf.tables import NO_QUEUES, Queues
from alcor.dataplane.kernel import classes, links
from alcor.dataplane.kernel.classes import Shape
from alcor.dataplane.kernel.netlink import Netlink, NetlinkError
from alcor.model.addresses import Ip
from alcor.model.ids import Id

QUEUE_INDEX, QUEUED_INDEX = attaching.QUEUE_WIRE.far_ifindex, attaching.QUEUE_WIRE.ifindex
QUEUE_HANDLE = 0xA1C0
"""Of the HTB."""
FIRST_QUEUE, LAST_QUEUE = 1, QUEUE_HANDLE - 1
"""A class's FIFO has its number as handle, which must not be the HTB's."""
NO_QUEUE_FREE = f"all {LAST_QUEUE} queues of this host are taken: move limited ports to another"


class PortQueues(NamedTuple):
    """The queues of a port: of its own limits, and of its external addresses'."""

    own: Queues = NO_QUEUES
    eips: Mapping[Ip, Queues] = {}

    def numbers(self) -> set[int]:
        """All of them."""
        return {number for queues in (self.own, *self.eips.values()) for number in queues if number}


class Given(NamedTuple):
    """The queues that ports have got, and why others got none."""

    queues: dict[Id, PortQueues]
    errors: dict[Id, str]


def shape_of(limit: RateLimit) -> Shape:
    """The class that keeps the limit."""
    return classes.shape(limit.bytes_per_s, limit.burst_bytes)


def fits(port: LocalPort, queues: PortQueues, there: Mapping[int, Shape]) -> bool:
    """The port's rows name the queues that keep its limits, and none else."""
    limits = _limits(port)
    pairs = [(limits.pop(ip, NO_LIMITS), named) for ip, named in _named(queues).items()]
    pairs += [(missing, NO_QUEUES) for missing in limits.values()]
    return all(
        number == 0 if limit is None else there.get(number) == shape_of(limit)
        for wanted, named in pairs
        for limit, number in zip(wanted, named, strict=True)
    )


Limits = tuple[RateLimit | None, RateLimit | None]
"""Of what leaves, and of what comes."""
NO_LIMITS: Limits = (None, None)


def _limits(port: LocalPort) -> dict[Ip, Limits]:
    """By external address; NO_ADDRESS: the port's own."""
    found: dict[Ip, Limits] = {NO_ADDRESS: (port.egress_limit, port.ingress_limit)}
    return found | {one.ip: (one.egress, one.ingress) for one in port.eip_limits}


def _named(queues: PortQueues) -> dict[Ip, Queues]:
    return {NO_ADDRESS: queues.own, **queues.eips}


class HostQueues:
    """The queues of a host as the kernel has them, read when the driver looks and then followed."""

    def __init__(self, netlink: Netlink, program: Program) -> None:
        """Finds the wire if it is there, and gives it the present program. Raises DataPlaneError."""
        self._netlink = netlink
        self._program = program
        self._numbers = Numbers(FIRST_QUEUE, LAST_QUEUE)
        self._shapes: dict[int, Shape] = {}
        self._made = any(link.name == attaching.QUEUE_WIRE.far_name for link in links.links(netlink))
        if self._made:
            self._make()

    def observe(self) -> dict[int, Shape]:
        """Reads them from the kernel."""
        found = classes.classes(self._netlink, QUEUE_INDEX) if self._made else []
        self._shapes = {one.minor: one.shape for one in found}
        self._numbers.reserve(self._shapes)
        return dict(self._shapes)

    def give(self, wanted: Sequence[tuple[LocalPort, PortQueues]]) -> Given:
        """Makes the queues that the ports are to have, from what they have; none is taken away. Raises
        DataPlaneError."""
        given: dict[Id, PortQueues] = {}
        messages: list[bytes] = []
        whose: list[Id] = []
        if not self._made and any(any(limits) for port, _ in wanted for limits in _limits(port).values()):
            self._make()
        for port, has in wanted:
            named, got = _named(has), dict[Ip, Queues]()
            for ip, limits in _limits(port).items():
                numbers = []
                for limit, number in zip(limits, named.get(ip, NO_QUEUES), strict=True):
                    numbers.append(0 if limit is None else number or self._take())
                    made = self._reshape(numbers[-1], limit)
                    messages += made
                    whose += [port.id] * len(made)
                got[ip] = Queues(*numbers)
            given[port.id] = PortQueues(got.pop(NO_ADDRESS), got)
        errors: dict[Id, str] = {}
        for identifier, answer in zip(whose, self._netlink.send(messages) if messages else (), strict=True):
            if answer.errno:
                errors.setdefault(identifier, f"making a queue for its rate limit refused ({answer})")
        self.remove(number for identifier in errors for number in given.pop(identifier).numbers())
        return Given(given, errors)

    def _reshape(self, number: int, limit: RateLimit | None) -> list[bytes]:
        """The messages that make the queue keep the limit: none when it does, or when there is none."""
        if limit is None or self._shapes.get(number) == shape_of(limit):
            return []
        self._shapes[number] = shape_of(limit)
        return [
            classes.put_class(QUEUE_INDEX, QUEUE_HANDLE, number, shape_of(limit)),
            classes.put_fifo(QUEUE_INDEX, QUEUE_HANDLE, number, limit.queue_bytes),
        ]

    def remove(self, gone: Iterable[int]) -> None:
        """Removes queues that no row names any more, with what waits in them; absent ones are passed over."""
        numbers = sorted({number for number in gone if number in self._shapes})
        if numbers:
            self._netlink.send([classes.delete_class(QUEUE_INDEX, QUEUE_HANDLE, number) for number in numbers])
            for number in numbers:
                del self._shapes[number]

    def drops(self) -> dict[int, int]:
        """How many packets found no room, by queue."""
        if not self._made:
            return {}
        return {one.minor: one.drops for one in classes.classes(self._netlink, QUEUE_INDEX)}

    def _take(self) -> int:
        if len(self._shapes) >= LAST_QUEUE:
            raise DataPlaneError(NO_QUEUE_FREE)
        while (number := self._numbers.take()) in self._shapes:
            pass
        return number

    def _make(self) -> None:
        try:
            attaching.make_wire(self._netlink, self._program, attaching.QUEUE_WIRE)
            roots = [one for one in links.qdiscs(self._netlink) if one.ifindex == QUEUE_INDEX and one.kind == "htb"]
            if not roots:
                self._netlink.check([classes.htb(QUEUE_INDEX, QUEUE_HANDLE)])
        except NetlinkError as error:
            raise DataPlaneError(
                f"making the queues of rate limits failed ({error.strerror}): does this kernel have sch_htb?"
            ) from None
        self._made = True
