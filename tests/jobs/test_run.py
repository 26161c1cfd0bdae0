"""`run` and `merge`: their files equal what the API gives, and a second run does only what is left."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
import soundfile
import torch

from seamless_engine import DecodingParams, Engine, Request
from seamless_engine.audio_output import encode_audio
from seamless_engine.cli import main
from seamless_engine.jobs.fingerprint import fingerprint
from seamless_engine.jobs.names import file_stem
from support.checkpoint import write_changed
from support.jobs import outcome, read, write_lines

Command = Callable[..., list[str]]
Captured = pytest.CaptureFixture[str]
DEMO = Path(__file__).resolve().parents[2] / "demo"
CLIP = DEMO / "audio" / "1-eng.wav"
HOSTILE_IDS = (
    "../../up",
    "/etc/passwd",
    "..",
    ".",
    ".hidden",
    "a/b",
    "a\\b",
    "nul\0",
    "~",
    "%2E",
    "ü/日本",
    "x" * 4000,
)

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def texts(model: str, tmp_path: Path, out: Path) -> Callable[..., int]:
    """`texts(entries, *more)`: the exit code of a job over a manifest with these lines."""

    def run(entries: list[object], *more: str) -> int:
        path = write_lines(tmp_path / "texts.jsonl", entries)
        fixed = ["--task", "t2tt", "--src_lang", "eng", "--tgt_lang", "fra", "--max_new_tokens", "8"]
        return main(["run", path, *fixed, "--model", model, "--output_dir", str(out), *more])

    return run


def test_run_writes_what_the_api_answers(loaded: Engine, model: str, out: Path, tmp_path: Path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "one.wav").write_bytes(CLIP.read_bytes())
    tasks = "asr:eng,s2tt:fra,s2st:deu"
    arguments = ["run", str(tmp_path / "clips"), "--task", tasks, "--model", model, "--output_dir", str(out)]
    assert main([*arguments, "--num_beams", "2", "--max_new_tokens", "12", "--speaker_id", "1"]) == 0
    lines = {line["task"]: line for line in read(out, "results.jsonl")}
    for task, language in (("asr", "eng"), ("s2tt", "fra"), ("s2st", "deu")):
        voice = 1 if task == "s2st" else None
        params = DecodingParams(num_beams=2, max_new_tokens=12)
        asked = Request(task, language, audio=CLIP, segment="auto", speaker_id=voice, params=params)
        known, line = loaded.generate(asked).to_json(), lines[task]
        assert (line["id"], line["tgt_lang"]) == ("one.wav", language)
        for name in ("text", "segments", "audio_seconds", "score", "finish_reason", "warnings"):
            assert line[name] == known[name]
    spoken = loaded.generate(asked)
    assert spoken.audio is not None and spoken.sampling_rate is not None
    assert lines["s2st"]["audio"] == "audio/one.wav.s2st.deu.wav" and lines["asr"]["audio"] is None
    assert (out / lines["s2st"]["audio"]).read_bytes() == encode_audio(".wav", spoken.audio, spoken.sampling_rate)
    assert lines["asr"]["input"] == {"audio": str(tmp_path / "clips" / "one.wav")}
    facts = json.loads((out / "run.json").read_text())
    assert (facts["state"], facts["results"], facts["errors"]) == ("done", 3, 0)
    assert facts["audio_seconds"] == sum([known["audio_seconds"]] * 3)


def test_run_writes_hypotheses_and_probabilities_that_were_asked_for(
    loaded: Engine, texts: Callable[..., int], out: Path
):
    params = {"num_beams": 3, "num_return_sequences": 2, "return_token_logprobs": True, "max_new_tokens": 8}
    entries: list[object] = [{"id": "a", "text": "Good morning!", "params": params}, {"id": "b", "text": "a"}]
    assert texts(entries, "--segment", "never") == 0
    asked, plain = sorted(read(out, "results.jsonl"), key=lambda line: line["id"])
    request = Request("t2tt", "fra", text="Good morning!", src_lang="eng", params=DecodingParams(**params))
    known = loaded.generate(request)
    assert asked["token_logprobs"] == known.token_logprobs
    assert [(one["text"], one["score"]) for one in asked["n_best"]] == [(one.text, one.score) for one in known.n_best]
    assert not {"n_best", "token_logprobs"} & plain.keys()


def test_run_keeps_every_item_in_results_or_in_errors(command: Command, out: Path):
    assert main(command(out)) == 1
    results, errors = read(out, "results.jsonl"), read(out, "errors.jsonl")
    assert len({(line["id"], line["task"], line["tgt_lang"]) for line in [*results, *errors]}) == 60
    assert sorted((line["place"], line["id"], line["kind"]) for line in errors) == [
        ("list.jsonl:11", "list.jsonl:11", "manifest"),
        ("list.jsonl:12", "none", "usage"),
        ("list.jsonl:13", "list.jsonl:13", "duplicate_id"),
        ("list.jsonl:31", "list.jsonl:31", "manifest"),
        ("list.jsonl:32", "x", "usage"),
        ("list.jsonl:33", "y", "unknown_language"),
    ]


def test_run_again_loads_no_model_and_tries_only_what_failed(
    command: Command, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
):
    assert main(command(out)) == 1
    expected = outcome(out)
    monkeypatch.delattr(Engine, "from_pretrained")
    assert main(command(out)) == 1
    assert "done before  54" in capsys.readouterr().err
    assert outcome(out) == expected
    assert main(command(out, "--keep_errors")) == 0
    assert "done before  60" in capsys.readouterr().err
    assert outcome(out) == expected


def test_run_answers_what_was_added_or_mended(texts: Callable[..., int], out: Path):
    broken = {"id": "b", "text": "a", "tgt_lang": "xxx"}
    assert texts([{"id": "a", "text": "a"}, broken]) == 1
    assert texts([{"id": "c", "text": "a"}, {"id": "a", "text": "a"}, broken | {"tgt_lang": "deu"}]) == 0
    assert [line["id"] for line in read(out, "results.jsonl")][0] == "a"
    assert sorted(line["id"] for line in read(out, "results.jsonl")) == ["a", "b", "c"]
    assert (out / "errors.jsonl").read_bytes() == b""


def test_run_refuses_other_options_and_names_them(texts: Callable[..., int], out: Path, capsys: Captured):
    entries: list[object] = [{"id": "a", "text": "Good morning!"}]
    assert texts(entries) == 0
    before = outcome(out)
    assert texts(entries, "--num_beams", "2") == 2
    assert "other options (decoding.num_beams was 1 and is now 2)" in capsys.readouterr().err
    assert outcome(out) == before
    assert texts(entries, "--num_beams", "2", "--overwrite") == 0
    assert outcome(out) != before and len(read(out, "results.jsonl")) == 1


def test_run_says_that_an_entry_changed_and_keeps_its_result(texts: Callable[..., int], out: Path, capsys: Captured):
    assert texts([{"id": "a", "text": "a"}, {"id": "b", "text": "b"}]) == 0
    before = outcome(out)
    assert texts([{"id": "a", "text": "changed"}, {"id": "b", "text": "b"}]) == 1
    assert "changed      1 entries say other things" in capsys.readouterr().err
    assert outcome(out) == before


def test_run_takes_a_limit_of_items_and_goes_on_without_it(texts: Callable[..., int], out: Path):
    entries: list[object] = [{"id": str(index), "text": "a"} for index in range(5)]
    assert texts(entries, "--limit", "2") == 0
    assert [line["id"] for line in read(out, "results.jsonl")] == ["0", "1"]
    assert texts(entries) == 0
    assert sorted(line["id"] for line in read(out, "results.jsonl")) == ["0", "1", "2", "3", "4"]
    facts = json.loads((out / "run.json").read_text())
    assert facts["results"] == 5 and [run["results"] for run in facts["runs"]] == [2, 3]


def test_run_goes_on_where_files_cannot_be_locked(
    texts: Callable[..., int], out: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert texts([{"id": "a", "text": "a"}]) == 0
    assert "cannot be locked (Function not implemented)" in capsys.readouterr().err


def test_merge_of_shards_equals_the_job_as_a_whole(command: Command, tmp_path: Path, out: Path, capsys: Captured):
    assert main(command(tmp_path / "whole")) == 1
    for shard in ("1/3", "2/3", "3/3"):
        assert main(command(out, "--shard", shard)) in (0, 1)
    assert min(len(read(out, f"results-{k}-of-3.jsonl")) for k in (1, 2, 3)) > 5
    assert main(["merge", str(out)]) == 0
    assert outcome(out) == outcome(tmp_path / "whole")
    assert main(["merge", str(out)]) == 0  # the merged files are among the inputs now
    assert "54 results, 6 errors, 54 repeated" in capsys.readouterr().err
    assert outcome(out) == outcome(tmp_path / "whole")
    facts = json.loads((out / "run.json").read_text())
    assert (facts["state"], facts["results"], facts["errors"], facts["merged"]) == ("done", 54, 6, 3)
    assert sum(run["results"] for run in facts["runs"]) == 54


def test_merge_again_forgets_errors_that_were_mended(
    texts: Callable[..., int], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    entries = [{"id": str(index), "text": "a", "tgt_lang": "xxx"} for index in range(4)]
    for wanted in ([4, 0], [0, 4]):
        for shard in ("1/2", "2/2"):
            texts(list(entries), "--shard", shard, "--output_dir", "out")
        assert main(["merge", "out"]) == 0
        assert [len(read(out, name)) for name in ("errors.jsonl", "results.jsonl")] == wanted
        entries = [entry | {"tgt_lang": "deu"} for entry in entries]


def test_merge_joins_folders_and_leads_to_their_speech(
    texts: Callable[..., int], out: Path, tmp_path: Path, capsys: Captured
):
    entry = {"id": "a", "text": "Good morning!", "task": "t2st"}
    assert texts([entry]) == 0
    assert texts([entry | {"id": "b"}], "--output_dir", str(tmp_path / "other")) == 0
    joined = tmp_path / "deep" / "joined"
    assert main(["merge", str(out), str(tmp_path / "other"), "--output_dir", str(joined)]) == 0
    lines = read(joined, "results.jsonl")
    assert [line["id"] for line in lines] == ["a", "b"]
    assert all(soundfile.info(joined / line["audio"]).frames for line in lines)
    assert texts([entry | {"text": "Where?"}], "--output_dir", str(tmp_path / "differs")) == 0
    assert main(["merge", str(out), str(tmp_path / "differs")]) == 2
    assert "'a' (t2st, fra) was answered twice, from entries that differ" in capsys.readouterr().err
    assert texts([entry], "--output_dir", str(tmp_path / "beams"), "--num_beams", "2") == 0
    assert main(["merge", str(out), str(tmp_path / "beams")]) == 2
    assert "results of other options" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "deep")]) == 2
    assert "no results.jsonl" in capsys.readouterr().err


def test_run_writes_no_file_outside_of_its_folder(texts: Callable[..., int], tmp_path: Path, out: Path):
    entries: list[object] = [{"id": id, "text": "a", "task": "t2st"} for id in HOSTILE_IDS]
    before = {path for path in tmp_path.rglob("*")}
    assert texts(entries, "--formats", "txt") == 0
    lines = read(out, "results.jsonl")
    assert {line["id"] for line in lines} == set(HOSTILE_IDS)
    assert len({line["audio"] for line in lines}) == len(HOSTILE_IDS)
    assert len(list((out / "txt").iterdir())) == len(list((out / "audio").iterdir())) == len(HOSTILE_IDS)
    for line in lines:
        assert os.path.dirname(line["audio"]) == "audio" and (out / line["audio"]).is_file()
    assert {path for path in tmp_path.rglob("*")} - before <= {out, tmp_path / "texts.jsonl", *out.rglob("*")}


def test_run_answers_clips_whose_names_are_no_text(model: str, out: Path, tmp_path: Path):
    folder = os.fsencode(tmp_path / "clips")
    os.mkdir(folder)
    for name in (b"bad\xff.wav", "gut\n\u2028\u00e4.wav".encode()):
        Path(os.fsdecode(os.path.join(folder, name))).write_bytes(CLIP.read_bytes())
    options = ["--task", "s2st:fra", "--model", model, "--output_dir", str(out), "--max_new_tokens", "8"]
    assert main(["run", str(tmp_path / "clips"), *options]) == 0
    assert [line["id"] for line in read(out, "results.jsonl")] == ["bad\\xff.wav", "gut\n\u2028\u00e4.wav"]


def test_fingerprint_tells_checkpoints_apart_wherever_they_are(model: str, tmp_path: Path):
    def ruin(tensors: dict[str, torch.Tensor]) -> None:
        tensors["text_decoder.layer_norm.bias"][0] += 1.0

    same = write_changed(Path(model), tmp_path / "same", lambda tensors: None)
    other = write_changed(Path(model), tmp_path / "other", ruin)
    (same / "README.md").write_text("not read")
    assert fingerprint(same) != fingerprint(other)
    assert fingerprint(same) == fingerprint(same.rename(tmp_path / "moved"))
    with open(tmp_path / "moved" / "large.safetensors", "wb") as file:
        file.truncate(1 << 40)
    before = fingerprint(tmp_path / "moved")
    with open(tmp_path / "moved" / "large.safetensors", "r+b") as file:
        file.write(b"header")
    assert fingerprint(tmp_path / "moved") != before


def test_file_stem_can_be_turned_back_into_the_id():
    for id in HOSTILE_IDS[:-1]:
        stem = file_stem(id, "s2st", "cmn_Hant")
        assert unquote(stem.removesuffix(".s2st.cmn_Hant")) == id
        assert "/" not in stem and not stem.startswith(".") and len(stem.encode()) < 200
    assert file_stem("x" * 4000, "asr", "eng") != file_stem("x" * 4001, "asr", "eng")


def test_run_writes_formats_also_for_what_was_done_before(model: str, out: Path, tmp_path: Path):
    arguments = ["run", str(CLIP), "--task", "asr", "--tgt_lang", "eng", "--model", model, "--output_dir", str(out)]
    assert main([*arguments, "--max_new_tokens", "8"]) == 0
    assert main([*arguments, "--max_new_tokens", "8", "--formats", "srt,vtt,tsv,txt,json"]) == 0
    [line] = read(out, "results.jsonl")
    text, end = " ".join(line["text"].split()), round(line["audio_seconds"] * 1000)
    clock = f"00:00:{end // 1000:02d}{{}}{end % 1000:03d}"

    def written(format: str) -> str:
        return (out / format / f"1-eng.wav.asr.eng.{format}").read_text(encoding="utf-8")

    assert written("txt") == f"{line['text']}\n"
    assert written("srt") == f"1\n00:00:00,000 --> {clock.format(',')}\n{text}\n"
    assert written("vtt") == f"WEBVTT\n\n00:00:00.000 --> {clock.format('.')}\n{text}\n"
    assert written("tsv") == f"start\tend\ttext\n0\t{end}\t{text}\n"
    assert json.loads(written("json")) == line


def test_run_reads_a_text_on_each_line_of_stdin(
    texts: Callable[..., int], model: str, out: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n\ntwo\r\n")))
    options = ["--task", "t2tt:fra", "--src_lang", "eng", "--model", model, "--output_dir", str(out)]
    assert main(["run", "-", *options, "--max_new_tokens", "8"]) == 0
    assert [
        (line["id"], line["input"]) for line in sorted(read(out, "results.jsonl"), key=lambda line: line["id"])
    ] == [
        ("stdin:1", {"text": "one"}),
        ("stdin:3", {"text": "two"}),
    ]


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_run_takes_options_from_a_file_and_the_command_line_wins(
    suffix: str, texts: Callable[..., int], tmp_path: Path, out: Path
):
    options = {
        "num_beams": 3,
        "max_new_tokens": 5,
        "int8": ["text_decoder"],
        "segment": "never",
        "engine_max_new_tokens": 99,
    }
    path = tmp_path / f"job.{suffix}"
    path.write_text(
        "\n".join(f"{k} = {json.dumps(v)}" for k, v in options.items()) if suffix == "toml" else json.dumps(options)
    )
    assert texts([{"id": "a", "text": "a"}], "--config", str(path), "--num_beams", "2") == 0
    used = json.loads((out / "run.json").read_text())["options"]
    assert (used["decoding"]["num_beams"], used["decoding"]["max_new_tokens"]) == (2, 8)
    assert (used["int8"], used["segmentation"]) == (["text_decoder"], None)


def test_check_tells_what_is_wrong_and_runs_nothing(
    command: Command, model: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
):
    monkeypatch.delattr(Engine, "from_pretrained")
    assert main(command(out, "--check")) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 6 and "54 items are right, 6 are not" in said.err
    assert said.out.splitlines()[2] == "list.jsonl:13: duplicate_id: an entry before has the id 'dir/1' too"
    (tmp_path / "no.wav").write_bytes(b"no sound")
    entries = [{"audio": str(CLIP)}, {"audio": "gone.wav"}, {"audio": "no.wav"}, {"audio": str(CLIP), "offset": 99}]
    path = write_lines(tmp_path / "clips.jsonl", entries)
    assert main(["run", path, "--task", "asr:eng,s2tt:fra", "--model", model, "--check"]) == 1
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"clips.jsonl:{number}" for number in (2, 2, 3, 3, 4, 4)
    ]
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--tgt_lang", "xxx"], 2, "t2tt cannot write 'xxx'"),
        (["--task", "t2tt:fra,asr:xxx"], 2, "asr cannot write 'xxx'"),
        (["--task", "sing"], 2, "unknown task 'sing'"),
        (["--task", "t2st", "--speaker_id", "99"], 2, "speaker_id 99: this checkpoint has 0 to"),
        (["--num_beams", "0"], 2, "num_beams must be between"),
        (["--max_num_seqs", "many"], 2, "max_num_seqs must be an integer"),
        (["--int8", "text_decoder,vocoder"], 2, "int8 must be a list of modules"),
        (["--segment", "perhaps"], 2, "--segment is auto, always or never"),
        (["--segmentation", "{"], 2, "--segmentation is no JSON"),
        (["--segmentation", '{"paddings": 1}'], 2, "segmentation has no 'paddings'"),
        (["--segment", "never", "--segmentation", '{"pad": 1}'], 2, "leaves nothing to --segmentation"),
        (["--num_beams", "2", "--num_return_sequences", "2"], 2, "needs --segment never"),
        (["--shard", "3/2"], 2, "--shard is k/n"),
        (["--shard", "one"], 2, "--shard is k/n"),
        (["--limit", "-1"], 2, "limit must be a number from 0 on"),
        (["--formats", "txt,doc"], 2, "--formats knows txt, srt, vtt, tsv, json, not 'doc'"),
        (["--audio_format", "mp3"], 2, "--audio_format is wav or flac"),
        (["--config", "gone.toml"], 2, "gone.toml cannot be read: No such file"),
        (["--device", "abacus"], 2, "abacus"),
        (["--dtype", "float8"], 2, "float8"),
        (["--model", "no/such/folder"], 3, "no/such/folder is not a folder"),
    ],
)
def test_run_refuses_before_the_model_is_loaded(
    arguments: list[str],
    code: int,
    message: str,
    texts: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
):
    monkeypatch.delattr(Engine, "from_pretrained")
    assert texts([{"id": "a", "text": "a"}], *arguments) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.jsonl", "--task", "asr:eng"], "gone.jsonl does not exist"),
        ([str(CLIP), "--task", "asr:eng,t2tt:fra"], "t2tt needs text, and one of the inputs is no such thing"),
        (["-", "--task", "s2tt:fra"], "s2tt needs audio, and one of the inputs is no such thing"),
        ([str(CLIP)], "--task is needed"),
        ([str(CLIP), "--task", "s2tt"], "s2tt needs the language to produce"),
        (["-", "--task", "t2tt:fra"], "t2tt needs src_lang"),
    ],
)
def test_run_refuses_inputs_that_do_not_go_with_the_task(
    arguments: list[str], message: str, model: str, out: Path, capsys: Captured
):
    assert main(["run", *arguments, "--model", model, "--output_dir", str(out)]) == 2
    assert message in capsys.readouterr().err
