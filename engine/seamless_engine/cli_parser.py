"""The arguments of `seamless-engine` and their help."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from seamless_engine import __version__, cli_job_parser
from seamless_engine.cli_options import DEFAULT_MODEL, add_device, add_field, add_model
from seamless_engine.request import TASKS, DecodingParams

LICENCE = f"""seamless-engine {__version__}
The code is licensed under Apache-2.0. It brings no model weights: those of {DEFAULT_MODEL}
are Meta's, under CC-BY-NC-4.0 (no commercial use), and are fetched from the hub when asked for."""

_EXIT_CODES = """\
`seamless-engine translate --help` has the options of a command, and examples.

exit codes: 0 done, 1 the input failed or the result could not be written, 2 the command is wrong,
3 the model cannot be used, 4 out of memory, 130 interrupted, 141 the reader of stdout has gone"""
_TRANSLATE = """\
Translate or transcribe one clip or one text. The text of the result goes to stdout, its speech to --output_path, and
everything else to stderr.

tasks:
  asr   speech to text, in the language that is spoken, which --tgt_lang names
  s2tt  speech to text, in another language
  s2st  speech to speech, and its text
  t2tt  text to text
  t2st  text to speech, and its text"""
_EXAMPLES = """\
examples:
  seamless-engine translate clip.wav --task asr --tgt_lang eng
  seamless-engine translate clip.wav --task s2st --tgt_lang fra --output_path out.wav
  seamless-engine translate "Good morning" --task t2tt --src_lang eng --tgt_lang fra --num_beams 5"""
_LANGUAGES = (
    "Print a line for each task, with the codes of the languages that a checkpoint can produce in it (--tgt_lang)."
)
_ENV = """\
Print versions, devices and implementations; add them to a bug report. A line that begins with `op` names the
implementation of an operation that runs on this machine, and in brackets all that the operation has."""
_SELFTEST = """\
Check that this machine computes right. Every operation of the model computes random numbers, at the sizes of v2-large
and in three dtypes. Each line names operation, dtype and implementation, and ends with ok if the numbers are as near to
the formula as rounding allows and have the same bits alone as in a batch. Otherwise it ends with the fault, and the
exit code is 1. This needs no model and takes less than a minute."""

_FIELDS = [field.name for field in dataclasses.fields(DecodingParams)]


def parse(argv: Sequence[str], commands: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.Namespace:
    """The arguments of a command, with its function in `run`. Raises SystemExit(2) for wrong arguments.

    commands: name → function.
    """
    return _parser(commands).parse_args(_underscored(argv))


def decoding(args: argparse.Namespace) -> DecodingParams:
    """The decoding parameters of the arguments of `translate`. Raises UsageError."""
    chosen = {name: value for name, value in vars(args).items() if name in _FIELDS}
    return DecodingParams.meta(**chosen) if args.meta else DecodingParams(**chosen)


def _parser(commands: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "seamless-engine",
        description="Translate and transcribe speech and text with SeamlessM4T-v2.",
        epilog=_EXIT_CODES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=LICENCE, help="print the version and the licences")
    added = parser.add_subparsers(title="commands", required=True, metavar=f"{{{','.join(commands)}}}")

    def add(name: str, summary: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
        command = added.add_parser(name, help=summary, description=description, epilog=epilog, formatter_class=raw)
        command.set_defaults(run=commands[name])
        return command

    _add_translate(add("translate", "translate or transcribe one clip or text", _TRANSLATE, _EXAMPLES))
    cli_job_parser.add_run(add("run", "answer many clips or texts", cli_job_parser.RUN, cli_job_parser.RUN_EXAMPLES))
    cli_job_parser.add_merge(add("merge", "join the results of several runs", cli_job_parser.MERGE))
    command = add("languages", "print the languages of a checkpoint", _LANGUAGES)
    command.add_argument("--task", type=str.lower, choices=TASKS, help="this one only")
    add_model(command)
    add("env", "print versions, devices and implementations, for a bug report", _ENV)
    add_device(add("selftest", "check that this machine computes right", _SELFTEST))
    return parser


def _add_translate(command: argparse.ArgumentParser) -> None:
    command.add_argument("input", help="an audio file, or the text itself; - reads either from stdin")
    command.add_argument("--task", required=True, type=str.lower, choices=TASKS, help="see above")
    command.add_argument("--tgt_lang", required=True, help="code of the language to produce, for example fra")
    command.add_argument("--src_lang", help="code of the language of the text; needed for t2tt and t2st")
    add_model(command)
    command.add_argument(
        "--output_path",
        help="audio file to write, needed for s2st and t2st: .wav, .flac, .ogg, .opus or .mp3; - is stdout",
    )
    command.add_argument(
        "--speaker_id",
        type=int,
        help="number of the voice, for s2st and t2st (default: 0; with --meta, the language's own)",
    )
    add_device(command)
    command.add_argument("--dtype", default="auto", help="auto (the default), float32, float16 or bfloat16")
    command.add_argument(
        "--reference",
        default="transformers",
        choices=("transformers", "meta"),
        help="whose results to give: those of transformers (the default), or those of Meta's code, which computes two "
        "details otherwise",
    )
    command.add_argument(
        "--check_weights", action="store_true", help="refuse a checkpoint with NaN or infinite weights"
    )
    group = command.add_argument_group(
        "decoding",
        "Names and defaults are those of transformers' generate(). Values look like 5, 0.7, true or [12, 9].",
    )
    group.add_argument(
        "--meta",
        action="store_true",
        help="take the choices of Meta's m4t_predict, such as five beams; options below override them",
    )
    for name in _FIELDS:
        add_field(group, DecodingParams, name)


def _underscored(argv: Sequence[str]) -> list[str]:
    """Options with `-` in their name spelled with `_`, so that both are accepted. Words after a lone `--` stay as they
    are."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    spelled = []
    for word in argv[:end]:
        name, equals, value = word.partition("=")
        spelled.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word)
    return spelled + list(argv[end:])
