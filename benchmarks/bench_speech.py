"""Speech out by stage: text encoder, decode, T2U, vocoder; ours against transformers in one run.

    python -m benchmarks.bench_speech --device cpu [--checkpoint DIR]

Sentences of the committed trace are spoken with forced lengths, ours all at once, transformers at each of --batches.
The sides take turns; the median of --repeats. A stage of transformers counts at the batch size where it is fastest, its
peak of memory at the smallest. "decode" is what remains of the whole: for transformers that is the second run of its
decoder, and its characters, too.

Memory of a CPU is resident memory above that of the loaded model, each side in a process of its own; of a GPU it is
torch's count. Then the vocoder and T2U alone, --clips of 10 s at once: µs for a second of audio, and TFLOP/s of the
vocoder, which needs 16.6 GFLOP for one in the published dims.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.baseline import Transformers
from benchmarks.common import machine, print_table, timed, write_json
from benchmarks.stage_clock import StageClock
from benchmarks.workload import DIMS, RATE, Item, bench_checkpoint, items
from seamless_engine import Engine

STAGES = ("text encoder", "decode", "T2U", "vocoder", "all")
UNITS, TOKENS, CHARACTERS = 500, 36, 4  # of a clip of 10 s; characters of a token
VOCODER_FLOP = 16.6e9  # a second


class Ours:
    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        self.engine = Engine.from_pretrained(folder, tasks=["t2st"], device=device, dtype=dtype)
        self.runner = self.engine._runner
        self.device = device
        self.speech = self.runner.synthesizer
        assert self.speech is not None

    def watch(self, clock: StageClock) -> None:
        assert self.speech is not None
        clock.watch(self.runner, "encode_text", "text encoder")
        clock.watch(self.speech, "run_t2u", "T2U")
        clock.watch(self.speech, "unit_ids", "T2U")
        vocoder, speech = self.speech.vocoder, self.speech
        clock.watch(vocoder, "clips", "vocoder")
        speech.vocoder = clock.proxy(vocoder, "vocoder")  # type: ignore[assignment]

    def run(self, work: list[Item], _: int) -> float:
        """Seconds of audio."""
        results = self.engine.generate([item.request("t2st", 1) for item in work])
        failed = [result.error for result in results if result.error]
        if failed:
            raise SystemExit(f"{len(failed)} requests failed, the first with: {failed[0]}")
        return sum(len(result.audio) for result in results if result.audio is not None) / RATE

    @torch.inference_mode()
    def t2u(self, states: torch.Tensor, chars: torch.Tensor, counts: torch.Tensor) -> int:
        assert self.speech is not None
        clips, length, _ = states.shape
        bounds = torch.arange(clips + 1, dtype=torch.int32, device=states.device) * length
        packed = states.flatten(0, 1), bounds, bounds.diff(), chars.flatten(), counts.flatten()
        units = self.speech.t2u(*packed)
        self.speech.t2u.logits(units.states).argmax(-1)
        return sum(units.lengths)

    @torch.inference_mode()
    def vocoder(self, units: torch.Tensor) -> int:
        assert self.speech is not None
        vocoder, (count, length) = self.speech.vocoder, units.shape
        bounds = torch.arange(count + 1, dtype=torch.int32, device=units.device) * length
        voices = torch.zeros(count, dtype=torch.int64, device=units.device)
        clips = vocoder.clips(units.flatten(), bounds, voices, voices, [True] * count)
        return sum(len(vocoder(clips, windows)) for windows in vocoder.passes(clips))


class Theirs:
    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        self.side = Transformers(folder, "t2st", device, getattr(torch, dtype))
        self.device = device

    def watch(self, clock: StageClock) -> None:
        model: Any = self.side.model
        clock.watch(model.text_encoder, "forward", "text encoder")
        clock.watch(model.t2u_model, "forward", "T2U")
        clock.watch(model.vocoder, "forward", "vocoder")

    def run(self, work: list[Item], batch: int) -> float:
        longest_first = sorted(work, key=lambda item: item.new_tokens, reverse=True)
        parts = [longest_first[start : start + batch] for start in range(0, len(work), batch)]
        return sum(self.side.generate(part, 1)[1] for part in parts)

    @torch.inference_mode()
    def t2u(self, states: torch.Tensor, chars: torch.Tensor, counts: torch.Tensor) -> int:
        mask = torch.ones(states.shape[:2], device=states.device)
        model: Any = self.side.model.t2u_model
        logits, padding = model(
            inputs_embeds=states, char_input_ids=chars, char_count_per_id=counts, attention_mask=mask
        )[:2]
        logits.argmax(-1)
        return int(padding.sum())

    @torch.inference_mode()
    def vocoder(self, units: torch.Tensor) -> int:
        voice = torch.zeros(len(units), 1, dtype=torch.int64, device=units.device)
        model: Any = self.side.model.vocoder
        return int(model(units, voice, voice)[0].numel())


SIDES: dict[str, Callable[[Path, str, str], Ours | Theirs]] = {"ours": Ours, "transformers": Theirs}


def stages(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    work = items("t2st", options.count)
    runs = [("ours", len(work)), *(("transformers", batch) for batch in options.batches)]
    sides = {name: make(folder, options.device, options.dtype) for name, make in SIDES.items()}
    clocks = {name: StageClock(options.device, rest="decode") for name in sides}
    for name, side in sides.items():
        side.watch(clocks[name])
        side.run(work[:1], 1)
    times: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    audio: dict[tuple[str, int], float] = {}
    for _ in range(options.repeats):
        for name, batch in runs:
            spent, audio[name, batch] = clocks[name].of(partial(sides[name].run, work, batch))
            times[name, batch].append(spent)
            print(f"{name} {batch}: " + "  ".join(f"{s} {spent[s]:.2f}" for s in STAGES), flush=True)
    median = {run: {s: statistics.median(t[s] for t in spent) for s in STAGES} for run, spent in times.items()}
    rows = []
    for stage in STAGES:
        best = min((median[run][stage], run[1]) for run in runs if run[0] == "transformers")
        mine = median["ours", len(work)][stage]
        rows.append({"stage": stage, "ours_s": mine, "theirs_s": best[0], "batch": best[1], "ratio": best[0] / mine})
    print(f"seconds of audio: {', '.join(f'{name} {batch}: {s:.1f}' for (name, batch), s in audio.items())}")
    return rows


def peaks(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """MiB above the loaded model, by side."""
    batches = {"ours": options.count, "transformers": min(options.batches)}
    return {name: _peak_apart(name, folder, options, batch) for name, batch in batches.items()}


def _peak_apart(name: str, folder: Path, options: argparse.Namespace, batch: int) -> float:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak, name, folder, options, batch).result()


def _peak(name: str, folder: Path, options: argparse.Namespace, batch: int) -> float:
    side = SIDES[name](folder, options.device, options.dtype)
    work = items("t2st", options.count)
    side.run([min(work, key=lambda item: item.new_tokens)], 1)  # pools, caches, code
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side.run(work, batch)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    side.run(work, batch)
    return _resident("VmHWM") - before


def _resident(key: str) -> float:
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def alone(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The vocoder and T2U on clips of one length, in µs for each second of audio of 50 units a second."""
    sides = {name: make(folder, options.device, options.dtype) for name, make in SIDES.items()}
    config = sides["ours"].engine.config  # type: ignore[union-attr]
    dtype, device = getattr(torch, options.dtype), options.device
    for count in options.clips:
        units = torch.randint(config.unit_hifi_gan_vocab_size, (count, UNITS), device=device)
        counts = torch.full((count, TOKENS), CHARACTERS, device=device)
        counts[:, 0] = counts[:, -1] = 0
        states = torch.randn(count, TOKENS, config.hidden_size, device=device).to(dtype)
        chars = torch.randint(4, 40, (count, int(counts[0].sum())), device=device)
        for stage, arguments in (("vocoder", (units,)), ("T2U", (states, chars, counts))):
            row: dict[str, Any] = {"stage": stage, "clips": count}
            for name, side in sides.items():
                run = partial(getattr(side, stage.lower()), *arguments)
                run()
                spent = [timed(run, device) for _ in range(options.repeats)]
                made = spent[0][1] / RATE if stage == "vocoder" else spent[0][1] / 50
                row[f"{name}_us"] = 1e6 * statistics.median(seconds for seconds, _ in spent) / made
            if stage == "vocoder":
                row["tflops"] = VOCODER_FLOP / row["ours_us"] / 1e6
            row["ratio"] = row["transformers_us"] / row["ours_us"]
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--count", type=int, default=16, help="sentences")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], help="batch sizes of transformers")
    parser.add_argument("--clips", type=int, nargs="*", help="default: 1 8 64 256 on a GPU, none on a CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="folder to keep the random checkpoint in between runs")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/speech-DEVICE.json")
    options = parser.parse_args()
    if options.clips is None:
        options.clips = [1, 8, 64, 256] if options.device == "cuda" else []
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = bench_checkpoint(options.checkpoint or Path(scratch))
        content = {
            "machine": machine(options.device),
            "dims": DIMS,
            "dtype": options.dtype,
            "stages": stages(folder, options),
            "peak_mib": peaks(folder, options),
            "alone": list(alone(folder, options)),
        }
    print("  ".join(f"{key}={value}" for key, value in content["machine"].items()))
    for rows in filter(None, (content["stages"], content["alone"])):
        columns = list(dict.fromkeys(key for row in rows for key in row))
        print_table(columns, [[row.get(column, "") for column in columns] for row in rows])
    print("peak above the model, MiB: " + "  ".join(f"{name} {size:.0f}" for name, size in content["peak_mib"].items()))
    print(f"{time.perf_counter() - begun:.0f} s")
    write_json(options.json or Path(f"benchmarks/results/speech-{options.device}.json"), content)


if __name__ == "__main__":
    main()
