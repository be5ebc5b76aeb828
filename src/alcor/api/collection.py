"""What the handlers of every collection have in common. The classes of resources (networks, ports, ...) build on it.

A resource says how its rows are found, seen and deleted, and reads its own bodies; here are the questions, the answers
and their shapes: `{"networks": [...]}` for many, `{"network": {...}}` for one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar, cast

import msgspec

from alcor.api.bodies import View
from alcor.api.context import Context
from alcor.api.convert import member
from alcor.api.errors import Reply
from alcor.api.exchange import Call
from alcor.api.listing import Listing, cut, find_page, page_reply, read_fields, read_page
from alcor.model.ids import Id, format_id
from alcor.services.commands import Command
from alcor.store.base import Query

Noun = TypeVar("Noun")

_encode = msgspec.json.Encoder().encode


class Collection(ABC, Generic[Noun]):
    """Handlers of /v2.0/COLLECTION and /v2.0/COLLECTION/{id}."""

    listing: ClassVar[Listing]
    one: ClassVar[str]
    """The key of a single one in bodies."""
    noun: ClassVar[str]
    """What messages call it."""
    absent: ClassVar[str] = "could not be found."
    """What they say of one that is not there."""

    def __init__(self, context: Context) -> None:
        self._context = context

    @abstractmethod
    def _find(self, query: Query) -> Sequence[Noun]:
        """Rows, from the store."""

    @abstractmethod
    async def _views(self, rows: Sequence[Noun]) -> Sequence[View]:
        """As REST shows them, in their order."""

    @abstractmethod
    def _deletion(self, identifier: Id, if_match: int | None) -> Command:
        """The command that deletes one."""

    def _get(self, identifier: Id) -> Sequence[Noun]:
        """The row, or nothing."""
        return self._find(Query(filters={"id": (identifier,)}, limit=1))

    async def list(self, call: Call) -> Reply:
        page = read_page(call, self.listing)
        rows = await find_page(self._context, self.listing, page, self._find)
        return page_reply(call, self.listing, page, await self._views(rows))

    async def show(self, call: Call) -> Reply:
        identifier = self._member(call)
        rows = self._get(identifier)
        if not rows:
            raise self.listing.not_found(f"{self.noun} {format_id(identifier)} {self.absent}")
        (view,) = await self._views(rows)
        fields = read_fields(call)
        return Reply(200, _encode({self.one: cut(view, fields) if fields else view}))

    async def delete(self, call: Call) -> Reply:
        await self._context.control.submit(self._deletion(self._member(call), call.if_match()))
        return Reply(204)

    async def _created(self, command: Command, *, bulk: bool) -> Reply:
        """Submits a creation and answers it."""
        rows = cast(Sequence[Noun], await self._context.control.submit(command))
        return await self._answer(201, rows, bulk=bulk)

    async def _updated(self, command: Command) -> Reply:
        """Submits an update and answers it."""
        row = cast(Noun, await self._context.control.submit(command))
        return await self._answer(200, (row,), bulk=False)

    async def _answer(self, status: int, rows: Sequence[Noun], *, bulk: bool) -> Reply:
        """What was done, as it is shown."""
        views = await self._views(rows)
        return Reply(status, _encode({self.listing.collection: views} if bulk else {self.one: views[0]}))

    def _member(self, call: Call) -> Id:
        return member(call, self.listing.not_found, self.noun)
