"""Processes that decode audio files, so that a decoder that crashes, hangs or takes all memory loses one file."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from queue import LifoQueue
from typing import Any

import numpy as np

from seamless_engine.errors import AudioError, EngineClosedError, UsageError
from seamless_engine.inputs.audio_files import decode_file
from seamless_engine.inputs.audio_samples import Warn
from seamless_engine.inputs.decode_worker import LENGTH

_Content = bytes | memoryview
_Answer = tuple[dict[str, Any], np.ndarray | None]
_COMMAND = (sys.executable, "-P", "-m", "seamless_engine.inputs.decode_worker")
_PATIENCE = 1.0  # seconds; the kernel can hold a killed process longer, in a read of a disk that is gone


class DecodePool:
    """Decodes in up to `processes` processes, which are started when they are needed. Any thread may use it.

    timeout: seconds that a file may take.
    """

    def __init__(self, processes: int, timeout: float) -> None:
        self._processes = processes
        self._timeout = timeout
        self._closed = False
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._places: LifoQueue[_Worker | None] = LifoQueue()  # a process that is warm is used before one is started
        for _ in range(processes):
            self._places.put(None)

    def decode(self, audio: Any, max_seconds: float, warn: Warn) -> np.ndarray:
        """As `decode_file`. A path, or what is in memory, is decoded in a process; another file object, here.

        Raises AudioError also if the process ends, or does not answer in time; EngineClosedError.
        """
        request, content = _request(audio)
        if request is None:
            return decode_file(audio, max_seconds, warn)
        label = request["label"]
        try:
            reply, samples = self._ask(request | {"max_seconds": max_seconds, "timeout": self._timeout}, content)
        except TimeoutError:
            raise AudioError(
                f"{label} could not be decoded within {self._timeout:g} s: convert it, or raise decode_timeout"
            ) from None
        except _EndedError as error:
            if self._closed:
                raise _closed() from None
            raise AudioError(f"{label} could not be decoded: the process that did so {error}") from None
        for sentence in reply["warnings"]:
            warn(sentence)
        if samples is None:
            raise _error(label, reply["error"], reply["message"])
        return samples

    def close(self) -> None:
        """End the processes. What they are decoding raises EngineClosedError; a second close does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for worker in self._workers:
                worker.process.kill()  # the thread that waits for it gives its place back
        for worker in [self._places.get() for _ in range(self._processes)]:
            self._end(worker)
            self._places.put(None)

    def _ask(self, request: dict[str, Any], content: _Content) -> _Answer:
        worker = self._places.get()
        try:
            if worker is None or worker.process.poll() is not None:
                self._end(worker)
                worker = None
                worker = self._start()
                worker.wait_until_ready()
            return worker.ask(request, content, self._timeout)
        except BaseException:  # the next file gets another process
            self._end(worker)
            worker = None
            raise
        finally:
            self._places.put(worker)

    def _start(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise _closed()
            worker = _Worker()
            self._workers.add(worker)
            return worker

    def _end(self, worker: _Worker | None) -> None:
        if worker is not None:
            worker.end()
            with self._lock:
                self._workers.discard(worker)


class _EndedError(Exception):
    """The process has ended; the text says how."""


class _Worker:
    """A process, which one thread at a time asks. It ends with its engine's process, however that ends."""

    def __init__(self) -> None:
        paths = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},  # its threads would do nothing
            process_group=0,  # Ctrl-C is for the engine's process
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._requests, self._replies = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._requests, False)
        self.end = weakref.finalize(self, _end, self.process, os.getpid())

    def wait_until_ready(self) -> None:
        """Raises _EndedError."""
        self._receive(1, None)

    def ask(self, request: dict[str, Any], content: _Content, timeout: float) -> _Answer:
        """The reply, and the samples if it has any. Raises _EndedError, and TimeoutError after `timeout` seconds in
        which the process takes and gives nothing."""
        header = json.dumps(request).encode()
        self._send(LENGTH.pack(len(header)) + header, timeout)
        self._send(content, timeout)
        (length,) = LENGTH.unpack(self._receive(LENGTH.size, timeout))
        reply = json.loads(self._receive(length, timeout))
        if "samples" not in reply:
            return reply, None
        samples = np.empty(reply["samples"], np.float32)
        self._fill(samples.data.cast("B"), timeout)
        return reply, samples

    def _send(self, content: _Content, timeout: float) -> None:
        view = memoryview(content).cast("B")
        while view:
            _wait(self._requests, select.POLLOUT, timeout)
            try:
                view = view[os.write(self._requests, view) :]
            except BrokenPipeError:
                raise self._ended() from None

    def _receive(self, size: int, timeout: float | None) -> bytearray:
        received = bytearray(size)
        self._fill(memoryview(received), timeout)
        return received

    def _fill(self, view: memoryview, timeout: float | None) -> None:
        while view:
            _wait(self._replies, select.POLLIN, timeout)
            count = os.readv(self._replies, [view])
            if not count:
                raise self._ended()
            view = view[count:]

    def _ended(self) -> _EndedError:
        try:
            status = self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return _EndedError("closed its output")
        if status >= 0:
            return _EndedError(f"ended with exit status {status}")
        return _EndedError(f"was ended by {signal.Signals(-status).name}")


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:
        return  # in a forked child: the process belongs to the parent
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def _wait(file: int, event: int, timeout: float | None) -> None:
    poll = select.poll()
    poll.register(file, event)
    if not poll.poll(None if timeout is None else timeout * 1000):
        raise TimeoutError


def _request(audio: Any) -> tuple[dict[str, Any] | None, _Content]:
    """What a process is asked, and the bytes that it is sent. None if only this process can read the audio."""
    if isinstance(audio, str | os.PathLike):
        label = os.fsdecode(audio)
        try:
            path = label and os.path.join(os.getcwd(), label)  # the process stays where it was started
        except OSError as error:
            raise AudioError(f"{label} cannot be read: {error.strerror}") from None
        return {"label": label, "path": path}, b""
    label = "the audio bytes"
    if isinstance(audio, io.BytesIO):
        label = str(getattr(audio, "name", "the audio file object"))
        audio = audio.getbuffer()
    if isinstance(audio, bytes | bytearray | memoryview):
        content = memoryview(audio).cast("B")
        return {"label": label, "size": len(content)}, content
    return None, b""


def _error(label: str, kind: str, message: str) -> Exception:
    if kind == "AudioError":
        return AudioError(message)
    if kind == "UsageError":
        return UsageError(message)
    if kind == "MemoryError":
        return AudioError(f"{label} could not be decoded: it takes far more memory than a clip of the greatest length")
    return RuntimeError(f"{kind}: {message}")


def _closed() -> EngineClosedError:
    return EngineClosedError("this engine was closed: load it again with Engine.from_pretrained")
