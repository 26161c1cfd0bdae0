"""The process of a command: standard streams that may be closed, full or of another encoding, signals, and faults.

Each of them ends in one line on stderr and an exit code, not in a traceback.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TextIO

from seamless_engine.errors import InputError, UsageError

FAILED = 1
PLEASE_REPORT = (
    "Please report this, with what `seamless-engine env` prints and the traceback that SEAMLESS_DEBUG=1 in the "
    "environment adds"
)
_SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class StdoutError(Exception):
    """stdout is closed or full, or its reader has ended; the message says which."""


def run(command: Callable[[], int], own_process: bool = False) -> int:
    """Run a command. Returns its exit code, or that of the signal or error that stopped it. SystemExit passes through.

    own_process: the process exists for this call, and SIGINT and SIGTERM end it.
    """
    _prepare_streams()
    stopped: list[int] = []
    handled = _stop_on_signals(stopped) if own_process else []
    try:
        try:
            return command()
        finally:
            for number in handled:
                signal.signal(number, signal.SIG_DFL)  # from here on a signal ends the process at once
            _flush()
    except (Exception, KeyboardInterrupt) as error:
        # An import that a signal interrupts may raise another error.
        if stopped or isinstance(error, KeyboardInterrupt):
            number = stopped[0] if stopped else signal.SIGINT
            return fail(128 + number, _SIGNALS[signal.Signals(number)])
        if isinstance(error, StdoutError):
            if isinstance(error.__cause__, BrokenPipeError):
                return 128 + signal.SIGPIPE  # the reader has ended, as `| head` does
            return fail(FAILED, f"stdout cannot be written: {error}")
        if debugging():
            tell("".join(traceback.format_exception(error)).rstrip())
        message = " ".join(str(error).split())
        return fail(FAILED, f"unexpected {type(error).__name__}: {message}. {PLEASE_REPORT}")


def debugging() -> bool:
    """Whether SEAMLESS_DEBUG asks for tracebacks."""
    return os.environ.get("SEAMLESS_DEBUG", "0") not in ("", "0")


def log_to_stderr(name: str) -> None:
    """Write log messages to stderr: those of `name` from INFO on, all others from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s") if debugging() else _WithoutTraceback("%(message)s"))
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger(name).setLevel(logging.INFO)


class _WithoutTraceback(logging.Formatter):
    def formatException(self, ei: object) -> str:
        return ""


def emit(text: str) -> None:
    """Print a line on stdout and flush. Raises StdoutError."""
    _write(lambda stdout: print(text, file=stdout))


def emit_bytes(content: bytes) -> None:
    """Write to stdout and flush. Raises StdoutError."""
    _write(lambda stdout: stdout.buffer.write(content))


def tell(text: str) -> None:
    """Print a line on stderr, if it can be written."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _disconnect(sys.stderr)


def fail(code: int, message: object) -> int:
    """Print on stderr why the command fails. Returns `code`."""
    tell(f"seamless-engine: {message}")
    return code


def require_stdout() -> None:
    """Raises StdoutError if it is closed."""
    if sys.stdout is None:
        raise StdoutError("it is closed. Use `> file`, or `> /dev/null` to drop what is printed")


def is_stdout(path: str) -> bool:
    """Whether the path is the file of stdout: /dev/stdout, or the file to which it is redirected."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError, AttributeError):
        return False


def read_bytes() -> bytes:
    """All of stdin. Raises UsageError if it is closed, InputError if it is empty or cannot be read."""
    if sys.stdin is None:
        raise UsageError("stdin is closed: give the input with `< file` or `|`, or as an argument instead of -")
    try:
        content = sys.stdin.buffer.read()
    except OSError as error:
        raise InputError(f"stdin cannot be read: {error.strerror or error}") from None
    if not content:
        raise InputError("stdin is empty")
    return content


def read_text() -> str:
    """The text on stdin, without surrounding white space. Raises as `read_bytes`, InputError if it is not text."""
    content = read_bytes()
    encoding = sys.stdin.encoding
    try:
        return content.decode(encoding).removeprefix("\ufeff").strip()  # the byte order mark of some editors
    except UnicodeDecodeError as error:
        raise InputError(
            f"stdin is not {encoding} text, at byte {error.start}: convert it, for example with iconv, or name its "
            "encoding in PYTHONIOENCODING"
        ) from None


def _prepare_streams() -> None:
    # Fill the numbers of closed streams. Otherwise the next file would get one of them, and what libraries print there.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")  # for letters that the encoding does not have


def _stop_on_signals(stopped: list[int]) -> list[signal.Signals]:
    """Make SIGINT and SIGTERM raise KeyboardInterrupt and append their number to `stopped`.

    Returns the signals that are handled now; ignored signals stay ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
        stopped.append(number)
        raise KeyboardInterrupt

    handled = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, stop)
    return handled


def _write(write: Callable[[io.TextIOWrapper], object]) -> None:
    require_stdout()
    try:
        write(sys.stdout)  # pyright: ignore[reportArgumentType]
        sys.stdout.flush()
    except OSError as error:
        _disconnect(sys.stdout)
        raise StdoutError(error.strerror or str(error)) from error


def _flush() -> None:
    """Flush the streams, to get their errors here and not at the exit of the process."""
    try:
        sys.stderr.flush()
    except OSError:
        _disconnect(sys.stderr)
    if sys.stdout is not None:
        _write(lambda stdout: None)


def _disconnect(stream: TextIO) -> None:
    """Redirect a stream that failed to /dev/null. Its buffer would fail again at the exit of the process."""
    with contextlib.suppress(OSError, ValueError):  # if the stream has no file descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
