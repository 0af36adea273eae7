"""Copies of labelled frames with other masks, in the layout of the folder that they are from."""

from __future__ import annotations

from pathlib import Path

from mmseg_acl.datasets.polyp import PolypDataset


class LabelledCopies:
    """Frames of a labelled folder, and where their copies belong.

    Args:
        folder: Labelled folder, with ``images/`` and ``masks/``.
        out: A folder that does not exist yet, or is empty.
        names: List of the frames; by default all of the folder.
        first: Of the frames only the first so many.

    Attributes:
        frames: The image and the mask of each frame, by its name.

    Raises:
        FileExistsError: ``out`` holds something.
        FileNotFoundError, ValueError: The folder is none of labelled frames.
    """

    def __init__(self, folder: str | Path, out: str | Path, names: str = '', first: int | None = None) -> None:
        self.out = Path(out)
        if self.out.is_dir() and any(self.out.iterdir()):
            raise FileExistsError(f"'{self.out}' holds something already: name a new folder, or remove it")
        dataset = PolypDataset(names, folder='', data_root=str(folder), indices=first)
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        self.frames = {info['name']: (Path(info['img_path']), Path(info['seg_map_path'])) for info in infos}

    def image(self, name: str, suffix: str | None = None) -> Path:
        """Where the copy of a frame's image belongs, by default with the suffix that it has; the folder is made."""
        path = self._place(name, 'images', self.frames[name][0].suffix if suffix is None else suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def mask(self, name: str) -> Path:
        """Where the copy's mask belongs."""
        return self._place(name, 'masks', '.png')

    def _place(self, name: str, kind: str, suffix: str) -> Path:
        parent, _, stem = name.rpartition('/')
        return self.out / parent / kind / (stem + suffix)
