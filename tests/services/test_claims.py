"""Claims: an address of an allowed pair is at who announced it last, and at nobody who may not have it."""

from typing import Any

from tests.services.world import NOBODY, World, fixed

from alcor.model.addresses import Ip, Mac, parse_ip, parse_prefix
from alcor.model.nouns import Claim, Network, Pool, Port, PortStatus, Subnet
from alcor.services import claims
from alcor.services.claims import MAX_CLAIMS
from alcor.services.commands import (
    AddressPairSpec,
    AddRouterInterface,
    ClaimReport,
    CreateRouters,
    DeletePorts,
    RecordClaims,
    RouterSpec,
    UpdatePort,
    UpdateSubnet,
)
from alcor.services.indexes import Indexes

VIP, VIP6 = parse_ip("10.0.0.100"), parse_ip("2001:db8::100")
VRRP_MAC = Mac(bytes.fromhex("00005e000107"))


class Cloud(World):
    """A VPC with two hosts and two ports that may have the same addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.node("h1", "192.0.2.1")
        self.node("h2", "192.0.2.2")
        self.vpc: Network = super().network(cidr="10.0.0.0/16")
        self.inside: Subnet = self.subnet(
            self.vpc, "10.0.0.0/24", pools=(Pool(parse_ip("10.0.0.2"), parse_ip("10.0.0.199")),)
        )
        self.one, self.two = self.paired("h1"), self.paired("h2")

    def paired(self, host: str, **fields: Any) -> Port:
        prefixes = ("10.0.0.0/24", "2001:db8::/64", "192.0.2.0/24")
        pairs = tuple(AddressPairSpec(prefix=parse_prefix(one)) for one in prefixes)
        virtual = AddressPairSpec(prefix=parse_prefix("10.0.0.100/32"), mac=VRRP_MAC)
        return self.port(self.vpc, host=host, address_pairs=(*pairs, virtual), **fields)

    def claim(self, port: Port, *ips: Ip, mac: Mac | None = None, host: str | None = None) -> tuple[Claim, ...]:
        """Lets the port's host say so; answers what the port has afterwards."""
        told = [ClaimReport(port.id, port.network_id, host or port.host, Claim(ip, mac or port.mac)) for ip in ips]
        self.do(RecordClaims(reports=tuple(told)))
        return self.stored(port).claims

    def settled(self, command: Any) -> None:
        """As the writer does it: the batch is settled before it is written."""
        outcome = self.compute(command)
        self.indexes.apply(outcome)
        self.revision += 1
        self.ordinal += 1
        claims.settle(self.indexes, outcome.changes, self.store.get_ports, self.revision, self.now)
        self.store.commit(self.revision, outcome.changes)


def test_the_newest_claim_wins() -> None:
    """Both families, each at the MAC that announced it; who had the address has it no more; the status stays, the
    revision grows."""
    cloud = Cloud()
    one = cloud.report(cloud.one)
    mine = (Claim(VIP, VRRP_MAC), Claim(VIP6, one.mac))
    cloud.claim(one, VIP, mac=VRRP_MAC)
    assert mine == cloud.claim(one, VIP6)
    after = cloud.stored(one)
    assert (PortStatus.ACTIVE, True) == (after.status, after.revision > one.revision)
    assert (Claim(VIP, cloud.two.mac),) == cloud.claim(cloud.two, VIP)
    assert mine[1:] == cloud.stored(one).claims
    assert cloud.stored(one).revision == cloud.stored(cloud.two).revision
    cloud.check()
    again = Indexes(cloud.store)
    owners = {(cloud.vpc.id, VIP): cloud.two.id, (cloud.vpc.id, VIP6): one.id}
    assert owners == cloud.indexes.claims.all() == again.claims.all()


def test_what_is_known_is_not_written_again() -> None:
    """A repeated claim is no commit; of several in one command the last counts."""
    cloud = Cloud()
    cloud.claim(cloud.one, VIP)
    revision = cloud.revision
    cloud.claim(cloud.one, VIP, VIP)
    assert revision == cloud.revision
    reports = [ClaimReport(port.id, cloud.vpc.id, port.host, Claim(VIP, port.mac)) for port in (cloud.two, cloud.one)]
    cloud.do(RecordClaims(reports=tuple(reports)))
    assert (Claim(VIP, cloud.one.mac),) == cloud.stored(cloud.one).claims
    assert () == cloud.stored(cloud.two).claims
    cloud.check()


def test_who_may_not_claims_nothing() -> None:
    """Without a pair, with another MAC, from another host, of another VPC, of no port."""
    cloud = Cloud()
    plain = cloud.port(cloud.vpc, host="h1")
    assert () == cloud.claim(plain, VIP)
    assert () == cloud.claim(cloud.one, parse_ip("10.0.9.9"))
    assert () == cloud.claim(cloud.one, VIP, mac=plain.mac)
    assert () == cloud.claim(cloud.one, VIP6, mac=VRRP_MAC)
    assert () == cloud.claim(cloud.one, VIP, host="h2")
    claim = Claim(VIP, cloud.one.mac)
    cloud.do(RecordClaims(reports=(ClaimReport(cloud.one.id, NOBODY, "h1", claim),)))
    cloud.do(RecordClaims(reports=(ClaimReport(NOBODY, cloud.vpc.id, "h1", claim),)))
    assert () == cloud.stored(cloud.one).claims


def test_an_address_that_is_carried_is_nobody_elses() -> None:
    """A bound port's own, a gateway's, a router's, one that is no single host's. An unbound port's is only reserved."""
    cloud = Cloud()
    cloud.port(cloud.vpc, host="h2", fixed_ips=fixed("10.0.0.50"))
    cloud.port(cloud.vpc, fixed_ips=fixed("10.0.0.60"))
    (router,) = cloud.do(CreateRouters(specs=(RouterSpec(),)))
    leg = cloud.port(cloud.vpc, fixed_ips=fixed("10.0.0.70"))
    cloud.do(AddRouterInterface(id=router.id, port_id=leg.id))
    wide = cloud.do(
        UpdatePort(
            id=cloud.one.id,
            address_pairs=tuple(AddressPairSpec(prefix=parse_prefix(one)) for one in ("0.0.0.0/0", "::/0")),
        )
    )
    carried = ("10.0.0.50", "10.0.0.1", "10.0.0.70")
    for text in (*carried, "224.0.0.18", "169.254.169.254", "ff02::1", "fe80::1", "0.0.0.0", "::"):
        assert () == cloud.claim(wide, parse_ip(text)), text
    assert 1 == len(cloud.claim(wide, parse_ip("10.0.0.60")))


def test_a_port_claims_so_many_addresses() -> None:
    """The oldest goes for the newest."""
    cloud = Cloud()
    ips = [parse_ip(f"10.0.0.{100 + number}") for number in range(MAX_CLAIMS + 1)]
    assert ips[1:] == [claim.ip for claim in cloud.claim(cloud.one, *ips)]
    cloud.check()


def test_a_claim_goes_with_what_it_stands_on() -> None:
    """With its pair, with the port's binding, with the port; a move to another host keeps it."""
    cloud = Cloud()
    held = cloud.claim(cloud.one, VIP)
    assert held == cloud.do(UpdatePort(id=cloud.one.id, host="h2")).claims
    assert () == cloud.do(UpdatePort(id=cloud.one.id, address_pairs=())).claims
    cloud.claim(cloud.two, VIP)
    assert () == cloud.do(UpdatePort(id=cloud.two.id, host="")).claims
    third = cloud.paired("h1")
    cloud.claim(third, VIP)
    cloud.do(DeletePorts(ids=(third.id,)))
    assert {} == cloud.indexes.claims.all()
    cloud.check()


def test_an_address_that_is_carried_from_now_on_is_claimed_no_more() -> None:
    """A port that is bound with it, made or changed; a gateway."""
    cloud = Cloud()
    reserved = cloud.port(cloud.vpc, fixed_ips=fixed("10.0.0.100"))
    other = parse_ip("10.0.0.200")
    cloud.claim(cloud.one, VIP, other)
    cloud.settled(UpdatePort(id=reserved.id, host="h2"))
    assert [other] == [claim.ip for claim in cloud.stored(cloud.one).claims]
    assert cloud.stored(cloud.one).revision == cloud.revision
    cloud.settled(UpdateSubnet(id=cloud.inside.id, gateway=other))
    assert () == cloud.stored(cloud.one).claims
    assert () == cloud.claim(cloud.one, VIP, other)
    cloud.check()
