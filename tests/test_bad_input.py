"""What users get wrong: each row ends in one message before training starts, or is handled right.

docs/bad_input.md lists the rows with their messages.
"""

from __future__ import annotations

import json
import logging
import os
import re
import runpy
import shutil
import sys
import unicodedata
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_acl.datasets import PolypDataset, write_synthetic
from mmseg_acl.datasets.class_data import check_samples, labels_to_check
from mmseg_acl.datasets.polyp import NUM_SHOWN_PROBLEMS, _NoFile
from mmseg_acl.engine import build_runner, load_config, read_checkpoint, train, user_errors
from mmseg_acl.errors import DataError

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'tests' / 'configs'
TINY = ('tiny_model.py', 'tiny_run.py')
NAN = float('nan')
WEIGHT = 'student.decode_head.conv_seg.weight'
ALPHA = np.array([0, 0, 0, 255], np.uint8)
PACK = dict(type='PackSegInputs')
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadPolypMask')]


class Case:
    """A user's place: a data root of few frames, a config, a work dir."""

    def __init__(self, folder: Path, frames: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.root, self.work_dir = folder / 'data', folder / 'run'
        shutil.copytree(frames, self.root)
        self.labelled, self.unlabelled = (self.root / 'Synthetic' / part for part in ('labelled', 'unlabelled'))
        self.image, self.mask = (self.labelled / kind / '0001.png' for kind in ('images', 'masks'))
        patch.setenv('MMSEG_ACL_DATA', str(self.root))
        patch.setenv('MMSEG_ACL_WEIGHTS', 'none')

    # What is wrong

    def write(self, name: str, text: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    def cut(self, path: Path, share: float = 0.7) -> None:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    def resave(self, path: Path, suffix: str, **options: object) -> Path:
        """The same picture in another kind of file."""
        new = path.with_suffix(suffix)
        Image.open(path).save(new, **options)
        if new != path:
            path.unlink()
        return new

    def paint(
        self, ground: object, polyp: object, transparent: bool = False, palette: list[int] | None = None
    ) -> None:
        """The mask of 0001 anew, in these colours or palette numbers; transparent outside the polyp if wanted."""
        shape = Image.open(self.mask).convert('L')
        mask = Image.new('RGB' if palette is None else 'P', shape.size, ground)
        mask.paste(polyp, mask=shape)
        if transparent:
            mask.putalpha(shape)
        if palette is not None:
            mask.putpalette(palette)
        mask.save(self.mask)

    def enlarge(self, part: str, name: str) -> None:
        """Save an image and its mask in twice the size."""
        for path in self.root.glob(f'Synthetic/{part}/*/{name}.png'):
            image = Image.open(path)
            image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(path)

    def turn(self, path: Path, orientation: int) -> Path:
        """A JPEG whose EXIF orientation turns it back to what it was: the pixels are stored turned."""
        image, exif = Image.open(path), Image.Exif()
        undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
        exif[274] = orientation
        image = image.convert('L' if path.parent.name == 'masks' else 'RGB')
        path.unlink()
        image.transpose(undo[orientation]).save(path.with_suffix('.jpg'), exif=exif, quality=95)
        return path.with_suffix('.jpg')

    def checkpoint(self, method: str = 'mean_teacher', name: str = 'iter_4.pth', **more: object) -> Path:
        """A checkpoint as a run of four iterations leaves it, but for what ``more`` changes."""
        runner = self.build(method, folder=self.folder / 'other')
        runner.train_loop._iter = 4
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        runner.save_checkpoint(str(self.work_dir), name, by_epoch=False, meta=dict(iter=4, epoch=0))
        path = self.work_dir / name
        if more:
            content = torch.load(path, weights_only=False)
            for key, value in more.items():
                content.pop(key) if value is None else content.update({key: value})
            torch.save(content, path)
        return path

    def of_19_classes(self) -> Path:
        """Weights of the segmentor, plain, with a last layer for 19 classes."""
        source = self.checkpoint()
        content = torch.load(source, weights_only=False)['state_dict']
        source.unlink()
        state = {key.removeprefix('student.'): value for key, value in content.items() if key.startswith('student.')}
        for kind in ('weight', 'bias'):
            value = state[f'decode_head.conv_seg.{kind}']
            state[f'decode_head.conv_seg.{kind}'] = torch.zeros(19, *value.shape[1:])
        torch.save(dict(state_dict=state), self.folder / 'cities.pth')
        return self.folder / 'cities.pth'

    def spoiled(self, number: complex, **options: object) -> Path:
        """A checkpoint of a run in which a weight is no number, or no real one."""
        path = self.checkpoint(**options)
        content = torch.load(path, weights_only=False)
        weight = content['state_dict'][WEIGHT]
        content['state_dict'][WEIGHT] = torch.full(weight.shape, number, dtype=torch.tensor(number).dtype)
        torch.save(content, path)
        return path

    def changed(self, path: Path) -> Path:
        """A checkpoint with one number changed, as by a fault of the disk."""
        with zipfile.ZipFile(path) as archive:
            place = max(archive.infolist(), key=lambda part: part.file_size).header_offset + 500
        data = bytearray(path.read_bytes())
        data[place] ^= 64
        path.write_bytes(data)
        return path

    def class_numbers(self, foreground: int = 1, folder: str = '*') -> None:
        """Save the masks of a folder, or all, anew, with this label for polyps."""
        for path in self.root.glob(f'Synthetic/{folder}/masks/*.png'):
            cv2.imwrite(str(path), foreground * (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 0).astype(np.uint8))

    def source(self, folder: str = 'labelled', **changes: object) -> dict:
        """A data set of a class of mmseg's with masks of class numbers."""
        source = dict(
            type='BaseSegDataset',
            metainfo=dict(classes=('wall', 'polyp')),
            data_root=str(self.root),
            data_prefix=dict(img_path=f'Synthetic/{folder}/images', seg_map_path=f'Synthetic/{folder}/masks'),
            img_suffix='.png',
            pipeline=[LOAD[0], dict(type='Resize', scale=(64, 64)), dict(type='LoadAnnotations'), PACK],
        )
        return source | changes

    def classes(self, **changes: object) -> None:
        """Load such a one to learn from."""
        DATASETS.build(dict(type='SemiSupervisedDataset', labelled=self.source(**changes)))

    def validated(self, **changes: object) -> str:
        """A config with such ones to learn from and, with these changes, to validate on."""
        train, val = self.source(_delete_=True), self.source('test', _delete_=True, **changes)
        return self.config(
            f'train_dataloader = dict(dataset=dict(labelled={train}))\n'
            f'val_dataloader = test_dataloader = dict(dataset={val})\n'
            "val_evaluator = test_evaluator = dict(_delete_=True, type='IoUMetric')",
            base='supervised',
        )

    # What is done

    def data(
        self, labelled: dict | list[dict] | None = None, unlabelled: dict | None = None, **more: object
    ) -> object:
        """Both sources, as the shipped configs have them."""
        config = load_config(str(CONFIGS / 'mean_teacher.py')).train_dataloader.dataset
        if isinstance(labelled, list):
            config.labelled = [dict(config.labelled, **source) for source in labelled]
        else:
            config.labelled.update(labelled or {})
        config.unlabelled.update(unlabelled or {})
        return DATASETS.build(dict(config, **more))

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """The labelled image 0001 and its mask, as they are read."""
        dataset = PolypDataset(folder='Synthetic/labelled', pipeline=LOAD)
        (found,) = (dataset[i] for i in range(len(dataset)) if dataset.get_data_info(i)['name'] == self.image.stem)
        return found['img'], found['gt_seg_map']

    def build(
        self,
        method: str = 'mean_teacher',
        resume: bool = False,
        seed: int | None = None,
        launcher: str = 'none',
        folder: Path | None = None,
        **options: object,
    ):
        options = {key.replace('__', '.'): value for key, value in options.items()}
        path = method if method.endswith('.py') else str(CONFIGS / f'{method}.py')
        config = load_config(
            path, work_dir=str(folder or self.work_dir), options=options, resume=resume, seed=seed, launcher=launcher
        )
        # By default its second: two runs of one second would share a log, with its stream of the first one's test.
        config.experiment_name = uuid.uuid4().hex
        return build_runner(config)

    def train(self, *args: str, **options: object) -> None:
        train(self.build(*args, **options))

    def config(self, text: str, base: str = 'mean_teacher') -> str:
        """A config of the user's own."""
        return self.write('mine.py', f"_base_ = '{(CONFIGS / base).as_posix()}.py'\n{text}")

    def tool(self, name: str, *args: object) -> None:
        self.patch.setattr(sys, 'argv', [name, *map(str, args)])
        runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')


def labelled_pipeline(step: str) -> str:
    return f'train_dataloader = dict(dataset=dict(labelled=dict(pipeline=[{step}])))'


class Row(NamedTuple):
    """Something wrong.

    Attributes:
        what: For a reader.
        act: Does it.
        message: What the message must say, as a regular expression.
    """

    what: str
    act: Callable[[Case], object]
    message: str


def then(*steps: object) -> None:
    """Several steps in one expression."""


LISTS = [
    Row(
        'data root that does not exist',
        lambda c: c.data(labelled=dict(data_root='/nowhere')),
        'folder .*/nowhere/.* does not exist: set the environment variable MMSEG_ACL_DATA',
    ),
    Row(
        'list that does not exist',
        lambda c: c.data(labelled=dict(ann_file='my.txt')),
        "no list 'my.txt'.*kvasir/train",
    ),
    Row('empty list', lambda c: c.data(labelled=dict(ann_file=c.write('a.txt', '\n'))), 'a.txt. is empty'),
    Row(
        'list with a name twice',
        lambda c: c.data(labelled=dict(ann_file=c.write('a.txt', '0001\n0001.png'))),
        r'repeats 1 entries \(0001\)',
    ),
    Row(
        'list saved in UTF-16',
        lambda c: c.data(labelled=dict(ann_file=c.write('a.txt', '0001\n'.encode('utf-16')))),
        'a.txt. is no text in UTF-8.*save it as UTF-8',
    ),
    Row(
        'list with an image and its mask on each line',
        lambda c: c.data(labelled=dict(ann_file=c.write('a.txt', 'images/0001.png masks/0001.png\n'))),
        r"a.txt' has two files on a line \(images/0001.png masks/0001.png\): write one image name a line",
    ),
    Row(
        'list with the folder images/ before each name',
        lambda c: c.data(labelled=dict(ann_file=c.write('a.txt', 'images/0001.png\nimages/0002.png\n'))),
        "the entry 'images/0001' of the list means an image in the folder '.*labelled/images/images', which does not "
        "exist: an entry is the name of an image in '.*labelled/images', such as '0001'",
    ),
    Row(
        'list with names that are not there',
        lambda c: c.data(labelled=dict(ann_file=c.write('a.txt', '0001\n0008\n0009'))),
        '2 of the 3 images of .*0008: no file.*take the images off the list',
    ),
    Row(
        'partition larger than the set',
        lambda c: c.data(partition='kvasir/half'),
        '450 of the 450 images of .kvasir/half. cannot be used',
    ),
    Row('unknown partition', lambda c: c.data(partition='kvasir/third'), 'must end in one of half, quarter, eighth'),
    Row(
        'partition beside a list',
        lambda c: c.data(labelled=dict(ann_file='kvasir/half'), partition='kvasir/half'),
        "both name a list: set partition=None or ann_file=''",
    ),
    Row('exclude that is no list', lambda c: c.data(unlabelled=dict(exclude='a.txt')), r"write \['a.txt'\]"),
    Row(
        'no unlabelled image left',
        lambda c: c.data(unlabelled=dict(exclude=[c.write('a.txt', '\n'.join(f'000{i}' for i in range(5)))])),
        'has no image after leaving out',
    ),
    Row(
        'images both labelled and unlabelled',
        lambda c: c.data(unlabelled=dict(folder='Synthetic/labelled')),
        "5 images are both labelled and unlabelled.*exclude=\\['<list>'\\]",
    ),
    Row(
        'the same through a link',
        lambda c: then(
            os.symlink(c.labelled, c.root / 'linked', target_is_directory=True),
            c.data(unlabelled=dict(folder='linked')),
        ),
        '5 images are both labelled and unlabelled',
    ),
    Row(
        'folder without images',
        lambda c: then(shutil.rmtree(c.labelled / 'images'), (c.labelled / 'images').mkdir(), c.data()),
        "'.*labelled/images' has no image: nothing to load",
    ),
    Row(
        'masks/ missing altogether',
        lambda c: then(shutil.rmtree(c.labelled / 'masks'), c.data()),
        'labelled/masks. does not exist',
    ),
    Row(
        'labelled image without a mask', lambda c: then(c.mask.unlink(), c.data()), 'masks/0001: no file with one of'
    ),
    Row(
        'mask under another name',
        lambda c: then(c.mask.rename(c.mask.with_name('0001_mask.png')), c.data()),
        'there is 0001_mask.png, but a pair has one name',
    ),
    Row(
        'two images of one name',
        lambda c: then(shutil.copy(c.image, c.image.with_suffix('.jpg')), c.data()),
        'images/0001: ambiguous, 0001.jpg and 0001.png',
    ),
    Row(
        'images in a format that is not read',
        lambda c: then(c.resave(c.image, '.webp'), c.data()),
        '1 files in .* would be left out, such as 0001.webp: convert them',
    ),
]

FILES = [
    Row('empty image', lambda c: then(c.image.write_bytes(b''), c.data()), '0001.png: the file is empty'),
    Row('empty mask', lambda c: then(c.mask.write_bytes(b''), c.data()), 'masks/0001.png: the file is empty'),
    Row('PNG cut short', lambda c: then(c.cut(c.image), c.data()), '0001.png: cut short after .* download the file'),
    Row(
        'JPEG cut short, which OpenCV may fill with grey',
        lambda c: then(c.cut(c.resave(c.image, '.jpg')), c.data()),
        '0001.jpg: cut short after',
    ),
    Row('TIFF cut short', lambda c: then(c.cut(c.resave(c.image, '.tif')), c.data()), '0001.tif: cut short after'),
    Row('BMP cut short', lambda c: then(c.cut(c.resave(c.image, '.bmp')), c.data()), '0001.bmp: cut short after'),
    Row('mask cut short', lambda c: then(c.cut(c.mask), c.data()), 'masks/0001.png: (cut short|not a readable)'),
    Row(
        'unlabelled image cut short',
        lambda c: then(c.cut(c.unlabelled / 'images' / '0003.png'), c.data()),
        'unlabelled/images/0003.png: cut short',
    ),
    Row('text named .png', lambda c: then(c.image.write_text('hello'), c.data()), '0001.png: not a readable image'),
    Row(
        'GIF named .png',
        lambda c: then(Image.open(c.image).save(c.image, format='GIF'), c.data()),
        '0001.png: a GIF file, which is not read: save it as PNG or JPEG',
    ),
    Row(
        'image of floats',
        lambda c: then(
            Image.fromarray(np.zeros((72, 96), np.float32)).save(c.image.with_suffix('.tif')),
            c.image.unlink(),
            c.data(),
        ),
        "0001.tif: pixels of mode 'F' are not read: save it with 8 or 16 bits",
    ),
    Row(
        'TIFF of several pages',
        lambda c: c.resave(c.image, '.tif', save_all=True, append_images=[Image.open(c.mask)]) and c.data(),
        '0001.tif: has 2 pages',
    ),
    Row(
        'image of 400 megapixels',
        lambda c: then(Image.new('1', (20000, 20000)).save(c.image), c.data()),
        '0001.png: not a readable image.*exceeds limit',
    ),
    Row(
        'mask of another size',
        lambda c: then(Image.new('L', (96, 70), 255).save(c.mask), c.data()),
        '0001.png is 96 x 72, its mask .*0001.png is 96 x 70',
    ),
    Row(
        'image turned by EXIF, mask as stored',
        lambda c: then(c.turn(c.image, 6), Image.new('L', (72, 96), 255).save(c.mask), c.data()),
        '0001.jpg is 96 x 72, its mask .* is 72 x 96 .as EXIF says they are shown: save both upright',
    ),
    Row(
        'image turned by EXIF upside down, mask without EXIF',
        lambda c: then(c.turn(c.image, 3), c.data()),
        '0001.jpg has EXIF orientation 3, its mask .* has 1: one of them may be turned against the other',
    ),
    Row(
        'mask in another coding',
        lambda c: then(Image.fromarray(np.eye(72, 96, dtype=np.uint8) * 100).save(c.mask), c.data()),
        '0001.png. has values up to 100, which is neither 0/1 nor 0/255',
    ),
    Row(
        'mask of class numbers',
        lambda c: then(Image.fromarray(np.eye(72, 96, dtype=np.uint8) * 2).save(c.mask), c.data()),
        'values up to 2, which is neither',
    ),
    Row(
        'mask in the transparency',
        lambda c: then(Image.fromarray(np.eye(72, 96, dtype=np.uint8)[..., None] * ALPHA).save(c.mask), c.data()),
        'transparency .alpha channel. that shows another shape than its colours',
    ),
    Row(
        'mask in the transparency of a white picture',
        lambda c: then(c.paint((255, 255, 255), (255, 255, 255), transparent=True), c.data()),
        'transparency .alpha channel. that shows another shape than its colours.*save it without transparency',
    ),
    Row(
        'mask of 1 and 255, of which one may mean "ignored"',
        lambda c: then(c.paint((1, 1, 1), (255, 255, 255)), c.data()),
        '0001.png. has the value 1 beside 255 and none between, so that 255 may be.*save it with values 0 and 255',
    ),
    Row(
        'mask with a coloured background',
        lambda c: then(c.paint((0, 128, 0), (128, 0, 0)), c.data()),
        r'more than one colour, such as RGB .*\(0, 128, 0\).*polyps white, all else black',
    ),
    Row(
        'mask with a light background',
        lambda c: then(c.paint((200, 200, 200), (255, 255, 255)), c.data()),
        'shows a shape on a background that is not black: save it with values 0 and 255',
    ),
    Row(
        'mask with a palette that is black throughout',
        lambda c: then(c.paint(0, 1, palette=[0] * 768), c.data()),
        'palette picture in which the numbers 0 and 1 have one colour.*save it with values 0 and 255, without a pal',
    ),
    Row(
        'mask of 16 bits that is dark',
        lambda c: then(cv2.imwrite(str(c.mask), np.eye(72, 96).astype(np.uint16) * 300), c.data()),
        'values up to 300 of 65535, which is neither 0/1 nor 0/65535',
    ),
    Row(
        'masks that are all white',
        lambda c: then(
            [Image.new('L', (96, 72), 255).save(path) for path in (c.labelled / 'masks').iterdir()], c.data()
        ),
        'all of the 5 masks of .* are polyp at every pixel, such as .*: save polyps with value 255 on a background',
    ),
    Row(
        'mask of two colours among masks to score maps against',
        lambda c: then(
            c.paint((0, 0, 255), (255, 0, 0)), c.tool('evaluate_maps.py', c.labelled / 'masks', c.labelled / 'masks')
        ),
        r'masks/0001.png. has more than one colour, such as RGB .*\(0, 0, 255\)',
    ),
    Row(
        'masks that are all black',
        lambda c: then([Image.new('L', (96, 72)).save(path) for path in (c.labelled / 'masks').iterdir()], c.data()),
        'none of the 5 masks of the labelled images has a polyp pixel, such as .*: save polyps with value 255',
    ),
    Row(
        'masks that are all black, in several sources',
        lambda c: then(
            [Image.new('L', (96, 72)).save(path) for path in c.root.glob('Synthetic/*/masks/*')],
            c.data(labelled=[dict(folder='Synthetic/labelled'), dict(folder='Synthetic/test')]),
        ),
        'none of the 7 masks of the labelled images has a polyp pixel',
    ),
]

CLASS_DATA = [
    Row(
        'folder of images that is not there',
        lambda c: c.classes(data_root='/nowhere'),
        "folder '/nowhere/Synthetic/labelled/images' of BaseSegDataset does not exist: mend its data_root",
    ),
    Row(
        'list of images that is not there',
        lambda c: c.classes(ann_file='my.txt'),
        "list '.*/data/my.txt' of BaseSegDataset does not exist: mend its ann_file .'my.txt'",
    ),
    Row(
        'images of another suffix',
        lambda c: c.classes(img_suffix='.jpg'),
        "labelled/images' has no image for BaseSegDataset: img_suffix='.jpg' was asked for, there are 5 with '.png'",
    ),
    Row(
        'folder of images that is empty',
        lambda c: then([path.unlink() for path in (c.labelled / 'images').iterdir()], c.classes()),
        "labelled/images' has no image .* and the folder is empty",
    ),
    Row(
        'image of the list that is not there',
        lambda c: then(c.class_numbers(), c.write('data/my.txt', '0001\n0009'), c.classes(ann_file='my.txt')),
        '1 of the 2 images .* cannot be used: .*labelled/images/0009.png: no such image',
    ),
    Row(
        'image cut short, in any data set of mmseg',
        lambda c: then(c.class_numbers(), c.cut(c.image), c.classes()),
        '1 of the 5 images of BaseSegDataset .*0001.png: cut short after',
    ),
    Row(
        'folder of masks that is not there',
        lambda c: then(shutil.rmtree(c.labelled / 'masks'), c.classes()),
        "folder '.*labelled/masks' of masks does not exist: mend data_root or data_prefix .seg_map_path=",
    ),
    Row(
        'image without a mask',
        lambda c: then(c.class_numbers(), c.mask.unlink(), c.classes()),
        '1 of the 5 images .*labelled/masks/0001.png: no such mask',
    ),
    Row(
        'masks of another suffix',
        lambda c: c.classes(seg_map_suffix='_mask.png'),
        r"5 of the 5 .*0000_mask.png: no such mask \(seg_map_suffix='_mask.png' was asked for, there is 0000.png\)",
    ),
    Row(
        'mask that is no image',
        lambda c: then(c.class_numbers(), c.mask.write_text('hello'), c.classes()),
        '1 of the 5 .*masks/0001.png is not a readable image',
    ),
    Row(
        'mask of class numbers that is cut short',
        lambda c: then(c.class_numbers(), c.cut(c.mask), c.classes()),
        '1 of the 5 .*masks/0001.png (cannot be read|is not a readable image)',
    ),
    Row(
        'mask of other proportions than its image',
        lambda c: then(c.class_numbers(), Image.new('L', (96, 50), 1).save(c.mask), c.classes()),
        '1 of the 5 .*masks/0001.png is 96 x 50, its image .*images/0001.png is 96 x 72',
    ),
    Row(
        'masks with more labels than classes, in any data set of mmseg',
        lambda c: then(c.class_numbers(3), c.classes()),
        r'5 of the 5 .*masks/0000.png has labels from 0 to 3, but the data set has 2 classes: 0 to 1 and 255',
    ),
    Row(
        'labels of 16 bits, of which mmseg reads 8',
        lambda c: then(c.class_numbers(), cv2.imwrite(str(c.mask), np.full((72, 96), 257, np.uint16)), c.classes()),
        'masks/0001.png has labels up to 257, of which only the last 8 bits would be read: save it with 8 bits',
    ),
    Row(
        'mask of class numbers with colours',
        lambda c: then(c.class_numbers(), Image.new('RGB', (96, 72)).save(c.mask), c.classes()),
        'masks/0001.png has colours; a mask of class numbers holds 0 to 1 as grey values or as a palette',
    ),
    Row(
        'masks of class numbers as JPEG',
        lambda c: then(
            [c.resave(path, '.jpg') for path in (c.labelled / 'masks').iterdir()],
            c.classes(seg_map_suffix='.jpg'),
        ),
        'masks/0000.jpg has labels from 0 to .*JPEG changes numbers: save masks as PNG',
    ),
    Row(
        'masks of 0 and 255 read as class numbers',
        lambda c: c.classes(),
        "the 5 masks of the labelled images have no label but 0 and 255, which is ignored: .*type='LoadPolypMask'",
    ),
    Row(
        'masks of 0 and 1 with reduce_zero_label',
        lambda c: then(c.class_numbers(), c.classes(reduce_zero_label=True)),
        'the 5 masks of the labelled images have no label but .*: reduce_zero_label=True has made label 0 ignored',
    ),
    Row(
        'masks of class numbers without any foreground',
        lambda c: then(c.class_numbers(0), c.classes()),
        'the 5 masks of the labelled images have no label but 0, such as .*: there is nothing to learn from them',
    ),
]

SCORED_DATA = [
    Row(
        'images to validate on of another suffix',
        lambda c: then(c.class_numbers(), c.build(c.validated(img_suffix='_image.png'))),
        "test/images' has no image for BaseSegDataset: img_suffix='_image.png' was asked for, there are 2 with",
    ),
    Row(
        'image to validate on without a mask',
        lambda c: then(
            c.class_numbers(),
            (c.root / 'Synthetic' / 'test' / 'masks' / '0001.png').unlink(),
            c.build(c.validated()),
        ),
        '1 of the 2 images .*test/masks/0001.png: no such mask',
    ),
    Row(
        'masks to validate on with more labels than classes',
        lambda c: then(c.class_numbers(), c.class_numbers(3, 'test'), c.build(c.validated())),
        r'2 of the 2 .*test/masks/0000.png has labels from 0 to 3, but the data set has 2 classes',
    ),
    Row(
        'masks to validate on of 0 and 255 read as class numbers',
        lambda c: then(c.class_numbers(1, 'labelled'), c.build(c.validated())),
        'the 2 masks of the images to validate on have no label but 0 and 255, which is ignored: if 255 means',
    ),
    Row(
        'masks to validate on of 0 and 1 with reduce_zero_label',
        lambda c: then(c.class_numbers(), c.build(c.validated(reduce_zero_label=True))),
        'the 2 masks of the images to validate on have no label but .*: set reduce_zero_label=False',
    ),
    Row(
        'masks to test on of 0 and 255 read as class numbers',
        lambda c: c.tool('test.py', c.validated(), c.checkpoint('supervised')),
        'the 2 masks of the images to test on have no label but 0 and 255, which is ignored: if 255 means',
    ),
    Row(
        'masks to test on of another suffix',
        lambda c: c.tool('test.py', c.validated(seg_map_suffix='.bmp'), c.checkpoint('supervised')),
        '2 of the 2 images .*0000.bmp: no such mask .seg_map_suffix=.*there is 0000.png',
    ),
]

CONFIG_FILES = [
    Row('config that does not exist', lambda c: c.build('absent.py'), 'no config at absent.py; those that come with'),
    Row(
        'config that is a folder',
        lambda c: then((c.folder / 'a.py').mkdir(), c.build(str(c.folder / 'a.py'))),
        'a.py is a folder, and a config file is asked for',
    ),
    Row(
        'config with an error of syntax',
        lambda c: c.build(c.write('mine.py', 'model = dict(\n')),
        'mine.py cannot be read as a config: SyntaxError',
    ),
    Row(
        'config that fails',
        lambda c: c.build(c.config('model = dict(warmup_iters=undefined)')),
        "mine.py cannot be read as a config: .*'undefined' is not defined",
    ),
    Row(
        'config saved in UTF-16',
        lambda c: c.build(c.write('mine.py', "_base_ = 'absent.py'\n".encode('utf-16'))),
        'mine.py cannot be read as a config: UnicodeDecodeError.*: save it as UTF-8',
    ),
    Row(
        'config based on a file that does not exist',
        lambda c: c.build(c.write('mine.py', "_base_ = 'absent.py'\n")),
        "mine.py cannot be read as a config: .*absent.py'",
    ),
    Row(
        'another threshold of a head with one channel',
        lambda c: c.build(
            model__segmentor__decode_head__out_channels=1, model__segmentor__decode_head__threshold=0.3
        ),
        'model.segmentor.decode_head.threshold is 0.3; a head with one channel is cut at 0.5 here',
    ),
    Row(
        'config based on a file of an earlier version',
        lambda c: c.build(
            c.write('mine.py', f"_base_ = '{(ROOT / 'configs/_base_/models/aclnet_mbv2.py').as_posix()}'\n")
        ),
        'aclnet_mbv2.py.*: name _base_/networks/mbv2.py and _base_/methods/aclnet_128.py in its place, and write '
        r'model = dict\(_delete_=True, segmentor=_base_.model, \*\*_base_.method\)',
    ),
    Row(
        'config without a model',
        lambda c: c.build(c.write('mine.py', 'train_cfg = dict(max_iters=1)\n')),
        'mine.py has no model, train_dataloader, optim_wrapper: a config to train with needs them',
    ),
    Row(
        'misspelt section in a config',
        lambda c: c.build(c.config('custom_hook = []')),
        "the config sets 'custom_hook', which a run does not read. Did you mean 'custom_hooks'. Rename it",
    ),
    Row(
        'unknown type of model',
        lambda c: c.build(model__type='MeanTaecher'),
        'MeanTaecher is not in the .*model registry',
    ),
    Row(
        'unknown type of hook',
        lambda c: c.build(c.config("custom_hooks = [dict(type='NoHook')]")),
        'NoHook is not in the .*hook registry',
    ),
    Row(
        'unknown step in a pipeline',
        lambda c: c.build(
            c.config("train_dataloader = dict(dataset=dict(labelled=dict(pipeline=[dict(type='Lod')])))")
        ),
        'Lod is not in the .*transform registry',
    ),
    Row(
        'unknown optimizer',
        lambda c: c.train(optim_wrapper__optimizer__type='SDG'),
        "the optimizer 'SDG' is unknown. Did you mean 'SGD'. There are .*AdamW",
    ),
]

OPTIONS = [
    Row(
        'misspelt section on the command line',
        lambda c: c.build(trian_cfg__max_iters=3),
        "--cfg-options trian_cfg.max_iters: a run reads no 'trian_cfg'. Did you mean 'train_cfg'?",
    ),
    Row(
        "a config's own variable on the command line",
        lambda c: c.build(crop_size=(64, 64)),
        "crop_size would change nothing: 'crop_size' is a variable of the config file",
    ),
    Row(
        'list entered without a number on the command line',
        lambda c: c.build(model__segmentor__decode_head__loss_decode__loss_weight=2.0),
        'decode_head.loss_decode is a list of 2: name an entry by its number, such as .*loss_decode.0.loss_weight',
    ),
    Row(
        'misspelt argument of a model',
        lambda c: c.build(model__warmup_itres=3),
        "unexpected keyword argument 'warmup_itres'",
    ),
    Row(
        'argument by its name in an older version',
        lambda c: c.tool('train.py', CONFIGS / 'aclnet.py', '--cfg-options', 'model.lambda_con=1'),
        "model.lambda_con of ACLNet has another name now, 'consistency_weight': rename it in the config",
    ),
    Row(
        'misspelt argument of the training loop',
        lambda c: c.build(train_cfg__max_itres=3),
        "unexpected keyword argument 'max_itres'",
    ),
    Row(
        'misspelt argument of the data loader',
        lambda c: c.build(train_dataloader__num_wrokers=3),
        "unexpected keyword argument 'num_wrokers'",
    ),
    Row(
        'misspelt argument of the checkpoint hook',
        lambda c: c.build(default_hooks__checkpoint__intervall=3),
        "unexpected keyword argument 'intervall'",
    ),
    Row(
        'misspelt hook',
        lambda c: c.build(default_hooks__chekpoint__interval=3),
        "default_hooks sets 'chekpoint', which has no type. Did you mean 'checkpoint'?",
    ),
    Row(
        'misspelt setting of the environment',
        lambda c: c.build(env_cfg__cudnn_benchmrk=True),
        "env_cfg sets 'cudnn_benchmrk', which is not read. Did you mean 'cudnn_benchmark'?",
    ),
    Row(
        'misspelt setting of the optimizer wrapper',
        lambda c: c.build(optim_wrapper__paramwise_cfg__bias_lr_mlt=2),
        "paramwise_cfg sets 'bias_lr_mlt', which is not read. Did you mean 'bias_lr_mult'?",
    ),
    Row(
        'misspelt setting of testing',
        lambda c: c.build(model__segmentor__test_cfg__mod='slide'),
        "model.segmentor.test_cfg sets 'mod', which is not read. Did you mean 'mode'?",
    ),
    Row(
        '--cfg-options without a value',
        lambda c: c.tool('train.py', CONFIGS / 'mean_teacher.py', '--cfg-options', 'train_cfg.max_iters'),
        '--cfg-options takes KEY=VALUE.*got train_cfg.max_iters',
    ),
]

SECTIONS = [
    *(
        Row(
            f'{path} that is {value!r}',
            lambda c, p=path, v=value: c.build(c.config(f'{p} = {v!r}')),
            f'{path} is {value!r}; it must',
        )
        for path, value in (
            ('model', 3),
            ('train_dataloader', 'abc'),
            ('val_dataloader', 3),
            ('train_cfg', 5),
            ('optim_wrapper', 'SGD'),
            ('randomness', 5),
            ('default_hooks', 3),
            ('load_from', 5),
            ('param_scheduler', 'poly'),
            ('val_evaluator', 'PolypMetric'),
        )
    ),
    Row(
        'optimizer as a word',
        lambda c: c.build(optim_wrapper__optimizer='SGD'),
        "optim_wrapper.optimizer is 'SGD'; it must be a dict, such as",
    ),
    Row(
        'sampler as a number',
        lambda c: c.build(train_dataloader__sampler=3),
        'train_dataloader.sampler is 3; it must be a dict',
    ),
    Row(
        'hooks that are numbers',
        lambda c: c.build(c.config('custom_hooks = [3]')),
        r'custom_hooks\[0\] is 3; it must be a dict',
    ),
    Row(
        'hook as a word',
        lambda c: c.build(default_hooks__logger='LoggerHook'),
        "default_hooks.logger is 'LoggerHook'; it must be",
    ),
    Row(
        'log level that is none',
        lambda c: c.build(log_level='LOUD'),
        "log_level is 'LOUD'; allowed are CRITICAL, ERROR, WARNING, INFO",
    ),
    Row(
        'misspelt argument of clipping',
        lambda c: c.build(optim_wrapper__clip_grad__max_nrom=1),
        "clip_grad sets 'max_nrom', which is not read. Did you mean 'max_norm'?",
    ),
    Row(
        'epochs of an endless sampler',
        lambda c: c.build(c.config("train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)")),
        'train_cfg asks for epochs .* SourceRatioSampler, which never ends',
    ),
    Row(
        'sliding without a window',
        lambda c: c.build(model__segmentor__test_cfg__mode='slide'),
        "model.segmentor.test_cfg.mode is 'slide', which needs crop_size and stride.*crop_size is None",
    ),
]

VALIDATION = [
    Row(
        'best checkpoint by a score that nothing gives',
        lambda c: c.build(default_hooks__checkpoint__save_best='mDice'),
        "save_best of the checkpoint hook is 'mDice', which no validation of this run gives. "
        'There are student/mDice, student/mIoU.* teacher/mDice',
    ),
    Row(
        'early stopping by a score that nothing gives',
        lambda c: c.build(c.config("custom_hooks = [dict(type='EarlyStoppingHook', monitor='mDice')]")),
        "monitor of the early stopping hook is 'mDice', which no validation of this run gives",
    ),
    Row(
        'batches of mixed sizes to validate on',
        lambda c: then(
            c.enlarge('test', '0001'),
            c.build(c.config(f'val_dataloader = dict(batch_size=2, dataset=dict(pipeline={[*LOAD, PACK]}))')),
        ),
        r'the model cannot predict the first batch .* \(images of different sizes need val_dataloader.batch_size=1\)',
    ),
    Row(
        'mode of prediction that there is none of',
        lambda c: c.build(model__segmentor__test_cfg__mode='hole'),
        'the model cannot predict the first batch of val_dataloader: .*hole',
    ),
]

NUMBERS = [
    Row(
        'endless iterations',
        lambda c: c.build(train_cfg__max_iters=float('inf')),
        'train_cfg.max_iters is inf; it must be a whole',
    ),
    Row(
        'validation that begins with a word',
        lambda c: c.build(train_cfg__val_begin='x'),
        "train_cfg.val_begin is 'x'; it must be a whole",
    ),
    Row('negative seed', lambda c: c.build(seed=-1), 'randomness.seed is -1; it must be a whole number from 0'),
    Row('seed that is a word', lambda c: c.build(randomness__seed='one'), "randomness.seed is 'one'"),
    Row('no iterations', lambda c: c.build(train_cfg__max_iters=0), 'train_cfg.max_iters is 0; .* at least 1'),
    Row('negative iterations', lambda c: c.build(train_cfg__max_iters=-5), 'train_cfg.max_iters is -5'),
    Row('iterations as a word', lambda c: c.build(train_cfg__max_iters='many'), "train_cfg.max_iters is 'many'"),
    Row('validation every 0 iterations', lambda c: c.build(train_cfg__val_interval=0), 'train_cfg.val_interval is 0'),
    Row('empty batch', lambda c: c.build(train_dataloader__batch_size=0), 'train_dataloader.batch_size is 0'),
    Row(
        'batch size that is no multiple of the ratio',
        lambda c: c.build(train_dataloader__batch_size=6),
        'batch_size is 6; it must be a multiple of 8, the sum of sampler.ratio',
    ),
    Row(
        'ratio of one number for two sources',
        lambda c: c.build(train_dataloader__sampler__ratio=(8,)),
        r'ratio=\(8,\) must be 2 positive numbers',
    ),
    Row('negative number of workers', lambda c: c.build(train_dataloader__num_workers=-1), 'num_workers is -1'),
    Row(
        'persistent workers without workers',
        lambda c: c.build(train_dataloader__persistent_workers=True),
        'persistent_workers option needs num_workers > 0',
    ),
    Row(
        'negative learning rate', lambda c: c.train(optim_wrapper__optimizer__lr=-1.0), 'Invalid learning rate: -1.0'
    ),
    Row(
        'checkpoint every 0 iterations',
        lambda c: c.build(default_hooks__checkpoint__interval=0),
        'interval is 0; it must be a whole number of at least 1, or -1',
    ),
    Row('EMA decay above 1', lambda c: c.build(model__teacher_momentum=1.5), r'teacher_momentum is 1.5; .*\[0, 1\)'),
    Row(
        'crop of no size',
        lambda c: c.build(c.config(labelled_pipeline("dict(type='RandomCrop', crop_size=(0, 4))"))),
        r"'assert crop_size\[0\] > 0 and crop_size\[1\] > 0' does not hold",
    ),
]

PARTS = [
    Row(
        'more classes in the head than in the data',
        lambda c: c.build(model__segmentor__decode_head__num_classes=3),
        r'decode_head has num_classes=3, but the data set has 2 classes \(background, polyp\): set',
    ),
    Row(
        'head that does not fit its backbone',
        lambda c: c.train(model__segmentor__decode_head__in_channels=7),
        'the model cannot predict the first batch of val_dataloader: RuntimeError: .*7',
    ),
    Row(
        'semi-supervised method on the supervised loader',
        lambda c: c.build(c.config('train_dataloader = _base_.supervised_dataloader')),
        'MeanTeacher needs views, but the pipeline of the labelled source packs single images',
    ),
    Row(
        'supervised model on the semi-supervised loader',
        lambda c: c.build(c.write('mine.py', f'_base_ = {[str(CONFIGS / name) for name in TINY]}')),
        'EncoderDecoder takes single images, but .* packs the views sup: .*supervised_dataloader',
    ),
    Row(
        'semi-supervised method without unlabelled images',
        lambda c: c.build(train_dataloader__dataset__unlabelled=None),
        r'ratio=\(4, 4\) must be 1 positive',
    ),
    Row(
        'labelled masks asked of unlabelled images',
        lambda c: c.build(
            c.config('train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=_base_.sup_pipeline)))')
        ),
        'has no mask: LoadPolypMask.. belongs in the pipeline of a labelled data set',
    ),
    Row(
        'images read as grey ones',
        lambda c: c.build(
            c.config(
                "load = dict(type='LoadImageFromFile', color_type='grayscale')\n"
                'pipeline = [load, *_base_.sup_pipeline[1:]]\n'
                'train_dataloader = dict(dataset=dict(labelled=dict(pipeline=pipeline)))'
            )
        ),
        "images of three planes, and color_type='grayscale' may give other ones: leave it out",
    ),
    *(
        Row(
            f'one channel without a sigmoid{what}',
            lambda c, m=method, k=key: c.build(m, **{f'{k}decode_head__out_channels': 1}),
            'FCNHead has out_channels=1 and a CrossEntropyLoss over channels, of which it needs two: set loss_',
        )
        for method, what, key in (
            ('mean_teacher', '', 'model__segmentor__'),
            ('supervised', ', in a plain model', 'model__'),
        )
    ),
    Row(
        'class weights beside avg_non_ignore',
        lambda c: c.build(
            model__segmentor__decode_head__loss_decode__0__class_weight=[1.0, 2.0],
            model__segmentor__decode_head__loss_decode__0__avg_non_ignore=True,
        ),
        'has class_weight and avg_non_ignore=True, .* leave avg_non_ignore out',
    ),
    Row(
        'a list to validate on that does not exist',
        lambda c: c.build(val_dataloader__dataset__ann_file='absent.txt'),
        "no list 'absent.txt'",
    ),
    Row(
        'validation without data',
        lambda c: c.build(val_dataloader=None),
        'val_dataloader, val_cfg, and val_evaluator',
    ),
    Row(
        'distributed launcher without its environment',
        lambda c: then(c.patch.delenv('RANK', raising=False), c.build(launcher='pytorch')),
        '--launcher pytorch needs RANK in the environment, which torchrun',
    ),
    Row(
        'weights that are nowhere',
        lambda c: then(
            c.patch.setenv('MMSEG_ACL_WEIGHTS', str(c.folder)),
            c.build((ROOT / 'configs' / 'mean_teacher' / 'mbv2_kvasir_eighth.py').as_posix()),
        ),
        'no file called mobilenet_v2.pth.*MMSEG_ACL_WEIGHTS=none',
    ),
]
CHECKPOINTS = [
    Row(
        'weights to start from that are not there',
        lambda c: c.build(load_from='absent.pth'),
        'no checkpoint at absent',
    ),
    Row(
        'weights to start from of another model',
        lambda c: c.build(load_from=str(c.checkpoint('aclnet', 'a.pth'))),
        'a.pth was not made by this model .MeanTeacher.*such as .*Give the config it was trained with',
    ),
    Row(
        'weights to start from for another number of classes',
        lambda c: c.build(load_from=str(c.of_19_classes())),
        'cities.pth was not made by this model .*of another shape.* or, to start from all of it but the layers for '
        r"its own number of classes, leave load_from out and set model.segmentor.init_cfg=dict\(type='Pretrained'",
    ),
    Row(
        'weights to start from that are a text',
        lambda c: c.build(load_from=c.write('a.pth', 'hello')),
        'a.pth cannot be read as a checkpoint: it is not a checkpoint, or is cut short',
    ),
    Row(
        'run of another model resumed',
        lambda c: c.checkpoint('aclnet') and c.build(resume=True),
        'iter_4.pth was not made by this model',
    ),
    Row(
        'run of another seed resumed',
        lambda c: c.checkpoint() and c.build(resume=True, seed=5),
        'iter_4.pth is of a run with seed 0, this one has seed 5: resume with --seed 0',
    ),
    Row(
        'run prolonged, whose learning rate has come to 0',
        lambda c: c.checkpoint() and c.build(resume=True, train_cfg__max_iters=16),
        r'schedules end at iterations \[8\], those of this config end at \[16\]',
    ),
    Row(
        'best weights resumed, which have no optimizer',
        lambda c: c.checkpoint(optimizer=None) and c.build(resume=True),
        'iter_4.pth has no optimizer, so no run can go on from it: resume from an iter_',
    ),
    *(
        Row(
            f'run resumed with another {what}',
            lambda c, options=options: c.checkpoint() and c.build(resume=True, **options),
            f'iter_4.pth is of a run with other settings: {message}. A resumed run keeps its .* Set them to what',
        )
        for what, options, message in (
            (
                'learning rate',
                dict(optim_wrapper__optimizer__lr=0.5),
                'optim_wrapper.optimizer.lr is 0.01 there, 0.5 here',
            ),
            (
                'weight decay',
                dict(optim_wrapper__optimizer__weight_decay=0.1),
                'optim_wrapper.optimizer.weight_decay is 0.0001 there, 0.1 here',
            ),
            ('batch size', dict(train_dataloader__batch_size=16), 'train_dataloader.batch_size is 8 there, 16 here'),
            (
                'accumulation',
                dict(optim_wrapper__accumulative_counts=2),
                'optim_wrapper.accumulative_counts is 1 there, 2 here',
            ),
        )
    ),
    Row(
        'run resumed with another list of images',
        lambda c: (
            c.checkpoint()
            and c.build(resume=True, train_dataloader__dataset__labelled__ann_file=c.write('a.txt', '0001\n0002'))
        ),
        "dataset.labelled.ann_file is not set there, 'a.txt' here",
    ),
    Row(
        'run resumed on another number of images',
        lambda c: c.checkpoint() and then((c.unlabelled / 'images' / '0003.png').unlink(), c.build(resume=True)),
        r'of a run on \[5, 5\] images \(by source\), this data set has \[5, 4\]: .* Restore the lists and folders',
    ),
    Row(
        'work dir copied without its checkpoints',
        lambda c: then(
            c.write('other.pth', 'x'),
            c.work_dir.mkdir(),
            (c.work_dir / 'last_checkpoint').write_text(str(c.folder / 'other.pth')),
            c.build(resume=True),
        ),
        'has no checkpoint of its own: last_checkpoint names .*other.pth, which is elsewhere. Copy it into the work',
    ),
    Row(
        'NaN weights to start from',
        lambda c: c.build(load_from=str(c.spoiled(NAN, name='a.pth'))),
        f'a.pth cannot be used: {WEIGHT} has NaN .*take a checkpoint from before the training broke',
    ),
    Row(
        'NaN weights resumed',
        lambda c: c.spoiled(NAN) and c.build(resume=True),
        f'no checkpoint in .* is whole: .*iter_4.pth cannot be used: {WEIGHT} has NaN',
    ),
    Row(
        'NaN weights tested',
        lambda c: c.tool('test.py', CONFIGS / 'mean_teacher.py', c.spoiled(NAN)),
        f'iter_4.pth cannot be used: {WEIGHT} has NaN',
    ),
    Row(
        'infinite weights tested',
        lambda c: c.tool('test.py', CONFIGS / 'mean_teacher.py', c.spoiled(float('-inf'))),
        f'iter_4.pth cannot be used: {WEIGHT} has infinite numbers',
    ),
    Row(
        'complex weights exported',
        lambda c: c.tool(
            'export_student.py', CONFIGS / 'mean_teacher.py', c.spoiled(1j), '--out', str(c.folder / 'out')
        ),
        rf'iter_4.pth cannot be used: {WEIGHT} has complex numbers \(torch.complex64\)',
    ),
    Row(
        'NaN weights of a backbone',
        lambda c: then(
            torch.save(
                {
                    key.removeprefix('student.'): value * NAN
                    for key, value in read_checkpoint(c.checkpoint(name='a.pth'))['state_dict'].items()
                    if key.startswith('student.backbone.')
                },
                c.folder / 'unet.pth',
            ),
            c.patch.delenv('MMSEG_ACL_WEIGHTS'),
            c.build(
                c.config(
                    f"model = dict(segmentor=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint="
                    f"'{c.folder / 'unet.pth'}'))))"
                ),
                folder=c.folder / 'new',
            ),
        ),
        'unet.pth cannot be used: encoder.* has NaN .* and so have .* more of its',
    ),
    Row(
        'NaN momenta resumed',
        lambda c: (
            c.checkpoint(optimizer=dict(state={0: dict(m=torch.tensor(float('nan')))}, param_groups=[]))
            and c.build(resume=True)
        ),
        'iter_4.pth cannot be used: optimizer.state.0.m has NaN .*with which a step would break the weights',
    ),
    Row(
        'checkpoint to test with changed bytes',
        lambda c: c.tool('test.py', CONFIGS / 'mean_teacher.py', c.changed(c.checkpoint())),
        'iter_4.pth is damaged: the checksum of .* does not fit. Copy or download it again',
    ),
    Row(
        'checkpoint to test whose weights are a list',
        lambda c: c.tool('test.py', CONFIGS / 'mean_teacher.py', c.checkpoint(state_dict=[1])),
        'iter_4.pth is no checkpoint, or is damaged: its state_dict is a list, not a dict',
    ),
    Row(
        'checkpoint to test that is a pickle of nothing',
        lambda c: c.tool('test.py', CONFIGS / 'mean_teacher.py', c.write('a.pth', b'\x80\x02.')),
        'a.pth cannot be read as a checkpoint: it is not a checkpoint, or is cut short or damaged',
    ),
    Row(
        'all checkpoints cut short',
        lambda c: then(c.cut(c.checkpoint()), c.build(resume=True)),
        'no checkpoint in .* is whole: .*iter_4.pth cannot be read as a checkpoint: .*cut short',
    ),
    Row(
        'checkpoint to test that is not there',
        lambda c: c.tool('test.py', CONFIGS / 'mean_teacher.py', 'absent.pth'),
        "checkpoint 'absent.pth' does not exist",
    ),
    Row(
        'checkpoint to test of another model',
        lambda c: c.tool('test.py', CONFIGS / 'mean_teacher.py', c.checkpoint('aclnet')),
        'iter_4.pth was not made by this model',
    ),
    Row(
        'network to test that the model lacks',
        lambda c: c.tool('test.py', CONFIGS / 'mean_teacher.py', c.checkpoint(), '--network', 'techer'),
        "has no network 'techer', it has student, teacher",
    ),
    Row(
        'test set that is not there',
        lambda c: c.tool('test.py', CONFIGS / 'mean_teacher.py', c.checkpoint(), '--datasets', 'etis'),
        "test set 'etis': there is no folder .* present are synthetic",
    ),
]

WORK_DIRS = [
    Row(
        'work dir that is a file',
        lambda c: c.build(folder=Path(c.write('a', ''))),
        'cannot be written to: it is a file',
    ),
    Row(
        'work dir below a file',
        lambda c: c.build(folder=Path(c.write('a', '')) / 'b'),
        'work dir .*a/b cannot be written to: Not a directory. Give another with --work-dir',
    ),
    Row(
        'work dir that cannot be written to',
        lambda c: c.build(folder=Path('/proc/mmseg_acl')),
        'work dir /proc/mmseg_acl cannot be written to',
    ),
    Row(
        "work dir with an earlier run's checkpoints",
        lambda c: c.checkpoint() and c.build(),
        'holds checkpoints of an earlier run, such as iter_4.pth: go on from them with --resume',
    ),
]

# Tools that test, on a config that does not say what on.
UNTESTED = [
    Row(
        f'config without test_dataloader to {tool}',
        lambda c, t=tool, a=arguments: c.tool(
            t, *a(c.config('test_dataloader = None', 'aclnet'), c.checkpoint('aclnet'))
        ),
        'mine.py has no test_dataloader.dataset, which says how images are read',
    )
    for tool, arguments in (
        ('test.py', lambda *run: run),
        ('label_quality.py', lambda *run: run),
        ('shifts.py', lambda *run: run),
        ('visualize.py', lambda config, checkpoint: ('tsne', f'{config}:{checkpoint}')),
    )
]

GRIDS = [
    *(
        Row(
            f'description in which {text}',
            lambda c, t=text: c.tool(
                'experiments.py', 'status', c.write('grid.yaml', t.replace('CONFIG', str(CONFIGS / 'supervised.py')))
            ),
            message,
        )
        for text, message in (
            ('runs: 3', 'has no runs: it needs a list'),
            ('{title: 3, runs: [config: CONFIG]}', 'title is 3; it must be a text'),
            ('{tables: all, runs: [config: CONFIG]}', "tables is 'all'; it must be a list of tables"),
            ('runs: [config: 3]', 'config is 3; it must be a text'),
            ('runs: [{config: CONFIG, label: [a]}]', r"label is \['a'\]; it must be a text"),
            ('runs: [{config: CONFIG, seeds: first}]', "seeds is 'first'; it must be a list of whole numbers"),
            ('runs: [{config: CONFIG, options: 3}]', 'must be a list of KEY=VALUE'),
            ('runs: [{config: CONFIG, data: {a: 1}}]', 'the axis data is .*; it must be a text or number'),
            ('{test_sets: 5, runs: [config: CONFIG]}', r'test_sets is \[5\]; allowed are kvasir'),
        )
    ),
    Row(
        'description saved in UTF-16',
        lambda c: c.tool('experiments.py', 'status', c.write('grid.yaml', 'runs: 3'.encode('utf-16'))),
        'grid.yaml is no YAML in UTF-8',
    ),
    Row(
        'table whose name leads out of the results folder',
        lambda c: c.tool(
            'experiments.py',
            'tables',
            c.write(
                'grid.yaml',
                f'runs: [config: {CONFIGS / "supervised.py"}]\ntest_sets: synthetic\n'
                'tables: [{name: ../../mine, columns: [{test: synthetic}]}]\n',
            ),
            '--results',
            c.folder / 'results',
        ),
        r"table '../../mine': the name becomes that of a file, so it must have letters, digits and",
    ),
]

QUICK = [*LISTS, *FILES]
BUILDING = [
    *CLASS_DATA,
    *SCORED_DATA,
    *CONFIG_FILES,
    *SECTIONS,
    *VALIDATION,
    *OPTIONS,
    *NUMBERS,
    *PARTS,
    *CHECKPOINTS,
    *WORK_DIRS,
    *UNTESTED,
    *GRIDS,
]
ROWS = [*QUICK, *BUILDING]


@pytest.fixture(scope='module')
def frames(tmp_path_factory) -> Path:
    """What each case has a copy of."""
    root = tmp_path_factory.mktemp('frames')
    write_synthetic(root, labelled=5, unlabelled=5, test=2, size=(72, 96))
    return root


@pytest.fixture
def case(frames, tmp_path, monkeypatch) -> Case:
    monkeypatch.delenv('MMSEG_ACL_DEBUG', raising=False)
    return Case(tmp_path, frames, monkeypatch)


@pytest.mark.parametrize(
    'row', [*QUICK, *(pytest.param(row, marks=pytest.mark.slow) for row in BUILDING)], ids=lambda row: row.what
)
def test_one_message_before_training(row, case, capfd):
    with pytest.raises(SystemExit) as stop, user_errors():
        row.act(case)
    out, said = capfd.readouterr()
    assert stop.value.code == 2
    assert said.count('error: ') == 1 and 'Traceback' not in said and len(said) < 1500
    message = ' '.join(said[said.index('error: ') :].split())
    assert re.search(row.message, message), message
    assert not case.work_dir.is_dir() or not list(case.work_dir.glob('*/vis_data/scalars.json')), (
        'nothing was trained'
    )


# ------------------------------------------------------------------ handled

KINDS = {
    'grey': lambda image: image.convert('L'),
    'grey with transparency': lambda image: image.convert('LA'),
    'with transparency': lambda image: image.convert('RGBA'),
    'palette': lambda image: image.convert('P'),
    'bilevel': lambda image: image.convert('1'),
}


def shown(path: Path) -> np.ndarray:
    """Blue, green, red, by another library than the one under test."""
    return np.asarray(Image.open(path).convert('RGB'))[..., ::-1]


@pytest.mark.parametrize('kind', KINDS)
def test_images_of_any_kind_are_read_as_they_are_shown(case, kind):
    KINDS[kind](Image.open(case.image)).save(case.image)
    np.testing.assert_array_equal(case.load()[0], shown(case.image))


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('channels', [3, 1])
def test_images_of_16_bits_lose_their_lower_half(case, suffix, channels):
    expected = cv2.imread(str(case.image)) if channels == 3 else cv2.imread(str(case.image), 0)
    case.image.unlink()
    cv2.imwrite(str(case.image.with_suffix(suffix)), expected.astype(np.uint16) * 256 + 77)
    expected = np.broadcast_to(expected.reshape(72, 96, channels), (72, 96, 3))
    np.testing.assert_allclose(case.load()[0], expected, atol=1)  # OpenCV rounds TIFFs otherwise


@pytest.mark.parametrize('suffix', ['.jpg', '.tif'])
def test_images_in_printers_colours_are_read(case, suffix):
    expected = shown(case.image).astype(int)
    image = Image.open(case.image).convert('CMYK')
    case.image.unlink()
    image.save(case.image.with_suffix(suffix), quality=95)
    assert np.abs(case.load()[0] - expected).mean() < 4


@pytest.mark.parametrize('orientation', [3, 6])
@pytest.mark.parametrize('both', [True, False])
def test_images_turned_by_exif_are_read_as_they_are_shown(case, orientation, both):
    if orientation == 3 and not both:
        pytest.skip('an error: nobody can tell how the mask lies')
    image, mask = case.load()
    case.turn(case.image, orientation)
    if both:
        case.turn(case.mask, orientation)
    found, found_mask = case.load()
    assert np.abs(found.astype(int) - image).mean() < 4
    np.testing.assert_array_equal(found_mask, mask)


@pytest.mark.parametrize(
    'save',
    [
        lambda mask, path: Image.fromarray(mask * 255).save(path.with_suffix('.jpg'), quality=95),
        lambda mask, path: Image.fromarray(mask.astype(bool)).save(path.with_suffix('.bmp')),
        lambda mask, path: cv2.imwrite(str(path.with_suffix('.tif')), mask.astype(np.uint16) * 65535),
        lambda mask, path: cv2.imwrite(str(path.with_suffix('.tiff')), mask.astype(np.uint16)),
        lambda mask, path: Image.fromarray(mask * 255).convert('RGBA').save(path.with_suffix('.PNG')),
    ],
    ids=['jpeg', 'bilevel', '16 bits', '16 bits of 0 and 1', 'transparent channel'],
)
def test_masks_of_any_kind_are_read_alike(case, save):
    mask = case.load()[1]
    case.mask.unlink()
    save(mask, case.mask)
    np.testing.assert_array_equal(case.load()[1], mask)


def test_what_a_camera_adds_to_a_jpeg_is_no_damage(case):
    path = case.resave(case.image, '.jpg')
    path.write_bytes(path.read_bytes() + np.random.default_rng(0).bytes(200_000))
    assert case.load()[0].shape == (72, 96, 3)


@pytest.mark.parametrize('size', [(1, 1), (5, 7), (61, 47), (300, 20), (127, 129)])
def test_images_of_any_size_make_whole_batches(case, size):
    for folder in (case.labelled, case.unlabelled):
        for path in (*(folder / 'images').iterdir(), *(folder / 'masks').iterdir()):
            Image.open(path).resize(size, Image.Resampling.NEAREST).save(path)
        Image.new('L', size, 255).save(folder / 'masks' / '0000.png')
    dataset = case.data()
    for index in (0, 5):
        sample = dataset[index]
        for view, image in sample['inputs'].items():
            assert image.shape == (3, 128, 128)
            assert 0 < sample['data_samples'][view].valid.data.sum() <= 128 * 128


@pytest.mark.parametrize('name', ['a polyp (1)', 'Bildé größer', '\u606f\u8089', "it's 100% #1", '1.5mm', '-rf'])
def test_names_of_any_letters(case, name):
    for kind in ('images', 'masks'):
        (case.labelled / kind / '0001.png').rename(case.labelled / kind / f'{name}.png')
    case.image = case.labelled / 'images' / f'{name}.png'
    assert case.load()[0].shape == (72, 96, 3)
    listed = case.write('list.txt', f'{name}.PNG\n')
    assert case.data(labelled=dict(ann_file=listed))[0]['inputs']['sup'].shape == (3, 128, 128)


def test_accents_count_alike_however_they_are_stored(case):
    stored, typed = (unicodedata.normalize(form, 'Bildé') for form in ('NFD', 'NFC'))
    assert stored != typed
    (case.labelled / 'images' / '0001.png').rename(case.labelled / 'images' / f'{stored}.png')
    (case.labelled / 'masks' / '0001.png').rename(case.labelled / 'masks' / f'{typed}.png')
    for name in (stored, typed):
        dataset = case.data(labelled=dict(ann_file=case.write('list.txt', name)))
        assert dataset.source_sizes[0] == 1


def test_lists_written_on_windows(case):
    listed = case.write('list.txt', '\ufeffSynthetic\\labelled\\0001.png\r\nSynthetic\\labelled\\0002.png\r\n\r\n')
    dataset = PolypDataset(listed, folder='')
    assert [dataset.get_data_info(i)['img_path'] for i in (0, 1)] == [
        str(case.labelled / 'images' / f'000{i}.png') for i in (1, 2)
    ]


@pytest.mark.slow
def test_resuming_nothing_starts_at_the_beginning_and_says_so(case):
    said = []
    case.patch.setattr('mmseg_acl.engine.start.resume.print_log', lambda text, **_: said.append(text))
    runner = case.build(resume=True)
    assert runner.iter == 0 and not runner._resume
    assert 'NOTHING TO RESUME' in said[0]


@pytest.mark.slow
def test_a_run_without_a_seed_is_resumed_with_the_one_it_drew(case):
    case.checkpoint()
    assert case.build(resume=True, randomness__seed=None).seed == 0


@pytest.mark.slow
def test_what_takes_effect_otherwise_than_it_seems_is_said(case):
    said = []
    case.patch.setattr(logging.Logger, 'warning', lambda self, text, *_: said.append(text))
    case.build(val_dataloader__dataset__folder='Synthetic/labelled', model__warmup_iters=8)
    said = '\n'.join(said)
    assert '5 images to validate on are trained on with their labels, too' in said
    assert 'the warm-up lasts 8 iterations and the run 8: it will learn from labelled images ALONE' in said


@pytest.mark.trained
@pytest.mark.slow
def test_frames_without_a_polyp_are_one_source_among_several(case):
    for path in case.root.glob('Synthetic/test/masks/*'):
        Image.new('L', (96, 72)).save(path)
    dataset = case.data(labelled=[dict(folder='Synthetic/test'), dict(folder='Synthetic/labelled')])
    assert dataset.source_sizes == [2, 5, 5] and dataset.has_foreground
    case.class_numbers()
    labelled = [case.source('test'), case.source()]
    dataset = DATASETS.build(dict(type='SemiSupervisedDataset', labelled=labelled))
    assert dataset.source_sizes == [2, 5] and dataset.has_foreground


@pytest.mark.slow
def test_frames_without_a_polyp_are_a_test_set(case, capfd):
    for path in case.root.glob('Synthetic/test/masks/*'):
        Image.new('L', (96, 72)).save(path)
    case.tool('test.py', CONFIGS / 'mean_teacher.py', case.checkpoint(), '--out', case.folder / 'scores')
    found = json.loads((case.folder / 'scores' / 'results.json').read_text())['synthetic']
    for network in ('student', 'teacher'):
        scores = found[network]['image']
        assert scores['mDice'] == scores['mIoU'] == 100 - scores['false_alarms']
        assert 0 <= scores['false_area'] <= scores['false_alarms'] <= 100
    assert 'false_alarms' in capfd.readouterr().out


@pytest.mark.slow
def test_mmsegs_own_loop_tells_no_score_of_masks_of_0_and_255(case):
    """It knows of no check before a run."""
    config = load_config(case.validated(), work_dir=str(case.work_dir))
    config.experiment_name = uuid.uuid4().hex
    runner = Runner.from_cfg(config)
    with pytest.raises(
        DataError, match='the masks of the images to score have no label but 0 and 255, which is ignored'
    ):
        runner.test()
    case.class_numbers(3)
    with pytest.raises(
        DataError, match='the mask of .*0000.png has labels from 0 to 3, but the data set has 2 classes'
    ):
        runner.test()


class AllWhite(BaseTransform):
    """A step of another package, which makes of 255 what it wants."""

    def transform(self, results: dict) -> dict:
        results['gt_seg_map'] = (results['gt_seg_map'] == 255).astype(np.uint8)
        return results


@pytest.mark.slow
def test_labels_that_another_package_makes_are_checked_when_they_are_drawn(case):
    pipeline = [*case.source()['pipeline'][:-1], AllWhite(), PACK]
    dataset = DATASETS.build(dict(type='SemiSupervisedDataset', labelled=case.source(pipeline=pipeline)))
    assert not dataset.has_foreground, 'not known'
    labels = labels_to_check(dataset)
    check_samples(labels, [dataset[i]['data_samples'] for i in range(5)])
    assert labels.found == {0, 1}


@pytest.mark.slow
def test_of_many_masks_a_sample_is_read_and_the_others_when_they_are_drawn(case):
    case.patch.setattr('mmseg_acl.datasets.class_data.MAX_READ', 3)
    said = []
    case.patch.setattr('mmseg_acl.datasets.class_data.print_log', lambda text, **_: said.append(text))
    case.class_numbers()
    cv2.imwrite(str(case.mask), np.full((72, 96), 7, np.uint8))
    dataset = DATASETS.build(dict(type='SemiSupervisedDataset', labelled=case.source()))
    assert dataset.has_foreground
    assert [text.partition(';')[0] for text in said] == [
        '3 of the 5 masks of BaseSegDataset were read to check their labels'
    ]
    with pytest.raises(ValueError, match='the mask of .*0001.png has labels from 7 to 7, but the data set has 2'):
        check_samples(labels_to_check(dataset), [dataset[i]['data_samples'] for i in range(5)])


@pytest.mark.slow
def test_classes_that_no_mask_has_are_named(case):
    said = []
    case.patch.setattr('mmseg_acl.datasets.class_data.print_log', lambda text, **_: said.append(text))
    case.class_numbers()
    case.classes(metainfo=dict(classes=('wall', 'polyp', 'tool')))
    assert said == ['no mask of the labelled images has the classes tool']


@pytest.mark.slow
def test_masks_larger_than_their_images_are_resized_with_them(case):
    case.class_numbers()
    Image.open(case.mask).resize((192, 144), Image.Resampling.NEAREST).save(case.mask)
    case.classes()


def test_missing_masks_of_unlabelled_images_are_looked_for_once(case):
    """Each was compared with all masks there are: the start of a run was quadratic."""
    shown = []
    case.patch.setattr(_NoFile, '__str__', lambda self: shown.append(self.stem) or self.stem)
    for path in (case.unlabelled / 'masks').iterdir():
        path.rename(path.with_name(f'other_{path.name}'))
    case.data()
    assert shown == []
    for path in (case.labelled / 'masks').iterdir():
        path.unlink()
    for number in range(5, 9):
        shutil.copy(case.image, case.image.with_name(f'000{number}.png'))
    with pytest.raises(FileNotFoundError, match='9 of the 9 images'):
        case.data()
    assert len(shown) == NUM_SHOWN_PROBLEMS


@pytest.mark.trained
@pytest.mark.slow
def test_a_motley_set_trains(case):
    kinds = [KINDS['grey'], KINDS['with transparency'], KINDS['palette'], lambda image: image.resize((31, 33))]
    for folder in (case.labelled, case.unlabelled):
        for number, change in enumerate(kinds):
            for kind in ('images', 'masks'):
                path = folder / kind / f'000{number}.png'
                image = Image.open(path)
                image = change(image) if kind == 'images' else image.resize((31, 33)) if number == 3 else image
                image.save(path.with_name(f'polyp é {number}.PNG'))
                path.unlink()
    case.train(train_cfg__max_iters=3, train_cfg__val_begin=99, model__warmup_iters=1)
    assert (case.work_dir / 'iter_3.pth').is_file()


def test_the_documentation_lists_every_row():
    text = (ROOT / 'docs' / 'bad_input.md').read_text()
    assert len(ROWS) >= 40
    assert [row.what for row in ROWS if f'| {row.what} |' not in text] == []
