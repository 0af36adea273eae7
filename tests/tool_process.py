"""The command-line tools in processes of their own, each a fork of one that has imported the stack.

An import takes longer than the few iterations that a test trains, and a fork of an import is as good as another: the
process has its own memory, environment, arguments and output, can be killed, and ends with the tool's status.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

from building import plain_texts
from variation import vary

ROOT = Path(__file__).parents[1]
# One thread: what one has started would not survive the fork.
_SERVER = dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
_context = multiprocessing.get_context('forkserver')


class ToolProcess:
    """A running tool of ``tools/``.

    Args:
        tool: File name, such as ``train.py``.
        *args: Of the command line.
        data: Root of the data sets.
        weights: Value of ``MMSEG_ACL_WEIGHTS``.
        before: Called in the process before the tool begins.

    Attributes:
        started: How many there have been.
    """

    started = 0

    def __init__(
        self, tool: str, *args: object, data: Path, weights: str = 'none', before: Callable[[], None] | None = None
    ) -> None:
        ToolProcess.started += 1
        _start_server()
        settings = tool_environment(data, weights)
        self._folder = tempfile.TemporaryDirectory()
        self.command = [str(ROOT / 'tools' / tool), *map(str, args)]
        outputs = [str(Path(self._folder.name, name)) for name in ('out', 'err')]
        self._process = _context.Process(target=_run, args=(self.command, settings, outputs, before))
        self._process.start()

    @property
    def id(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def wait(self) -> subprocess.CompletedProcess:
        """What the tool said and its status, once it has ended; the status is -9 after kill -9."""
        self._process.join()
        said = [Path(self._folder.name, name).read_text() for name in ('out', 'err')]
        self._folder.cleanup()
        return subprocess.CompletedProcess(self.command, self._process.exitcode, *said)

    def wait_for(self, *words: str) -> None:
        """Return once one of ``words`` is in the output, or the tool has ended."""
        output = Path(self._folder.name, 'out')
        while self._process.is_alive():
            if output.exists() and any(word in output.read_text() for word in words):
                return
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill -9."""
        self._process.kill()


def run_tool(tool: str, *args: object, check: bool = True, **options) -> subprocess.CompletedProcess:
    """Run a tool to its end; the arguments are those of :class:`ToolProcess`.

    Args:
        check: Whether a status other than 0 is an error.
    """
    done = ToolProcess(tool, *args, **options).wait()
    if check and done.returncode:
        said = f'{done.stdout[-2000:]}\n{done.stderr[-4000:]}'
        raise AssertionError(f'{" ".join(done.args)} ended with {done.returncode}:\n{said}')
    return done


def tool_environment(data: Path, weights: str = 'none') -> dict[str, str]:
    """This process's environment, as a tool is to find it; the arguments are those of :class:`ToolProcess`."""
    settings = dict(os.environ, **_SERVER, MMSEG_ACL_DATA=str(data), MMSEG_ACL_WEIGHTS=weights)
    settings.pop('MMSEG_ACL_DEBUG', None)
    return settings


def _start_server() -> None:
    """Start the process that has imported the stack; it keeps the environment in which it starts."""
    with patch.dict(os.environ, _SERVER, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'tests')])):
        _context.set_forkserver_preload(['tool_preload'])
        forkserver.ensure_running()


def _run(command: list[str], settings: dict, outputs: list[str], before: Callable[[], None] | None) -> None:
    os.environ.clear()
    os.environ.update(settings)
    for stream, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = command
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as in a terminal, also where the tests run under nohup
    vary()
    plain_texts()
    if before:
        before()
    runpy.run_path(command[0], run_name='__main__')
