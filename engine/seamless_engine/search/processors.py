"""The logits processors: penalties, banned tokens and the shaping of a distribution, as transformers has them.

They see the log-softmax of a beam, and the raw logits of a single hypothesis (greedy or sampled). csrc/search/scores.h
has the same ones. Pure functions of tensors.
"""

from __future__ import annotations

import torch

from seamless_engine.search.schema import FloatParam, IntParam
from seamless_kernels.top_candidates import mask_banned


def process(
    *,
    logits: torch.Tensor,
    log_probs: torch.Tensor,
    history: torch.Tensor,
    lengths: torch.Tensor,
    generated: torch.Tensor,
    beam: torch.Tensor,
    banned: torch.Tensor | None,
    ints: torch.Tensor,
    floats: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores float32 [queries, vocab], and keys: what candidates are ranked by, with noise where a query samples.

    The order is transformers': repetition penalty; n-grams, bad words, minimum length and suppressed tokens, which are
    in `banned`; temperature, top-k, top-p.
    history, lengths: as for `banned_tokens`. generated int64 [queries]: number of tokens. beam int64 [queries]: which
    beam of its search. banned: what `banned_tokens` returns. ints, floats: int_params and float_params of each query.
    """
    single = ints[:, IntParam.NUM_BEAMS] == 1
    samples = (ints[:, IntParam.DO_SAMPLE] != 0)[:, None]
    scores = torch.where(single[:, None], logits, log_probs)
    scores = repetition_penalty(scores, history, lengths, floats[:, FloatParam.REPETITION_PENALTY])
    if banned is not None:
        scores = mask_banned(scores, banned)
    keep = torch.where(single, 1, 2)  # beams need a second candidate beside eos
    warped = warp(scores, floats[:, FloatParam.TEMPERATURE], ints[:, IntParam.TOP_K], floats[:, FloatParam.TAIL], keep)
    scores = torch.where(samples, warped, scores)
    seeds, stream = (ints[:, IntParam.SEED_LOW], ints[:, IntParam.SEED_HIGH]), ints[:, IntParam.STREAM] + beam
    return scores, torch.where(samples, scores + gumbel(*seeds, generated, stream, scores.shape[1]), scores)


def banned_tokens(
    *,
    history: torch.Tensor,
    lengths: torch.Tensor,
    words: tuple[torch.Tensor, torch.Tensor],
    num_bad_word_tokens: torch.Tensor,
    ngram_size: torch.Tensor,
    max_ngram_size: int,
    too_short: torch.Tensor,
    eos: int,
) -> torch.Tensor:
    """int64 [queries, width]: tokens that may not be chosen next, −1 where there is none.

    history int64 [queries, any], of which the first `lengths` [queries] count: all ids so far, prompt included.
    words: the words that may not be completed, one after another: tokens and offset of each from the end of its word,
        both [queries, tokens], of which the first `num_bad_word_tokens` [queries] count.
    ngram_size [queries]: no sequence of so many ids recurs (0 is off); max_ngram_size: the largest of them.
    too_short bool [queries]: eos may not be chosen yet.
    """
    parts = [torch.where(too_short, eos, -1)[:, None]]
    if words[0].shape[1]:
        parts.append(_bad_words(history, lengths, words[0].long(), words[1].long(), num_bad_word_tokens))
    if max_ngram_size:
        parts.append(_repeated_ngrams(history, lengths, ngram_size, max_ngram_size))
    return torch.cat(parts, dim=1)


def _bad_words(
    history: torch.Tensor, lengths: torch.Tensor, token: torch.Tensor, offset: torch.Tensor, count: torch.Tensor
) -> torch.Tensor:
    """The last token of every word whose other tokens are the end of the history."""
    entry = torch.arange(token.shape[1], device=token.device)
    counts = entry < count[:, None]
    at = lengths[:, None] - offset
    read = history.gather(1, at.clamp(min=0, max=history.shape[1] - 1))
    matches = (offset == 0) | ((at >= 0) & (read == token))
    last = (entry + torch.where(counts, offset, 0)).clamp(max=token.shape[1] - 1)
    all_match = torch.ones_like(token).scatter_reduce(1, last, (matches | ~counts).long(), "amin")
    return torch.where(counts & (offset == 0) & (all_match == 1), token, -1)


def _repeated_ngrams(history: torch.Tensor, lengths: torch.Tensor, size: torch.Tensor, max_size: int) -> torch.Tensor:
    """Tokens that would complete an n-gram for the second time. [queries, any]"""
    width = history.shape[1]
    start = torch.arange(width, device=history.device)[None]  # of a window
    size, end = size[:, None], lengths[:, None]
    same = (size > 0) & (start + size <= end)
    for i in range(max_size - 1):
        window = history.gather(1, (start + i).clamp(max=width - 1).expand_as(history))
        prefix = history.gather(1, (end - size + 1 + i).clamp(min=0, max=width - 1))
        same = same & ((window == prefix) | (i >= size - 1))
    last = history.gather(1, (start + size - 1).clamp(min=0, max=width - 1))
    return torch.where(same, last, -1)


def repetition_penalty(
    scores: torch.Tensor, history: torch.Tensor, lengths: torch.Tensor, penalty: torch.Tensor
) -> torch.Tensor:
    """scores [queries, vocab] with every token of history [queries, any] made less likely (Keskar et al. 2019)."""
    position = torch.arange(history.shape[1], device=history.device)
    tokens = torch.where(position < lengths[:, None], history, history[:, :1])
    seen, penalty = scores.gather(1, tokens), penalty[:, None]
    return scores.scatter(1, tokens, torch.where(seen < 0, seen * penalty, seen / penalty))


def warp(
    scores: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, tail: torch.Tensor, keep: torch.Tensor
) -> torch.Tensor:
    """scores [queries, vocab] / temperature, −inf outside of the top-k and the top-p (nucleus) sets; `keep` stay.

    tail: 1 − top_p, below 0 when off; top_k 0 is off. All float32 or int64 [queries].
    """
    vocab = scores.shape[1]
    scores = scores / temperature[:, None]
    kept = torch.where(top_k > 0, torch.maximum(top_k, keep), vocab).clamp(max=vocab)
    least = scores.sort(dim=-1, descending=True).values.gather(1, kept[:, None] - 1)
    scores = scores.masked_fill(scores < least, -torch.inf)
    ascending = scores.sort(dim=-1).values
    outside = ascending.softmax(-1).cumsum(-1) <= tail[:, None]
    outside &= torch.arange(vocab, device=scores.device) < vocab - keep[:, None]
    least = ascending.masked_fill(outside, torch.inf).amin(-1, keepdim=True)  # equal scores stay or go together
    return scores.masked_fill(scores < least, -torch.inf)


def gumbel(
    seed_low: torch.Tensor, seed_high: torch.Tensor, step: torch.Tensor, stream: torch.Tensor, vocab: int
) -> torch.Tensor:
    """Gumbel noise float32 [queries, vocab]: the best k of scores + noise are k samples without replacement.

    Keyed by (seed, step, stream, token), int64 [queries], so a sample does not depend on the rest of the batch. It is
    computed query by query, because the last bits of a logarithm depend on its place in a tensor.
    """
    token = torch.arange(vocab, device=stream.device)
    keys = _mix(_mix(seed_low ^ _mix(seed_high)) + step)
    noise = []
    for key, own in zip(keys, stream, strict=True):
        bits = _mix(_mix(token ^ _mix(key + own)) + key)
        uniform = (bits.double() + 0.5) / 2.0**32
        noise.append(-(-uniform.log()).log())
    return torch.stack(noise).float()


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A bijection of 32-bit integers (in int64) that scatters every bit: Wellons' lowbias32."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
