"""Turns, on virtual time."""

import asyncio
import random
import time
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


def test_who_gives_up_waiting_takes_neither_place_nor_time() -> None:
    """Whether it waits for the one or for the other."""

    async def work() -> None:
        turns = Turns(10, 60.0, 5.0)
        await beginnings(turns, 1, nothing)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4.9):
                await beginnings(turns, 30, nothing)
        assert await beginnings(turns, 2, nothing) == pytest.approx([0.1, 5.1], abs=0.01)

    on_virtual_time(work())


def test_who_failed_least_goes_first() -> None:
    """Whoever has waited for long; of those that failed as often, who came first."""

    async def work() -> None:
        turns, order = Turns(10, 60.0, 1.0), list[str]()

        async def come(name: str, rank: int) -> None:
            async with turns.turn(rank):
                order.append(name)

        async with asyncio.TaskGroup() as group:
            for name, rank in (("old", 9), ("older", 12), ("as old", 9), ("new", 2)):
                group.create_task(come(name, rank))
        assert ["new", "old", "as old", "older"] == order

    on_virtual_time(work())


def test_who_gives_up_as_it_may_begin_gives_its_place_back() -> None:
    """It was told so, and did not come to hear it."""

    async def work() -> None:
        turns = Turns(1, 60.0, 0.0)
        loop = asyncio.get_running_loop()

        async def come() -> None:
            async with turns.turn():
                pytest.fail("it gave up")

        first = loop.create_task(come())
        await asyncio.sleep(0)
        loop.call_soon(first.cancel)  # in the round in which it is told
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await beginnings(turns, 1, nothing) == pytest.approx([0.0], abs=0.001)

    on_virtual_time(work())


def test_answers_free_who_waits_already() -> None:
    """A network that heals lets all come back as fast as they answer, those in the queue as well."""

    async def work() -> None:
        turns = Turns(100, 60.0, 5.0)
        answer = asyncio.Event()

        async def be_answered(turn: Turn) -> None:
            await answer.wait()
            turn.answered()

        waiting = asyncio.create_task(beginnings(turns, 100, be_answered))
        await asyncio.sleep(1.0)
        answer.set()
        assert max(await waiting) == pytest.approx(1.0, abs=0.01)

    on_virtual_time(work())


async def test_what_has_fallen_behind_is_not_made_up_for_at_once() -> None:
    """Beginnings that take longer than their distance leave room between them: one in each round of the event loop."""
    loop = asyncio.get_running_loop()
    rounds = 0
    began: list[int] = []

    def next_round() -> None:
        nonlocal rounds
        rounds += 1
        if len(began) < 40:
            loop.call_soon(next_round)

    async def work_hard(_turn: Turn) -> None:
        began.append(rounds)
        time.sleep(0.002)

    async with asyncio.timeout(20.0):
        next_round()
        await beginnings(Turns(100, 60.0, 0.001), 40, work_hard)
    assert len(began) == len(set(began)) == 40
