"""What histories stand on: hosts and subnets."""

from __future__ import annotations

from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import Node, Subnet


def subnet(identifier: Id, network: Id, index: int, revision: int) -> Subnet:
    return Subnet(
        id=identifier,
        network_id=network,
        project_id="",
        name="",
        description="",
        cidr=parse_prefix(f"10.{index}.0.0/16"),
        gateway=parse_ip(f"10.{index}.0.1"),
        pools=(),
        enable_dhcp=True,
        dns_nameservers=(),
        created_at=0,
        updated_at=0,
        revision=revision,
    )


def node(name: str, index: int, revision: int) -> Node:
    return Node(
        id=Id(name.encode() * 16),
        name=name,
        underlay_ip=parse_ip(f"172.16.0.{index + 1}"),
        agent_host="127.0.0.1",
        agent_port=50001,
        created_at=0,
        updated_at=0,
        revision=revision,
    )
