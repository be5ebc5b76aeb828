"""Optimistic concurrency and partial changes: what every update has in common. Pure.

Called by the services of the resources.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import UNSET

from alcor.model.ids import Id, format_id
from alcor.services.commands import Command
from alcor.services.errors import RevisionNumberConstraintFailed


class Revised(Protocol):
    """A resource with an id and a revision."""

    @property
    def id(self) -> Id: ...

    @property
    def revision(self) -> int: ...


def check_if_match(resource: Revised, if_match: int | None) -> None:
    """Raises RevisionNumberConstraintFailed unless the caller saw the present revision (or did not say)."""
    if if_match is not None and if_match != resource.revision:
        raise RevisionNumberConstraintFailed(
            f"Constrained to {if_match}, but current revision of {format_id(resource.id)} is {resource.revision}. "
            "Read it again and repeat the change."
        )


def changed_fields(resource: object, command: Command, fields: tuple[str, ...]) -> dict[str, object]:
    """The fields that the command sets to something else than the resource has."""
    found = {}
    for field in fields:
        value = getattr(command, field)
        if value is not UNSET and value != getattr(resource, field):
            found[field] = value
    return found
