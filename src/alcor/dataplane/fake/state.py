"""What the software switch holds: tables, devices and counters, and their file. Called by the switch and the driver.

`Carried` plays the part of the kernel. With a directory it outlives the process, so that a restarted agent finds it as
it was: the file is written whole and renamed into place, and never synced to disk, for no kernel's state outlives a
reboot.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from alcor.dataplane.base import (
    OUTSIDE,
    DataPlaneError,
    EipLimit,
    LocalPort,
    Policy,
    PolicyKey,
    PortCounters,
    RateLimit,
    Route,
    RouteKey,
    ServiceKey,
    SharedAddress,
    TranslationKey,
)
from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import Endpoint, EndpointKey
from alcor.dataplane.fake import queues
from alcor.dataplane.fake.frames import ETHERNET_LENGTH
from alcor.dataplane.fake.lb import BalanceTables, ServiceRow
from alcor.dataplane.fake.policy import PolicyTables
from alcor.dataplane.fake.queues import Queue
from alcor.dataplane.fake.sharing import SharingTables
from alcor.dataplane.fake.tables import (
    DSCP_MARKED,
    EipRow,
    ExternalDevice,
    ForwardingKey,
    ForwardingRow,
    HostConfig,
    LocalFlag,
    LocalRow,
    MacKey,
    PortFlag,
    PortRow,
    RemoteRow,
    Sender,
    Tables,
    Use,
)
from alcor.dataplane.fake.walk import ENCAP_MAX_LENGTH, Count, Direction
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, format_ip, format_mac, ip_version, with_link_local
from alcor.model.ids import Id, format_id
from alcor.model.nouns import Eip, PortKind

FILE_NAME = "switch.msgpack"
FIRST_IFINDEX = 100
MIN_MTU, MAX_MTU = 68, ENCAP_MAX_LENGTH - ETHERNET_LENGTH
"""The smallest of IPv4 (RFC 791), and what fits a datagram of the underlay with the tunnel's headers before it."""


class Device(msgspec.Struct, frozen=True, gc=False):
    """An interface made or taken for a port. Without a row in `ports` it is half-made: an orphan."""

    name: str
    port: LocalPort


class Traffic(msgspec.Struct, gc=False, array_like=True):
    """A row of `counters`: packets and bytes that the workload sent and was given."""

    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0


class State(msgspec.Struct, kw_only=True):
    """Everything that outlives the process. Keyed tables are lists of rows, as a file likes them."""

    next_ifindex: int = FIRST_IFINDEX
    devices: dict[int, Device] = {}
    ports: dict[int, PortRow] = {}
    local: list[tuple[int, Ip, LocalRow]] = []
    remote: list[tuple[int, Ip, RemoteRow]] = []
    forwards: list[tuple[int, Ip, RemoteRow]] = []
    on_demand: set[int] = set()
    traffic: dict[int, Traffic] = {}
    policies: list[Policy] = []
    routes: list[tuple[RouteKey, Route]] = []
    translations: list[tuple[TranslationKey, int]] = []
    eips: list[tuple[int, Ip, EipRow]] = []
    forwardings: list[tuple[ForwardingKey, ForwardingRow]] = []
    services: list[ServiceRow] = []
    shared: dict[Ip, SharedAddress] = {}
    drops: dict[int, dict[int, int]] = {}
    """Interface to reason to count."""
    foreign: set[str] = set()
    """Interfaces and namespaces that somebody else made: the driver may use them and never removes them."""


def load(directory: Path) -> State:
    """What was saved there, or an empty state. Raises DataPlaneError when the file is not readable as one."""
    path = directory / FILE_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return State()
    try:
        return msgspec.msgpack.decode(data, type=State)
    except msgspec.DecodeError as error:
        raise DataPlaneError(
            f"{path} is no state of the fake data plane ({error}); remove it and start again"
        ) from error


def save(directory: Path, state: State) -> None:
    """Replaces what is saved there, as a whole. Raises DataPlaneError when the file cannot be written."""
    path = directory / FILE_NAME
    fresh = path.with_suffix(".new")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(msgspec.msgpack.encode(state))
        fresh.replace(path)
    except OSError as error:
        raise DataPlaneError(
            f"cannot save the fake data plane to {path}: {error}; make room or choose another"
        ) from error


class Carried:
    """A fake host's devices, tables and counters. Not thread-safe: the switch's lock is held around every call."""

    def __init__(self, config: HostConfig, kept: State, external: ExternalDevice | None = None) -> None:
        self.tables = Tables(
            config=config,
            ports=kept.ports,
            local={EndpointKey(vni, ip): row for vni, ip, row in kept.local},
            remote={EndpointKey(vni, ip): row for vni, ip, row in kept.remote},
            forwards={EndpointKey(vni, ip): row for vni, ip, row in kept.forwards},
            on_demand=kept.on_demand,
            senders={ifindex: _senders(device.port) for ifindex, device in kept.devices.items()},
            routes=dict(kept.routes),
            translations=dict(kept.translations),
            routers={ifindex: _routers(device.port) for ifindex, device in kept.devices.items()},
            macs={
                MacKey(row.vni, row.mac): _local_row(ifindex, kept.devices[ifindex].port)
                for ifindex, row in kept.ports.items()
            },
            policy=PolicyTables(policies={policy.key: policy for policy in kept.policies}),
            external=external,
            eips={EndpointKey(vni, ip): row for vni, ip, row in kept.eips},
            forwardings=dict(kept.forwardings),
            balance=BalanceTables(services={row.service.key: row for row in kept.services}),
            sharing=SharingTables(kept.shared),
        )
        self.devices = kept.devices
        self.queues: dict[int, Queue] = {}
        for ifindex, device in kept.devices.items():
            queues.put(self.queues, device.port, ifindex)
        self.foreign = kept.foreign
        self._ifindex_of = {device.port.id: ifindex for ifindex, device in kept.devices.items()}
        self._addresses_of: dict[int, set[EndpointKey]] = {}
        for key, row in self.tables.local.items():
            self._addresses_of.setdefault(row.ifindex, set()).add(key)
        self._traffic = kept.traffic
        self._drops = kept.drops
        self._next_ifindex = kept.next_ifindex

    def state(self) -> State:
        """Everything, as a record for the file."""
        return State(
            next_ifindex=self._next_ifindex,
            devices=self.devices,
            ports=self.tables.ports,
            local=[(*key, row) for key, row in self.tables.local.items()],
            remote=[(*key, row) for key, row in self.tables.remote.items()],
            forwards=[(*key, row) for key, row in self.tables.forwards.items()],
            on_demand=self.tables.on_demand,
            traffic=self._traffic,
            drops=self._drops,
            policies=list(self.tables.policy.policies.values()),
            routes=list(self.tables.routes.items()),
            translations=list(self.tables.translations.items()),
            eips=[(*key, row) for key, row in self.tables.eips.items()],
            forwardings=list(self.tables.forwardings.items()),
            services=list(self.tables.balance.services.values()),
            shared=self.tables.sharing.shared,
            foreign=self.foreign,
        )

    # ---- ports ----

    def ifindex_of(self, port_id: Id) -> int | None:
        """The port's interface, whole or half-made."""
        return self._ifindex_of.get(port_id)

    def put_port(self, port: LocalPort) -> None:
        """Carries the port: its row in `ports` says that it is wired. Raises DataPlaneError."""
        outer = port.outer_ips()
        if outer and self.tables.external is None:
            raise DataPlaneError(f"address {format_ip(outer[0])}: this host has no external device")
        ifindex = self.ifindex_of(port.id)
        if ifindex is not None and _place(self.devices[ifindex].port) != _place(port):
            self.remove_device(ifindex)
            ifindex = None
        if ifindex is None:
            ifindex = self.add_device(port)
        self.devices[ifindex] = Device(self.devices[ifindex].name, port)
        self._forget_addresses(ifindex)
        own = {EndpointKey(port.vni, ip) for ip in with_link_local(tuple([one.ip for one in port.addresses]), port.mac)}
        claimed = {EndpointKey(port.vni, claim.ip): claim.mac for claim in port.claims}
        self._addresses_of[ifindex] = own | claimed.keys()
        sent, received = queues.numbers(port, ifindex)
        queues.put(self.queues, port, ifindex)
        row = _local_row(ifindex, port)
        self.tables.local.update(dict.fromkeys(own, row))
        self.tables.local.update((key, msgspec.structs.replace(row, mac=mac)) for key, mac in claimed.items())
        self._forget_mac(ifindex)
        self.tables.macs[MacKey(port.vni, port.mac)] = row
        self.tables.routers[ifindex] = _routers(port)
        self.tables.senders[ifindex] = _senders(port)
        self.tables.eips.update(_eips(port, ifindex))
        self.tables.forwardings.update(_forwardings(port, ifindex))
        self._traffic.setdefault(ifindex, Traffic())
        old = self.tables.ports.get(ifindex)
        self.tables.ports[ifindex] = PortRow(
            id=port.id,
            vni=port.vni,
            mtu=port.mtu,
            mac=port.mac,
            flags=_flags(port),
            identity=port.identity,
            queue_out=sent,
            queue_in=received,
            dscp=0 if port.dscp is None else DSCP_MARKED | port.dscp,
        )
        if old is not None and (old.vni, old.identity) != (port.vni, port.identity):
            self.tables.policy.generation += 1

    def taken(self, wanted: Sequence[LocalPort]) -> dict[Id, str]:
        """Which of these ports cannot be carried because another has their MAC or address, and which other that is.

        The ports of one plan let go of what they had before any takes anew, so two of them may swap addresses.
        """
        putting = {port.id for port in wanted}
        owner = {
            claim: row.id
            for ifindex, row in self.tables.ports.items()
            if row.id not in putting
            for claim in _claims(self.devices[ifindex].port)
        }
        refused: dict[Id, str] = {}
        for port in wanted:
            for (vni, what), text in _claims(port).items():
                other = owner.get((vni, what), port.id)
                if other != port.id:
                    refused[port.id] = f"{text} is taken by port {format_id(other)} in VNI {vni}: choose another"
                    break
            else:
                owner.update(dict.fromkeys(_claims(port), port.id))
        return refused

    def add_device(self, port: LocalPort) -> int:
        """Makes or takes the port's interface; returns its ifindex, never one used before. Raises DataPlaneError."""
        if not MIN_MTU <= port.mtu <= MAX_MTU:
            raise DataPlaneError(f"mtu {port.mtu} does not fit: from {MIN_MTU} to {MAX_MTU} (the underlay's less 50)")
        adopted = port.kind is PortKind.ADOPTED
        needs = port.interface if adopted else port.netns
        if needs and needs not in self.foreign:
            what = "interface" if adopted else "namespace"
            raise DataPlaneError(f"port {format_id(port.id)}: there is no {what} {needs}; make it, then try again")
        ifindex, self._next_ifindex = self._next_ifindex, self._next_ifindex + 1
        name = port.interface if adopted else f"fake{ifindex}"
        self.devices[ifindex] = Device(name, port)
        self._ifindex_of[port.id] = ifindex
        return ifindex

    def remove_device(self, ifindex: int) -> None:
        """Undoes all that was made for a port, its counters too. What somebody else made stays."""
        self._forget_mac(ifindex)
        self.tables.ports.pop(ifindex, None)
        self.tables.senders.pop(ifindex, None)
        self.tables.routers.pop(ifindex, None)
        self._forget_addresses(ifindex)
        queues.remove(self.queues, ifindex)
        self._traffic.pop(ifindex, None)
        self._drops.pop(ifindex, None)
        del self._ifindex_of[self.devices.pop(ifindex).port.id]

    def _forget_mac(self, ifindex: int) -> None:
        row = self.tables.ports.get(ifindex)
        if row is not None:
            key = MacKey(row.vni, row.mac)
            # Another port may have been given the MAC meanwhile: its row stays.
            if key in self.tables.macs and self.tables.macs[key].ifindex == ifindex:
                del self.tables.macs[key]

    def _forget_addresses(self, ifindex: int) -> None:
        for key in self._addresses_of.pop(ifindex, ()):
            # Another port may have been given the address meanwhile: its row stays.
            if key in self.tables.local and self.tables.local[key].ifindex == ifindex:
                del self.tables.local[key]
        for key in [key for key, row in self.tables.eips.items() if row.ifindex == ifindex]:
            del self.tables.eips[key]
        for name in [name for name, row in self.tables.forwardings.items() if row.other.ifindex == ifindex]:
            del self.tables.forwardings[name]

    # ---- reading ----

    def ports(self) -> dict[Id, LocalPort]:
        """The whole ports as the tables have them, sorted by interface: what a row does not say is not reported."""
        return {row.id: self._port(ifindex, row) for ifindex, row in sorted(self.tables.ports.items())}

    def _port(self, ifindex: int, row: PortRow) -> LocalPort:
        wired = self.devices[ifindex].port
        return LocalPort(
            id=row.id,
            vni=row.vni,
            mac=row.mac,
            addresses=tuple(address for address in wired.addresses if self._answers(ifindex, row.vni, address.ip)),
            mtu=row.mtu,
            admin_state_up=bool(row.flags & PortFlag.UP),
            routed=bool(row.flags & PortFlag.ROUTED),
            kind=wired.kind,
            netns=wired.netns,
            interface=wired.interface,
            identity=row.identity,
            port_security=not row.flags & PortFlag.OPEN,
            pairs=wired.pairs,
            routes=bool(row.flags & PortFlag.ROUTES),
            balanced=wired.balanced,
            served=bool(row.flags & PortFlag.SERVED),
            egress_limit=self._limit(row.queue_out),
            ingress_limit=self._limit(row.queue_in),
            dscp=row.dscp & ~DSCP_MARKED if row.dscp else None,
            eips=tuple(eip for eip in wired.eips if self._translates(ifindex, row.vni, eip)),
            forwardings=tuple(
                one
                for one in wired.forwardings
                if _forwardings(msgspec.structs.replace(wired, forwardings=(one,)), ifindex).items()
                <= self.tables.forwardings.items()
            ),
            eip_limits=self._eip_limits(wired),
            claims=tuple(claim for claim in wired.claims if self._answers(ifindex, row.vni, claim.ip)),
        )

    def _eip_limits(self, wired: LocalPort) -> tuple[EipLimit, ...]:
        """As the rows of its external addresses have them."""
        inside: dict[Ip, EipRow | None] = {
            one.ip: self.tables.eips.get(EndpointKey(wired.vni, one.inside)) for one in wired.eips
        }
        for one in wired.forwardings:
            key = ForwardingKey(wired.vni, one.inside, one.protocol, one.inside_port)
            row = self.tables.forwardings.get(key)
            inside[one.ip] = row.other if row is not None else None
        found = []
        for ip, leaves in sorted(inside.items()):
            comes = self.tables.eips.get(EndpointKey(OUTSIDE, ip))
            limits = [self._limit(row.queue if row is not None else 0) for row in (leaves, comes)]
            if any(limits):
                found.append(EipLimit(ip, *limits))
        return tuple(found)

    def _limit(self, number: int) -> RateLimit | None:
        queue = self.queues.get(number)
        return queue.limit if queue is not None else None

    def _answers(self, ifindex: int, vni: int, ip: Ip) -> bool:
        row = self.tables.local.get(EndpointKey(vni, ip))
        return row is not None and row.ifindex == ifindex

    def _translates(self, ifindex: int, vni: int, eip: Eip) -> bool:
        keys = (EndpointKey(vni, eip.inside), EndpointKey(OUTSIDE, eip.ip))
        return all(key in self.tables.eips and self.tables.eips[key].ifindex == ifindex for key in keys)

    def endpoints(self) -> dict[EndpointKey, Endpoint]:
        """The rows of `remote` that were preloaded, sorted."""
        preloaded = [one for one in self.tables.remote.items() if one[1].use == Use.PRELOADED]
        return {key: _endpoint(row) for key, row in sorted(preloaded, key=_by_key)}

    def learnt(self) -> tuple[EndpointKey, ...]:
        """The addresses of VPCs on demand of which something is known, sorted."""
        return tuple(sorted(key for key, row in self.tables.remote.items() if row.use != Use.PRELOADED))

    def forwards(self) -> dict[EndpointKey, Endpoint]:
        """The rows of `forwards`, sorted."""
        return {key: _endpoint(row) for key, row in sorted(self.tables.forwards.items(), key=_by_key)}

    def end_on_demand(self, vnis: Sequence[int]) -> None:
        """These VNIs are on demand no more; what was learnt of them goes."""
        if vnis:
            self.tables.on_demand.difference_update(vnis)
            for key in [key for key in self.learnt() if key.vni in vnis]:
                del self.tables.remote[key]

    def gateways(self) -> frozenset[EndpointKey]:
        """The gateways in `local`."""
        return frozenset(key for key, row in self.tables.local.items() if row.flags & LocalFlag.GATEWAY)

    def answers(self) -> frozenset[Ip]:
        """The shared addresses that this host answers for."""
        shared = self.tables.sharing.shared.items()
        return frozenset(ip for ip, one in shared if one.answerer == self.tables.config.underlay_ip)

    def orphans(self) -> dict[str, int]:
        """Half-made devices: name to ifindex, sorted."""
        half = ((device.name, index) for index, device in self.devices.items() if index not in self.tables.ports)
        return dict(sorted(half))

    def counters(self) -> dict[Id, PortCounters]:
        """Traffic per port since it was made."""
        return {row.id: self._counters(ifindex) for ifindex, row in sorted(self.tables.ports.items())}

    def _counters(self, ifindex: int) -> PortCounters:
        traffic, drops = self._traffic[ifindex], self._drops.get(ifindex, {})
        return PortCounters(
            sent_packets=traffic.sent_packets,
            sent_bytes=traffic.sent_bytes,
            received_packets=traffic.received_packets,
            received_bytes=traffic.received_bytes,
            dropped={DropReason(reason).word: count for reason, count in sorted(drops.items())},
        )

    # ---- policies, gateways, endpoints, counting ----

    def put_policies(self, policies: Sequence[Policy]) -> None:
        """Makes these policies so: every connection is held against them with its next packet."""
        if policies:
            self.tables.policy.policies.update({policy.key: policy for policy in policies})
            self.tables.policy.generation += 1

    def remove_policies(self, keys: Sequence[PolicyKey]) -> None:
        """An absent one is removed already."""
        if keys:
            for key in keys:
                self.tables.policy.policies.pop(key, None)
            self.tables.policy.generation += 1

    def policies(self) -> dict[PolicyKey, int]:
        """The policies' digests, sorted."""
        return {key: policy.digest() for key, policy in sorted(self.tables.policy.policies.items())}

    def put_gateway(self, key: EndpointKey) -> None:
        """Answers for the gateway's address."""
        self.tables.local[key] = LocalRow(0, int(LocalFlag.GATEWAY), ROUTER_MAC)

    def remove_gateway(self, key: EndpointKey) -> None:
        """Answers for it no more. A port's address by that key stays."""
        row = self.tables.local.get(key)
        if row is not None and row.flags & LocalFlag.GATEWAY:
            del self.tables.local[key]

    def put_vip(self, key: EndpointKey, mac: Mac) -> None:
        """Answers for a load balancer's address."""
        self.tables.local[key] = LocalRow(0, int(LocalFlag.VIP), mac)

    def remove_vip(self, key: EndpointKey) -> None:
        """Answers for it no more. A port's address by that key stays."""
        row = self.tables.local.get(key)
        if row is not None and row.flags & LocalFlag.VIP:
            del self.tables.local[key]

    def vips(self) -> dict[EndpointKey, Mac]:
        """Load balancers' addresses, sorted."""
        found = {key: row.mac for key, row in self.tables.local.items() if row.flags & LocalFlag.VIP}
        return dict(sorted(found.items()))

    def services(self) -> dict[ServiceKey, int]:
        """The services' digests, sorted."""
        return {key: row.service.digest() for key, row in sorted(self.tables.balance.services.items())}

    def count(self, one: Count) -> None:
        """Adds a packet to a port's counters, if it has any."""
        traffic = self._traffic.get(one.ifindex)
        if traffic is None:
            return
        if one.direction is Direction.SENT:
            traffic.sent_packets += 1
            traffic.sent_bytes += one.length
        else:
            traffic.received_packets += 1
            traffic.received_bytes += one.length

    def count_drop(self, ifindex: int, reason: DropReason) -> None:
        """Adds a dropped packet."""
        reasons = self._drops.setdefault(ifindex, {})
        reasons[int(reason)] = reasons.get(int(reason), 0) + 1


def _senders(port: LocalPort) -> tuple[Sender, ...]:
    return tuple(Sender(pair.mac, pair.prefix) for pair in port.pairs)


def _routers(port: LocalPort) -> tuple[Ip | None, Ip | None]:
    """The first gateway of each family."""
    found: dict[int, Ip] = {}
    for one in port.addresses if port.routed else ():
        if one.gateway is not None:
            found.setdefault(ip_version(one.gateway), one.gateway)
    return found.get(4), found.get(6)


def _local_row(ifindex: int, port: LocalPort) -> LocalRow:
    _, received = queues.numbers(port, ifindex)
    flags = (0 if port.admin_state_up else LocalFlag.DOWN) | (LocalFlag.BALANCED if port.balanced else 0)
    return LocalRow(ifindex, int(flags), port.mac, port.identity, received)


def _eips(port: LocalPort, ifindex: int) -> dict[EndpointKey, EipRow]:
    rows = {}
    for one in port.eips:
        mask = (0xFFFFFFFF << (32 - one.prefix_length)) & 0xFFFFFFFF
        sent, received = queues.eip_numbers(port, one.ip)
        rows[EndpointKey(port.vni, one.inside)] = EipRow(one.ip, OUTSIDE, ifindex, one.gateway, mask, sent)
        rows[EndpointKey(OUTSIDE, one.ip)] = EipRow(one.inside, port.vni, ifindex, queue=received)
    for forwarding in port.forwardings:
        _, received = queues.eip_numbers(port, forwarding.ip)
        rows[EndpointKey(OUTSIDE, forwarding.ip)] = EipRow(Ip(bytes(16)), OUTSIDE, ifindex, queue=received)
    return rows


def _forwardings(port: LocalPort, ifindex: int) -> dict[ForwardingKey, ForwardingRow]:
    rows = {}
    for one in port.forwardings:
        mask = (0xFFFFFFFF << (32 - one.prefix_length)) & 0xFFFFFFFF
        sent, _ = queues.eip_numbers(port, one.ip)
        outer, inner = EipRow(one.ip, OUTSIDE, ifindex, one.gateway, mask, sent), EipRow(one.inside, port.vni, ifindex)
        rows[ForwardingKey(port.vni, one.inside, one.protocol, one.inside_port)] = ForwardingRow(outer, one.port)
        rows[ForwardingKey(OUTSIDE, one.ip, one.protocol, one.port)] = ForwardingRow(inner, one.inside_port)
    return rows


def _flags(port: LocalPort) -> int:
    flags = PortFlag.ROUTED if port.routed else PortFlag(0)
    flags |= PortFlag.UP if port.admin_state_up else PortFlag(0)
    flags |= PortFlag(0) if port.port_security else PortFlag.OPEN
    flags |= PortFlag.ROUTES if port.routes else PortFlag(0)
    flags |= PortFlag.SERVED if port.served else PortFlag(0)
    return int(flags | (PortFlag.PAIRS if port.pairs else PortFlag(0)))


def _claims(port: LocalPort) -> dict[tuple[int, bytes], str]:
    """What the port alone may have in its VNI, and how to say it."""
    claims: dict[tuple[int, bytes], str] = {(port.vni, port.mac): f"MAC {format_mac(port.mac)}"}
    claims.update({(port.vni, one.ip): f"address {format_ip(one.ip)}" for one in port.addresses})
    claims.update({(OUTSIDE, ip): f"address {format_ip(ip)}" for ip in port.outer_ips()})
    return claims


def _place(port: LocalPort) -> tuple[PortKind, str, str]:
    """What cannot change in place: another place means another device."""
    return port.kind, port.netns, port.interface


def _endpoint(row: RemoteRow) -> Endpoint:
    return Endpoint(row.mac, row.host_ip, row.identity)


def _by_key(row: tuple[EndpointKey, RemoteRow]) -> EndpointKey:
    return row[0]
