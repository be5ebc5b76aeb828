"""The port every driver fills: observe, apply, counters. Called by the agent; knows nothing of goal state's scopes.

A driver is told what to do as a `Plan`, a value: the agent computes it from desired and observed state, and applying
the same plan twice changes nothing. Work inside a plan is done in the order of `Plan`'s fields (docs/decisions/0004):
removals first, then what ports refer to, then ports, then what no port refers to any more.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple, Protocol

import msgspec

from alcor.dataplane.endpoints import Endpoint, EndpointColumns, EndpointKey
from alcor.model.addresses import V4_MAPPED, Ip, Mac, Prefix
from alcor.model.ids import Id
from alcor.model.nouns import AddressPair, Claim, Eip, Forwarding, PortKind


class Address(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An address of a local port: the prefix length of its subnet and, if any, that subnet's gateway."""

    ip: Ip
    prefix_length: int
    gateway: Ip | None
    routes: tuple[tuple[Ip, int], ...] = ()
    """Destinations (prefix and length) that a container is told to send through that gateway, whichever its default."""


class RateLimit(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How fast a port's frames (Ethernet header included) go one way. What comes faster waits in a queue; what finds
    no room there is dropped (`rate_limit`)."""

    kbps: int
    """Thousands of bits a second; at least 1."""
    burst_kbit: int = 0
    """Thousands of bits that may go at once after a rest; 0: what 50 ms take."""

    @property
    def bytes_per_s(self) -> int:
        return self.kbps * 125

    @property
    def burst_bytes(self) -> int:
        """At least a large frame or two."""
        return max(self.burst_kbit * 125 or self.bytes_per_s // 20, MIN_BURST_BYTES)

    @property
    def queue_bytes(self) -> int:
        """What may wait: 50 ms of the rate, and at least three packets that are yet to be cut into segments: a sender
        whose third one is lost waits for its timer."""
        return max(self.bytes_per_s // 20, MIN_QUEUE_BYTES)


MIN_BURST_BYTES = 4096
MIN_QUEUE_BYTES = 208 * 1024


class EipLimit(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How fast an external address's packets go, beside the limits of the port that they are of. At least one way."""

    ip: Ip
    egress: RateLimit | None
    """Of what leaves."""
    ingress: RateLimit | None
    """Of what comes."""


class LocalPort(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A port as the data plane carries it. Equality means: nothing to do."""

    id: Id
    vni: int
    mac: Mac
    addresses: tuple[Address, ...]
    mtu: int
    admin_state_up: bool
    routed: bool
    """Frames to the router's MAC are routed inside the VNI."""
    kind: PortKind
    netns: str
    interface: str
    identity: int = 0
    """Its traffic is filtered by the policy of this number in the VNI; 0: it is not filtered."""
    port_security: bool = True
    """It sends from its own MAC and addresses, and from `pairs`, only."""
    pairs: tuple[AddressPair, ...] = ()
    routes: bool = False
    """Where its routed packets go is in the routes of its VNI; without, they stay in the VNI."""
    balanced: bool = False
    """Its VPC has load balancers: what it is given may be an answer of one of their backends."""
    served: bool = False
    """Its host answers it: DHCP, router solicitations, DNS, metadata (Requests)."""
    egress_limit: RateLimit | None = None
    """Of what it sends."""
    ingress_limit: RateLimit | None = None
    """Of what it is given."""
    dscp: int | None = None
    """Its IP packets are marked with it (0..63), and so are the outer headers of those that leave the host."""
    eips: tuple[Eip, ...] = ()
    """Sorted. Needs a host with an external device."""
    forwardings: tuple[Forwarding, ...] = ()
    """Likewise. No external address is in both."""
    eip_limits: tuple[EipLimit, ...] = ()
    """Sorted. Of external addresses that are in one of the two."""
    claims: tuple[Claim, ...] = ()
    """Addresses of `pairs` that it answers at beside its own, each at a MAC of its own. Another port may have had one
    until now, and it is not told first: the newest has it."""

    def outer_ips(self) -> list[Ip]:
        """The external addresses that the port's host answers for, sorted."""
        return sorted({*(eip.ip for eip in self.eips), *(one.ip for one in self.forwardings)})


class PolicyKey(NamedTuple):
    """Names a policy: what ports of that identity in the VNI may do."""

    vni: int
    identity: int


class Rule(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Allows new connections of a port; what comes back, and ICMP errors about it, is allowed with them."""

    egress: bool
    version: int
    """4 or 6."""
    protocol: int | None
    first: int
    last: int
    """Destination ports, both included; for ICMP type << 8 | code. 0 and 65535: any."""
    prefix: Prefix | None
    identities: tuple[int, ...] | None
    """Sorted. Who the other side must be: within `prefix`, or of one of these; both None: anybody."""


class Policy(msgspec.Struct, frozen=True, gc=False):
    """Everything that ports of an identity may do. What no rule allows is dropped."""

    key: PolicyKey
    rules: tuple[Rule, ...]

    def digest(self) -> int:
        """64 bits over all of it: equal digests mean nothing to do."""
        return int.from_bytes(blake2b(msgspec.msgpack.encode(self), digest_size=8).digest(), "little")


class RouteKey(NamedTuple):
    """Names a route: where packets go that ports of the VNI send to addresses of the prefix, unless a longer one has
    them. Of VNI 0 (IPv6), connected: whose the prefix is outside, and the gateway of what leaves from it."""

    vni: int
    prefix: Prefix


class RouteKind(IntEnum):
    """What a route does; the numbers are those of the table."""

    CONNECTED = 1
    """The destination is an address of the VNI of the one hop, whose own address says nothing."""
    HOPS = 2
    """To the port that has the address of one of the hops, chosen by flow."""
    BLACKHOLE = 3
    """Nowhere."""
    OUTSIDE = 4
    """To external networks, from an address that stands for the sender's there; or, with a hop, whose VNI is 0, from
    its address, which hosts share (SharedAddress). IPv6 from the sender's own, if a route of VNI 0 says so."""


class Hop(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Where a route leads: an address in a VNI, and what the VNI's network carries."""

    vni: int
    mtu: int
    ip: Ip


class Route(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A route; at most MAX_HOPS hops."""

    kind: RouteKind
    hops: tuple[Hop, ...] = ()


class SharedAddress(msgspec.Struct, frozen=True, gc=False):
    """An external address (IPv4) that ports without one of their own have outside, of all hosts that hold blocks of its
    ports: the 512 ports of block n begin at 512 n."""

    prefix_length: int
    gateway: Ip | None
    """Of the external subnet: what is not in it is sent there."""
    mtu: int
    """The smallest of the ports'. What is larger is not sent on to another host."""
    answerer: Ip | None
    """The tunnel end of the host that answers for the address on the external network, and sends on what comes."""
    blocks: tuple[tuple[int, Ip], ...]
    """Block -> tunnel end of the host that has it; sorted. At most MAX_OWN_BLOCKS of a host."""

    def own(self, host_ip: Ip) -> list[int]:
        """A host's blocks, sorted."""
        return [block for block, holder in self.blocks if holder == host_ip][:MAX_OWN_BLOCKS]

    def digest(self) -> int:
        """64 bits over all of it: equal digests mean nothing to do."""
        return int.from_bytes(blake2b(msgspec.msgpack.encode(self), digest_size=8).digest(), "little")


MAX_OWN_BLOCKS, MAX_HOPS = 16, 8
NO_ADDRESS, OUTSIDE = Ip(bytes(16)), 0
"""An address that says: none. The VNI that says: external networks."""


class TranslationKey(NamedTuple):
    """An identity of a VNI, as another VNI that routes lead to or from is to see it."""

    vni: int
    identity: int
    to: int


class ServiceKey(NamedTuple):
    """Names a service: a load balancer's address and a port of it, in a VPC."""

    vni: int
    ip: Ip
    protocol: int
    """6 (TCP) or 17 (UDP)."""
    port: int


class Backend(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Who answers for a service."""

    ip: Ip
    port: int
    weight: int = 1
    """Its share of new connections; 0: it gets none, and keeps those that it has."""
    failed: bool = False
    """It gets no new connections; what has none (UDP) leaves it at once."""


class Service(msgspec.Struct, frozen=True, gc=False):
    """Spreads connections to its key over backends. A backend that is taken out keeps its connections for a while."""

    key: ServiceKey
    backends: tuple[Backend, ...]
    """Sorted, each address and port once; at most MAX_BACKENDS."""
    affinity: bool = False
    """All connections of a source address go to one backend."""

    def digest(self) -> int:
        """64 bits over all of it: equal digests mean nothing to do."""
        return int.from_bytes(blake2b(msgspec.msgpack.encode(self), digest_size=8).digest(), "little")


MAX_BACKENDS = 1024
"""Of one service."""
DRAIN_S = 300
"""A backend that was taken out keeps its connections for so long."""


class ServiceCounters(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What clients on this host exchanged with a service since it was put there."""

    connections: int = 0
    closed: int = 0
    """Of them, those that were seen to end (TCP)."""
    packets_in: int = 0
    bytes_in: int = 0
    """From clients; frames."""
    packets_out: int = 0
    bytes_out: int = 0


class Miss(NamedTuple):
    """A packet of a VPC on demand for an address that the host knows nothing of. Who took it sends it on, once."""

    sought: EndpointKey
    ifindex: int
    """The interface of the port that sent it."""
    frame: bytes
    gso_size: int = 0
    """Bytes of payload of each segment that the kernel has yet to cut it into; 0: it is one."""

    @property
    def source(self) -> Ip:
        """Where it comes from: the sender that ARP names, or the IP packet's source; NO_ADDRESS: it has none."""
        ethertype, packet = self.frame[12:14], self.frame[14:]
        if ethertype == b"\x08\x06" and len(packet) >= 28:
            return Ip(V4_MAPPED + packet[14:18])
        if ethertype == b"\x08\x00" and len(packet) >= 20:
            return Ip(V4_MAPPED + packet[12:16])
        if ethertype == b"\x86\xdd" and len(packet) >= 40:
            return Ip(packet[8:24])
        return NO_ADDRESS


class Misses(Protocol):
    """Packets that wait for an address, and what is learnt of VPCs on demand. Any thread, one at a time."""

    def fileno(self) -> int:
        """Readable when there is something to take."""
        ...

    def take(self) -> list[Miss]:
        """Everything that waits, in the order in which it came."""
        ...

    def learn(self, found: Sequence[tuple[EndpointKey, Endpoint]], absent: Sequence[EndpointKey]) -> None:
        """Where addresses are, and which nobody has: what was known of them is replaced. Of a VNI that is not on demand
        nothing is learnt."""
        ...

    def forget(self, keys: Sequence[EndpointKey]) -> None:
        """The next packet for one of these is a miss again. An unknown one is forgotten already."""
        ...

    def used(self, keys: Sequence[EndpointKey]) -> frozenset[EndpointKey]:
        """Those of these that packets were sent to since they were last asked about, or learnt."""
        ...

    def release(self, misses: Sequence[Miss]) -> None:
        """Sends the packets on, as if their ports had just sent them; a miss now is dropped."""
        ...


class Probe(NamedTuple):
    """One question to a workload of this host: does it answer?"""

    ifindex: int
    """The host's end of its interface."""
    mac: Mac
    ip: Ip
    port: int
    source_mac: Mac
    source: Ip
    """A load balancer's address: the answer goes nowhere else."""
    type: str
    """TCP, HTTP, HTTPS, PING or UDP-CONNECT."""
    timeout_s: float
    http_method: str = ""
    url_path: str = ""
    expected_codes: str = ""
    avoid: frozenset[int] = frozenset()
    """Source ports that mean something there: the address's listeners."""


class Prober(Protocol):
    """Asks workloads of this host. Any thread."""

    def start(self, probe: Probe, done: Callable[[str], None]) -> None:
        """Asks; `done` is told, once and on any thread, why the workload does not answer as it should; "": it does."""


class Request(NamedTuple):
    """A frame that a port sent to its host's services: DHCP, a router solicitation, DNS, metadata."""

    port: Id
    ifindex: int
    frame: bytes
    gso_size: int = 0
    """As a miss has it."""


class Requests(Protocol):
    """What ports ask of their host, and the way back. Any thread, one at a time."""

    def fileno(self) -> int:
        """Readable when there is something to take."""
        ...

    def take(self) -> list[Request]:
        """Everything that waits, in the order in which it came."""
        ...

    def interfaces(self) -> dict[Id, int]:
        """The interfaces of the ports that are served."""
        ...

    def answer(self, ifindex: int, frame: bytes) -> None:
        """Gives the frame to the port behind that interface; one that is gone, or down, is dropped."""
        ...

    def refuse(self, request: Request) -> None:
        """There is no answer: it is dropped, and counted at its port."""
        ...


class Stack(Protocol):
    """A network stack apart from the host's, reached by one queue of IP packets."""

    def address(self, version: int) -> Ip:
        """Its own address of that family."""
        ...

    def party(self, version: int, number: int) -> Ip:
        """The address of its party of that number, from 1 on (`parties`): what is sent there is taken from it."""
        ...

    @property
    def parties(self) -> int:
        """How many there can be."""
        ...

    def fileno(self) -> int:
        """Readable when there is something to take."""
        ...

    def take(self) -> list[bytes]:
        """The IP packets that it sent, whole, checksums done."""
        ...

    def give(self, packet: bytes, gso_size: int) -> None:
        """An IP packet for it: TCP, whose checksum is not looked at."""
        ...

    def listen(self, version: int, port: int) -> socket.socket:
        """A TCP socket that listens at its own address of that family."""
        ...

    def close(self) -> None:
        """The stack and its connections go."""
        ...


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to change, in this order. Immutable, printable; empty means in sync.

    Removing what is absent succeeds. A port in `put_ports` that exists with other properties is changed in place
    where the driver can, else made anew; it is put as a whole, never merged.
    """

    put_forwards: tuple[tuple[EndpointKey, Endpoint], ...] = ()
    """Addresses of ports that leave: packets that still come for them are sent after them."""
    put_on_demand: tuple[int, ...] = ()
    """VNIs: packets for addresses that are not known are held, not dropped (Misses)."""
    remove_ports: tuple[Id, ...] = ()
    remove_endpoints: tuple[EndpointKey, ...] = ()
    remove_gateways: tuple[EndpointKey, ...] = ()
    remove_vips: tuple[EndpointKey, ...] = ()
    remove_services: tuple[ServiceKey, ...] = ()
    put_services: tuple[Service, ...] = ()
    put_vips: tuple[tuple[EndpointKey, Mac], ...] = ()
    """Addresses of load balancers, and the MACs that ARP and neighbour discovery give for them."""
    put_policies: tuple[Policy, ...] = ()
    put_gateways: tuple[EndpointKey, ...] = ()
    put_endpoints: tuple[tuple[EndpointKey, Endpoint], ...] = ()
    put_columns: tuple[EndpointColumns, ...] = ()
    """More endpoints; of other addresses."""
    put_translations: tuple[tuple[TranslationKey, int], ...] = ()
    """What stands for the groups of the key's identity in the other VNI."""
    put_shared: tuple[tuple[Ip, SharedAddress], ...] = ()
    put_routes: tuple[tuple[RouteKey, Route], ...] = ()
    put_ports: tuple[LocalPort, ...] = ()
    remove_routes: tuple[RouteKey, ...] = ()
    remove_shared: tuple[Ip, ...] = ()
    remove_translations: tuple[TranslationKey, ...] = ()
    remove_policies: tuple[PolicyKey, ...] = ()
    remove_on_demand: tuple[int, ...] = ()
    remove_forwards: tuple[EndpointKey, ...] = ()

    def endpoints(self) -> Iterator[tuple[EndpointKey, Endpoint]]:
        """All that are to be put, one by one."""
        return chain(self.put_endpoints, *[columns.rows() for columns in self.put_columns])

    @property
    def empty(self) -> bool:
        """True when there is nothing to do."""
        return not any(getattr(self, field) for field in self.__struct_fields__)


class PortResult(msgspec.Struct, frozen=True, gc=False):
    """What became of one port of a plan. `error` is empty on success and says what to do next otherwise."""

    id: Id
    error: str
    elapsed_us: int
    """From the start of `apply` until this port was carried (or gone)."""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a plan. Ports are answered one by one; tables as a whole (`error` empty on success)."""

    ports: tuple[PortResult, ...]
    error: str
    wiring_us: int
    """Spent on namespaces and interfaces."""
    tables_us: int
    """Spent on the data plane's tables."""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What the data plane holds now, read from it, of what is Alcor's own."""

    ports: dict[Id, LocalPort]
    endpoints: dict[EndpointKey, Endpoint]
    """Without what was learnt (`learnt`)."""
    gateways: frozenset[EndpointKey]
    policies: dict[PolicyKey, int] = {}
    """Digests; 0 for one that is not whole."""
    routes: dict[RouteKey, Route] = {}
    shared: dict[Ip, int] = {}
    """Digests; 0 for one that is not whole."""
    answers: frozenset[Ip] = frozenset()
    """Of `shared`, those that this host answers for."""
    translations: dict[TranslationKey, int] = {}
    vips: dict[EndpointKey, Mac] = {}
    services: dict[ServiceKey, int] = {}
    """Digests."""
    on_demand: frozenset[int] = frozenset()
    """VNIs."""
    learnt: tuple[EndpointKey, ...] = ()
    """Addresses of VPCs on demand of which something is known."""
    forwards: dict[EndpointKey, Endpoint] = {}
    damaged: frozenset[Id] = frozenset()
    """Ports that are there, but for a part: they are put again, or removed like those in `ports`."""
    orphans: tuple[str, ...] = ()
    """Half-made objects of ours (names), left by a crash: `sweep` removes them."""


class PortCounters(msgspec.Struct, frozen=True, gc=False):
    """Since the port was made. `sent` is what the workload sent, `received` what it was given."""

    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int
    dropped: dict[str, int]
    """Packets that the port sent or was to be given and that were dropped, by reason (docs/pipeline.md)."""


class Driver(Protocol):
    """A data plane of one host. Not thread-safe: the agent calls it from one worker thread."""

    name: str

    @property
    def external(self) -> bool:
        """It has an external device: ports may have addresses outside."""
        ...

    @property
    def misses(self) -> Misses:
        """For who answers them: may be used while another thread works with the driver."""
        ...

    @property
    def prober(self) -> Prober:
        """For who watches over workloads: may be used while another thread works with the driver."""
        ...

    def interface_of(self, port_id: Id) -> int | None:
        """The host's end of a port's interface (ifindex); None: it is not carried."""
        ...

    @property
    def requests(self) -> Requests:
        """For who answers them: may be used while another thread works with the driver."""
        ...

    def observe(self) -> Observed:
        """Reads everything of ours from the data plane. Never from memory."""
        ...

    def apply(self, plan: Plan) -> Applied:
        """Carries the plan out; idempotent. Raises only for what no port is to blame for (DataPlaneError)."""
        ...

    def sweep(self, orphans: tuple[str, ...]) -> None:
        """Removes half-made objects of ours. Called once the agent is in sync."""
        ...

    def counters(self) -> dict[Id, PortCounters]:
        """Traffic per local port."""
        ...

    def service_counters(self) -> dict[ServiceKey, ServiceCounters]:
        """Traffic of this host's clients per service."""
        ...

    def close(self) -> None:
        """Lets go of handles; what is programmed stays and forwards on."""
        ...


class DataPlaneError(Exception):
    """The data plane as a whole refused: what was tried, the kernel's reason and what to do next."""
