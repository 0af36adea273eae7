"""The bar of a training: on a terminal, below lines that stay whole; nowhere else, and in no log."""

from __future__ import annotations

import os
import pty
import re
import termios
import threading
from functools import partial
from pathlib import Path

import pytest
from tool_process import ROOT, ToolProcess

CONFIG = ROOT / 'tests/configs/mean_teacher.py'
COLUMNS = 3000  # no line is broken
ERASED = '\x1b[2K'


class Terminal:
    """A pseudo-terminal that a tool writes to, and what is to be seen on it."""

    def __init__(self, **settings: str) -> None:
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, (50, COLUMNS))
        self.before = partial(_go_to, os.ttyname(self._slave), settings)
        self._read: list[bytes] = []
        self._reader = threading.Thread(target=self._keep_reading, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All that was written."""
        return b''.join(self._read).decode(errors='ignore')  # the last letter may not be whole yet

    @property
    def plain(self) -> str:
        """That without its colours."""
        return re.sub(r'\x1b\[[\d;]*m', '', self.text)

    def close(self) -> None:
        """Once the tool has ended, wait for its last words."""
        os.close(self._slave)
        self._reader.join()
        os.close(self._master)

    def vanish(self) -> None:
        """As when a window is closed; nothing can be written any more."""
        os.close(self._slave)
        os.close(self._master)

    def rows(self) -> list[str]:
        """What stands on the terminal in the end, row by row."""
        rows, row, column = [''], 0, 0
        for control, text in re.findall(r'(\x1b\[[?\d;]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)', self.text):
            if control == '\n':
                row += 1
                rows += [''] * (row + 1 - len(rows))
            elif control == '\r':
                column = 0
            elif control == ERASED:
                rows[row] = ''
            elif found := re.fullmatch(r'\x1b\[(\d+)A', control):
                row -= int(found[1])
            elif control:
                assert control[-1] in 'mhl', repr(control)  # colours, and whether the cursor is shown
            else:
                rows[row] = rows[row][:column].ljust(column) + text + rows[row][column + len(text) :]
                column += len(text)
        return rows

    def _keep_reading(self) -> None:
        try:
            while found := os.read(self._master, 1 << 16):
                self._read.append(found)
        except OSError:  # nobody has it open any more
            return


def _go_to(terminal: str, settings: dict[str, str]) -> None:
    """In the tool's process: write to a terminal."""
    file = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    for name in ('NO_COLOR', 'FORCE_COLOR', 'COLUMNS', 'LINES'):
        os.environ.pop(name, None)
    os.environ.update(dict(TERM='xterm-256color') | settings)


def _force_colours() -> None:
    os.environ['FORCE_COLOR'] = '1'


def run(root: Path, work_dir: Path, terminal: Terminal | None = None, before=None, *options: str) -> ToolProcess:
    command = (CONFIG, '--work-dir', work_dir, '--cfg-options', 'default_hooks.report.frames=0', *options)
    return ToolProcess('train.py', *command, data=root, before=terminal.before if terminal else before)


def log_of(work_dir: Path) -> str:
    (log,) = work_dir.glob('*/*.log')
    return log.read_text()


@pytest.mark.trained
@pytest.mark.slow
def test_lines_stay_whole_above_the_bar_and_it_vanishes(synthetic_root, tmp_path):
    terminal = Terminal()
    assert run(synthetic_root, tmp_path, terminal).wait().returncode == 0
    terminal.close()
    for number in range(1, 9):
        assert re.search(rf'training +\S+ +{number}/8 loss \d+\.\d{{3}}, 0:00:\d\d to go', terminal.plain)
    assert re.search(r'validating +\S+ +3/3', terminal.plain)
    rows, log = terminal.rows(), log_of(tmp_path)
    above = iter(row.rstrip() for row in rows)
    lines = log[log.index('training begins at') :].splitlines()[1:]
    assert sum('Iter(val)' in line for line in lines) >= 2 and 'python tools/predict.py' in lines[-2]
    for line in lines:  # whole, and in this order
        message = line.partition(' - mmengine - ')[2] or line
        assert any(row.endswith(message.rstrip()) for row in above), message
    assert not [row for row in rows if re.match(r'training +\S+ +\d/8|validating', row)]
    assert terminal.text.rstrip().rfind('\x1b[?25h') > terminal.text.rfind('\x1b[?25l')  # the cursor is back
    assert '\x1b' not in log and ' to go' not in log


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('settings', [dict(NO_COLOR='1'), dict(TERM='dumb')], ids=str)
def test_terminals_that_show_less(synthetic_root, tmp_path, settings):
    terminal = Terminal(**settings)
    assert run(synthetic_root, tmp_path, terminal).wait().returncode == 0
    terminal.close()
    bars = re.findall(r'[^\r\n]*\d/8 loss[^\r\n]*', terminal.text)
    assert len(bars) >= 8 if 'NO_COLOR' in settings else not bars and ERASED not in terminal.text
    assert not [bar for bar in bars if re.search(r'\x1b\[[\d;]*3\d', bar)]  # colours
    assert 'training has ended' in terminal.text


@pytest.mark.trained
@pytest.mark.slow
def test_a_pipe_gets_lines_alone_whatever_the_environment_says_of_colours(synthetic_root, tmp_path):
    done = run(synthetic_root, tmp_path, None, _force_colours).wait()
    assert done.returncode == 0 and 'training has ended' in done.stdout
    assert ERASED not in done.stdout + done.stderr and ' to go' not in done.stdout + done.stderr


@pytest.mark.trained
@pytest.mark.slow
def test_a_run_outlives_its_terminal(synthetic_root, tmp_path):
    terminal = Terminal()
    process = run(synthetic_root, tmp_path, terminal, None, 'train_cfg.max_iters=40', 'train_cfg.val_begin=99')
    while not re.search('[2-9]/40 loss', terminal.plain):
        assert process.alive, terminal.text
    terminal.vanish()
    process.wait()
    assert 'training has ended' in log_of(tmp_path) and (tmp_path / 'iter_40.pth').is_file()


@pytest.mark.trained
@pytest.mark.slow
def test_a_signal_is_answered_on_a_row_of_its_own(synthetic_root, tmp_path):
    terminal = Terminal()
    process = run(synthetic_root, tmp_path, terminal, None, 'train_cfg.max_iters=4000', 'train_cfg.val_begin=4000')
    while '2/4000 loss' not in terminal.plain:
        assert process.alive, terminal.text
    os.kill(process.id, 15)
    assert process.wait().returncode == 143
    terminal.close()
    rows = terminal.rows()
    assert any(row.startswith('SIGTERM: stopping after this iteration') for row in rows)
    assert any(row.startswith('error: stopped by SIGTERM after iteration') for row in rows)
