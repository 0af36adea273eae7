"""Any folder of images as an unlabelled source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_acl.datasets.image_files import inspect_image
from mmseg_acl.datasets.partitions import IMAGE_SUFFIXES, read_list
from mmseg_acl.errors import DataError

NUM_SHOWN_PROBLEMS = 5


@DATASETS.register_module()
class UnlabelledFolder(BaseSegDataset):
    """Every image in a folder and in its sub-folders, of whatever suffix, without labels.

    Args:
        folder: The folder.
        exclude: Lists (see `read_list`) of images to leave out, such as the labelled ones; entries are paths
            below the folder without suffix.
        **kwargs (Any): Arguments of `mmseg.datasets.BaseSegDataset`, of which only `pipeline` and those that choose
            images (`indices`) make sense.

    Raises:
        FileNotFoundError: There is no such folder or list.
        ValueError: It has no image, or files that cannot be read.
    """

    def __init__(self, folder: str | Path, exclude: Sequence[str] = (), **kwargs) -> None:
        if isinstance(exclude, str):
            raise TypeError(f"exclude='{exclude}' must be a list of lists: write ['{exclude}']")
        self.folder = Path(folder)
        self.exclude = list(exclude)
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """One dictionary an image, in the order of their paths; every file's header is looked at."""
        if not self.folder.is_dir():
            raise FileNotFoundError(f"folder '{self.folder}' of unlabelled images does not exist")
        excluded = {entry for name in self.exclude for entry in read_list(name)}
        paths = [
            path
            for path in sorted(self.folder.rglob('*'))
            if path.suffix.lower() in IMAGE_SUFFIXES
            and not path.name.startswith('.')
            and path.relative_to(self.folder).with_suffix('').as_posix() not in excluded
        ]
        if not paths:
            left_out = f' after leaving out {self.exclude}' if self.exclude else ''
            raise ValueError(
                f"'{self.folder}' has no image{left_out}: it should hold files with one of the suffixes "
                + ', '.join(IMAGE_SUFFIXES)
            )
        check_readable(paths, f"'{self.folder}'")
        return [
            dict(
                img_path=str(path), label_map=self.label_map, reduce_zero_label=self.reduce_zero_label, seg_fields=[]
            )
            for path in paths
        ]


def check_readable(paths: Sequence[Path], source: str) -> None:
    """Look at the header and the end of images.

    Raises:
        DataError: Some cannot be used; the message names the first of them.
    """
    problems = unreadable(paths)
    if problems:
        shown = list(problems.values())
        more = len(shown) - NUM_SHOWN_PROBLEMS
        raise DataError(
            f'{len(shown)} of the {len(paths)} images in {source} cannot be used:\n  '
            + '\n  '.join(shown[:NUM_SHOWN_PROBLEMS])
            + (f'\n  and {more} more' if more > 0 else '')
            + '\nMend these files or move them elsewhere.'
        )


def unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """Images that cannot be read, and why."""
    problems = {}
    for path in paths:
        try:
            inspect_image(path)
        except FileNotFoundError:
            problems[path] = f'{path}: no such image'
        except ValueError as error:
            problems[path] = str(error)
    return problems
