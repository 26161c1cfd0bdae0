"""Log-mel filter bank of speech, normalized per clip and stacked in pairs of frames: the input of the speech encoder.

    frame t of a clip covers its samples 160·t … 160·t + 399;  N = 1 + ⌊(samples − 400) / 160⌋ frames, nothing is padded
    s = 32768·x − mean(32768·x);  y[n] = s[n] − 0.97·s[n−1], y[0] = 0.03·s[0]
    m = ln max(|rFFT512(y · povey)|² · W, 1.19e-7)                                                 [N, 80]
    features = (m − mean(m)) / sqrt(var(m) + 1e-7),  statistics per clip and mel bin, var divided by N − 1

Two consecutive frames are stacked to a token of 160 features. A clip with an odd N ends in a token whose second half is
zero. As in transformers (`SeamlessM4TFeatureExtractor`), everything up to the logarithm is float64 except the spectrum,
which is complex64.

The result is batch-invariant: frames are transformed and multiplied in blocks of one fixed shape, and statistics are
computed clip by clip.

On a GPU the transform is torch's, with one kernel before it, one after it, and one for the statistics of all clips,
whose sums are float64. There a bin that never changes has features 0, where the CPU has NumPy's rounding error of the
mean, divided by a small deviation.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.framing import FRAME, HOP, MIN_SAMPLES, SAMPLING_RATE, frame_count
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.transfer import upload

NUM_MEL = 80

_FFT = 512
_FLOOR = 1.192092955078125e-07
_MEL_BLOCK = 16  # mel bins of a program that normalizes
_CPU_BLOCK, _GPU_BLOCK = 128, 4096  # frames; on a CPU a block fits in the cache and is computed by one thread


class FbankOutput(NamedTuple):
    """features float32 [tokens, 80·stride] packed; cu_seqlens int32 [n + 1], ⌈N/stride⌉ tokens for each clip;
    valid int32 [n], the tokens without a padded frame, ⌊N/stride⌋."""

    features: torch.Tensor
    cu_seqlens: torch.Tensor
    valid: torch.Tensor


def reference(waveform: torch.Tensor, cu_samples: torch.Tensor | Sequence[int], *, stride: int = 2) -> FbankOutput:
    bounds: list[int] = torch.as_tensor(cu_samples).tolist()
    frames = _frame_counts(bounds, waveform.shape[0])
    cu_tokens, tables = _tables_of(bounds, frames, stride)
    starts, _, cu_seqlens, valid = upload(waveform.device, *tables)
    log_mel = log_mel_energies(waveform, starts)  # [frames, 80]
    features = torch.zeros(cu_tokens[-1] * stride, NUM_MEL, dtype=torch.float32, device=waveform.device)
    for first, clip in zip(cu_tokens, log_mel.split(frames), strict=False):
        mean, deviation = clip_statistics(clip)
        features[first * stride :][: clip.shape[0]] = (clip - mean) / deviation
    return FbankOutput(features.view(cu_tokens[-1], stride * NUM_MEL), cu_seqlens, valid)


@jit(do_not_specialize=["start_ptr", "count"])
def _frame_kernel(
    waveform_ptr,
    start_ptr,
    window_ptr,
    y_ptr,  # float64 [frames, FFT]
    count,
    SAMPLES: tl.constexpr,
    FFT: tl.constexpr,
    FRAMES: tl.constexpr,
):
    """Frames after pre-emphasis, window and zero-padding; frames from `count` on are zero."""
    frame = tl.program_id(0) * FRAMES + tl.arange(0, FRAMES)
    n = tl.arange(0, FFT)[None, :]
    mask = (frame < count)[:, None] & (n < SAMPLES)
    start = tl.load(start_ptr + frame, mask=frame < count, other=0)[:, None]
    x = tl.load(waveform_ptr + start + n, mask=mask, other=0.0).to(tl.float64) * 32768.0
    before = tl.load(waveform_ptr + start + n - 1, mask=mask & (n > 0), other=0.0).to(tl.float64) * 32768.0
    mean = (tl.sum(x, 1) / SAMPLES)[:, None]
    # the first sample has no sample before it; the window is zero there
    y = ((x - mean) - (before - mean) * 0.97) * tl.load(window_ptr + n, mask=n < SAMPLES, other=0.0)
    tl.store(y_ptr + frame[:, None] * FFT + n, tl.where(mask & (n > 0), y, 0.0))


@jit(do_not_specialize=["out_ptr", "count"])
def _mel_kernel(
    spectrum_ptr,  # float64 [frames, BINS, 2]
    first_ptr,  # the first bin of each filter
    filter_ptr,  # float64 [TAPS, MEL], from that bin on
    out_ptr,  # float32 [count, MEL]
    count,
    BINS: tl.constexpr,
    MEL: tl.constexpr,
    TAPS: tl.constexpr,
    FRAMES: tl.constexpr,
    BLOCK_MEL: tl.constexpr,
):
    frame = (tl.program_id(0) * FRAMES + tl.arange(0, FRAMES))[:, None]
    mel = tl.arange(0, BLOCK_MEL)[None, :]
    mask = (frame < count) & (mel < MEL)
    first = tl.load(first_ptr + mel, mask=mel < MEL, other=0)
    acc = tl.zeros([FRAMES, BLOCK_MEL], tl.float64)
    for tap in range(TAPS):
        weight = tl.load(filter_ptr + tap * MEL + mel, mask=mel < MEL, other=0.0)
        at = (frame * BINS + first + tap) * 2
        read = mask & (weight > 0.0)
        re = tl.load(spectrum_ptr + at, mask=read, other=0.0).to(tl.float32).to(tl.float64)
        im = tl.load(spectrum_ptr + at + 1, mask=read, other=0.0).to(tl.float32).to(tl.float64)
        acc += weight * (re * re + im * im)
    out = tl.log(tl.maximum(acc, 1.192092955078125e-07))
    tl.store(out_ptr + frame * MEL + mel, out.to(tl.float32), mask=mask)


@jit(do_not_specialize=["cu_frames_ptr", "cu_tokens_ptr", "stride"])
def _normalize_kernel(
    log_mel_ptr,  # [frames, MEL]
    cu_frames_ptr,
    cu_tokens_ptr,
    out_ptr,  # [tokens · stride, MEL]
    stride,
    MEL: tl.constexpr,
    FRAMES: tl.constexpr,
    BLOCK_MEL: tl.constexpr,
):
    clip = tl.program_id(0)
    mel = tl.program_id(1) * BLOCK_MEL + tl.arange(0, BLOCK_MEL)[None, :]
    first = tl.load(cu_frames_ptr + clip)
    count = tl.load(cu_frames_ptr + clip + 1) - first
    first_token = tl.load(cu_tokens_ptr + clip)
    padded = (tl.load(cu_tokens_ptr + clip + 1) - first_token) * stride
    log_mel_ptr += first.to(tl.int64) * MEL + mel
    out_ptr += first_token.to(tl.int64) * stride * MEL + mel
    acc = tl.zeros([FRAMES, BLOCK_MEL], tl.float64)
    for start in range(0, count, FRAMES):
        frame = start + tl.arange(0, FRAMES)[:, None]
        acc += tl.load(log_mel_ptr + frame * MEL, mask=frame < count, other=0.0).to(tl.float64)
    mean = (tl.sum(acc, 0) / count).to(tl.float32)[None, :]
    acc = tl.zeros([FRAMES, BLOCK_MEL], tl.float64)
    for start in range(0, count, FRAMES):
        frame = start + tl.arange(0, FRAMES)[:, None]
        x = tl.load(log_mel_ptr + frame * MEL, mask=frame < count, other=0.0)
        difference = tl.where(frame < count, x - mean, 0.0).to(tl.float64)
        acc += difference * difference
    variance = (tl.sum(acc, 0) / (count - 1)).to(tl.float32)
    deviation = tl.sqrt_rn(variance + 1e-7)[None, :]
    for start in range(0, padded, FRAMES):
        frame = start + tl.arange(0, FRAMES)[:, None]
        x = tl.load(log_mel_ptr + frame * MEL, mask=frame < count, other=0.0)
        out = tl.where(frame < count, tl.div_rn(x - mean, tl.broadcast_to(deviation, [FRAMES, BLOCK_MEL])), 0.0)
        tl.store(out_ptr + frame * MEL, out, mask=frame < padded)


def _triton(waveform: torch.Tensor, cu_samples: torch.Tensor | Sequence[int], *, stride: int = 2) -> FbankOutput:
    bounds: list[int] = torch.as_tensor(cu_samples).tolist()
    frames = _frame_counts(bounds, waveform.shape[0])
    device, count = waveform.device, sum(frames)
    cu_tokens, tables = _tables_of(bounds, frames, stride)
    starts, cu_frames, cu_seqlens, valid = upload(device, *tables)
    window, _ = _tables(device)
    first, taps = _sparse_filters(device)
    config = config_for("fbank", (NUM_MEL,), torch.float32, device)
    options = {"num_warps": config["num_warps"], "enable_fp_fusion": config["enable_fp_fusion"]}
    size = _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK
    y = torch.empty(size, _FFT, dtype=torch.float64, device=device)
    log_mel = torch.empty(count, NUM_MEL, dtype=torch.float32, device=device)
    for done in range(0, count, size):
        left = min(count - done, size)
        grid = (triton.cdiv(size, config["FRAMES"]),)
        _frame_kernel[grid](
            waveform, starts[done:], window, y, left, SAMPLES=FRAME, FFT=_FFT, FRAMES=config["FRAMES"], **options
        )
        spectrum = torch.view_as_real(torch.fft.rfft(y))
        _mel_kernel[(triton.cdiv(left, config["MEL_FRAMES"]),)](
            spectrum,
            first,
            taps,
            log_mel[done:],
            left,
            BINS=_FFT // 2 + 1,
            MEL=NUM_MEL,
            TAPS=taps.shape[0],
            FRAMES=config["MEL_FRAMES"],
            BLOCK_MEL=triton.next_power_of_2(NUM_MEL),
            **options,
        )
    features = torch.empty(cu_tokens[-1], stride * NUM_MEL, dtype=torch.float32, device=device)
    _normalize_kernel[(len(frames), NUM_MEL // _MEL_BLOCK)](
        log_mel,
        cu_frames,
        cu_seqlens,
        features,
        stride,
        MEL=NUM_MEL,
        FRAMES=config["CLIP_FRAMES"],
        BLOCK_MEL=_MEL_BLOCK,
        **options,
    )
    return FbankOutput(features, cu_seqlens, valid)


def fbank(waveform: torch.Tensor, cu_samples: torch.Tensor | Sequence[int], *, stride: int = 2) -> FbankOutput:
    """Features of n mono clips at 16 kHz in [-1, 1].

    waveform: float32 [samples], the clips one after the other; cu_samples: [n + 1], their bounds.

    Raises ValueError if a clip has fewer than 560 samples, or if the bounds do not fit the waveform.
    """
    return IMPLS[backend_for(waveform.device, IMPLS)](waveform, cu_samples, stride=stride)


IMPLS = {"torch": reference, "triton": _triton}


def _frame_counts(bounds: list[int], samples: int) -> list[int]:
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != samples:
        raise ValueError(f"cu_samples must run from 0 to {samples}, the samples of the waveform, not {bounds}")
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    for index, length in enumerate(lengths):
        if length < MIN_SAMPLES:
            raise ValueError(f"clip {index} has {length} samples; features need {MIN_SAMPLES} (35 ms at 16 kHz)")
    return [frame_count(length) for length in lengths]


def _tables_of(bounds: list[int], frames: list[int], stride: int) -> tuple[list[int], list[np.ndarray]]:
    """Where the tokens of each clip begin, and what the device reads: the first sample of every frame, int64; where the
    frames and the tokens of each clip begin, and how many of its tokens have no padded frame, all int32."""
    cu_frames = np.cumsum([0, *frames])
    offset = np.array(bounds[:-1]) - HOP * cu_frames[:-1]
    starts = np.arange(cu_frames[-1]) * HOP + np.repeat(offset, frames)
    cu_tokens = [0, *itertools.accumulate(-(-count // stride) for count in frames)]
    valid = [count // stride for count in frames]
    return cu_tokens, [starts, *(np.array(values, dtype=np.int32) for values in (cu_frames, cu_tokens, valid))]


def log_mel_energies(waveform: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Log-mel energies float32 [frames, 80] of the frames that begin at `starts`."""
    window, filters = _tables(waveform.device)
    frames_at = (waveform * 32768.0).unfold(0, FRAME, 1)  # a view: frames_at[i] begins at sample i
    size = _CPU_BLOCK if waveform.device.type == "cpu" else _GPU_BLOCK
    count = starts.shape[0]
    log_mel = []
    for block in F.pad(starts, (0, -count % size)).split(size):
        x = frames_at[block].double()
        x -= x.mean(dim=1, keepdim=True)
        y = torch.zeros(size, _FFT, dtype=torch.float64, device=x.device)
        torch.sub(x[:, 1:], x[:, :-1], alpha=0.97, out=y[:, 1:FRAME])
        y[:, :FRAME] *= window  # it is zero at the first sample, 0.03·x[0]
        spectrum = torch.view_as_real(torch.fft.rfft(y)).float().double().square_()
        power = spectrum[..., 0] + spectrum[..., 1]  # [size, 257]
        log_mel.append((power @ filters).clamp_min_(_FLOOR).log_().float())
    return torch.cat(log_mel)[:count]


def clip_statistics(clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and sqrt(variance + 1e-7), float32 [80] each, of clip [N, 80]."""
    if clip.device.type != "cpu":
        variance, mean = torch.var_mean(clip, dim=0, correction=1)
        return mean, (variance + 1e-7).sqrt()
    # NumPy's order of summation, as in transformers: the result depends on it where a bin hardly varies (silence, a
    # tone).
    columns = clip.T.contiguous().numpy()
    deviation = np.sqrt(columns.var(axis=1, ddof=1) + 1e-7)
    return torch.from_numpy(columns.mean(axis=1)), torch.from_numpy(deviation)


@functools.cache
def _tables(device: torch.device) -> list[torch.Tensor]:
    """Povey window [400] and mel filters [257, 80], float64."""
    return upload(device, np.hanning(FRAME) ** 0.85, mel_filters())


@functools.cache
def _sparse_filters(device: torch.device) -> list[torch.Tensor]:
    """First bin int32 [80] of each mel filter, and its values from there on, float64 [widest, 80]."""
    filters = mel_filters()
    first = (filters > 0).argmax(axis=0)
    widest = int((filters > 0).sum(axis=0).max())
    bins = np.minimum(first + np.arange(widest)[:, None], len(filters) - 1)
    taps = np.take_along_axis(filters, bins, axis=0)
    return upload(device, first.astype(np.int32), taps)


def mel_filters() -> np.ndarray:
    """Triangles over mel(f) = 1127·ln(1 + f/700), 20 Hz to 8 kHz, without area normalisation: float64 [257, 80]."""

    def mel(hertz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log(1.0 + hertz / 700.0)

    low, high = mel(np.array([20.0, SAMPLING_RATE / 2]))
    edges = np.linspace(low, high, NUM_MEL + 2)
    bins = mel(np.arange(_FFT // 2 + 1) * (SAMPLING_RATE / _FFT))[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0.0, np.minimum(rising, falling))
