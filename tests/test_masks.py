"""Masks of every coding are read right or refused; what the masks of a set say together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_acl.datasets import LoadPolypMask, PolypDataset, polyp_masks, read_polyp_mask, write_synthetic
from mmseg_acl.datasets.mask_shares import check_shares

SIZE = (60, 80)
SHAPE = cv2.ellipse(np.zeros(SIZE, np.uint8), (30, 25), (18, 12), 20, 0, 360, 1, -1)
SMALL = cv2.circle(np.zeros(SIZE, np.uint8), (65, 45), 4, 1, -1)


def colours(*pairs: tuple[np.ndarray, tuple[int, int, int]], ground: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """Regions in colours (RGB) on a background."""
    picture = np.empty((*SIZE, 3), np.uint8)
    picture[:] = ground
    for region, colour in pairs:
        picture[region > 0] = colour
    return Image.fromarray(picture)


def with_alpha(image: Image.Image, alpha: np.ndarray) -> Image.Image:
    image = image.convert('RGB')
    image.putalpha(Image.fromarray(alpha))
    return image


def palette(indices: np.ndarray, *table: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(indices).convert('L')
    image.putpalette([channel for colour in table for channel in colour])
    return image


def grey(*pairs: tuple[np.ndarray, int], ground: int = 0, dtype: type = np.uint8) -> Image.Image:
    values = np.full(SIZE, ground, dtype)
    for region, value in pairs:
        values[region > 0] = value
    return Image.fromarray(values)


def lossy(image: Image.Image, path: Path, quality: int = 75) -> Image.Image:
    """The picture as JPEG has left it."""
    image.save(path.with_suffix('.tmp'), format='JPEG', quality=quality)
    return Image.open(path.with_suffix('.tmp')).convert('RGB')


BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 128, 0), (0, 0, 255)
SEAM = cv2.GaussianBlur(SHAPE * 255, (0, 0), 1.5)
# What lies between black and the polyp is what a smaller or a smoothed picture has.
READ: dict[str, Callable[[Path], Image.Image]] = {
    'one hue on black, as CVAT writes it.png': lambda p: colours((SHAPE, GREEN)),
    'a hue of 128.bmp': lambda p: colours((SHAPE, (128, 0, 0))),
    'anti-aliased grey.png': lambda p: Image.fromarray(SEAM),
    'anti-aliased hue.png': lambda p: Image.fromarray((SEAM[..., None] * (1, 0.2, 0.3)).astype(np.uint8)),
    'hue.jpg': lambda p: colours((SHAPE, RED)),
    'hue that was a JPEG.png': lambda p: lossy(colours((SHAPE, RED)), p),
    'grey that was a JPEG.png': lambda p: lossy(grey((SHAPE, 255)), p, 60),
    'almost white.png': lambda p: colours((SHAPE, (255, 240, 230))),
    '1 and 255 with what lies between.png': lambda p: Image.fromarray(np.maximum(SEAM, 1)),
    'noise on both sides.png': lambda p: grey((SHAPE, 255), (SHAPE * (np.indices(SIZE)[0] % 9 == 0), 254), ground=1),
    'one step of grey.png': lambda p: grey((cv2.dilate(SHAPE, np.ones((3, 3))), 100), (SHAPE, 255)),
    'transparent background.png': lambda p: with_alpha(colours((SHAPE, WHITE)), SHAPE * 255),
    'half transparent.png': lambda p: with_alpha(colours((SHAPE, WHITE)), np.full(SIZE, 100, np.uint8)),
    'wholly transparent.png': lambda p: with_alpha(colours((SHAPE, WHITE)), np.zeros(SIZE, np.uint8)),
    'palette with one hue.png': lambda p: palette(SHAPE, BLACK, RED),
    'palette with unused colours of the same.png': lambda p: palette(SHAPE * 3, BLACK, WHITE, WHITE, WHITE),
    '16 bits, 0 and 255.png': lambda p: grey((SHAPE, 255), dtype=np.uint16),
}
REFUSED: dict[str, tuple[Callable[[Path], Image.Image], str]] = {
    'alpha of a white picture.png': (
        lambda p: with_alpha(colours(ground=WHITE), SHAPE * 255),
        'alpha channel.* shows',
    ),
    'alpha of a coloured picture.png': (
        lambda p: with_alpha(colours(ground=RED), SHAPE * 200),
        'without transparency',
    ),
    'alpha of a black picture.png': (lambda p: with_alpha(colours(), SHAPE * 255), 'alpha channel'),
    'alpha of grey.png': (lambda p: with_alpha(colours(ground=WHITE), SHAPE * 255).convert('LA'), 'alpha channel'),
    'alpha of another shape.png': (lambda p: with_alpha(colours((SHAPE, WHITE)), SMALL * 255), 'another shape than'),
    'alpha, inverted.png': (lambda p: with_alpha(colours((SHAPE, WHITE)), 255 - SHAPE * 255), 'another shape than'),
    '1 and 255.png': (lambda p: grey((SHAPE, 255), ground=1), 'the value 1 beside 255 and none between'),
    '0, 1 and 255.png': (lambda p: grey((SHAPE, 1), (SMALL, 255)), '255 may be polyp or a pixel to ignore'),
    '0, 1 and 255, RGB.tif': (lambda p: grey((SHAPE, 1), (SMALL, 255)).convert('RGB'), 'the value 1 beside 255'),
    '0, 1 and 254.png': (lambda p: grey((SHAPE, 1), (SMALL, 254)), '254 may be polyp or a pixel to ignore'),
    '0, 2, 15 and 255.bmp': (
        lambda p: grey((SHAPE, 2), (SMALL, 15), (SMALL[::-1], 255)),
        'values from 2 to 15 beside 255',
    ),
    '16 bits, 1 and 65535.png': (
        lambda p: grey((SHAPE, 65535), ground=1, dtype=np.uint16),
        'value 1 beside 65535 and none',
    ),
    '16 bits, dark.png': (
        lambda p: grey((SHAPE, 300), dtype=np.uint16),
        'up to 300 of 65535.*neither 0/1 nor 0/65535',
    ),
    'red on white.png': (lambda p: colours((SHAPE, RED), ground=WHITE), r'more than one colour, such as RGB'),
    'red on blue.png': (lambda p: colours((SHAPE, RED), ground=BLUE), r'\(0, 0, 255\) and \(255, 0, 0\)'),
    'red on blue.jpg': (lambda p: colours((SHAPE, RED), ground=BLUE), 'more than one colour'),
    'red on blue that was a JPEG.png': (lambda p: lossy(colours((SHAPE, RED), ground=BLUE), p), 'more than one col'),
    'red on the green of CVAT.png': (lambda p: colours((SHAPE, (128, 0, 0)), ground=GREEN), r'RGB \(0, 128, 0\) and'),
    'two hues on black.png': (lambda p: colours((SHAPE, RED), (SMALL, GREEN)), r'\(255, 0, 0\) and \(0, 128, 0\)'),
    'a hue and white on black.png': (lambda p: colours((SHAPE, RED), (SMALL, WHITE)), r'and \(255, 255, 255\)'),
    'a thin line of another hue.png': (lambda p: colours((np.eye(*SIZE), RED), ground=BLUE), 'more than one colour'),
    'palette of red on white.png': (lambda p: palette(SHAPE, WHITE, RED), 'more than one colour'),
    'light grey and white.png': (lambda p: grey((SHAPE, 255), ground=200), 'on a background that is not black'),
    'pink on white.png': (lambda p: colours((SHAPE, (255, 220, 220)), ground=WHITE), 'background that is not black'),
    'channels for classes.png': (
        lambda p: colours((SHAPE, (0, 1, 0)), ground=(1, 0, 0)),
        'background that is not bl',
    ),
    'black palette.png': (lambda p: palette(SHAPE, BLACK, BLACK), 'the numbers 0 and 1 have one colour'),
    'white palette.png': (lambda p: palette(SHAPE, WHITE, WHITE), 'the numbers 0 and 1 have one colour'),
    'palette that hides a class.png': (lambda p: palette(SHAPE + 2 * SMALL, BLACK, BLACK, WHITE), 'numbers 0 and 1'),
    'black palette.bmp': (lambda p: palette(SHAPE, BLACK, BLACK), 'the numbers 0 and 1 have one colour'),
    'floats.tif': (
        lambda p: Image.fromarray(SHAPE.astype(np.float32)),
        'pixels of type float32: save it with 8 bits',
    ),
}


@pytest.mark.parametrize('coding', READ)
def test_what_can_mean_one_thing_is_read(tmp_path, coding):
    path = tmp_path / coding
    READ[coding](path).save(path)
    mask = read_polyp_mask(str(path))
    assert mask.dtype == np.uint8
    if 'JPEG' in coding or 'jpg' in coding or 'anti' in coding or 'between' in coding:  # seams may lie a pixel off
        assert (mask != SHAPE).mean() < 0.01
    else:
        np.testing.assert_array_equal(mask, SHAPE)


@pytest.mark.parametrize('coding', REFUSED)
def test_what_can_mean_two_things_is_refused_with_what_to_do(tmp_path, coding):
    make, message = REFUSED[coding]
    path = tmp_path / coding
    make(path).save(path)
    with pytest.raises(ValueError, match=message) as refused:
        read_polyp_mask(str(path))
    said = str(refused.value)
    assert said.startswith(f"mask '{path}' ") and 'save it ' in said and len(said) < 350 + len(str(path))


@pytest.mark.parametrize('colour', [colours((SHAPE, WHITE)), colours(ground=WHITE)])
@pytest.mark.parametrize('alpha', [SHAPE * 255, np.zeros(SIZE, np.uint8), np.full(SIZE, 255, np.uint8)])
def test_tiffs_with_transparency_are_read_right_or_refused(tmp_path, colour, alpha):
    """Whether OpenCV multiplies a TIFF's colours with alpha depends on its version."""
    path = tmp_path / 'mask.tif'
    with_alpha(colour, alpha).save(path)
    try:
        mask = read_polyp_mask(str(path))
    except ValueError as error:
        assert 'alpha channel' in str(error) and not alpha.all()
    else:
        np.testing.assert_array_equal(mask, SHAPE if np.ptp(np.asarray(colour)) or np.ptp(alpha) else 1)


def test_the_alpha_channel_is_turned_as_the_colours_are(tmp_path):
    """A picture that EXIF turns lies in the file otherwise than it is read."""
    exif = Image.Exif()
    exif[274] = 6
    image = with_alpha(colours((SHAPE, WHITE)), SHAPE * 255)
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / 'mask.png', exif=exif)
    np.testing.assert_array_equal(read_polyp_mask(str(tmp_path / 'mask.png')), SHAPE)


def test_a_hidden_mask_that_cannot_be_read_is_left_out_and_said_once(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(polyp_masks, 'print_log', lambda text, *_: said.append(text))
    path = str(tmp_path / 'mask.png')
    grey((SHAPE, 1), (SMALL, 255)).save(path)
    load = LoadPolypMask(hidden=True)
    for _ in range(2):
        assert load(dict(hidden_map_path=path, seg_fields=[])) == dict(hidden_map_path=path, seg_fields=[])
    assert len(said) == 1 and 'the value 1 beside 255' in said[0] and 'training goes on' in said[0]
    with pytest.raises(ValueError, match='the value 1 beside 255'):
        LoadPolypMask()(dict(seg_map_path=path, seg_fields=[]))


def test_a_set_that_is_polyp_everywhere_is_refused():
    with pytest.raises(
        ValueError, match="all of the 2 masks of 'mine' are polyp at every pixel, such as a.png: save"
    ):
        check_shares({'a.png': 1.0, 'b.png': 1.0}, "'mine'")


@pytest.mark.parametrize(
    ('shares', 'warned'),
    [
        ((1.0, 0.1, 0.2), False),  # a single large polyp
        ((0.9, 0.8, 0.0), True),
        ((0.6, 0.6, 0.4, 0.3), False),
        ((), False),
    ],
)
def test_a_set_that_is_polyp_mostly_is_named_with_its_largest(monkeypatch, shares, warned):
    said = []
    monkeypatch.setattr('mmseg_acl.datasets.mask_shares.print_log', lambda *args: said.append(args))
    check_shares({f'{i}.png': share for i, share in enumerate(shares)}, "'mine'")
    assert len(said) == warned
    if warned:
        text, _, level = said[0]
        assert level == logging.WARNING
        assert "median mask of 'mine' (3 masks) is polyp at 80%" in text and '0.png (90%), 1.png (80%)' in text


def test_inverted_masks_are_named_when_a_data_set_is_built(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmseg_acl.datasets.mask_shares.print_log', lambda text, *_: said.append(text))
    write_synthetic(tmp_path, labelled=3, unlabelled=1, test=1, size=SIZE)
    PolypDataset(data_root=tmp_path, folder='Synthetic/labelled')
    assert not said
    for path in (tmp_path / 'Synthetic' / 'labelled' / 'masks').iterdir():
        cv2.imwrite(str(path), 255 - cv2.imread(str(path), 0))
    PolypDataset(data_root=tmp_path, folder='Synthetic/labelled')
    assert len(said) == 1 and 'labelled/masks/0000.png' in said[0] and 'wrong way round' in said[0]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['Kvasir-SEG', 'CVC-ClinicDB', 'CVC-300'])
def test_every_real_mask_is_read_as_a_plain_threshold_reads_it(real_data, monkeypatch, name):
    said, shares = [], {}
    monkeypatch.setattr('mmseg_acl.datasets.mask_shares.print_log', lambda text, *_: said.append(text))
    for path in sorted((real_data / name / 'masks').iterdir()):
        mask = read_polyp_mask(str(path))
        assert np.array_equal(mask, cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 127), path
        shares[str(path)] = float(mask.mean())
    check_shares(shares, name)
    assert not said and len(shares) >= 60
