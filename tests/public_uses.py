"""Small uses of the classes as in public scripts: compares the results of transformers and of the drop-in classes.

    .venv/bin/python tests/public_uses.py --json benchmarks/results/public-uses.json

Prints the uses that are not equal and the tally, and stores all of them. Exits with 1 if any use fails or gives another
result. A use is code whose last line is an expression; LIB stands for the module that is imported.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers

import seamless_engine.hf
from seamless_engine import SeamlessError
from support.repository import ROOT
from support.uses import USES

FOLDER = str(ROOT / "demo" / "checkpoint")
CLIP = str(ROOT / "demo" / "audio" / "2-eng.wav")
EQUAL, REFUSED, BOTH, MORE, DIFFERS = "equal", "refused with a reason", "both refuse", "only here", "differs"
ATOL = 1e-3  # enough for a script; the tests have narrower tolerances


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to store the table")
    options = parser.parse_args()
    table = run(USES)
    for name, (status, said) in table.items():
        if status != EQUAL:
            print(f"{status:22s} {name:44s} {said}")
    tally = Counter(status for status, _ in table.values())
    print(f"{len(table)} uses: " + ", ".join(f"{count} {status}" for status, count in tally.most_common()))
    if options.json:
        uses = [{"use": name, "status": status, "ours": said} for name, (status, said) in table.items()]
        stored = {"transformers": transformers.__version__, "tally": dict(tally.most_common()), "uses": uses}
        options.json.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(tally[DIFFERS] > 0)


def run(uses: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Use → the status, and the message of the drop-in class if it is not equal."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    theirs, ours = names_of("transformers"), names_of("seamless_engine.hf")
    table = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, code in uses.items():
            table[name] = judged(outcome(code, theirs), outcome(code, ours))
    return table


def names_of(module: str) -> dict[str, Any]:
    """The names that a use may have: the module's classes and `pipeline`, a processor, inputs of both kinds."""
    source: Any = transformers if module == "transformers" else seamless_engine.hf
    processor = transformers.AutoProcessor.from_pretrained(FOLDER)
    samples, rate = soundfile.read(CLIP, dtype="float32")
    classes = {name: getattr(source, name) for name in dir(source) if name.startswith("SeamlessM4Tv2")}
    loaded: dict[str, Any] = {}

    def fresh(name: str, **arguments: Any) -> Any:
        return classes[f"SeamlessM4Tv2{name}"].from_pretrained(FOLDER, dtype=torch.float32, **arguments)

    def load(name: str) -> Any:
        if name not in loaded:
            loaded[name] = fresh(name)
        return loaded[name]

    return classes | {
        "LIB": module,
        "np": np,
        "torch": torch,
        "transformers": transformers,
        "pipeline": source.pipeline,
        "folder": FOLDER,
        "fresh": fresh,
        "load": load,
        "processor": processor,
        "clip": CLIP,
        "data": Path(CLIP).read_bytes(),
        "samples": samples,
        "rate": rate,
        "text": processor(text="nine hundred and sixteen", src_lang="eng", return_tensors="pt"),
        "texts": processor(text=["forty-two", "seven"], src_lang="eng", return_tensors="pt", padding=True),
        "speech": processor(audio=samples, sampling_rate=rate, return_tensors="pt"),
    }


def outcome(code: str, names: dict[str, Any]) -> Any:
    """The value of the last line, or the exception."""
    torch.manual_seed(0)
    parsed = ast.parse(code.replace("LIB", names["LIB"]))
    last = parsed.body.pop()
    assert isinstance(last, ast.Expr), f"a use ends with an expression: {code}"
    scope = dict(names)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(parsed, "use", "exec"), scope)
            return eval(compile(ast.Expression(last.value), "use", "eval"), scope)  # noqa: S307 (our own lines)
    except Exception as error:
        return error


def judged(theirs: Any, ours: Any) -> tuple[str, str]:
    if isinstance(ours, Exception):
        said = f"{type(ours).__name__}: {ours}"
        explained = isinstance(ours, AttributeError) and "object has no attribute" not in str(ours)
        if not isinstance(ours, SeamlessError) and not explained:
            return DIFFERS, said
        return BOTH if isinstance(theirs, Exception) else REFUSED, said
    if isinstance(theirs, Exception):
        return MORE, f"transformers: {type(theirs).__name__}: {str(theirs).splitlines()[0][:100]}"
    return (EQUAL, "") if same(theirs, ours) else (DIFFERS, f"{show(ours)} for {show(theirs)}")


def same(theirs: Any, ours: Any) -> bool:
    """Equal within ATOL. Objects without a value count as equal, also inside containers."""
    if isinstance(theirs, torch.Tensor | np.ndarray):
        return isinstance(ours, type(theirs) if isinstance(theirs, np.ndarray) else torch.Tensor) and close(
            theirs, ours
        )
    if isinstance(theirs, Mapping):
        return isinstance(ours, Mapping) and all(key in ours and same(theirs[key], ours[key]) for key in theirs)
    if isinstance(theirs, Sequence) and not isinstance(theirs, str):
        return len(theirs) == len(ours) and all(map(same, theirs, ours))
    if isinstance(theirs, float):
        return isinstance(ours, float) and abs(theirs - ours) <= ATOL
    values = (str, int, type(None), torch.dtype, torch.device)
    return theirs == ours if isinstance(theirs, values) else not isinstance(ours, values)


def close(theirs: Any, ours: Any) -> bool:
    first, second = (torch.as_tensor(value).detach() for value in (theirs, ours))
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if not first.is_floating_point():
        return torch.equal(first, second)
    atol = ATOL if first.dtype == torch.float32 else 30 * ATOL  # half precision rounds at other places
    return torch.allclose(first, second, atol=atol, rtol=0.0)


def show(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{type(value).__name__}{list(value.shape)}"
    return repr(value)[:80]


if __name__ == "__main__":
    sys.exit(main())
