"""Copies between the host and a GPU for which the host does not stop: from and to pinned memory, in stream order.

torch's allocator of pinned memory gives a block to the next tensor when the copies that were launched from it or to it
have run, so a staging tensor may be dropped at once. On a CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

_ALIGNMENT = 16  # bytes; a view of another dtype begins at a multiple of its size


def is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def upload(device: torch.device, *arrays: np.ndarray) -> list[torch.Tensor]:
    """The arrays as tensors on the device, by one copy. On a CPU they share the memory of the arrays."""
    tensors = [torch.from_numpy(array) for array in arrays]
    if not is_gpu(device):
        return [tensor.to(device) for tensor in tensors]
    starts, size = [], 0
    for array in arrays:
        starts.append(size)
        size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    host = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)
    for start, tensor in zip(starts, tensors, strict=True):
        _part(host, start, tensor).copy_(tensor)
    packed = host.to(device, non_blocking=True)
    return [_part(packed, start, tensor) for start, tensor in zip(starts, tensors, strict=True)]


def _part(packed: torch.Tensor, start: int, like: torch.Tensor) -> torch.Tensor:
    return packed[start : start + like.nbytes].view(like.dtype).view(like.shape)


def upload_packed(device: torch.device, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors of the host one after another, on the device: they are packed in pinned memory."""
    if not is_gpu(device):
        return torch.cat(list(parts)).to(device)
    shape = sum(map(len, parts)), *parts[0].shape[1:]
    host = torch.empty(shape, dtype=parts[0].dtype, device="cpu", pin_memory=True)
    return torch.cat(list(parts), out=host).to(device, non_blocking=True)


class Download:
    """A tensor on its way to the host, in stream order. `wait` waits for this copy and for nothing behind it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """tensor: on a CPU it is not copied, and the caller does not write to it any more."""
        self._host, self._copied = tensor, None
        if is_gpu(tensor.device):
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def wait(self) -> np.ndarray:
        """The values. On a GPU the array is a view of pinned memory: a copy is kept if it is kept for long."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host.numpy()
