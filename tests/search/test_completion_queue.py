"""Completions that the host reads some steps late change no result: a search that is over is not modified."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from seamless_engine import DecodingParams, Engine, EngineConfig, Request, Result
from seamless_engine.block_manager import PROMPT_LENGTH
from seamless_engine.job import Job, Stage
from seamless_engine.search.completion_queue import CompletionQueue
from seamless_engine.search.native_search import native_search
from seamless_engine.search.schema import Status
from seamless_engine.search.torch_search import TorchSearch
from support.driven import all_same, answer, same_answer
from support.parity import TEXTS, random_request
from support.schedules import job
from support.searches import EOS, Searches, known, random_params, tensors

Checkpoint = Callable[[int], Path]
TINY = EngineConfig(max_num_seqs=7, num_slots=400, max_encoder_tokens=50, max_synthesis_tokens=30)


@pytest.fixture(params=["", "torch"], ids=["preferred", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAMLESS_BACKEND", request.param)


def sampled(seed: int) -> Request:
    """Three samples, which end at different steps."""
    params = DecodingParams(
        do_sample=True, num_return_sequences=3, seed=seed, max_new_tokens=16, return_token_logprobs=True
    )
    return Request("t2tt", "fra", text=TEXTS[seed % len(TEXTS)], src_lang="eng", params=params)


def mixed(engine: Engine, seed: int, count: int) -> list[Request]:
    """Texts of one to five beams; every third request is speech to speech, or samples."""
    rng = random.Random(seed)
    languages = engine.languages("s2st")

    def of_task(*tasks: str) -> Request:
        return next(one for one in iter(lambda: random_request(rng, languages), None) if one.task in tasks)

    return [of_task("t2tt") if i % 3 else (sampled(i) if i % 2 else of_task("s2st")) for i in range(count)]


class Counted(CompletionQueue):
    """Counts the searches of all steps."""

    searches = 0

    def push(self, searches: list[tuple[Job, int]], status: torch.Tensor) -> None:
        self.searches += len(searches)
        super().push(searches, status)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("options", [EngineConfig(max_num_seqs=64), TINY], ids=["roomy", "tiny"])
def test_generate_with_late_completions_changes_no_result(checkpoint: Checkpoint, options: EngineConfig) -> None:
    """In the tiny pools, beams and blocks go to another request in the turn in which they become free."""
    engine = Engine.from_pretrained(checkpoint(2), device="cpu", options=options)
    requests = mixed(engine, 3, 9)
    prompt = engine.core.runner.completions = Counted(0)
    expected = answer(engine, requests)
    assert {result.task for result in expected} == {"s2st", "t2tt"}
    for delay in (1, 3):
        late = engine.core.runner.completions = Counted(delay)
        assert all_same(answer(engine, requests), expected)
        assert late.searches > prompt.searches + delay * len(requests) // 2, "the completions were not late"


def test_generate_isolates_requests_cancelled_at_any_step(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", options=TINY)
    requests = mixed(engine, 8, 6)
    expected = answer(engine, requests)
    engine.core.runner.completions = CompletionQueue(3)
    seen = set()
    for turn in range(14):
        victims = {turn % len(requests), (3 * turn + 1) % len(requests)}
        results = answer(engine, requests, cancelled=dict.fromkeys(victims, turn))
        for i, result in enumerate(results):
            if i in victims and result.finish_reason == "cancelled":
                seen.add(i)
            else:
                assert same_answer(result, expected[i])
    assert len(seen) > 3


@pytest.mark.usefixtures("backend")
def test_generate_isolates_a_nan_that_is_found_late(checkpoint: Checkpoint) -> None:
    """The keys and values of one request become NaN while it decodes; its blocks then go to others as they are."""
    engine = Engine.from_pretrained(checkpoint(1), device="cpu", options=TINY)
    runner = engine.core.runner
    requests = mixed(engine, 5, 8)
    expected = answer(engine, requests)
    runner.completions = CompletionQueue(3)
    for victim in (1, 3):
        poisoned: list[int] = []

        def poison(turn: int, jobs: dict[int, Job], victim: int = victim, poisoned: list[int] = poisoned) -> None:
            ill = jobs[victim]
            if ill.stage is Stage.DECODING and ill.position >= 3 and not poisoned:
                slots = runner.state.cross_table[ill.beam_ids[0], : ill.encoder_length]
                for pool in (runner.pool.k, runner.pool.v):
                    pool[:, slots] = torch.nan
                poisoned.append(turn)

        results = answer(engine, requests, meanwhile=poison)
        assert poisoned and "NaN" in str(results.pop(victim).error)
        assert all_same(results, expected[:victim] + expected[victim + 1 :])


@pytest.mark.usefixtures("backend")
def test_generate_ignores_completions_of_the_request_that_had_the_beams_before(checkpoint: Checkpoint) -> None:
    """A pool for one request: each gets the beams of the one before, of which some completions are still to be read."""
    options = EngineConfig(max_num_seqs=3, num_slots=256)
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"], options=options)
    params = [DecodingParams(num_beams=3, max_new_tokens=tokens) for tokens in (12, 3, 9, 1, 12, 2)]
    requests = [Request("t2tt", "fra", text=TEXTS[i], src_lang="eng", params=p) for i, p in enumerate(params)]
    expected = answer(engine, requests)
    engine.core.runner.completions = CompletionQueue(3)
    assert all_same(answer(engine, requests), expected)
    kept = (1, 3, 5)
    for turn in range(1, 10):
        results = answer(engine, requests, cancelled={i: turn + 3 * i for i in (0, 2, 4)})
        assert all_same([results[i] for i in kept], [expected[i] for i in kept])


def synthesizing(checkpoint: Checkpoint) -> tuple[Engine, list[Job], deque[Job]]:
    """Two requests and their outbox: the synthesis pass of the first is launched, the second is still decoded."""
    options = EngineConfig(max_synthesis_tokens=1)
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt", "t2st"], options=options)
    engine.core.runner.completions = CompletionQueue(1)
    outbox: deque[Job] = deque()
    jobs = []
    for task, tokens in (("t2st", 4), ("t2tt", 40)):
        params = DecodingParams(min_new_tokens=tokens, max_new_tokens=tokens)
        request = Request(task, "fra", text=TEXTS[0], src_lang="eng", params=params)
        jobs += engine.preprocessor.prepare(request, params, Result(0, request.task, "fra"))
        jobs[-1].outbox = outbox
        engine.core.submit(jobs[-1])
    while jobs[0].stage is not Stage.FINISHED:
        engine.core.step()
    assert not outbox and jobs[1].stage is Stage.DECODING
    return engine, jobs, outbox


def test_step_delivers_the_speech_of_a_pass_in_the_next_turn(checkpoint: Checkpoint) -> None:
    engine, jobs, outbox = synthesizing(checkpoint)
    engine.core.step()
    assert list(outbox) == jobs[:1]
    audio = jobs[0].result.audio
    assert audio is not None and np.isfinite(audio).all() and audio.any()


def test_step_delivers_nothing_of_a_request_that_was_dropped_after_its_pass_was_launched(
    checkpoint: Checkpoint,
) -> None:
    engine, jobs, outbox = synthesizing(checkpoint)
    engine.core.drop(jobs[0])
    while engine.core.busy:
        engine.core.step()
    assert list(outbox) == jobs[1:]


def test_drop_of_all_requests_leaves_the_core_idle_though_a_pass_was_launched(checkpoint: Checkpoint) -> None:
    engine, jobs, _ = synthesizing(checkpoint)
    for one in jobs:
        engine.core.drop(one)
    assert not engine.core.busy


def test_fail_ends_a_request_whose_pass_was_launched(checkpoint: Checkpoint) -> None:
    engine, jobs, outbox = synthesizing(checkpoint)
    engine.core.fail(RuntimeError("broken"))
    assert not engine.core.busy and set(outbox) == set(jobs)
    engine.core.step()
    assert len(outbox) == 2 and all(str(job.failure) == "broken" for job in jobs)


@pytest.mark.usefixtures("backend")
def test_update_state_does_not_modify_a_search_that_is_over() -> None:
    """However long the host takes to read it, and whatever the logits of its queries."""
    overs = 0
    for seed in range(8):
        rng = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        world = Searches(vocab=60, num_seqs=30)
        search = native_search(world.state) or TorchSearch(world.state)
        world.admit([random_params(rng, beams, 60, ties=False) for beams in (1, 3, 5, 2, 1, 4)], lambda: 14)
        left: dict[tuple[Job, int], dict[str, torch.Tensor]] = {}
        for _ in range(12):
            batch = world.batch()
            search.prepare_inputs(batch, EOS)
            logits = world.logits(batch, generator)
            logits[:, EOS] += rng.choice([0.0, 4.0, 20.0])
            search.update_state(batch, known(logits))
            for one in world.jobs:
                one.position += PROMPT_LENGTH if one.position == 0 else 1
            for one, index in batch.searches:
                beams = one.search_beams(index)
                now = {name: x[beams].clone() for name, x in tensors(world.state).items() if len(x) == 31}
                if world.state.status[beams[0]] == Status.OVER:
                    before = left.setdefault((one, index), now)
                    assert all(torch.equal(now[name], before[name]) for name in now)
        overs += len(left)
    assert overs > 40


def popped(queue: CompletionQueue, *steps: tuple[list[tuple[Job, int]], list[int]]) -> list[list[tuple[Job, Status]]]:
    """What `pop` returns after each step."""
    ended = []
    for searches, status in steps:
        queue.push(searches, torch.tensor(status, dtype=torch.int32))
        ended.append(queue.pop(drain=False))
    return ended


def decoding(searches: int = 1) -> Job:
    one = job(searches=searches)
    one.stage = Stage.DECODING
    return one


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_pop_reports_an_end_once_and_after_the_delay(delay: int) -> None:
    one, other = decoding(), decoding()
    searches = [(one, 0), (other, 0)]
    steps = [(searches, [1, 1]), (searches, [0, 1]), (searches, [0, 1]), *[(searches, [0, 0])] * 4]
    ended = popped(CompletionQueue(delay), *steps)
    expected: list[list[tuple[Job, Status]]] = [[] for _ in ended]
    for job_, step in ((one, 1), (other, 3)):
        if step + delay < len(ended):
            expected[step + delay] = [(job_, Status.OVER)]
    assert ended == expected
    assert one.searching == []


def test_pop_reports_a_request_when_its_last_search_has_ended() -> None:
    one = decoding(searches=3)
    searches = [(one, index) for index in range(3)]
    queue = CompletionQueue(1)
    assert popped(queue, (searches, [1, 0, 1]), (searches, [1, 0, 1])) == [[], []]
    assert one.searching == [0, 2]
    assert popped(queue, (searches[::2], [0, 1]), (searches[::2], [0, 0])) == [[], []]
    assert one.searching == [2]
    assert queue.pop(drain=True) == [(one, Status.OVER)] and one.searching == []
    assert queue.pop(drain=True) == []


def test_pop_waits_for_all_parts_of_a_step_at_once() -> None:
    one, other = decoding(), decoding()
    queue = CompletionQueue(1)
    for ends, expected in ((0, []), (1, [(one, Status.OVER), (other, Status.OVER)])):
        for part in (one, other):
            queue.push([(part, 0)], torch.tensor([ends], dtype=torch.int32))
        assert queue.pop(drain=False) == expected


def test_pop_reports_a_broken_search_once_for_its_request() -> None:
    one = decoding(searches=3)
    searches = [(one, index) for index in range(3)]
    queue = CompletionQueue(0)
    assert popped(queue, (searches, [1, 2, 2]), (searches, [0, 2, 2])) == [[(one, Status.BROKEN)], []]


def test_pop_does_not_report_a_request_that_has_left() -> None:
    left, padded = decoding(), decoding()
    queue = CompletionQueue(2)
    queue.push([(left, 0), (padded, 0)], torch.tensor([0, 1, 0, 0], dtype=torch.int32))  # padding ends no search
    left.stage = Stage.FINISHED
    assert queue.pop(drain=True) == []
