"""An AsyncEngine over many requests: memory stays flat."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from pathlib import Path

import pytest

from seamless_engine import AsyncEngine, DecodingParams, Engine
from support.async_engine import LONG, sentence

PAGE = 4096


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


async def answer(shared: AsyncEngine, count: int) -> None:
    """`count` requests through a stream, and for every 20th a longer one beside, of which half are given up.

    All have one length, and few are held at a time: oneDNN keeps code for every number of rows that it has met, up to a
    limit of its own, and this must not look like a leak.
    """
    short = sentence(0, DecodingParams(max_new_tokens=2))
    async for result in shared.stream(dataclasses.replace(short, id=number) for number in range(count)):
        assert result.error is None
        if int(result.id) % 20 == 0:
            beside = await shared.submit(sentence(0, LONG))
            if int(result.id) % 40 == 0:
                beside.cancel()


@pytest.mark.slow
def test_memory_stays_flat_over_twenty_thousand_requests(engine: Engine) -> None:
    async def main() -> None:
        async with AsyncEngine(engine, max_queue=16) as shared:
            await answer(shared, 8_000)
            gc.collect()
            memory, objects = resident(), len(gc.get_objects())
            await answer(shared, 20_000)
            gc.collect()
            assert resident() - memory < 8 << 20
            assert len(gc.get_objects()) - objects < 1_000

    asyncio.run(main())
