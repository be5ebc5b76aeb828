"""Routes and translations as rows of the tables `routes` and `translations`. Pure.

Called by the driver and by tests; alcor.h has the layouts, docs/pipeline.md (step R) says how they are looked up.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from alcor.dataplane.base import MAX_HOPS, Hop, Route, RouteKey, RouteKind, TranslationKey
from alcor.model.addresses import Ip, Prefix

ROUTE_KEY: Final = struct.Struct("=II16s")
ROUTE: Final = struct.Struct("=II192s")
HOP: Final = struct.Struct("=II16s")
TRANSLATION_KEY: Final = struct.Struct("=III")
TRANSLATION: Final = struct.Struct("=I")
ROUTE_BITS: Final = 32
ROUTE_IPV6: Final = 0x80000000
_V4_BITS = 96


def pack_route_key(key: RouteKey) -> bytes:
    """Key of `routes`."""
    if key.prefix.version == 6:
        return ROUTE_KEY.pack(ROUTE_BITS + key.prefix.length, key.vni | ROUTE_IPV6, key.prefix.base)
    return ROUTE_KEY.pack(ROUTE_BITS + _V4_BITS + key.prefix.length, key.vni, key.prefix.base)


def unpack_route_key(raw: bytes) -> RouteKey:
    """The route that a key of `routes` names."""
    bits, vni, base = ROUTE_KEY.unpack(raw)
    if vni & ROUTE_IPV6:
        return RouteKey(vni ^ ROUTE_IPV6, Prefix(Ip(base), bits - ROUTE_BITS, 6))
    return RouteKey(vni, Prefix(Ip(base), bits - ROUTE_BITS - _V4_BITS, 4))


def pack_route(route: Route) -> bytes:
    """Value of `routes`."""
    hops = b"".join([HOP.pack(hop.vni, hop.mtu, hop.ip) for hop in route.hops[:MAX_HOPS]])
    return ROUTE.pack(route.kind, len(route.hops), hops)


def unpack_route(raw: bytes) -> Route:
    """A row of `routes` from its value."""
    kind, count, hops = ROUTE.unpack(raw)
    return Route(RouteKind(kind), tuple([Hop(*HOP.unpack_from(hops, at * HOP.size)) for at in range(count)]))


def pack_routes(rows: Sequence[tuple[RouteKey, Route]]) -> tuple[bytes, bytes]:
    """Routes as keys and values of `routes`."""
    return b"".join([pack_route_key(key) for key, _ in rows]), b"".join([pack_route(route) for _, route in rows])


def pack_translations(rows: Sequence[tuple[TranslationKey, int]]) -> tuple[bytes, bytes]:
    """Translations as keys and values of `translations`."""
    return (
        b"".join([TRANSLATION_KEY.pack(*key) for key, _ in rows]),
        b"".join([TRANSLATION.pack(identity) for _, identity in rows]),
    )


def unpack_translation(raw: bytes, value: bytes) -> tuple[TranslationKey, int]:
    """A row of `translations`."""
    return TranslationKey(*TRANSLATION_KEY.unpack(raw)), int(TRANSLATION.unpack(value)[0])
