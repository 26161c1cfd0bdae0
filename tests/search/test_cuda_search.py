"""The kernels of csrc/search/cuda.cu on threads of the CPU, under ThreadSanitizer: the threads of a block do not race,
any number of them gives equal bits, and the results are those of the torch search."""

from __future__ import annotations

import functools
import os
import random
import re
import shlex
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from seamless_engine.models.text_decoder import NextTokens
from seamless_engine.search import schema
from seamless_engine.search.state import SearchState
from seamless_engine.search.step_batch import StepBatch
from seamless_engine.search.torch_search import TorchSearch
from support.searches import EOS, Searches, assert_same, clone, live, random_params
from tolerance import SCORE_ATOL

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
CUDA_ON_THREADS = ROOT / "tests" / "support" / "cuda_on_threads"
COMPILER = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")  # as setup.py has it
ONE_THREAD = (1, 1)  # of a beam step and of a query
# ThreadSanitizer cannot run where addresses are too random.
NOT_RANDOM = ["setarch", "--addr-no-randomize"]
if subprocess.run([*NOT_RANDOM, "true"], capture_output=True).returncode:
    NOT_RANDOM = []


@dataclass(frozen=True)
class Step:
    """A step of the torch search: the state that it begins with, what the networks give, and what it leaves behind."""

    before: SearchState
    batch: StepBatch
    logits: torch.Tensor
    log_prob: torch.Tensor  # [queries, count], of the best tokens by the logits alone
    tokens: torch.Tensor
    banned: torch.Tensor | None
    after: SearchState

    def write(self) -> bytes:
        """As search_steps.cpp reads it."""
        state, key = self.before, self.batch.graph_key
        beams, max_length = state.slot_table.shape
        width = 0 if self.banned is None else self.banned.shape[1]
        sizes = [beams, max_length, state.bad_word_token.shape[1], len(state.token_pool), EOS]
        sizes += [len(self.batch.query_beam), len(self.batch.search_id), key.beams, key.num_bad_word_tokens, width]
        sizes += [self.logits.shape[1], self.tokens.shape[1], bool(key.needs_logits)]
        parts = [np.array(sizes)]
        parts += [getattr(state, name) for name in schema.ARRAYS]
        batch = self.batch
        parts += [batch.query_beam, batch.query_offset, batch.search_id, batch.search_query, batch.search_active]
        parts += [self.tokens, self.log_prob, self.log_prob, self.log_prob]
        parts += [self.logits] if key.needs_logits else []
        return b"".join(np.asarray(part).tobytes() for part in parts)

    def read(self, data: memoryview) -> tuple[SearchState, torch.Tensor | None, memoryview]:
        """The state that the program left behind, the tokens that it banned, and the rest of its output."""

        def take(like: torch.Tensor) -> torch.Tensor:
            nonlocal data
            size = like.numel() * like.element_size()
            values, data = np.frombuffer(data[:size], dtype=like.numpy().dtype), data[size:]
            return torch.from_numpy(values.reshape(like.shape).copy())

        state = clone(self.before)
        for name in schema.ARRAYS:
            setattr(state, name, take(getattr(state, name)))
        for candidates in (self.tokens, self.log_prob, self.log_prob, self.log_prob):
            take(candidates)
        query = self.batch.query_beam
        for inputs in (query.long(), query.long(), query.long(), query, query):
            take(inputs)
        return state, None if self.banned is None else take(self.banned), data

    def choosing(self) -> list[int]:
        """The queries whose candidates count."""
        batch, running = self.batch, live(self.before, self.batch)
        searches = zip(batch.search_id.tolist(), batch.search_query.tolist(), batch.search_active.tolist(), strict=True)
        return [query + beam for search, query, active in searches if search in running for beam in range(active)]


class Recorded(NextTokens):
    """Keeps what the search asks for."""

    def best(self, count: int, banned: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        log_prob, tokens = super().best(count, banned)
        vars(self)["asked"] = log_prob.clone(), tokens.clone(), banned
        return log_prob, tokens


@functools.cache
def steps(seed: int, worlds: int = 10) -> list[Step]:
    """Searches of every kind come, go on and end on random logits; some tie, some are no distribution."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    recorded: list[Step] = []
    for number in range(worlds):
        levels = (None, 3, 12)[number % 3]
        world = Searches(vocab=rng.choice([12, 40, 130, 300]), bucket=rng.choice([1, 1, 1, 4]), blocks=60)
        for _ in range(20):
            if rng.random() < 0.5:
                beams = [rng.randint(1, 8) for _ in range(rng.randint(1, 3))]
                params = [random_params(rng, count, world.vocab, ties=levels is not None) for count in beams]
                world.admit(params, lambda: rng.choice([1, 2, 5, 14]))
            if world.jobs:
                recorded.append(one_step(world, some_logits(world, generator, levels, rng)))
                world.after_step(rng, late=0.6)
    widest = Searches(vocab=200, num_seqs=64, blocks=65)
    widest.admit([random_params(rng, 64, 200, ties=False)], lambda: 3)
    while widest.jobs:
        recorded.append(one_step(widest, some_logits(widest, generator, None, rng)))
        widest.after_step(rng, late=0.0)
    rng.shuffle(recorded)  # any first part is as varied
    return recorded


def some_logits(world: Searches, generator: torch.Generator, levels: int | None, rng: random.Random) -> torch.Tensor:
    logits = world.logits(world.batch(), generator, levels)
    if rng.random() < 0.1:
        query, token = rng.randrange(logits.shape[0]), rng.choice([slice(None), rng.randrange(logits.shape[1])])
        logits[query, token] = rng.choice([torch.nan, torch.inf, -torch.inf])
    return logits


def one_step(world: Searches, logits: torch.Tensor) -> Step:
    """The torch search's step on the world's state."""
    batch, before, search = world.batch(), clone(world.state), TorchSearch(world.state)
    expected = Recorded(logits, logits.new_empty(logits.shape[1], 0))
    vars(expected)["logits"] = logits
    search.prepare_inputs(batch, EOS)
    search.update_state(batch, expected)
    log_prob, tokens, banned = vars(expected)["asked"]
    # The builder of batches writes the next one to the same memory.
    return Step(before, clone(batch), logits, log_prob, tokens, banned, after=clone(world.state))


def translated(step_threads: int, query_threads: int) -> str:
    """cuda.cu as C++ for the headers of cuda_on_threads, with blocks of so many threads."""
    source = (CSRC / "search" / "cuda.cu").read_text(encoding="utf-8")
    sizes = f"STEP_THREADS = {step_threads}, QUERY_THREADS = {query_threads};"
    for pattern, text in (
        (r"STEP_THREADS = \d+, QUERY_THREADS = \d+;", sizes),
        (r"(\w+)<<<(.+?)>>>\(", r'launch("\1", \1, \2)('),
        (r"extern __shared__ (\w+) (\w+)\[\];", r"\1* const \2 = dynamic_shared<\1>();"),
    ):
        source, count = re.subn(pattern, text, source, flags=re.DOTALL)
        assert count, f"cuda.cu has no {pattern}"
    return source


def call(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@functools.cache
def compiled(source: Path, folder: Path, sanitizers: str) -> Path:
    result = folder / f"{source.stem}-{sanitizers}.o"
    include = [f"-I{each}" for each in (CUDA_ON_THREADS, CSRC / "search", CSRC, folder)]
    flags = ["-std=c++17", "-O1", "-g1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", *include]
    call(*COMPILER, *flags, "-c", source, "-o", result)
    return result


@functools.cache
def program(threads: tuple[int, int], folder: Path, sanitizers: str) -> Path:
    (folder / "search_schema.h").write_text(schema.cpp_header(), encoding="utf-8")
    source = folder / "kernels-{}-{}.cpp".format(*threads)
    source.write_text(translated(*threads), encoding="utf-8")
    result = folder / f"{source.stem}-{sanitizers}"
    objects = [compiled(each, folder, sanitizers) for each in (CUDA_ON_THREADS / "search_steps.cpp", source)]
    call(*COMPILER, "-pthread", f"-fsanitize={sanitizers}", *objects, "-o", result)
    return result


@functools.cache
def run(
    threads: tuple[int, int],
    seed: int,
    folder: Path,
    *,
    share: int = 1,
    sanitizers: str = "thread",
    planted_race: str = "",
) -> tuple[str, bytes]:
    """What the program says, and its output for the first of `share` parts of the steps."""
    given, output, suppressions = (folder / name for name in ("steps", "output", "suppressions"))
    given.write_bytes(b"".join(step.write() for step in steps(seed)[: len(steps(seed)) // share]))
    suppressions.write_text("race:prepare_query\n")  # queries of the dummy beam write equal values
    done = subprocess.run(
        [*NOT_RANDOM, program(threads, folder, sanitizers), given, output],
        env=os.environ | {"TSAN_OPTIONS": f"halt_on_error=1 suppressions={suppressions}", "PLANTED_RACE": planted_race},
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    assert (done.returncode == 0) == (done.stderr == ""), done
    return done.stderr, output.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_on_threads")


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernels_give_what_the_torch_search_gives(folder: Path, seed: int) -> None:
    said, output = run(ONE_THREAD, seed, folder)
    assert not said
    rest = memoryview(output)
    for step in steps(seed):
        state, banned, rest = step.read(rest)
        assert_same(state, step.after, step.before, step.batch, SCORE_ATOL)
        if banned is not None and step.banned is not None:
            assert torch.equal(banned[step.choosing()], step.banned[step.choosing()])
    assert not rest
    assert sum(len(live(step.before, step.batch)) for step in steps(seed)) > 300
    assert {step.batch.graph_key.beams for step in steps(seed)} >= {1, 8, 64}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "threads,share",
    [((2, 2), 1), ((6, 8), 1), ((32, 32), 4), pytest.param((128, 1024), 64, marks=pytest.mark.slow)],
    ids=str,
)
def test_threads_of_a_block_do_not_race_and_give_the_bits_of_one_thread(
    folder: Path, threads: tuple[int, int], share: int, seed: int
) -> None:
    said, output = run(threads, seed, folder, share=share)
    assert not said
    assert output and run(ONE_THREAD, seed, folder)[1].startswith(output)


@pytest.mark.parametrize(
    "kernel,barriers",
    [("update_state_kernel", (1, 2, 3, 4, 5, 6)), ("processed_candidates_kernel", (1, 2, 3, 4, 5, 7, 8, 9, 10))],
)
def test_a_missing_barrier_is_found(folder: Path, kernel: str, barriers: tuple[int, ...]) -> None:
    for barrier in barriers:
        said, _ = run((2, 2), 0, folder, planted_race=f"{kernel}:{barrier}")
        assert said, barrier  # ThreadSanitizer's report, unless what was read too early ended the program first


def test_the_kernels_stay_within_their_memory(folder: Path) -> None:
    said, _ = run((6, 8), 0, folder, sanitizers="address,undefined")
    assert not said
