"""Why a packet arrives or not: desired state of everybody that it meets, put before the model of the data plane.

Fills services.reachability.ReachabilityView; wired by roles, called by api on a reader's thread. The hosts (scene.py)
are made of rows, as far as this one packet meets them; then the model that backs the `fake` driver, and that the
compiled programs are held against, says what happens, step by step and from host to host: through tunnels, out of an
external device and in again at another's, and to whom a load balancer gives it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from alcor.dataplane.base import Backend, Service, ServiceKey
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import ETHERNET_LENGTH
from alcor.dataplane.fake.lb import Way
from alcor.dataplane.fake.nat import from_external
from alcor.dataplane.fake.packet import PORTED, Packet, read_packet
from alcor.dataplane.fake.pipeline import from_overlay, from_port
from alcor.dataplane.fake.policy import Party, allowing_rule
from alcor.dataplane.fake.tables import HostConfig, Tables
from alcor.dataplane.fake.walk import Verdict, VerdictKind
from alcor.dataplane.roads import router_addresses
from alcor.loops.scene import EXTERNAL, MANY, Balancer, Scene, read_balancer, vips
from alcor.loops.surroundings import Place, Surroundings, open_port
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, format_ip, ip_version
from alcor.model.ids import Id, format_id
from alcor.model.nouns import Eip, FixedIp, FloatingIp, Forwarding, Port, PortForwarding
from alcor.services.errors import FloatingIPNotFound, InvalidInput, PortNotFound
from alcor.services.health import HealthView, Reach
from alcor.services.reachability import Answer, MemberAnswer, Outcome, Question
from alcor.services.routers import INTERFACE_OWNER
from alcor.store.base import Query, Store

EPHEMERAL = 49_152
MAX_HOSTS = 8
"""That one packet comes by: more would be a loop."""
MEMBERS_TOLD = 64
"""Of a load balancer's members the first so many are tried one by one."""
_WORLD_MAC = Mac(b"\x02" + bytes(5))
"""Of whoever is not a port: underlay neighbours and the outside."""
_SYN = 0x02
_MOVES = frozenset((VerdictKind.TUNNEL, VerdictKind.EXTERNAL, VerdictKind.TURN))
_WORDS = {
    VerdictKind.DELIVER: Outcome.DELIVERED,
    VerdictKind.REPLY: Outcome.ANSWERED,
    VerdictKind.EXTERNAL: Outcome.LEFT,
}


class _Stop(Exception):
    """The packet gets no further, for a reason that no data plane knows."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text


class Reachability:
    """See the module."""

    def __init__(self, store: Store, health: HealthView | None = None) -> None:
        """`health` None: hosts are taken to be there."""
        self._store = store
        self._health = health

    def ask(self, question: Question) -> Answer:
        """See services.reachability."""
        case = self._case(question)
        answer = case.answer()
        members = case.try_members()
        return replace(answer, members=members) if members else answer

    def _case(self, question: Question) -> _Case:
        source = self._port(question.source) if question.source is not None else None
        if source is not None and question.project_id and source.project_id != question.project_id:
            raise PortNotFound(f"Port {format_id(source.id)} could not be found.")
        around: dict[Id, Surroundings] = {}
        if source is not None:
            self._look_around(around, source.network_id)
            target, ip = self._target(question, source, around[source.network_id])
        else:
            assert question.destination_ip is not None
            target, ip = None, question.destination_ip
        eips = self._floating_ips(ip)
        owner = self._owner(ip)
        if source is None:
            _check_seen(question, ip, [*eips, *((owner,) if owner is not None else ())])
        ports = [port for port in (source, target) if port is not None]
        ports += [owner] if owner is not None and owner not in ports else []
        ports += self._behind(eips)
        balancer = read_balancer(self._store, source.network_id, ip) if source is not None else None
        balancer = balancer or self._balancer_behind(eips, ports)
        if balancer is not None:
            ports += self._members(balancer)
        return _Case(
            question=question,
            source=source,
            target=target if balancer is None else None,
            ip=ip,
            eips=eips,
            owner=owner,
            balancer=balancer,
            scene=self._scene(around, ports, [balancer] if balancer is not None else []),
            down=self._down(ports),
        )

    def _balancer_behind(self, eips: Iterable[FloatingIp], ports: Iterable[Port]) -> Balancer | None:
        """The load balancer whose address an external address stands for, by its port."""
        where = {port.id: port.network_id for port in ports}
        for fip in eips:
            if fip.port_id in where and fip.fixed_ip is not None:
                return read_balancer(self._store, where[fip.port_id], fip.fixed_ip)
        return None

    def _scene(self, around: dict[Id, Surroundings], ports: list[Port], balancers: list[Balancer]) -> Scene:
        for port in ports:
            self._look_around(around, port.network_id)
        hosts = {port.host for port in ports if port.host}
        nodes = self._store.list_nodes(Query(filters={"name": tuple(sorted(hosts))}, limit=MANY)) if hosts else []
        groups = tuple(sorted({group for port in ports for group in port.security_groups}))
        query = Query(filters={"group_id": groups}, limit=MANY)
        services: dict[ServiceKey, Service] = {}
        for one in balancers:
            services |= one.services(around[one.row.network_id].own.goal.vni)
        return Scene(
            around,
            ports,
            {node.name: node for node in nodes},
            self._store.list_security_group_rules(query) if groups else [],
            services,
            vips(balancers, around),
        )

    def _down(self, ports: Iterable[Port]) -> frozenset[str]:
        hosts = {port.host for port in ports if port.host}
        return frozenset(
            host for host in hosts if self._health is not None and self._health.health(host).state is Reach.DOWN
        )

    def _look_around(self, around: dict[Id, Surroundings], network_id: Id) -> None:
        if network_id not in around:
            (network,) = self._store.list_networks(Query(filters={"id": (network_id,)}, limit=1))
            around[network_id] = Surroundings(self._store, network)

    def _port(self, identifier: Id) -> Port:
        found = self._store.get_ports((identifier,))
        if not found:
            raise PortNotFound(f"Port {format_id(identifier)} could not be found.")
        return found[0]

    def _floating_ips(self, ip: Ip) -> list[FloatingIp]:
        return self._store.list_rows(FloatingIp, Query(filters={"ip": (ip,)}, limit=MANY))

    def _owner(self, ip: Ip) -> Port | None:
        """The port that has the address outside as its own. A load balancer's address is not outside by itself."""
        port = open_port(self._store, ip) if ip_version(ip) == 6 else None
        if port is not None and read_balancer(self._store, port.network_id, ip) is not None:
            return None
        return port

    def _behind(self, eips: Iterable[FloatingIp]) -> list[Port]:
        """The ports that external addresses stand for, as a whole or by their ports."""
        found = {port_id for one in eips for port_id in (one.port_id, one.anchor_id) if port_id is not None}
        query = Query(filters={"floating_ip_id": tuple(one.id for one in eips)}, limit=MANY)
        found |= {one.port_id for one in self._store.list_rows(PortForwarding, query)} if query.filters else set()
        return self._store.get_ports(sorted(found))

    def _members(self, balancer: Balancer) -> list[Port]:
        ips = tuple(sorted({member.ip for member in balancer.members}))
        query = Query(filters={"network_id": (balancer.row.network_id,), "ip": ips}, limit=MANY)
        return self._store.list_ports(query) if ips else []

    def _target(self, question: Question, source: Port, around: Surroundings) -> tuple[Port | None, Ip]:
        """Who is given the packet, and its destination, of a family that the source has too."""
        asked = self._port(question.destination_port) if question.destination_port is not None else None
        if asked is not None:
            families = {ip_version(fixed.ip) for fixed in source.fixed_ips}
            ips = [fixed.ip for fixed in asked.fixed_ips if ip_version(fixed.ip) in families]
            if not ips:
                raise InvalidInput("Invalid input for operation: the two ports have no addresses of one family.")
            ip = ips[0]
        else:
            assert question.destination_ip is not None
            ip = question.destination_ip
        if not around.leaves(source) or _is_wired(source, around, ip):
            place = Place(source.network_id, ip)
        else:
            tables = Tables(config=HostConfig(Ip(bytes(16)), 0, 0))
            around.fill(tables)
            sent = next((fixed.ip for fixed in source.fixed_ips if ip_version(fixed.ip) == ip_version(ip)), ip)
            packet = _packet(sent, ip, question.protocol, question.port)
            place = around.place(tables, ip, read_packet(packet, ip_version(ip)))
        found = self._store.list_ports(Query(filters={"network_id": (place.network_id,), "ip": (place.ip,)}, limit=1))
        # A router's port is a gateway, which hosts answer for themselves.
        return (found[0] if found and found[0].device_owner != INTERFACE_OWNER else None), ip


def _check_seen(question: Question, ip: Ip, found: Iterable[FloatingIp | Port]) -> None:
    """Raises unless one of these, which have the address outside, is the asker's to see."""
    if any(question.project_id in ("", one.project_id) for one in found):
        return
    if ip_version(ip) == 6:
        raise PortNotFound(f"No port could be found that has {format_ip(ip)} outside.")
    raise FloatingIPNotFound(f"Floating IP {format_ip(ip)} could not be found")


def _is_wired(source: Port, around: Surroundings, ip: Ip) -> bool:
    """The address is in a subnet that the source has an address in."""
    own = {fixed.subnet_id for fixed in source.fixed_ips}
    return any(ip in subnet.cidr for subnet in around.subnets if subnet.id in own)


class _End(NamedTuple):
    """Where a packet ended."""

    verdict: Verdict
    receiver: Port | None
    """Who got it, or was to."""
    outside: bool
    """It came by an external network."""


class _Case:
    """One question with its rows."""

    def __init__(
        self,
        *,
        question: Question,
        source: Port | None,
        target: Port | None,
        ip: Ip,
        eips: list[FloatingIp],
        owner: Port | None,
        balancer: Balancer | None,
        scene: Scene,
        down: frozenset[str],
    ) -> None:
        self._question, self._source, self._target, self._ip = question, source, target, ip
        self._eips, self._balancer, self._scene, self._down = eips, balancer, scene, down
        self._owner = owner
        """Who has the address as its own outside."""
        self._steps: list[str] = []
        self._hushed = False
        """What follows is another project's business."""

    def answer(self) -> Answer:
        """The verdict on the packet."""
        self._steps, self._hushed = [], False
        try:
            end = self._walk()
        except _Stop as stop:
            steps = (*self._steps, stop.text)
            return Answer(outcome=Outcome.IMPOSSIBLE, reason=stop.reason, decided_by=stop.text, steps=steps)
        verdict = end.verdict
        egress, ingress = self._allowing(end)
        return Answer(
            outcome=_WORDS.get(verdict.kind, Outcome.DROPPED),
            reason=verdict.reason.word if verdict.reason is not None else "",
            decided_by=self._steps[-1],
            steps=tuple(self._steps),
            egress_rule=egress,
            ingress_rule=ingress,
        )

    def try_members(self) -> tuple[MemberAnswer, ...]:
        """For a load balancer's address: what would become of the packet at each member that the listener has."""
        if self._balancer is None or not self._owns(self._balancer.row.project_id):
            return ()
        whole, row = self._scene, self._balancer.row
        vni = whole.around[row.network_id].own.goal.vni
        services = self._balancer.services(vni)
        key = ServiceKey(vni, row.vip_ip, self._question.protocol, self._question.port)
        found = []
        for backend in services[key].backends[:MEMBERS_TOLD] if key in services else ():
            alone = Backend(backend.ip, backend.port)
            self._scene = whole.with_services({key: Service(key, (alone,))})
            answer = self.answer()
            takes = bool(backend.weight) and not backend.failed
            found.append(MemberAnswer(backend.ip, backend.port, backend.weight, takes, answer.outcome, answer.reason))
        self._scene = whole
        return tuple(found)

    # ---- the packet's way ----

    def _walk(self) -> _End:
        """Raises _Stop."""
        if self._source is None:
            assert self._question.source_ip is not None
            packet = _packet(self._question.source_ip, self._ip, self._question.protocol, self._question.port)
            ethertype = _ethertype(ip_version(self._ip))
            host, verdict = self._enter(frames.ethernet(EXTERNAL.mac, _WORLD_MAC, ethertype, packet))
            return self._follow(host, verdict, outside=True)
        if not self._source.host:
            raise _Stop("not_bound", "the source is not bound to a host: set binding:host_id")
        fixed = self._own_address(self._source)
        self._up(self._source.host)
        if self._target is not None and not self._target.host:
            raise _Stop("not_bound", "the destination is not bound to a host: set binding:host_id of its port")
        carried = self._scene.host(self._source.host)
        ifindex = carried.ifindex_of(self._source.id)
        assert ifindex is not None
        verdict = from_port(carried.tables, ifindex, self._frame(self._source, fixed))
        self._tell(self._source.host, verdict, self._receiver(self._source.host, verdict))
        return self._follow(self._source.host, verdict, outside=False)

    def _follow(self, host: str, verdict: Verdict, *, outside: bool) -> _End:
        """From host to host until it ends. Raises _Stop."""
        for _ in range(MAX_HOSTS):
            if verdict.kind not in _MOVES:
                break
            if verdict.kind is VerdictKind.TUNNEL:
                assert verdict.host_ip is not None
                host = self._scene.host_at[verdict.host_ip]
                self._up(host)
                outer = frames.ethernet(_WORLD_MAC, _WORLD_MAC, frames.TYPE_IPV4, verdict.frame)
                verdict = from_overlay(self._scene.host(host).tables, outer)
                self._tell(host, verdict, self._receiver(host, verdict))
                continue
            if verdict.kind is VerdictKind.EXTERNAL and not self._eips and self._owner is None:
                break
            frame = EXTERNAL.mac + ROUTER_MAC + verdict.frame[12:]
            host, verdict = self._enter(frame)
            outside = True
        return _End(verdict, self._receiver(host, verdict), outside)

    def _enter(self, frame: bytes) -> tuple[str, Verdict]:
        """In at the external device of the host that answers for the destination. Raises _Stop."""
        owners = [port for port in self._scene.ports.values() if any(one.ip == self._ip for one in _outside(port))]
        # A load balancer's address has no host of its own: another port has its EIP, too.
        owner = next((port for port in owners if port.host), owners[0] if owners else self._owner)
        address = format_ip(self._ip)
        if owner is not None and not owner.host and self._balancer is not None:
            raise _Stop("not_answered", f"no host that is up and has an external device answers for {address}")
        if owner is None:
            raise _Stop("not_associated", f"floating IP {address} stands for no port")
        if not owner.host:
            what = address if owner is self._owner else f"floating IP {address}"
            raise _Stop("not_bound", f"the port of {what} is not bound to a host: set binding:host_id")
        self._up(owner.host)
        verdict = from_external(self._scene.host(owner.host).tables, EXTERNAL.ifindex, frame)
        receiver = self._receiver(owner.host, verdict)
        if not (self._may_see(owner) if self._balancer is None else self._owns(self._balancer.row.project_id)):
            self._hush(f"{address}: the host that answers for it decides")
        self._tell(owner.host, verdict, receiver)
        return owner.host, verdict

    def _up(self, host: str) -> None:
        if host in self._down:
            raise _Stop("host_down", f"host {host} is down: nobody has heard of it lately; see /v2.0/agents")

    def _receiver(self, host: str, verdict: Verdict) -> Port | None:
        """The port on that host that a verdict is about, unless it is the sender."""
        if verdict.kind not in (VerdictKind.DELIVER, VerdictKind.DROP):
            return None
        found = self._scene.port_at(host, verdict.ifindex)
        own = self._source is not None and found is not None and found.id == self._source.id
        return None if own and verdict.kind is VerdictKind.DROP else found

    def _owns(self, project_id: str) -> bool:
        return self._question.project_id in ("", project_id)

    def _may_see(self, port: Port | None) -> bool:
        return port is None or self._owns(port.project_id)

    def _tell(self, host: str, verdict: Verdict, receiver: Port | None) -> None:
        """The steps; of another project's port only what it did."""
        hides = not self._may_see(receiver or self._target)
        for step in verdict.steps:
            if self._hushed:
                return
            if step.startswith("B:") and self._balancer is not None and not self._owns(self._balancer.row.project_id):
                self._hush("B: a load balancer decides")
                return
            hidden = hides and step.startswith("P:") and "enter" in step
            self._steps.append("P: the receiver's security groups decide" if hidden else f"{host}: {step}")

    def _hush(self, last: str) -> None:
        """Says this, and no more."""
        if not self._hushed:
            self._steps.append(last)
        self._hushed = True

    # ---- the packet ----

    def _own_address(self, source: Port) -> FixedIp:
        version = ip_version(self._ip)
        for fixed in source.fixed_ips:
            if ip_version(fixed.ip) == version:
                return fixed
        raise _Stop("no_address", f"the source has no address of IPv{version}, which the destination's is")

    def _frame(self, source: Port, fixed: FixedIp) -> bytes:
        """The first packet, as the source's own stack would send it."""
        around = self._scene.around[source.network_id]
        subnet = next(one for one in around.subnets if one.id == fixed.subnet_id)
        gateways = {subnet.gateway, *router_addresses(around.own)}
        if self._ip in subnet.cidr and self._ip not in gateways:
            if self._balancer is not None and self._balancer.row.vip_ip == self._ip:
                mac = Mac(self._balancer.row.vip_mac)
            elif self._target is not None:
                mac = self._target.mac
            else:
                text = f"nobody in network {format_id(source.network_id)} has {format_ip(self._ip)}"
                raise _Stop("arp_unknown" if subnet.ip_version == 4 else "nd_unknown", text)
        elif subnet.gateway is None:
            raise _Stop(
                "no_route", f"subnet {format_id(subnet.id)} has no gateway_ip, and {format_ip(self._ip)} is outside"
            )
        else:
            mac = ROUTER_MAC
        packet = _packet(fixed.ip, self._ip, self._question.protocol, self._question.port)
        return frames.ethernet(mac, source.mac, _ethertype(subnet.ip_version), packet)

    # ---- the rules ----

    def _allowing(self, end: _End) -> tuple[Id | None, Id | None]:
        """The rules that let the packet out and in, as far as it came and the asker may see."""
        receiver, source, ingress = end.receiver, self._source, None
        if receiver is not None and end.verdict.kind is VerdictKind.DELIVER and self._may_see(receiver):
            packet = read_packet(end.verdict.frame[ETHERNET_LENGTH:], ip_version(self._ip))
            ingress = self._rule(receiver, None if end.outside else source, packet, egress=False)
        if source is None:
            return None, ingress
        fixed = next(one for one in source.fixed_ips if ip_version(one.ip) == ip_version(self._ip))
        packet = read_packet(
            _packet(fixed.ip, self._ip, self._question.protocol, self._question.port), ip_version(self._ip)
        )
        chosen = self._chosen(source) if not end.outside else None
        if packet is not None and chosen is not None:
            packet.destination = chosen[0]
            packet.destination_port = packet.selector = chosen[1]
        other = None if end.outside else receiver or self._target
        return self._rule(source, other, packet, egress=True), ingress

    def _chosen(self, source: Port) -> tuple[Ip, int] | None:
        """Whom the source's host chose for a load balancer's address."""
        rows = self._scene.host(source.host).tables.balance.balanced
        return next(((row.ip, row.port) for key, row in rows.items() if key.way is Way.FORTH), None)

    def _rule(self, port: Port, other: Port | None, packet: Packet | None, *, egress: bool) -> Id | None:
        if packet is None or not port.identity:
            return None
        party = Party(self._scene.vni_of(port), 0, port.identity, self._scene.seen_by(port, other), egress)
        rule = allowing_rule(self._scene.policy(port), packet, party, egress=egress, selector=packet.selector)
        return self._scene.row_of(port, rule) if rule is not None else None


def _outside(port: Port) -> tuple[Eip | Forwarding, ...]:
    return (*port.eips, *port.forwardings)


def _ethertype(version: int) -> int:
    return frames.TYPE_IPV4 if version == 4 else frames.TYPE_IPV6


def _packet(source: Ip, destination: Ip, protocol: int, port: int) -> bytes:
    """The first packet of a connection: a SYN, a datagram, an echo request, or a bare packet of that protocol."""
    version = ip_version(destination)
    if protocol in (frames.PROTOCOL_ICMP, frames.PROTOCOL_ICMPV6):
        if version == 4:
            echo = frames.icmp_echo(frames.ICMP_ECHO_REQUEST, 1, 1, b"alcor")
            return frames.ipv4(source, destination, frames.PROTOCOL_ICMP, echo)
        message = frames.icmpv6(source, destination, struct.pack("!BBHHH", 128, 0, 0, 1, 1) + b"alcor")
        return frames.ipv6(source, destination, frames.PROTOCOL_ICMPV6, message)
    if protocol == frames.PROTOCOL_TCP:
        payload = struct.pack("!HHIIBBHHH", EPHEMERAL, port, 1, 0, 5 << 4, _SYN, 65535, 0, 0)
    elif protocol in PORTED:
        payload = struct.pack("!HHHH", EPHEMERAL, port, 8, 0)
    else:
        payload = bytes(8)
    make = frames.ipv4 if version == 4 else frames.ipv6
    return make(source, destination, protocol, payload)
