"""The process that decodes audio files for a `DecodePool`. It reads requests from its input and writes replies.

    at start   one byte: the libraries are loaded
    request    {label, max_seconds, timeout, path} or {label, max_seconds, timeout, size}, and `size` bytes: a file
    reply      {warnings, samples}, and float32 samples; or {warnings, error, message}

Braces are JSON behind its length, `LENGTH`. A decoder that crashes, hangs or takes all memory does so in here, and one
file is lost. Imports no torch.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from seamless_engine.errors import AudioError, UsageError
from seamless_engine.inputs.audio_files import decode_opened, opened
from seamless_kernels.framing import SAMPLING_RATE

LENGTH = struct.Struct("<q")
_COPIES = 3  # of the samples: blocks, the blocks joined, and what the heap keeps
_ROOM = 1 << 30  # bytes for the libraries and their buffers
_GRACE = 1.0  # seconds; a process whose engine is gone ends so long after the time limit


def limit_memory(max_seconds: float, size: int) -> None:
    """From here on, what takes more than a clip of `max_seconds` and a file of `size` bytes raises MemoryError."""
    if sys.platform != "linux":
        return  # elsewhere the limit has no effect, or counts other memory
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    clip = int(max_seconds * SAMPLING_RATE) * np.dtype(np.float32).itemsize
    limit = pages * resource.getpagesize() + size + _COPIES * clip + _ROOM
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def serve(requests: io.BufferedReader, replies: int) -> None:
    """Answer requests until there are no more. replies: a file descriptor."""
    _write(replies, b"\n")
    while prefix := requests.read(LENGTH.size):
        request = json.loads(requests.read(*LENGTH.unpack(prefix)))
        content = requests.read(request.get("size", 0))
        signal.setitimer(signal.ITIMER_REAL, request["timeout"] + _GRACE)
        said: list[str] = []
        samples, found = _decoded(request, content, said)
        del content
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        reply = json.dumps({"warnings": said, **found}).encode()
        _write(replies, LENGTH.pack(len(reply)) + reply)
        if samples is not None:
            _write(replies, samples.data.cast("B"))


def _decoded(request: dict[str, Any], content: bytes, said: list[str]) -> tuple[np.ndarray | None, dict[str, Any]]:
    """The samples, and what a reply says of them."""
    label, max_seconds = request["label"], request["max_seconds"]
    try:
        limit_memory(max_seconds, len(content))
        if "path" in request:
            with opened(request["path"], label) as (file, _):
                samples = decode_opened(file, label, max_seconds, said.append)
        else:
            samples = decode_opened(io.BytesIO(content), label, max_seconds, said.append)
    except Exception as error:
        kind = next((one for one in (AudioError, UsageError, MemoryError) if isinstance(error, one)), type(error))
        return None, {"error": kind.__name__, "message": str(error)}
    return samples, {"samples": len(samples)}


def _write(file: int, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def main() -> None:
    # Replies have a descriptor above the standard ones, and what a decoder prints goes nowhere.
    replies = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the process, even in the middle of a decoder
    try:
        serve(open(0, "rb"), replies)
    except BrokenPipeError:
        pass  # the engine is gone


if __name__ == "__main__":
    main()
