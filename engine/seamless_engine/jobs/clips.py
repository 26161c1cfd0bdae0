"""The part of a clip that a manifest names by offset and duration."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import soundfile

from seamless_engine.errors import AudioError

_NEAR = 0.01  # seconds: a part that ends so near to the end of the clip ends with it; manifests have rounded lengths


@dataclass(slots=True, eq=False)
class Part:
    """Seconds of a clip: duration None is up to its end. The items of one entry share it, and read it once.

    audio: a path, or the bytes of a file.
    """

    audio: str | bytes
    offset: float
    duration: float | None
    _content: str | bytes | None = None

    def read(self) -> str | bytes:
        """The clip itself where the part is all of it, else the bytes of a WAV file with its samples, as they are.

        Raises AudioError.
        """
        if self._content is None:
            self._content = self._read()
        return self._content

    def _read(self) -> str | bytes:
        name = "the clip" if isinstance(self.audio, bytes) else self.audio
        try:
            # A pipe would block.
            if isinstance(self.audio, str) and not os.path.isfile(self.audio):
                raise AudioError(
                    f"{name} cannot be read: {'not a regular file' if os.path.exists(name) else 'No such file'}"
                )
            with soundfile.SoundFile(io.BytesIO(self.audio) if isinstance(self.audio, bytes) else self.audio) as file:
                return self._cut(file, name)
        except (soundfile.LibsndfileError, OSError, ValueError, RuntimeError) as error:
            if isinstance(error, AudioError):
                raise
            reason = getattr(error, "error_string", None) or error
            raise AudioError(
                f"{name} cannot be cut at an offset or a duration: {reason}. Convert it to wav or flac"
            ) from None

    def _cut(self, file: soundfile.SoundFile, name: str) -> str | bytes:
        length = file.frames / file.samplerate
        end = length if self.duration is None else self.offset + self.duration
        if self.offset >= length:
            raise AudioError(f"{name} lasts {length:.2f} s, and the part would start at {self.offset:.2f} s")
        if self.offset == 0 and end >= length - _NEAR:
            return self.audio
        start = round(self.offset * file.samplerate)
        stop = file.frames if end >= length - _NEAR else round(end * file.samplerate)
        file.seek(start)
        content = io.BytesIO()
        with soundfile.SoundFile(content, "w", file.samplerate, file.channels, "FLOAT", format="WAV") as written:
            for block in file.blocks(1 << 16, frames=stop - start, dtype="float32"):
                written.write(block)
        return content.getvalue()
