"""The demo: recorded speech and text through all five tasks, mixed in one batch of the public API.

Prints a table of what was expected and what came out, writes the texts, the wavs and a picture of one clip and its
spoken translation, and ends with the word error rate of the recognised clips.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import NamedTuple

import jiwer
import matplotlib

matplotlib.use("agg")  # before pyplot: no screen is needed
import matplotlib.pyplot as plt
import numpy as np
import soundfile
import torch

from seamless_engine import DecodingParams, Engine, Request, Result
from seamless_engine.inputs.audio import load_audio
from seamless_kernels.fbank import mel_filters

HERE = Path(__file__).resolve().parent
TEXTS = [
    ("eng", "nine thousand and ninety-two", "deu", "neuntausendzweiundneunzig"),
    (
        "fra",
        "la piscine ouvre à dix-neuf heures quarante-cinq",
        "deu",
        "das Schwimmbad öffnet um neunzehn Uhr fünfundvierzig",
    ),
    ("spa", "quisiera una naranja sin cebolla por favor", "eng", "I would like an orange without onions please"),
    ("deu", "es sind vier Minuten zu Fuß zur Post", "spa", "son cuatro minutos a pie a la oficina de correos"),
]


class Job(NamedTuple):
    """A request with what the table says about it; `expected` is None where the checkpoint cannot know the words."""

    request: Request
    source: str
    languages: str
    seconds_in: float
    expected: str | None


def speech_jobs() -> list[Job]:
    jobs = []
    with open(HERE / "audio" / "texts.tsv", encoding="utf-8", newline="") as file:
        for name, lang, words, other, translation in csv.reader(file, delimiter="\t"):
            path = HERE / "audio" / name
            seconds = soundfile.info(path).duration
            for task in ("asr", "s2tt", "s2st"):
                tgt_lang = lang if task == "asr" else other
                expected = (words if task == "asr" else translation) if translation else None
                request = Request(task, tgt_lang, audio=path, id=f"{path.stem}.{task}.{tgt_lang}")
                jobs.append(Job(request, name, f"{lang} → {tgt_lang}", seconds, expected))
    return jobs


def text_jobs() -> list[Job]:
    jobs = []
    for number, (lang, text, tgt_lang, translation) in enumerate(TEXTS, 1):
        for task in ("t2tt", "t2st"):
            request = Request(task, tgt_lang, text=text, src_lang=lang, id=f"text-{number}.{task}.{tgt_lang}")
            jobs.append(Job(request, text, f"{lang} → {tgt_lang}", 0.0, translation))
    return jobs


def _told(result: Result) -> str | None:
    return None if result.error is None else f"{type(result.error).__name__}: {result.error}"


def verdict(job: Job, result: Result) -> str:
    if result.error is not None:
        return f"error: {_told(result)}"
    if job.expected is None:
        return "out of domain"
    return "ok" if result.text == job.expected else f"differs: {job.expected}"


def seconds_out(result: Result) -> float:
    return 0.0 if result.audio is None else len(result.audio) / (result.sampling_rate or 1)


def print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def log_mel(samples: torch.Tensor) -> np.ndarray:
    """[80, n] of samples at 16 kHz, 10 ms a column."""
    power = torch.stft(samples, 512, 160, 400, torch.hann_window(400), return_complex=True).abs().square()
    return (torch.from_numpy(mel_filters()).float().T @ power + 1e-6).log10().numpy()


def plot(job: Job, result: Result, path: Path) -> None:
    """Mel spectrograms of a clip and of its translation."""
    assert result.audio is not None
    heard, spoken = log_mel(load_audio(job.request.audio)), log_mel(torch.from_numpy(result.audio))
    figure, axes = plt.subplots(2, figsize=(9, 5), sharex=True, layout="constrained")
    for axis, mel, title in ((axes[0], heard, job.source), (axes[1], spoken, f"{job.languages}: {result.text}")):
        axis.imshow(mel, origin="lower", aspect="auto", extent=(0, mel.shape[1] / 100, 0, len(mel)), vmin=-5)
        axis.set(title=title, ylabel="mel bin")
    axes[1].set(xlabel="seconds", xlim=(0, max(heard.shape[1], spoken.shape[1]) / 100))
    figure.savefig(path)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=HERE / "output", help="where the texts and wavs go")
    output = parser.parse_args().output_dir
    output.mkdir(parents=True, exist_ok=True)

    engine = Engine.from_pretrained(HERE / "checkpoint")
    jobs = speech_jobs() + text_jobs()
    start = time.perf_counter()
    results = engine.generate([job.request for job in jobs], DecodingParams(num_beams=5))
    wall = time.perf_counter() - start

    table = [["task", "languages", "input", "text", "expected", "units", "s in", "s out", "RTFx"]]
    seconds = 0.0
    with open(output / "results.jsonl", "w", encoding="utf-8") as lines:
        for job, result in zip(jobs, results, strict=True):
            spoken = seconds_out(result)
            counted = job.seconds_in or spoken
            seconds += counted
            if result.audio is not None and result.sampling_rate:
                soundfile.write(output / f"{result.id}.wav", result.audio, result.sampling_rate)
            answer = {"id": result.id, "task": result.task, "text": result.text, "error": _told(result)}
            lines.write(json.dumps(answer, ensure_ascii=False) + "\n")
            table.append(
                [
                    result.task,
                    job.languages,
                    job.source,
                    result.text,
                    verdict(job, result),
                    str(len(result.units)) if result.units is not None else "",
                    f"{job.seconds_in:.1f}" if job.seconds_in else "",
                    f"{spoken:.1f}" if spoken else "",
                    f"{counted / result.timings['total']:.1f}" if counted and not result.error else "",
                ]
            )
    print_table(table)

    speaking = [(job, result) for job, result in zip(jobs, results, strict=True) if result.audio is not None]
    pictured = next(((job, result) for job, result in speaking if job.seconds_in), None)
    if pictured is not None:
        plot(*pictured, output / f"{pictured[1].id}.png")
    known = [(job, result) for job, result in zip(jobs, results, strict=True) if job.expected is not None]
    right = sum(verdict(job, result) == "ok" for job, result in known)
    failed = sum(result.error is not None for result in results)
    print(
        f"\n{len(jobs)} requests in one batch, beam 5, {wall:.2f} s: {right} of {len(known)} as expected, "
        f"{failed} failed, RTFx {seconds / wall:.1f} (seconds of audio per second, the first call included). "
        f"Texts, wavs and a picture: {output}"
    )
    recognised = [
        (job.expected or "", result.text) for job, result in known if result.task == "asr" and not result.error
    ]
    if recognised:
        rate = jiwer.wer([expected for expected, _ in recognised], [said for _, said in recognised])
        print(f"word error rate over {len(recognised)} recognised clips: {100 * rate:.1f} %")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
