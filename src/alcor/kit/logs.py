"""Logging set-up: one line per event on standard error, for people on a terminal, as JSON elsewhere. Called by roles.

Rooms log through the standard library (`logging.getLogger(__name__)`), so a library user's own set-up is respected.
What writes for a terminal is loaded only there: it doubles what an agent takes to start. Never log a secret:
certificates, tokens and bodies stay out.
"""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def set_up(level: str, *, role: str) -> None:
    """Sends every logger's events to standard error. `level` is a name such as INFO; `role` stamps each event.

    JSON: `timestamp` (RFC 3339, UTC), `level`, `logger`, `event`, `role`, `exception` if there is one, and whatever a
    logger was given as `extra`.
    """
    root = logging.getLogger()
    root.handlers[:] = [_for_people() if sys.stderr.isatty() else _as_json(role)]
    root.setLevel(level.upper())


def _as_json(role: str) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"message": "event", "name": "logger", "levelname": "level", "exc_info": "exception"},
            static_fields={"role": role},
            timestamp=True,
        )
    )
    return handler


def _for_people() -> logging.Handler:
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=True)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    return handler
