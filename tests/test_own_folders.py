"""`tools/train.py --labelled L --unlabelled U`: what is decided of many layouts, what is asked for, whole runs."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image
from tool_process import run_tool

from mmseg_acl.datasets.own import OwnData, Request, inspect_own_data, twins
from mmseg_acl.datasets.own.groups import group_frames, hold_out
from mmseg_acl.engine import load_config
from mmseg_acl.engine.start.own_config import SCHEDULES, VIEWS, Choices, prepare_own_run
from mmseg_acl.methods import BY_FOLDER

ROOT = Path(__file__).parents[1]
SIZES = ((40, 32), (48, 40), (64, 48))
PALETTE = [0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255]


def frame(path: Path, number: int, size: tuple[int, int] = SIZES[0]) -> None:
    """A picture of noise, which has no twin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, size, interpolation=cv2.INTER_CUBIC))


def mask(path: Path, number: int, values: tuple[int, ...], size: tuple[int, int] = SIZES[0], kind: str = 'L') -> None:
    """Background with a square of one of the values, in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros(size[::-1], np.uint8)
    labels[8:20, 10:24] = values[number % len(values)]
    image = Image.fromarray(labels)
    if kind == 'P':
        image.putpalette(PALETTE)
    image.convert('RGB').save(path) if kind == 'RGB' else image.save(path)


def pairs(
    root: Path,
    count: int = 24,
    image: str = 'images/{n}.jpg',
    truth: str = 'masks/{n}.png',
    values: tuple[int, ...] = (255,),
    sizes: tuple[tuple[int, int], ...] = SIZES[:1],
    kind: str = 'L',
) -> None:
    """Images and masks; names may have {n}, the number, and {g}, one of six groups."""
    for n in range(count):
        names = dict(n=f'{n:03d}', g=f'p{n % 6}')
        size = sizes[n % len(sizes)]
        frame(root / image.format(**names), n, size)
        mask(root / truth.format(**names), n, values, size, kind)


def unlabelled(root: Path, count: int = 5) -> None:
    for n in range(count):
        frame(root / 'day' / f'{n % 2}' / f'frame {n}.jpg', 1000 + n)


class Layout(NamedTuple):
    """A user's folder, and what is decided of it."""

    name: str
    make: Callable[[Path], None]
    said: tuple[str, ...]
    held: int = 5
    classes: int = 2
    binary: bool = True
    groups: Callable[[str], str] | None = None  # of an image's path, where groups must not straddle the split
    labelled: tuple[str, ...] = ('L',)


def by_parent(path: str) -> str:
    return next(part for part in Path(path).parts if re.fullmatch(r'p\d', part))


def by_prefix(path: str) -> str:
    return Path(path).name.partition('_')[0]


LAYOUTS = [
    Layout('flat', lambda r: pairs(r / 'L'), ('masks in folders masks/', 'values 0, 255', 'each image by itself')),
    Layout(
        'nested by patient below images/ and masks/',
        lambda r: pairs(r / 'L', image='images/{g}/{n}.jpg', truth='masks/{g}/{n}.png'),
        ('6 by folder: p0, p1, p2, p3, ...',),
        4,
        groups=by_parent,
    ),
    Layout(
        'a folder a patient, each with images/ and masks/',
        lambda r: pairs(r / 'L', image='{g}/images/{n}.jpg', truth='{g}/masks/{n}.png'),
        ('6 by folder',),
        4,
        groups=by_parent,
    ),
    Layout(
        'masks with a suffix beside their images',
        lambda r: pairs(r / 'L', image='{n}.jpg', truth='{n}_mask.png'),
        ('masks by their names, such as 000_mask.png',),
    ),
    Layout(
        'masks with a suffix in a folder of theirs',
        lambda r: pairs(r / 'L', image='images/{n}.jpg', truth='Ground Truth/{n}_segmentation.png'),
        ('masks in folders Ground Truth/',),
    ),
    Layout(
        'two folders',
        lambda r: pairs(r, image='A/{n}.jpg', truth='B/{n}.png'),
        ('two folders',),
        labelled=('A', 'B'),
    ),
    Layout(
        'sequences by names',
        lambda r: pairs(r / 'L', image='images/{g}_{n}.jpg', truth='masks/{g}_{n}.png'),
        ('6 by name: p0, p1, p2, p3, ...',),
        4,
        groups=by_prefix,
    ),
    Layout(
        'class numbers',
        lambda r: pairs(r / 'L', values=(1, 2, 4)),
        ('class numbers 0 to 4', 'classes background, class 1, class 2, class 3, class 4'),
        classes=5,
        binary=False,
    ),
    Layout(
        'class numbers with ignored pixels',
        lambda r: pairs(r / 'L', values=(1, 2, 255)),
        ('class numbers 0 to 2, 255 is ignored',),
        classes=3,
        binary=False,
    ),
    Layout(
        'a palette with a class a mask',
        lambda r: pairs(r / 'L', values=(1, 2, 3), kind='P'),
        ('class numbers 0 to 3',),
        classes=4,
        binary=False,
    ),
    Layout('a palette of two', lambda r: pairs(r / 'L', values=(1,), kind='P'), ('object and background',)),
    Layout('zeros and ones', lambda r: pairs(r / 'L', values=(1,)), ('values 0, 1: object and background',)),
    Layout('colours', lambda r: pairs(r / 'L', values=(255,), kind='RGB'), ('object and background',)),
    Layout('JPEG masks', lambda r: pairs(r / 'L', truth='masks/{n}.jpg'), ('JPEG: object and background',)),
    Layout('mixed sizes', lambda r: pairs(r / 'L', sizes=SIZES), ('40 x 32 to 64 x 48, 3 sizes',)),
    Layout(
        'six images',
        lambda r: pairs(r / 'L', 6),
        (
            'validation: none, 6 labelled images are fewer than 20',
            'the last checkpoint counts',
            'test: none (--test); nothing is scored',
        ),
        0,
    ),
    Layout(
        'masks for some',
        lambda r: (pairs(r / 'L'), frame(r / 'L/images/more.png', 99)),
        ('unlabelled: 6 images, 1 of them images of --labelled without a mask',),
    ),
    Layout(
        'near-twins under other names',
        lambda r: [pairs(r / 'L'), *(twin(r / 'L', n, 100 + n) for n in range(6))],
        ('6 pairs of near-twins kept together',),
        6,
    ),
    Layout(
        'empty masks among others',
        lambda r: pairs(r / 'L', values=(255, 0)),
        ('12 masks are empty',),
    ),
]


def twin(root: Path, number: int, name: int) -> None:
    """The same picture and mask once more, a little brighter."""
    image = cv2.imread(str(root / f'images/{number:03d}.jpg'))
    cv2.imwrite(str(root / f'images/{name:03d}.jpg'), cv2.convertScaleAbs(image, alpha=1, beta=3))
    mask(root / f'masks/{name:03d}.png', number, (255,))


def inspected(root: Path, labelled: tuple[str, ...] = ('L',), **options) -> OwnData:
    if not (root / 'U').exists():
        unlabelled(root / 'U')
    request = Request(tuple(root / part for part in labelled), (root / 'U',), frames=root / 'drawn')
    return inspect_own_data(request._replace(**options))


@pytest.mark.parametrize('layout', LAYOUTS, ids=lambda layout: layout.name)
def test_what_is_decided_of_a_layout(layout, tmp_path):
    layout.make(tmp_path)
    data = inspected(tmp_path, layout.labelled)
    said = '\n'.join(data.why)
    for text in layout.said:
        assert text in said
    assert len(data.validation) == layout.held and (data.coding.num_classes, data.coding.binary) == (
        layout.classes,
        layout.binary,
    )
    assert len(data.why) <= 10
    everything = [*data.train, *data.validation]
    for pair in everything:
        assert pair.image != pair.mask and pair.image.stem[:3] in pair.mask.stem
    assert not {pair.image for pair in data.train} & {pair.image for pair in data.validation}
    assert not {pair.image for pair in everything} & set(data.unlabelled)
    if layout.groups:
        sides = [{layout.groups(str(pair.image)) for pair in part} for part in (data.train, data.validation)]
        assert sides[1] and not sides[0] & sides[1]
    if 'twins' in layout.name:
        held = {pair.name.name for pair in data.validation}
        assert all((f'{n:03d}' in held) == (f'{100 + n:03d}' in held) for n in range(6))
    assert inspected(tmp_path, layout.labelled).validation == data.validation  # the same each time


QUESTIONS = [
    (
        'no masks to be seen',
        lambda r: [frame(r / f'L/{n}.jpg', n) for n in range(3)],
        r'are masks\? There is no folder',
    ),
    ('one and 255', lambda r: pairs(r / 'L', values=(1, 255)), r'Is 255 the object, too.*--masks binary'),
    ('shades of grey', lambda r: pairs(r / 'L', values=(85, 170, 255)), 'classes drawn as shades of grey'),
    ('masks of other names', lambda r: pairs(r / 'L', truth='masks/x{n}.png'), 'no mask has the name of an image'),
    (
        'two masks an image',
        lambda r: (pairs(r / 'L', 3), mask(r / 'L/masks/001_mask.png', 1, (255,))),
        '001.jpg has two masks',
    ),
    (
        'a mask for two images',
        lambda r: (pairs(r / 'L', 3, image='images/a/{n}.jpg'), frame(r / 'L/images/b/001.jpg', 9)),
        '001.png may belong to',
    ),
    (
        'a mask of another size',
        lambda r: (pairs(r / 'L', 3), mask(r / 'L/masks/001.png', 1, (255,), SIZES[1])),
        '001.jpg is 40 x 32, its mask 001.png is 48 x 40',
    ),
    ('no image', lambda r: (r / 'L').mkdir(), 'has no image'),
    ('no folder', lambda r: None, "there is no folder '.*L'"),
]


@pytest.mark.parametrize(('make', 'message'), [row[1:] for row in QUESTIONS], ids=[row[0] for row in QUESTIONS])
def test_what_cannot_be_decided_is_asked_for(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=re.compile(message, re.DOTALL)):
        inspected(tmp_path)


def test_all_questions_are_in_one_message(tmp_path):
    pairs(tmp_path / 'L', values=(1, 255))
    pairs(tmp_path / 'T', 3, truth='masks/x{n}.png')
    with pytest.raises(ValueError, match=r'(?s)--test: no mask has.*--labelled: the masks hold 0, 1, 255'):
        inspected(tmp_path, test=(tmp_path / 'T',))
    assert inspected(tmp_path, masks='binary').coding.binary
    assert inspected(tmp_path, masks='classes').coding.num_classes == 2


def test_images_to_validate_and_test_on_are_not_trained_on(tmp_path):
    pairs(tmp_path / 'L')
    for n in (0, 1):  # the same files under other folders, as links
        for kind, suffix in (('images', 'jpg'), ('masks', 'png')):
            for part in ('V', 'T'):
                link = tmp_path / part / kind / f'{n + 2 * (part == "T"):03d}.{suffix}'
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(tmp_path / 'L' / kind / link.name)
    (tmp_path / 'U').symlink_to(tmp_path / 'L')
    frame(tmp_path / 'L/elsewhere/a.jpg', 77)
    data = inspected(tmp_path, val=(tmp_path / 'V',), test=(tmp_path / 'T',))
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 2, 2)
    assert [path.name for path in data.unlabelled] == ['a.jpg']
    assert '4 labelled images are among those to validate or to test on' in '\n'.join(data.why)


def like(source: Path, path: Path, size: tuple[int, int] = (72, 56)) -> None:
    """The picture of another file once more, of another size, brighter, and as PNG."""
    image = cv2.convertScaleAbs(cv2.imread(str(source)), alpha=0.9, beta=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(image, size, interpolation=cv2.INTER_CUBIC))


def with_twins(root: Path, test: int, unlabelled_ones: int) -> None:
    """Folders L, U and T; of T so many images look like labelled and like unlabelled ones."""
    pairs(root / 'L')
    unlabelled(root / 'U')
    pairs(root / 'T', 9, image='images/t{n}.png', truth='masks/t{n}.png', sizes=((72, 56),))
    for n in range(9):
        frame(root / f'T/images/t{n:03d}.png', 500 + n, (72, 56))
    for n in range(test):
        like(root / f'L/images/{n:03d}.jpg', root / f'T/images/t{n:03d}.png')
    for n in range(unlabelled_ones):
        like(root / f'T/images/t{8 - n:03d}.png', root / f'U/alike {n}.jpg')


@pytest.mark.slow
@pytest.mark.parametrize('option', ['test', 'val'])
def test_scored_images_that_look_like_labelled_ones_are_warned_of_by_name(option, tmp_path):
    pytest.importorskip('imagehash')
    with_twins(tmp_path, test=7, unlabelled_ones=2)
    data = inspected(tmp_path, **{option: (tmp_path / 'T',)})
    assert {(twin.scored.name, twin.learnt.name) for twin in data.twins} == {
        (f't{n:03d}.png', f'{n:03d}.jpg') for n in range(7)
    }
    (warning,) = data.warnings
    assert f'7 of the 9 images of --{option} are near-twins of images of --labelled' in warning
    assert len(re.findall(r'T/images/t(\d+)\.png and \S+L/images/\1\.jpg', warning)) == 5
    assert 'and 2 more' in warning and f'from --labelled or from --{option}' in warning
    assert f'of the unlabelled images 2 look like images of --{option}' in '\n'.join(data.why)
    assert len(data.unlabelled) == 7  # they stay


def test_it_is_said_that_there_are_no_twins_or_that_nobody_looked(tmp_path, monkeypatch):
    with_twins(tmp_path, test=0, unlabelled_ones=0)
    if importlib.util.find_spec('imagehash'):
        data = inspected(tmp_path, test=(tmp_path / 'T',))
        assert 'near-twins of images of --test: none' in data.why and not data.warnings
    monkeypatch.setattr(importlib.util, 'find_spec', lambda *_: None)
    said = '\n'.join(inspected(tmp_path, test=(tmp_path / 'T',)).why)
    assert 'near-twins of images of --test were not looked for: pip install "mmseg_acl[audit]" finds them' in said


@pytest.mark.slow
def test_many_images_are_compared_in_linear_work(tmp_path, monkeypatch):
    """Each image is decoded once, and no table has a place for each pair of 10,000."""
    asked, largest = [], []
    monkeypatch.setattr(
        twins,
        'hash_image',
        lambda path: asked.append(path) or np.random.default_rng(list(str(path).encode())).random(256) < 0.5,
    )
    multiply = np.nonzero
    monkeypatch.setattr(np, 'nonzero', lambda array: largest.append(array.size) or multiply(array))
    hashes = twins.Hashes()
    many, few = [Path(f'u{n}') for n in range(10_000)], [Path(f't{n}') for n in range(100)]
    assert twins.nearest_twins(many, few, hashes) == [] and twins.nearest_twins(few, many[:40], hashes) == []
    assert len(asked) == 10_100 and max(largest) <= 1024 * 100


def test_frames_of_videos_are_drawn(tmp_path):
    pairs(tmp_path / 'L', 3)
    (tmp_path / 'U').mkdir()
    writer = cv2.VideoWriter(str(tmp_path / 'U/a b.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 5, (64, 48))
    for n in range(12):
        writer.write(np.full((48, 64, 3), 20 * n, np.uint8))
    writer.release()
    data = inspected(tmp_path, every=4)
    assert [path.name for path in data.unlabelled] == ['000000.jpg', '000004.jpg', '000008.jpg']
    assert abs(int(cv2.imread(str(data.unlabelled[2])).mean()) - 160) < 12
    assert len(inspected(tmp_path).unlabelled) == 3  # 12 frames at 5 a second


def test_unreadable_unlabelled_images_are_left_out_and_named(tmp_path):
    pairs(tmp_path / 'L', 3)
    unlabelled(tmp_path / 'U')
    (tmp_path / 'U/broken.png').write_bytes(b'')
    data = inspected(tmp_path)
    assert len(data.unlabelled) == 5 and '1 images that cannot be read, such as' in '\n'.join(data.why)


def test_groups_by_name_are_not_seen_where_there_are_none():
    for names in (['cju0qk', 'cju1b7', 'cju2x9', 'cju3aa'], ['1', '2', '3', '4'], ['a_1', 'a_2', 'b_1', 'b_2']):
        assert group_frames([PurePosixPath(name) for name in names])[1] == 'none'


@pytest.mark.parametrize('seed', range(3))
def test_a_split_is_as_large_as_groups_allow(seed):
    groups = [f'g{n // 4}' for n in range(40)]
    held = hold_out(groups, 0.2, seed)
    assert len(held) == 2 and sum(group in held for group in groups) == 8
    assert hold_out(['a'] * 6 + ['b'] * 14, 0.1) == {'a'} and hold_out(['a'] * 20, 0.2) == set()


@pytest.mark.slow
@pytest.mark.usefixtures('bases')
@pytest.mark.parametrize(
    'method', [pytest.param(name, marks=() if name == 'aclnet_plus' else pytest.mark.slow) for name in BY_FOLDER]
)
@pytest.mark.parametrize(('size', 'network', 'values'), [(128, 'mbv2', (255,)), (256, 'r50', (1, 2))])
def test_the_config_reads_as_that_of_the_method(method, size, network, values, tmp_path, monkeypatch):
    pairs(tmp_path / 'L', 20, values=values)
    unlabelled(tmp_path / 'U')
    monkeypatch.chdir(tmp_path)
    request = Request((Path('L'),), (Path('U'),))
    path, why = prepare_own_run(request, Choices(method, network, size))
    assert path == tmp_path / 'work_dirs' / method / 'l' / 'data' / 'l.py' and str(path) in why[-1]
    monkeypatch.chdir('/')  # paths in it do not count from here
    config = load_config(str(path))
    leaf = load_config(str(ROOT / f'configs/{method}/{"mbv2" if size == 128 else "r50"}_kvasir_quarter.py'))
    assert config.work_dir == str(path.parents[1])
    classes = 2 if values == (255,) else 3
    segmentor = config.model.get('segmentor', config.model)
    assert segmentor.decode_head.num_classes == classes
    segmentor.decode_head.num_classes = 2
    if classes == 3 and method == 'u2pl':
        config.model.bank_size = leaf.model.bank_size
    if size == 128 or method not in SCHEDULES:
        assert config.model == leaf.model
    assert config.optim_wrapper == leaf.optim_wrapper and config.train_cfg == leaf.train_cfg
    ours, theirs = config.train_dataloader, leaf.train_dataloader
    assert (ours.batch_size, ours.sampler, ours.collate_fn) == (theirs.batch_size, theirs.sampler, theirs.collate_fn)
    as_list = lambda part: part if isinstance(part, list) else [part]  # noqa: E731
    for key in ('labelled', 'unlabelled'):
        for mine, other in zip(as_list(ours.dataset[key]), as_list(theirs.dataset[key]), strict=True):
            if other is None:
                assert mine is None
                continue
            steps = [
                [step['type'].replace('LoadAnnotations', 'LoadPolypMask') for step in part.pipeline]
                for part in (mine, other)
            ]
            assert steps[0] == steps[1]
            assert f'({size}, {size})' in str(mine.pipeline) and (
                size == 384 or '(384, 384)' not in str(mine.pipeline)
            )
    init_default_scope('mmseg')
    held = DATASETS.build(config.val_dataloader.dataset)
    assert len(held) == 4 and held[0]['data_samples'].gt_sem_seg.data.max() > 0
    assert ours.dataset.get('partition') is None and config.test_dataloader is None


def test_the_tables_of_schedules_and_views_are_those_of_the_configs():
    for method in BY_FOLDER:
        text = (ROOT / f'configs/{method}/mbv2_kvasir_quarter.py').read_text()
        assert f"schedules/1200i{SCHEDULES.get(method, '')}.py'" in text
        assert ('pipeline=_base_.' + VIEWS.get(method, '')) in text or method not in VIEWS
        assert ('two_' in text) == (method in VIEWS)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(method='acl'), '--method acl is unknown; there are supervised,'),
        (dict(network='resnet'), "--network: there is no file 'resnet'; give one of mbv2, r50, swin"),
        (dict(iters=0), '--iters is 0'),
        (dict(size=100), '--size is 100'),
    ],
)
def test_choices_that_there_are_not(options, message, tmp_path):
    pairs(tmp_path / 'L', 3)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare_own_run(Request((tmp_path / 'L',)), Choices(**options), str(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()


def test_an_earlier_run_keeps_its_lists(tmp_path):
    pairs(tmp_path / 'L', 3)
    request = Request((tmp_path / 'L',))
    path, _ = prepare_own_run(request, Choices('supervised_plus'), str(tmp_path / 'run'))
    (tmp_path / 'run/iter_4.pth').touch()
    before = path.read_text()
    with pytest.raises(ValueError, match='holds checkpoints of an earlier run'):
        prepare_own_run(request, Choices('supervised'), str(tmp_path / 'run'))
    assert path.read_text() == before
    prepare_own_run(request, Choices('supervised'), str(tmp_path / 'run'), resume=True)
    assert path.read_text() != before


def test_short_runs_have_a_teacher_that_keeps_up(tmp_path):
    pairs(tmp_path / 'L', 3)
    unlabelled(tmp_path / 'U')
    request = Request((tmp_path / 'L',), (tmp_path / 'U',))
    for iters, momentum in ((None, 0.999), (1000, 0.99)):
        path, _ = prepare_own_run(request, Choices(size=384, iters=iters), str(tmp_path / 'run'))
        config = load_config(str(path))
        assert config.model.teacher_momentum == momentum and config.train_cfg.max_iters == (iters or 13500)


def test_a_method_without_unlabelled_images_is_named_where_there_are_none(tmp_path):
    pairs(tmp_path / 'L', 3)
    with pytest.raises(ValueError, match='--method supervised_plus, which needs none'):
        prepare_own_run(Request((tmp_path / 'L',)), Choices(), str(tmp_path / 'run'))
    path, _ = prepare_own_run(Request((tmp_path / 'L',)), Choices('supervised_plus'), str(tmp_path / 'run'))
    assert Config.fromfile(path).train_dataloader.dataset.unlabelled is None


NETWORK = """
_base_ = '{configs}/tiny_model.py'
"""


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('values', [(255,), (1, 2, 3)], ids=['two classes', 'four classes'])
def test_from_folders_to_predictions_by_the_command_line(values, tmp_path):
    pairs(tmp_path / 'L', 22, image='{g}/images/{n}.jpg', truth='{g}/masks/{n}.png', values=values, sizes=SIZES)
    pairs(tmp_path / 'T', 3, values=values)  # as the first labelled ones
    unlabelled(tmp_path / 'U', 8)
    network = tmp_path / 'network.py'
    network.write_text(NETWORK.format(configs=ROOT / 'tests/configs'))
    run = tmp_path / 'run'
    folders = [
        part
        for name, folder in (('labelled', 'L'), ('unlabelled', 'U'), ('test', 'T'))
        for part in (f'--{name}', tmp_path / folder)
    ]
    rest = ('--method', 'mean_teacher', '--network', network, '--iters', 6, '--work-dir', run)
    done_training = run_tool('train.py', *folders, *rest, data=tmp_path)
    said = done_training.stdout + done_training.stderr
    held = re.search(r'validation: ([34]) of 22 labelled images, in 1 of the 6 groups', said)
    assert held and f'config: {run}/data/l.py' in said
    assert 'best checkpoint by teacher/mDice' in said and f'python tools/test.py {run}' in said
    done = run_tool('predict.py', run, tmp_path / 'U', '--out', tmp_path / 'predicted', data=tmp_path)
    assert 'written: 8 masks' in done.stdout
    assert (tmp_path / 'predicted/masks/day/0/frame 0.png').is_file()
    scored = run_tool('test.py', run, data=tmp_path).stdout
    assert 'own' in scored
    if importlib.util.find_spec('imagehash'):
        warned = 'WARNING: 3 of the 3 images of --test are near-twins of images of --labelled'
        assert done_training.stdout.count(warned) >= 2 and warned in scored  # before and after
        assert len((run / 'data/twins.csv').read_text().splitlines()) == 4
    with (run / 'data/labelled.csv').open() as file:
        assert len(list(csv.DictReader(file))) == 22 - int(held[1])
    again = run_tool('train.py', run / 'data/l.py', '--work-dir', tmp_path / 'again', data=tmp_path)
    assert 'training has ended' in again.stdout + again.stderr


@pytest.mark.trained
@pytest.mark.slow
def test_six_images_train_to_their_last_checkpoint_and_predict(tmp_path):
    pairs(tmp_path / 'L', 6)
    unlabelled(tmp_path / 'U', 4)
    network = tmp_path / 'network.py'
    network.write_text(NETWORK.format(configs=ROOT / 'tests/configs'))
    run = tmp_path / 'run'
    command = ('--labelled', tmp_path / 'L', '--unlabelled', tmp_path / 'U', '--network', network, '--work-dir', run)
    done = run_tool('train.py', *command, '--method', 'fixmatch', '--iters', 4, data=tmp_path)
    said = done.stdout + done.stderr
    assert f'last checkpoint: {run}/iter_4.pth (no best one is kept: no validation)' in said
    assert 'tools/test.py' not in said.partition('next:')[2]
    assert (
        'written: 4 masks'
        in run_tool('predict.py', run, tmp_path / 'U', '--out', tmp_path / 'p', data=tmp_path).stdout
    )


@pytest.mark.slow
def test_a_config_and_folders_do_not_go_together(tmp_path):
    for words, message in (
        ((), 'give a config, or your own data with --labelled'),
        (('a.py', '--labelled', 'L'), 'give a config, or your own data with --labelled'),
        (('a.py', '--size', '256'), '--size are for --labelled'),
        (('--labelled', 'L', '--launcher', 'pytorch'), '--launcher takes a config'),
    ):
        done = run_tool('train.py', *words, data=tmp_path, check=False)
        assert done.returncode == 2 and message in done.stderr
