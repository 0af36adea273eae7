"""Commands under way, and what they print."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# So much of a log's end tells whether it is still the same log.
TAIL = 256


class Process:
    """A command that ends when its work does, in a group of its own: it may be a shell or a launcher of several.

    Args:
        words: The command and its arguments.
        output: What it prints is added to this file.

    Raises:
        OSError: It cannot be started.
    """

    waits_for = ''

    def __init__(self, words: Sequence[str], output: Path) -> None:
        with output.open('ab') as file:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        self._began = time.monotonic()

    def ended(self) -> bool:
        """Whether its work is over."""
        return self._process.poll() is not None

    @property
    def fault(self) -> str:
        """How it ended, in a few words; '' where it ended well."""
        status = self._process.returncode
        if not status:
            return ''
        return f'ended with status {status}' if status > 0 else f'ended with signal {signal.Signals(-status).name}'

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self._began

    def stop(self) -> None:
        """Have it save and stop."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


@dataclass(frozen=True)
class Printed:
    """What a file has got since a moment.

    Attributes:
        path: The file.
        size: Its length at that moment.
        tail: The last bytes that it had then.
    """

    path: Path
    size: int = 0
    tail: bytes = b''

    @classmethod
    def from_now(cls, path: Path) -> Printed:
        """All that is added to a file, which need not be there yet, after this call."""
        content = path.read_bytes() if path.is_file() else b''
        return cls(path, len(content), content[-TAIL:])

    def read(self) -> str:
        """What was added; where the file was written over, all of it."""
        content = self.path.read_bytes() if self.path.is_file() else b''
        is_same = content[: self.size].endswith(self.tail) and len(content) >= self.size
        return content[self.size if is_same else 0 :].decode(errors='replace')
