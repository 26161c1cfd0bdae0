"""Files that others read, made of a line of results.jsonl: txt, srt, vtt, tsv and json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Line = Mapping[str, Any]


def written_as(format: str, line: Line) -> bytes | None:
    """The content of the file; None if the format has times, and the input none."""
    if format not in ("txt", "json") and line["audio_seconds"] is None:
        return None
    return FORMATS[format](line).encode(errors="backslashreplace")


def _txt(line: Line) -> str:
    return f"{line['text']}\n"


def _json(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False, indent=2) + "\n"


def _srt(line: Line) -> str:
    return "\n".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n"
        for number, (start, end, text) in enumerate(_cues(line), 1)
    )


def _vtt(line: Line) -> str:
    cues = "".join(f"\n{_clock(start, '.')} --> {_clock(end, '.')}\n{text}\n" for start, end, text in _cues(line))
    return f"WEBVTT\n{cues}"


def _tsv(line: Line) -> str:
    return "start\tend\ttext\n" + "".join(
        f"{start}\t{end}\t{' '.join(text.split())}\n" for start, end, text in _cues(line)
    )


FORMATS: dict[str, Callable[[Line], str]] = {"txt": _txt, "srt": _srt, "vtt": _vtt, "tsv": _tsv, "json": _json}


def _cues(line: Line) -> Iterator[tuple[int, int, str]]:
    """(start, end, text), in milliseconds: of the segments, or of a clip that was not cut."""
    whole = {"start": 0.0, "end": line["audio_seconds"], "text": line["text"]}
    for segment in line["segments"] or [whole]:
        text = " ".join(segment["text"].replace("-->", "->").split())
        if text:
            yield round(segment["start"] * 1000), round(segment["end"] * 1000), text


def _clock(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{rest:03d}"
