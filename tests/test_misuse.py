"""Calls with anything but requests and parameters raise an error that says what they take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seamless_engine import AsyncEngine, DecodingParams, Engine, Request, UsageError
from support.callers import assert_free

REQUEST = Request("t2st", "fra", text="a", src_lang="eng")
NO_LISTS = ("a.wav", b"RIFF", Path("a.wav"), {"task": "asr"}, 5, None)
NO_REQUESTS = ("a.wav", {"task": "asr"}, None, [REQUEST])
NO_PARAMS = ({"num_beams": 5}, "meta", 5, DecodingParams)


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[int], Path]) -> Engine:
    return Engine.from_pretrained(checkpoint(0), device="cpu")


def calls(engine: Engine) -> dict[str, Callable[..., Any]]:
    """Every method that takes requests: `call(requests, params)` runs it to its end."""

    def awaited(method: str) -> Callable[..., Any]:
        async def call(requests: Any, params: Any) -> Any:
            async with AsyncEngine(engine) as shared:
                if method == "stream":
                    return [result async for result in shared.stream(requests, params)]
                return await getattr(shared, method)(requests, params)

        return lambda requests, params=None: asyncio.run(call(requests, params))

    return {
        "generate": engine.generate,
        "stream": lambda *arguments: list(engine.stream(*arguments)),
        "stream_audio": lambda *arguments: list(engine.stream_audio(*arguments)),
        **{f"asynchronous {method}": awaited(method) for method in ("generate", "stream", "submit")},
    }


ONE = ("stream_audio", "asynchronous submit")
MANY = ("generate", "stream", "asynchronous generate", "asynchronous stream")


@pytest.mark.parametrize("name", MANY)
def test_engine_calls_refuse_anything_but_a_list_of_requests(engine: Engine, name: str) -> None:
    for wrong in (*NO_LISTS, *([REQUEST] if name.endswith("stream") else [])):
        with pytest.raises(UsageError, match=r"must be a list of Request, for example \[Request\(.*, not \w+$"):
            calls(engine)[name](wrong)
    for wrong in NO_REQUESTS:
        with pytest.raises(UsageError, match=r"each request must be a Request, for example Request\(.*, not "):
            calls(engine)[name]([REQUEST, wrong])


@pytest.mark.parametrize("name", ONE)
def test_engine_calls_refuse_anything_but_a_request(engine: Engine, name: str) -> None:
    for wrong in NO_REQUESTS:
        with pytest.raises(UsageError, match=r"each request must be a Request, for example Request\(.*, not "):
            calls(engine)[name](wrong)


@pytest.mark.parametrize("name", (*ONE, *MANY))
def test_engine_calls_refuse_parameters_of_another_type(engine: Engine, name: str) -> None:
    for wrong in NO_PARAMS:
        with pytest.raises(UsageError, match=r"params must be DecodingParams\(\.\.\.\), for example "):
            calls(engine)[name](REQUEST if name in ONE else [REQUEST], wrong)
    assert_free(engine)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"params": {"num_beams": 5}}, r"params must be DecodingParams\(\.\.\.\)"),
        ({"text": ["a"]}, "text must be a string, not list"),
        ({"text": Path("a.txt")}, "text must be a string, not PosixPath"),
        ({"src_lang": 5}, "src_lang must be the code of a language, for example 'eng', not 5"),
        ({"tgt_lang": 5}, "needs tgt_lang"),
        ({"task": 5}, "unknown task 5"),
        ({"task": ["asr"]}, r"unknown task \['asr'\]"),
        ({"id": ("a", 1)}, "id, if it is not a string, must be an integer"),
    ],
)
def test_request_refuses_fields_of_another_type(changed: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = dict(task="t2tt", tgt_lang="fra", text="a", src_lang="eng")
    with pytest.raises(UsageError, match=message):
        Request(**fields | changed)
