"""rel_attention: the clipped relative term, the chunk rule and the half-padded key, against a direct sum in float64."""

from __future__ import annotations

import math

import pytest
import torch

from seamless_kernels import config
from seamless_kernels.rel_attention import rel_attention
from support.packed import BACKENDS, DEVICE, DTYPES, assert_segments_independent, bounds, normal
from tolerance import assert_close_to_fp64

LENGTHS = ([1], [2, 17], [63, 64, 65, 66], [127, 1, 128, 129, 130], [201, 3])
ONE_CHUNK = (20_000, 128)  # as the published checkpoint has it: 400 seconds


def exact(
    qkv: torch.Tensor,
    e: torch.Tensor,
    lengths: list[int],
    valid: list[int],
    left: int,
    chunks: tuple[int, int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """From the definition: the embedding is gathered to [T, T, d]."""
    (chunk, left_chunks), right, out = chunks, len(e) - 1 - left, []
    for mine, keys in zip(qkv.to(dtype).split(lengths), valid, strict=True):
        q, k, v = mine.permute(1, 2, 0, 3)  # [heads, T, d]
        at = torch.arange(len(mine), device=q.device)
        relative = e.to(dtype)[(at[None] - at[:, None]).clamp(-left, right) + left]  # [T, T, d]
        score = q @ k.transpose(1, 2) + torch.einsum("hid,ijd->hij", q, relative)
        first = (at // chunk - left_chunks).clamp(min=0) * chunk if left_chunks >= 0 else torch.zeros_like(at)
        seen = (at[None] >= first[:, None]) & (at[None] < (at[:, None] // chunk + 1) * chunk) & (at[None] < keys)
        score = (score / math.sqrt(q.shape[-1])).masked_fill(~seen, torch.finfo(dtype).min)
        out.append((score.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(out)


def check(
    lengths: list[int],
    valid: list[int],
    *,
    dim: int = 16,
    chunks: tuple[int, int] = ONE_CHUNK,
    clip: tuple[int, int] = (64, 8),
    dtype: torch.dtype = torch.float32,
    heads: int = 2,
) -> None:
    qkv, e = normal(sum(lengths), 3, heads, dim, dtype=dtype), normal(dim, sum(clip) + 1, dtype=dtype, seed=1).T
    out = run(qkv, e, lengths, valid, chunks, clip[0])
    truth = exact(qkv, e, lengths, valid, clip[0], chunks, torch.float64)
    # 2: a bias and a weight, for the matrix units
    assert_close_to_fp64(out, truth, terms=dim + max(lengths), dtype=dtype, narrow=2)


def run(
    qkv: torch.Tensor,
    e: torch.Tensor,
    lengths: list[int],
    valid: list[int],
    chunks: tuple[int, int] = ONE_CHUNK,
    left: int = 64,
) -> torch.Tensor:
    counts = torch.tensor(valid, dtype=torch.int32, device=DEVICE)
    q, k, v = qkv.unbind(1)
    chunk, left_chunks = chunks
    return rel_attention(q, k, v, e, bounds(lengths), counts, left=left, chunk_size=chunk, left_chunks=left_chunks)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_rel_attention_is_close_to_float64(lengths: list[int], dtype: torch.dtype) -> None:
    check(lengths, [n - i % 2 for i, n in enumerate(lengths)], dim=64, dtype=dtype)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "chunks,lengths",
    [((16, 2), [90, 1, 17]), ((50, 0), [101, 51, 3]), ((33, -1), [66, 34, 100]), ((100, 1), [301]), ((1, 3), [9, 2])],
    ids=str,
)
def test_rel_attention_has_the_keys_of_the_chunk_rule(chunks: tuple[int, int], lengths: list[int]) -> None:
    check(lengths, lengths, chunks=chunks)
    check(lengths, [n - 1 for n in lengths], chunks=chunks)  # a half-padded token may be alone in its chunk


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("clip", [(64, 8), (5, 3), (0, 20), (100, 0)], ids=str)
@pytest.mark.parametrize("chunks", [ONE_CHUNK, (48, 1)], ids=str)
def test_rel_attention_clips_distances(clip: tuple[int, int], chunks: tuple[int, int]) -> None:
    check([130, 20], [129, 20], clip=clip, chunks=chunks)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dim", [24, 128])
def test_rel_attention_takes_other_head_dims(dim: int) -> None:
    check([3, 17, 64, 1, 31], [3, 16, 63, 1, 31], dim=dim)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("missing", [2, 40, 90])
def test_rel_attention_has_no_keys_from_valid_on(missing: int) -> None:
    lengths = [1, 41, 128]
    check(lengths, [max(n - missing, 0) for n in lengths])


@pytest.mark.parametrize("backend", ["torch"] if DEVICE.type == "cpu" else BACKENDS, indirect=True)
@pytest.mark.parametrize("chunks", [ONE_CHUNK, (50, 0)], ids=str)
def test_rel_attention_takes_long_segments(chunks: tuple[int, int], backend: str) -> None:
    check([700, 513, 1], [699, 513, 1], chunks=chunks)


@pytest.mark.usefixtures("backend")
def test_rel_attention_does_not_read_keys_from_valid_on() -> None:
    lengths, valid = [70, 1, 34], [65, 1, 33]
    qkv, e = normal(sum(lengths), 3, 2, 16), normal(73, 16, seed=1)
    clean = run(qkv, e, lengths, valid)
    for mine, keys in zip(qkv.split(lengths), valid, strict=True):
        mine[keys:, 1:] = float("nan")
    assert torch.equal(run(qkv, e, lengths, valid), clean)


@pytest.mark.usefixtures("backend")
def test_rel_attention_takes_any_strides_of_tokens_and_heads() -> None:
    lengths = [33, 5]
    qkv, e = normal(sum(lengths), 3, 2, 16), normal(73, 16, seed=1)
    plain = run(qkv.transpose(0, 1).contiguous().transpose(0, 1), e, lengths, lengths)
    heads_first = qkv.permute(1, 2, 0, 3).contiguous().permute(2, 0, 1, 3)
    columns_apart = qkv.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2)
    for one in (qkv, heads_first, columns_apart):
        out = run(one, e, lengths, lengths)
        assert out.is_contiguous() and torch.equal(out, plain)


@pytest.mark.usefixtures("backend")
def test_rel_attention_of_no_tokens_is_empty() -> None:
    for lengths in ([], [0, 0]):
        assert run(normal(0, 3, 2, 16), normal(73, 16), lengths, lengths).shape == (0, 2, 16)


@pytest.mark.usefixtures("backend")
def test_rel_attention_takes_many_and_empty_segments() -> None:
    lengths = [5, *[0] * 300, 34, 0]
    check(lengths, lengths, heads=1)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
@pytest.mark.parametrize(
    "arch,dtype", [("sm_80", torch.bfloat16), ("sm_90", torch.bfloat16), ("sm_90", torch.float32)], ids=str
)
def test_rel_attention_with_the_tiles_of_gpus(
    arch: str, dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "architecture", lambda _: arch)
    for chunks in (ONE_CHUNK, (100, 1)):
        check([330, 1, 65], [329, 1, 65], dim=64, heads=1, chunks=chunks, dtype=dtype)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("chunks,dtype", [(ONE_CHUNK, torch.bfloat16), ((50, 0), torch.float32)], ids=str)
def test_rel_attention_is_batch_invariant(chunks: tuple[int, int], dtype: torch.dtype) -> None:
    e = normal(73, 64, dtype=dtype)

    def results(segments: list[torch.Tensor], ids: list[int]) -> list[torch.Tensor]:
        lengths = [len(s) for s in segments]
        valid = [n - i % 2 for i, n in zip(ids, lengths, strict=True)]
        return list(run(torch.cat(segments), e, lengths, valid, chunks).split(lengths))

    segments = [normal(n, 3, 2, 64, seed=n, dtype=dtype) for n in (1, 2, 17, 33, 64, 120, 7)]
    assert_segments_independent(results, segments)
