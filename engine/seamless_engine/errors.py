"""The exceptions that the engine raises on purpose. Each message says what the caller can do."""


class SeamlessError(Exception):
    """The base class of all exceptions that this package raises on purpose.

    In `Result.error`, an instance of this class itself is a fault of the engine; its message names the Python error.
    """


class UsageError(SeamlessError, ValueError):
    """The call is wrong, whatever the checkpoint is. Raised before any work if possible."""


class UnknownLanguageError(UsageError):
    """The checkpoint does not have the language for the task; the message suggests a similar code if there is one."""


class CheckpointError(SeamlessError):
    """The checkpoint cannot be used; the message names the file and the tensor or field."""


class InputError(SeamlessError, ValueError):
    """The audio or text of one request cannot be processed. Other requests are not affected."""


class AudioError(InputError):
    """The audio cannot be read, or is too short, too long or not finite."""


class CapacityError(InputError):
    """The request does not fit the limits or the memory of the engine; the message says which option to change.

    out_of_memory: the memory of the device was too small for the request alone.
    """

    def __init__(self, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


class CancelledError(SeamlessError):
    """The request was cancelled before it was finished; `finish_reason` is "cancelled"."""


class DeadlineError(CancelledError):
    """The timeout of the request passed before it was finished."""


class NumericalError(SeamlessError):
    """The model produced NaN for this request. Other requests are not affected."""


class EngineClosedError(SeamlessError):
    """The engine takes no more requests: it was closed, or the thread of an AsyncEngine failed. `__cause__` is then the
    error of the thread."""
