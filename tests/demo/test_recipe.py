"""The steps of the recipe fit each other, and it writes a checkpoint for the engine and for transformers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import support.repository  # noqa: F401
from demo.train import export, ship, tokens
from demo.train.clips import Clip, audio, clip, features
from demo.train.network import FIRST_UNIT, UNITS, Translator, build
from demo.train.progress import Progress, seeded
from demo.train.speech_text import LETTERS, RISE, learning_rate
from demo.train.t2u import Timed, UnitModel, labels
from demo.train.units import FRAME, Sentence, carried, log_mel, synthesize
from demo.train.vocoder import vocode
from demo.train.voices import SPEAKERS, VARIANTS, Espeak
from demo.train.words import LANGUAGES
from seamless_engine import Engine, Request
from support.snippets import ROOT

WORDS = {"eng": "eight hundred", "fra": "huit cents", "deu": "achthundert", "spa": "ochocientos"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after the first step, with fewer sentences."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "CONCEPTS", 1500)
        patch.setattr(sys, "argv", ["tokens", "--work", str(folder)])
        tokens.main()
    return folder


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    return Espeak()


def test_clip_has_silences_of_its_own(espeak: Espeak):
    leads = set()
    for index in range(8):
        one = clip("train", index)
        assert one == clip("train", index) and isinstance(one, Clip)
        wave = audio(espeak, one)
        assert np.abs(wave).max() > 0.03 and len(features(wave)) == (1 + (len(wave) - 400) // 160) // 2
        leads.add(int(np.argmax(np.abs(wave) > 0.25 * np.abs(wave).max())) // 160)
    assert len(leads) > 4


def test_espeak_gives_the_same_samples_in_every_process():
    """Voices with breath use noise, by default of a seed that changes from second to second."""
    code = """
import zlib
from demo.train.voices import VARIANTS, Espeak
espeak = Espeak()
for variant in VARIANTS:
    print(zlib.crc32(espeak.say("nine hundred and eighteen", "en-us" + variant, 150).samples.tobytes()))
"""
    said = []
    for _ in range(2):
        said.append(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True))
        time.sleep(1.1)
    assert said[0].stdout == said[1].stdout and said[0].stdout.count("\n") == len(VARIANTS)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_carried_takes_units_from_the_same_place_in_the_same_phoneme(espeak: Espeak, lang: str):
    first, second = (synthesize(espeak, WORDS[lang], lang, speaker) for speaker in range(len(SPEAKERS)))
    places = carried(first, second)
    assert places is not None and len(places) == len(second.samples) // FRAME
    assert (np.diff(places) >= 0).all() and places[-1] == len(log_mel(first.samples)) - 1
    assert carried(first, first) is not None and (carried(first, first) == np.arange(len(first.samples) // FRAME)).all()
    assert carried(first, synthesize(espeak, "no", lang, 1)) is None


def test_hear_keeps_padding_out_of_the_shorter_clip(work: Path):
    torch.manual_seed(0)
    net = Translator(build(made := tokens.Tokens(work), 64), made).eval()
    x = torch.randn(2, 40, 160)
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, 24:] = 0
    with torch.no_grad():
        both, which = net.hear(x * mask[..., None], mask)
        alone, _ = net.hear(x[1:, :24], mask[1:, :24])
    assert which.sum(1).tolist() == [6, 4]
    torch.testing.assert_close(both[1, :4], alone[0], atol=1e-4, rtol=1e-4)


def test_unit_model_makes_units_for_the_given_durations(work: Path):
    model = build(made := tokens.Tokens(work), 64)
    units = UnitModel(model, Translator(model, made).eval())
    rng = np.random.default_rng(0)
    batch = []
    for lang in LANGUAGES:
        sentence = Sentence(("number", 800), lang, 0, np.zeros(0, int), np.zeros(0, np.float32))
        lasting = rng.integers(1, 5, len(sentence.text) + 1)
        spoken = rng.integers(0, UNITS, lasting.sum())
        batch.append(Timed(sentence._replace(units=spoken), lasting))
    logits, durations = units(batch, list(LANGUAGES))
    wanted = labels(batch, torch.device("cpu"))
    assert logits.shape[:2] == wanted.shape
    assert [int(row.sum()) for row in durations] == [len(timed.sentence.units) for timed in batch]
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=-100)
    (loss + units.said.square().mean()).backward()
    without = [name for name, weight in units.named_parameters() if weight.grad is None]
    assert not without


def test_training_in_pieces_equals_training_in_one_run(tmp_path: Path):
    def train(folder: Path, pieces: list[int]) -> torch.Tensor:
        for end in pieces:
            folder.mkdir(exist_ok=True)
            torch.manual_seed(5)
            net = torch.nn.Linear(4, 1)
            optimiser = torch.optim.AdamW(net.parameters(), lr=0.1)
            progress = Progress(folder, "toy", 1.0, net=net, optimiser=optimiser)
            while progress.step < end:
                seeded(0, progress.step)
                loss = net(torch.randn(8, 4)).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                progress.step += 1
            progress.end(end == pieces[-1])
            assert (folder / "toy.done").exists() == (end == pieces[-1])
        return net.weight.detach()

    assert torch.equal(train(tmp_path / "one", [9]), train(tmp_path / "pieces", [2, 3, 9]))


def test_progress_writes_no_point_of_the_curve_twice_after_a_kill(tmp_path: Path):
    def progress() -> Progress:
        return Progress(tmp_path, "toy", 1.0)

    killed = progress()
    for killed.step in (1, 2, 3):
        killed.write(figure=killed.step)
        if killed.step == 2:
            killed.save(now=True)
    again = progress()
    assert again.step == 2
    again.step = 3
    again.write(figure=3)
    rows = (tmp_path / "toy.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "1", "2", "3"]


def test_learning_rate_rises_stays_and_falls():
    top = learning_rate(300, LETTERS / 2, 20.0)
    assert learning_rate(0, 0.0, 20.0) < learning_rate(100, 0.1, 20.0) < top
    assert 0 < learning_rate(600, LETTERS, 20.0) < learning_rate(650, LETTERS + RISE / 2, 20.0) < top
    assert learning_rate(900, LETTERS + RISE, 20.0) == top > learning_rate(3000, 15.0, 20.0) > 0
    assert 0 < learning_rate(4000, 20.0, 20.0) < 0.1 * top


def test_export_writes_a_checkpoint_for_the_engine_and_for_transformers(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["export", "--work", str(work), "--out", str(tmp_path), "--hidden", "64"])
    export.main()
    assert capsys.readouterr().out.count("not trained yet") == 3
    model, problems = transformers.SeamlessM4Tv2Model.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
        tmp_path, output_loading_info=True
    )
    assert not any(problems.values())
    engine = Engine.from_pretrained(tmp_path, device="cpu", dtype="float32")
    assert set(engine.languages("t2st")) == set(LANGUAGES)
    requests = [Request("t2tt", lang, text=WORDS[lang], src_lang=lang) for lang in LANGUAGES]
    assert all(result.error is None for result in engine.generate(requests))
    units = torch.arange(UNITS).view(1, -1)
    speaker, lang = torch.tensor([1]), torch.tensor([2])
    with torch.no_grad():
        ours = vocode(model, units, speaker, lang)
        theirs, _ = model.vocoder(input_ids=units + FIRST_UNIT, speaker_id=speaker[:, None], lang_id=lang[:, None])
    torch.testing.assert_close(ours, theirs)  # in training every unit lasts one frame: here too


def test_ship_takes_three_clips_of_each_language_and_keeps_the_human_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    work, made, demo = tmp_path / "work", tmp_path / "made", tmp_path / "demo"
    for folder in (work / "test", made, demo / "checkpoint", demo / "audio"):
        folder.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "figures.json").write_text('{"figures": [1], "answers": ["long"]}')
    (work / "heldout.jsonl").write_text("{}\n")
    (work / "t2u.csv").write_text("step\n")
    lines = []
    for index, lang in enumerate([*LANGUAGES] * 4):
        (work / "test" / f"{index}.wav").write_text(str(index))
        item = {"audio": f"{index}.wav", "src_lang": lang, "text": "x", "tgt_lang": "eng", "translation": "y"}
        lines.append(json.dumps(item))
    (work / "test" / "manifest.jsonl").write_text("\n".join(lines))
    (demo / "audio" / "texts.tsv").write_text("old.wav\teng\ta\tfra\tb\nhuman.wav\teng\tc\tfra\t\n")
    for name in ("old.wav", "human.wav"):
        (demo / "audio" / name).write_text(name)
    monkeypatch.setattr(sys, "argv", ["ship", "--work", str(work), "--checkpoint", str(made), "--demo", str(demo)])
    ship.main()
    rows = [line.split("\t") for line in (demo / "audio" / "texts.tsv").read_text().splitlines()]
    assert [row[1] for row in rows[:-1]] == [lang for lang in LANGUAGES for _ in range(3)]
    assert rows[-1] == ["human.wav", "eng", "c", "fra", ""]
    assert {path.name for path in (demo / "audio").glob("*.wav")} == {row[0] for row in rows}
    assert {path.name for path in (demo / "checkpoint").iterdir()} == {
        "config.json",
        "figures.json",
        "training-t2u.csv",
    }
    assert json.loads((demo / "checkpoint" / "figures.json").read_text()) == {"figures": [1]}
