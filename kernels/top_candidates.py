"""The best next tokens of every row: log-softmax over the vocabulary and its largest entries in a total order.

    logits float32 [rows, vocab]  →  log p [rows, count] float32, token [rows, count] int64

Rows are ordered by (logit, then smaller token), so equal logits give the same candidates everywhere. Entries named in
`banned` cannot be chosen, but their mass stays in the normaliser (as transformers' processors act on log-softmax).
"""

from __future__ import annotations

import torch

from seamless_kernels.dispatch import backend_for

_COLUMNS = 64

Banned = tuple[torch.Tensor, torch.Tensor]  # rows and tokens, int64 of one length


def top_candidates(logits: torch.Tensor, count: int, banned: Banned | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` may not exceed the vocabulary."""
    return IMPLS[backend_for(logits, IMPLS)](logits, count, banned)


def reference(logits: torch.Tensor, count: int, banned: Banned | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs = torch.log_softmax(logits, dim=-1)
    if banned is not None:
        logits = logits.index_put(banned, logits.new_tensor(-torch.inf))
        log_probs = log_probs.index_put(banned, logits.new_tensor(-torch.inf))
    rows, vocab = logits.shape
    # The best `count` entries lie in the `count` column blocks with the largest maxima: sort those, not the vocabulary.
    padded = torch.nn.functional.pad(logits, (0, -vocab % _COLUMNS), value=-torch.inf) if vocab % _COLUMNS else logits
    blocks = padded.view(rows, -1, _COLUMNS)
    maxima = torch.sort(blocks.amax(-1), dim=-1, descending=True, stable=True).indices[:, :count]
    chosen = maxima.sort(dim=-1).values  # ascending, so that a stable sort keeps the smaller token first
    tokens = (chosen[:, :, None] * _COLUMNS + torch.arange(_COLUMNS, device=logits.device)).flatten(1)
    values = padded.gather(1, tokens)
    best = torch.sort(values, dim=-1, descending=True, stable=True).indices[:, :count]
    tokens = tokens.gather(1, best)
    return log_probs.gather(1, tokens), tokens


IMPLS = {"torch": reference}
