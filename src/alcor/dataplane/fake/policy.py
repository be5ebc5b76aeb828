"""Security groups by identity, and connection tracking: "Policy" of docs/pipeline.md, executed. Pure.

Called by the pipeline model; policy.h is the same in C, with tables for speed where this walks through the rules. That
makes the one a check of the other: it shares nothing with how rules become rows.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import msgspec

from alcor.dataplane.base import Policy, PolicyKey, Rule
from alcor.dataplane.drops import DropReason
from alcor.dataplane.fake.frames import PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP
from alcor.dataplane.fake.packet import (
    PORTED,
    TCP_ACK,
    TCP_FIN,
    TCP_RST,
    TCP_SYN,
    Packet,
    Part,
    read_packet,
)
from alcor.model.addresses import Ip, format_ip

SECOND = 1_000_000_000
MAX_FLOWS = 262_144
"""Beyond, the one that was used longest ago is forgotten."""
MAX_FRAGMENTS = 4096


class FlowState(IntEnum):
    """How far a connection has come."""

    NEW = 1
    ESTABLISHED = 2
    CLOSING = 3
    CLOSED = 4


class FlowKey(NamedTuple):
    """A connection as one of its ports sees it."""

    local: Ip
    remote: Ip
    ifindex: int
    local_port: int
    remote_port: int
    protocol: int


class Flow(msgspec.Struct, gc=False):
    """A row of `flows`."""

    seen_ns: int
    generation: int
    identity: int
    selector: int
    state: FlowState
    egress: bool
    fins: int = 0


class Party(NamedTuple):
    """Who asks: a port, about a packet that it sends (egress) or is to be given."""

    vni: int
    ifindex: int
    identity: int
    remote_identity: int
    egress: bool


class FragmentKey(NamedTuple):
    """Names a datagram."""

    vni: int
    source: Ip
    destination: Ip
    id: bytes
    protocol: int


class PolicyTables(msgspec.Struct, gc=False):
    """What the maps of policy hold. `flows` and `fragments` change with packets."""

    policies: dict[PolicyKey, Policy] = msgspec.field(default_factory=dict)
    flows: dict[FlowKey, Flow] = msgspec.field(default_factory=dict)
    fragments: dict[FragmentKey, tuple[int, int, int]] = msgspec.field(default_factory=dict)
    generation: int = 0


class Permission(NamedTuple):
    """The answer, and why in words."""

    refusal: DropReason | None
    why: str


def allowing_rule(policy: Policy | None, packet: Packet, party: Party, *, egress: bool, selector: int) -> Rule | None:
    """The first rule that allows the connection; None: none does. A policy that is not there allows nothing."""
    remote = packet.destination if party.egress else packet.source
    for rule in policy.rules if policy is not None else ():
        if (rule.egress, rule.version) != (egress, packet.version):
            continue
        if rule.protocol is not None and (rule.protocol != packet.protocol or not rule.first <= selector <= rule.last):
            continue
        if rule.identities is not None:
            if party.remote_identity and party.remote_identity in rule.identities:
                return rule
        elif rule.prefix is None or remote in rule.prefix:
            return rule
    return None


def permit(tables: PolicyTables, packet: Packet, data: bytes, party: Party, now_ns: int) -> Permission:
    """May the packet (whose bytes are `data`) pass the party's port? Follows its connection."""
    way = "leave" if party.egress else "enter"
    if packet.part is not Part.WHOLE and not reassemble(tables, packet, party.vni):
        return Permission(DropReason.FRAGMENT, "P: a later fragment of a datagram whose first was not seen")
    if packet.is_icmp_error and _is_related(tables, packet, data, party, now_ns):
        return Permission(None, f"P: may {way}: an ICMP error about a connection")
    key = _flow_key(packet, party.ifindex, egress=party.egress)
    flow = tables.flows.get(key)
    if flow is None:
        return _open(tables, key, packet, party, now_ns)
    forth = flow.egress == party.egress
    opening = packet.is_tcp and packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    if opening and (not forth or flow.state >= FlowState.CLOSING):
        return _open(tables, key, packet, party, now_ns)
    if not _is_valid(tables, key, flow, packet, party, now_ns):
        del tables.flows[key]
        return _open(tables, key, packet, party, now_ns)
    if packet.is_tcp:
        _step_tcp(flow, packet.tcp_flags, forth=forth)
    elif not forth and flow.state is FlowState.NEW:
        flow.state = FlowState.ESTABLISHED
    if now_ns - flow.seen_ns > SECOND // 4:
        flow.seen_ns = now_ns
    tables.flows[key] = tables.flows.pop(key)
    return Permission(None, f"P: may {way}: part of a connection")


def lifetime_ns(protocol: int, state: FlowState) -> int:
    """How long a connection is remembered after its last packet (the kernel's nf_conntrack defaults)."""
    if protocol == PROTOCOL_TCP:
        if state is FlowState.ESTABLISHED:
            return 432_000 * SECOND
        return (10 if state is FlowState.CLOSED else 120) * SECOND
    if protocol in (PROTOCOL_ICMP, PROTOCOL_ICMPV6):
        return 30 * SECOND
    if protocol in PORTED:
        return (120 if state is FlowState.ESTABLISHED else 30) * SECOND
    return 600 * SECOND


def _flow_key(packet: Packet, ifindex: int, *, egress: bool) -> FlowKey:
    here, there = (packet.source, packet.source_port), (packet.destination, packet.destination_port)
    if not egress:
        here, there = there, here
    return FlowKey(here[0], there[0], ifindex, here[1], there[1], packet.protocol)


def reassemble(tables: PolicyTables, packet: Packet, vni: int) -> bool:
    """Later fragments have no ports: the first one's are remembered for them. False: it was not seen."""
    key = FragmentKey(vni, packet.source, packet.destination, packet.fragment_id, packet.protocol)
    if packet.part is Part.FIRST:
        tables.fragments.pop(key, None)
        tables.fragments[key] = packet.source_port, packet.destination_port, packet.selector
        if len(tables.fragments) > MAX_FRAGMENTS:
            del tables.fragments[next(iter(tables.fragments))]
        return True
    known = tables.fragments.get(key)
    if known is None:
        return False
    packet.source_port, packet.destination_port, packet.selector = known
    return True


def _is_related(tables: PolicyTables, packet: Packet, data: bytes, party: Party, now_ns: int) -> bool:
    quoted = read_packet(data[packet.payload + 8 :], packet.version, quoted=True)
    if quoted is None or quoted.part is Part.LATER:
        return False
    # What is quoted went the other way.
    key = _flow_key(quoted, party.ifindex, egress=not party.egress)
    flow = tables.flows.get(key)
    return (
        flow is not None
        and flow.generation == tables.generation
        and now_ns - flow.seen_ns <= lifetime_ns(key.protocol, flow.state)
    )


def _is_valid(tables: PolicyTables, key: FlowKey, flow: Flow, packet: Packet, party: Party, now_ns: int) -> bool:
    """Alive, and allowed by the rules as they are."""
    if now_ns - flow.seen_ns > lifetime_ns(key.protocol, flow.state):
        return False
    if (flow.generation, flow.identity) != (tables.generation, party.remote_identity):
        policy = tables.policies.get(PolicyKey(party.vni, party.identity))
        if allowing_rule(policy, packet, party, egress=flow.egress, selector=flow.selector) is None:
            return False
        flow.generation, flow.identity = tables.generation, party.remote_identity
    return True


def _step_tcp(flow: Flow, flags: int, *, forth: bool) -> None:
    """What a segment makes of its flow; `forth`: it goes the way of the first one."""
    if flags & TCP_RST:
        flow.state = FlowState.CLOSED
    elif flags & TCP_FIN:
        flow.fins |= 1 if forth else 2
        flow.state = FlowState.CLOSED if flow.fins == 3 else FlowState.CLOSING
    elif flow.state is FlowState.NEW and not forth:
        flow.state = FlowState.ESTABLISHED


def _open(tables: PolicyTables, key: FlowKey, packet: Packet, party: Party, now_ns: int) -> Permission:
    """A packet that no connection knows."""
    way = "leave" if party.egress else "enter"
    flags = packet.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)
    if packet.is_tcp and flags != TCP_SYN and (not flags & TCP_ACK or flags & (TCP_SYN | TCP_RST)):
        return Permission(DropReason.INVALID_STATE, f"P: TCP flags {flags:#04x} begin no connection")
    policy = tables.policies.get(PolicyKey(party.vni, party.identity))
    rule = allowing_rule(policy, packet, party, egress=party.egress, selector=packet.selector)
    if rule is None:
        refusal = DropReason.POLICY_EGRESS if party.egress else DropReason.POLICY_INGRESS
        remote = format_ip(packet.destination if party.egress else packet.source)
        what = f"protocol {packet.protocol} {packet.selector} with {remote} (identity {party.remote_identity})"
        return Permission(refusal, f"P: no rule of identity {party.identity} lets {what} {way}")
    if not packet.is_icmp or packet.is_echo_request:
        flow = Flow(now_ns, tables.generation, party.remote_identity, packet.selector, FlowState.NEW, party.egress)
        if packet.is_tcp:
            if flags & TCP_ACK:
                flow.state = FlowState.ESTABLISHED
            _step_tcp(flow, flags, forth=True)
        tables.flows.pop(key, None)
        tables.flows[key] = flow
        if len(tables.flows) > MAX_FLOWS:
            del tables.flows[next(iter(tables.flows))]
    return Permission(None, f"P: may {way}: a rule allows it")
