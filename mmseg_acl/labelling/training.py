"""Trainings that are part of a longer work: each in a process of its own, done once, and resumed where it stopped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mmengine.config import Config

from mmseg_acl.errors import RunError

CONFIG = 'config.py'
SHOWN_LINES = 8


def train_in(folder: Path, config: Config, train: Path) -> Path:
    """Train a config in a folder, unless that is done.

    Args:
        folder: The work dir.
        config: What to train; it is written to the folder.
        train: ``tools/train.py``.

    Returns:
        The last checkpoint.

    Raises:
        RunError: The training failed.
    """
    checkpoint = folder / f'iter_{int(config.train_cfg.max_iters)}.pth'
    if not checkpoint.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        config.dump(folder / CONFIG)
        resume = ['--resume'] if any(folder.glob('iter_*.pth')) else []
        run_tool(train, [str(folder / CONFIG), '--work-dir', str(folder), *resume], folder)
    return checkpoint


def run_tool(tool: Path, arguments: list[str], folder: Path) -> None:
    """Run a tool of ``tools/`` to its end; what it prints goes to a log in a folder.

    Raises:
        RunError: It failed; the message has the end of the log.
    """
    log = folder / f'{tool.stem}.out'
    with open(log, 'a') as file:
        done = subprocess.run([sys.executable, str(tool), *arguments], stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        lines = log.read_text(errors='replace').splitlines()[-SHOWN_LINES:]
        raise RunError(f'{tool.name} in {folder} ended with {done.returncode}:\n' + '\n'.join(lines))
