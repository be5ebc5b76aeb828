"""Claims: which of the ports that may use an address has it now. Pure, but that the store is asked who has an address.

Called by services.dispatch with what hosts saw announced, and by loops.commit (`settle`) for each batch. An address of
an allowed pair is at whichever port announced it last: the newest claim wins. Addresses that ports carry as their own,
that routers have or load balancers answer for, are nobody else's to claim; a fixed address of an unbound port is: so a
VIP is reserved (as with Neutron's ML2/OVN). A port's status stays as it is: nothing of it waits for a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from msgspec.structs import replace

from alcor.model.addresses import SERVICE_IPS, Ip, ip_version
from alcor.model.ids import Id
from alcor.model.nouns import Claim, Port
from alcor.services.commands import ClaimReport, RecordClaims
from alcor.services.indexes import Indexes, Outcome, Stamp
from alcor.store.base import Changes

MAX_CLAIMS = 8
"""Of one port; the oldest goes for a newer one. Every host of the network holds them."""


def record_claims(indexes: Indexes, ports: Mapping[Id, Port], command: RecordClaims, stamp: Stamp) -> Outcome:
    """Gives addresses to who announced them, in the order of the reports, and takes them from who had them."""
    work: dict[Id, Port] = {}
    owners: dict[tuple[Id, Ip], Id] = {}
    for report in command.reports:
        port, ip = work.get(report.port) or ports.get(report.port), report.claim.ip
        if port is None or report.claim in port.claims or not _may_claim(indexes, port, report):
            continue
        key = (port.network_id, ip)
        owner = owners.get(key) or indexes.claims.owner(*key)
        if owner is not None and owner != port.id:
            work[owner] = _without(work.get(owner) or ports[owner], {ip})
        others = tuple([one for one in port.claims if one.ip != ip])
        work[port.id] = replace(port, claims=(*others, report.claim)[-MAX_CLAIMS:])
        owners[key] = port.id
    changed = [
        (ports[identifier], replace(after, updated_at=stamp.now, revision=stamp.revision))
        for identifier, after in work.items()
        if after.claims != ports[identifier].claims
    ]
    return Outcome(None, Changes(changed_ports=changed))


def rows_of(indexes: Indexes, command: RecordClaims) -> Sequence[Id]:
    """The ports that the command reads: those that claim, and those that claim the same addresses now."""
    owners = (indexes.claims.owner(one.vpc, one.claim.ip) for one in command.reports)
    return [*(one.port for one in command.reports), *(owner for owner in owners if owner is not None)]


def kept(port: Port) -> Port:
    """The port with what it may claim still: bound, by its pairs, and not its own address."""
    if not port.claims:
        return port
    own = {fixed.ip for fixed in port.fixed_ips}
    stay = tuple([one for one in port.claims if port.host and one.ip not in own and _is_covered(port, one)])
    return port if stay == port.claims else replace(port, claims=stay)


def settle(
    indexes: Indexes, changes: Changes, read: Callable[[Iterable[Id]], list[Port]], revision: int, now: int
) -> None:
    """Takes claimed addresses that a batch makes a port's own, a router's or a load balancer's from who claims them.

    `indexes` have the changes, and `changes` is what is added to. `read` answers ports as of the last commit.
    """
    if not indexes.claims:
        return
    lost: dict[Id, set[Ip]] = {}
    carried = (
        (port.network_id, fixed.ip)
        for port in chain(changes.new_ports, (after for _, after in changes.changed_ports))
        if port.host or port.id in indexes.router_of or port.id in indexes.balancing.vip_ports
        for fixed in port.fixed_ips
    )
    gateways = ((subnet.network_id, subnet.gateway) for subnet in changes.subnets if subnet.gateway is not None)
    for network_id, ip in chain(carried, gateways):
        owner = indexes.claims.owner(network_id, ip)
        if owner is not None:
            lost.setdefault(owner, set()).add(ip)
    places = {after.id: at for at, (_, after) in enumerate(changes.changed_ports)}
    for identifier, ips in sorted(lost.items()):
        if identifier in places:
            before, now_is = changes.changed_ports[places[identifier]]
            pair = (before, _without(now_is, ips))
            changes.changed_ports[places[identifier]] = pair
        else:
            (now_is,) = read([identifier])
            pair = (now_is, replace(_without(now_is, ips), updated_at=now, revision=revision))
            changes.changed_ports.append(pair)
        indexes.claims.apply(Changes(changed_ports=[(now_is, pair[1])]))


def _without(port: Port, ips: set[Ip]) -> Port:
    return replace(port, claims=tuple([one for one in port.claims if one.ip not in ips]))


def _is_covered(port: Port, claim: Claim) -> bool:
    return any(pair.mac == claim.mac and claim.ip in pair.prefix for pair in port.address_pairs)


def _may_claim(indexes: Indexes, port: Port, report: ClaimReport) -> bool:
    """It is where the report comes from, has a pair for it, and nobody carries the address."""
    if not port.host or (port.host, port.network_id) != (report.host, report.vpc):
        return False
    return _is_covered(port, report.claim) and not _is_carried(indexes, port, report.claim.ip)


def _is_carried(indexes: Indexes, port: Port, ip: Ip) -> bool:
    """The address is a bound port's own, a gateway's, a router's or a load balancer's; or is no single host's."""
    first = ip[12] if ip_version(ip) == 4 else ip[0]
    if ip in SERVICE_IPS or ip in (bytes(16), _ANY) or first >= (224 if ip_version(ip) == 4 else 0xFE):
        return True
    network_id = port.network_id
    subnets = indexes.subnets_of.get(network_id, {}).values()
    routers = (one.ip for road in indexes.roads(network_id) for one in getattr(road, "interfaces", ()))
    balancers = (one for one in indexes.balancing.load_balancers.values() if one.network_id == network_id)
    if any(ip == subnet.gateway for subnet in subnets) or ip in routers or any(ip == one.vip_ip for one in balancers):
        return True
    return any(found.host for subnet in subnets if ip in subnet.cidr for found in indexes.store.locate(subnet.id, [ip]))


_ANY = Ip(bytes(10) + b"\xff\xff" + bytes(4))
