"""What histories stand on: hosts, networks, subnets and ways outside."""

from __future__ import annotations

from msgspec.structs import replace

from alcor.model.addresses import parse_ip, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import Network, Node, Outside6, PortBlock, RouterGateway, RouterInterface, Subnet


def network(identifier: Id, index: int, revision: int, *, external: bool = False) -> Network:
    return Network(
        id=identifier,
        project_id="",
        name="",
        description="",
        cidr=None if external else parse_prefix("10.0.0.0/8"),
        vni=100 + index,
        mtu=1450,
        admin_state_up=True,
        shared=False,
        created_at=0,
        updated_at=0,
        revision=revision,
        external=external,
    )


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


def interfaces(index: int, port: Id, network: Id, subnet: Id) -> list[RouterInterface]:
    """A router's in a VPC, of both families."""
    cidrs = {f"10.{index}.0.0/16": f"10.{index}.0.1", f"2001:db8:10{index}:1::/64": f"2001:db8:10{index}:1::1"}
    return [RouterInterface(port, network, subnet, parse_prefix(one), parse_ip(ip)) for one, ip in cidrs.items()]


def gateway(port: Id, network: Id, subnet: Id, hosts: int) -> RouterGateway:
    """Outside; its address is shared by so many hosts, or (0) not. By some IPv6 leaves, too, by one of them alone."""
    bare = RouterGateway(port, network, subnet, parse_ip("203.0.113.2"), bool(hosts))
    if hosts != 2:
        next_hop = parse_ip("fe80::1") if hosts else None
        six = Outside6(subnet, parse_ip("2001:db8:100::2"), parse_prefix("2001:db8:100::/40"), next_hop)
        bare = replace(bare, outside6=six)
    if hosts == 3:
        return replace(bare, subnet_id=None, ip=None)
    if not hosts:
        return bare
    ends = {host: parse_ip(f"172.16.0.{number}") for number, host in enumerate("abc"[:hosts], 1)}
    blocks = tuple(PortBlock(number, host, ip) for number, (host, ip) in enumerate(ends.items(), 2))
    return replace(bare, prefix_length=24, next_hop=parse_ip("203.0.113.1"), blocks=blocks, answerer="a")
