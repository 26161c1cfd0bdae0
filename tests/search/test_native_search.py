"""The compiled search beside its torch twin: the same choices, tables and flags on the same state and logits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
import torch

from seamless_engine import DecodingParams
from seamless_engine.search import torch_search
from seamless_engine.search.beam_step import NEVER, Candidates
from seamless_engine.search.native_search import CpuSearch, Found, native_search
from seamless_engine.search.state import FloatParam, IntParam, SearchState, Status
from seamless_engine.search.step_batch import StepBatch
from seamless_engine.search.torch_search import TorchSearch
from seamless_kernels import native
from support.searches import EOS, Searches, assert_same, clone, known, live, overwrite, random_params, tensors
from tolerance import SCORE_ATOL

csrc = native.csrc
assert csrc is not None, "csrc/ is not built: it needs g++ and `pip install -e .`"


@pytest.fixture(autouse=True)
def native_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAMLESS_BACKEND", "native")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def searching(state: SearchState) -> CpuSearch:
    search = native_search(state)
    assert isinstance(search, CpuSearch)
    return search


def run_both(world: Searches, search: CpuSearch, logits: torch.Tensor, batch: StepBatch) -> None:
    """The twin's step on the world's own state, the compiled one on its copy, which then becomes the twin's."""
    before, copied = clone(world.state), search.state
    twin = TorchSearch(world.state)
    inputs = twin.begin(batch, EOS)
    compiled = search.begin(batch, EOS)
    for name in ("tokens", "positions", "slots", "rows", "lengths", "slot_table", "requests", "cross_lengths"):
        assert torch.equal(getattr(compiled, name), getattr(inputs, name)), name
    twin.update_state(batch, known(logits))
    search.update_state(batch, known(logits))
    assert_same(copied, world.state, before, batch, SCORE_ATOL)
    overwrite(copied, world.state)


@pytest.mark.parametrize("levels", [None, 3, 12], ids=["distinct", "three-levels", "twelve-levels"])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_mixed_searches_is_the_twins(levels: int | None, seed: int) -> None:
    """All parameters in one step, padding, searches that ended and are not known to have."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    ended = 0
    for _ in range(3):
        world = Searches(vocab=rng.choice([40, 130, 1000]), bucket=rng.choice([1, 8]))
        search = searching(clone(world.state))
        for _ in range(30):
            if rng.random() < 0.5:
                beams = [rng.choice([1, 1, 2, 3, 4, 5, 8]) for _ in range(rng.randint(1, 5))]
                params = [random_params(rng, count, world.vocab, ties=levels is not None) for count in beams]
                world.admit(params, lambda: rng.choice([1, 2, 5, 14]))
                overwrite(search.state, world.state)
            if world.jobs:
                batch = world.batch()
                run_both(world, search, world.logits(batch, generator, levels), batch)
                running = len(world.jobs)
                world.went_on(rng, late=0.6)
                ended += running - len(world.jobs)
    assert ended > 30


def scrambled(world: Searches, rng: random.Random, generator: torch.Generator, levels: int | None) -> None:
    """Any scores, finished hypotheses and tables: more than a search could come to."""
    state = world.state

    def values(*shape: int) -> torch.Tensor:
        if levels is None:
            return -8 * torch.rand(shape, generator=generator)
        return -torch.randint(levels, shape, generator=generator).float() / 2

    rows = len(state.token) - 1
    state.score[:rows] = values(rows)
    full = torch.rand(rows, generator=generator) < 0.5
    state.finished_occupied[:rows] = full
    state.finished_score[:rows] = torch.where(full, values(rows), NEVER)
    state.finished_token[:rows] = torch.randint(30, (rows,), generator=generator)
    state.finished_log_prob[:rows] = values(rows)
    for table in (state.slot_table, state.finished_table):
        table[:rows] = torch.randint(3000, table[:rows].shape, generator=generator, dtype=torch.int32)
    for job in world.jobs:
        job.position = rng.randint(2, job.max_length - 1)
        for draw in job.searching:
            state.position[job.search_beams(draw)[0]] = job.position
            state.finished_length[job.search_beams(draw)] = rng.randint(2, job.position)


def given_candidates(lines: int, count: int, generator: torch.Generator, levels: int | None) -> Found:
    """[lines, count], best first, eos among them."""
    tokens = torch.rand(lines, 2 * count + 4, generator=generator).argsort(1)[:, :count]
    shape = lines, count
    key = -6 * torch.rand(shape, generator=generator)
    if levels is not None:
        key = -torch.randint(levels, shape, generator=generator).float() / 2
    key[torch.rand(shape, generator=generator) < 0.05] = -torch.inf
    by_token = tokens.argsort(1)
    tokens, key = tokens.gather(1, by_token), key.gather(1, by_token)
    order = key.sort(dim=1, descending=True, stable=True).indices
    tokens, key = tokens.gather(1, order), key.gather(1, order)
    noise = torch.rand(shape, generator=generator) * (torch.rand(lines, 1, generator=generator) < 0.3)
    return tokens, key, key - noise, key - 2 * noise


@pytest.mark.parametrize("scale", [1, 2**20], ids=["", "rounded"])
@pytest.mark.parametrize("levels", [None, 2, 6], ids=["distinct", "two-levels", "six-levels"])
def test_equal_candidates_give_equal_bits(levels: int | None, scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any state: choices, scores, tables and flags, with ties within beams, between them and with the finished.
    Beams of large scores round candidates together."""
    rng = random.Random(levels)
    generator = torch.Generator().manual_seed(levels or 0)
    for _ in range(60):
        world = Searches(vocab=50, bucket=rng.choice([1, 4]), num_seqs=40)
        beams = [rng.choice([1, 2, 3, 4, 5, 8]) for _ in range(8)]
        world.admit([random_params(rng, b, 50, True) for b in beams], lambda: rng.choice([2, 5, 14]))
        scrambled(world, rng, generator, levels)
        world.state.score *= scale
        before, copied = clone(world.state), clone(world.state)
        batch = world.batch()
        widest = batch.graph_key.beams
        given = given_candidates(len(batch.line_row), 2 * widest, generator, levels)
        lines = batch.search_line[:, None] + torch.arange(widest)
        whole = world.state.whole[batch.search_id, IntParam.NUM_BEAMS]
        lines = lines.clamp(max=len(batch.line_row) - 1)
        dummy = torch.arange(widest) >= batch.search_active[:, None]
        beyond = torch.arange(2 * widest) >= 2 * whole[:, None, None]  # a search has twice as many as it has beams
        out = dummy[:, :, None] | beyond
        parts = [given[0][lines], *(part[lines].masked_fill(out, -torch.inf) for part in given[1:])]
        monkeypatch.setattr(torch_search, "choose_candidates", lambda *_, parts=parts: Candidates(*parts))
        twin = TorchSearch(world.state)
        twin.begin(batch, EOS)
        twin.update_state(batch, known(torch.empty(0, world.vocab)))
        search = searching(copied)
        search.begin(batch, EOS)
        search.commit(batch, given)
        assert_same(copied, world.state, before, batch, atol=0.0)


def test_sixty_four_beams_and_a_vocabulary_smaller_than_the_candidates() -> None:
    generator = torch.Generator().manual_seed(0)
    for vocab, beams in ((700, 64), (9, 8), (5, 3)):
        world = Searches(vocab, num_seqs=100, blocks=300)
        search = searching(clone(world.state))
        world.admit([DecodingParams(num_beams=beams), DecodingParams(num_beams=2)], lambda: 6)
        overwrite(search.state, world.state)
        for _ in range(6):
            if world.jobs:
                batch = world.batch()
                run_both(world, search, world.logits(batch, generator), batch)
                world.went_on(random.Random(0), late=0.0)


def mixed_world(seed: int, times: int = 1) -> tuple[Searches, torch.Generator]:
    """A world some steps after its searches began."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    world = Searches(vocab=700, num_seqs=40 * times, blocks=60 * times)
    world.admit([random_params(rng, b, 700, False) for b in (1, 4, 1, 5, 2, 8, 3, 1) * times], lambda: 14)
    search = searching(world.state)
    for _ in range(4):
        batch = world.batch()
        search.begin(batch, EOS)
        search.update_state(batch, known(world.logits(batch, generator)))
        world.went_on(rng, late=1.0)
    return world, generator


def test_neither_threads_nor_company_change_a_bit(threads: Callable[[int], None]) -> None:
    for seed in range(3):
        world, generator = mixed_world(seed, times=10)
        batch = world.batch()
        logits = world.logits(batch, generator)
        results = []
        for count in (1, 2, 5):
            threads(count)
            search = searching(clone(world.state))
            search.begin(batch, EOS)
            search.update_state(batch, known(logits))
            results.append(search.state)
        for other in results[1:]:
            for name, tensor in tensors(results[0]).items():
                assert torch.equal(tensor, getattr(other, name)), name
        jobs, ids, active = world.jobs, batch.search_id.tolist(), batch.search_active.tolist()
        first_line = dict(zip(ids, batch.search_line.tolist(), strict=True))
        width = dict(zip(ids, active, strict=True))
        for job in jobs:
            world.jobs = [job]
            alone = world.batch()
            mine = alone.search_id.tolist()
            search = searching(clone(world.state))
            search.begin(alone, EOS)
            search.update_state(
                alone, known(torch.cat([logits[first_line[i] : first_line[i] + width[i]] for i in mine]))
            )
            for name in ("token", "score", "log_prob", "slot_table", "finished_score", "finished_table", "status"):
                got, expected = getattr(search.state, name), getattr(results[0], name)
                assert torch.equal(got[job.beam_ids], expected[job.beam_ids]), name


def test_a_nan_breaks_its_own_search_alone() -> None:
    for poison in (torch.nan, torch.inf):
        world, generator = mixed_world(7)
        batch = world.batch()
        logits = world.logits(batch, generator)
        sound, ill = searching(clone(world.state)), searching(clone(world.state))
        running = live(world.state, batch)
        lines = dict(zip(batch.search_id.tolist(), batch.search_line.tolist(), strict=True))
        broken = running[::2]
        assert any(world.state.whole[i, IntParam.SAMPLE] for i in broken)
        poisoned = logits.clone()
        for i in broken:
            poisoned[lines[i], 123] = poison
        for search, values in ((sound, logits), (ill, poisoned)):
            search.begin(batch, EOS)
            search.update_state(batch, known(values))
        for i in running:
            rows = world.state.rows[i, : int(world.state.whole[i, IntParam.NUM_BEAMS])].long()
            if i in broken:
                assert ill.state.status[i] == Status.BROKEN
                continue
            for name in ("token", "score", "slot_table", "finished_score", "finished_table", "status"):
                assert torch.equal(getattr(ill.state, name)[rows], getattr(sound.state, name)[rows]), name


def test_columns_have_the_twins_names() -> None:
    for module in filter(None, (native.csrc, native.csrc_cuda)):
        for names, columns in ((module.WHOLE, IntParam), (module.REAL, FloatParam), (module.STATUS, Status)):
            assert names == tuple(columns.__members__)


def test_the_twin_is_used_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    state = Searches(vocab=9).state
    monkeypatch.setenv("SEAMLESS_BACKEND", "torch")
    assert native_search(state) is None
    monkeypatch.delenv("SEAMLESS_BACKEND")
    assert isinstance(native_search(state), CpuSearch)


@pytest.mark.parametrize("name", ["status", "slot_mapping", "whole", "finished_occupied", "token_pool"])
def test_tensors_of_another_dtype_or_shape_are_refused(name: str) -> None:
    for wrong in (
        lambda x: x.to(torch.float64),
        lambda x: x[:-1],
        lambda x: x[None],
        lambda x: x.repeat_interleave(2, -1)[..., ::2],
    ):
        state = Searches(vocab=9).state
        setattr(state, name, wrong(getattr(state, name)))
        with pytest.raises(ValueError, match="has (dtype|shape)|contiguous|misshapen"):
            searching(state)


def test_a_layout_that_names_what_is_not_there_is_refused() -> None:
    world, generator = mixed_world(0)
    batch = world.batch()
    logits = world.logits(batch, generator)
    for name, wrong, message in (
        ("line_row", 41, "line_row"),
        ("line_row", -1, "line_row"),
        ("search_id", 1000, "search_id"),
        ("search_line", len(batch.line_row), "search_line"),
        ("search_active", 9, "search_active"),
    ):
        field = getattr(batch, name)
        right = int(field[0])
        field[0] = wrong
        with pytest.raises(ValueError, match=message):
            searching(world.state).update_state(batch, known(logits))
        field[0] = right
    with pytest.raises(ValueError, match="logits has shape"):
        searching(world.state).update_state(batch, known(logits[1:]))
    with pytest.raises(ValueError, match="logits has dtype"):
        searching(world.state).update_state(batch, known(logits.double()))


class OnGpu:
    """A tensor as CUDA ones present themselves. Nothing may be launched on it: the memory is the host's."""

    def __init__(self, tensor: torch.Tensor) -> None:
        described = dict(tensor.numpy().__array_interface__)
        self.__cuda_array_interface__ = described | {"version": 3}


def test_the_gpu_module_refuses_as_the_cpus_does() -> None:
    for module in filter(None, (native.csrc_cuda,)):
        state = Searches(vocab=9).state
        good = {name: OnGpu(tensor) for name, tensor in tensors(state).items()}
        search = module.Search(good, EOS)
        for wrong in (state.status.float(), state.status[1:], state.status.repeat_interleave(2)[::2]):
            with pytest.raises(ValueError, match="status (has|is)"):
                module.Search(good | {"status": OnGpu(wrong)}, EOS)
        with pytest.raises(TypeError, match="CUDA tensors"):
            module.Search(good | {"status": state.status.numpy()}, EOS)
        with pytest.raises(ValueError, match="five arrays"):
            search.begin((), EOS, (), 0)
        if not torch.cuda.is_available():
            line = torch.zeros(1, dtype=torch.int32)
            fields, inputs = (line,) * 5, (line.long(),) * 3 + (line,) * 2
            with pytest.raises(RuntimeError, match="begin of a decode step: .*cuda"):
                search.begin(tuple(map(OnGpu, fields)), EOS, tuple(map(OnGpu, inputs)), 0)
