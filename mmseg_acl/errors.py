"""What ends a run for a reason that its user has to know and no traceback would tell better."""

from __future__ import annotations


class RunError(Exception):
    """Ends a program with its message alone and with ``status``; see ``mmseg_acl.engine.user_errors``."""

    status = 1


class DataError(RunError, ValueError):
    """An image or mask that turned out to be unusable when it was read."""

    def __str__(self) -> str:
        # A loader's worker process sends its whole traceback as the message; its last line is the message.
        text = super().__str__()
        return text.rpartition('DataError: ')[2].strip() if 'Original Traceback' in text else text


class CheckpointError(RunError):
    """A checkpoint that could not be written."""


class NonFiniteError(RunError):
    """A loss or weight that is NaN or infinite."""


class Stopped(RunError):
    """A run that was asked to stop by a signal.

    Args:
        message: What was saved and how to go on.
        signal: Number of the signal; the exit status is 128 more, as a shell has it.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.status = 128 + signal
