"""Pictures and the report: what they show must be what they were given."""

import base64
import json
import re

import cv2
import numpy as np
import pytest

from mmseg_acl.colours import TRUTH, bgr
from mmseg_acl.visualization import Report, pictures, read_curves
from mmseg_acl.visualization.curves import plot_curves


def decode(uri):
    png = base64.b64decode(uri.removeprefix('data:image/png;base64,'))
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def test_a_mask_is_drawn_where_it_is_and_nowhere_else():
    image = np.full((20, 30, 3), 90, np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[5:12, 8:20] = True
    drawn = pictures.draw_mask(image, mask, TRUTH)
    assert ((drawn != image).any(axis=2) == mask).all()
    assert (drawn[5, 8] == bgr(TRUTH)).all()
    assert (image == 90).all()


def test_heat_is_blue_at_the_minimum_and_yellow_at_the_maximum():
    image = np.zeros((16, 16, 3), np.uint8)
    values = np.array([[-3.0, -3.0], [-3.0, 7.0]])
    drawn = pictures.draw_heat(image, values).astype(int)
    low, high = drawn[0, 0], drawn[-1, -1]
    assert low.argmax() == 0 and high.argmin() == 0 and high.sum() > low.sum()
    assert pictures.draw_heat(image, np.ones((4, 4))).shape == image.shape


def test_the_hue_of_a_heat_map_is_not_that_of_the_frame():
    values = np.linspace(0, 1, 64).reshape(8, 8)
    red, grey = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 30, np.uint8)
    red[..., 2] = 100
    # 0.299 * 100 is a grey of 30.
    np.testing.assert_array_equal(pictures.draw_heat(red, values), pictures.draw_heat(grey, values))


def test_the_inner_point_lies_deep_in_the_mask():
    mask = np.zeros((21, 33), bool)
    mask[0:21, 0:3] = True
    mask[4:15, 12:23] = True
    assert pictures.find_inner_point(mask) == (9, 17)
    # The border of the frame counts as a border of the mask.
    assert pictures.find_inner_point(np.ones((11, 11), bool)) == (5, 5)


def test_quantiles_go_from_the_worst_to_the_best():
    assert pictures.choose_quantiles([50.0, 10.0, 90.0, 30.0, 70.0], 3) == [1, 0, 2]
    assert pictures.choose_quantiles([5.0, 1.0], 5) == [1, 0]


def test_a_picture_survives_its_way_into_the_page():
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    assert (decode(pictures.to_data_uri(image)) == image).all()


def test_curves_are_read_from_the_latest_log(tmp_path):
    for run, loss in (('20260101_000000', 9.0), ('20260102_000000', 1.0)):
        folder = tmp_path / run / 'vis_data'
        folder.mkdir(parents=True)
        lines = [dict(loss=loss / step, step=step) for step in (1, 2)] + [dict(mDice=5.0, step=2)]
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    curves = read_curves(tmp_path)
    assert curves['loss'] == ([1, 2], [1.0, 0.5])
    assert curves['mDice'] == ([2], [5.0])
    with pytest.raises(FileNotFoundError, match='nothing was trained there'):
        read_curves(tmp_path / 'none')


@pytest.mark.slow
def test_the_report_needs_no_other_file_and_escapes_text(tmp_path):
    report = Report('A <title>')
    report.add_heading('Scores')
    report.add_text('5 < 6')
    report.add_table(['method', 'Dice'], [['a & b', '71.3']])
    uri = pictures.to_data_uri(np.zeros((4, 4, 3), np.uint8))
    report.add_pictures(['frame'], [[(uri, 'one')]])
    report.add_picture(plot_curves({'loss': {'SupOnly': ([1, 2], [3.0, 2.0])}, 'none': {}}))
    report.write(tmp_path / 'new' / 'report.html')
    page = (tmp_path / 'new' / 'report.html').read_text()
    assert 'A &lt;title&gt;' in page and '5 &lt; 6' in page and 'a &amp; b' in page
    assert '<td>71.3</td>' in page
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == 2 and all(source.startswith('data:image/png') for source in sources)
    assert decode(sources[1]).shape[1] > 500
