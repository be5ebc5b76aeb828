"""The driver `ebpf`: carries plans out with the compiled data plane. Made by roles (or the lab), called by the agent.

It fills `dataplane.base.Driver`. Work belongs to three others: `program` holds the tables, `hands` namespaces and
interfaces, `attaching` the programs; `sorting` judges what is there. What it knows of its own after amnesia: table rows
pinned in the BPF file system, the alias `alcor:<port id>` on interfaces, our block on adopted ones. The map `records`
keeps each port's description beside its row, and is written *before* anything is made for the port: what a crash
leaves half-made is therefore known, and nothing else is ever removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from alcor.dataplane.base import (
    Applied,
    DataPlaneError,
    LocalPort,
    Observed,
    Plan,
    PortCounters,
    PortResult,
    ServiceCounters,
    ServiceKey,
)
from alcor.dataplane.drops import DropReason
from alcor.dataplane.ebpf import attaching, eips, routing, sharing, sorting, tables, wiring
from alcor.dataplane.ebpf.balancing import Balancing
from alcor.dataplane.ebpf.hands import Change, Hands, Job
from alcor.dataplane.ebpf.misses import EbpfMisses
from alcor.dataplane.ebpf.neighbours import onlink_length
from alcor.dataplane.ebpf.outside import Outside
from alcor.dataplane.ebpf.planning import Claims, Numbers
from alcor.dataplane.ebpf.policing import Policing
from alcor.dataplane.ebpf.probing import Probing
from alcor.dataplane.ebpf.program import FLOW_ENTRIES, REMOTE_ENTRIES, TRANSLATION_ENTRIES, Program
from alcor.dataplane.ebpf.queues import HostQueues, PortQueues
from alcor.dataplane.ebpf.records import Records
from alcor.dataplane.ebpf.requests import EbpfRequests
from alcor.dataplane.ebpf.sorting import Carried, Leftover, Snapshot, Sorted, is_peer
from alcor.dataplane.ebpf.tables import (
    VXLAN_PORT,
    EndpointUse,
    HostConfig,
    LocalRow,
    MacKey,
    PortRow,
    Queues,
)
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.kernel import links, netns
from alcor.model.addresses import Ip
from alcor.model.ids import Id, format_id
from alcor.model.nouns import PortKind

ENDPOINTS_AT_A_TIME = 1 << 16
"""More are packed while the kernel takes in those before."""
MISS_RATE = 1024
"""Packets of one port that are held in a second; more are dropped."""


class EbpfConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver must know of its host."""

    pin_dir: Path
    """Where maps and programs are pinned; a BPF file system is mounted there if it is in none."""
    device: str
    """The underlay device: tunnel packets enter and leave there."""
    underlay_ip: Ip
    netns_dir: Path = netns.RUN_NETNS
    """Where namespaces that Alcor makes get their names (`ip netns` looks in /run/netns)."""
    vxlan_port: int = VXLAN_PORT
    pool_size: int = 0
    """Namespaces kept ready; 0: each is made on demand."""
    object_path: Path | None = None
    """The compiled program; None: the one in the package."""
    remote_entries: int = REMOTE_ENTRIES
    translation_entries: int = TRANSLATION_ENTRIES
    flow_entries: int = FLOW_ENTRIES
    miss_rate: int = MISS_RATE
    external_device: str = ""
    """Where the host meets external networks; empty: nowhere, and no port can have an EIP here."""


class EbpfDriver:
    """A host's data plane in the network namespace of the thread that makes it. Call it from that thread only."""

    name = "ebpf"

    def __init__(self, config: EbpfConfig) -> None:
        """Loads the data plane or finds it as it was, and attaches it. Raises DataPlaneError."""
        self._config = config
        config.netns_dir.mkdir(parents=True, exist_ok=True)
        self._hands = Hands(config.netns_dir, config.pool_size)
        try:
            attaching.quiet_host_ports()
            self._underlay = attaching.find_underlay(self._hands.netlink, config.device)
            ifindex, netlink = self._underlay.ifindex, self._hands.netlink
            onlink = onlink_length(ifindex, config.underlay_ip, links.addresses(netlink), links.routes(netlink))
            held = attaching.HELD_INDEX
            host = HostConfig(config.underlay_ip, ifindex, config.vxlan_port, onlink, held, config.miss_rate)
            self._program = Program.open(
                config.object_path,
                config.pin_dir,
                host,
                remote_entries=config.remote_entries,
                translation_entries=config.translation_entries,
                flow_entries=config.flow_entries,
            )
            try:
                self._records = Records.open(config.pin_dir)
                attaching.attach(self._hands.netlink, self._program, self._underlay)
                self._hands.program = self._program.from_port
                self._outside = Outside(self._program, netlink, config.external_device, self._underlay)
                # Not when the first packet is held: a pair of interfaces costs as much as a port.
                attaching.make_wire(netlink, self._program, attaching.HELD_WIRE)
                self.misses = EbpfMisses(self._program, attaching.HOLD)
                self.requests = EbpfRequests(self._program, self.misses)
                self._queues = HostQueues(self._hands.netlink, self._program)
            except BaseException:
                self._program.close()
                raise
        except BaseException:
            self._hands.close()
            raise
        self._policing = Policing(self._program)
        self._balancing = Balancing(self._program)
        self.prober = Probing()
        self._known: Sorted | None = None
        self._doubted = False
        """What is there may be something else: it is looked at again before anything is changed."""
        self._claims = Claims(())
        self._indexes = Numbers(wiring.FIRST_INDEX, wiring.LAST_INDEX)
        self._started = 0
        self._tables_ns = 0

    @property
    def hands(self) -> Hands:
        """For the bench, which waits for the pool to fill."""
        return self._hands

    def close(self) -> None:
        """Lets go of handles and threads; what is programmed stays and forwards on."""
        self.prober.close()
        self._hands.close()
        self.requests.close()
        self.misses.close()
        self._outside.close()
        self._records.close()
        self._program.close()

    @property
    def external(self) -> bool:
        """See dataplane.base."""
        return bool(self._outside.ifindex)

    def interface_of(self, port_id: Id) -> int | None:
        """See dataplane.base."""
        one = self._known.carried.get(port_id) if self._known is not None else None
        return one.ifindex if one is not None else None

    # ---- observing ----

    def observe(self) -> Observed:
        """Reads tables, interfaces and qdiscs. A port is listed only if the kernel confirms all of it."""
        known = self._look()
        endpoints: dict[EndpointKey, Endpoint] = {}
        learnt: list[EndpointKey] = []
        for key, value in self._program.remote.items():
            if tables.unpack_use(value) is EndpointUse.PRELOADED:
                endpoints[tables.unpack_key(key)] = tables.unpack_endpoint(value)
            else:
                learnt.append(tables.unpack_key(key))
        forwards = self._program.forwards.items()
        return Observed(
            ports={key: one.port for key, one in known.carried.items() if one.right},
            endpoints=endpoints,
            gateways=known.gateways,
            vips=known.vips,
            services=self._balancing.observe(),
            policies=self._policing.observe(),
            routes=routing.observe_routes(self._program),
            shared=sharing.observe(self._program),
            answers=sharing.observe_answers(self._program),
            translations=routing.observe_translations(self._program),
            on_demand=self._on_demand(),
            learnt=tuple(learnt),
            forwards={tables.unpack_key(key): tables.unpack_endpoint(value) for key, value in forwards},
            damaged=frozenset(key for key, one in known.carried.items() if not one.right),
            orphans=known.orphans,
        )

    def _on_demand(self) -> frozenset[int]:
        return frozenset(tables.unpack_vni(key) for key, _ in self._program.on_demand.items())

    def _look(self) -> Sorted:
        there = {one.ifindex: one for one in links.links(self._hands.netlink)}
        self._underlay = there.get(self._underlay.ifindex, self._underlay)
        blocks = {one.ifindex: one.ingress_block for one in links.qdiscs(self._hands.netlink) if one.ingress_block}
        seen = Snapshot(
            rows={tables.unpack_ifindex(k): tables.unpack_port(v) for k, v in self._program.ports.items()},
            records=self._records.all(),
            local={tables.unpack_key(k): tables.unpack_local(v) for k, v in self._program.local.items()},
            macs={tables.unpack_mac_key(k): tables.unpack_local(v) for k, v in self._program.macs.items()},
            links=there,
            attached=frozenset(ifindex for ifindex, block in blocks.items() if wiring.is_our_block(block)),
            queues=self._queues.observe(),
            eips={tables.unpack_key(key): value for key, value in self._program.eips.items()},
            forwardings=dict(self._program.forwardings.items()),
            routers={tables.unpack_ifindex(key): value for key, value in self._program.routers.items()},
        )
        self._hands.blocks.reserve(blocks.values())
        self._indexes.reserve([*there, *seen.rows, *seen.records])
        self._known = known = sorting.sort_out(seen)
        self._doubted = False
        self._claims = Claims(one.port for one in known.carried.values())
        return known

    def counters(self) -> dict[Id, PortCounters]:
        """Traffic per local port, read from the tables."""
        traffic, dropped, limited = self._program.traffic(), self._program.dropped(), self._queues.drops()
        none = tables.Traffic(0, 0, 0, 0)
        outside = dict[int, set[int]]()
        if any(limited.values()):
            outside = eips.queues_by_ifindex([*self._program.eips.items(), *self._program.forwardings.items()])
        found = {}
        for key, value in self._program.ports.items():
            ifindex, row = tables.unpack_ifindex(key), tables.unpack_port(value)
            reasons = dropped.get(ifindex, {})
            for reason, numbers in (
                (DropReason.RATE_LIMIT, row.queues),
                (DropReason.EIP_RATE_LIMIT, outside.get(ifindex, ())),
            ):
                late = sum(limited.get(number, 0) for number in numbers)
                if late:
                    reasons[reason] = late
            found[row.id] = tables.port_counters(traffic.get(ifindex, none), reasons)
        return found

    def service_counters(self) -> dict[ServiceKey, ServiceCounters]:
        """Traffic of this host's clients per service, read from the tables."""
        return self._balancing.counters()

    # ---- applying ----

    def apply(self, plan: Plan) -> Applied:
        """Carries the plan out in the order of its fields. A port's failure is its own; `error` is of the tables."""
        self._started = time.monotonic_ns()
        self._tables_ns = 0
        known = self._known if self._known is not None and not self._doubted else self._look()
        error = self._write(self._begin, plan)
        results = self._remove_ports(known, plan.remove_ports)
        error = error or self._write(lambda plan: self._write_tables(plan, known), plan)
        results += self._put_ports(known, plan.put_ports)
        error = error or self._write(self._end, plan)
        total_us, tables_us = self._elapsed_us(), self._tables_ns // 1000
        return Applied(ports=tuple(results), error=error, wiring_us=total_us - tables_us, tables_us=tables_us)

    def sweep(self, orphans: tuple[str, ...]) -> None:
        """Removes the named leftovers that are still leftovers: it looks again first. Whole ports and what is foreign
        stay."""
        known = self._look()
        wanted = set(orphans)
        stale = [key for key in known.stale if sorting.address_name(key) in wanted]
        self._program.local.delete_batch(tables.pack_keys(stale), len(stale))
        self._queues.remove(one for one in known.idle if sorting.queue_name(one) in wanted)
        stale_macs = [key for key in known.stale_macs if sorting.mac_name(key) in wanted]
        self._program.macs.delete_batch(tables.pack_mac_keys(stale_macs), len(stale_macs))
        self._outside.sweep(
            (key for key in known.stale_eips if sorting.eip_name(key) in wanted),
            (key for key in known.stale_forwardings if sorting.forwarding_name(key) in wanted),
        )
        self._clear(known, [one for one in known.leftovers.values() if one.name in wanted])
        self._doubted = True

    def _elapsed_us(self) -> int:
        return (time.monotonic_ns() - self._started) // 1000

    def _result(self, identifier: Id, error: str = "") -> PortResult:
        return PortResult(identifier, error, self._elapsed_us())

    def _write(self, step: Callable[[Plan], None], plan: Plan) -> str:
        """A step of the plan that writes tables; why it failed."""
        begun = time.monotonic_ns()
        try:
            step(plan)
        except DataPlaneError as error:
            return str(error)
        finally:
            self._tables_ns += time.monotonic_ns() - begun
        return ""

    def _begin(self, plan: Plan) -> None:
        self._program.forwards.update_batch(*tables.pack_endpoints(plan.put_forwards), len(plan.put_forwards))
        self.misses.begin(plan.put_on_demand)
        self.misses.stop_learning(plan.remove_on_demand)

    def _write_tables(self, plan: Plan, known: Sorted) -> None:
        program = self._program
        program.remote.delete_batch(tables.pack_keys(plan.remove_endpoints), len(plan.remove_endpoints))
        program.local.delete_batch(tables.pack_keys(plan.remove_gateways), len(plan.remove_gateways))
        program.local.delete_batch(tables.pack_keys(plan.remove_vips), len(plan.remove_vips))
        self._balancing.remove(plan.remove_services)
        self._balancing.put(plan.put_services)
        program.local.update_batch(*tables.pack_vips(plan.put_vips), len(plan.put_vips))
        self._policing.put(plan.put_policies)
        program.local.update_batch(*tables.pack_gateways(plan.put_gateways), len(plan.put_gateways))
        self._put_endpoints(plan)
        self._outside.announce(sharing.put(program, self._config.underlay_ip, plan.put_shared))
        coming = self._outside.coming(plan.put_routes)
        routing.put(program, plan)
        self._outside.begin(coming, (one.port for one in known.carried.values()))

    def _put_endpoints(self, plan: Plan) -> None:
        remote, count = self._program.remote, len(plan.put_endpoints) + sum(map(len, plan.put_columns))
        packed = tables.gathered(_packed(plan), ENDPOINTS_AT_A_TIME)
        if count > ENDPOINTS_AT_A_TIME:
            remote.update_batches(packed)
        else:
            for batch in packed:
                remote.update_batch(*batch)

    def _end(self, plan: Plan) -> None:
        routing.remove(self._program, plan)
        sharing.remove(self._program, plan.remove_shared)
        self._policing.remove(plan.remove_policies)
        self.misses.end(plan.remove_on_demand)
        self._program.forwards.delete_batch(tables.pack_keys(plan.remove_forwards), len(plan.remove_forwards))

    # ---- removing ports ----

    def _remove_ports(self, known: Sorted, identifiers: Sequence[Id]) -> list[PortResult]:
        if not identifiers:
            return []
        gone = [known.carried[one] for one in identifiers if one in known.carried]
        self._claims.withdraw(identifiers)
        errors = self._take_down(known, gone)
        self._clear(known, [known.leftovers[one] for one in identifiers if one in known.leftovers])
        return [self._result(one, errors.get(one, "")) for one in identifiers]

    def _take_down(self, known: Sorted, gone: Sequence[Carried]) -> dict[Id, str]:
        """Removes ports: first their rows, so that no packet meets a half-removed port; their records last."""
        if not gone:
            return {}
        begun = time.monotonic_ns()
        ifindexes = [one.ifindex for one in gone]
        # An address that this plan gave to another port is that port's row already, or soon.
        keys = [
            EndpointKey(one.port.vni, ip)
            for one in gone
            for ip in tables.port_ips(one.port)
            if self._claims.owner(one.port.vni, ip) in (None, one.port.id)
        ]
        self._program.ports.delete_batch(tables.pack_ifindexes(ifindexes), len(ifindexes))
        self._program.local.delete_batch(tables.pack_keys(keys), len(keys))
        macs = [_mac_of(one.port) for one in gone if self._claims.mac_owner(one.port) in (None, one.port.id)]
        self._program.macs.delete_batch(tables.pack_mac_keys(macs), len(macs))
        senders = [key for one in gone for key in tables.sender_keys(one.port, one.ifindex)]
        self._program.senders.delete_batch(b"".join(senders), len(senders))
        self._queues.remove(number for one in gone for number in one.queues.numbers())
        self._outside.withdraw([one.port for one in gone], self._claims.others(one.port for one in gone))
        # Another port may get the interface's number: it must not find this one's connections.
        self._policing.renew()
        self._tables_ns += time.monotonic_ns() - begun
        errors = self._hands.remove([Job(one.port, one.ifindex) for one in gone])
        begun = time.monotonic_ns()
        self._program.forget_counters(ifindexes)
        self._records.forget([one.ifindex for one in gone if one.port.id not in errors])
        self._tables_ns += time.monotonic_ns() - begun
        for one in gone:
            del known.carried[one.port.id]
        if errors:
            # What stayed is a leftover now: found, named and tried again.
            self._doubted = True
        return errors

    def _clear(self, known: Sorted, leftovers: Sequence[Leftover]) -> None:
        """Removes what is left of ports that were not whole."""
        if not leftovers:
            return
        ifindexes = [ifindex for one in leftovers for ifindex in one.ifindexes]
        self._program.ports.delete_batch(tables.pack_ifindexes(ifindexes), len(ifindexes))
        mine = {ifindex for one in leftovers for ifindex in one.links}
        error = self._hands.delete_links(sorted(mine))
        self._hands.detach(ifindex for ifindex in ifindexes if ifindex not in mine)
        for one in leftovers:
            if one.own_netns:
                with suppress(OSError):
                    netns.delete(self._config.netns_dir / format_id(one.id))
            known.leftovers.pop(one.id, None)
        self._program.forget_counters(ifindexes)
        if not error:
            self._records.forget(ifindexes)

    # ---- putting ports ----

    def _put_ports(self, known: Sorted, wanted: Sequence[LocalPort]) -> list[PortResult]:
        if not wanted:
            return []
        results: dict[Id, PortResult] = {}
        latest = {port.id: port for port in wanted}
        # All let go first, so that two ports may swap addresses.
        self._claims.withdraw(latest)
        changes: list[Change] = []
        fresh: list[LocalPort] = []
        for port in latest.values():
            old = known.carried.get(port.id)
            refused = wiring.refuse(port, self._underlay.mtu) or self._outside.refuse(port) or self._claims.claim(port)
            if refused:
                results[port.id] = self._result(port.id, refused)
                if old is not None:
                    self._claims.claim(old.port)
            elif old is not None and wiring.changes_in_place(old.port, port):
                changes.append(Change(old.port, port, old.ifindex, old.attached, old.right))
            else:
                fresh.append(port)
        fresh += self._change(known, changes, results)
        self._make(known, fresh, results)
        return [results[identifier] for identifier in latest]

    def _change(self, known: Sorted, changes: Sequence[Change], results: dict[Id, PortResult]) -> list[LocalPort]:
        """Changes ports in place; returns those that must be made anew."""
        if not changes:
            return []
        errors = self._hands.change([one for one in changes if not wiring.only_tables(one.old, one.new, one.right)])
        done = [one for one in changes if one.new.id not in errors]
        begun = time.monotonic_ns()
        old = {EndpointKey(one.old.vni, ip) for one in done for ip in tables.port_ips(one.old)}
        new = {EndpointKey(one.new.vni, ip) for one in done for ip in tables.port_ips(one.new)}
        gone = sorted(old - new)
        self._program.local.delete_batch(tables.pack_keys(gone), len(gone))
        gone_macs = sorted({_mac_of(one.old) for one in done} - {_mac_of(one.new) for one in done})
        self._program.macs.delete_batch(tables.pack_mac_keys(gone_macs), len(gone_macs))
        self._drop_senders(done)
        self._outside.withdraw([one.old for one in done], [one.new for one in done])
        if any((one.old.vni, one.old.identity) != (one.new.vni, one.new.identity) for one in done):
            self._policing.renew()
        self._tables_ns += time.monotonic_ns() - begun
        jobs = [Job(one.new, one.ifindex) for one in done]
        self._records.keep(jobs)
        refused = self._carry(known, jobs, results, zero=False)
        for identifier, error in refused.items():
            results[identifier] = self._result(identifier, error)
        return [one.new for one in changes if one.new.id in errors]

    def _drop_senders(self, changes: Sequence[Change]) -> None:
        """What ports may not send from any more."""
        before = {key for one in changes for key in tables.sender_keys(one.old, one.ifindex)}
        after = {key for one in changes for key in tables.sender_keys(one.new, one.ifindex)}
        gone = sorted(before - after)
        self._program.senders.delete_batch(b"".join(gone), len(gone))

    def _make(self, known: Sorted, fresh: Sequence[LocalPort], results: dict[Id, PortResult]) -> None:
        """Makes ports anew; what there is of them goes first."""
        if not fresh:
            return
        stuck = self._take_down(known, [known.carried[port.id] for port in fresh if port.id in known.carried])
        self._clear(known, [known.leftovers[port.id] for port in fresh if port.id in known.leftovers])
        jobs = []
        taken: dict[int, Id] = {}
        adoptable: dict[str, int] = {}
        if any(port.kind is PortKind.ADOPTED for port in fresh):
            taken = {one.ifindex: one.port.id for one in known.carried.values()}
            adoptable = {link.name: link.ifindex for link in links.links(self._hands.netlink)}
        for port in fresh:
            if port.id in stuck:
                results[port.id] = self._result(port.id, stuck[port.id])
                continue
            if port.kind is not PortKind.ADOPTED:
                jobs.append(Job(port, self._indexes.take()))
                continue
            error = self._adopt(port, adoptable.get(port.interface, 0), taken, jobs)
            if error:
                results[port.id] = self._result(port.id, error)
        try:
            self._records.keep(jobs)
        except DataPlaneError as error:
            results |= {job.port.id: self._result(job.port.id, str(error)) for job in jobs}
            return
        errors = self._hands.make(jobs, lambda made: self._carry(known, made, results, zero=True))
        self._records.forget([job.ifindex for job in jobs if job.port.id in errors])
        self._claims.withdraw(errors)
        for identifier, text in errors.items():
            results[identifier] = self._result(identifier, text)

    def _adopt(self, port: LocalPort, ifindex: int, taken: dict[int, Id], jobs: list[Job]) -> str:
        if not ifindex:
            return f"interface '{port.interface}' is not there: make it before the port adopts it"
        if ifindex == self._underlay.ifindex:
            return f"interface '{port.interface}' is the underlay device: it cannot be a port"
        if ifindex == self._outside.ifindex:
            return f"interface '{port.interface}' is the external device: it cannot be a port"
        if ifindex in taken:
            return f"interface '{port.interface}' belongs to port {format_id(taken[ifindex])}: remove that port first"
        taken[ifindex] = port.id
        jobs.append(Job(port, ifindex))
        return ""

    def _carry(self, known: Sorted, jobs: Sequence[Job], results: dict[Id, PortResult], *, zero: bool) -> dict[Id, str]:
        """Writes the rows of ports that are wired: what they need to send, then `local`, which lets them send from an
        address and leads to it, then `macs` (docs/decisions/0026).
        """
        begun = time.monotonic_ns()
        has = {job.port.id: self._queues_of(known, job) for job in jobs}
        try:
            given = self._queues.give([(job.port, has[job.port.id]) for job in jobs])
        except DataPlaneError as error:
            return {job.port.id: str(error) for job in jobs}
        jobs = [job for job in jobs if job.port.id in given.queues]
        ifindexes = [job.ifindex for job in jobs]
        own = {identifier: has_now.own for identifier, has_now in given.queues.items()}
        ends = [end for job in jobs for end in _ends(job, own[job.port.id])]
        rows = [(job.ifindex, _row(job, own[job.port.id])) for job in jobs]
        before = [known.carried[job.port.id].port for job in jobs if job.port.id in known.carried]
        were = {(port.id, ip) for port in before for ip in (*port.outer_ips(), *tables.port_ips(port))}
        try:
            outer = [(job.port.id, ip) for job in jobs for ip in self._outside.outer_ips(job.port)]
            senders = [key for job in jobs for key in tables.sender_keys(job.port, job.ifindex)]
            self._program.senders.update_batch(b"".join(senders), tables.SENDER_VALUE * len(senders), len(senders))
            routers = b"".join([tables.port_routers(job.port) for job in jobs])
            self._program.routers.update_batch(tables.pack_ifindexes(ifindexes), routers, len(jobs))
            self._outside.put(jobs, {identifier: now.eips for identifier, now in given.queues.items()})
            if zero:
                self._program.zero_counters(ifindexes)
            self._program.ports.update_batch(*tables.pack_ports(rows), len(rows))
            self._program.local.update_batch(*tables.pack_locals(ends), len(ends))
            macs = [(_mac_of(job.port), _local(job, own[job.port.id])) for job in jobs]
            self._program.macs.update_batch(*tables.pack_macs(macs), len(macs))
            for identifier, now in given.queues.items():
                self._queues.remove(has[identifier].numbers() - now.numbers())
        except DataPlaneError as error:
            self._doubted = True
            keys = [key for key, _ in ends]
            self._program.ports.delete_batch(tables.pack_ifindexes(ifindexes), len(ifindexes))
            self._program.local.delete_batch(tables.pack_keys(keys), len(keys))
            self._program.macs.delete_batch(tables.pack_mac_keys(_mac_of(job.port) for job in jobs), len(jobs))
            return {job.port.id: str(error) for job in jobs}
        finally:
            self._tables_ns += time.monotonic_ns() - begun
        self._outside.announce(ip for owner, ip in outer if (owner, ip) not in were)
        for job in jobs:
            known.carried[job.port.id] = Carried(job.port, job.ifindex, True, True, given.queues[job.port.id])
            results[job.port.id] = self._result(job.port.id)
        return given.errors

    @staticmethod
    def _queues_of(known: Sorted, job: Job) -> PortQueues:
        """What the port has on that very interface."""
        old = known.carried.get(job.port.id)
        return old.queues if old is not None and old.ifindex == job.ifindex else PortQueues()


def _ends(job: Job, has: Queues) -> tuple[tuple[EndpointKey, LocalRow], ...]:
    return tables.port_endpoints(job.port, job.ifindex, peer=is_peer(job.port), queues=has)


def _row(job: Job, has: Queues) -> PortRow:
    return tables.port_row(job.port, peer=is_peer(job.port), queues=has)


def _local(job: Job, has: Queues) -> LocalRow:
    return tables.port_local(job.port, job.ifindex, peer=is_peer(job.port), queues=has)


def _mac_of(port: LocalPort) -> MacKey:
    return MacKey(port.vni, port.mac)


def _packed(plan: Plan) -> Iterator[tables.Batch]:
    """Its endpoints, as the kernel is to take them in."""
    size, rows = ENDPOINTS_AT_A_TIME, plan.put_endpoints
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        yield *tables.pack_endpoints(part), len(part)
    for columns in plan.put_columns:
        for piece in columns.parts(size):
            yield *tables.pack_columns(piece), len(piece)
