"""Polyp segmentation data sets: `<folder>/images/` and `<folder>/masks/`, paired by file stem."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_acl.colours import palette
from mmseg_acl.datasets.image_files import ImageFile, inspect_image
from mmseg_acl.datasets.mask_shares import check_shares, read_share
from mmseg_acl.datasets.partitions import IMAGE_SUFFIXES, read_list
from mmseg_acl.errors import DataError

DATA_ROOT_VARIABLE = 'MMSEG_ACL_DATA'
NUM_SHOWN_PROBLEMS = 5
UNREAD_SUFFIXES = ('.webp', '.gif', '.heic', '.heif', '.avif', '.jp2', '.ppm', '.pgm', '.dcm', '.npy', '.mat')


def default_data_root() -> Path:
    """Folder of all data sets: environment variable `MMSEG_ACL_DATA`, else `data/`."""
    return Path(os.environ.get(DATA_ROOT_VARIABLE) or 'data')


@DATASETS.register_module()
class PolypDataset(BaseSegDataset):
    """Images of polyps with binary masks.

    An entry `a/b` of the list stands for `<data_root>/<folder>/a/images/b.*` and
    `<data_root>/<folder>/a/masks/b.*`; the two suffixes may differ. All files are checked when the
    list is loaded, and every problem found is in one error: headers and ends of images, and the masks of labelled
    ones as a whole (a second for some hundred). Masks are read by `LoadPolypMask`. Images and masks count as they
    are shown, so a camera's EXIF orientation is heeded.

    Args:
        ann_file: A shipped list (`kvasir/train`), the path of a list, or `''` for every image
            of the folder.
        folder: Sub-folder of `data_root`. `None` takes the class's own.
        data_root: Folder of the data sets. `None` takes `MMSEG_ACL_DATA` from the environment, else
            `data/`.
        exclude: Lists whose entries are left out.
        labelled: Whether every image needs a mask. If not, a fitting mask that exists is named
            `hidden_map_path` in the sample's information, for diagnosis only; it is never a label.
        serialize_data: Whether the list of images is packed, so that the loader's processes share it. Packing has
            mmengine look through all memory for garbage, which takes longer than reading a list of some thousand.
        **kwargs (Any): Arguments of `mmseg.datasets.BaseSegDataset`.

    Raises:
        FileNotFoundError: A folder, list, image or mask is missing.
        ValueError: A file is empty, unreadable, cut short or ambiguous, an image and its mask differ in size or
            orientation, all masks are polyp everywhere, or no image is left.

    Attributes:
        has_polyps: Whether any mask has a polyp; stays false where `labelled` is. Frames without one are data, too.
    """

    METAINFO = dict(classes=('background', 'polyp'), palette=palette(2))
    FOLDER = ''

    def __init__(
        self,
        ann_file: str = '',
        folder: str | None = None,
        data_root: str | None = None,
        exclude: Sequence[str] = (),
        labelled: bool = True,
        serialize_data: bool = False,
        **kwargs,
    ) -> None:
        if isinstance(exclude, str):
            raise TypeError(f"exclude='{exclude}' must be a list of lists: write ['{exclude}']")
        root = default_data_root() if data_root is None else Path(data_root)
        self.folder = root / (self.FOLDER if folder is None else folder)
        self.exclude = list(exclude)
        self.labelled = labelled
        self.has_polyps = False
        super().__init__(ann_file=ann_file, data_root=str(root), serialize_data=serialize_data, **kwargs)

    def _join_prefix(self) -> None:
        """Nothing to join: `ann_file` is a list's name or path, and entries carry their folders."""

    def load_data_list(self) -> list[dict]:
        """Pair the list's images with their masks and check every file.

        Returns:
            One dictionary an image: `img_path`, `name` (its entry), `seg_map_path` if labelled or
            perhaps `hidden_map_path` if not, `label_map`, `reduce_zero_label` and `seg_fields`.
        """
        files = _Folders(self.folder)
        entries = read_list(self.ann_file) if self.ann_file else files.image_stems()
        excluded = {entry for name in self.exclude for entry in read_list(name)}
        entries = [entry for entry in entries if entry not in excluded]
        if not entries:
            source = f"list '{self.ann_file}'" if self.ann_file else f"'{self.folder}/images'"
            left_out = f' after leaving out {self.exclude}' if self.exclude else ''
            raise ValueError(f'{source} has no image{left_out}: nothing to load')

        files.require(entries, ('images', 'masks') if self.labelled else ('images',))

        samples, missing, unfit, shares = [], [], [], {}
        for entry in entries:
            sample = dict(
                name=entry,
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            try:
                image = files.find(entry, 'images')
                header = inspect_image(image)
                sample['img_path'] = str(image)
                if self.labelled:
                    mask = _fitting_mask(files, entry, image, header)
                    sample['seg_map_path'] = str(mask)
                    shares[str(mask)] = read_share(str(mask))
                elif hidden := _hidden_mask(files, entry, image, header):
                    sample['hidden_map_path'] = str(hidden)
                samples.append(sample)
            except FileNotFoundError as error:
                missing.append(error)
            except ValueError as error:
                unfit.append(error)
        problems = missing + unfit
        if problems:
            shown = '\n  '.join(str(problem) for problem in problems[:NUM_SHOWN_PROBLEMS])
            more = len(problems) - NUM_SHOWN_PROBLEMS
            raise (FileNotFoundError if missing else ValueError)(
                f"{len(problems)} of the {len(entries)} images of '{self.ann_file or self.folder}' "
                f'cannot be used:\n  {shown}' + (f'\n  and {more} more' if more > 0 else '') + '\n'
                'Mend or add these files, or take the images off the list.'
            )
        self.has_polyps = any(shares.values())
        check_shares(shares, f"'{self.ann_file or self.folder}'")
        return samples

    def prepare_data(self, idx: int) -> dict:
        """One sample through the pipeline.

        Raises:
            DataError: A step failed; the message names the image.
        """
        try:
            return super().prepare_data(idx)
        except Exception as error:
            name = self.get_data_info(idx).get('img_path')
            planes = [step.color_type for step in self.pipeline.transforms if hasattr(step, 'color_type')]
            hint = ''.join(
                f' (the steps of this package and its networks take images of three planes, and color_type={kind!r} '
                'may give other ones: leave it out, and grey files are read as three equal planes)'
                for kind in planes
                if kind != 'color'
            )
            raise DataError(
                f"image '{name}' does not pass its pipeline: {type(error).__name__}: {error}{hint}"
            ) from error


@DATASETS.register_module()
class KvasirSEGDataset(PolypDataset):
    """Kvasir-SEG (Jha et al. 2020): 1000 frames of varying size, masks as jpg."""

    FOLDER = 'Kvasir-SEG'


@DATASETS.register_module()
class CVCClinicDBDataset(PolypDataset):
    """CVC-ClinicDB (Bernal et al. 2015): 612 frames of 384 x 288 from 29 sequences."""

    FOLDER = 'CVC-ClinicDB'


@DATASETS.register_module()
class CVC300Dataset(PolypDataset):
    """CVC-300 (Vazquez et al. 2017): 60 frames of 574 x 500, which CVC-ColonDB contains too."""

    FOLDER = 'CVC-300'


@DATASETS.register_module()
class CVCColonDBDataset(PolypDataset):
    """CVC-ColonDB (Tajbakhsh et al. 2015): 380 frames of 574 x 500."""

    FOLDER = 'CVC-ColonDB'


@DATASETS.register_module()
class ETISLaribPolypDBDataset(PolypDataset):
    """ETIS-LaribPolypDB (Silva et al. 2014): 196 frames of 1225 x 966."""

    FOLDER = 'ETIS-LaribPolypDB'


class _NoFile(FileNotFoundError):
    """An image or mask that is not there; a file of nearly its name is looked for when the message is shown.

    Not before: unlabelled images without masks are no fault, and each would be compared with all masks.
    """

    def __init__(self, folder: Path, stem: str, listed: dict[str, list[Path]]) -> None:
        super().__init__()
        self.folder, self.stem, self.listed = folder, stem, listed

    def __str__(self) -> str:
        near = [paths[0].name for other, paths in self.listed.items() if self.stem in other or other in self.stem]
        hint = f'; there is {near[0]}, but a pair has one name' if near else ''
        return f'{self.folder / self.stem}: no file with one of the suffixes {", ".join(IMAGE_SUFFIXES)}{hint}'


class _Folders:
    """Image files under a folder by stem; every sub-folder is listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[Path, dict[str, list[Path]]] = {}

    def find(self, entry: str, kind: str) -> Path:
        """The one file of an entry; `kind` is `images` or `masks`."""
        parent, _, stem = entry.rpartition('/')
        folder = self.folder / parent / kind
        found = self._list(folder).get(_composed(stem), [])
        if not found:
            raise _NoFile(folder, stem, self._list(folder))
        if len(found) > 1:
            raise ValueError(f'{folder / stem}: ambiguous, {" and ".join(p.name for p in found)}')
        return found[0]

    def image_stems(self) -> list[str]:
        """All stems of `<folder>/images`, sorted."""
        self.require([''], ['images'])
        folder = self.folder / 'images'
        unread = [path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in UNREAD_SUFFIXES]
        if unread:
            raise ValueError(
                f"{len(unread)} files in '{folder}' would be left out, such as {unread[0]}: convert them to PNG or "
                'JPEG, move them elsewhere, or name the images to take in a list (ann_file)'
            )
        return sorted(self._list(folder))

    def require(self, entries: Sequence[str], kinds: Sequence[str]) -> None:
        """Raise one error for a folder that is missing altogether, not one an image."""
        for parent in sorted({entry.rpartition('/')[0] for entry in entries}):
            for kind in kinds:
                folder = self.folder / parent / kind
                if parent and not folder.is_dir() and self.folder.is_dir():
                    first = next(entry for entry in entries if entry.rpartition('/')[0] == parent)
                    raise FileNotFoundError(
                        f"the entry '{first}' of the list means an image in the folder '{folder}', which does not "
                        f"exist: an entry is the name of an image in '{self.folder / kind}', such as "
                        f"'{first.rpartition('/')[2]}', or FOLDER/NAME for one in '{self.folder}/FOLDER/{kind}'"
                    )
                if not folder.is_dir():
                    raise FileNotFoundError(
                        f"folder '{folder}' does not exist: set the environment variable "
                        f"{DATA_ROOT_VARIABLE} (or the data set's data_root) to the folder that "
                        'holds Kvasir-SEG/, CVC-ClinicDB/ and so on, each with images/ and masks/'
                    )

    def _list(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._listed:
            by_stem: dict[str, list[Path]] = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.'):
                    by_stem.setdefault(_composed(path.stem), []).append(path)
            self._listed[folder] = by_stem
        return self._listed[folder]


def _composed(name: str) -> str:
    """One spelling of accented letters: macOS writes file names with the accents as letters of their own."""
    return unicodedata.normalize('NFC', name)


def _fitting_mask(files: _Folders, entry: str, image_path: Path, image: ImageFile) -> Path:
    path = files.find(entry, 'masks')
    mask = inspect_image(path)
    if mask.size != image.size:
        turned = {image.orientation, mask.orientation} != {1}
        hint = ' (as EXIF says they are shown: save both upright and without EXIF orientation)' if turned else ''
        raise ValueError(
            f'{image_path} is {image.width} x {image.height}, its mask {path} is {mask.width} x {mask.height}{hint}'
        )
    # A mask without the image's tag may have been drawn on the image as shown or as stored. Where one of them is
    # turned from upright to lying, only one of the two has the right size; else nobody can tell.
    tags = {image.orientation, mask.orientation}
    turned = mask if image.orientation == 1 else image
    if len(tags) > 1 and not (1 in tags and turned.stored != turned.size):
        raise ValueError(
            f'{image_path} has EXIF orientation {image.orientation}, its mask {path} has {mask.orientation}: one of '
            'them may be turned against the other. Save both upright and without EXIF orientation'
        )
    return path


def _hidden_mask(files: _Folders, entry: str, image_path: Path, image: ImageFile) -> Path | None:
    """The mask of an unlabelled image if there is a fitting one; it needs none."""
    try:
        return _fitting_mask(files, entry, image_path, image)
    except (FileNotFoundError, ValueError):
        return None
