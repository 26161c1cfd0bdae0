"""The best next tokens of every query: log-softmax over the vocabulary and its largest entries in a total order.

    logits float32 [queries, vocab]  →  log p [queries, count] float32, token [queries, count] int64

Candidates are ordered by (larger logit, then smaller token), so equal logits give the same candidates everywhere. The
tokens that `banned` lists for a query (int64 [queries, any], −1 for none, repeats allowed) cannot be chosen, but their
probability stays in the normalizer: transformers' processors act on log-softmax. The list has a fixed width, so that a
step can be captured in a CUDA graph.

A query with a NaN gives NaN for every log p, and valid tokens.

The kernels read the logits once, in blocks of 128 columns. Of each block they store the maximum m, and the sum of
exp(x − m) as an integer multiple of 2^−40, so that its bits depend on the block alone. The best `count` entries lie in
the `count` blocks with the largest maxima: only these are read again.
"""

from __future__ import annotations

import torch

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.native import csrc

_COLUMNS = 64
BLOCK = 128  # columns that share a maximum and a sum
_MAX_COUNT = 128  # candidates whose blocks fit in the registers of a program


def reference(
    logits: torch.Tensor, count: int, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs = torch.log_softmax(logits, dim=-1)
    if banned is not None:
        logits, log_probs = mask_banned(logits, banned), mask_banned(log_probs, banned)
    queries, vocab = logits.shape
    # The best `count` entries lie in the `count` column blocks with the largest maxima: sort those, not the vocabulary.
    padded = torch.nn.functional.pad(logits, (0, -vocab % _COLUMNS), value=-torch.inf) if vocab % _COLUMNS else logits
    blocks = padded.view(queries, padded.shape[1] // _COLUMNS, _COLUMNS)
    maxima = torch.sort(blocks.amax(-1), dim=-1, descending=True, stable=True).indices[:, :count]
    chosen = maxima.sort(dim=-1).values  # ascending, so that a stable sort keeps the smaller token first
    tokens = (chosen[:, :, None] * _COLUMNS + torch.arange(_COLUMNS, device=logits.device)).flatten(1)
    values = padded.gather(1, tokens)
    best = torch.sort(values, dim=-1, descending=True, stable=True).indices[:, :count]
    tokens = tokens.gather(1, best)
    return log_probs.gather(1, tokens), tokens


def mask_banned(scores: torch.Tensor, banned: torch.Tensor) -> torch.Tensor:
    """A copy of scores [queries, vocab] with −inf at the tokens of `banned`."""
    least = torch.where(banned >= 0, -torch.inf, torch.inf).to(scores.dtype)
    return scores.scatter_reduce(1, banned.clamp(min=0), least, "amin")


@jit
def key_of(x):
    """int32 in the order of x float32: −0 equals 0, and NaN is the largest."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(x == x, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF)


@jit
def value_of(key):
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@jit
def entry_of(key, index):
    """int64 in the order of (key, then smaller index); no two entries are equal."""
    return (key.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@jit
def index_of(entry):
    return 0x7FFFFFFF - (entry & 0x7FFFFFFF).to(tl.int32)


@jit
def block_max_and_sum(key):
    """Largest key, and Σ exp(x − max), of each block of numbers x [blocks, BLOCK] with these keys."""
    m = tl.max(key, 1)
    base = value_of(m)
    base = tl.where(base == float("-inf"), 0.0, base)
    p = tl.exp2((value_of(key) - base[:, None]) * 1.4426950408889634)
    # as integers, whose sum is the same in any order, and so in tiles of any shape; only NaN and ∞ exceed 1
    total = tl.sum((tl.minimum(p, 1.0) * 1099511627776.0).to(tl.int64), 1)
    return m, total.to(tl.float32) * (1.0 / 1099511627776.0)


@jit(do_not_specialize=["num_banned"])
def _scan_kernel(
    logits_ptr,
    banned_ptr,  # [queries, num_banned] ascending
    max_ptr,  # [queries, blocks]: of each block the largest key,
    sum_ptr,  # the sum,
    allowed_ptr,  # and, where HAS_BANNED, the largest key that is not banned
    stride_m,
    vocab,
    blocks,
    num_banned,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_BANNED: tl.constexpr,
):
    tiles = tl.cdiv(blocks, TILE)
    query = (tl.program_id(0) // tiles).to(tl.int64)
    first = tl.program_id(0) % tiles * TILE
    block = first + tl.arange(0, TILE)
    column = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    key = key_of(tl.load(logits_ptr + query * stride_m + column, mask=column < vocab, other=float("-inf")))
    m, total = block_max_and_sum(key)
    place, block_mask = query * blocks + block, block < blocks
    tl.store(max_ptr + place, m, mask=block_mask)
    tl.store(sum_ptr + place, total, mask=block_mask)
    if HAS_BANNED:
        start, stop = 0, 0
        for at in range(0, num_banned, 128):
            i = at + tl.arange(0, 128)
            token = tl.load(banned_ptr + query * num_banned + i, mask=i < num_banned, other=0x7FFFFFFF)
            start += tl.sum((token < first * BLOCK).to(tl.int32), 0)
            stop += tl.sum((token < (first + TILE) * BLOCK).to(tl.int32), 0)
        for i in range(start, stop):
            key = tl.where(column == tl.load(banned_ptr + query * num_banned + i), -0x7F800001, key)  # the key of −inf
        tl.store(allowed_ptr + place, tl.max(key, 1), mask=block_mask)


@jit
def _normalize_kernel(max_ptr, sum_ptr, norm_ptr, blocks, BLOCKS: tl.constexpr):
    """norm [queries, 2]: the largest logit M of a query, and ln Σ exp(x − M)."""
    query = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    key = tl.load(max_ptr + query * blocks + block, mask=block < blocks, other=-0x7F800001)
    total = tl.load(sum_ptr + query * blocks + block, mask=block < blocks, other=0.0)
    largest = value_of(tl.max(key, 0))
    total = tl.sum(total * tl.exp2((value_of(key) - largest) * 1.4426950408889634), 0)
    tl.store(norm_ptr + query * 2, largest)
    tl.store(norm_ptr + query * 2 + 1, tl.log(total))


@jit
def write_best(entries, count, norm_ptr, log_prob_ptr, token_ptr):
    """Store the `count` largest of entries as log p [count] and token [count]."""
    largest, log_total = tl.load(norm_ptr), tl.load(norm_ptr + 1)
    for i in range(count):
        best = tl.max(entries)
        tl.store(log_prob_ptr + i, value_of((best >> 32).to(tl.int32)) - largest - log_total)
        tl.store(token_ptr + i, index_of(best).to(tl.int64))
        entries = tl.where(entries == best, -0x8000000000000000, entries)


@jit(do_not_specialize=["count", "num_banned"])
def _choose_kernel(
    logits_ptr,
    banned_ptr,
    allowed_ptr,
    norm_ptr,
    log_prob_ptr,
    token_ptr,
    stride_m,
    vocab,
    blocks,
    num_banned,
    count,
    COUNT: tl.constexpr,
    BLOCKS: tl.constexpr,  # at least COUNT, so that there is always another block to choose
    BLOCK: tl.constexpr,
    HAS_BANNED: tl.constexpr,
):
    query = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    best = tl.load(allowed_ptr + query * blocks + block, mask=block < blocks, other=-0x80000000)
    entries = entry_of(best, block)
    offs_i = tl.arange(0, COUNT)
    chosen = tl.zeros([COUNT], tl.int32)
    for i in range(count):
        largest = tl.max(entries, 0)
        chosen = tl.where(offs_i == i, index_of(largest), chosen)
        entries = tl.where(entries == largest, -0x8000000000000000, entries)
    column = chosen[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    mask = (offs_i < count)[:, None] & (column < vocab)
    key = key_of(tl.load(logits_ptr + query * stride_m + column, mask=mask, other=0.0))
    if HAS_BANNED:
        for i in range(num_banned):
            key = tl.where(column == tl.load(banned_ptr + query * num_banned + i), -0x7F800001, key)
    entries = tl.where(mask, entry_of(key, column), -0x8000000000000000)
    write_best(entries, count, norm_ptr + query * 2, log_prob_ptr + query * count, token_ptr + query * count)


def _triton(logits: torch.Tensor, count: int, banned: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    queries, vocab = logits.shape
    device = logits.device
    log_probs = torch.empty(queries, count, dtype=torch.float32, device=device)
    tokens = torch.empty(queries, count, dtype=torch.int64, device=device)
    if not queries:
        return log_probs, tokens
    size = triton.next_power_of_2(count)
    config = config_for("top_candidates", (vocab, size), torch.float32, device)
    options = {"BLOCK": BLOCK, "HAS_BANNED": banned is not None, "enable_fp_fusion": config["enable_fp_fusion"]}
    blocks = triton.cdiv(vocab, BLOCK)
    maxima = torch.empty(queries, blocks, dtype=torch.int32, device=device)
    sums = torch.empty(queries, blocks, dtype=torch.float32, device=device)
    allowed = maxima if banned is None else torch.empty_like(maxima)
    sorted_banned, num_banned = sort_banned(banned)
    _scan_kernel[(queries * triton.cdiv(blocks, config["TILE"]),)](
        logits,
        sorted_banned,
        maxima,
        sums,
        allowed,
        logits.stride(0),
        vocab,
        blocks,
        num_banned,
        TILE=config["TILE"],
        num_warps=config["num_warps"],
        **options,
    )
    norm = normalize(maxima, sums)
    _choose_kernel[(queries,)](
        logits,
        sorted_banned,
        allowed,
        norm,
        log_probs,
        tokens,
        logits.stride(0),
        vocab,
        blocks,
        num_banned,
        count,
        COUNT=size,
        BLOCKS=triton.next_power_of_2(max(blocks, count)),
        num_warps=config["CHOICE_WARPS"],
        **options,
    )
    return log_probs, tokens


def sort_banned(banned: torch.Tensor | None) -> tuple[torch.Tensor | None, int]:
    """int32 [queries, num_banned]: the tokens of each query in ascending order, then numbers that are no token; and
    `num_banned`."""
    if banned is None:
        return None, 0
    tokens = torch.where(banned >= 0, banned, 2**31 - 1).to(torch.int32)
    return tokens.sort(dim=1).values, tokens.shape[1]


def normalize(maxima: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """float32 [queries, 2] from the maxima and sums of blocks, as `_normalize_kernel` has it."""
    queries, blocks = maxima.shape
    norm = torch.empty(queries, 2, dtype=torch.float32, device=maxima.device)
    size = triton.next_power_of_2(blocks)
    _normalize_kernel[(queries,)](maxima, sums, norm, blocks, BLOCKS=size, num_warps=4, enable_fp_fusion=True)
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
    if name == "triton" and count > _MAX_COUNT:
        name = "torch"
    return IMPLS[name](logits, count, banned)


IMPLS = {"torch": reference, "triton": _triton} | ({"native": _native} if csrc else {})
