"""What the start-up of a run has read."""

from __future__ import annotations

from pathlib import Path

from mmseg_acl.engine.checkpoint import read_checkpoint


class CheckpointReader:
    """:func:`~mmseg_acl.engine.checkpoint.read_checkpoint` that holds what it has read.

    Several checks look at a checkpoint and at pre-trained weights before mmengine loads them. Each file is read once
    here, whoever asks first; the contents go with the reader when the start-up is over.
    """

    def __init__(self) -> None:
        self._contents: dict[Path, dict] = {}

    def __call__(self, path: str | Path) -> dict:
        """The content of a checkpoint, which is not to be changed.

        Raises:
            FileNotFoundError, ValueError: See ``read_checkpoint``; such a file is read anew when it is asked for
                again.
        """
        file = Path(path).resolve()
        if file not in self._contents:
            self._contents[file] = read_checkpoint(path)
        return self._contents[file]
