"""How good the answers are: word error rate, exact matches, BLEU and chrF of a checkpoint on a manifest.

    python -m tools.quality --checkpoint demo/checkpoint --manifest manifest.jsonl --beams 5

The manifest has one JSON object a line, and serves every task that it has the fields for:

    {"audio": "clip.wav", "src_lang": "eng", "text": "what is said or written", "tgt_lang": "fra", "translation": "…"}

`audio` is a path relative to the manifest. Optional: "speaker_id", and "units", the vocoder's units of the translation
as one voice says it: their share that a speech task produces too, after alignment, is then in the table.

asr is compared with `text`, all others with `translation`. Speech that was produced is heard back: the checkpoint's own
recognition of it is what is compared. With --normalise case and punctuation do not count.
"""

from __future__ import annotations

import argparse
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import numpy as np
import sacrebleu
import torch
from rapidfuzz.distance import LCSseq

from benchmarks.report import machine, print_table, write_json
from seamless_engine import DecodingParams, Engine, EngineConfig, Request
from seamless_engine.config import INT8_MODULES, ModelConfig
from seamless_engine.inputs.audio import load_audio
from seamless_engine.inputs.tokenizer import Tokenizer
from seamless_kernels.fbank import MIN_SAMPLES

TASKS = ("asr", "s2tt", "t2tt", "t2st", "s2st")
SYNTHESIZING = ("t2st", "s2st")
HEADER = ("task", "tgt_lang", "n", "WER %", "exact %", "BLEU", "chrF", "units %")


class Answer(NamedTuple):
    """tokens: without the prompt, eos included; audio float32 [samples] at 16 kHz, units: None without speech."""

    text: str
    tokens: list[int]
    audio: np.ndarray | None
    units: list[int] | None


class Ours:
    def __init__(self, folder: str, device: str, dtype: str, int8: Sequence[str] = ()) -> None:
        options = EngineConfig(int8=tuple(int8))
        self.engine = Engine.from_pretrained(folder, device=device, dtype=dtype, options=options)

    def __call__(self, requests: Sequence[Request], beams: int) -> list[Answer]:
        """Raises RuntimeError with the first error of a request: without its answer the figures would be too good."""
        answers = []
        for result in self.engine.generate(list(requests), DecodingParams(num_beams=beams)):
            if result.error is not None:
                raise RuntimeError(f"request {result.id} failed: {result.error}")
            units = None if result.units is None else result.units.tolist()
            answers.append(Answer(result.text, result.tokens, result.audio, units))
        return answers


class Theirs:
    """transformers, one request at a time."""

    def __init__(self, folder: str, device: str, dtype: str) -> None:
        import transformers  # here: the engine's own figures need no transformers

        transformers.logging.set_verbosity_error()
        self.dtype = torch.float32 if dtype == "auto" else getattr(torch, dtype)
        self.device = "cpu" if device == "auto" else device
        loading: dict[str, Any] = {"dtype": self.dtype, "attn_implementation": "sdpa"}
        model: Any = transformers.SeamlessM4Tv2Model.from_pretrained(folder, **loading)
        self.model: Any = model.eval().to(self.device)
        self.extractor = transformers.SeamlessM4TFeatureExtractor.from_pretrained(folder)
        self.tokenizer = Tokenizer.from_folder(folder, ModelConfig.from_folder(folder))

    @torch.inference_mode()
    def __call__(self, requests: Sequence[Request], beams: int) -> list[Answer]:
        return [self._answer(request, beams) for request in requests]

    def _answer(self, request: Request, beams: int) -> Answer:
        if request.audio is not None:
            wave = load_audio(request.audio, request.sampling_rate).numpy()
            made = self.extractor(wave, sampling_rate=16000, return_tensors="pt").to(self.device)
            inputs = {"input_features": made["input_features"].to(self.dtype), "attention_mask": made["attention_mask"]}
        else:
            ids = torch.tensor([self.tokenizer.encode(str(request.text), request.src_lang or "")], device=self.device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs |= {"tgt_lang": request.tgt_lang, "text_num_beams": beams}
        tokens = self.model.generate(**inputs, generate_speech=False)[0].flatten()[2:].tolist()
        text = self.tokenizer.decode(tokens)
        if request.task not in SYNTHESIZING or not text:  # transformers fails on speech without a character
            return Answer(text, tokens, None, [] if request.task in SYNTHESIZING else None)
        inputs |= {"speaker_id": request.speaker_id or 0, "return_intermediate_token_ids": True}
        output, config = self.model.generate(**inputs), self.model.config
        samples = output.waveform.flatten()[: int(output.waveform_lengths)].float().cpu().numpy()
        units = output.unit_sequences.flatten()
        units = units[(units != config.t2u_pad_token_id) & (units != config.t2u_eos_token_id)] - config.vocoder_offset
        return Answer(text, tokens, samples, units.tolist())


def read_manifest(path: Path, limit: int | None) -> list[dict[str, Any]]:
    items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for item in items:
        if "audio" in item:
            item["audio"] = str(path.parent / item["audio"])
    return items[:limit]


def request(task: str, item: dict[str, Any]) -> tuple[Request, str] | None:
    """What is asked and the right answer; None if the item lacks a field that the task needs."""
    lang, wanted = ("src_lang", "text") if task == "asr" else ("tgt_lang", "translation")
    source = "text" if task.startswith("t") else "audio"
    if not all(item.get(field) for field in (lang, wanted, source)):
        return None
    fields: dict[str, Any] = {"speaker_id": item.get("speaker_id")} if task in SYNTHESIZING else {}
    if source == "text":
        fields["src_lang"] = item["src_lang"]
    return Request(task, item[lang], **{source: item[source]}, **fields), item[wanted]


def plain(text: str) -> str:
    """Without case and punctuation."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in unicodedata.normalize("NFKC", text).lower())
    return " ".join("".join(kept).split())


def figures(wanted: list[str], said: list[str]) -> tuple[float, float, float, float]:
    """WER, exact matches, BLEU, chrF, all in per cent."""
    exact = sum(a == b for a, b in zip(wanted, said, strict=True)) / len(wanted)
    bleu, chrf = sacrebleu.corpus_bleu(said, [wanted]).score, sacrebleu.corpus_chrf(said, [wanted]).score
    return 100 * float(jiwer.wer(wanted, said)), 100 * exact, bleu, chrf


def shared_units(items: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> float | str:
    """Share in per cent of the reference's units that the answers have too, in order; "" without references."""
    both = [(item.get("units"), answer.units) for item, answer in zip(items, answers, strict=True)]
    pairs = [(right, found) for right, found in both if right and found is not None]
    total = sum(len(right) for right, _ in pairs)
    return 100 * sum(LCSseq.similarity(right, found) for right, found in pairs) / total if total else ""


def heard_back(backend: Ours | Theirs, asked: Sequence[Request], answers: Sequence[Answer], beams: int) -> list[str]:
    """What the checkpoint itself recognises in the speech of the answers; "" where there is too little speech."""
    said = [""] * len(answers)
    waves = {i: a.audio for i, a in enumerate(answers) if a.audio is not None and len(a.audio) >= MIN_SAMPLES}
    again = [Request("asr", asked[i].tgt_lang, audio=wave, sampling_rate=16000) for i, wave in waves.items()]
    for i, answer in zip(waves, backend(again, beams), strict=True):
        said[i] = answer.text
    return said


def measure(
    backend: Ours | Theirs, items: list[dict[str, Any]], tasks: Sequence[str], beams: int, normalise: bool = False
) -> tuple[list[tuple[Any, ...]], list[dict[str, Any]]]:
    """Rows of the table, and every answer beside what was wanted."""
    rows: list[tuple[Any, ...]] = []
    details: list[dict[str, Any]] = []
    for task in tasks:
        asked = [(item, *made) for item in items if (made := request(task, item))]
        if not asked:
            continue
        able, requests, wanted = map(list, zip(*asked, strict=True))
        answers = backend(requests, beams)
        said = [answer.text for answer in answers]
        if task in SYNTHESIZING:
            said = heard_back(backend, requests, answers, beams)
        if normalise:
            wanted, said = [plain(text) for text in wanted], [plain(text) for text in said]
        langs = [ask.tgt_lang for ask in requests]
        for lang in [*sorted(set(langs)), "all"]:
            mine = [i for i, code in enumerate(langs) if lang in (code, "all")]
            part = figures([wanted[i] for i in mine], [said[i] for i in mine])
            rows.append(
                (task, lang, len(mine), *part, shared_units([able[i] for i in mine], [answers[i] for i in mine]))
            )
        for lang, right, text, answer in zip(langs, wanted, said, answers, strict=True):
            details.append({"task": task, "tgt_lang": lang, "wanted": right, "said": text, "written": answer.text})
    return rows, details


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder or hub id")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--limit", type=int, help="only the first lines of the manifest")
    parser.add_argument("--normalise", action="store_true", help="case and punctuation do not count")
    parser.add_argument("--backend", choices=("engine", "transformers"), default="engine")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16")
    parser.add_argument("--int8", nargs="+", choices=INT8_MODULES, default=(), help="modules in 8 bits; of the engine")
    parser.add_argument("--out", type=Path, help="JSON file for the table and every answer")
    args = parser.parse_args()
    where, items = (args.checkpoint, args.device, args.dtype), read_manifest(args.manifest, args.limit)
    backend = Ours(*where, args.int8) if args.backend == "engine" else Theirs(*where)
    rows, details = measure(backend, items, args.tasks, args.beams, args.normalise)
    print_table(HEADER, rows)
    if args.out:
        settings = {name: getattr(args, name) for name in ("beams", "backend", "dtype", "int8")}
        settings["manifest"] = args.manifest.name
        facts = machine("cuda" if torch.cuda.is_available() else "cpu")
        table = [dict(zip(HEADER, row, strict=True)) for row in rows]
        write_json(args.out, {"machine": facts, "settings": settings, "figures": table, "answers": details})


if __name__ == "__main__":
    main()
