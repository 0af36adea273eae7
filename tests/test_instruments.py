"""tools/draw_instruments.py: a third class for polyp frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tool_process import ROOT, run_tool

from mmseg_acl.datasets import write_synthetic
from mmseg_acl.labelling.instruments import INSTRUMENT, draw_instrument, draw_instruments

MUCOSA = (70, 80, 160)  # blue, green, red


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    """A labelled folder of 12 frames."""
    root = tmp_path_factory.mktemp('source')
    write_synthetic(root, labelled=12, unlabelled=4, test=2, size=(72, 96))
    return root / 'Synthetic' / 'labelled'


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*.png'))}


def read(folder: Path, kind: str, name: str) -> np.ndarray:
    return np.array(Image.open(folder / kind / f'{name}.png'))


def test_what_an_instrument_covers_is_its_class_and_nothing_else_changes():
    image = np.full((120, 160, 3), MUCOSA, np.uint8)
    classes = np.zeros((120, 160), np.uint8)
    classes[40:80, 60:110] = 1
    shares = []
    for seed in range(40):
        pixels, found = draw_instrument(image, classes, np.random.default_rng(seed))
        covered = found == INSTRUMENT
        np.testing.assert_array_equal(found[~covered], classes[~covered])
        # Neither red nor dark as mucosa: grey or yellow, and at half cover at least halfway there.
        changed = (pixels != image).any(-1)
        assert changed[covered].mean() > 0.98
        # Half covered pixels at the edge belong to neither alone.
        edge = changed & ~covered
        assert edge.sum() < 0.4 * covered.sum()
        border = np.concatenate([covered[0], covered[-1], covered[:, 0], covered[:, -1]])
        assert border.any(), 'it comes in from outside'
        shares.append(covered.mean())
    assert 0.01 < min(shares) and max(shares) < 0.35


def test_a_seed_draws_the_same_frames_again(source, tmp_path):
    drawn = [draw_instruments(source, tmp_path / str(number), seed=seed) for number, seed in enumerate((3, 3, 4))]
    assert len(drawn[0]) == 6 and drawn[0] == drawn[1] != drawn[2]
    assert content(tmp_path / '0') == content(tmp_path / '1') != content(tmp_path / '2')
    for name in sorted(path.stem for path in (source / 'images').iterdir()):
        image, mask = read(tmp_path / '0', 'images', name), read(tmp_path / '0', 'masks', name)
        truth = read(source, 'masks', name) > 127
        assert (mask[mask != INSTRUMENT] == truth[mask != INSTRUMENT]).all()
        assert (INSTRUMENT in mask) == (name in drawn[0])
        assert (image != read(source, 'images', name)).any() == (name in drawn[0])


@pytest.mark.parametrize(('share', 'count'), [(0, 0), (0.25, 3), (1, 12)])
def test_the_share_of_frames_is_kept(source, tmp_path, share, count):
    assert len(draw_instruments(source, tmp_path / 'out', share=share)) == count


def test_what_is_wrong_is_named(source, tmp_path):
    with pytest.raises(ValueError, match='share is 1.5; it must lie in 0 to 1'):
        draw_instruments(source, tmp_path / 'out', share=1.5)
    with pytest.raises(FileExistsError, match='holds something already'):
        draw_instruments(source, source)
    assert not (tmp_path / 'out').exists()


@pytest.mark.trained
@pytest.mark.slow
def test_three_classes_are_learnt_from_what_the_tool_writes(source, tmp_path):
    out = tmp_path / 'three'
    said = run_tool('draw_instruments.py', source, '--out', out, '--share', 1, data=tmp_path).stdout
    assert 'with an instrument in 12 frames' in said and '--classes background polyp instrument' in said
    network = tmp_path / 'network.py'
    network.write_text(f"_base_ = '{ROOT}/tests/configs/tiny_model.py'\n")
    options = ('--classes', 'background', 'polyp', 'instrument', '--network', network)
    run = tmp_path / 'run'
    draw_instruments(source.parent / 'test', tmp_path / 'test', share=1)
    folders = ('--labelled', out, '--unlabelled', source.parent / 'unlabelled', '--test', tmp_path / 'test')
    run_tool('train.py', *folders, *options, '--iters', 6, '--split', 0, '--work-dir', run, data=tmp_path)
    scored = run_tool('test.py', run, data=tmp_path).stdout
    assert 'instrument' in scored and 'mIoU' in scored
