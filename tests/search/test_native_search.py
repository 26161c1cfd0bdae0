"""The compiled search and the torch search: the same choices, tables and status on the same state and logits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

from seamless_engine import DecodingParams
from seamless_engine.search import torch_search
from seamless_engine.search.beam_step import NEVER, Candidates
from seamless_engine.search.native_search import CpuSearch, QueryCandidates, check_schema, native_search
from seamless_engine.search.schema import IntParam, Status, fingerprint
from seamless_engine.search.state import SearchState
from seamless_engine.search.step_batch import StepBatch
from seamless_engine.search.torch_search import TorchSearch
from seamless_kernels import dispatch, native
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


def compiled(state: SearchState) -> CpuSearch:
    search = native_search(state)
    assert isinstance(search, CpuSearch)
    return search


def run_both(world: Searches, search: CpuSearch, logits: torch.Tensor, batch: StepBatch) -> None:
    """The torch search's step on the world's state and the compiled one's on its copy, which is then overwritten."""
    before, copied = clone(world.state), search.state
    twin = TorchSearch(world.state)
    expected, inputs = twin.prepare_inputs(batch, EOS), search.prepare_inputs(batch, EOS)
    for name in ("tokens", "positions", "slots", "beams", "lengths", "slot_table", "requests", "cross_lengths"):
        assert torch.equal(getattr(inputs, name), getattr(expected, name)), name
    twin.update_state(batch, known(logits))
    search.update_state(batch, known(logits))
    assert_same(copied, world.state, before, batch, SCORE_ATOL)
    overwrite(copied, world.state)


@pytest.mark.parametrize("levels", [None, 3, 12], ids=["distinct", "three-levels", "twelve-levels"])
@pytest.mark.parametrize("seed", range(3))
def test_update_state_of_mixed_searches_equals_the_torch_search(levels: int | None, seed: int) -> None:
    """All parameters in one step, padding, searches that have ended without the host knowing yet."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    ended = 0
    for _ in range(3):
        world = Searches(vocab=rng.choice([40, 130, 1000]), bucket=rng.choice([1, 8]))
        search = compiled(clone(world.state))
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
                world.after_step(rng, late=0.6)
                ended += running - len(world.jobs)
    assert ended > 30


def scrambled(world: Searches, rng: random.Random, generator: torch.Generator, levels: int | None) -> None:
    """Any scores, finished hypotheses and tables, also those that no search would produce."""
    state = world.state

    def values(*shape: int) -> torch.Tensor:
        if levels is None:
            return -8 * torch.rand(shape, generator=generator)
        return -torch.randint(levels, shape, generator=generator).float() / 2

    beams = len(state.token) - 1
    state.score[:beams] = values(beams)
    full = torch.rand(beams, generator=generator) < 0.5
    state.finished_occupied[:beams] = full
    state.finished_score[:beams] = torch.where(full, values(beams), NEVER)
    state.finished_token[:beams] = torch.randint(30, (beams,), generator=generator)
    state.finished_log_prob[:beams] = values(beams)
    for table in (state.slot_table, state.finished_table):
        table[:beams] = torch.randint(3000, table[:beams].shape, generator=generator, dtype=torch.int32)
    for job in world.jobs:
        job.position = rng.randint(2, job.max_length - 1)
        for search in job.searching:
            state.position[job.search_beams(search)[0]] = job.position
            state.finished_length[job.search_beams(search)] = rng.randint(2, job.position)


def random_candidates(queries: int, count: int, generator: torch.Generator, levels: int | None) -> QueryCandidates:
    """[queries, count], best first, eos among them."""
    tokens = torch.rand(queries, 2 * count + 4, generator=generator).argsort(1)[:, :count]
    shape = queries, count
    key = -6 * torch.rand(shape, generator=generator)
    if levels is not None:
        key = -torch.randint(levels, shape, generator=generator).float() / 2
    key[torch.rand(shape, generator=generator) < 0.05] = -torch.inf
    by_token = tokens.argsort(1)
    tokens, key = tokens.gather(1, by_token), key.gather(1, by_token)
    order = key.sort(dim=1, descending=True, stable=True).indices
    tokens, key = tokens.gather(1, order), key.gather(1, order)
    noise = torch.rand(shape, generator=generator) * (torch.rand(queries, 1, generator=generator) < 0.3)
    return tokens, key, key - noise, key - 2 * noise


@pytest.mark.parametrize("scale", [1, 2**20], ids=["", "rounded"])
@pytest.mark.parametrize("levels", [None, 2, 6], ids=["distinct", "two-levels", "six-levels"])
def test_update_from_equal_candidates_gives_equal_bits(
    levels: int | None, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any state: choices, scores, tables and status, with ties within a beam, between beams and with finished
    hypotheses. Large scores of beams round different candidates to equal sums."""
    rng = random.Random(levels)
    generator = torch.Generator().manual_seed(levels or 0)
    for _ in range(60):
        world = Searches(vocab=50, bucket=rng.choice([1, 4]), num_seqs=40)
        beams = [rng.choice([1, 2, 3, 4, 5, 8]) for _ in range(8)]
        world.admit([random_params(rng, b, 50, True) for b in beams], lambda: rng.choice([2, 5, 14]))
        scrambled(world, rng, generator, levels)
        world.state.score.mul_(scale)
        before, copied = clone(world.state), clone(world.state)
        batch = world.batch()
        widest = batch.graph_key.beams
        given = random_candidates(len(batch.query_beam), 2 * widest, generator, levels)
        queries = batch.search_query[:, None] + torch.arange(widest)
        num_beams = world.state.int_params[batch.search_id, IntParam.NUM_BEAMS]
        queries = queries.clamp(max=len(batch.query_beam) - 1)
        dummy = torch.arange(widest) >= batch.search_active[:, None]
        beyond = torch.arange(2 * widest) >= 2 * num_beams[:, None, None]  # a search has twice as many as it has beams
        out = dummy[:, :, None] | beyond
        parts = [given[0][queries], *(part[queries].masked_fill(out, -torch.inf) for part in given[1:])]
        monkeypatch.setattr(torch_search, "choose_candidates", lambda *_, parts=parts: Candidates(*parts))
        twin = TorchSearch(world.state)
        twin.prepare_inputs(batch, EOS)
        twin.update_state(batch, known(torch.empty(0, world.vocab)))
        search = compiled(copied)
        search.prepare_inputs(batch, EOS)
        search.update_from_candidates(batch, given)
        assert_same(copied, world.state, before, batch, atol=0.0)


def test_update_state_of_64_beams_and_of_a_vocabulary_smaller_than_the_candidates() -> None:
    generator = torch.Generator().manual_seed(0)
    for vocab, beams in ((700, 64), (9, 8), (5, 3)):
        world = Searches(vocab, num_seqs=100, blocks=300)
        search = compiled(clone(world.state))
        world.admit([DecodingParams(num_beams=beams), DecodingParams(num_beams=2)], lambda: 6)
        overwrite(search.state, world.state)
        for _ in range(6):
            if world.jobs:
                batch = world.batch()
                run_both(world, search, world.logits(batch, generator), batch)
                world.after_step(random.Random(0), late=0.0)


def mixed_world(seed: int, times: int = 1) -> tuple[Searches, torch.Generator]:
    """A world some steps after its searches began."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    world = Searches(vocab=700, num_seqs=40 * times, blocks=60 * times)
    world.admit([random_params(rng, b, 700, False) for b in (1, 4, 1, 5, 2, 8, 3, 1) * times], lambda: 14)
    search = compiled(world.state)
    for _ in range(4):
        batch = world.batch()
        search.prepare_inputs(batch, EOS)
        search.update_state(batch, known(world.logits(batch, generator)))
        world.after_step(rng, late=1.0)
    return world, generator


def test_update_state_gives_equal_bits_on_any_threads_and_in_any_batch(threads: Callable[[int], None]) -> None:
    for seed in range(3):
        world, generator = mixed_world(seed, times=10)
        batch = world.batch()
        logits = world.logits(batch, generator)
        results = []
        for count in (1, 2, 5):
            threads(count)
            search = compiled(clone(world.state))
            search.prepare_inputs(batch, EOS)
            search.update_state(batch, known(logits))
            results.append(search.state)
        for other in results[1:]:
            for name, tensor in tensors(results[0]).items():
                assert torch.equal(tensor, getattr(other, name)), name
        jobs, ids, active = world.jobs, batch.search_id.tolist(), batch.search_active.tolist()
        first = dict(zip(ids, batch.search_query.tolist(), strict=True))
        width = dict(zip(ids, active, strict=True))
        for job in jobs:
            world.jobs = [job]
            alone = world.batch()
            own = torch.cat([logits[first[i] : first[i] + width[i]] for i in alone.search_id.tolist()])
            search = compiled(clone(world.state))
            search.prepare_inputs(alone, EOS)
            search.update_state(alone, known(own))
            for name in ("token", "score", "log_prob", "slot_table", "finished_score", "finished_table", "status"):
                got, expected = getattr(search.state, name), getattr(results[0], name)
                assert torch.equal(got[job.beam_ids], expected[job.beam_ids]), name


def test_update_state_without_a_distribution_breaks_its_own_search_alone() -> None:
    for poison, places in ((torch.nan, 123), (torch.inf, 123), (-torch.inf, slice(None))):
        world, generator = mixed_world(7)
        batch = world.batch()
        logits = world.logits(batch, generator)
        sound, ill = compiled(clone(world.state)), compiled(clone(world.state))
        running = live(world.state, batch)
        queries = dict(zip(batch.search_id.tolist(), batch.search_query.tolist(), strict=True))
        broken = running[::2]
        assert any(world.state.int_params[i, IntParam.DO_SAMPLE] for i in broken)
        poisoned = logits.clone()
        for i in broken:
            poisoned[queries[i], places] = poison
        for search, values in ((sound, logits), (ill, poisoned)):
            search.prepare_inputs(batch, EOS)
            search.update_state(batch, known(values))
        twin = TorchSearch(clone(world.state))
        twin.prepare_inputs(batch, EOS)
        twin.update_state(batch, known(poisoned))
        assert torch.equal(twin.state.status, ill.state.status)
        for i in running:
            beams = world.state.beam_ids[i, : int(world.state.int_params[i, IntParam.NUM_BEAMS])].long()
            if i in broken:
                assert ill.state.status[i] == Status.BROKEN
                continue
            for name in ("token", "score", "slot_table", "finished_score", "finished_table", "status"):
                assert torch.equal(getattr(ill.state, name)[beams], getattr(sound.state, name)[beams]), name


def test_check_schema_refuses_a_module_of_another_layout() -> None:
    for module in filter(None, (native.csrc, native.csrc_cuda)):
        assert module.SEARCH_SCHEMA == fingerprint()
        check_schema(module)
    other = ModuleType("other")
    with pytest.raises(ImportError, match="other was built for another layout"):
        check_schema(other)
    other.__dict__["SEARCH_SCHEMA"] = "0" * 16
    with pytest.raises(ImportError, match="other was built for another layout"):
        check_schema(other)


def test_native_search_is_none_where_the_backend_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    state = Searches(vocab=9).state
    monkeypatch.setenv("SEAMLESS_BACKEND", "torch")
    dispatch.reset()
    assert native_search(state) is None
    monkeypatch.delenv("SEAMLESS_BACKEND")
    dispatch.reset()
    assert isinstance(native_search(state), CpuSearch)


@pytest.mark.parametrize("name", ["status", "slot_mapping", "int_params", "finished_occupied", "token_pool"])
def test_native_search_refuses_tensors_of_another_dtype_or_shape(name: str) -> None:
    for wrong in (
        lambda x: x.to(torch.float64),
        lambda x: x[:-1],
        lambda x: x[None],
        lambda x: x.repeat_interleave(2, -1)[..., ::2],
    ):
        state = Searches(vocab=9).state
        setattr(state, name, wrong(getattr(state, name)))
        with pytest.raises(ValueError, match="has (dtype|shape)|contiguous|misshapen"):
            compiled(state)


def test_update_state_refuses_a_batch_that_names_what_does_not_exist() -> None:
    world, generator = mixed_world(0)
    batch = world.batch()
    logits = world.logits(batch, generator)
    for name, wrong, message in (
        ("query_beam", 41, "query_beam"),
        ("query_beam", -1, "query_beam"),
        ("search_id", 1000, "search_id"),
        ("search_query", len(batch.query_beam), "search_query"),
        ("search_active", 9, "search_active"),
    ):
        field = getattr(batch, name)
        right = int(field[0])
        field[0] = wrong
        with pytest.raises(ValueError, match=message):
            compiled(world.state).update_state(batch, known(logits))
        field[0] = right
    with pytest.raises(ValueError, match="logits has shape"):
        compiled(world.state).update_state(batch, known(logits[1:]))
    with pytest.raises(ValueError, match="logits has dtype"):
        compiled(world.state).update_state(batch, known(logits.double()))


class OnGpu:
    """A tensor with the interface of a CUDA tensor. No kernel may run on it: its memory is the host's."""

    def __init__(self, tensor: torch.Tensor) -> None:
        described = dict(tensor.numpy().__array_interface__)
        self.__cuda_array_interface__ = described | {"version": 3}


def test_the_gpu_search_refuses_what_the_cpu_search_refuses() -> None:
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
            search.prepare_inputs((), EOS, (), 0)
        if not torch.cuda.is_available():
            zero = torch.zeros(1, dtype=torch.int32)
            fields, inputs = (zero,) * 5, (zero.long(),) * 3 + (zero,) * 2
            with pytest.raises(RuntimeError, match="inputs of a decode step: .*cuda"):
                search.prepare_inputs(tuple(map(OnGpu, fields)), EOS, tuple(map(OnGpu, inputs)), 0)
