"""Puts routes and translations into their tables, and takes them out. Called by the driver.

A route is one row: whoever looks it up finds the old one or the new one. Translations come first and go last, so that
no packet is routed whose sender nobody knows there.
"""

from __future__ import annotations

from alcor.dataplane.base import Plan, Route, RouteKey, TranslationKey
from alcor.dataplane.ebpf import routes
from alcor.dataplane.ebpf.program import Program


def observe_routes(program: Program) -> dict[RouteKey, Route]:
    """Reads the table."""
    return {routes.unpack_route_key(key): routes.unpack_route(value) for key, value in program.routes.items()}


def observe_translations(program: Program) -> dict[TranslationKey, int]:
    """Reads the table."""
    return dict(routes.unpack_translation(key, value) for key, value in program.translations.items())


def put(program: Program, plan: Plan) -> None:
    """What of the plan comes or changes. Raises BpfError."""
    program.translations.update_batch(*routes.pack_translations(plan.put_translations), len(plan.put_translations))
    program.routes.update_batch(*routes.pack_routes(plan.put_routes), len(plan.put_routes))


def remove(program: Program, plan: Plan) -> None:
    """What of it goes; an absent one is passed over. Raises BpfError."""
    gone = plan.remove_routes
    program.routes.delete_batch(b"".join(map(routes.pack_route_key, gone)), len(gone))
    keys = b"".join([routes.TRANSLATION_KEY.pack(*key) for key in plan.remove_translations])
    program.translations.delete_batch(keys, len(plan.remove_translations))
