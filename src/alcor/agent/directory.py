"""Who on this host is answered by its services, and the names of their VPCs: a view of desired state.

Called by the host's services on the event loop, while the worker thread changes what is looked at here. That is safe
because goals are immutable and every step is one look-up, or one copy, of one dictionary: what is read is true of some
moment, and who asks again a moment later is told the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from alcor.agent.state import Desired, ScopeKey
from alcor.goalstate.objects import PortGoal
from alcor.hostsvc.base import Client, Lease, Zone
from alcor.model.addresses import Ip
from alcor.model.ids import Id
from alcor.model.names import DEFAULT_DOMAIN


class Directory:
    """See the module; fills hostsvc.base.Clients."""

    def __init__(self, desired: Callable[[], Desired]) -> None:
        """`desired` answers what is desired now."""
        self._desired = desired

    def client(self, port: Id) -> Client | None:
        """See hostsvc.base."""
        desired = self._desired()
        partition = desired.ports.get(port)
        goal = desired.port(port) if partition is not None else None
        return _client(desired, partition, goal) if partition is not None and goal is not None else None

    def zone(self, client: Client) -> Zone:
        """See hostsvc.base."""
        return _VpcZone(self._desired(), ScopeKey(client.partition, client.vpc))

    def advertised(self) -> list[Client]:
        """See hostsvc.base."""
        desired = self._desired()
        found = []
        for key, state in list(desired.scopes.items()):
            if any(subnet.ra_mode is not None for subnet in list(state.subnets.values())):
                clients = (self.client(port) for port in list(desired.ports_of(key)))
                found += [one for one in clients if one is not None]
        return sorted((one for one in found if any(lease.ra_mode is not None for lease in one.leases)), key=_by_id)


def _by_id(client: Client) -> Id:
    return client.id


def _client(desired: Desired, partition: int, goal: PortGoal) -> Client | None:
    """The port as it is answered; None when it is not, or waits for its VPC or a subnet."""
    state = desired.scopes.get(ScopeKey(partition, goal.vpc_id))
    vpc = state.vpcs.get(goal.vpc_id) if state is not None else None
    if state is None or vpc is None:
        return None
    leases = []
    for address in goal.addresses:
        subnet = state.subnets.get(address.subnet_id)
        if subnet is not None and subnet.dhcp:
            leases.append(
                Lease(
                    ip=address.ip,
                    cidr=subnet.cidr,
                    gateway=subnet.gateway,
                    nameservers=subnet.nameservers,
                    ra_mode=subnet.ra_mode,
                    address_mode=subnet.address_mode,
                    routes=tuple([(to.destination, to.nexthop) for to in subnet.host_routes if to.nexthop is not None]),
                )
            )
    if not leases:
        return None
    return Client(
        id=goal.id,
        vpc=goal.vpc_id,
        partition=partition,
        mac=goal.mac,
        mtu=vpc.mtu,
        routed=vpc.routed,
        domain=vpc.dns_domain or DEFAULT_DOMAIN,
        hostname=goal.dns_name,
        project_id=goal.project_id,
        device_id=goal.device_id,
        leases=tuple(leases),
        options=goal.dhcp_options,
    )


class _VpcZone:
    """Fills hostsvc.base.Zone."""

    def __init__(self, desired: Desired, key: ScopeKey) -> None:
        self._desired = desired
        self._key = key

    def addresses(self, name: str) -> tuple[Ip, ...]:
        """See hostsvc.base."""
        return self._desired.names(self._key).addresses(name)

    def name(self, ip: Ip) -> str:
        """See hostsvc.base."""
        return self._desired.names(self._key).name(ip)

    def contains(self, ip: Ip) -> bool:
        """See hostsvc.base."""
        state = self._desired.scopes.get(self._key)
        return state is not None and any(ip in subnet.cidr for subnet in list(state.subnets.values()))
