"""find_segments and segments_of: all speech is in exactly one segment, and no segment is too long."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seamless_engine.errors import UsageError
from seamless_engine.segmentation.options import Segmentation
from seamless_engine.segmentation.segments import LATE_END, Segment, find_segments, segments_of
from seamless_engine.segmentation.vad import FRAME, FRAME_SECONDS, SpeechDetector
from seamless_kernels.fbank import MIN_SAMPLES, SAMPLING_RATE
from support.long_audio import DEMO, LongFile, long_file
from tolerance import BORDER_SECONDS


def track(*spans: tuple[int, float]) -> np.ndarray:
    """Probabilities from (frames, probability) one after the other."""
    return np.concatenate([np.full(frames, probability, np.float32) for frames, probability in spans])


def found(probabilities: np.ndarray, **options: Any) -> list[Segment]:
    return find_segments(probabilities, len(probabilities) * FRAME, Segmentation(**options))


@st.composite
def tracks(draw: st.DrawFn) -> np.ndarray:
    """Speech and silence of random lengths, with noise on top: up to 80 s."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spans = draw(st.lists(st.tuples(st.sampled_from([1, 3, 6, 9, 12, 40, 300, 900]), st.booleans()), max_size=12))
    level = draw(st.sampled_from([0.0, 0.2, 0.6]))
    parts = [np.full(rng.integers(1, frames + 1), 0.9 if speech else 0.1) for frames, speech in spans]
    clean = np.concatenate(parts) if parts else np.zeros(0)
    return (clean + level * rng.uniform(-1, 1, len(clean))).clip(0, 1).astype(np.float32)


settings_of_users = st.builds(
    Segmentation,
    min_speech=st.sampled_from([0.07, 0.25, 1.0]),
    min_silence=st.sampled_from([0.0, 0.3, 2.0]),
    pad=st.sampled_from([0.0, 0.2, 1.0]),
    target=st.sampled_from([4.0, 5.0, 15.0]),
    limit=st.sampled_from([15.0, 20.0]),
    join=st.sampled_from([0.0, 0.5, 5.0]),
)


@given(tracks(), settings_of_users, st.integers(0, FRAME - 1))
@settings(max_examples=300, deadline=None)
def test_segments_hold_all_speech_once_and_keep_the_limits(p: np.ndarray, chosen: Segmentation, missing: int):
    samples = max(len(p) * FRAME - missing, 0)
    segments = find_segments(p, samples, chosen)
    speech, in_speech = np.zeros(len(p), bool), False  # the rule of the two thresholds, frame by frame
    for index, probability in enumerate(p):
        in_speech = probability >= (chosen.negative_threshold if in_speech else chosen.threshold)
        speech[index] = in_speech
    covered = np.zeros(len(p), int)
    before = 0
    for one in segments:
        assert before <= one.first_sample < one.end_sample <= samples
        assert MIN_SAMPLES <= one.end_sample - one.first_sample <= chosen.limit * SAMPLING_RATE
        assert one.first_sample / SAMPLING_RATE <= one.start < one.end <= one.end_sample / SAMPLING_RATE
        before = one.end_sample
        covered[-(-one.first_sample // FRAME) : -(-one.end_sample // FRAME)] += 1
    assert covered.max(initial=0) <= 1
    edges = np.flatnonzero(np.diff(speech, prepend=False, append=False)).reshape(-1, 2)
    for first, end in edges:
        if (end - first) * FRAME_SECONDS >= chosen.min_speech:
            assert covered[first:end].all()
    for one in segments:
        assert speech[one.first_sample // FRAME : -(-one.end_sample // FRAME)].any()


def test_silence_has_no_segments():
    assert found(track((500, 0.2))) == [] == found(np.zeros(0, np.float32))


def test_speech_lasts_from_threshold_to_negative_threshold():
    (one,) = found(track((10, 0.1), (5, 0.45), (20, 0.6), (20, 0.4), (30, 0.3)))
    assert (one.start, one.end) == (15 * FRAME_SECONDS, 55 * FRAME_SECONDS - LATE_END)


def test_short_noise_is_left_out():
    assert found(track((50, 0.1), (7, 0.9), (50, 0.1))) == []
    assert len(found(track((50, 0.1), (8, 0.9), (50, 0.1)))) == 1


@pytest.mark.parametrize(("silent", "segments"), [(6, 1), (7, 2)])
def test_phrase_behind_a_silence_is_its_own_segment(silent: int, segments: int):
    """0.3 s of silence are 7 frames and the 0.09 s by which the detector is late."""
    assert len(found(track((30, 0.1), (40, 0.9), (silent, 0.1), (40, 0.9), (30, 0.1)))) == segments


def test_join_joins_up_to_the_target_only():
    p = track((30, 0.1), *[(90, 0.9), (15, 0.1)] * 6)
    assert len(found(p)) == len(found(p, join=0.4)) == 6
    assert [len(found(p, join=0.6, target=target)) for target in (4.0, 7.0, 10.5, 15.0)] == [6, 3, 2, 2]


def test_limits_join_nothing():
    p = track(*[(30, 0.9), (12, 0.1)] * 8)
    assert len(found(p, target=3.0, limit=20.0)) == 8


def test_padding_is_shared_in_a_short_pause():
    one, two = found(track((30, 0.1), (40, 0.9), (8, 0.1), (40, 0.9), (30, 0.1)), pad=0.2)
    assert one.first_sample == 30 * FRAME - 3200 and two.end_sample == 118 * FRAME + 3200
    assert one.end_sample == two.first_sample == 74 * FRAME


def test_padding_ends_with_the_clip():
    (one,) = found(track((40, 0.9)))
    assert one == Segment(0, 40 * FRAME, 0.0, 40 * FRAME_SECONDS)  # no silence followed that could be found late


def test_long_phrase_is_cut_at_the_longest_silence_of_its_second_half():
    p = track((100, 0.9), (6, 0.1), (194, 0.9), (5, 0.1), (50, 0.9), (4, 0.1), (200, 0.9), (60, 0.1))
    one, two = found(p)
    assert (one.start, one.end) == (0.0, 300 * FRAME_SECONDS - LATE_END)
    assert (two.start, two.end) == (305 * FRAME_SECONDS, 559 * FRAME_SECONDS - LATE_END)


def test_phrase_without_a_silence_is_cut_only_above_the_limit():
    p = track((600, 0.9), (60, 0.1))
    p[[100, 300, 320, 500]] = 0.5
    assert len(found(p)) == 1
    p = track((640, 0.9), (60, 0.1))
    p[[100, 300, 500]] = 0.5, 0.6, 0.5
    one, two = found(p)
    assert one.end == two.start == 300 * FRAME_SECONDS and one.end_sample == two.first_sample == 300 * FRAME


def test_long_phrase_with_an_early_silence_is_cut_there_before_it_is_cut_in_a_word():
    p = track((100, 0.9), (5, 0.1), (560, 0.9), (60, 0.1))
    one, two = found(p)
    assert one.end == 100 * FRAME_SECONDS - LATE_END and two.start == 105 * FRAME_SECONDS


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threshold": 1.5}, "threshold must be a number between 0.01 and 0.99"),
        ({"threshold": 0.3}, "negative_threshold=0.35 is above threshold=0.3"),
        ({"min_speech": 0.0}, "min_speech"),
        ({"pad": float("nan")}, "pad must be a number"),
        ({"join": True}, "join must be a number"),
        ({"target": 25.0}, "target=25 must be at most limit=20"),
        ({"target": 2.2}, "leave 2 s of speech"),
        ({"limit": "20"}, "limit must be a number"),
    ],
)
def test_segmentation_names_a_wrong_option(wrong: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        Segmentation(**wrong)


@pytest.mark.parametrize("kind", [list, tuple, iter, np.array, torch.tensor])
def test_segments_of_takes_what_a_segmenter_returns(kind: type):
    spans = [(0.0, 1.5), (1.5, 2.25), (3.0, 10.0625)]
    assert segments_of(kind(spans), 160_000, Segmentation()) == [
        Segment(0, 24_000, 0.0, 1.5),
        Segment(24_000, 36_000, 1.5, 2.25),
        Segment(48_000, 160_000, 3.0, 10.0),  # a frame of the segmenter may end behind the clip
    ]


def test_segments_of_no_spans_is_no_segments():
    assert segments_of([], 160_000, Segmentation()) == []


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        (None, r"must return \[\(start, end\), ...\] in seconds, not None"),
        ([1.0, 2.0], r"segment 0 of the segmenter must be \(start, end\) in seconds, not 1.0"),
        ([(0, 1), (1, 2, 3)], r"segment 1 of the segmenter must be \(start, end\)"),
        ([("0", "1")], r"must be \(start, end\) in seconds"),
        ([(float("nan"), 1.0)], r"must be \(start, end\) in seconds"),
        ([(2.0, 1.0)], "2.000 to 1.000 s, does not lie in the clip, which lasts 10.000 s"),
        ([(-0.5, 1.0)], "does not lie in the clip"),
        ([(9.0, 10.2)], "does not lie in the clip"),
        ([(0.0, 2.0), (1.9, 3.0)], "segment 1 .* begins before the end of the one before, 2.000 s"),
        ([(3.0, 4.0), (1.0, 2.0)], "begins before the end of the one before"),
        ([(0.0, 0.01)], "is shorter than 0.035 s"),
        ([(0.0, 6.0)], "is longer than limit=5 s: cut it, or raise the limit"),
    ],
)
def test_segments_of_names_what_is_wrong_with_a_span(spans: object, message: str):
    with pytest.raises(UsageError, match=message):
        segments_of(spans, 160_000, Segmentation(target=5.0, limit=5.0))


@pytest.fixture(scope="module")
def spoken() -> LongFile:
    return long_file(120.0)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("options", "snr", "least"),
    [
        (Segmentation(), None, 0.99),
        (Segmentation(), 10.0, 0.95),
        (DEMO, None, 0.99),
        (DEMO, 10.0, 0.95),
        (DEMO, 0.0, 0.95),
    ],
)
def test_segments_of_a_long_file_have_its_borders(
    spoken: LongFile, options: Segmentation, snr: float | None, least: float
):
    """The late end corrected, and without padding. The pauses between phrases are 0.35 s and longer."""
    file = spoken if snr is None else spoken.with_noise(snr)
    (p,) = SpeechDetector().probabilities([torch.from_numpy(file.samples)])
    segments = find_segments(p.numpy(), len(file.samples), options)
    starts, ends = np.array([(one.start, one.end) for one in segments]).T
    off = [abs(starts - one.start).min() for one in file.phrases] + [abs(ends - one.end).min() for one in file.phrases]
    assert np.mean(np.array(off) <= BORDER_SECONDS) >= least
    assert abs(len(segments) - len(file.phrases)) <= 0.1 * len(file.phrases)


def test_long_file_is_the_same_each_time_and_silent_between_its_phrases(spoken: LongFile):
    again = long_file(120.0)
    assert np.array_equal(again.samples, spoken.samples) and again.phrases == spoken.phrases
    assert spoken.samples.dtype == spoken.with_noise(0.0).samples.dtype == np.float32
    silent = np.ones(len(spoken.samples), bool)
    for one in spoken.phrases:
        part = slice(round(one.start * SAMPLING_RATE), round(one.end * SAMPLING_RATE))
        assert spoken.samples[part.start] and spoken.samples[part.stop - 1]
        silent[part] = False
    assert not spoken.samples[silent].any()
