"""Why a packet arrives or not: desired state of two ports, put before the executable model of the data plane.

Fills services.reachability.ReachabilityView; wired by roles, called by api on a reader's thread. The tables of the two
hosts are made of rows, as far as this one packet meets them; then the model that backs the `fake` driver, and that the
compiled programs are held against, says what happens, step by step.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from alcor.dataplane.base import EndpointKey, Policy, PolicyKey, Rule, TranslationKey
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.packet import PORTED, read_packet
from alcor.dataplane.fake.pipeline import from_overlay, from_port
from alcor.dataplane.fake.policy import Party, PolicyTables, allowing_rule
from alcor.dataplane.fake.tables import (
    HostConfig,
    LocalFlag,
    LocalRow,
    MacKey,
    PortFlag,
    PortRow,
    RemoteRow,
    Sender,
    Tables,
)
from alcor.dataplane.fake.walk import Verdict, VerdictKind
from alcor.dataplane.roads import router_addresses
from alcor.goalstate.snapshot import rule_goal
from alcor.loops.surroundings import Place, Surroundings
from alcor.model.addresses import ROUTER_MAC, Ip, Mac, format_ip, ip_version, with_link_local
from alcor.model.ids import Id, format_id
from alcor.model.nouns import FixedIp, Node, Port, SecurityGroupRule
from alcor.services.errors import InvalidInput, PortNotFound
from alcor.services.health import HealthView, Reach
from alcor.services.reachability import Answer, Outcome, Question
from alcor.services.routers import INTERFACE_OWNER
from alcor.store.base import Query, Store

SOURCE, TARGET = 1, 2
"""Interfaces of the two ports."""
VXLAN_PORT = 4789
EPHEMERAL = 49_152
_UNDERLAY_MAC = Mac(b"\x02" + bytes(5))
_SYN = 0x02


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
        try:
            return case.answer()
        except _Stop as stop:
            return Answer(
                outcome=Outcome.IMPOSSIBLE, reason=stop.reason, decided_by=stop.text, steps=(*case.steps, stop.text)
            )

    def _case(self, question: Question) -> _Case:
        source = self._port(question.source)
        if question.project_id and source.project_id != question.project_id:
            raise PortNotFound(f"Port {format_id(source.id)} could not be found.")
        (network,) = self._store.list_networks(Query(filters={"id": (source.network_id,)}, limit=1))
        around = Surroundings(self._store, network)
        target, ip = self._target(question, source, around)
        hosts = {port.host for port in (source, target) if port is not None and port.host}
        nodes = self._store.list_nodes(Query(filters={"name": tuple(sorted(hosts))})) if hosts else []
        groups = {group for port in (source, target) if port is not None for group in port.security_groups}
        rules = (
            self._store.list_security_group_rules(Query(filters={"group_id": tuple(sorted(groups))}, limit=100_000))
            if groups
            else []
        )
        down = {host for host in hosts if self._health is not None and self._health.health(host).state is Reach.DOWN}
        return _Case(
            question=question,
            source=source,
            target=target,
            ip=ip,
            around=around,
            nodes={node.name: node for node in nodes},
            rules=rules,
            down=down,
        )

    def _port(self, identifier: Id) -> Port:
        found = self._store.get_ports((identifier,))
        if not found:
            raise PortNotFound(f"Port {format_id(identifier)} could not be found.")
        return found[0]

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


def _is_wired(source: Port, around: Surroundings, ip: Ip) -> bool:
    """The address is in a subnet that the source has an address in."""
    own = {fixed.subnet_id for fixed in source.fixed_ips}
    return any(ip in subnet.cidr for subnet in around.subnets if subnet.id in own)


class _Case:
    """One question with its rows."""

    def __init__(
        self,
        *,
        question: Question,
        source: Port,
        target: Port | None,
        ip: Ip,
        around: Surroundings,
        nodes: dict[str, Node],
        rules: Sequence[SecurityGroupRule],
        down: set[str],
    ) -> None:
        self.steps: list[str] = []
        self._question, self._source, self._target, self._ip = question, source, target, ip
        self._around, self._nodes, self._down = around, nodes, down
        self._network, self._subnets = around.networks[source.network_id], around.subnets
        self._rules: dict[tuple[Id, Rule], Id] = {}
        """(network, rule as its ports have it) -> the row."""
        self._groups: dict[tuple[Id, Id], list[Rule]] = {}
        """(network, group) -> its rules there."""
        having: dict[tuple[Id, Id], list[int]] = {}
        for identity in around.identities:
            for group in identity.groups:
                having.setdefault((identity.network_id, group), []).append(identity.number)
        for network_id in {port.network_id for port in (source, target) if port is not None}:
            for row in rules:
                goal = rule_goal(row)
                who = None if goal.group is None else tuple(sorted(having.get((network_id, goal.group), ())))
                rule = Rule(goal.egress, goal.version, goal.protocol, goal.first, goal.last, goal.prefix, who)
                self._rules.setdefault((network_id, rule), row.id)
                self._groups.setdefault((network_id, row.group_id), []).append(rule)

    def answer(self) -> Answer:
        """Raises _Stop."""
        if not self._source.host:
            raise _Stop("not_bound", "the source is not bound to a host: set binding:host_id")
        fixed = self._own_address()
        here = self._node(self._source)
        if self._target is not None and not self._target.host:
            raise _Stop("not_bound", "the destination is not bound to a host: set binding:host_id of its port")
        frame = self._frame(fixed)
        tables = self._tables(here, self._target is not None and self._target.host == self._source.host)
        verdict = from_port(tables, SOURCE, frame)
        self._tell(here.name, verdict)
        if verdict.kind is VerdictKind.TUNNEL and self._target is not None:
            there = self._node(self._target)
            outer = frames.ethernet(_UNDERLAY_MAC, _UNDERLAY_MAC, frames.TYPE_IPV4, verdict.frame)
            verdict = from_overlay(self._tables(there, True, mine=False), outer)
            self._tell(there.name, verdict)
        egress, ingress = self._allowing(frame)
        words = {VerdictKind.DELIVER: Outcome.DELIVERED, VerdictKind.REPLY: Outcome.ANSWERED}
        return Answer(
            outcome=words.get(verdict.kind, Outcome.DROPPED),
            reason=verdict.reason.word if verdict.reason is not None else "",
            decided_by=self.steps[-1],
            steps=tuple(self.steps),
            egress_rule=egress,
            ingress_rule=ingress if self._may_see_target() else None,
        )

    def _may_see_target(self) -> bool:
        asker = self._question.project_id
        return self._target is None or not asker or self._target.project_id == asker

    def _tell(self, host: str, verdict: Verdict) -> None:
        """The steps; of another project's port only what it did."""
        for step in verdict.steps:
            hidden = step.startswith("P:") and "enter" in step and not self._may_see_target()
            self.steps.append("P: the receiver's security groups decide" if hidden else f"{host}: {step}")

    def _own_address(self) -> FixedIp:
        version = ip_version(self._ip)
        for fixed in self._source.fixed_ips:
            if ip_version(fixed.ip) == version:
                return fixed
        raise _Stop("no_address", f"the source has no address of IPv{version}, which the destination's is")

    def _node(self, port: Port) -> Node:
        node = self._nodes[port.host]  # a node with ports cannot be deleted
        if node.name in self._down:
            raise _Stop("host_down", f"host {node.name} is down: nobody has heard of it lately; see /v2.0/agents")
        return node

    def _frame(self, fixed: FixedIp) -> bytes:
        """The first packet, as the source's own stack would send it."""
        subnet = next(one for one in self._subnets if one.id == fixed.subnet_id)
        gateways = {subnet.gateway, *router_addresses(self._around.own)}
        if self._ip in subnet.cidr and self._ip not in gateways:
            mac = self._target.mac if self._target is not None else ROUTER_MAC
            if self._target is None:
                raise _Stop("arp_unknown" if subnet.ip_version == 4 else "nd_unknown", self._nobody())
        elif subnet.gateway is None:
            raise _Stop(
                "no_route", f"subnet {format_id(subnet.id)} has no gateway_ip, and {format_ip(self._ip)} is outside"
            )
        else:
            mac = ROUTER_MAC
        packet = _packet(fixed.ip, self._ip, self._question.protocol, self._question.port)
        ethertype = frames.TYPE_IPV4 if subnet.ip_version == 4 else frames.TYPE_IPV6
        return frames.ethernet(mac, self._source.mac, ethertype, packet)

    def _nobody(self) -> str:
        return f"nobody in network {format_id(self._network.id)} has {format_ip(self._ip)}"

    def _tables(self, node: Node, target_here: bool, *, mine: bool = True) -> Tables:
        tables = Tables(
            config=HostConfig(node.underlay_ip, 1, VXLAN_PORT), policy=PolicyTables(policies=self._policies())
        )
        self._around.fill(tables)
        for vpc in self._around.vpcs.values():
            own = (subnet.gateway for subnet in vpc.subnets if vpc.goal.routed and subnet.gateway is not None)
            for ip in (*own, *router_addresses(vpc)):
                tables.local[EndpointKey(vpc.goal.vni, ip)] = LocalRow(0, int(LocalFlag.GATEWAY), ROUTER_MAC)
        if mine:
            self._add(tables, SOURCE, self._source)
        if self._target is None:
            return tables
        if target_here and self._target.id != self._source.id:
            self._add(tables, TARGET, self._target)
        elif not target_here and self._target.host:
            there = self._node(self._target)
            row = RemoteRow(there.underlay_ip, self._target.mac, self._target.identity)
            vni = self._around.networks[self._target.network_id].vni
            tables.remote.update({EndpointKey(vni, ip): row for ip in _answered(self._target)})
        return tables

    def _add(self, tables: Tables, ifindex: int, port: Port) -> None:
        network = self._around.networks[port.network_id]
        up, leaves = port.admin_state_up and network.admin_state_up, self._around.leaves(port)
        flags = PortFlag.ROUTED if network.cidr is not None or leaves else PortFlag(0)
        flags |= PortFlag.ROUTES if leaves else PortFlag(0)
        flags |= PortFlag.UP if up else PortFlag(0)
        flags |= PortFlag(0) if port.port_security_enabled else PortFlag.OPEN
        flags |= PortFlag.PAIRS if port.address_pairs else PortFlag(0)
        vni = network.vni
        tables.ports[ifindex] = PortRow(port.id, vni, network.mtu, port.mac, int(flags), port.identity)
        tables.senders[ifindex] = tuple(Sender(pair.mac, pair.prefix) for pair in port.address_pairs)
        row = LocalRow(ifindex, 0 if up else int(LocalFlag.DOWN), port.mac, port.identity)
        tables.local.update({EndpointKey(vni, ip): row for ip in _answered(port)})
        tables.macs[MacKey(vni, port.mac)] = row

    def _policies(self) -> dict[PolicyKey, Policy]:
        found = {}
        for port in (self._source, self._target):
            if port is not None and port.identity:
                key = self._policy_key(port)
                named = [(port.network_id, group) for group in port.security_groups]
                rules = tuple(rule for one in named for rule in self._groups.get(one, ()))
                found[key] = Policy(key, rules)
        return found

    def _policy_key(self, port: Port) -> PolicyKey:
        return PolicyKey(self._around.networks[port.network_id].vni, port.identity)

    def _seen_by(self, port: Port, other: Port | None) -> int:
        """The identity of the other side as the port's network knows it."""
        if other is None or other.network_id == port.network_id:
            return other.identity if other is not None else 0
        vnis = self._around.networks[other.network_id].vni, self._around.networks[port.network_id].vni
        return self._around.translations().get(TranslationKey(vnis[0], other.identity, vnis[1]), 0)

    def _allowing(self, frame: bytes) -> tuple[Id | None, Id | None]:
        """The rules that let the packet out and in."""
        packet = read_packet(frame[frames.ETHERNET_LENGTH :], ip_version(self._ip))
        policies = self._policies()
        found: list[Id | None] = []
        ends = (self._source, self._target)
        for port, other, egress in ((*ends, True), (*ends[::-1], False)):
            if packet is None or port is None or not port.identity:
                found.append(None)
                continue
            key = self._policy_key(port)
            party = Party(key.vni, 0, port.identity, self._seen_by(port, other), egress)
            policy = policies[key]
            rule = allowing_rule(policy, packet, party, egress=egress, selector=packet.selector)
            found.append(self._rules[port.network_id, rule] if rule is not None else None)
        return found[0], found[1]


def _answered(port: Port) -> tuple[Ip, ...]:
    return with_link_local(tuple([fixed.ip for fixed in port.fixed_ips]), port.mac)


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
