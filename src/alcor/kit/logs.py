"""Logging set-up: one line per event on standard error, for people on a terminal, as JSON elsewhere. Called by roles.

structlog enters through this file only; rooms log through the standard library (`logging.getLogger(__name__)`), so a
library user's own set-up is respected. Never log a secret: certificates, tokens and bodies stay out.
"""

from __future__ import annotations

import logging
import sys

import structlog


def set_up(level: str, *, role: str) -> None:
    """Sends every logger's events to standard error. `level` is a name such as INFO; `role` stamps each event."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    )
    if terminal:
        shared.remove(structlog.processors.format_exc_info)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _stamp(role), renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _stamp(role: str) -> structlog.typing.Processor:
    def add_role(
        _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["role"] = role
        return event

    return add_role
