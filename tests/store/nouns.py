"""Nouns for the tests of stores."""

from __future__ import annotations

import hashlib
from typing import Any

from msgspec.structs import replace

from alcor.model.addresses import Mac, ip_from_int, parse_ip, parse_prefix
from alcor.model.ids import Id, make_id
from alcor.model.nouns import FixedIp, FloatingIp, Network, Node, Pool, Port, PortKind, PortStatus, Subnet
from alcor.store.base import Changes, Store


def make(ordinal: int) -> Id:
    """The id with that ordinal; its other bytes depend on nothing else."""
    return make_id(ordinal, hashlib.blake2b(str(ordinal).encode(), digest_size=11).digest())


def network(ordinal: int, **fields: Any) -> Network:
    made = Network(
        id=make(ordinal),
        project_id="",
        name="",
        description="",
        cidr=None,
        vni=ordinal,
        mtu=1450,
        admin_state_up=True,
        shared=False,
        created_at=1,
        updated_at=2,
        revision=1,
    )
    return replace(made, **fields)


def subnet(ordinal: int, owner: Network, cidr: str, **fields: Any) -> Subnet:
    prefix = parse_prefix(cidr)
    made = Subnet(
        id=make(ordinal),
        network_id=owner.id,
        project_id="",
        name="",
        description="",
        cidr=prefix,
        gateway=ip_from_int(prefix.first + 1, prefix.version),
        pools=(Pool(ip_from_int(prefix.first + 2, prefix.version), ip_from_int(prefix.first + 9, prefix.version)),),
        enable_dhcp=True,
        dns_nameservers=("192.0.2.53", "2001:db8::53"),
        created_at=1,
        updated_at=2,
        revision=1,
    )
    return replace(made, **fields)


def node(ordinal: int, name: str, ip: str, **fields: Any) -> Node:
    made = Node(
        id=make(ordinal),
        name=name,
        underlay_ip=parse_ip(ip),
        agent_host=ip,
        agent_port=50001,
        created_at=1,
        updated_at=2,
        revision=1,
    )
    return replace(made, **fields)


def port(ordinal: int, owner: Network, *addresses: tuple[Subnet, str], **fields: Any) -> Port:
    made = Port(
        id=make(ordinal),
        network_id=owner.id,
        project_id="",
        name="",
        description="",
        mac=Mac((0xFA163E000000 + ordinal).to_bytes(6, "big")),
        fixed_ips=tuple(FixedIp(subnet.id, parse_ip(ip)) for subnet, ip in addresses),
        host="",
        device_id="",
        device_owner="",
        admin_state_up=True,
        kind=PortKind.CONTAINER,
        netns="",
        interface="",
        created_at=1,
        updated_at=2,
        revision=1,
        status=PortStatus.DOWN,
        status_reason="",
        realised_revision=0,
    )
    return replace(made, **fields)


def floating_ip(ordinal: int, policy_id: Id | None = None) -> FloatingIp:
    """A floating IP of no port."""
    return FloatingIp(
        id=make(ordinal),
        project_id="p",
        description="",
        network_id=make(1),
        subnet_id=make(2),
        ip=parse_ip("203.0.113.9"),
        external_port_id=make(3),
        port_id=None,
        fixed_ip=None,
        router_id=None,
        created_at=1,
        updated_at=2,
        revision=1,
        qos_policy_id=policy_id,
    )


def write(store: Store, **changes: Any) -> int:
    """Commits the changes as the next revision, and says which."""
    revision = store.revision() + 1
    store.commit(revision, Changes(**changes))
    return revision
