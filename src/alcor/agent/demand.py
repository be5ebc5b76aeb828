"""What a host has learnt of VPCs on demand, and the packets that wait to learn more. Pure: events in, steps out.

Called by resolver. For every address there is at most one question under way, however many packets wait for it; what is
learnt stays while packets follow it, nobody's addresses for a while. The controller knows exactly what was asked for
here and tells of every change, so nothing of it is ever old for longer than a message takes; with a new session all of
it is asked for anew. Newer answers win by their revision, in whatever order they come.

A question says where its packet comes from, and the host that is asked about is told of that unasked, so that its reply
need not wait: a hint. Packets follow it at once. With the next tick it is asked about; until then the controller does
not know that it is held here.

Everything is bounded. A packet that may not wait (too many do, or nobody answers) is released at once: the data plane
finds that it was held before, and drops and counts it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush

import msgspec

from alcor.agent.state import OnDemand, ScopeKey
from alcor.dataplane.base import Miss
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.model.addresses import Ip
from alcor.model.nouns import Claim
from alcor.wire.lookups import MAX_LOOKUP, Answer, Lookup, Wanted


class DemandLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, packets, bytes, addresses."""

    idle_s: float = 120.0
    """What no packet followed for so long, and at most twice as long, is forgotten."""
    absent_s: float = 30.0
    """That nobody has an address is believed for so long (unless word comes that somebody has it)."""
    hold_s: float = 3.0
    """A packet waits for an answer for at most so long."""
    ask_again_s: float = 1.0
    entries: int = 65_536
    waiting: int = 4096
    """Addresses that packets wait for."""
    packets_each: int = 256
    """Packets that wait for one address."""
    packets: int = 16_384
    bytes: int = 64 << 20
    """Of all packets that wait."""
    refresh: int = 1024
    """Addresses that are asked for anew at a time, after a new session."""
    refresh_again_s: float = 10.0
    """A controller that has too much to do drops questions."""


class Entry(msgspec.Struct, gc=False):
    """What is known of an address."""

    revision: int
    """As of which commit; 0: found in the data plane, from an earlier life."""
    endpoint: Endpoint | None
    """None: nobody has it (revision 0: not known)."""
    due: float
    """When it is looked at: still used, or to be forgotten."""


class Waiting(msgspec.Struct, gc=False):
    """An address that packets wait for."""

    misses: list[Miss]
    since: float
    asked: float = 0.0
    """When; 0: not yet."""


class Step(msgspec.Struct, kw_only=True):
    """What to do in the data plane, in this order."""

    found: list[tuple[EndpointKey, Endpoint]] = []
    absent: list[EndpointKey] = []
    forget: list[EndpointKey] = []
    release: list[Miss] = []
    moved: dict[ScopeKey, list[Claim]] = {}
    """Addresses that were known to be at another MAC, by VPC."""


class Demand:
    """See the module."""

    def __init__(self, limits: DemandLimits | None = None) -> None:
        self.limits = limits or DemandLimits()
        self.vpcs: dict[int, ScopeKey] = {}
        """VNI -> VPC, of those on demand."""
        self.entries: dict[EndpointKey, Entry] = {}
        self.waiting: dict[EndpointKey, Waiting] = {}
        self._vnis: dict[ScopeKey, int] = {}
        self._revisions: dict[int, int] = {}
        """VNI -> its VPC's revision; what was learnt of another one is asked for anew."""
        self._packets = self._bytes = 0
        self._by_due: list[tuple[float, EndpointKey]] = []
        """A heap; of an entry, only the pair that names its present `due` counts."""
        self._to_ask: dict[EndpointKey, None] = {}
        self._to_refresh: dict[EndpointKey, None] = {}
        self._refreshing: dict[EndpointKey, float] = {}
        """Asked for anew and not answered yet: since when, in that order."""
        self._hinted: dict[EndpointKey, None] = {}
        """Learnt unasked, and to be asked for with the next tick: the packets of now do not wait for it."""
        self._forgotten: dict[EndpointKey, None] = {}

    def rest(self, now: float) -> float | None:
        """Seconds for which time alone brings nothing; None: it never does."""
        if self.waiting or self._hinted or self._refreshing:
            return 0.0
        return max(0.0, self._by_due[0][0] - now) if self._by_due else None

    # What happens.

    def serve(self, vpcs: Mapping[int, OnDemand], learnt: Iterable[EndpointKey], now: float) -> Step:
        """These VPCs are on demand from now on, and no others; `learnt` is what the data plane holds of them."""
        gone = self.vpcs.keys() - vpcs.keys()
        changed = {vni for vni, one in vpcs.items() if self._revisions.get(vni, one.revision) != one.revision}
        self.vpcs = {vni: one.vpc for vni, one in vpcs.items()}
        self._vnis = {key: vni for vni, key in self.vpcs.items()}
        self._revisions = {vni: one.revision for vni, one in vpcs.items()}
        if changed:
            self._to_refresh.update((key, None) for key in self.entries if key.vni in changed)
        step = Step()
        for key in [key for key in self.entries if key.vni in gone]:
            del self.entries[key]
        for pool in (self._to_ask, self._to_refresh, self._refreshing, self._hinted, self._forgotten):
            for key in [key for key in pool if key.vni in gone]:
                del pool[key]
        for key in [key for key in self.waiting if key.vni in gone]:
            self._release(key, step)
        for key in learnt:
            if key.vni in vpcs and key not in self.entries:
                self._enter(key, Entry(0, None, now + self.limits.idle_s), step)
                self._to_refresh[key] = None
        self._to_ask.update((key, None) for key, one in self.waiting.items() if not one.asked and key.vni in vpcs)
        return step

    def missed(self, misses: Iterable[Miss], now: float) -> Step:
        """Packets came for addresses of which the data plane knows nothing."""
        step = Step()
        for miss in misses:
            entry = self.entries.get(miss.sought)
            if entry is not None and entry.revision:
                # Learnt since; or the data plane lost it, and is told again.
                self._tell(miss.sought, entry, step)
                step.release.append(miss)
            elif not self._keep(miss, now):
                step.release.append(miss)
        return step

    def answered(self, partition: int, answers: Iterable[Answer], now: float) -> Step:
        """Word of where addresses are."""
        step = Step()
        for answer in answers:
            vni = self._vnis.get(ScopeKey(partition, answer.vpc))
            if vni is None:
                continue
            for one in answer.found:
                endpoint = Endpoint(one.mac, one.host_ip, one.identity)
                known = self.entries.get(EndpointKey(vni, one.ip))
                before = known.endpoint if known is not None and known.revision <= answer.revision else None
                if before is not None and before.mac != one.mac:
                    step.moved.setdefault(ScopeKey(partition, answer.vpc), []).append(Claim(one.ip, one.mac))
                learn = self._hear if answer.unasked else self._learn
                learn(EndpointKey(vni, one.ip), Entry(answer.revision, endpoint, now + self.limits.idle_s), step)
            if answer.unasked:
                continue  # a hint says where something is, and nothing else
            for ip in answer.absent:
                self._learn(EndpointKey(vni, ip), Entry(answer.revision, None, now + self.limits.absent_s), step)
            for ip in answer.unlearn:
                key = EndpointKey(vni, ip)
                for pool in (self._refreshing, self._to_refresh, self._hinted):
                    pool.pop(key, None)
                if self.entries.pop(key, None) is not None:
                    step.forget.append(key)
        return step

    def restart(self, partition: int) -> None:
        """A new session of that partition: everything is asked for anew, first what packets wait for."""
        for key, one in self.waiting.items():
            if self._is_of(key, partition):
                one.asked = 0.0
                self._to_ask[key] = None
        for pool in (self._to_refresh, self._refreshing, self._hinted, self._forgotten):
            for key in [key for key in pool if self._is_of(key, partition)]:
                del pool[key]
        self._to_refresh.update((key, None) for key in self.entries if self._is_of(key, partition))

    def tick(self, now: float) -> Step:
        """What time alone brings: questions that are asked again, packets that waited too long. Call it often."""
        step, limits = Step(), self.limits
        for key, one in list(self.waiting.items()):
            if now - one.since >= limits.hold_s:
                self._release(key, step)
                self._forgotten[key] = None
            elif one.asked and now - one.asked >= limits.ask_again_s and key.vni in self.vpcs:
                self._to_ask[key] = None
        for key in [key for key, asked in self._refreshing.items() if now - asked >= limits.refresh_again_s]:
            del self._refreshing[key]
            self._to_refresh[key] = None
        self._to_refresh.update(self._hinted)
        self._hinted.clear()
        return step

    def due(self, now: float, most: int = 4096) -> list[EndpointKey]:
        """Entries that are to be looked at: whether packets followed them is then told to `aged`."""
        found: list[EndpointKey] = []
        while self._by_due and self._by_due[0][0] <= now and len(found) < most:
            key = self._next_due()
            if key is not None:
                found.append(key)
        return found

    def aged(self, keys: Iterable[EndpointKey], used: frozenset[EndpointKey], now: float) -> Step:
        """Those of the due entries that were used stay; the others are forgotten."""
        step = Step()
        for key in keys:
            entry = self.entries.get(key)
            if entry is None:
                continue
            if key in used:
                entry.due = now + self.limits.idle_s
                heappush(self._by_due, (entry.due, key))
            else:
                self._forget(key, step)
        return step

    # What to ask.

    def lookup(self, partition: int, now: float) -> Lookup | None:
        """The next question to that partition's controller; None when there is none. Call it until then."""
        asked: defaultdict[ScopeKey, list[Ip]] = defaultdict(list)
        sources: defaultdict[ScopeKey, list[Ip]] = defaultdict(list)
        forgotten: defaultdict[ScopeKey, list[Ip]] = defaultdict(list)
        room = MAX_LOOKUP
        for key in self._take(self._to_ask, partition, room):
            one = self.waiting.get(key)
            if one is not None:
                one.asked = now
                room -= 1
                asked[self.vpcs[key.vni]].append(key.ip)
                sources[self.vpcs[key.vni]].append(one.misses[0].source)
        if not any(self._is_of(key, partition) for key in self._refreshing):
            for key in self._take(self._to_refresh, partition, min(room, self.limits.refresh)):
                if key in self.entries:
                    room -= 1
                    self._refreshing[key] = now
                    asked[self.vpcs[key.vni]].append(key.ip)
        for key in self._take(self._forgotten, partition, room):
            if key not in self.entries and key not in self.waiting:
                forgotten[self.vpcs[key.vni]].append(key.ip)
        vpcs = sorted(asked.keys() | forgotten.keys())
        if not vpcs:
            return None
        return Lookup(
            tuple([Wanted(key.scope, tuple(asked[key]), tuple(forgotten[key]), tuple(sources[key])) for key in vpcs])
        )

    # Inside.

    def _is_of(self, key: EndpointKey, partition: int) -> bool:
        vpc = self.vpcs.get(key.vni)
        return vpc is not None and vpc.partition == partition

    def _take(self, pool: dict[EndpointKey, None], partition: int, most: int) -> list[EndpointKey]:
        taken: list[EndpointKey] = []
        for key in pool:
            if len(taken) == most:
                break
            if self._is_of(key, partition):
                taken.append(key)
        for key in taken:
            del pool[key]
        return taken

    def _keep(self, miss: Miss, now: float) -> bool:
        """The packet waits; False: too many do."""
        limits, key = self.limits, miss.sought
        one = self.waiting.get(key)
        if self._packets >= limits.packets or self._bytes + len(miss.frame) > limits.bytes:
            return False
        if one is None:
            if len(self.waiting) >= limits.waiting:
                return False
            one = self.waiting[key] = Waiting([], now)
            if key.vni in self.vpcs:
                self._to_ask[key] = None
        elif len(one.misses) >= limits.packets_each:
            return False
        one.misses.append(miss)
        self._packets += 1
        self._bytes += len(miss.frame)
        return True

    def _release(self, key: EndpointKey, step: Step) -> None:
        one = self.waiting.pop(key)
        step.release += one.misses
        self._packets -= len(one.misses)
        self._bytes -= sum(len(miss.frame) for miss in one.misses)

    def _hear(self, key: EndpointKey, entry: Entry, step: Step) -> None:
        """A hint: what is not held yet is held from now on, unless something else would have to go, and asked for."""
        if key not in self.entries:
            if key not in self.waiting and len(self.entries) >= self.limits.entries:
                return  # nobody remembers that it was told
            self._hinted[key] = None
        self._hold(key, entry, step)

    def _learn(self, key: EndpointKey, entry: Entry, step: Step) -> None:
        self._refreshing.pop(key, None)
        if key in self.entries or key in self.waiting:
            self._hold(key, entry, step)
        # Else it was forgotten meanwhile, and the controller was told so, or will be.

    def _hold(self, key: EndpointKey, entry: Entry, step: Step) -> None:
        """The newer of what is held and of this is held, and packets wait for it no more."""
        before = self.entries.get(key)
        if before is not None and before.revision > entry.revision:
            entry = before
        else:
            if before is None or before.revision == 0 or before.endpoint != entry.endpoint:
                self._tell(key, entry, step)
            self._enter(key, entry, step)
        if key in self.waiting:
            self._release(key, step)

    def _tell(self, key: EndpointKey, entry: Entry, step: Step) -> None:
        if entry.endpoint is not None:
            step.found.append((key, entry.endpoint))
        else:
            step.absent.append(key)

    def _enter(self, key: EndpointKey, entry: Entry, step: Step) -> None:
        self._forgotten.pop(key, None)
        self.entries[key] = entry
        heappush(self._by_due, (entry.due, key))
        while len(self.entries) > self.limits.entries:
            oldest = self._next_due()
            if oldest is not None:
                self._forget(oldest, step)

    def _next_due(self) -> EndpointKey | None:
        """Takes the first of the heap; None when it counts no more."""
        due, key = heappop(self._by_due)
        entry = self.entries.get(key)
        return key if entry is not None and entry.due == due else None

    def _forget(self, key: EndpointKey, step: Step) -> None:
        del self.entries[key]
        self._to_refresh.pop(key, None)
        self._hinted.pop(key, None)
        self._forgotten[key] = None
        step.forget.append(key)
