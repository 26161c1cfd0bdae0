"""The quality benchmark counts what it says it counts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import support.repository  # noqa: F401
from seamless_engine import Request
from support.snippets import ROOT
from tools import quality
from tools.quality import Answer, figures, measure, plain, request, shared_units

ITEM = {"audio": "a.wav", "src_lang": "eng", "text": "one", "tgt_lang": "fra", "translation": "un", "speaker_id": 1}


def test_figures_of_right_and_of_wrong_answers():
    right = ["one two three four", "five six seven eight"]
    assert figures(right, right) == pytest.approx((0, 100, 100, 100))
    rate, exact, bleu, chrf = figures(right, ["one two three", "five six seven eight"])
    assert (rate, exact) == pytest.approx((100 / 8, 50))
    assert 0 < bleu < 100 and 0 < chrf < 100


def test_case_and_punctuation_do_not_count_in_plain_text():
    assert plain("  Où est l'Hôtel, s’il vous plaît ?") == plain("où est l hôtel s il vous plaît")


def test_each_task_asks_for_its_own_fields():
    made = {task: request(task, ITEM) for task in quality.TASKS}
    for task, pair in made.items():
        assert pair is not None
        ask, wanted = pair
        assert (ask.tgt_lang, wanted) == (("eng", "one") if task == "asr" else ("fra", "un"))
        assert (ask.audio is None) == task.startswith("t")
        assert ask.speaker_id == (1 if task in ("t2st", "s2st") else None)
    without = {key: value for key, value in ITEM.items() if key != "audio"}
    assert [task for task in quality.TASKS if request(task, without)] == ["t2tt", "t2st"]


def test_units_are_counted_in_order_after_alignment():
    answers = [Answer("", [], None, units) for units in ([1, 2, 9, 3], None, [])]
    items = [{"units": [1, 2, 3, 4]}, {"units": [1]}, {"units": [5, 6]}]
    assert shared_units(items, answers) == pytest.approx(100 * 3 / 6)
    assert shared_units([{}], answers[:1]) == ""


def test_speech_is_judged_by_what_is_heard_back():
    def backend(requests: Sequence[Request], beams: int) -> list[Answer]:
        assert beams == 3
        return [
            Answer("heard", [], None, None)
            if ask.task == "asr"
            else Answer("un", [], np.zeros(999 * (i % 2), np.float32), [])
            for i, ask in enumerate(requests)
        ]

    rows, details = measure(backend, [ITEM, ITEM], ["t2st"], 3)  # pyright: ignore[reportArgumentType]
    assert [row[:3] for row in rows] == [("t2st", "fra", 2), ("t2st", "all", 2)]
    assert [(d["said"], d["written"]) for d in details] == [("", "un"), ("heard", "un")]  # nothing to hear in the first


@pytest.mark.parametrize("backend", ["engine", "transformers"])
def test_a_table_and_a_file_for_a_checkpoint_and_a_manifest(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "figures.json"
    given = f"--checkpoint {ROOT}/demo/checkpoint --manifest {ROOT}/demo/heldout.jsonl --limit 2 --beams 2 --out {out}"
    monkeypatch.setattr(sys, "argv", ["quality", *given.split(), "--backend", backend, "--tasks", "t2tt", "t2st"])
    quality.main()
    assert len(capsys.readouterr().out.splitlines()) == 8  # a header, two languages and all of each task, the file
    content = json.loads(out.read_text())
    assert [row["n"] for row in content["figures"]] == [1, 1, 2] * 2
    assert all(row["exact %"] == 100 for row in content["figures"] if row["task"] == "t2tt")
