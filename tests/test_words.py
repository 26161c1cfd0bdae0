"""One word for one thing, and it is the field's word: names, comments, docstrings and pages use no other.

A rule holds where its words have no other meaning: everywhere, or in some folders only. The texts of messages are not
checked, and neither is code inside of f-strings.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.snippets import ROOT

PLACES = ("engine", "kernels", "csrc", "tools", "tests", "benchmarks", "demo", "docs", ".")
SUFFIXES = (".py", ".h", ".cpp", ".cu", ".md")
EXEMPT = ("tests/test_words.py", "demo/checkpoint/", "demo/audio/", "docs/_build/")


class Rule(NamedTuple):
    """The words are a regular expression. An identifier is one of them, or has one as a part; or prose has one.

    where: the beginnings of the paths for which the rule holds, all if there are none; not those behind a "!".
    """

    kind: str  # name, part, prose
    words: str
    say: str
    where: tuple[str, ...]

    def holds(self, path: str) -> bool:
        excepted = tuple(place[1:] for place in self.where if place.startswith("!"))
        places = tuple(place for place in self.where if not place.startswith("!"))
        return path.startswith(places or "") and not path.startswith(excepted)


def names(words: str, say: str, *where: str) -> list[Rule]:
    return [Rule("name", words, say, where)]


def parts(words: str, say: str, *where: str) -> list[Rule]:
    return [Rule("part", words, say, where)]


def prose(words: str, say: str, *where: str) -> list[Rule]:
    return [Rule("prose", words, say, where)]


def words(words: str, say: str, *where: str) -> list[Rule]:
    """In identifiers and in prose."""
    return parts(words, say, *where) + prose(words, say, *where)


ENGINE = "engine/seamless_engine/"
SOURCES = (ENGINE, "kernels/", "csrc/")
DECODING = (f"{ENGINE}search/", f"{ENGINE}block_manager.py", f"{ENGINE}scheduler.py", "csrc/search/")
PAGES = ("docs/", "README.md")
ACTOR = "what acts: the scheduler, a pass, a tensor, the caller"
BAD_WORDS = "bad words (of a request), banned tokens (of a step)"
IN_TURN = "nothing: passes run in turn with the decode steps"

RULES = [
    # Tables of decoding, and the search.
    *words("rows?", "beam, beam_id", *DECODING),
    *words("lines?", "query, num_queries", *DECODING, f"!{ENGINE}search/schema.py"),
    *names("special", "needs_logits", *DECODING, f"{ENGINE}cuda_graphs.py", f"{ENGINE}model_runner.py"),
    *names("Wholes?|Reals?", "IntParam, FloatParam"),
    *names("wholes?|reals?", "int_params, float_params", *DECODING),
    *parts("bans?", BAD_WORDS),
    *prose("bans?", BAD_WORDS, *SOURCES, *PAGES),
    *words("draws?|drawn", "sample", *SOURCES, *PAGES),
    *words("inert", "dummy"),
    *names("StepLayout|LayoutBuilder|Traits", "StepBatch, BatchBuilder, GraphKey"),
    *names("begin", "prepare_inputs", ENGINE, "tests/search/"),
    *names("choose_and_commit", "update_state"),
    *names("device_step", "torch_search"),
    *names("Findings?", "FinishedHypothesis"),
    *names("Flags", "CompletionQueue"),
    *names("own_slots", "slot_mapping"),
    *names("max_rows", "max_num_seqs", ENGINE, "tests/", "benchmarks/", *PAGES),
    *names("Team|Alone|Contest", "BlockGroup, SingleThread, merge_top", "csrc/"),
    *names("narrow|threshold", "radix_select, top_p_threshold", "csrc/search/"),
    # The loop and its passes.
    *names("encodings", "encoder_states", *SOURCES, "tests/"),
    *names("prepared", "model_inputs", ENGINE),
    *names("FrontEnd|front_end", "Preprocessor"),
    *names("Owner|Ticket|parked", "EngineThread, Handle, backlog"),
    *names("held", "in_flight", f"{ENGINE}async_engine.py", f"{ENGINE}engine_thread.py", f"{ENGINE}core.py"),
    *names("Lane|InTurn|Beside", IN_TURN),
    *names("lane", IN_TURN, ENGINE),
    *names("land|settle", IN_TURN, f"{ENGINE}core.py"),
    *words("rehears(e|es|ed|al|als|ing)", "profile_run, warmup"),
    *names("Recorder|record_steps", "GraphCapture, capture"),
    *prose("record(ed|s)? (CUDA )?graphs?|graphs? (is|are) recorded", "captured graph"),
    *names("isolate", "bisect_batch", ENGINE),
    *names("SpeechOut|speak|speaks", "SpeechSynthesizer, synthesize", "!docs/troubleshooting.md"),  # it quotes messages
    *names("encode_frames", "max_encoder_tokens", f"{ENGINE}config.py", *PAGES),
    *names("speak_tokens", "max_synthesis_tokens"),
    *prose("speech pass(es)?", "synthesis pass"),
    # Kernels.
    *words("absorbs?|absorbed|fades?|faded|ordinals?", "online_softmax_update, alpha, offs_n", "kernels/"),
    *parts("mass|chains?|bands?", "l_i, the K loop, GROUP_M", "kernels/"),
    *names("above|whole|WHOLE", "offs_m, IS_INT8", "kernels/"),
    *names("real", "m_mask", *(f"kernels/seamless_kernels/{op}" for op in ("linear", "conv", "conformer"))),
    # What acts is no person.
    *words("company|companies", "batch, batch composition"),
    *words("whoever|nobody|somebody|anybody|everybody|someone|everyone", ACTOR),
    *prose("(not|never) feel|feels|company-proof", "batch-invariant"),
]  # fmt: skip

_PYTHON = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<text>[A-Za-z]{0,2}(?:\"{3}.*?(?<!\\)\"{3}|'{3}.*?(?<!\\)'{3}))"""
    r"""|"(?P<word>[^\W\d]\w*)"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|(?P<name>[^\W\d]\w*)""",
    re.DOTALL,
)
_CPP = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<text>(?!))|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|(?P<name>[^\W\d]\w*)""",
    re.DOTALL,
)
_MARKDOWN = re.compile(r"(?P<fence>^```.*?^```$)|(?P<code>`[^`]+`)|(?P<comment>[^`]+)", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`]+`")
_NAME = re.compile(r"[^\W\d]\w*")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class Vocabulary:
    """The rules that hold for some paths."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = [(rule, re.compile(rule.words)) for rule in rules]
        every = "|".join(rule.words for rule in rules if rule.kind == "prose")
        self.prose = re.compile(rf"\b(?:{every})\b".replace(" ", r"\s+(?:// |# )?"), re.IGNORECASE)
        self.seen: dict[str, str | None] = {}

    def name(self, identifier: str) -> str | None:
        """What to say in place of an identifier; None where it is right."""
        if identifier not in self.seen:
            self.seen[identifier] = self._name(identifier)
        return self.seen[identifier]

    def _name(self, identifier: str) -> str | None:
        bare, lower = identifier.strip("_"), [part.lower() for part in _PART.findall(identifier)]
        for rule, pattern in self.rules:
            if rule.kind == "name" and pattern.fullmatch(bare):
                return rule.say
            if rule.kind == "part" and any(pattern.fullmatch(part) for part in lower):
                return rule.say
        return None

    def instead(self, phrase: str) -> str:
        """What to say in place of a phrase that `prose` has found."""
        plain = re.sub(r"\s+(// |# )?", " ", phrase.lower())
        return next(rule.say for rule, pattern in self.rules if rule.kind == "prose" and pattern.fullmatch(plain))


@functools.cache
def vocabulary(rules: tuple[Rule, ...]) -> Vocabulary:
    return Vocabulary(list(rules))


def hits(path: str, source: str) -> Iterator[str]:
    """`path:line: found: say …` for each word of a source that a rule forbids at this path."""
    known = vocabulary(tuple(rule for rule in RULES if rule.holds(path)))
    for place, found, say in sorted(_found(known, path, source)):
        yield f"{path}:{source.count(chr(10), 0, place) + 1}: {' '.join(found.split())}: say {say}"


def _found(known: Vocabulary, path: str, source: str) -> Iterator[tuple[int, str, str]]:
    lexer = {".py": _PYTHON, ".md": _MARKDOWN}.get(Path(path).suffix, _CPP)
    for token in lexer.finditer(source):
        kind = token.lastgroup
        if kind in ("name", "word"):
            if say := known.name(token[kind]):
                yield token.start(kind), token[kind], say
        elif kind in ("comment", "text"):
            for phrase in known.prose.finditer(token[0]):
                yield token.start() + phrase.start(), phrase[0], known.instead(phrase[0])
            for code in _CODE.finditer(token[0]):
                yield from _identifiers(known, code, token.start())
        elif kind in ("fence", "code"):
            yield from _identifiers(known, token, 0)


def _identifiers(known: Vocabulary, code: re.Match[str], offset: int) -> Iterator[tuple[int, str, str]]:
    for name in _NAME.finditer(code[0]):
        if say := known.name(name[0]):
            yield offset + code.start() + name.start(), name[0], say


def sources(place: str) -> Iterator[Path]:
    found = ROOT.glob("*") if place == "." else (ROOT / place).rglob("*")
    for path in sorted(found):
        if path.suffix in SUFFIXES and not path.relative_to(ROOT).as_posix().startswith(EXEMPT):
            yield path


@pytest.mark.parametrize("place", PLACES)
def test_sources_and_pages_use_the_words_of_the_field(place: str):
    found = [
        hit
        for path in sources(place)
        for hit in hits(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join([f"{len(found)} words", *found])


@pytest.mark.parametrize(
    "path, source, found",
    [
        (f"{ENGINE}core.py", "x = 1\ndef speak(own_slots): pass  # nobody\n", ["speak", "own_slots", "nobody"]),
        (f"{ENGINE}core.py", 'def f():\n    """Of its\n    company."""\n    return "a company"\n', ["company"]),
        (f"{ENGINE}search/state.py", "self._num_rows = BeamRow", ["_num_rows", "BeamRow"]),
        (f"{ENGINE}models/vocoder.py", "self._num_rows = arrows", []),
        ("csrc/search/search.h", "int row = 0;  // a line is\n", ["row", "line"]),
        ("csrc/ops/linear.h", "int row = 0;  // a line is\n", []),
        (
            "docs/guide.md",
            "Of a speech\npass: `draw`\n\n```python\nrequest.ban\n```\n",
            ["speech pass", "draw", "ban"],
        ),
        ("demo/run.py", "draw(drawn)", []),
    ],
)
def test_hits_are_found_in_names_comments_and_docstrings(path: str, source: str, found: list[str]):
    assert [hit.removeprefix(f"{path}:").split(": ")[1] for hit in hits(path, source)] == found


def test_every_place_of_a_rule_exists():
    places = {place for rule in RULES for place in rule.where if not place.startswith("!")}
    assert all((ROOT / place).exists() or list(ROOT.glob(f"{place}*")) for place in places)
