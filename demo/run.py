"""The demo: recorded speech and text through all five tasks, mixed in one batch of the public API."""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import NamedTuple

import soundfile

from seamless_engine import DecodingParams, Engine, Request, Result

HERE = Path(__file__).resolve().parent
OTHER = {"eng": "fra", "fra": "eng"}
TEXTS = [
    ("eng", "eight hundred and twelve", "huit cent douze"),
    ("fra", "six cent quarante-deux", "six hundred and forty-two"),
    ("fra", "cinq cent un", "five hundred and one"),
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
        for name, lang, words, translation in csv.reader(file, delimiter="\t"):
            path = HERE / "audio" / name
            seconds = soundfile.info(path).duration
            for task in ("asr", "s2tt", "s2st"):
                tgt_lang = lang if task == "asr" else OTHER[lang]
                expected = (words if task == "asr" else translation) if translation else None
                request = Request(task, tgt_lang, audio=path, id=f"{path.stem}.{task}.{tgt_lang}")
                jobs.append(Job(request, name, f"{lang} → {tgt_lang}", seconds, expected))
    return jobs


def text_jobs() -> list[Job]:
    jobs = []
    for number, (lang, text, translation) in enumerate(TEXTS, 1):
        for task in ("t2tt", "t2st"):
            tgt_lang = OTHER[lang]
            request = Request(task, tgt_lang, text=text, src_lang=lang, id=f"text-{number}.{task}.{tgt_lang}")
            jobs.append(Job(request, text, f"{lang} → {tgt_lang}", 0.0, translation))
    return jobs


def verdict(job: Job, result: Result) -> str:
    if result.error:
        return f"error: {result.error}"
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
            answer = {"id": result.id, "task": result.task, "text": result.text, "error": result.error}
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

    known = [(job, result) for job, result in zip(jobs, results, strict=True) if job.expected is not None]
    right = sum(verdict(job, result) == "ok" for job, result in known)
    failed = sum(result.error is not None for result in results)
    print(
        f"\n{len(jobs)} requests in one batch, beam 5, {wall:.2f} s: {right} of {len(known)} as expected, "
        f"{failed} failed, RTFx {seconds / wall:.1f} (seconds of audio per second, the first call included). "
        f"Texts and wavs: {output}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
