"""Every exception the engine raises on purpose. Each message says what to do about it."""


class SeamlessError(Exception):
    """Root of the tree: `except SeamlessError` catches whatever this package raises on purpose."""


class UsageError(SeamlessError, ValueError):
    """The call is wrong whatever the model does. Raised before any work starts, where that can be seen so early."""


class UnknownLanguageError(UsageError):
    """A language code that the checkpoint does not have for the task; names the one that must be meant, if any."""


class CheckpointError(SeamlessError):
    """The checkpoint folder cannot be used; names the file and the tensor or field."""


class InputError(SeamlessError, ValueError):
    """One request's audio or text cannot be processed. It ends that request and no other."""


class AudioError(InputError):
    """Audio that cannot be read, or is too short, too long or not finite."""


class CapacityError(InputError):
    """The request can never fit the pools or the memory of this engine; says what to change.

    out_of_memory: the memory of the device was full when the request ran alone.
    """

    def __init__(self, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


class CancelledError(SeamlessError):
    """The request was given up before it was finished; `finish_reason` is "cancelled"."""


class DeadlineError(CancelledError):
    """The request's own timeout passed."""


class NumericalError(SeamlessError):
    """The model produced a NaN for this request; its neighbours are not affected."""


class EngineClosedError(SeamlessError):
    """An engine that takes no more requests: it was closed, or the thread of an AsyncEngine failed, and then
    `__cause__` says why."""
