"""Matrix products: linear, linear_top_candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.device.candidates import Candidate, available
from benchmarks.device.candidates.decode_proof import decoder_calls, separate
from benchmarks.kernels.case import DIM, MODEL, Case, Setup
from seamless_kernels import linear_top_candidates
from seamless_kernels.linear import Activation, linear, pack_weight, pack_weight_int8

_COUNT = 10  # candidates of a beam


class Product(NamedTuple):
    """A product of the model with its epilogue, and the numbers of tokens (or beams) that it is given."""

    name: str
    outer: int
    inner: int
    tokens: tuple[int, ...]
    activation: Activation | None = None
    residual: bool = False
    scale: float = 1.0
    logits: bool = False  # float32 out, and no bias


_STEP, _PASS = (5, 40, 320, 1280), (500, 16_000)  # beams of a decode step, tokens of an encoder pass
_FFN, _SPEECH_FFN = MODEL.decoder_ffn_dim, MODEL.speech_encoder_intermediate_size
PRODUCTS = (
    Product("decoder q·k·v", 3 * DIM, DIM, _STEP),
    Product("decoder out", DIM, DIM, _STEP, residual=True),
    Product("decoder fc1", _FFN, DIM, _STEP, activation="relu"),
    Product("decoder fc2", DIM, _FFN, _STEP, residual=True),
    Product("head", MODEL.vocab_size, DIM, _STEP, logits=True),
    Product("text encoder fc2", DIM, _FFN, (36, 16_000), residual=True),
    Product("Conformer fc1", _SPEECH_FFN, DIM, _PASS, activation="silu"),
    Product("Conformer fc2", DIM, _SPEECH_FFN, _PASS, residual=True, scale=0.5),
    Product("Conformer GLU", 2 * DIM, DIM, _PASS, activation="glu"),
)
QUICK = (Product("decoder out", DIM, DIM, (5, 40), residual=True), Product("GLU", 2 * DIM, DIM, (40,), "glu"))
_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda y: y,
    "relu": F.relu,
    "silu": F.silu,
    "glu": F.glu,
}


def linear_cases(setup: Setup) -> Iterator[Case]:
    """Least bytes: x, the weight and the residual read, y written. With few tokens the weight is nearly all of them.

    The product in 8 bits is measured by the bytes and operations of 16: its share can exceed 100 %.
    """
    for product in setup.pick(QUICK, PRODUCTS):
        for tokens in product.tokens:
            yield _linear(setup, product, tokens)
    fusing = [found for found in available("linear", setup.device) if "norm" in signature(found.run).parameters]
    for queries in setup.pick((5,), (1, 5, 16, 64)) if fusing else ():
        yield _decoder_layer(setup, queries, fusing)


def _decoder_layer(setup: Setup, queries: int, fusing: list[Candidate]) -> Case:
    """The products of a decoder layer, their norms, and the store of keys and values, which some candidates fuse: on a
    GPU as one graph, because launches are most of the time."""

    def inputs() -> tuple[list[dict[str, Any]]]:
        return ([call for _, call in decoder_calls(setup.device, setup.dtype, queries, setup.quick)],)

    weights = [call["weight"].shape for call in inputs()[0]]
    numbers = sum(outer * inner + queries * (inner + outer) for outer, inner in weights)
    flops = 2.0 * queries * sum(outer * inner for outer, inner in weights)
    found = {"ours": _as_graph(separate), **{candidate.name: _as_graph(candidate.run) for candidate in fusing}}
    return Case(f"decoder layer, {queries} queries", inputs, found, flops, float(numbers * setup.dtype.itemsize))


def _as_graph(run: Callable[..., Tensor]) -> Callable[[list[dict[str, Any]]], list[Tensor]]:
    """The calls with these arguments one after the other; on a GPU captured when the arguments are first seen."""
    captured: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor]]] = {}

    def replay(calls: list[dict[str, Any]]) -> list[Tensor]:
        if calls[0]["x"].device.type != "cuda":
            return [run(**call) for call in calls]
        if id(calls) not in captured:
            for call in calls:
                run(**call)  # compiles
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                results = [run(**call) for call in calls]
            captured[id(calls)] = graph, results
        graph, results = captured[id(calls)]
        graph.replay()
        return results

    return replay


def _linear(setup: Setup, product: Product, tokens: int) -> Case:
    name, outer, inner, _, activation, with_residual, scale, logits = product
    width = outer // 2 if activation == "glu" else outer
    out_dtype, gpu = torch.float32 if logits else setup.dtype, setup.device.type == "cuda"

    def inputs() -> tuple[Any, ...]:
        weight = setup.randn(outer, inner, scale=inner**-0.5)
        weights = weight, pack_weight(weight), pack_weight_int8(weight)
        bias = None if logits else setup.randn(outer)
        return setup.randn(tokens, inner), weights, bias, setup.randn(tokens, width) if with_residual else None

    def product_by(run: Callable[..., Tensor], kind: int) -> Callable[..., Tensor]:
        options: dict[str, Any] = {"activation": activation, "scale": scale, "out_dtype": out_dtype}
        return lambda x, weights, bias, residual: run(x, weights[kind], bias, residual=residual, **options)

    def library(x: Tensor, weights: Any, bias: Any, residual: Any) -> Tensor:
        if out_dtype != setup.dtype and gpu:
            return torch.mm(x, weights[0].T, out_dtype=out_dtype)
        y = _ACTIVATIONS[activation](F.linear(x, weights[0], bias).to(out_dtype))
        y = y * scale if scale != 1.0 else y
        return y if residual is None else residual + y

    read = tokens * (inner + width * with_residual) + outer * inner
    least_bytes = float(read * setup.dtype.itemsize + tokens * width * out_dtype.itemsize)
    found = {"ours": product_by(linear, 1), "ours int8": product_by(linear, 2), "cuBLAS" if gpu else "torch": library}
    for candidate in available("linear", setup.device):
        found[candidate.name] = product_by(candidate.run, 0)
    return Case(f"{name} {outer}×{inner}, {tokens} tokens", inputs, found, 2.0 * tokens * outer * inner, least_bytes)


def linear_top_candidates_cases(setup: Setup) -> Iterator[Case]:
    """The model's head for one beam search and for many. Least bytes: the weight and the states.

    "unfused" is our product, logits written in float32, and our top_candidates: what the fusion has to beat.
    """
    weight = setup.randn(MODEL.vocab_size // setup.pick(16, 1), DIM, scale=DIM**-0.5)

    def eager(hidden: Tensor) -> Any:
        return torch.log_softmax(F.linear(hidden, weight).float(), dim=-1).topk(_COUNT)

    for queries in setup.pick((5,), (1, 5, 40, 64, 320, 1280)):
        found = {
            "ours": lambda hidden: linear_top_candidates.linear_top_candidates(hidden, weight, _COUNT),
            "unfused": lambda hidden: linear_top_candidates.reference(hidden, weight, _COUNT),
            "torch": eager,
        }
        inputs, least = partial(setup.randns, 1, queries, DIM), setup.dtype.itemsize * (weight.numel() + queries * DIM)
        yield Case(f"{queries} queries, best {_COUNT}", inputs, found, 2.0 * queries * weight.numel(), float(least))
