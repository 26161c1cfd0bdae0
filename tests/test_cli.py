"""The command line: its output on stdout equals that of the API, and its exit codes."""

from __future__ import annotations

import dataclasses
import fnmatch
import io
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import soundfile
import torch

from seamless_engine import DecodingParams, Engine, Request, Result
from seamless_engine.cli import main
from seamless_engine.model_runner import ModelRunner
from seamless_engine.request import TASKS
from support.checkpoint import write_changed

DEMO = Path(__file__).resolve().parents[1] / "demo"
MODEL = ["--model", str(DEMO / "checkpoint")]
CLIP = str(DEMO / "audio" / "1-eng.wav")
TEXT = "six cent quarante-deux"
S2ST = ["--task", "s2st", "--tgt_lang", "fra", *MODEL]
ASR = ["--task", "asr", "--tgt_lang", "eng", *MODEL]
T2TT = ["--task", "t2tt", "--src_lang", "fra", "--tgt_lang", "eng", *MODEL]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.from_pretrained(DEMO / "checkpoint")


@pytest.fixture
def loaded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands use an engine that is already loaded."""
    monkeypatch.setattr(Engine, "from_pretrained", lambda *args, **kwargs: engine)


def test_translate_prints_the_text_of_the_api_and_nothing_else(engine: Engine, capsys: pytest.CaptureFixture[str]):
    [result] = engine.generate([Request("t2tt", "eng", text=TEXT, src_lang="fra")])
    assert main(["translate", TEXT, *T2TT]) == 0
    assert capsys.readouterr().out == f"{result.text}\n"


def test_translate_writes_the_wav_of_the_api_and_prints_the_text(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    [result] = engine.generate([Request("s2st", "fra", audio=CLIP, speaker_id=1)])
    path = tmp_path / "out.wav"
    assert main(["translate", CLIP, *S2ST, "--speaker_id", "1", "--output_path", str(path)]) == 0
    assert capsys.readouterr().out == f"{result.text}\n"
    expected = io.BytesIO()
    assert result.audio is not None and result.sampling_rate is not None
    soundfile.write(expected, result.audio, result.sampling_rate, format="WAV")
    assert path.read_bytes() == expected.getvalue()


@pytest.mark.usefixtures("loaded")
def test_translate_accepts_dashes_underscores_and_any_case_of_the_task(capsys: pytest.CaptureFixture[str]):
    main(["translate", TEXT, *T2TT, "--num_beams=2"])
    expected = capsys.readouterr().out
    spelled = ["--task", "T2TT", "--src-lang", "fra", "--tgt-lang", "eng", "--num-beams=2", *MODEL]
    assert main(["translate", TEXT, *spelled]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.usefixtures("loaded")
def test_translate_reads_the_text_from_stdin_for_a_dash(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    main(["translate", TEXT, *T2TT])
    expected = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"\ufeff{TEXT}\r\n".encode()), "utf-8"))
    assert main(["translate", "-", *T2TT]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.usefixtures("loaded")
def test_translate_passes_decoding_options_to_the_search(capsys: pytest.CaptureFixture[str]):
    assert main(["translate", TEXT, *T2TT, "--max_new_tokens", "3"]) == 0
    assert len(capsys.readouterr().out.split()) < len("six hundred and forty-two".split())


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("flags", "params"),
    [
        ("", DecodingParams()),
        ("--num_beams 4 --do_sample true --top_p=.7", DecodingParams(num_beams=4, do_sample=True, top_p=0.7)),
        ("--early_stopping never --block_unk True", DecodingParams(early_stopping="never", block_unk=True)),
        ("--early-stopping false --vocoder-durations False", DecodingParams(vocoder_durations=False)),
        ("--suppress_tokens [12,9]", DecodingParams(suppress_tokens=(12, 9))),
        ("--bad_words_ids [[7],[8,6]]", DecodingParams(bad_words_ids=((7,), (8, 6)))),
        ("--length_penalty -1 --max_new_tokens none", DecodingParams(length_penalty=-1)),
        ("--meta", DecodingParams.meta()),
        ("--meta --num_beams 2", DecodingParams.meta(num_beams=2)),
    ],
)
def test_translate_has_an_option_for_every_field_of_decoding_params(
    flags: str, params: DecodingParams, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Request] = []

    def generate(engine: Engine, requests: list[Request]) -> list[Result]:
        asked.extend(requests)
        return [Result(0, "t2tt", "eng")]

    monkeypatch.setattr(Engine, "generate", generate)
    assert main(["translate", TEXT, *T2TT, *flags.split()]) == 0
    assert asked[0].params == params


@pytest.mark.usefixtures("loaded")
def test_translate_prints_a_line_for_every_returned_sequence(engine: Engine, capsys: pytest.CaptureFixture[str]):
    params = DecodingParams(num_beams=3, num_return_sequences=3)
    [result] = engine.generate([Request("t2tt", "eng", text=TEXT, src_lang="fra")], params)
    assert main(["translate", TEXT, *T2TT, "--num_beams", "3", "--num_return_sequences", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == [hypothesis.text for hypothesis in result.n_best]


def test_languages_prints_one_line_per_task(engine: Engine, capsys: pytest.CaptureFixture[str]):
    assert main(["languages", *MODEL]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [[task, *engine.languages(task)] for task in TASKS]


def test_env_names_versions_and_every_operation(capsys: pytest.CaptureFixture[str]):
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in ("python", "torch", "sentencepiece", "SEAMLESS_BACKEND", "op linear"))


@pytest.mark.parametrize("command", [[], ["translate"], ["run"], ["merge"], ["languages"], ["env"], ["selftest"]])
def test_help_can_be_printed_anywhere(command: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0 and capsys.readouterr().out.isascii()


@pytest.mark.parametrize("command", ["translate", "run"])
def test_help_explains_every_decoding_option(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split("\ndecoding:")[1].split())
    for field in dataclasses.fields(DecodingParams):
        found = re.search(rf"--{field.name} VALUE (.*?) ?\(default: {re.escape(str(field.default))}\)", shown)
        assert found and len(found[1]) > 10 and "--" not in found[1], field.name


def test_version_prints_both_licences(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "Apache-2.0" in out and "CC-BY-NC-4.0" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([TEXT, *T2TT, "--tgt_lang", "xxx"], 2, "t2tt cannot write 'xxx'"),
        ([TEXT, *T2TT, "--src_lang", "xxx"], 2, "the text encoder does not know 'xxx'"),
        ([TEXT, "--task", "t2tt", "--tgt_lang", "eng", *MODEL], 2, "needs src_lang"),
        ([TEXT, *T2TT, "--output_path", "out.wav"], 2, "t2tt produces text, on stdout"),
        ([TEXT, *T2TT, "--num_beams", "0"], 2, "num_beams must be between 1 and 64"),
        ([TEXT, *T2TT, "--num_beams", "2.0"], 2, "num_beams must be an integer"),
        ([TEXT, *T2TT, "--early_stopping", "perhaps"], 2, "early_stopping must be"),
        ([TEXT, *T2TT, "--do_sample", "perhaps"], 2, "do_sample must be"),
        ([TEXT, *T2TT, "--suppress_tokens", "[1,"], 2, "suppress_tokens must"),
        ([TEXT, *T2TT, "--suppress_tokens", "[99999]"], 2, "name token 99999"),
        ([TEXT, *T2TT, "--max_new_tokens", "5000"], 1, "exceeds EngineConfig.max_new_tokens"),
        ([" ", *T2TT], 1, "the text is empty"),
        (["half \udce9", *T2TT], 1, "half a surrogate pair"),
        ([TEXT * 4000, *T2TT], 1, "more than EngineConfig.max_source_tokens"),
        ([__file__, *T2TT], 2, f"< {__file__}"),
        ([CLIP, *S2ST], 2, "give --output_path"),
        ([CLIP, *S2ST, "--output_path", "no/such/folder/out.wav"], 2, "/no/such/folder does not exist"),
        ([CLIP, *S2ST, "--output_path", str(DEMO)], 2, "is a folder"),
        ([CLIP, *S2ST, "--output_path", "out.m4a"], 2, "cannot be written as .m4a"),
        ([CLIP, *S2ST, "--output_path", "/dev/null", "--speaker_id", "9"], 2, "speaker_id 9: this checkpoint has 0"),
        (["no/such.wav", *ASR], 1, "no/such.wav cannot be read: No such file"),
        ([str(DEMO), *ASR], 1, "cannot be read: Is a directory"),
        ([__file__, *ASR], 1, "cannot be decoded as audio"),
        ([TEXT, "--task", "summarise", "--tgt_lang", "eng", *MODEL], 2, "invalid choice"),
        ([TEXT, *T2TT, "--model", "no/such/folder"], 3, "no/such/folder is not a folder"),
    ],
)
def test_translate_refuses_before_the_model_is_loaded(
    arguments: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.delattr(Engine, "from_pretrained")
    try:
        ended = main(["translate", *arguments])
    except SystemExit as stop:
        ended = stop.code
    out, err = capsys.readouterr()
    assert (ended, out) == (code, "") and message in err


def test_translate_checks_a_request_before_it_fetches_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def download(name: str, allow_patterns: list[str], **_: object) -> str:
        assert name == "owner/name" and not any(fnmatch.fnmatch("model.safetensors", one) for one in allow_patterns)
        return str(DEMO / "checkpoint")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert main(["translate", TEXT, *T2TT, "--tgt_lang", "xxx", "--model", "owner/name"]) == 2
    assert "t2tt cannot write 'xxx'" in capsys.readouterr().err


def test_main_exits_with_2_without_arguments(capsys: pytest.CaptureFixture[str]):
    for arguments in ([], ["translate"], ["run"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err


@pytest.mark.usefixtures("loaded")
def test_translate_exits_with_4_when_a_request_is_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*args: object):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(ModelRunner, "encode", fail)
    assert main(["translate", TEXT, *T2TT]) == 4
    assert "out of memory for this request alone" in capsys.readouterr().err


def test_check_weights_exits_with_3_for_bad_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def ruin(tensors: dict[str, torch.Tensor]):
        tensors["text_encoder.layer_norm.bias"][0] = torch.nan

    model = ["--model", str(write_changed(DEMO / "checkpoint", tmp_path / "bad", ruin))]
    assert main(["translate", TEXT, *T2TT[:-2], *model, "--check_weights"]) == 3
    assert "text_encoder.layer_norm.bias" in capsys.readouterr().err


def test_translate_exits_with_3_for_a_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["languages", "--model", str(tmp_path / "nothing")]) == 3
    assert str(tmp_path / "nothing") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError("no more"), 4),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_main_has_an_exit_code_for_each_signal(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*args: object, **kwargs: object):
        raise error

    monkeypatch.setattr(Engine, "from_pretrained", fail)
    assert main(["translate", TEXT, *T2TT]) == code
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("loaded")
def test_translate_reads_audio_from_stdin_or_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    main(["translate", CLIP, *ASR])
    expected = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(CLIP).read_bytes())))
    assert main(["translate", "-", *ASR]) == 0
    assert capsys.readouterr().out == expected
    with subprocess.Popen(["cat", CLIP], stdout=subprocess.PIPE) as source:
        assert source.stdout is not None
        assert main(["translate", f"/dev/fd/{source.stdout.fileno()}", *ASR]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.usefixtures("loaded")
def test_translate_asks_to_report_an_unexpected_error_of_a_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*args: object):
        raise TypeError("no such thing")

    monkeypatch.setattr(ModelRunner, "encode", fail)
    assert main(["translate", TEXT, *T2TT]) == 1
    err = capsys.readouterr().err
    assert "seamless-engine: TypeError: no such thing. Please report this" in err and "Traceback" not in err
    monkeypatch.setenv("SEAMLESS_DEBUG", "1")
    assert main(["translate", TEXT, *T2TT]) == 1
    assert "Traceback" in capsys.readouterr().err
