"""The best next tokens of every row: log-softmax over the vocabulary and its largest entries in a total order.

    logits float32 [rows, vocab]  →  log p [rows, count] float32, token [rows, count] int64

Rows are ordered by (logit, then smaller token), so equal logits give the same candidates everywhere. The tokens that
`banned` lists for a row (int64 [rows, any], −1 names none, repeats do not matter) cannot be chosen, but their mass
stays in the normaliser, as transformers' processors act on log-softmax. The list has a fixed width, so that a step can
be captured.

A row with a NaN has only NaN for log p, and tokens that exist.

The kernels read the logits once, in blocks of 128 columns, and keep of each block the largest m and the sum of
exp(x − m) in whole numbers of 2^−40, so that its bits depend on nothing but the block. The best `count` entries lie in
the `count` blocks with the largest maxima: only those are read again.
"""

from __future__ import annotations

import torch

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.native import csrc

_COLUMNS = 64
BLOCK = 128  # columns of which the kernels keep a maximum and a sum
LARGEST = 128  # candidates that a program holds the blocks of


def reference(
    logits: torch.Tensor, count: int, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs = torch.log_softmax(logits, dim=-1)
    if banned is not None:
        logits, log_probs = ban(logits, banned), ban(log_probs, banned)
    rows, vocab = logits.shape
    # The best `count` entries lie in the `count` column blocks with the largest maxima: sort those, not the vocabulary.
    padded = torch.nn.functional.pad(logits, (0, -vocab % _COLUMNS), value=-torch.inf) if vocab % _COLUMNS else logits
    blocks = padded.view(rows, padded.shape[1] // _COLUMNS, _COLUMNS)
    maxima = torch.sort(blocks.amax(-1), dim=-1, descending=True, stable=True).indices[:, :count]
    chosen = maxima.sort(dim=-1).values  # ascending, so that a stable sort keeps the smaller token first
    tokens = (chosen[:, :, None] * _COLUMNS + torch.arange(_COLUMNS, device=logits.device)).flatten(1)
    values = padded.gather(1, tokens)
    best = torch.sort(values, dim=-1, descending=True, stable=True).indices[:, :count]
    tokens = tokens.gather(1, best)
    return log_probs.gather(1, tokens), tokens


def ban(scores: torch.Tensor, banned: torch.Tensor) -> torch.Tensor:
    """scores [rows, vocab] with −inf at the tokens of `banned`, as a new tensor."""
    least = torch.where(banned >= 0, -torch.inf, torch.inf).to(scores.dtype)
    return scores.scatter_reduce(1, banned.clamp(min=0), least, "amin")


@jit
def key_of(x):
    """int32 in the order of x float32: −0 is 0, and NaN is the largest."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(x == x, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF)


@jit
def value_of(key):
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@jit
def entry_of(key, index):
    """int64 in the order of (key, then smaller index), all of them different."""
    return (key.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@jit
def index_of(entry):
    return 0x7FFFFFFF - (entry & 0x7FFFFFFF).to(tl.int32)


@jit
def add_up(key):
    """Largest key and Σ exp(x − largest) of each line of the numbers x [lines, BLOCK] with these keys."""
    top = tl.max(key, 1)
    base = value_of(top)
    base = tl.where(base == float("-inf"), 0.0, base)
    part = tl.exp2((value_of(key) - base[:, None]) * 1.4426950408889634)
    # whole numbers: their sum is the same in any order, so in tiles of any shape; no part exceeds 1, but NaN and ∞ do
    total = tl.sum((tl.minimum(part, 1.0) * 1099511627776.0).to(tl.int64), 1)
    return top, total.to(tl.float32) * (1.0 / 1099511627776.0)


@jit(do_not_specialize=["bans"])
def _scan_kernel(
    logits_ptr,
    banned_ptr,  # [rows, bans] ascending
    top_ptr,  # of each block: [rows, blocks] the largest key,
    total_ptr,  # the sum,
    best_ptr,  # and, where BANNED, the largest key that is not banned
    stride,
    vocab,
    blocks,
    bans,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    BANNED: tl.constexpr,
):
    tiles = tl.cdiv(blocks, TILE)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    first = tl.program_id(0) % tiles * TILE
    block = first + tl.arange(0, TILE)
    column = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    key = key_of(tl.load(logits_ptr + row * stride + column, mask=column < vocab, other=float("-inf")))
    top, total = add_up(key)
    place, real = row * blocks + block, block < blocks
    tl.store(top_ptr + place, top, mask=real)
    tl.store(total_ptr + place, total, mask=real)
    if BANNED:
        start, stop = 0, 0
        for at in range(0, bans, 128):
            i = at + tl.arange(0, 128)
            token = tl.load(banned_ptr + row * bans + i, mask=i < bans, other=0x7FFFFFFF)
            start += tl.sum((token < first * BLOCK).to(tl.int32), 0)
            stop += tl.sum((token < (first + TILE) * BLOCK).to(tl.int32), 0)
        for i in range(start, stop):
            key = tl.where(column == tl.load(banned_ptr + row * bans + i), -0x7F800001, key)  # the key of −inf
        tl.store(best_ptr + place, tl.max(key, 1), mask=real)


@jit
def _normalise_kernel(top_ptr, total_ptr, norm_ptr, blocks, BLOCKS: tl.constexpr):
    """norm [rows, 2]: the largest logit M of a row, and ln Σ exp(x − M)."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    real = block < blocks
    key = tl.load(top_ptr + row * blocks + block, mask=real, other=-0x7F800001)
    total = tl.load(total_ptr + row * blocks + block, mask=real, other=0.0)
    largest = value_of(tl.max(key, 0))
    total = tl.sum(total * tl.exp2((value_of(key) - largest) * 1.4426950408889634), 0)
    tl.store(norm_ptr + row * 2, largest)
    tl.store(norm_ptr + row * 2 + 1, tl.log(total))


@jit
def write_best(entries, count, norm_ptr, log_prob_ptr, token_ptr):
    """The `count` largest of entries to log p [count] and token [count]."""
    largest, log_total = tl.load(norm_ptr), tl.load(norm_ptr + 1)
    for i in range(count):
        best = tl.max(entries)
        tl.store(log_prob_ptr + i, value_of((best >> 32).to(tl.int32)) - largest - log_total)
        tl.store(token_ptr + i, index_of(best).to(tl.int64))
        entries = tl.where(entries == best, -0x8000000000000000, entries)


@jit(do_not_specialize=["count", "bans"])
def _choose_kernel(
    logits_ptr,
    banned_ptr,
    best_ptr,
    norm_ptr,
    log_prob_ptr,
    token_ptr,
    stride,
    vocab,
    blocks,
    bans,
    count,
    COUNT: tl.constexpr,
    BLOCKS: tl.constexpr,  # at least COUNT, so that there is always another block to choose
    BLOCK: tl.constexpr,
    BANNED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    best = tl.load(best_ptr + row * blocks + block, mask=block < blocks, other=-0x80000000)
    entries = entry_of(best, block)
    slot = tl.arange(0, COUNT)
    chosen = tl.zeros([COUNT], tl.int32)
    for i in range(count):
        largest = tl.max(entries, 0)
        chosen = tl.where(slot == i, index_of(largest), chosen)
        entries = tl.where(entries == largest, -0x8000000000000000, entries)
    column = chosen[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (slot < count)[:, None] & (column < vocab)
    key = key_of(tl.load(logits_ptr + row * stride + column, mask=inside, other=0.0))
    if BANNED:
        for i in range(bans):
            key = tl.where(column == tl.load(banned_ptr + row * bans + i), -0x7F800001, key)
    entries = tl.where(inside, entry_of(key, column), -0x8000000000000000)
    write_best(entries, count, norm_ptr + row * 2, log_prob_ptr + row * count, token_ptr + row * count)


def _triton(logits: torch.Tensor, count: int, banned: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    rows, vocab = logits.shape
    device = logits.device
    log_probs = torch.empty(rows, count, dtype=torch.float32, device=device)
    tokens = torch.empty(rows, count, dtype=torch.int64, device=device)
    if not rows:
        return log_probs, tokens
    size = triton.next_power_of_2(count)
    config = config_for("top_candidates", (vocab, size), torch.float32, device)
    options = {"BLOCK": BLOCK, "BANNED": banned is not None, "enable_fp_fusion": config["enable_fp_fusion"]}
    blocks = triton.cdiv(vocab, BLOCK)
    top = torch.empty(rows, blocks, dtype=torch.int32, device=device)
    total = torch.empty(rows, blocks, dtype=torch.float32, device=device)
    best = top if banned is None else torch.empty_like(top)
    listed, bans = ban_table(banned)
    _scan_kernel[(rows * triton.cdiv(blocks, config["TILE"]),)](
        logits,
        listed,
        top,
        total,
        best,
        logits.stride(0),
        vocab,
        blocks,
        bans,
        TILE=config["TILE"],
        num_warps=config["num_warps"],
        **options,
    )
    norm = normalise(top, total)
    _choose_kernel[(rows,)](
        logits,
        listed,
        best,
        norm,
        log_probs,
        tokens,
        logits.stride(0),
        vocab,
        blocks,
        bans,
        count,
        COUNT=size,
        BLOCKS=triton.next_power_of_2(max(blocks, count)),
        num_warps=config["CHOICE_WARPS"],
        **options,
    )
    return log_probs, tokens


def ban_table(banned: torch.Tensor | None) -> tuple[torch.Tensor | None, int]:
    """int32 [rows, bans]: the tokens of each row in ascending order, behind them numbers that are no token."""
    if banned is None:
        return None, 0
    listed = torch.where(banned >= 0, banned, 2**31 - 1).to(torch.int32)
    return listed.sort(dim=1).values, listed.shape[1]


def normalise(top: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """float32 [rows, 2] of what the blocks of each row have."""
    rows, blocks = top.shape
    norm = torch.empty(rows, 2, dtype=torch.float32, device=top.device)
    size = triton.next_power_of_2(blocks)
    _normalise_kernel[(rows,)](top, total, norm, blocks, BLOCKS=size, num_warps=4, enable_fp_fusion=True)
    return norm


def _native(logits: torch.Tensor, count: int, banned: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    assert csrc is not None
    if logits.dtype != torch.float32 or logits.stride(1) != 1 or not len(logits):
        return reference(logits, count, banned)
    log_probs = torch.empty(len(logits), count, dtype=torch.float32)
    tokens = torch.empty(len(logits), count, dtype=torch.int64)
    listed = None if banned is None else banned.contiguous().numpy()
    csrc.top_candidates(logits.numpy(), count, listed, log_probs.numpy(), tokens.numpy(), torch.get_num_threads())
    return log_probs, tokens


def top_candidates(
    logits: torch.Tensor, count: int, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` may not exceed the vocabulary."""
    name = backend_for(logits.device, IMPLS)
    return (reference if name == "triton" and count > LARGEST else IMPLS[name])(logits, count, banned)


IMPLS = {"torch": reference, "triton": _triton} | ({"native": _native} if csrc else {})
