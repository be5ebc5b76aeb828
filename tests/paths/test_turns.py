"""Turns, on virtual time."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from alcor.paths.turns import Turn, Turns
from alcor.sim.clock import VirtualLoop

T = TypeVar("T")


def on_virtual_time(work: Coroutine[Any, Any, T]) -> T:

    loop = VirtualLoop(random.Random(1))
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


async def beginnings(turns: Turns, visitors: int, visit: Callable[[Turn], Awaitable[None]]) -> list[float]:
    """When each visitor's turn began, in seconds."""
    loop = asyncio.get_running_loop()
    since, found = loop.time(), []

    async def come() -> None:
        async with turns.turn() as turn:
            found.append(loop.time() - since)
            await visit(turn)

    await asyncio.gather(*[come() for _ in range(visitors)])
    return found


async def nothing(_turn: Turn) -> None:
    """Over at once."""


async def stay(_turn: Turn) -> None:
    await asyncio.sleep(10.0)


async def answered_then_stay(turn: Turn) -> None:
    turn.answered()
    await asyncio.sleep(10.0)


async def answered_and_done(turn: Turn) -> None:
    turn.answered()
    turn.over()
    turn.over()
    await asyncio.sleep(10.0)


@pytest.mark.parametrize(
    ("visit", "expected"),
    [
        (nothing, [0.0, 0.1, 0.2, 0.3]),
        (stay, [0.0, 0.1, 1.0, 1.1]),
        (answered_then_stay, [0.0, 0.0, 1.0, 1.0]),
        (answered_and_done, [0.0, 0.0, 0.0, 0.0]),
    ],
    ids=[
        "what came to nothing is spaced",
        "two at a time, and no turn lasts for ever",
        "what was answered does not make the next one wait",
        "but holds its place until it is over",
    ],
)
def test_beginnings(visit: Callable[[Turn], Awaitable[None]], expected: list[float]) -> None:
    found = on_virtual_time(beginnings(Turns(2, 1.0, 0.1), 4, visit))
    assert found == pytest.approx(expected, abs=0.001)


def test_who_gives_up_waiting_takes_no_place() -> None:
    """Neither who waits for one, nor who has one and waits for its time."""

    async def work() -> None:
        turns = Turns(1, 60.0, 5.0)
        await beginnings(turns, 1, nothing)
        for patience_s in (1.0, 2.0):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await beginnings(turns, 1, nothing)
        async with asyncio.timeout(20.0):
            await beginnings(turns, 1, nothing)

    on_virtual_time(work())
