"""An engine that is closed, forked, or left to the end of its process: it says so, and nothing hangs."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seamless_engine import AsyncEngine, Engine, EngineClosedError
from seamless_engine.model_inputs import Tokens
from support.async_engine import run
from support.callers import PATIENCE, beside, mixture, sentence

Checkpoint = Callable[[int], Path]


def test_close_frees_the_model_and_refuses_later_calls(checkpoint: Checkpoint) -> None:
    with Engine.from_pretrained(checkpoint(0), device="cpu") as engine:
        assert all(result.error is None for result in engine.generate(mixture(0)))
        kept = [weakref.ref(engine.core.runner), weakref.ref(engine.core.runner.pool.k), weakref.ref(engine.core)]
        suspended = engine.stream([sentence(0), sentence(1, length=40)])
        pieces = engine.stream_audio(sentence(0, "t2st"))
        next(suspended)
        next(pieces)
    engine.close()
    assert [one() for one in kept[1:]] == [None, None]

    async def submits() -> None:
        await AsyncEngine(engine).submit(sentence(0))

    for call in (
        lambda: engine.generate([sentence(0)]),
        lambda: next(engine.stream([sentence(0)])),
        lambda: engine.stream_audio(sentence(0, "t2st")),
        lambda: engine.forced_logits(Tokens([3]), [3]),
        engine.memory,
        lambda: engine.device,
        lambda: run(submits()),
        lambda: list(suspended),
        lambda: list(pieces),
    ):
        with pytest.raises(EngineClosedError, match="this engine was closed: load it again"):
            call()
    assert kept[0]() is None


def test_close_ends_a_call_of_another_thread(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu")
    decode, begun = engine.core.runner.decode, threading.Event()

    def decoding(jobs: list[Any]) -> Any:
        begun.set()
        return decode(jobs)

    monkeypatch.setattr(engine.core.runner, "decode", decoding)
    call = beside(engine.generate, [sentence(i, length=1000) for i in range(3)])
    assert begun.wait(PATIENCE)
    engine.close()
    with pytest.raises(EngineClosedError, match="was closed"):
        call.result(PATIENCE)


def ends(program: str, folder: Path) -> str:
    """What a program prints that ends by itself and without complaint."""
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_every_call_in_a_forked_child_raises_usage_error(checkpoint: Checkpoint) -> None:
    program = """
import asyncio, os, sys
from seamless_engine import AsyncEngine, DecodingParams, Engine, Request, UsageError, hf
from seamless_engine.model_inputs import Tokens

engine = Engine.from_pretrained(sys.argv[1], device="cpu")
model = hf.SeamlessM4Tv2ForTextToText.from_pretrained(sys.argv[1], device="cpu")
other = Engine.from_pretrained(sys.argv[1], device="cpu")
text, speech = (Request(task, "fra", text="a", src_lang="eng") for task in ("t2tt", "t2st"))
engine.generate([text])
lengths = [DecodingParams(max_new_tokens=n, min_new_tokens=n) for n in (3, 40)]
results = engine.stream([Request("t2tt", "fra", text="a", src_lang="eng", params=params) for params in lengths])
next(results)
shared = AsyncEngine(other)


async def submit():
    await shared.submit(text)


calls = {
    "generate": lambda: engine.generate([text]),
    "stream": lambda: next(engine.stream([text])),
    "a stream that had begun": lambda: list(results),
    "stream_audio": lambda: engine.stream_audio(speech),
    "forced_logits": lambda: engine.forced_logits(Tokens([3]), [3]),
    "close": engine.close,
    "AsyncEngine": lambda: AsyncEngine(engine),
    "submit": lambda: asyncio.run(submit()),
    "AsyncEngine.close": lambda: asyncio.run(shared.close()),
    "hf": lambda: model.generate(input_ids=[[300, 9, 3]], tgt_lang="fra"),
}
child = os.fork()
if not child:
    for name, call in calls.items():
        try:
            call()
        except UsageError as error:
            assert "load the engine in the child" in str(error) and "spawn" in str(error)
            print(name)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
list(results)
asyncio.run(shared.close())
print([engine.generate([text])[0].error, other.generate([text])[0].error, len(calls)])
"""
    *refused, last = ends(program, checkpoint(0)).splitlines()
    assert last == "[None, None, 10]" and len(refused) == 10, refused


@pytest.mark.parametrize(
    "leaves",
    [
        "results = engine.stream(requests); next(results)",
        "pieces = engine.stream_audio(requests[0]); next(pieces)",
        "threading.Thread(target=until_closed, args=(requests * 99,), daemon=True).start(); time.sleep(0.5)",
        "threading.Thread(target=engine.generate, args=(requests,)).start()",
        "AsyncEngine(engine)",
        "engine.close()",
    ],
)
def test_process_exit_ends_an_engine_in_use(checkpoint: Checkpoint, leaves: str) -> None:
    program = f"""
import contextlib, sys, threading, time
from seamless_engine import AsyncEngine, Engine, EngineClosedError, Request
engine = Engine.from_pretrained(sys.argv[1], device="cpu")

def until_closed(requests):
    with contextlib.suppress(EngineClosedError):  # which a daemon has in time or not, before the process is gone
        engine.generate(requests)

requests = [Request("t2st", "fra", text="how far is it", src_lang="eng")] * 9
engine.generate(requests[:1])
{leaves}
print("done")
"""
    assert ends(program, checkpoint(0)) == "done\n"
