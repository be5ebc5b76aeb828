"""Who is answered, and names, as the host's services see them while goal state comes and goes."""

from alcor.agent.directory import Directory
from alcor.agent.plan import gateways, local_port
from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.goalstate.objects import (
    HOST_SCOPE,
    Goal,
    Kind,
    NameGoal,
    PortAddress,
    PortGoal,
    ScopeUpdate,
    SubnetGoal,
    Tombstone,
    VpcGoal,
)
from alcor.hostsvc.base import ROUTER_LINK_LOCAL
from alcor.model.addresses import Mac, parse_ip, parse_mac, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import DhcpOption, ExtraRoute, Ipv6Mode, PortKind

VPC, SUBNET, V6, PORT = (Id(letter * 16) for letter in (b"n", b"s", b"6", b"p"))
KEY = ScopeKey(1, VPC)
MAC: Mac = parse_mac("fa:16:3e:00:00:05")


class Site:
    """Desired state, and the directory over it."""

    def __init__(self) -> None:
        self.desired = Desired()
        self.directory = Directory(lambda: self.desired)
        self.revision = 0

    def take(self, scope: Id, *objects: Goal, snapshot: bool = False, gone: tuple[Tombstone, ...] = ()) -> None:
        self.revision += 1
        update = ScopeUpdate(scope=scope, revision=self.revision, snapshot=snapshot, objects=objects, tombstones=gone)
        self.desired.take(1, 1, [update], synced=False, touched=Touched())


def subnet(revision: int, *, dhcp: bool = True) -> SubnetGoal:
    return SubnetGoal(
        *(SUBNET, revision, parse_prefix("10.0.0.0/24"), parse_ip("10.0.0.1"), dhcp, (parse_ip("192.0.2.53"),)),
        host_routes=(ExtraRoute(parse_prefix("192.168.0.0/16"), parse_ip("10.0.0.254")),),
    )


def advertised(revision: int) -> SubnetGoal:
    return SubnetGoal(V6, revision, parse_prefix("2001:db8::/64"), None, True, (), Ipv6Mode.SLAAC, Ipv6Mode.SLAAC)


def port(revision: int, *addresses: tuple[str, Id]) -> PortGoal:
    where = tuple(PortAddress(parse_ip(ip), owner) for ip, owner in addresses)
    options = (DhcpOption(4, "mtu", "1300"),)
    words = ("project-a", "instance-1", "web")
    return PortGoal(PORT, revision, VPC, MAC, where, True, PortKind.CONTAINER, "", "", 0, True, (), *words, options)


def test_a_port_is_answered_once_all_of_it_is_there() -> None:
    """Its VPC, a subnet with DHCP: what it is answered with; without either, nothing."""
    site = Site()
    site.take(HOST_SCOPE, port(1, ("10.0.0.5", SUBNET)))
    assert site.directory.client(PORT) is None
    site.take(VPC, VpcGoal(VPC, 2, 7, 1400, True, dns_domain="tenant.example."), subnet(2), snapshot=True)
    client = site.directory.client(PORT)
    assert client is not None
    assert (client.domain, client.hostname, client.mtu) == ("tenant.example.", "web", 1400)
    assert (client.project_id, client.device_id) == ("project-a", "instance-1")
    assert client.options == (DhcpOption(4, "mtu", "1300"),)
    (lease,) = client.leases
    assert (lease.ip, lease.gateway) == (parse_ip("10.0.0.5"), parse_ip("10.0.0.1"))
    assert lease.routes == ((parse_prefix("192.168.0.0/16"), parse_ip("10.0.0.254")),)
    assert lease.nameservers == (parse_ip("192.0.2.53"),)
    carried = local_port(site.desired, PORT)
    assert carried is not None and carried.served
    site.take(VPC, subnet(3, dhcp=False))
    carried = local_port(site.desired, PORT)
    assert carried is not None and not carried.served
    assert site.directory.client(PORT) is None
    assert site.directory.client(Id(b"x" * 16)) is None


def test_only_advertised_ports_are_advertised_to() -> None:
    """With an address in a subnet that has a mode; then the router's own address is a gateway of the VPC."""
    site = Site()
    site.take(HOST_SCOPE, port(1, ("10.0.0.5", SUBNET)))
    site.take(VPC, VpcGoal(VPC, 2, 7, 1400, True), subnet(2), advertised(2), snapshot=True)
    assert site.directory.advertised() == []
    site.take(HOST_SCOPE, port(3, ("10.0.0.5", SUBNET), ("2001:db8::5", V6)))
    assert [one.id for one in site.directory.advertised()] == [PORT]
    assert ROUTER_LINK_LOCAL in {key.ip for key in gateways(site.desired, KEY)}
    site.take(VPC, gone=(Tombstone(Kind.SUBNET, V6, 4),))
    assert site.directory.advertised() == []
    assert ROUTER_LINK_LOCAL not in {key.ip for key in gateways(site.desired, KEY)}


def test_names_come_and_go_with_their_ports() -> None:
    """By name and by address; two ports may share a name; another VPC's names are not in it."""
    site = Site()
    site.take(HOST_SCOPE, port(1, ("10.0.0.5", SUBNET)))
    one, other, ip = Id(b"1" * 16), Id(b"2" * 16), parse_ip("10.0.0.5")
    site.take(VPC, VpcGoal(VPC, 2, 7, 1400, True), subnet(2), NameGoal(one, 2, "web", (ip,)), snapshot=True)
    client = site.directory.client(PORT)
    assert client is not None
    zone = site.directory.zone(client)
    assert (zone.addresses("web"), zone.name(ip)) == ((ip,), "web")
    second = parse_ip("10.0.0.6")
    site.take(VPC, NameGoal(other, 3, "web", (second,)))
    assert zone.addresses("web") == (ip, second)
    site.take(VPC, NameGoal(one, 4, "db", (ip,)))
    assert (zone.addresses("web"), zone.addresses("db"), zone.name(ip)) == ((second,), (ip,), "db")
    site.take(VPC, gone=(Tombstone(Kind.NAME, one, 5), Tombstone(Kind.NAME, other, 5)))
    assert (zone.addresses("web"), zone.addresses("db"), zone.name(ip)) == ((), (), "")
    assert zone.contains(parse_ip("10.0.0.200")) and not zone.contains(parse_ip("10.0.1.1"))
    # The last port goes, and with it all of the VPC.
    site.take(HOST_SCOPE, gone=(Tombstone(Kind.PORT, PORT, 9),))
    assert not zone.contains(ip)


def test_an_address_that_was_handed_on_keeps_its_new_name() -> None:
    """Updates of two ports may come in any order."""
    site = Site()
    site.take(HOST_SCOPE, port(1, ("10.0.0.5", SUBNET)))
    old, new, ip = Id(b"1" * 16), Id(b"2" * 16), parse_ip("10.0.0.5")
    site.take(VPC, VpcGoal(VPC, 2, 7, 1400, True), subnet(2), NameGoal(old, 2, "old", (ip,)), snapshot=True)
    site.take(VPC, NameGoal(new, 4, "new", (ip,)))
    site.take(VPC, gone=(Tombstone(Kind.NAME, old, 3),))
    names = site.desired.names(KEY)
    assert (names.name(ip), names.addresses("old"), names.addresses("new")) == ("new", (), (ip,))
