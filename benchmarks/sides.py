"""Who is compared on the ragged trace: our engine, as it is and with all matrices in 8 bits, transformers, CTranslate2,
each with what it is swept over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.workload import Item
from seamless_engine import Engine, EngineConfig
from seamless_engine.config import INT8_MODULES, ModelConfig

_CHECKED = 24  # tokens of a request that all sides must choose alike


@dataclass(frozen=True)
class Side:
    """settings: what a sweep tries. run: every request to its forced length. greedy: the first tokens of requests by
    greedy search, or None where the arithmetic is not meant to be the same."""

    name: str
    settings: list[dict[str, Any]]
    run: Callable[..., None]  # (work, num_beams, **setting)
    greedy: Callable[[list[Item]], list[list[int]]] | None


def sides(folder: Path, task: str, against: Sequence[str], options: Any, threads: int) -> Iterator[Side]:
    yield _ours(folder, task, options)
    yield _ours(folder, task, options, INT8_MODULES)
    if "transformers" in against:
        yield _transformers(folder, task, options)
    if "ctranslate2" in against and task == "t2tt":
        yield from _ctranslate2(folder, threads)


def shortened(work: list[Item]) -> list[Item]:
    return [Item(item.waveform, item.text, _CHECKED, item.ids) for item in work]


def _ours(folder: Path, task: str, options: Any, int8: tuple[str, ...] = ()) -> Side:
    engine = Engine.from_pretrained(
        folder, tasks=[task], device=options.device, dtype=options.dtype, options=EngineConfig(int8=int8)
    )

    def tokens(work: list[Item], num_beams: int) -> list[list[int]]:
        results = engine.generate([item.request(task, num_beams) for item in work])
        failed = [result.error for result in results if result.error]
        if failed:
            raise SystemExit(f"{len(failed)} requests failed, the first with: {failed[0]}")
        return [result.tokens for result in results]

    def run(work: list[Item], num_beams: int) -> None:
        _check_lengths(tokens(work, num_beams), work)

    return Side("ours int8", [{}], run, None) if int8 else Side("ours", [{}], run, lambda work: tokens(work, 1))


def _transformers(folder: Path, task: str, options: Any) -> Side:
    from benchmarks.baseline import Transformers

    model = Transformers(folder, task, options.device, getattr(torch, options.dtype))

    def run(work: list[Item], num_beams: int, batch: int) -> None:
        longest_first = sorted(work, key=_source_length, reverse=True)
        for start in range(0, len(work), batch):
            group = longest_first[start : start + batch]
            _check_lengths(model.generate(group, num_beams)[0], group)

    sizes = (4, 8, 16) if task.startswith("s2") else (8, 16, 32)
    settings = [{"batch": size} for size in sizes]
    return Side("transformers", settings, run, lambda work: [model.generate([item], 1)[0][0] for item in work])


def _ctranslate2(folder: Path, threads: int) -> Iterator[Side]:
    if find_spec("ctranslate2") is None:
        print("ctranslate2 is not installed: pip install 'seamless-engine[bench]'")
        return
    from benchmarks.ctranslate2_baseline import CTranslate2, convert

    config, files = ModelConfig.from_folder(folder), convert(folder)
    for kind in ("float32", "int8"):
        model = CTranslate2(files, kind, config, threads)
        greedy = (lambda work, model=model: model.free(work, _CHECKED, 1)) if kind == "float32" else None
        yield Side(f"ctranslate2 {kind}", model.settings(), model.generate, greedy)


def _source_length(item: Item) -> int:
    return len(item.waveform) if item.waveform is not None else len(item.ids or ())


def _check_lengths(tokens: list[list[int]], work: list[Item]) -> None:
    if [len(row) for row in tokens] != [item.new_tokens for item in work]:
        raise SystemExit("an output has not the length that was forced")
