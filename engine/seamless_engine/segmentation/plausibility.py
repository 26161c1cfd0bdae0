"""Whether a transcript can be one of its speech: models that meet a clip of a kind unknown to them stop early, or say
the same again and again."""

from __future__ import annotations


def transcript_warnings(text: str, seconds: float) -> list[str]:
    """What is wrong with a transcript of so many seconds of speech, a sentence each; empty if it is plausible."""
    raise NotImplementedError
