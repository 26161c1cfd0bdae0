"""Options accept numbers and switches of NumPy, arrays and tensors, and refuse values of another type."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from seamless_engine import DecodingParams, EngineConfig, Request, UsageError

SCALARS = (np.int64, np.int32, np.uint16, np.array, torch.tensor, lambda value: torch.tensor(value, dtype=torch.uint8))
FLOATS = (np.float16, np.float32, np.float64, np.array, torch.tensor, lambda value: torch.tensor(value).bfloat16())
ALMOST = (2.0, np.float32(2.0), torch.tensor(2.0))  # integers for a sampling rate only
NO_INTEGERS = (True, 3.7, np.bool_(True), torch.tensor(True), "2", [2], None)
NO_NUMBERS = (
    float("nan"),
    float("inf"),
    -float("inf"),
    np.float32("nan"),
    torch.tensor(float("inf")),
    True,
    "0.5",
    [0.5],
)
NO_SWITCHES = (0, 1, 1.0, "True", np.int64(1), torch.tensor(1), [True], None)
INTEGERS = {
    DecodingParams: "num_beams max_new_tokens min_new_tokens top_k no_repeat_ngram_size seed num_return_sequences",
    EngineConfig: "max_num_seqs max_source_tokens max_new_tokens max_bad_word_tokens max_encoder_tokens "
    "max_synthesis_tokens num_slots decode_processes",
    Request: "sampling_rate speaker_id id",
}
NUMBERS = {
    DecodingParams: "length_penalty temperature speech_temperature top_p repetition_penalty",
    EngineConfig: "memory_fraction max_audio_seconds decode_timeout",
    Request: "timeout",
}
SWITCHES = {
    DecodingParams: "do_sample block_unk return_token_logprobs vocoder_durations speaker_per_language speech_do_sample "
    "early_stopping",
    EngineConfig: "cuda_graphs",
}


def fields(kinds: dict[type, str]) -> list[tuple[type, str]]:
    return [(kind, name) for kind, names in kinds.items() for name in names.split()]


def made(kind: type, name: str, value: Any) -> Any:
    """The field of an object that is made with this value."""
    arguments: dict[str, Any] = {name: value}
    if kind is Request:
        arguments |= dict(task="s2st", tgt_lang="fra", audio=np.zeros(9))
    if kind is DecodingParams and name == "num_return_sequences":
        arguments["num_beams"] = 64
    return getattr(kind(**arguments), name)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize(("kind", "name"), fields(INTEGERS))
def test_options_accept_every_kind_of_integer_and_store_an_int(kind: type, name: str, scalar: Any) -> None:
    found = made(kind, name, scalar(64))
    assert type(found) is int and found == 64


@pytest.mark.parametrize("value", ALMOST)
def test_request_accepts_a_float_without_fraction_as_sampling_rate(value: Any) -> None:
    found = made(Request, "sampling_rate", value)
    assert type(found) is int and found == 2


@pytest.mark.parametrize("scalar", FLOATS)
@pytest.mark.parametrize(("kind", "name"), fields(NUMBERS))
def test_options_accept_every_kind_of_number_and_store_a_float(kind: type, name: str, scalar: Any) -> None:
    found = made(kind, name, scalar(0.5))
    assert type(found) is float and found == 0.5


@pytest.mark.parametrize(("kind", "name"), fields(SWITCHES))
def test_options_accept_every_kind_of_bool_and_store_a_bool(kind: type, name: str) -> None:
    for value in (np.bool_(True), torch.tensor(True), np.array(True), True):
        assert made(kind, name, value) is True


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((*field, value) for field in fields(INTEGERS) for value in NO_INTEGERS),
        *((*field, value) for field in fields(INTEGERS) if field[1] != "sampling_rate" for value in ALMOST),
        *((*field, value) for field in fields(NUMBERS) for value in NO_NUMBERS),
        *((*field, value) for field in fields(SWITCHES) for value in NO_SWITCHES),
    ],
)
def test_options_refuse_values_of_another_type_and_name_the_field(kind: type, name: str, value: Any) -> None:
    default = next(field.default for field in dataclasses.fields(kind) if field.name == name)
    if (value is None and default is None) or (name == "id" and isinstance(value, str)):
        assert made(kind, name, value) is value
        return
    with pytest.raises(UsageError, match=f"^{name}.* must be "):
        made(kind, name, value)


def test_decoding_params_accept_seeds_of_64_bits() -> None:
    assert DecodingParams(seed=np.iinfo(np.uint64).max).seed == 2**64 - 1  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="seed must be between 0 and 18446744073709551615"):
        DecodingParams(seed=2**64)


@pytest.mark.parametrize(
    "tokens", [np.array([5, 6]), torch.tensor([5, 6]), list(np.array([5, 6])), (5, 6), range(5, 7)]
)
def test_decoding_params_accept_arrays_of_tokens_and_store_tuples(tokens: Any) -> None:
    params = DecodingParams(suppress_tokens=tokens, bad_words_ids=[tokens, [np.int64(7)]])  # pyright: ignore[reportArgumentType]
    assert (params.suppress_tokens, params.bad_words_ids) == ((5, 6), ((5, 6), (7,)))
    assert params == DecodingParams(suppress_tokens=(5, 6), bad_words_ids=((5, 6), (7,)))
    assert hash(params) == hash(dataclasses.replace(params))
    assert json.loads(json.dumps(dataclasses.asdict(params)))["suppress_tokens"] == [5, 6]


@pytest.mark.parametrize(
    "tokens", [5, "56", [5.0], [True], [-1], [], np.zeros((0,), int), np.array([0.5]), {5: 6}, [[5]]]
)
def test_decoding_params_refuse_other_token_lists(tokens: Any) -> None:
    with pytest.raises(UsageError, match=r"suppress_tokens must look like \[12, 9\]"):
        DecodingParams(suppress_tokens=tokens)
    with pytest.raises(UsageError, match=r"bad_words_ids must look like \[\[12, 7\], \[9\]\]"):
        DecodingParams(bad_words_ids=[tokens])  # pyright: ignore[reportArgumentType]


def test_decoding_params_accept_two_finite_numbers_as_soft_max_length() -> None:
    assert DecodingParams(soft_max_length=np.array([0.5, 20])).soft_max_length == (0.5, 20.0)  # pyright: ignore[reportArgumentType]
    for wrong in ((1,), (1, 2, 3), (1, float("nan")), (float("inf"), 1), (-1, 2), ("1", 2), (True, 2), 5, "ab"):
        with pytest.raises(UsageError, match=r"soft_max_length must look like \(a, b\)"):
            DecodingParams(soft_max_length=wrong)  # pyright: ignore[reportArgumentType]
