"""Logging set-up: one line per event on standard error, for people on a terminal, as JSON elsewhere. Called by roles.

Rooms log through the standard library (`logging.getLogger(__name__)`), so a library user's own set-up is respected.
What writes for a terminal is loaded only there: it doubles what an agent takes to start. Never log a secret:
certificates, tokens and bodies stay out.
"""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter


def set_up(level: str, *, role: str) -> None:
    """Sends every logger's events to standard error. `level` is a name such as INFO; `role` stamps each event.

    JSON: `timestamp` (RFC 3339, UTC), `level`, `logger`, `event`, `role`, `exception` if there is one, and whatever a
    logger was given as `extra`.
    """
    root = logging.getLogger()
    root.handlers[:] = [_for_people(role) if sys.stderr.isatty() else _as_json(role)]
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


def _for_people(role: str) -> logging.Handler:
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=True)
    handler.setFormatter(_Told(role))
    return handler


class _Told(logging.Formatter):
    """`role logger: event key=value...`, of what a logger was given as `extra`."""

    def __init__(self, role: str) -> None:
        super().__init__(f"{role} %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        extra = merge_record_extra(record, {}, RESERVED_ATTRS)
        return " ".join([super().formatMessage(record), *[f"{key}={value}" for key, value in extra.items()]])
