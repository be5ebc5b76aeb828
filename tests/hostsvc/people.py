"""Ports that are answered, and names, for the tests of this room."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from alcor.hostsvc.base import Client, Lease
from alcor.model.addresses import Ip, Mac, Prefix, parse_ip, parse_mac, parse_prefix
from alcor.model.ids import Id
from alcor.model.nouns import Ipv6Mode

MAC: Mac = parse_mac("fa:16:3e:00:00:05")
V4 = Lease(ip=parse_ip("10.0.0.5"), cidr=parse_prefix("10.0.0.0/24"), gateway=parse_ip("10.0.0.1"))
V6 = Lease(
    ip=parse_ip("2001:db8::5"),
    cidr=parse_prefix("2001:db8::/64"),
    gateway=parse_ip("2001:db8::1"),
    ra_mode=Ipv6Mode.STATEFUL,
    address_mode=Ipv6Mode.STATEFUL,
)
CLIENT = Client(
    id=Id(b"p" * 16),
    vpc=Id(b"n" * 16),
    partition=1,
    mac=MAC,
    mtu=1450,
    routed=True,
    domain="tenant.example.",
    hostname="web",
    project_id="project-a",
    device_id="instance-1",
    leases=(V4, V6),
)


class Names:
    """Fills hostsvc.base.Zone."""

    def __init__(self, names: Mapping[str, Sequence[str]], prefixes: Sequence[str] = ("10.0.0.0/24",)) -> None:
        self._names = {name: tuple(parse_ip(ip) for ip in ips) for name, ips in names.items()}
        self._prefixes: list[Prefix] = [parse_prefix(one) for one in prefixes]

    def addresses(self, name: str) -> tuple[Ip, ...]:
        return self._names.get(name, ())

    def name(self, ip: Ip) -> str:
        return next((name for name, ips in self._names.items() if ip in ips), "")

    def contains(self, ip: Ip) -> bool:
        return any(ip in prefix for prefix in self._prefixes)


ZONE = Names({"web": ("10.0.0.5", "2001:db8::5"), "db": ("10.0.0.6",)}, ("10.0.0.0/24", "2001:db8::/64"))


class People:
    """Fills hostsvc.base.Clients."""

    def __init__(self, *clients: Client, zones: Mapping[Id, Names] | None = None) -> None:
        self.clients = {client.id: client for client in clients}
        self.zones = dict(zones or {})

    def client(self, port: Id) -> Client | None:
        return self.clients.get(port)

    def zone(self, client: Client) -> Names:
        return self.zones.get(client.vpc, ZONE)

    def advertised(self) -> list[Client]:
        found = [one for one in self.clients.values() if any(lease.ra_mode is not None for lease in one.leases)]
        return sorted(found, key=lambda one: one.id)


def only_v4(client: Client = CLIENT) -> Client:
    return replace(client, leases=(V4,))
