"""The command `seamless-engine`: arguments to the API, results to stdout, progress to stderr."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seamless_engine.errors import CheckpointError, SeamlessError, UsageError
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, TASKS, DecodingParams, Request

OK, SOME_FAILED, USAGE, MODEL_UNAVAILABLE, OUT_OF_MEMORY, INTERRUPTED = 0, 1, 2, 3, 4, 130

DEFAULT_MODEL = "facebook/seamless-m4t-v2-large"
LICENCE = f"""seamless-engine {version("seamless-engine")}
The code is licensed under Apache-2.0. It brings no model weights: those of {DEFAULT_MODEL}
are Meta's, under CC-BY-NC-4.0 (no commercial use), and are fetched from the hub when asked for."""

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a malformed command line raises SystemExit(2), as argparse does."""
    args = _parser().parse_args(_underscored(sys.argv[1:] if argv is None else argv))
    logging.basicConfig(stream=sys.stderr, format="%(message)s", force=True)
    logging.getLogger("seamless_engine").setLevel(logging.INFO)
    try:
        return args.run(args)
    except UsageError as error:
        return _fail(USAGE, error)
    except CheckpointError as error:
        return _fail(MODEL_UNAVAILABLE, error)
    except SeamlessError as error:
        return _fail(SOME_FAILED, error)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")
    except (MemoryError, RuntimeError) as error:
        from seamless_engine.recovery import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return _fail(OUT_OF_MEMORY, f"out of memory: {error}")


def translate(args: argparse.Namespace) -> int:
    """One input through one task."""
    output: Path | None = args.output_path
    if args.task in SPEECH_OUT:
        if output is None:
            raise UsageError(f"{args.task} produces speech: give --output_path, for example --output_path out.wav")
        if not output.absolute().parent.is_dir():
            raise UsageError(f"--output_path: the folder {output.parent} does not exist")
    elif output is not None:
        raise UsageError(f"--output_path is where speech goes; {args.task} produces text, on stdout")
    chosen = {name: value for name, value in vars(args).items() if name in _DECODING}
    listens = args.task in SPEECH_IN
    request = Request(
        args.task,
        args.tgt_lang,
        audio=_audio(args.input) if listens else None,
        text=None if listens else _text(args.input),
        src_lang=args.src_lang,
        speaker_id=args.speaker_id,
        params=DecodingParams.meta(**chosen) if args.meta else DecodingParams(**chosen),
    )
    from seamless_engine import Engine  # here, since it imports torch, which takes seconds

    _log.info("loading %s", args.model)
    engine = Engine.from_pretrained(
        args.model, tasks=(args.task,), device=args.device, dtype=args.dtype, check_weights=args.check_weights
    )
    result = engine.generate([request])[0]
    for warning in result.warnings:
        _log.warning("warning: %s", warning)
    if result.error is not None:
        too_large = result.error.startswith("CapacityError: out of memory")
        return _fail(OUT_OF_MEMORY if too_large else SOME_FAILED, result.error)
    for hypothesis in result.n_best:
        print(hypothesis.text)
    if output is not None and result.audio is not None and result.sampling_rate is not None:
        from seamless_engine.audio_output import write_audio

        write_audio(output, result.audio, result.sampling_rate)
        _log.info("wrote %s, %.2f s of speech", output, len(result.audio) / result.sampling_rate)
    return OK


def languages(args: argparse.Namespace) -> int:
    """One line per task: the task and the codes that it can produce."""
    from seamless_engine.config import ModelConfig
    from seamless_engine.languages import Languages
    from seamless_engine.loader import find_checkpoint

    table = Languages(ModelConfig.from_folder(find_checkpoint(args.model)))  # the weights are not read
    for task in TASKS if args.task is None else (args.task,):
        print(f"{task:<5} {' '.join(table.codes(task))}")
    return OK


def env(args: argparse.Namespace) -> int:
    """Versions, devices and the implementations in use."""
    from seamless_engine.environment import describe

    facts = describe()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return OK


_DECODING = {option.name: option.default for option in dataclasses.fields(DecodingParams)}


def _value(text: str) -> Any:
    """A number, true, false, none or a list; anything else as it is, for DecodingParams to judge."""
    if text.lower() in ("true", "false", "none"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("seamless-engine", description="SeamlessM4T-v2 inference", formatter_class=raw)
    parser.add_argument("--version", action="version", version=LICENCE)
    commands = parser.add_subparsers(required=True, metavar="{translate,languages,env}")

    command = commands.add_parser("translate", help="translate one clip or text", description=translate.__doc__)
    command.set_defaults(run=translate)
    command.add_argument("input", help="an audio file, or the text; - reads it from stdin")
    _add_task(command, required=True)
    command.add_argument("--tgt_lang", required=True, help="code of the language to produce, for example fra")
    command.add_argument("--src_lang", help="code of the language of the text (t2tt, t2st)")
    _add_model(command)
    command.add_argument("--output_path", type=Path, help="wav file to write (s2st, t2st)")
    command.add_argument("--speaker_id", type=int, help="voice of the speech output")
    command.add_argument("--device", default="auto", help="auto (the default), cpu, cuda, cuda:1, ...")
    command.add_argument("--dtype", default="auto", help="auto (the default), float32, float16 or bfloat16")
    command.add_argument(
        "--check_weights", action="store_true", help="refuse a checkpoint with NaN or infinite weights"
    )
    group = command.add_argument_group(
        "decoding", "Named as in transformers' generate(); values like 5, 0.7, true, [12, 9], [[12, 7], [9]]."
    )
    group.add_argument(
        "--meta", action="store_true", help="the original project's choices; single options override them"
    )
    for name, default in _DECODING.items():
        group.add_argument(
            f"--{name}", type=_value, default=argparse.SUPPRESS, metavar="VALUE", help=f"default: {default}"
        )

    command = commands.add_parser("languages", help="languages of a checkpoint", description=languages.__doc__)
    command.set_defaults(run=languages)
    _add_task(command, required=False)
    _add_model(command)

    command = commands.add_parser("env", help="versions and devices, for a bug report", description=env.__doc__)
    command.set_defaults(run=env)
    return parser


def _add_task(command: argparse.ArgumentParser, required: bool) -> None:
    command.add_argument("--task", required=required, type=str.lower, choices=TASKS, help="any case")


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default=DEFAULT_MODEL, help="checkpoint folder or hub id (default: %(default)s)")


def _underscored(argv: Sequence[str]) -> list[str]:
    """Flags with `-` spelled with `_`, so that both are accepted; what follows a lone `--` is left alone."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    spelled = []
    for word in argv[:end]:
        name, equals, value = word.partition("=")
        spelled.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word)
    return spelled + list(argv[end:])


def _audio(given: str) -> str | bytes:
    return sys.stdin.buffer.read() if given == "-" else given


def _text(given: str) -> str:
    return sys.stdin.read().strip() if given == "-" else given


def _fail(code: int, message: object) -> int:
    print(f"seamless-engine: {message}", file=sys.stderr)
    return code
