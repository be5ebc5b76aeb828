"""The port of the bus: messages by subject between processes, at most once, in order per publisher and subject.

Called by paths and agent; filled by nats. A subject is words of [A-Za-z0-9_=-] joined by dots; in a subscription `*`
stands for one word. Nothing is remembered for who is not there: the store is the memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol, TypeAlias

_WORD = re.compile(r"[A-Za-z0-9_-]+")

Handler: TypeAlias = Callable[[str, bytes], None]
"""Called on the event loop with a message's subject and data. Quick; does not raise."""


class BusError(Exception):
    """The bus cannot be used: which server, why, and what to do."""


class Subscription(Protocol):
    """Interest in a subject, kept over reconnects until cancelled."""

    async def cancel(self) -> None:
        """Ends it. Idempotent."""
        ...


class Bus(Protocol):
    """A connection to the bus, which reconnects by itself for as long as it lives."""

    @property
    def connected(self) -> bool:
        """Messages go out now."""
        ...

    @property
    def max_payload(self) -> int:
        """Bytes that one message may carry."""
        ...

    def publish(self, subject: str, data: bytes) -> bool:
        """Sends soon. False: not connected, or too much waits to be sent; the message is dropped. Never blocks."""
        ...

    async def subscribe(self, subject: str, handler: Handler) -> Subscription:
        """Takes messages from now on; when it returns the server knows, if connected. Raises BusError: refused."""
        ...

    def on_state(self, handler: Callable[[bool], None]) -> None:
        """Tells `handler` at every connect (True) and disconnect (False). What was published while it was
        disconnected is lost."""
        ...

    async def close(self) -> None:
        """Flushes and disconnects."""
        ...


def word(name: str) -> str:
    """A name as one word of a subject, and no two names alike: itself if it can be, else `=` and its UTF-8 in hex."""
    return name if _WORD.fullmatch(name) else "=" + name.encode().hex()


def down_subject(partition: int, host: str) -> str:
    """Where a host listens: BusMessages of a partition's controller."""
    return f"alcor.{partition}.down.{word(host)}"


def up_subject(partition: int, host: str) -> str:
    """Where a host speaks: BusMessages to a partition's controller. `host` may be `*`."""
    return f"alcor.{partition}.up.{host if host == '*' else word(host)}"


def news_subject(partition: int, vpc: bytes) -> str:
    """Where a VPC's news is: BusNews."""
    return f"alcor.{partition}.vpc.{vpc.hex()}"
