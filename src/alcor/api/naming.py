"""DNS names and DHCP options of bodies and views. Called by networks and ports. Pure, but for `domains`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, cast

from alcor.api.bodies import DhcpOptionBody, DhcpOptionView, DnsAssignment
from alcor.api.convert import only
from alcor.api.errors import FieldError
from alcor.model.addresses import format_ip
from alcor.model.dhcp import encode_option
from alcor.model.ids import Id
from alcor.model.names import DEFAULT_DOMAIN, check_domain, check_name, host_name
from alcor.model.nouns import DhcpOption, Port
from alcor.services.commands import DhcpOptionChange
from alcor.store.base import Query, Store


def dns_domain(text: str) -> str:
    """A network's `dns_domain`, in lower case."""
    found = text.lower()
    if found:
        try:
            check_domain(found)
        except ValueError as error:
            raise FieldError("dns_domain", str(error)) from None
    return found


def dns_name(text: str) -> str:
    """A port's `dns_name`, in lower case."""
    found = text.lower()
    if found:
        try:
            check_name(found)
        except ValueError as error:
            raise FieldError("dns_name", str(error)) from None
    return found


def options(bodies: Sequence[DhcpOptionBody] | None) -> tuple[DhcpOption, ...]:
    """A new port's DHCP options. One without a value says nothing (as in Neutron)."""
    changes = option_changes(bodies)
    found = [DhcpOption(one.version, one.name, one.value) for one in changes if one.value is not None]
    return tuple(sorted(found, key=lambda one: (one.version, one.name)))


def option_changes(bodies: Sequence[DhcpOptionBody] | None) -> tuple[DhcpOptionChange, ...]:
    """What changes of a port's DHCP options. Each is checked here: what no client would understand is refused."""
    found: dict[tuple[int, str], DhcpOptionChange] = {}
    for at, body in enumerate(bodies or ()):
        where = f"extra_dhcp_opts[{at}]"
        if body.opt_value is not None:
            try:
                encode_option(body.ip_version, body.opt_name, body.opt_value)
            except ValueError as error:
                raise FieldError(where, str(error)) from None
        key = body.ip_version, body.opt_name
        only(where, key not in found, f"'{body.opt_name}' is in it twice")
        found[key] = DhcpOptionChange(version=body.ip_version, name=body.opt_name, value=body.opt_value)
    return tuple(found.values())


def option_views(found: Sequence[DhcpOption]) -> list[DhcpOptionView]:
    """The options as REST shows them."""
    return [DhcpOptionView(one.name, one.value, cast(Literal[4, 6], one.version)) for one in found]


def assignment(port: Port, domain: str) -> list[DnsAssignment]:
    """Under which names the port's addresses are found in that domain (empty: the default one)."""
    suffix = f".{domain or DEFAULT_DOMAIN}"
    names = [(one.ip, port.dns_name or host_name(one.ip)) for one in port.fixed_ips]
    return [DnsAssignment(format_ip(ip), name, name + suffix) for ip, name in names]


def domains(store: Store, ports: Iterable[Port]) -> Mapping[Id, str]:
    """The domains of the ports' networks, those that have one."""
    ids = tuple({port.network_id for port in ports})
    if not ids:
        return {}
    found = store.list_networks(Query(filters={"id": ids}, limit=len(ids)))
    return {network.id: network.dns_domain for network in found if network.dns_domain}
