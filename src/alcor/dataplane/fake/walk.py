"""What becomes of a packet, and why: verdicts, and one packet's way through the tables. Pure.

Called by the pipeline model, step by step, and by who asks it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from alcor.dataplane.drops import DropReason
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake import frames
from alcor.dataplane.fake.frames import IPV4_LENGTH, PROTOCOL_UDP, UDP_LENGTH, VXLAN_LENGTH
from alcor.dataplane.fake.lb import unbalance
from alcor.dataplane.fake.packet import Packet
from alcor.dataplane.fake.policy import Party, permit
from alcor.dataplane.fake.tables import LocalFlag, LocalRow, PortFlag, PortRow, RemoteRow, Tables, Use
from alcor.model.addresses import Ip, Mac, format_ip, ip_version

FLOW_PORT_BASE, FLOW_HASH_MASK = 0xC000, 0x3FFF
"""Outer UDP source port: 0xC000 | (flow hash & 0x3FFF). The hash itself is the kernel's, so tests mask it."""

ENCAP_MAX_LENGTH = 0xFFFF - IPV4_LENGTH - UDP_LENGTH - VXLAN_LENGTH


class VerdictKind(IntEnum):
    """What becomes of a packet; the numbers are those of `skb->cb[0]`."""

    DELIVER = 1
    """Handed to the local interface `ifindex`."""
    TUNNEL = 2
    """Sent to `host_ip` through the underlay."""
    REPLY = 3
    """Turned into its answer and handed back to the interface it came from."""
    DROP = 4
    """Thrown away for `reason`, counted at `ifindex` (0: no port is to blame)."""
    PASS = 5
    """Not ours: left to the host's own stack, untouched."""
    HOLD = 6
    """Held until it is known where the address is that it is for."""
    SERVE = 7
    """Given to the host's services, which answer it."""
    QUEUE = 8
    """Waits in queue `queue` until the port at `ifindex` may have sent it, or been given it, at its rate."""
    EXTERNAL = 9
    """Sent through the external device, interface `ifindex`, to the neighbour `next_hop`."""
    TURN = 10
    """For an external address of this very host: it comes in again at the external device, interface `ifindex`."""


class Direction(IntEnum):
    """Which counter of a port a packet adds to."""

    SENT = 0
    RECEIVED = 1


class Count(NamedTuple):
    """One packet of `length` bytes to add to a port's `sent` or `received` counters."""

    ifindex: int
    direction: Direction
    length: int


class Verdict(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What became of a packet, what it adds to the counters, and why, in words.

    `frame` is what comes out: for a tunnel verdict the outer packet from its IPv4 header on (the outer Ethernet header
    is the underlay neighbour's business), for an external one the whole frame (whose Ethernet header the kernel makes
    anew), for a drop, a pass or a hold the packet as it came in. A reply with a reason
    tells why the packet was dropped.
    """

    kind: VerdictKind
    frame: bytes
    steps: tuple[str, ...]
    ifindex: int = 0
    queue: int = 0
    received: bool = False
    """Of what waits: it is for the port, not from it."""
    outside: bool = False
    """Of what waits: for an EIP, and the interface is the external device. Of what turns: so it has waited."""
    sought: EndpointKey | None = None
    """What a packet that is held waits for."""
    host_ip: Ip | None = None
    next_hop: Ip | None = None
    reason: DropReason | None = None
    counts: tuple[Count, ...] = ()

    @property
    def why(self) -> str:
        """The steps, one a line."""
        return "\n".join(self.steps)


class Walk:
    """One packet's way through the tables: what it has met so far."""

    __slots__ = ("counts", "frame", "held", "ifindex", "now_ns", "steps", "tables")

    def __init__(self, tables: Tables, ifindex: int, frame: bytes, now_ns: int, *, held: bool = False) -> None:
        self.tables = tables
        self.ifindex = ifindex
        self.frame = frame
        self.now_ns = now_ns
        self.held = held
        """It was here before, and waited."""
        self.steps: list[str] = []
        self.counts: list[Count] = []

    def count_sent(self) -> None:
        """Step 3."""
        if self.held:
            return
        self.counts.append(Count(self.ifindex, Direction.SENT, len(self.frame)))

    def drop(self, reason: DropReason, text: str) -> Verdict:
        """It counts at `ifindex`."""
        self.steps.append(f"{text}: drop {reason.word}")
        return self._end(VerdictKind.DROP, self.frame, ifindex=self.ifindex, reason=reason)

    def deliver(self, row: LocalRow, frame: bytes) -> Verdict:
        """Step 11."""
        if row.queue:
            return self.enqueue(row.ifindex, row.queue, frame, received=True)
        return self.hand_in(row.ifindex, frame)

    def hand_in(self, ifindex: int, frame: bytes) -> Verdict:
        """Step 11, once the packet needs not wait."""
        self.counts.append(Count(ifindex, Direction.RECEIVED, len(frame)))
        self.steps.append(f"11: deliver to interface {ifindex}")
        return self._end(VerdictKind.DELIVER, frame, ifindex=ifindex)

    def enqueue(self, ifindex: int, queue: int, frame: bytes, *, received: bool, outside: bool = False) -> Verdict:
        """Step Q."""
        self.steps.append(f"Q: waits in queue {queue} of interface {ifindex}")
        verdict = self._end(VerdictKind.QUEUE, frame, ifindex=ifindex, queue=queue, received=received)
        return replace(verdict, outside=True) if outside else verdict

    def deliver_answer(self, row: LocalRow, frame: bytes, vni: int, version: int) -> Verdict:
        """Step U, then 11: to a port of a VPC with load balancers, of which this may be an answer."""
        if row.flags & LocalFlag.BALANCED:
            tables = self.tables
            answered = unbalance(tables.balance, tables.policy, frame, vni, row.ifindex, version, self.now_ns)
            frame = answered.frame
            if answered.text:
                self.steps.append(answered.text)
        return self.deliver(row, frame)

    def reply(self, frame: bytes, text: str, reason: DropReason | None = None) -> Verdict:
        """Back to who sent it; with a reason the packet is dropped, and this says so."""
        self.counts.append(Count(self.ifindex, Direction.RECEIVED, len(frame)))
        self.steps.append(f"{text}: back out of interface {self.ifindex}")
        return self._end(VerdictKind.REPLY, frame, ifindex=self.ifindex, reason=reason)

    def hold(self, sought: EndpointKey) -> Verdict:
        """Step H."""
        self.steps.append(f"H: held, {format_ip(sought.ip)} of VNI {sought.vni} is asked for")
        return self._end(VerdictKind.HOLD, self.frame, ifindex=self.ifindex, sought=sought)

    def serve(self, text: str) -> Verdict:
        """Step S: the host's services answer."""
        if self.held:
            return self.drop(DropReason.UNSERVED, f"{text}, and has no answer")
        self.steps.append(f"{text}: the host answers")
        return self._end(VerdictKind.SERVE, self.frame, ifindex=self.ifindex)

    def tunnel(self, dscp: int, vni: int, identity: int, row: RemoteRow, frame: bytes, mark: int = 0) -> Verdict:
        """Step 12; the VNI is the receiver's, the identity what it knows the sender by."""
        ends = (self.tables.config.underlay_ip, row.host_ip)
        if any(ip_version(end) != 4 for end in ends):
            return self.drop(DropReason.NO_UNDERLAY, f"12: no IPv4 from {format_ip(ends[0])} to {format_ip(ends[1])}")
        if len(frame) > ENCAP_MAX_LENGTH:
            return self.drop(DropReason.ENCAP_FAILED, f"12: {len(frame)} bytes do not fit an outer packet")
        datagram = frames.udp(FLOW_PORT_BASE, self.tables.config.vxlan_port, frames.vxlan(vni, frame, identity, mark))
        packet = frames.ipv4(*ends, PROTOCOL_UDP, datagram, tos=dscp << 2 & 0xFF)
        self.steps.append(f"12: tunnel to host {format_ip(row.host_ip)} with VNI {vni}")
        return self._end(VerdictKind.TUNNEL, packet, host_ip=row.host_ip)

    def forward(self, row: RemoteRow, packet: bytes, key: EndpointKey) -> Verdict:
        """The tunnel's step 5: the outer packet, readdressed."""
        self.steps.append(f"5: {format_ip(key.ip)} went to host {format_ip(row.host_ip)}: sent after it")
        return self._end(VerdictKind.TUNNEL, packet, host_ip=row.host_ip)

    def leave(self, ifindex: int, next_hop: Ip, frame: bytes) -> Verdict:
        """Step X3."""
        self.steps.append(f"X3: out of the external device to {format_ip(next_hop)}")
        return self._end(VerdictKind.EXTERNAL, frame, ifindex=ifindex, next_hop=next_hop)

    def turn(self, ifindex: int, frame: bytes, text: str, *, waited: bool = False) -> Verdict:
        """Step X3, for an address of this host; and what has `waited` for an EIP."""
        self.steps.append(f"{text}: in again at the external device")
        verdict = self._end(VerdictKind.TURN, frame, ifindex=ifindex)
        return replace(verdict, outside=True) if waited else verdict

    def pass_on(self, text: str) -> Verdict:
        """It is not ours."""
        self.steps.append(f"{text}: pass to the host's stack")
        return self._end(VerdictKind.PASS, self.frame)

    def _end(
        self,
        kind: VerdictKind,
        frame: bytes,
        *,
        ifindex: int = 0,
        host_ip: Ip | None = None,
        reason: DropReason | None = None,
        sought: EndpointKey | None = None,
        queue: int = 0,
        received: bool = False,
        next_hop: Ip | None = None,
    ) -> Verdict:
        return Verdict(
            kind=kind,
            frame=frame,
            steps=tuple(self.steps),
            ifindex=ifindex,
            host_ip=host_ip,
            reason=reason,
            counts=tuple(self.counts),
            sought=sought,
            queue=queue,
            received=received,
            next_hop=next_hop,
        )

    # ---- what steps have in common ----

    def owns(self, vni: int, ip: Ip) -> bool:
        """True when the address is the sending port's own."""
        row = self.tables.local.get(EndpointKey(vni, ip))
        return row is not None and row.ifindex == self.ifindex

    def spoofed(self, port: PortRow, mac: Mac, ip: Ip) -> DropReason | None:
        """Anti-spoofing: why the port may not send from there; None: it may."""
        if (mac == port.mac and self.owns(port.vni, ip)) or port.flags & PortFlag.OPEN:
            return None
        if port.flags & PortFlag.PAIRS:
            for sender in self.tables.senders.get(self.ifindex, ()):
                if sender.mac == mac and ip in sender.prefix:
                    return None
        return DropReason.SPOOFED_IP if mac == port.mac else DropReason.SPOOFED_MAC

    def known(self, port: PortRow, ip: Ip) -> LocalRow | RemoteRow | None:
        """Who answers for the address when its port is asked: somebody in the VPC, or with a router its gateway."""
        key = EndpointKey(port.vni, ip)
        local = self.tables.local.get(key)
        if local is not None and (not local.flags & LocalFlag.GATEWAY or port.flags & PortFlag.ROUTED):
            return local
        return self.remote(key)

    def remote(self, key: EndpointKey) -> RemoteRow | None:
        """Who on another host has the address, or where the port went that had it here; what was learnt is marked."""
        row = self.tables.remote.get(key)
        if row is None:
            return self.tables.forwards.get(key)
        if row.use == Use.ABSENT:
            return None
        if row.use == Use.IDLE:
            self.tables.remote[key] = replace(row, use=int(Use.RECENT))
        return row

    def admit(self, packet: Packet, data: bytes, vni: int, to: LocalRow, remote: int = 0) -> Verdict | None:
        """Policy of the port of this host that a packet is for. `remote`: its sender's identity; 0: that has none."""
        return (
            self.permit(packet, data, Party(vni, to.ifindex, to.identity, remote, egress=False))
            if to.identity
            else None
        )

    def permit(self, packet: Packet, data: bytes, party: Party) -> Verdict | None:
        """Policy of one party; a verdict when it refuses."""
        answer = permit(self.tables.policy, packet, data, party, self.now_ns)
        if answer.refusal is None:
            self.steps.append(answer.why)
            return None
        if not party.egress:
            self.ifindex = party.ifindex
        return self.drop(answer.refusal, answer.why)
