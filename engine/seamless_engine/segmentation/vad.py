"""Voice activity: Silero's network, batched over frames and clips.

    frame t of a clip   64 samples before it (zeros before the first) and 512 of its own, 32 ms at 16 kHz
    spectrum            reflected by 64 samples at the right; 4 windows of 256, 129 magnitudes each
    encoder             4 convolutions of kernel 3 over the windows: 129 → 128 → 64 → 64 → 128, ReLU; one vector is left
    decoder             LSTM cell of 128 over the frames → ReLU → one weight each → sigmoid: probability of speech

The weights are those of `silero_vad.jit` in the package silero-vad. The package is not imported, because it sets torch
to one thread for the whole process.

Only the LSTM crosses frames. The result of a clip has the same bits alone, with other clips, and in blocks of any size:
products are `seamless_kernels.linear`; sigmoid and tanh are computed on rows that fill vector registers, and of fewer
elements than torch splits over threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F

from seamless_engine.errors import UsageError
from seamless_kernels.framing import SAMPLING_RATE
from seamless_kernels.linear import LinearWeight, linear, pack_weight

FRAME = 512  # samples of a probability
FRAME_SECONDS = FRAME / SAMPLING_RATE
_CONTEXT = 64  # samples before a frame that it reads, and reflected samples behind it
_WINDOW, _HOP, _WINDOWS = 256, 128, 4
_BINS = _WINDOW // 2 + 1
_STATE = 128
_STRIDES = (1, 2, 2, 1)  # of the convolutions: 4, 2, 1 and 1 windows are left
_FILE = "silero_vad/data/silero_vad.jit"
_SHAPES = {
    "stft.forward_basis_buffer": (2 * _BINS, 1, _WINDOW),
    "encoder.0.reparam_conv.weight": (128, _BINS, 3),
    "encoder.0.reparam_conv.bias": (128,),
    "encoder.1.reparam_conv.weight": (64, 128, 3),
    "encoder.1.reparam_conv.bias": (64,),
    "encoder.2.reparam_conv.weight": (64, 64, 3),
    "encoder.2.reparam_conv.bias": (64,),
    "encoder.3.reparam_conv.weight": (_STATE, 64, 3),
    "encoder.3.reparam_conv.bias": (_STATE,),
    "decoder.rnn.weight_ih": (4 * _STATE, _STATE),
    "decoder.rnn.weight_hh": (4 * _STATE, _STATE),
    "decoder.rnn.bias_ih": (4 * _STATE,),
    "decoder.rnn.bias_hh": (4 * _STATE,),
    "decoder.decoder.2.weight": (1, _STATE, 1),
    "decoder.decoder.2.bias": (1,),
}
_MAX_CLIPS = 63  # of a pass: their gates are fewer than the 32,768 elements that torch splits over threads
_ROWS = 512  # frames of a pass through the encoder: its working memory is about 10 MB


def model_path() -> Path:
    """The file of the weights. Raises UsageError if silero-vad is not installed, or is another version."""
    try:
        package = metadata.distribution("silero-vad")
    except metadata.PackageNotFoundError:
        raise UsageError(
            "cutting audio at pauses needs the package silero-vad: pip install 'seamless-engine[vad]'. Or pass "
            "segmenter=, a function (samples, sampling_rate) -> [(start, end), ...] in seconds"
        ) from None
    path = Path(str(package.locate_file(_FILE)))
    if not path.is_file():
        raise UsageError(f"silero-vad {package.version} has no {_FILE}: pip install 'seamless-engine[vad]'")
    return path


class SpeechDetector:
    """The network with its weights. It keeps no state between calls, so that threads may share one."""

    def __init__(self) -> None:
        """Raises UsageError if silero-vad is not installed, or its file has another network."""
        path = model_path()
        stored = torch.jit.load(str(path), map_location="cpu").state_dict()
        weights = {name: stored.get(f"_model.{name}") for name in _SHAPES}
        for name, weight in weights.items():
            if weight is None or tuple(weight.shape) != _SHAPES[name]:
                found = "is missing" if weight is None else f"is {list(weight.shape)}, not {list(_SHAPES[name])}"
                raise UsageError(f"{path}: {name} {found}; this version of silero-vad is not supported")
        self._load({name: weight.detach().float() for name, weight in weights.items()})  # pyright: ignore

    def _load(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._basis = pack_weight(weights["stft.forward_basis_buffer"][:, 0])
        self._convolutions: list[tuple[LinearWeight, torch.Tensor, int]] = []
        for index, stride in enumerate(_STRIDES):
            weight = weights[f"encoder.{index}.reparam_conv.weight"]  # [out, in, 3]
            bias = weights[f"encoder.{index}.reparam_conv.bias"]
            self._convolutions.append((pack_weight(weight.transpose(1, 2).flatten(1)), bias, stride))
        # The gate of the cell is 2 · sigmoid(2x) − 1, which is tanh(x): one sigmoid then serves all four. 2 is exact.
        double = torch.ones(4, _STATE, dtype=torch.float32, device="cpu")
        double[2] = 2.0
        double = double.flatten()
        self._input = pack_weight(weights["decoder.rnn.weight_ih"] * double[:, None])
        self._recurrent = pack_weight(weights["decoder.rnn.weight_hh"] * double[:, None])
        self._gate_bias = (weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"]) * double
        self._output = pack_weight(weights["decoder.decoder.2.weight"][:, :, 0])
        self._output_bias = weights["decoder.decoder.2.bias"]

    @torch.inference_mode()
    def probabilities(self, clips: Sequence[torch.Tensor], rows: int = _ROWS) -> list[torch.Tensor]:
        """The probability of speech in each 32 ms of each clip: float32 [⌈samples / 512⌉].

        clips: mono float32 [samples] at 16 kHz. The last frame is filled with zeros.
        rows: frames of all clips that are computed at a time; bounds the memory and changes no result.
        """
        results = [torch.empty(-(-len(clip) // FRAME), dtype=torch.float32, device="cpu") for clip in clips]
        longest = sorted(range(len(clips)), key=lambda index: -len(clips[index]))
        for first in range(0, len(clips), _MAX_CLIPS):
            group = longest[first : first + _MAX_CLIPS]
            self._run([clips[index] for index in group], [results[index] for index in group], rows)
        return results

    def _run(self, clips: list[torch.Tensor], results: list[torch.Tensor], rows: int) -> None:
        """Fill `results`. The clips are in order of length, the longest first."""
        hidden, cell = torch.zeros(2, len(clips), _STATE, dtype=torch.float32, device="cpu")
        start = 0
        while start < len(results[0]):
            lengths = [len(result) - start for result in results if len(result) > start]
            frames = max(1, rows // len(lengths))
            counts = [min(length, frames) for length in lengths]
            encoded = self._encode([_frames(clip, start, n) for clip, n in zip(clips, counts, strict=False)])
            states, hidden, cell = self._decode(encoded, counts, hidden[: len(counts)], cell[: len(counts)])
            logits = linear(states.relu(), self._output, self._output_bias)[:, 0].split(counts)
            for result, part in zip(results, logits, strict=False):
                result[start : start + len(part)] = torch.tensor(
                    [1.0 / (1.0 + math.exp(-value)) for value in part.tolist()], dtype=torch.float32, device="cpu"
                )
            start += frames

    def _encode(self, frames: list[torch.Tensor]) -> torch.Tensor:
        """Frames [n, 576] of each clip → what they add to the gates, [all frames, 4 · 128]."""
        x = torch.cat(frames)
        x = torch.cat([x, x[:, -1 - _CONTEXT : -1].flip(1)], dim=1)
        windows = x.unfold(1, _WINDOW, _HOP).reshape(-1, _WINDOW)
        real, imaginary = linear(windows, self._basis).split(_BINS, dim=1)
        y = (real.square() + imaginary.square()).sqrt_().view(len(x), _WINDOWS, _BINS)
        for weight, bias, stride in self._convolutions:
            channels = y.shape[2]
            taps = F.pad(y, (0, 0, 1, 1)).flatten(1).unfold(1, 3 * channels, stride * channels)
            steps = taps.shape[1]
            y = linear(taps.reshape(-1, 3 * channels), weight, bias, activation="relu").view(len(x), steps, -1)
        return linear(y[:, 0], self._input, self._gate_bias)

    def _decode(
        self, gates: torch.Tensor, counts: list[int], hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The LSTM over the frames of a block, one clip after the other in `gates` [Σ counts, 4 · 128].

        hidden, cell: [clips, 128] before the block. Returns the states [Σ counts, 128], and hidden and cell after it.
        """
        active = [sum(count > t for count in counts) for t in range(counts[0])]  # the first clips: they are the longest
        starts = [sum(counts[:index]) for index in range(len(counts))]
        order = [starts[index] + t for t, n in enumerate(active) for index in range(n)]
        by_time = torch.tensor(order, device="cpu")
        states = torch.empty(len(gates), _STATE, dtype=torch.float32, device="cpu")
        steps = zip(gates[by_time].split(active), states.split(active), active, strict=True)
        for step, out, n in steps:
            if n < len(hidden):
                hidden, cell = hidden[:n], cell[:n]
            gates = linear(hidden, self._recurrent, residual=step).sigmoid_()
            into, keep, new, show = gates.chunk(4, dim=1)
            cell = (cell * keep).addcmul_(into, new, value=2.0).sub_(into)
            hidden = torch.mul(show, cell.tanh(), out=out)
        result = torch.empty_like(states)
        result[by_time] = states
        return result, hidden, cell


def _frames(clip: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """Frames first … first + count − 1 with the samples before them: [count, 576], zeros beyond the clip."""
    start, end = first * FRAME - _CONTEXT, (first + count) * FRAME
    part = F.pad(clip[max(start, 0) : end], (max(-start, 0), max(end - len(clip), 0)))
    return part.unfold(0, _CONTEXT + FRAME, FRAME)
