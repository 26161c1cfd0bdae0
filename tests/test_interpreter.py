"""The interpreter of kernel tests finds errors that a GPU does not report, and rounds bfloat16 and TF32 as a GPU does.

Each bug is in a kernel that copies `x` to `y`, both of 100 elements, in tiles of 32.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from seamless_kernels.jit import jit, tl
from support.packed import normal

SIZE, TILE = 100, 32
PROGRAMS = 4


@jit
def correct(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n), mask=i < n)


@jit
def load_without_mask(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i), mask=i < n)


@jit
def store_without_mask(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n))


@jit
def one_element_before_the_start(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i - 1, mask=i < n), mask=i < n)


@jit
def entry_of_a_table_past_the_end(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.where(i == 40, n, i)
    tl.store(y + i, tl.load(x + slot, mask=i < n), mask=i < n)


@jit
def sum_without_atomics(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y, tl.load(y) + tl.sum(tl.load(x + i, mask=i < n, other=0.0)))


@jit
def overlapping_tiles(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * (BLOCK - 1) + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n), mask=i < n)


@jit
def update_in_place_reads_the_next_tile(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    after = tl.load(x + i + 1, mask=i + 1 < n, other=0.0)
    tl.store(x + i, tl.load(x + i, mask=i < n) + after, mask=i < n)


@jit
def two_lanes_of_a_store_in_one_place(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i // 2 * 2, tl.load(x + i, mask=i < n), mask=i < n)


@jit
def offset_past_31_bits(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    far = (i + n) * 100_000_000
    tl.store(y + i, tl.load(x + far % n, mask=i < n), mask=i < n)


BUGS = [
    (load_without_mask, "load by program (3, 0, 0): 28 of 32 active lanes out of bounds"),
    (store_without_mask, "store by program (3, 0, 0): 28 of 32 active lanes out of bounds"),
    (one_element_before_the_start, "load by program (0, 0, 0): 1 of 32 active lanes out of bounds"),
    (entry_of_a_table_past_the_end, "load by program (1, 0, 0): 1 of 32 active lanes out of bounds"),
    (sum_without_atomics, "race: load by program (1, 0, 0) of what another program stored"),
    (overlapping_tiles, "race: store by program (1, 0, 0) to what another program stored"),
    (update_in_place_reads_the_next_tile, "race: store by program (1, 0, 0) to what another program loaded"),
    (two_lanes_of_a_store_in_one_place, "race: store by program (0, 0, 0) of two values to one element"),
    (offset_past_31_bits, "int32 overflow"),
]


def test_interpreter_runs_a_correct_kernel() -> None:
    x, y = normal(SIZE), torch.full((SIZE,), float("nan"))
    correct[(PROGRAMS,)](x, y, SIZE, BLOCK=TILE)
    assert torch.equal(x, y)


@pytest.mark.parametrize("kernel,message", BUGS, ids=lambda value: getattr(value, "__name__", ""))
def test_interpreter_finds_a_bug(kernel: Any, message: str) -> None:
    with pytest.raises(Exception, match=re.escape(message)):
        kernel[(PROGRAMS,)](normal(SIZE), torch.zeros(SIZE), SIZE, BLOCK=TILE)


def test_interpreter_refuses_the_gap_between_the_rows_of_a_view() -> None:
    wide = normal(10, 20)
    with pytest.raises(Exception, match=re.escape("load by program (0, 0, 0): 22 of 32 active lanes out of bounds")):
        correct[(1,)](wide[:, :5], torch.zeros(SIZE), SIZE, BLOCK=TILE)


@jit
def arithmetic(a, b, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x, y = tl.load(a + i), tl.load(b + i)
    results = (x + y, x * y, x - y, tl.maximum(x, y), tl.where(x < y, x, y))
    for place in range(5):
        tl.store(out + place * BLOCK + i, results[place])


def test_interpreter_rounds_bfloat16_as_torch() -> None:
    a, b = normal(1024, dtype=torch.bfloat16), normal(1024, dtype=torch.bfloat16, seed=1)
    out = torch.zeros(5, 1024, dtype=torch.bfloat16)
    arithmetic[(1,)](a, b, out, BLOCK=1024)
    expected = (a + b, a * b, a - b, torch.maximum(a, b), torch.where(a < b, a, b))
    assert torch.equal(out, torch.stack(expected))


@jit
def reductions(a, out, largest, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i, j = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    x = tl.load(a + i[:, None] * COLUMNS + j[None, :])
    tl.store(out + i, tl.max(x, axis=1))
    tl.store(out + ROWS + i, tl.sum(x, axis=1))
    tl.store(largest + i, tl.argmax(x, axis=1))
    product = tl.dot(x, tl.trans(x))
    tl.store(out + 2 * ROWS + i[:, None] * ROWS + i[None, :], product.to(tl.bfloat16))


def test_interpreter_reduces_and_multiplies_bfloat16_in_float32() -> None:
    a = normal(16, 32, dtype=torch.bfloat16)
    out, largest = torch.zeros(18, 16, dtype=torch.bfloat16), torch.zeros(16, dtype=torch.int32)
    reductions[(1,)](a, out, largest, ROWS=16, COLUMNS=32)
    assert torch.equal(out[0], a.amax(1))
    assert torch.equal(largest.long(), a.argmax(1))
    torch.testing.assert_close(out[1], a.double().sum(1).bfloat16())
    torch.testing.assert_close(out[2:], (a.double() @ a.double().T).bfloat16())


@jit
def product_in_tf32(a, b, out, SIZE: tl.constexpr):
    i, j = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    x, w = tl.load(a + i * SIZE + j), tl.load(b + i * SIZE + j)
    tl.store(out + i * SIZE + j, tl.dot(x, w, input_precision="tf32x3"))


def test_interpreter_splits_float32_into_two_tf32_numbers() -> None:
    x, one, out = normal(32, 32), torch.eye(32), torch.zeros(32, 32)
    product_in_tf32[(1,)](x, one, out, SIZE=32)
    assert ((out - x).abs() <= 2.0**-21 * x.abs()).all()
    assert not torch.equal(out, x)
    ten_bits = (x.view(torch.int32) & -(1 << 13)).view(torch.float32)
    product_in_tf32[(1,)](one, ten_bits, out, SIZE=32)
    assert torch.equal(out, ten_bits)


def test_interpreter_keeps_infinity_and_nan_in_products_of_tf32() -> None:
    x, one, out = normal(32, 32), torch.eye(32) + 1.0, torch.zeros(32, 32)
    x[3, 5], x[8, 1] = float("inf"), float("nan")
    product_in_tf32[(1,)](x, one, out, SIZE=32)
    assert torch.isinf(out[3]).all() and out[8].isnan().all()
    assert out[torch.tensor([i for i in range(32) if i not in (3, 8)])].isfinite().all()


@jit
def narrowed(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i))


def test_interpreter_converts_every_kind_of_float32_as_torch() -> None:
    between = torch.arange(1016, dtype=torch.int32) * 2**12 + 0x3F80_0000  # sixteenths of a step: halves and others
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3.4e38, 1e-40])
    nan_in_the_low_bits = torch.tensor([0x7F80_0001], dtype=torch.int32).view(torch.float32)
    x = torch.cat([between.view(torch.float32), odd, nan_in_the_low_bits])
    y = torch.zeros(1024, dtype=torch.bfloat16)
    narrowed[(1,)](x, y, BLOCK=1024)
    torch.testing.assert_close(y, x.bfloat16(), rtol=0.0, atol=0.0, equal_nan=True)
