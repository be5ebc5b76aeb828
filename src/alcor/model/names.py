"""Names of ports in their network's DNS domain. Pure. Called by api (to show and check them) and by the agent's DNS."""

from __future__ import annotations

import re

from alcor.model.addresses import Ip, format_ip, parse_ip

DEFAULT_DOMAIN = "openstacklocal."
"""Of networks without `dns_domain`: Neutron's default."""
MAX_FQDN, MAX_LABEL = 255, 63
_LABEL = re.compile(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")


def check_name(name: str) -> None:
    """Raises ValueError for what is no partially qualified domain name (RFC 1123 section 2.1), lower case."""
    if len(name) > MAX_FQDN - 2:
        raise ValueError(f"'{name}' exceeds the {MAX_FQDN - 2} character FQDN limit")
    for label in name.split("."):
        if not 0 < len(label) <= MAX_LABEL or not _LABEL.match(label):
            raise ValueError(
                f"'{name}' not a valid PQDN or FQDN. Reason: name '{label}' must be 1-{MAX_LABEL} characters long, "
                "each of which can only be alphanumeric or a hyphen, and begin and end with no hyphen"
            )


def check_domain(domain: str) -> None:
    """Raises ValueError for what is no domain for names, with a dot at its end, lower case."""
    if not domain.endswith("."):
        raise ValueError(f"'{domain}' is not a FQDN")
    check_name(domain[:-1])
    if domain[:-1].rpartition(".")[2].isdigit():
        raise ValueError(f"'{domain}' not a valid PQDN or FQDN. Reason: TLD '{domain[:-1]}' must not be all numeric")


def host_name(ip: Ip) -> str:
    """The name that every address has: host-10-0-0-5, host-2001-db8--5 (as in Neutron)."""
    return "host-" + format_ip(ip).replace(".", "-").replace(":", "-")


def ip_of_host_name(label: str) -> Ip | None:
    """The address of such a name; None when it is none."""
    word = label.removeprefix("host-")
    if word == label:
        return None
    for separator in (".", ":"):
        try:
            ip = parse_ip(word.replace("-", separator))
        except ValueError:
            continue
        return ip if host_name(ip) == label else None
    return None
