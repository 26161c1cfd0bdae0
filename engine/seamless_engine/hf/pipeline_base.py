"""The base of the pipelines: their attributes, and a stream of answers for a stream of inputs."""

from __future__ import annotations

import abc
import importlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch

from seamless_engine.core import failed
from seamless_engine.errors import UsageError
from seamless_engine.hf.base import Pretrained, check_result
from seamless_engine.recovery import request_error
from seamless_engine.request import Request, Result
from seamless_engine.threads import attempt, beside, result_of


@dataclass
class Item:
    """One input of a pipeline: the requests that answer it, and the function that makes an answer of their results.

    warnings: of reading the input, if the pipeline reads it and not the engine.
    """

    requests: list[Request]
    finish: Callable[[list[Result]], dict[str, Any]]
    warnings: list[str] = field(default_factory=list)
    results: list[Result | None] = field(default_factory=list)


class Pipeline(abc.ABC):
    """model: the loaded model.

    tokenizer, feature_extractor, processor: those that were given, else those that transformers loads from the
    checkpoint. The engine does not use them.
    """

    task: ClassVar[str]
    needs: ClassVar[str]  # a task of the engine that the model must have been loaded for
    model_class: ClassVar[type[Pretrained]]  # loaded if `model` is a folder or a hub id
    noun: ClassVar[str]  # for one input, in messages

    def __init__(self, model: Pretrained, parts: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        if self.needs not in model.tasks:
            raise UsageError(f"{type(model).__name__} does not do {self.task}: use {self.model_class.__name__}")
        self.model = model
        self._arguments = self.named(arguments)
        self._parts = {name: part for name, part in parts.items() if part is not None and not isinstance(part, str)}

    @abc.abstractmethod
    def __call__(self, inputs: Any, /, **arguments: Any) -> Any: ...

    @staticmethod
    @abc.abstractmethod
    def named(arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, also those inside `generate_kwargs` and the like. Raises UsageError for an
        unknown name."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    torch_dtype = dtype

    @property
    def processor(self) -> Any:
        if "processor" not in self._parts:
            transformers = importlib.import_module("transformers")  # here, because the engine works without it
            self._parts["processor"] = transformers.AutoProcessor.from_pretrained(self.model.folder)
        return self._parts["processor"]

    @property
    def tokenizer(self) -> Any:
        given = self._given("tokenizer")
        return self.processor.tokenizer if given is None else given

    @property
    def feature_extractor(self) -> Any:
        given = self._given("feature_extractor")
        return self.processor.feature_extractor if given is None else given

    def _given(self, name: str) -> Any:
        """The tokenizer or the feature extractor that was given, also inside a processor; else None."""
        return self._parts[name] if name in self._parts else getattr(self._parts.get("processor"), name, None)

    def _answer(self, inputs: Any, single: bool, item: Callable[[Any], Item]) -> Any:
        """A dict for a single input, a list for a list or tuple, an iterator for any other iterable."""
        if single:
            return next(self._stream([inputs], item))
        if isinstance(inputs, list | tuple):
            return list(self._stream(inputs, item))
        return self._stream(_elements(inputs), item)

    def _stream(self, inputs: Iterable[Any], item: Callable[[Any], Item]) -> Generator[dict[str, Any], None, None]:
        """Answers in the order of the inputs, which are pulled as the engine has room for them.

        A reader's thread makes the items. An exception of it is raised after the answers of the inputs before.
        """
        waiting: dict[int, tuple[Item, int]] = {}  # request id → its item, and the index of its result there
        items: dict[int, Item] = {}
        numbers = itertools.count()
        failure: Exception | None = None  # of the input after the last one in `items`

        def requests() -> Iterator[Request]:
            nonlocal failure
            for index, element in enumerate(inputs):
                made = result_of(beside(partial(attempt, partial(item, element))))
                if isinstance(made, Exception):
                    failure = made
                    return
                items[index] = made
                made.results = [None] * len(made.requests)
                for place, request in enumerate(made.requests):
                    request.id = next(numbers)
                    waiting[request.id] = made, place
                    yield request

        done = 0
        for result in self.model.engine.stream(requests()):
            owner, place = waiting.pop(int(result.id))
            owner.results[place] = result
            while done in items and all(one is not None for one in items[done].results):
                yield _finish(items.pop(done), f"{self.noun} {done}")
                done += 1
        if failure is not None:
            check_result(failed(Result(done, self.task, ""), request_error(failure)), f"{self.noun} {done}")


def _finish(item: Item, name: str) -> dict[str, Any]:
    results = [result for result in item.results if result is not None]
    results[0].warnings = item.warnings + results[0].warnings
    for result in results:
        check_result(result, name)
    return item.finish(results)


def _elements(inputs: Any) -> Iterable[Any]:
    """The inputs in an iterable, or in a data set with a length and indices."""
    if hasattr(inputs, "__iter__"):
        return inputs
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
        return (inputs[index] for index in range(len(inputs)))
    raise UsageError(f"a pipeline takes one input, a list, a generator or a data set, not {type(inputs).__name__}")
