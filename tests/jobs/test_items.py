"""Entries of every kind of input: their ids, tasks and requests, and that nothing in a manifest stops a job."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from seamless_engine import DecodingParams, Request, UsageError
from seamless_engine.jobs.inputs import find_inputs
from seamless_engine.jobs.items import Defaults, Item, Rejected, parse_tasks
from seamless_engine.jobs.manifest import MAX_LINE
from seamless_engine.jobs.progress import Counts
from seamless_engine.jobs.run import read_items
from support.jobs import write_lines

DEFAULTS = Defaults(tasks=(("t2tt", None),), src_lang="eng", tgt_lang="fra")
HEARD = Defaults(tasks=(("asr", "eng"),))


def check(request: Request) -> str:
    return request.tgt_lang


def items(names: Sequence[str | Path], defaults: Defaults = DEFAULTS, **options: Any) -> Iterator[Item | Rejected]:
    inputs = find_inputs([str(name) for name in names], **options)
    return read_items(inputs, defaults, check, (1, 1), Counts())


def found(names: Sequence[str | Path], defaults: Defaults = DEFAULTS, **options: Any) -> list[Item]:
    all_of = list(items(names, defaults, **options))
    assert all(isinstance(item, Item) for item in all_of), [getattr(item, "message", "") for item in all_of]
    return all_of  # pyright: ignore[reportReturnType]


def rejected(names: Sequence[str | Path], defaults: Defaults = DEFAULTS) -> list[tuple[str, str, str]]:
    """(place, kind, message) of what is wrong."""
    return [(item.place, item.kind, item.message) for item in items(names, defaults) if isinstance(item, Rejected)]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with clips of 1 s at 8 kHz, in it and below it, and other files."""
    for name in ("b.wav", "a.flac", "sub/a.wav", "sub/deep/c.WAV", "out/audio/x.wav", ".hidden/d.wav", "._b.wav"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.linspace(-0.5, 0.5, 8000), 8000, format="FLAC" if name.endswith("flac") else "WAV")
    (tmp_path / "clips" / "notes.txt").write_text("no clip")
    return tmp_path / "clips"


def test_items_of_a_folder_are_its_clips_in_order_with_their_paths_as_ids(clips: Path):
    ids = ["a.flac", "b.wav", "sub/a.wav", "sub/deep/c.WAV"]
    assert [item.id for item in found([clips], HEARD, leave_out=str(clips / "out"))] == ids


def test_items_of_a_pattern_are_named_from_its_fixed_folder_on(clips: Path):
    assert [item.id for item in found([clips / "sub" / "**" / "*.[wW]*"], HEARD)] == ["a.wav", "deep/c.WAV"]
    assert [item.id for item in found([clips / "*" / "a.wav"], HEARD)] == ["sub/a.wav"]


def test_items_of_texts_are_lines_with_their_numbers(tmp_path: Path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffone\r\n\r\n  two \nthree".encode())
    assert [(item.id, item.request.text) for item in found([path])] == [
        ("lines.txt:1", "one"),
        ("lines.txt:3", "two"),
        ("lines.txt:4", "three"),
    ]


@pytest.mark.parametrize("kind", ["jsonl", "tsv", "csv", "parquet"])
def test_items_of_a_manifest_are_the_same_in_every_format(kind: str, tmp_path: Path):
    entries = [
        {"id": "1", "text": 'say "no", please', "task": "t2tt:deu", "src_lang": "fra", "params": '{"num_beams": 3}'},
        {"id": "2", "text": "plain"},
    ]
    path = tmp_path / f"list.{kind}"
    names = list(entries[0])
    if kind == "jsonl":
        write_lines(path, entries)
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(entries), path)
    else:
        separator = "\t" if kind == "tsv" else ","
        rows = [[entry.get(name, "") for name in names] for entry in entries]
        if kind == "csv":
            rows = [[f'"{value.replace(chr(34), chr(34) * 2)}"' for value in row] for row in rows]
        path.write_text("\n".join(separator.join(row) for row in [names, *rows]))
    one, two = found([path])
    assert (one.id, one.task, one.tgt_lang, one.request.src_lang) == ("1", "t2tt", "deu", "fra")
    assert (one.request.text, one.request.params) == ('say "no", please', DecodingParams(num_beams=3))
    assert (two.request.text, two.tgt_lang, two.request.params) == ("plain", "fra", DecodingParams())


def test_items_of_a_parquet_file_have_the_bytes_of_its_audio_column(clips: Path, tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    content = (clips / "b.wav").read_bytes()
    rows = [{"audio": {"bytes": content, "path": "b.wav"}, "score": float("nan")}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    [item] = found([tmp_path / "data.parquet"], HEARD)
    assert (item.id, item.request.audio, item.fields["score"]) == ("b.wav", content, None)


def test_items_have_the_keys_of_nemo_and_of_m4t_manifests(clips: Path):
    nemo = {"audio_filepath": "b.wav", "duration": 1.0, "source_lang": "en", "target_lang": "de", "taskname": "ast"}
    m4t = {"source": {"id": 7, "lang": "eng", "audio_local_path": "b.wav"}, "target": {"lang": "deu", "text": "ja"}}
    path = write_lines(clips / "list.jsonl", [nemo, nemo | {"taskname": "asr"}, m4t | {"task": "s2tt"}])
    assert [(item.id, item.task, item.tgt_lang, item.request.audio) for item in found([path])] == [
        ("b.wav", "s2tt", "de", str(clips / "b.wav")),
        ("b.wav", "asr", "en", str(clips / "b.wav")),
        ("7", "s2tt", "deu", str(clips / "b.wav")),
    ]


def test_items_of_one_clip_have_its_tasks_and_the_voice_where_it_is_heard(clips: Path):
    entry = {"audio": "b.wav", "task": "asr, S2TT:fra,s2st:deu", "src_lang": "eng", "speaker_id": 2}
    path = write_lines(clips / "list.jsonl", [entry])
    assert [(item.task, item.tgt_lang, item.request.speaker_id) for item in found([path])] == [
        ("asr", "eng", None),
        ("s2tt", "fra", None),
        ("s2st", "deu", 2),
    ]


def test_items_with_an_offset_have_that_part_of_the_clip(clips: Path):
    samples, rate = soundfile.read(clips / "b.wav", dtype="float32")
    entries = [{"audio": "b.wav", "offset": start, "duration": length} for start, length in [(0.25, 0.5), (0, 0.999)]]
    entries += [{"audio": "b.wav", "offset": 0.5}, {"audio": "b.wav", "offset": 2}]
    cut, whole, rest, beyond = found([write_lines(clips / "list.jsonl", entries)], HEARD)
    assert [item.id for item in (cut, whole, rest)] == ["b.wav@0.25+0.5", "b.wav@0+0.999", "b.wav@0.5"]
    for item, expected in ((cut, samples[2000:6000]), (rest, samples[4000:])):
        assert item.part is not None
        content = item.part.read()
        assert isinstance(content, bytes)
        (clips / "part.wav").write_bytes(content)
        read, read_rate = soundfile.read(clips / "part.wav", dtype="float32")
        assert read_rate == rate and np.array_equal(read, expected)
    assert whole.part is not None and whole.part.read() == str(clips / "b.wav")
    with pytest.raises(ValueError, match="lasts 1.00 s, and the part would start at 2.00 s"):
        assert beyond.part is not None and beyond.part.read()


HOSTILE = [
    ("{", "manifest", "no JSON"),
    ("[1]", "manifest", "no object with keys"),
    ('{"id": "a", "text": NaN}', "manifest", "NaN is no number of JSON"),
    ('{"id": "a", "text": "b", "x": 1e999}', "manifest", "too large a number"),
    ('{"x": ' + "9" * 5000 + "}", "manifest", "no JSON"),
    ("[" * 100_000, "manifest", "nested too deeply"),
    ('{"x": ' + '{"x": ' * 60 + "1" + "}" * 61, "manifest", "nested too deeply"),
    ('{"id": "' + "x" * 1_000_000 + '"}', "manifest", f"more than {MAX_LINE} bytes"),
    ('{"id": "' + "x" * 5000 + '"}', "manifest", "id has more than 4096 characters"),
    (b"\x00\x01\xff\xfe", "manifest", "not UTF-8"),
    ('{"id": "\\ud800", "text": "b"}', "manifest", "half a surrogate pair"),
    ('{"id": true, "text": "b"}', "manifest", "id must be a string or an integer"),
    ('{"id": "a"}', "usage", "t2tt needs text"),
    ('{"id": "a", "text": 7}', "usage", "text must be a string"),
    ('{"id": "a", "text": "b", "task": "sing"}', "usage", "unknown task 'sing'"),
    ('{"id": "a", "text": "b", "task": "t2tt,t2tt"}', "usage", "names a task twice"),
    ('{"id": "a", "text": "b", "tgt_lang": 5}', "usage", "tgt_lang must be the code"),
    ('{"id": "a", "text": "b", "task": "t2st", "speaker_id": "x"}', "usage", "speaker_id must be an integer"),
    ('{"id": "a", "text": "b", "offset": -1}', "usage", "offset must be a number of seconds"),
    ('{"id": "a", "text": "b", "params": {"num_beam": 5}}', "usage", "did you mean num_beams?"),
    ('{"id": "a", "text": "b", "params": {"num_beams": 0}}', "usage", "num_beams must be between"),
    ('{"id": "a", "audio": [1]}', "usage", "the audio of an entry is a path"),
]


def test_items_tell_what_is_wrong_with_a_line_and_go_on(tmp_path: Path):
    good = '{"text": "good"}'
    lines = [line for wrong, _, _ in HOSTILE for line in (wrong, good)]
    path = write_lines(tmp_path / "list.jsonl", lines)
    all_of = list(items([path]))
    assert [type(item) for item in all_of] == [Rejected, Item] * len(HOSTILE)
    said = [item for item in all_of if isinstance(item, Rejected)]
    for number, (item, (_, kind, message)) in enumerate(zip(said, HOSTILE, strict=True)):
        assert (item.place, item.kind) == (f"list.jsonl:{2 * number + 1}", kind)
        assert message in item.message and len(item.message) < 1000


def test_items_tell_what_is_wrong_with_a_line_of_a_table(tmp_path: Path):
    path = tmp_path / "list.csv"
    path.write_bytes(b'text,id\ngood,1\n"open,2\ntoo,many,3\n\xff,4\nlast,5\n')
    assert rejected([path]) == [
        ("list.csv:3", "manifest", "the line is no CSV: unexpected end of data"),
        ("list.csv:4", "manifest", "the line has 3 values, the header 2"),
        ("list.csv:5", "manifest", "the line is not UTF-8 at its byte 1"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.tsv", b"id\tname\n1\t2\n", "needs a header that names each column once"),
        ("list.tsv", b"text\ttext\n1\t2\n", "needs a header that names each column once"),
        ("list.csv", b"", "needs a header"),
        ("list.parquet", b"PAR1", "cannot be read as parquet"),
        ("clips/notes.md", b"", "has no audio"),
        ("list.jsonx", None, "does not exist"),
    ],
)
def test_find_inputs_refuses_what_has_no_entries(name: str, content: bytes | None, message: str, tmp_path: Path):
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        find_inputs([str(path.parent if name.startswith("clips") else path)])
    with pytest.raises(UsageError, match="no file has a name like"):
        find_inputs([str(tmp_path / "*.nothing")])


def test_find_inputs_refuses_a_pipe_and_does_not_wait_for_it(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UsageError, match="is not a regular file: give - and pass the texts to stdin"):
        find_inputs([str(tmp_path / "pipe.jsonl")])


def test_items_ignore_the_speaker_of_a_clip_where_no_speech_is_made(clips: Path):
    path = write_lines(clips / "list.jsonl", [{"audio": "b.wav", "speaker_id": "Ada"}])
    assert [item.request.speaker_id for item in found([path], HEARD)] == [None]


def test_parse_tasks_reads_tasks_with_their_languages():
    assert parse_tasks("ASR,s2tt:fra , t2st:deu") == (("asr", None), ("s2tt", "fra"), ("t2st", "deu"))


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_items_survive_any_change_of_a_manifest(count: int, tmp_path: Path):
    rng = random.Random(count)
    entry = {
        "id": "a/b",
        "audio": "x.wav",
        "task": "asr:eng,s2tt",
        "tgt_lang": "fra",
        "offset": 0.5,
        "params": {"top_k": 3},
    }
    original = "".join(json.dumps(entry | {"id": f"a/{index}"}) + "\n" for index in range(4)).encode()
    for _ in range(count):
        content = bytearray(original)
        for _ in range(rng.randint(1, 6)):
            start = rng.randrange(len(content))
            change = rng.choice(
                [b"", bytes([rng.randrange(256)]), b'"', b"{", b"\\ud800", b"NaN", b"null", b"\n", b"-1"]
            )
            content[start : start + rng.randint(0, 3)] = change
        path = tmp_path / f"list.{rng.choice(['jsonl', 'txt'])}"
        path.write_bytes(content)
        for item in items(
            [path], Defaults((("asr", "eng"),) if path.suffix == ".jsonl" else (("t2tt", "fra"),), "eng")
        ):
            assert isinstance(item, Item) or (item.kind in ("manifest", "usage") and item.message)


def test_items_of_a_long_manifest_take_no_more_memory_than_of_a_short_one(tmp_path: Path):
    def peak(count: int) -> int:
        path = write_lines(tmp_path / "list.jsonl", [{"id": str(index), "text": "a"} for index in range(count)])
        tracemalloc.start()
        assert sum(1 for _ in items([path])) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)  # what is imported or cached once
    assert peak(20_000) < 2 * peak(2_000)
