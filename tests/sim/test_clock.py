"""Virtual time."""

import asyncio
import math
import random
from contextlib import suppress

from alcor.sim.clock import VirtualLoop


def test_time_passes_for_who_waits_for_less_than_it_can_tell() -> None:
    """What is left of a moment may be too little to be added to the time: looking again takes time, too."""

    async def scene() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.7)
        due = math.nextafter(loop.time(), math.inf)
        assert loop.time() < due
        while loop.time() < due:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), due - loop.time())
        return loop.time() - due

    loop = VirtualLoop(random.Random(1))
    try:
        assert 0 <= loop.run_until_complete(scene()) < 1e-6
    finally:
        loop.close()
