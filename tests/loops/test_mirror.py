"""What a host holds of VPCs on demand is what its controller remembers, whatever crosses on the way: both ends' state
machines, and the two queues between them."""

from collections import deque
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from alcor.agent.demand import Demand, DemandLimits
from alcor.agent.state import OnDemand, ScopeKey
from alcor.dataplane.base import Miss
from alcor.dataplane.endpoints import EndpointKey
from alcor.loops.interest import Interest
from alcor.model.addresses import Ip, Mac, ip_from_int, parse_ip
from alcor.model.ids import Id
from alcor.wire.lookups import Answer, Found, Lookup

VPC, VNI, HOST = Id(b"v" * 16), 7, "host"
ADDRESSES = 3
LIMITS = DemandLimits(entries=2, idle_s=30.0, absent_s=5.0)


def ip(number: int) -> Ip:
    return ip_from_int(0x0A000000 + number, 4)


class Ends:
    """A host, its controller, and what is on its way between them."""

    def __init__(self) -> None:
        self.host, self.now = Demand(LIMITS), 0.0
        self.host.serve({VNI: OnDemand(ScopeKey(1, VPC), 1)}, (), self.now)
        self.interest = Interest()
        self.up: deque[Lookup] = deque()
        self.down: deque[Answer] = deque()
        self.revision = 1
        self.rows = [Found(ip(number), Mac(bytes(6)), parse_ip("172.16.0.2"), 0) for number in range(ADDRESSES)]
        self.there = [True] * ADDRESSES

    def answer(self, ips: tuple[Ip, ...], *, unasked: bool = False) -> Answer:
        rows = [row for row, there in zip(self.rows, self.there, strict=True) if row.ip in ips and there]
        absent = tuple([one for one in ips if one not in [row.ip for row in rows]])
        return Answer(VPC, self.revision, tuple(rows), () if unasked else absent, unasked=unasked)

    def miss(self, number: int) -> None:
        self.host.missed([Miss(EndpointKey(VNI, ip(number)), 5, b"frame")], self.now)

    def ask(self, _: int = 0) -> None:
        while (lookup := self.host.lookup(1, self.now)) is not None:
            self.up.append(lookup)

    def hear(self, _: int = 0) -> None:
        """The controller hears of the host."""
        for wanted in self.up.popleft().vpcs if self.up else ():
            self.interest.forget(HOST, VPC, wanted.forgotten)
            if wanted.ips:
                self.interest.add(HOST, VPC, wanted.ips)
                self.down.append(self.answer(wanted.ips))

    def learn(self, _: int = 0) -> None:
        """The host hears of the controller."""
        if self.down:
            self.host.answered(1, [self.down.popleft()], self.now)

    def hint(self, number: int) -> None:
        if self.there[number] and not self.interest.holds(HOST, VPC, ip(number)):
            self.down.append(self.answer((ip(number),), unasked=True))

    def change(self, number: int) -> None:
        """The address comes, goes, or goes elsewhere."""
        self.revision += 1
        self.there[number] = self.revision % 3 > 0
        self.rows[number] = self.rows[number]._replace(identity=self.revision)
        if self.interest.holds(HOST, VPC, ip(number)):
            self.down.append(self.answer((ip(number),)))

    def take_back(self, number: int) -> None:
        if self.interest.holds(HOST, VPC, ip(number)):
            self.interest.forget(HOST, VPC, (ip(number),))
            self.down.append(Answer(VPC, self.revision, unlearn=(ip(number),)))

    def wait(self, number: int) -> None:
        self.now += 2 * number
        self.host.tick(self.now)
        self.host.aged(self.host.due(self.now), frozenset(), self.now)

    def begin(self, _: int = 0) -> None:
        """Another session."""
        self.up.clear()
        self.down.clear()
        self.interest.forget_host(HOST)
        self.host.restart(1)

    def calm(self) -> None:
        """Nothing new happens; all that is on its way comes."""
        for _ in range(3):
            self.now += LIMITS.hold_s
            self.host.tick(self.now)
            self.ask()
            while self.up or self.down:
                self.hear()
                self.learn()
                self.ask()


WHAT = (Ends.miss, Ends.ask, Ends.hear, Ends.learn, Ends.hint, Ends.change, Ends.take_back, Ends.wait, Ends.begin)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, ADDRESSES - 1)), max_size=40))
def test_in_the_end_all_that_is_held_is_true_and_known_to_be_held(
    what: list[tuple[Callable[[Ends, int], None], int]],
) -> None:
    """Hints that cross what the host forgets, answers that cross hints, a session that ends between: nothing that the
    host holds is old, or would be missed when it changes; and nothing is remembered that it does not hold."""
    ends = Ends()
    for action, number in what:
        action(ends, number)
    ends.calm()
    for number in range(ADDRESSES):
        entry = ends.host.entries.get(EndpointKey(VNI, ip(number)))
        assert (entry is not None) == ends.interest.holds(HOST, VPC, ip(number))
        if entry is not None:
            place = (entry.endpoint.identity if entry.endpoint else None) if entry.revision else "unknown"
            assert place == (ends.rows[number].identity if ends.there[number] else None)
