"""What may be chosen next: penalties, bans and the shaping of a distribution, where transformers has them.

Processors see the log-softmax of a beam, and the raw logits of a single hypothesis (greedy or sampled); the order is
transformers': repetition penalty, n-grams, bad words, minimum length, suppressed tokens, temperature, top-k, top-p.
"""

from __future__ import annotations

import torch

from seamless_engine.request import DecodingParams


def banned_tokens(params: DecodingParams, history: torch.Tensor, generated: int, eos: int, unk: int) -> torch.Tensor:
    """(row, token) pairs int64 [2, pairs] that may not be chosen.

    history int64 [rows, length]: all ids so far, prompt included. generated: how many of them follow the prompt.
    """
    rows = torch.arange(len(history), device=history.device)
    pairs: list[torch.Tensor] = []

    def everywhere(token: int) -> None:
        pairs.append(torch.stack([rows, torch.full_like(rows, token)]))

    if 0 < params.no_repeat_ngram_size <= history.shape[1]:
        pairs.append(_repeated(history, params.no_repeat_ngram_size))
    for *start, last in params.bad_words_ids or ():
        if not start and last == eos:
            continue  # transformers drops it too: a text must be able to end
        if not start:
            everywhere(last)
        elif len(start) <= history.shape[1]:
            matching = (history[:, -len(start) :] == torch.tensor(start, device=history.device)).all(1)
            pairs.append(torch.stack([rows[matching], torch.full_like(rows[matching], last)]))
    if generated < params.min_new_tokens:
        everywhere(eos)
    for token in params.suppress_tokens or ():
        everywhere(token)
    if params.block_unk:
        everywhere(unk)
    return torch.cat(pairs, dim=1) if pairs else history.new_empty(2, 0)


def _repeated(history: torch.Tensor, size: int) -> torch.Tensor:
    """Tokens that would complete an n-gram for the second time."""
    grams = history.unfold(1, size, 1)  # [rows, grams, size]
    prefix = history[:, history.shape[1] - size + 1 :]
    row, gram = (grams[:, :, :-1] == prefix[:, None]).all(-1).nonzero(as_tuple=True)
    return torch.stack([row, grams[row, gram, -1]])


def penalise_repetition(scores: torch.Tensor, history: torch.Tensor, penalty: float) -> torch.Tensor:
    """scores [rows, vocab] with every token of history [rows, length] made less likely (Keskar et al. 2019)."""
    seen = scores.gather(1, history)
    return scores.scatter(1, history, torch.where(seen < 0, seen * penalty, seen / penalty))


def warp(scores: torch.Tensor, params: DecodingParams) -> torch.Tensor:
    """scores [rows, vocab] / temperature, −inf outside of the top-k and the top-p (nucleus) sets."""
    keep = 1 if params.num_beams == 1 else 2  # beams need a second candidate beside eos
    if params.temperature != 1.0:
        scores = scores / params.temperature
    if params.top_k:
        least = scores.topk(min(max(params.top_k, keep), scores.shape[1])).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if params.top_p < 1.0:
        ascending, order = scores.sort(dim=-1)
        outside = ascending.softmax(-1).cumsum(-1) <= 1.0 - params.top_p
        outside[:, -keep:] = False
        scores = scores.masked_fill(outside.scatter(1, order, outside), -torch.inf)
    return scores


def gumbel(seed: int, step: int, lines: list[int], vocab: int, device: torch.device) -> torch.Tensor:
    """Gumbel noise float32 [lines, vocab]: adding it to scores and taking the best k draws k without replacement.

    Keyed by (seed, step, line, token), so a draw does not depend on what else is in the batch. Line by line, because
    the last bits of a logarithm depend on where in a tensor it is taken.
    """
    token = torch.arange(vocab, device=device)
    rows = []
    for line in lines:
        key = _mix(_mix(torch.tensor(seed & 0xFFFFFFFF, device=device) ^ _mix(token.new_tensor(seed >> 32))) + step)
        bits = _mix(_mix(token ^ _mix(key + line)) + key)
        uniform = (bits.double() + 0.5) / 2.0**32
        rows.append(-(-uniform.log()).log())
    return torch.stack(rows).float()


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A bijection of 32-bit integers (in int64) that scatters every bit: Wellons' lowbias32."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
