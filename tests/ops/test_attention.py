"""attention: softmax within each segment, keys bounded by `valid`, batch-invariant."""

from __future__ import annotations

import math

import pytest
import torch

from seamless_kernels import config
from seamless_kernels.attention import attention
from support.packed import DEVICE, DTYPES, assert_segments_independent, bounds, normal
from tolerance import assert_close_to_fp64

LENGTHS = ([1], [2, 17], [63, 64, 65, 66], [127, 1, 128, 129, 130], [201, 3])


def exact(qkv: torch.Tensor, lengths: list[int], valid: list[int], dtype: torch.dtype) -> torch.Tensor:
    """qkv [total, 3, heads, d] → [total, heads, d], from the definition."""
    out = []
    for mine, keys in zip(qkv.to(dtype).split(lengths), valid, strict=True):
        q, k, v = mine.permute(1, 2, 0, 3)  # [heads, rows, d]
        score = q @ k[:, :keys].transpose(1, 2) / math.sqrt(q.shape[-1])
        out.append((score.softmax(-1) @ v[:, :keys]).transpose(0, 1))
    return torch.cat(out)


def check(lengths: list[int], valid: list[int] | None, heads: int, dim: int, dtype: torch.dtype) -> None:
    qkv = normal(sum(lengths), 3, heads, dim, dtype=dtype)
    counts = None if valid is None else torch.tensor(valid, dtype=torch.int32, device=DEVICE)
    q, k, v = qkv.unbind(1)
    out = attention(q, k, v, bounds(lengths), counts)
    keys = valid or lengths
    truth = exact(qkv, lengths, keys, torch.float64)
    # 1: a weight, for the matrix units
    assert_close_to_fp64(out, truth, terms=dim + max(lengths), dtype=dtype, narrow=1)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention_is_close_to_float64(lengths: list[int], dtype: torch.dtype) -> None:
    check(lengths, None, 2, 64, dtype)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dim", [16, 24, 32, 128])
def test_attention_takes_other_head_dims(dim: int) -> None:
    check([3, 17, 64, 1, 31], None, 3, dim, torch.float32)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("missing", [1, 40])
def test_attention_has_no_keys_from_valid_on(missing: int) -> None:
    lengths = [1, 2, 66, 41, 128]
    check(lengths, [max(n - missing, 1) for n in lengths], 2, 16, torch.float32)


@pytest.mark.usefixtures("backend")
def test_attention_without_keys_gives_zeros() -> None:
    q, k, v = normal(5, 3, 2, 16).unbind(1)
    out = attention(q, k, v, bounds([3, 2]), torch.tensor([0, 2], dtype=torch.int32, device=DEVICE))
    assert torch.equal(out[:3], torch.zeros_like(q[:3]))
    assert torch.equal(out[3:], attention(q[3:], k[3:], v[3:], bounds([2])))


@pytest.mark.usefixtures("backend")
def test_attention_does_not_read_keys_from_valid_on() -> None:
    lengths, valid = [70, 1, 34], [65, 1, 32]
    q, k, v = normal(sum(lengths), 3, 2, 16).unbind(1)
    counts = torch.tensor(valid, dtype=torch.int32, device=DEVICE)
    clean = attention(q, k, v, bounds(lengths), counts)
    k, v, start = k.clone(), v.clone(), 0
    for length, keys in zip(lengths, valid, strict=True):
        k[start + keys : start + length] = v[start + keys : start + length] = float("nan")
        start += length
    assert torch.equal(attention(q, k, v, bounds(lengths), counts), clean)


@pytest.mark.usefixtures("backend")
def test_attention_takes_any_strides_of_tokens_and_heads() -> None:
    lengths = [33, 5]
    qkv = normal(sum(lengths), 3, 2, 16)
    q, k, v = qkv.transpose(0, 1).contiguous()
    plain = attention(q, k, v, bounds(lengths))
    heads_first = qkv.permute(1, 2, 0, 3).contiguous().transpose(1, 2)
    columns_apart = qkv.permute(1, 0, 3, 2).contiguous().transpose(2, 3)
    for q, k, v in (qkv.unbind(1), heads_first, columns_apart):
        out = attention(q, k, v, bounds(lengths))
        assert out.is_contiguous() and torch.equal(out, plain)


@pytest.mark.usefixtures("backend")
def test_attention_of_no_tokens_is_empty() -> None:
    q = normal(0, 2, 16)
    assert attention(q, q, q, bounds([])).shape == attention(q, q, q, bounds([0, 0])).shape == (0, 2, 16)


@pytest.mark.usefixtures("backend")
def test_attention_takes_many_and_empty_segments() -> None:
    check([5, *[0] * 300, 34, 0], None, 1, 16, torch.float32)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_attention_with_the_tiles_of_gpus(dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "architecture", lambda _: "sm_90")
    check([150, 1, 64, 65], [149, 1, 63, 65], 1, 64, dtype)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attention_is_batch_invariant(dtype: torch.dtype) -> None:
    def run(segments: list[torch.Tensor], _: list[int]) -> list[torch.Tensor]:
        q, k, v = torch.cat(segments).unbind(1)
        lengths = [len(s) for s in segments]
        return list(attention(q, k, v, bounds(lengths)).split(lengths))

    assert_segments_independent(run, [normal(n, 3, 2, 64, seed=n, dtype=dtype) for n in (1, 2, 17, 33, 64, 100, 7)])
