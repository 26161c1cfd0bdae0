"""Measure launch configurations of an operation on a GPU and put the best into kernels/seamless_kernels/configs.json.

    python -m tools.tune layer_norm [--dtype bfloat16] [--dry-run]

TUNE lists the choices of an operation: {"num_warps": (1, 2, 4), "ROWS": (8, 16)}, of which all combinations are tried,
and for a list of tiles "TILES": {place in a tile: values}, of which one number is changed at a time; repeat until
nothing is better. An entry of the table serves any number of tokens. So the best choice has the least sum, over the
cases that use the entry, of the time relative to that of the current choice. Afterwards run
`python tests/aot/compile.py --op OP --write`, for the tests of resources.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from triton.errors import TritonError

from benchmarks.clock import median_seconds
from benchmarks.kernels.case import Case, Setup
from benchmarks.kernels.registry import CASES
from benchmarks.kernels.runner import check_agreement, failing_tests
from seamless_kernels import config

Key = tuple[str, tuple[int, ...], torch.dtype, str]  # operation, dims, dtype, architecture

# Not BLOCK_M of linear: the kind of the matrix instruction depends on it.
_BLOCKS = {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64, 128), "num_stages": (2, 3, 4)}
_REL_BLOCKS = {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64), "num_stages": (2, 3)}
_LINEAR_TILES = {1: (16, 32, 64, 128, 256), 2: (32, 64, 128, 256), 3: (4, 8), 4: (2, 3, 4, 5, 6)}
_HEAD_TILES = {1: (32, 64, 128), 2: (4, 8), 3: (2, 3, 4, 5)}
TUNE: dict[str, dict[str, Any]] = {
    "linear": {"PROGRAMS": (64, 96, 132, 192, 264), "TILES": _LINEAR_TILES},
    "linear_top_candidates": {"PROGRAMS": (132, 264, 396, 528), "TILES": _HEAD_TILES},
    "attention": {**_BLOCKS, "num_warps": (4, 8)},
    "rel_attention": {**_REL_BLOCKS, "BLOCK_E": (16, 32, 64), "num_warps": (4, 8)},
    "paged_attention": {"BLOCK": (32, 64, 128), "num_warps": (2, 4, 8), "num_stages": (1, 2, 3)},
    "conformer_conv": {"ROWS": (4, 8, 16), "AHEAD": (4, 8, 16), "num_warps": (8, 16)},
    "conv_transpose1d": _BLOCKS,
    "residual_block": {"PAIRS": (1, 3), "HEIGHT": (128, 256, 512, 1024), "PROGRAMS": (1, 2)},
    "layer_norm": {"num_warps": (1, 2, 4, 8)},
    "kv_cache": {"ROWS": (1, 2, 4), "num_warps": (1, 2, 4)},
    "top_candidates": {"TILE": (8, 16, 32, 64), "num_warps": (4, 8), "CHOICE_WARPS": (4, 8, 16)},
    "fbank": {"FRAMES": (2, 4, 8), "MEL_FRAMES": (4, 8, 16), "CLIP_FRAMES": (64, 128, 256), "num_warps": (4, 8)},
}


@contextmanager
def choosing(choose: Callable[[Key, dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """Kernels are launched with `choose(key, entry of the table)`."""
    lookup = config.lookup
    with mock.patch.object(config, "lookup", lambda *key: choose(key, lookup(*key))):
        yield


def keys_of(op: str, case: Case) -> set[Key]:
    """The entries of the operation that a case uses."""
    used: set[Key] = set()

    def record(key: Key, entry: dict[str, Any]) -> dict[str, Any]:
        used.add(key)
        return entry

    with choosing(record):
        next(iter(case.implementations.values()))(*case.inputs())
    return {key for key in used if key[0] == op}


def seconds(case: Case, key: Key, change: dict[str, Any], device: torch.device) -> float:
    """Time of a case with `change` in one entry; infinite where the kernel does not fit the GPU."""
    ours, sets = next(iter(case.implementations.values())), [case.inputs() for _ in range(4)]
    expected = ours(*sets[0])
    with choosing(lambda used, entry: entry | change if used == key else entry):
        try:
            check_agreement(expected, ours(*sets[0]), f"{case.name} with {change}")
            return median_seconds(lambda i: ours(*sets[i % 4]), device)
        except (RuntimeError, TritonError) as reason:  # too many registers, too much shared memory
            print(f"  {change}: {str(reason).splitlines()[0]}")
            return math.inf


def changes(entry: dict[str, Any], choices: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every change of an entry that `choices`, as in TUNE, allows."""
    plain = {name: values for name, values in choices.items() if name != "TILES"}
    for values in itertools.product(*plain.values()):
        yield dict(zip(plain, values, strict=True))
    for place, values in choices.get("TILES", {}).items():
        for i, tile in enumerate(entry["TILES"]):
            for value in {*values} - {tile[place]}:
                other = [*tile[:place], value, *tile[place + 1 :]]
                yield {"TILES": [*entry["TILES"][:i], other, *entry["TILES"][i + 1 :]]}


def best(cases: list[Case], key: Key, choices: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The change of an entry with the least relative time over `cases`."""
    current = [seconds(case, key, {}, device) for case in cases]
    found: tuple[float, dict[str, Any]] = (float(len(cases)), {})
    for change in changes(config.lookup(*key), choices):
        relative = sum(seconds(case, key, change, device) / now for case, now in zip(cases, current, strict=True))
        print(f"  {change}: {relative / len(cases):.3f} of the current time", flush=True)
        found = min(found, (relative, change), key=lambda pair: pair[0])
    return found[1]


def store(key: Key, change: dict[str, Any]) -> None:
    """Put a changed entry into the table, under its own dims and dtype."""
    op, dims, dtype, arch = key
    entry = config.lookup(*key) | change
    del entry["enable_fp_fusion"]  # not part of the table
    table = json.loads(config.TABLE.read_text(encoding="utf-8"))
    table[op].setdefault(arch, {}).setdefault("x".join(map(str, dims)), {})[str(dtype).removeprefix("torch.")] = entry
    config.TABLE.write_text(text_of(table), encoding="utf-8")


def text_of(table: dict[str, Any]) -> str:
    """The table as JSON, a line for each entry of dims."""
    ops = []
    for op, by_arch in table.items():
        archs = []
        for arch, by_dims in by_arch.items():
            lines = ",\n".join(f"   {json.dumps(dims)}: {json.dumps(entries)}" for dims, entries in by_dims.items())
            archs.append(f"  {json.dumps(arch)}: {{\n{lines}\n  }}")
        ops.append(f" {json.dumps(op)}: {{\n" + ",\n".join(archs) + "\n }")
    return "{\n" + ",\n".join(ops) + "\n}\n"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("op", choices=sorted(TUNE))
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="bfloat16")
    parser.add_argument("--dry-run", action="store_true", help="leave the table as it is")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU: configurations are measured on the GPU that they are for")
    if failing_tests([options.op], "cuda"):
        raise SystemExit(f"no search: the tests of {options.op} fail")
    device = torch.device("cuda")
    cases = list(CASES[options.op](Setup(device, getattr(torch, options.dtype))))
    users: dict[Key, list[Case]] = defaultdict(list)
    for case in cases:
        for key in keys_of(options.op, case):
            users[key].append(case)
    for key, using in users.items():
        print(key)
        change = best(using, key, TUNE[options.op], device)
        print(f"  best: {change or 'the current one'}")
        if change and not options.dry_run:
            store(key, change)


if __name__ == "__main__":
    main()
