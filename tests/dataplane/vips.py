"""Random EIPs of load balancers' addresses, and packets between the outside and backends. Pure. Called by worlds.

A call is between somebody outside and a service. Its words come in where they may be met: at the external device, out
of the tunnel (marked, from the host of the EIP, or back to it), or from a backend of this host.
"""

import random
import struct
from typing import NamedTuple

from tests.dataplane import balances, packets
from tests.dataplane.talks import PORTS

from alcor.dataplane.base import OUTSIDE, ServiceKey
from alcor.dataplane.endpoints import EndpointKey
from alcor.dataplane.fake.lb import Way
from alcor.dataplane.fake.policy import FlowKey
from alcor.dataplane.fake.tables import EipRow, LocalFlag, Tables
from alcor.dataplane.fake.vip import FROM_OUTSIDE, TO_OUTSIDE
from alcor.model.addresses import Ip, ip_version, parse_ip

CLIENTS = ("203.0.113.1", "198.51.100.7", "198.51.100.8")
HOSTS = ("172.16.0.2", "172.16.0.2", "172.16.0.3")
"""Hosts of EIPs."""


class Call(NamedTuple):
    """Somebody outside and a service; `eip` may be of this host."""

    vni: int
    vip: Ip
    eip: Ip
    client: Ip
    client_port: int
    protocol: int
    port: int


def put_vip_eips(rng: random.Random, tables: Tables, free: list[str], masks: tuple[int, ...]) -> None:
    """Gives EIPs to addresses of load balancers; each is with a port, which may not be here."""
    for key, row in sorted(tables.local.items(), key=lambda one: one[0]):
        if row.flags & LocalFlag.VIP and ip_version(key.ip) == 4 and free and rng.random() < 0.7:
            eip, anchor = parse_ip(free.pop()), rng.choice((*sorted(tables.ports), 1))
            gateway = rng.choice((parse_ip("203.0.113.1"),) * 4 + (None,))
            if rng.random() < 0.95:
                tables.eips[key] = EipRow(eip, OUTSIDE, anchor, gateway, rng.choice(masks))
            tables.eips[EndpointKey(OUTSIDE, eip)] = EipRow(key.ip, key.vni, anchor)


def random_call(rng: random.Random, tables: Tables) -> Call | None:
    """To an address of a load balancer, which has an EIP here, or elsewhere; None: there is no service of IPv4."""
    services = [key for key in sorted(tables.balance.services) if ip_version(key.ip) == 4]
    if not services:
        return None
    named = rng.choice(services)
    here = [key.ip for key, row in sorted(tables.eips.items()) if (row.vni, row.ip) == (named.vni, named.ip)]
    eip = here[0] if here else parse_ip("203.0.113.250")
    port = named.port if rng.random() < 0.95 else rng.choice(PORTS)
    client = parse_ip(rng.choice(CLIENTS))
    return Call(named.vni, named.ip, eip, client, rng.choice((4000, 4001, 4002)), named.protocol, port)


def random_word(rng: random.Random, tables: Tables, call: Call, external: int, mac: bytes) -> tuple[int, bytes]:
    """One packet of the call: the interface that it comes in at (0: the underlay's), and the frame."""
    answers = [key.flow for key in tables.balance.balanced if key.way is Way.OUT and key.flow.ifindex in tables.ports]
    if answers and rng.random() < 0.4:
        return _answer(rng, tables, rng.choice(answers))
    row = tables.balance.services.get(ServiceKey(call.vni, call.vip, call.protocol, call.port))
    backend = rng.choice(sorted(row.backends)) if row is not None and row.backends else (call.vip, call.port)
    client, eip = (call.client, call.client_port), (call.eip, call.port)
    if rng.random() < 0.02:
        client = backend[0], call.client_port
    error = rng.random() < 0.15
    if rng.random() < 0.5:
        if rng.random() < 0.1:
            echo = packets.icmp_echo(kind=rng.choice((8, 8, 0)), code=rng.choice((0, 0, 1)), data=rng.randbytes(9))
            packet = packets.ipv4(client[0], eip[0], echo, protocol=packets.ICMP, ttl=rng.choice((64, 64, 1)))
        elif error:
            packet = balances.error_about(rng, call.protocol, client[0], eip[0], eip, client)
        else:
            packet = balances.packet_between(rng, call.protocol, client, eip)
        return external, packets.ethernet(mac, packets.mac(0xE1), packet)
    here = tables.local.get(EndpointKey(call.vni, backend[0]))
    mine = here if here is not None and here.ifindex else None
    if mine is not None and rng.random() < 0.5:
        if error:
            packet = balances.error_about(rng, call.protocol, client[0], backend[0], backend, client)
        else:
            packet = balances.packet_between(rng, call.protocol, client, backend)
        return 0, _marked(rng, tables, call.vni, mine.mac, packet, FROM_OUTSIDE)
    if error:
        packet = balances.error_about(rng, call.protocol, backend[0], client[0], client, backend)
    else:
        packet = balances.packet_between(rng, call.protocol, backend, client)
    if mine is not None and rng.random() < 0.8:
        return mine.ifindex, packets.ethernet(packets.ROUTER, mine.mac, packet)
    return 0, _marked(rng, tables, call.vni, packets.ROUTER, packet, TO_OUTSIDE)


def _answer(rng: random.Random, tables: Tables, flow: FlowKey) -> tuple[int, bytes]:
    """What a backend of this host answers to what came from outside, or says of it."""
    backend, client = (flow.local, flow.local_port), (flow.remote, flow.remote_port)
    if rng.random() < 0.2:
        packet = balances.error_about(rng, flow.protocol, backend[0], client[0], client, backend)
    else:
        packet = balances.packet_between(rng, flow.protocol, backend, client)
    return flow.ifindex, packets.ethernet(packets.ROUTER, tables.ports[flow.ifindex].mac, packet)


def _marked(rng: random.Random, tables: Tables, vni: int, mac: bytes, packet: bytes, mark: int) -> bytes:
    mark = mark if rng.random() < 0.97 else rng.choice((0, 1, 2, 3))
    inner = packets.ethernet(mac, packets.ROUTER, packet)
    head = struct.pack("!II", 0x08 << 24, vni << 8 | mark)
    return packets.overlay(rng.choice(HOSTS), "172.16.0.1", head + inner, port=tables.config.vxlan_port)
