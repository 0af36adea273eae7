"""What a user calls a run: the work dir of a training, a config and a checkpoint, or an exported model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmseg_acl.engine.start.resume import NUMBERED
from mmseg_acl.shipped import shipped_path

ONNX, TORCHSCRIPT = '.onnx', '.torchscript'


class RunFiles(NamedTuple):
    """The files that a trained model consists of; an exported one is a single file, without a config."""

    config: Path | None
    checkpoint: Path


def find_run(words: Sequence[str]) -> RunFiles:
    """The files of a run as it is named on a command line.

    Args:
        words: A work dir, of which the best checkpoint is taken where there is one, else the last; a config and a
            checkpoint; or an exported model (``.onnx``, ``.torchscript``).

    Raises:
        FileNotFoundError: A file, or what a work dir should have, is missing.
        ValueError: Neither one word nor two.
    """
    if len(words) == 2:
        files = RunFiles(Path(shipped_path(words[0])), Path(words[1]))
        for name, path in files._asdict().items():
            if not path.is_file():
                raise FileNotFoundError(f"{name} '{path}' does not exist")
        return files
    if len(words) != 1:
        raise ValueError(
            'a run is a work dir, a config and a checkpoint, or an exported model; got '
            f'{" ".join(words) or "nothing"}'
        )
    folder = Path(words[0])
    if folder.suffix in (ONNX, TORCHSCRIPT) and folder.is_file():
        return RunFiles(None, folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no work dir '{folder}': give the folder that a training wrote to, a config and a checkpoint, "
            f'or an exported model ({ONNX}, {TORCHSCRIPT})'
        )
    configs = sorted(folder.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise FileNotFoundError(
            f"'{folder}' has no config (*.py), which a training leaves there: give it beside a checkpoint"
        )
    return RunFiles(configs[-1], _checkpoint(folder))


def _checkpoint(folder: Path) -> Path:
    best = sorted(folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    if best:
        return best[-1]
    numbered = {path: int(match[1]) for path in folder.glob('*.pth') if (match := NUMBERED.fullmatch(path.name))}
    if not numbered:
        raise FileNotFoundError(f"'{folder}' has no checkpoint (best_*.pth or iter_*.pth): train first")
    return max(numbered, key=numbered.get)
