"""DHCP options that a port may ask for (Neutron's `extra_dhcp_opts`): their names, numbers and encodings. Pure.

Called by api and services (to refuse what no client would understand) and by the agent (to answer with it). Names are
those of dnsmasq, which Neutron's users write: RFC 2132 and its successors for IPv4, RFC 8415 and 3646 for IPv6.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from alcor.model.addresses import ip_version, parse_ip, parse_prefix

MAX_VALUE_BYTES = 255
"""Of one option of IPv4; longer ones would need RFC 3396, which many clients lack."""
NEXT_SERVER: Final = -1
"""Not an option but the field `siaddr`: where the boot file is (dnsmasq's server-ip-address)."""


def _addresses(version: int, value: str) -> bytes:
    found = [parse_ip(word.strip().strip("[]")) for word in value.split(",")]
    if any(ip_version(one) != version for one in found):
        raise ValueError(f"'{value}' is not of IPv{version}")
    return b"".join([one[12:] if version == 4 else bytes(one) for one in found])


def _text(_version: int, value: str) -> bytes:
    return value.encode()


def _number(size: int) -> Callable[[int, str], bytes]:
    def encode(_version: int, value: str) -> bytes:
        if not value.isascii() or not value.isdigit() or int(value) >= 1 << 8 * size:
            raise ValueError(f"'{value}' is not a number of {size} bytes")
        return int(value).to_bytes(size, "big")

    return encode


def domain_labels(name: str) -> bytes:
    """A domain name in the encoding of RFC 1035 section 3.1, uncompressed. Raises ValueError."""
    labels = name.rstrip(".").encode("ascii").split(b".")
    if any(not 0 < len(label) < 64 for label in labels):
        raise ValueError(f"'{name}' is not a domain name")
    return b"".join([bytes((len(label),)) + label for label in labels]) + b"\0"


def _domains(_version: int, value: str) -> bytes:
    return b"".join([domain_labels(word.strip()) for word in value.split(",")])


def _routes(_version: int, value: str) -> bytes:
    """`destination,gateway,destination,gateway...` as RFC 3442 has it."""
    words = [word.strip() for word in value.split(",")]
    if len(words) % 2:
        raise ValueError(f"'{value}' is not pairs of destination and gateway")
    return b"".join(
        [classless_route(words[at], _addresses(4, words[at + 1])) for at in range(0, len(words), 2)],
    )


def classless_route(destination: str, gateway: bytes) -> bytes:
    """One route of option 121 (RFC 3442): width, significant bytes of the destination, gateway (4 bytes)."""
    prefix = parse_prefix(destination)
    if prefix.version != 4:
        raise ValueError(f"'{destination}' is not of IPv4")
    return bytes((prefix.length,)) + prefix.base[12 : 12 + (prefix.length + 7) // 8] + gateway


def _guess(version: int, value: str) -> bytes:
    """As dnsmasq: addresses, else a number in as few bytes as it takes, else hexadecimal with colons, else text."""
    try:
        return _addresses(version, value)
    except ValueError:
        pass
    if value.isascii() and value.isdigit() and int(value) < 1 << 32:
        return int(value).to_bytes(next(size for size in (1, 2, 4) if int(value) < 1 << 8 * size), "big")
    words = value.removeprefix("0x").split(":")
    if (len(words) > 1 or value.startswith("0x")) and all(len(word) % 2 == 0 for word in words):
        try:
            return bytes.fromhex("".join(words))
        except ValueError:
            pass
    return value.encode()


_NAMES: Final[dict[int, dict[str, tuple[int, Callable[[int, str], bytes]]]]] = {
    4: {
        "netmask": (1, _addresses),
        "time-offset": (2, _number(4)),
        "router": (3, _addresses),
        "dns-server": (6, _addresses),
        "log-server": (7, _addresses),
        "lpr-server": (9, _addresses),
        "hostname": (12, _text),
        "boot-file-size": (13, _number(2)),
        "domain-name": (15, _text),
        "swap-server": (16, _addresses),
        "root-path": (17, _text),
        "extension-path": (18, _text),
        "default-ttl": (23, _number(1)),
        "mtu": (26, _number(2)),
        "broadcast": (28, _addresses),
        "nis-domain": (40, _text),
        "nis-server": (41, _addresses),
        "ntp-server": (42, _addresses),
        "netbios-ns": (44, _addresses),
        "netbios-nodetype": (46, _number(1)),
        "lease-time": (51, _number(4)),
        "T1": (58, _number(4)),
        "T2": (59, _number(4)),
        "vendor-class": (60, _text),
        "smtp-server": (69, _addresses),
        "tftp-server": (66, _text),
        "bootfile-name": (67, _text),
        "domain-search": (119, _domains),
        "classless-static-route": (121, _routes),
        "tftp-server-address": (150, _addresses),
        "server-ip-address": (NEXT_SERVER, _addresses),
        "path-prefix": (210, _text),
        "config-file": (209, _text),
        "wpad": (252, _text),
    },
    6: {
        "sip-server-domain": (21, _domains),
        "sip-server": (22, _addresses),
        "dns-server": (23, _addresses),
        "domain-search": (24, _domains),
        "nis-server": (27, _addresses),
        "sntp-server": (31, _addresses),
        "information-refresh-time": (32, _number(4)),
        "bootfile-url": (59, _text),
    },
}
_RESERVED: Final = {
    4: frozenset({0, 50, 52, 53, 54, 55, 56, 57, 61, 82, 255}),
    6: frozenset({0, *range(1, 21), 25, 26}),
}
"""What the protocol itself says with: no port may put words into its mouth."""
_LARGEST: Final = {4: 254, 6: 65535}


@lru_cache(maxsize=1024)
def encode_option(version: int, name: str, value: str) -> tuple[int, bytes]:
    """The option's number (or NEXT_SERVER) and its bytes. `name` is a name or a number. Raises ValueError."""
    word = name.removeprefix("option:").removeprefix("option6:")
    if word in _NAMES[version]:
        code, encode = _NAMES[version][word]
    elif word.isascii() and word.isdigit() and len(word) <= 5 and 0 < int(word) <= _LARGEST[version]:
        code = int(word)
        encode = next((how for number, how in _NAMES[version].values() if number == code), _guess)
    else:
        raise ValueError(f"'{name}' is not the name or number of a DHCP option of IPv{version}")
    if code in _RESERVED[version]:
        raise ValueError(f"option {code} is the server's own")
    raw = encode(version, value)
    if not 0 < len(raw) <= MAX_VALUE_BYTES or (b"\0" in raw and encode is _text):
        raise ValueError(f"the value of '{name}' has {len(raw)} bytes, 1 to {MAX_VALUE_BYTES} are possible")
    if code == NEXT_SERVER and len(raw) != 4:
        raise ValueError(f"'{name}' is one address")
    return code, raw
