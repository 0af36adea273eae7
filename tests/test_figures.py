"""Figures for a paper: what they show is what was predicted, nothing is clipped, and bad input is told."""

import csv
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.contour import ContourSet
from matplotlib.text import Text
from steps import CONFIGS, build

from mmseg_acl.colours import OVERLAP, PREDICTION, TRUTH, bgr, rgb
from mmseg_acl.datasets.synthetic import write_synthetic
from mmseg_acl.engine import load_config
from mmseg_acl.evaluation.cross_dataset import evaluate_checkpoint
from mmseg_acl.visualization import overlay, predictions, scores, style, tsne
from mmseg_acl.visualization.affinity import draw_affinities
from mmseg_acl.visualization.inspection import PANELS
from mmseg_acl.visualization.predictions import Prediction, TrainedRun, choose_images, parse_run, predict
from mmseg_acl.visualization.report import read_scalars

TOOL = Path(__file__).parents[1] / 'tools' / 'visualize.py'
SIZE = (72, 96)


@pytest.fixture(scope='module')
def data_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data')
    write_synthetic(root, labelled=1, unlabelled=1, test=5, size=SIZE)
    return root


@pytest.fixture(autouse=True)
def environment(monkeypatch, data_root):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(data_root))


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> dict[str, TrainedRun]:
    """Untrained networks that find polyps here and there; a teacher differs from its student."""
    folder = tmp_path_factory.mktemp('runs')
    found = {}
    for name in ('supervised', 'aclnet'):
        model = build(name)
        torch.manual_seed(3)
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
        found[name] = TrainedRun(name, str(CONFIGS / f'{name}.py'), str(folder / f'{name}.pth'))
    return found


def as_text(run: TrainedRun) -> str:
    return f'{run.name}={run.config}:{run.checkpoint}'


def assert_nothing_is_clipped(figure) -> None:
    """All text lies inside the figure, and no two texts cover each other."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts: list[Text] = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts.append(axes.title)
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            texts += [axis.label, *(tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)]
    boxes = []
    for text in texts:
        if text.get_text().strip():
            box = text.get_window_extent(renderer)
            assert figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1, text
            assert figure.bbox.y0 - 1 <= box.y0 and box.y1 <= figure.bbox.y1 + 1, text
            boxes.append((text.get_text(), box.shrunk(0.9, 0.9)))
    assert boxes
    for i, (first, a) in enumerate(boxes):
        for second, b in boxes[i + 1 :]:
            assert not a.overlaps(b), (first, second)


def check_files(files: list[Path], figure) -> np.ndarray:
    """Both files are there, of the figure's exact size; returns the PNG's pixels, RGB."""
    png, pdf = files
    picture = cv2.imread(str(png))[..., ::-1]
    width, height = figure.get_size_inches()
    assert width == style.WIDTH
    assert picture.shape[1] == round(width * style.DPI) and abs(picture.shape[0] - height * style.DPI) <= 1
    data = pdf.read_bytes()
    assert data.startswith(b'%PDF') and b'FontFile2' in data  # TrueType: text stays text
    return picture


def share(picture: np.ndarray, color) -> float:
    return float((np.abs(picture.astype(int) - color).max(axis=-1) <= 6).mean())


# Runs and images


def test_a_run_is_read_from_its_form():
    assert parse_run('A b=c/aclnet/x.py:d:e/i.pth@teacher') == TrainedRun(
        'A b', 'c/aclnet/x.py', 'd:e/i.pth', 'teacher'
    )
    assert parse_run('c/aclnet/x.py:i.pth') == TrainedRun('aclnet', 'c/aclnet/x.py', 'i.pth', None)
    assert parse_run('C:\\c\\x.py:D:\\i.pth').checkpoint == 'D:\\i.pth'
    for text in ('x.py', 'x.py:i', 'x:i.pth', ':i.pth', 'x.py:i.pth@'):
        with pytest.raises(ValueError, match=r'has not the form \[NAME=\]CONFIG.py:CHECKPOINT.pth\[@NETWORK\]'):
            parse_run(text)


def test_images_are_chosen_by_name_or_from_the_front():
    known = [('a', '1'), ('a', '2'), ('a', '3'), ('b', '1')]
    assert choose_images(known, None, 2) == [('a', '1'), ('a', '2'), ('b', '1')]
    assert choose_images(known, ['3', 'b/1'], 2) == [('a', '3'), ('b', '1')]
    with pytest.raises(ValueError, match="'1' is in several sets: write a/1 or b/1"):
        choose_images(known, ['1'], 2)
    with pytest.raises(ValueError, match="there is no image '9'; there are 4, such as a/1, a/2, a/3"):
        choose_images(known, ['9'], 2)
    with pytest.raises(ValueError, match='--first 0 chooses no image'):
        choose_images(known, None, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'network'), [('supervised', 'student'), ('aclnet', 'student'), ('aclnet', 'teacher')]
)
def test_predictions_score_as_tools_test_scores_them(runs, name, network, tmp_path):
    run = runs[name]._replace(network=network)
    evaluate_checkpoint(load_config(run.config), run.checkpoint, str(tmp_path), ['synthetic'], networks=[network])
    with (tmp_path / 'per_image.csv').open() as file:
        expected = {row['image']: float(row['dice']) for row in csv.DictReader(file)}
    found = {prediction.key: prediction.dice for prediction in predict(run, ['synthetic'])}
    assert found == {('synthetic', image): pytest.approx(dice, abs=1e-9) for image, dice in expected.items()}
    assert 0 < max(found.values()) < 100


@pytest.mark.slow
def test_what_does_not_fit_a_run_is_told(runs, tmp_path):
    plain = runs['supervised']
    with pytest.raises(ValueError, match='builds a plain segmentor, without a teacher: leave @teacher out'):
        next(predict(plain._replace(network='teacher')))
    with pytest.raises(ValueError, match='has student, teacher'):
        next(predict(runs['aclnet']._replace(network='third')))
    with pytest.raises(FileNotFoundError, match='no config at nowhere.py'):
        next(predict(plain._replace(config='nowhere.py')))
    with pytest.raises(FileNotFoundError, match='gone.pth'):
        next(predict(plain._replace(checkpoint=str(tmp_path / 'gone.pth'))))
    with pytest.raises(ValueError, match='has no image etis/1 in its test set'):
        next(predict(plain, keys=[('etis', '1')]))


# Overlays and failures


def test_regions_have_the_colours_of_the_code():
    image = np.full((2, 2, 3), 100, np.uint8)
    mask, found = np.array([[True, True], [False, False]]), np.array([[True, False], [True, False]])
    solid = overlay.draw_overlap(image, mask, found, 1.0)
    assert solid.tolist() == [[[*bgr(OVERLAP)], [*bgr(TRUTH)]], [[*bgr(PREDICTION)], [100, 100, 100]]]
    half = overlay.draw_overlap(image, mask, found, 0.5)
    assert np.abs(half[0, 1] - (np.array(bgr(TRUTH)) + 100) / 2).max() <= 0.5 and half[1, 1].tolist() == [100] * 3
    assert (image == 100).all()


@pytest.mark.slow
def test_overlays_show_masks_and_predictions_of_all_runs(runs, tmp_path):
    long = runs['aclnet']._replace(name='ACL-Net with a rather long name, of its teacher')
    chosen = [runs['supervised'], long, long._replace(name='student', network='student')]
    figure = overlay.draw_overlays(chosen, ['synthetic'], first=2, opacity=1.0)
    assert_nothing_is_clipped(figure)
    assert len(figure.axes) == 2 * 5
    picture = check_files(style.save_figure(figure, tmp_path / 'new' / 'overlay.pdf'), figure)
    assert sorted(path.name for path in (tmp_path / 'new').iterdir()) == ['overlay.pdf', 'overlay.png']
    texts = [text.get_text() for text in figure.texts]
    assert texts[:3] == ['Input', '0000', 'Ground truth']
    assert all(share(picture, rgb(colour)) > 1e-3 for colour in (TRUTH, PREDICTION, OVERLAP))
    for row, key in enumerate([('synthetic', '0000'), ('synthetic', '0001')]):
        for column, run in enumerate(chosen):
            (found,) = predict(run, ['synthetic'], [key])
            shown = figure.axes[5 * row + 2 + column].images[0].get_array()
            for colour, region in (
                (TRUTH, found.mask & ~found.found),
                (PREDICTION, found.found & ~found.mask),
                (OVERLAP, found.found & found.mask),
            ):
                assert ((shown == rgb(colour)).all(axis=2) == region).all()
            assert f'Dice {found.dice:.1f}' in texts
    truth = figure.axes[1].images[0].get_array()
    assert not (truth == rgb(OVERLAP)).all(axis=2).any() and (truth == rgb(TRUTH)).all(axis=2).any()


@pytest.mark.slow
def test_a_figure_is_the_same_file_again(runs, tmp_path):
    for name in ('a', 'b'):
        style.save_figure(overlay.draw_overlays([runs['supervised']], first=1), tmp_path / name)
    for kind in ('png', 'pdf'):
        assert (tmp_path / f'a.{kind}').read_bytes() == (tmp_path / f'b.{kind}').read_bytes()


def test_opacity_is_checked(runs):
    for opacity in (0, 1.5):
        with pytest.raises(ValueError, match=f'--opacity {opacity} must lie above 0'):
            overlay.draw_overlays([runs['supervised']], opacity=opacity)


@pytest.mark.slow
def test_failures_are_the_worst_images_with_contours(runs, tmp_path):
    run = runs['supervised']
    figure = overlay.draw_failures(run, ['synthetic'], count=5)
    assert_nothing_is_clipped(figure)
    expected = sorted(predict(run, ['synthetic']), key=lambda found: found.dice)
    notes = [text.get_text() for text in figure.texts]
    assert notes == [f'{found.key[1]}, Dice {found.dice:.1f}' for found in expected]
    picture = check_files(style.save_figure(figure, tmp_path / 'failures'), figure)
    assert all(share(picture, rgb(colour)) > 1e-4 for colour in (TRUTH, PREDICTION))
    assert len(overlay.draw_failures(run, count=2).axes) == 2
    with pytest.raises(ValueError, match='--worst 0 must be at least 1'):
        overlay.draw_failures(run, count=0)


def contours(figure) -> list:
    return [c for c in figure.axes[0].get_children() if isinstance(c, (ContourSet, LineCollection))]


def test_contours_lie_around_their_regions_to_the_edge_of_the_frame(monkeypatch):
    mask, nothing = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    mask[10:20, 30:60] = True
    found = Prediction(('s', 'n'), '', mask, nothing)
    monkeypatch.setattr(overlay, 'predict', lambda *args: iter([found]))
    monkeypatch.setattr(predictions, 'read_image', lambda path: np.zeros((40, 60, 3), np.uint8))
    figure = overlay.draw_failures(TrainedRun('x', '', ''))
    (contour,) = contours(figure)  # the empty one has none
    points = np.concatenate([path.vertices for path in contour.get_paths()])
    assert points.min(axis=0) == pytest.approx([29.5, 9.5]) and points.max(axis=0) == pytest.approx([59.5, 19.5])
    assert figure.axes[0].get_xlim() == (-0.5, 59.5)


# Affinities and features


@pytest.mark.slow
def test_affinities_of_marked_pixels(runs, tmp_path):
    figure = draw_affinities(runs['aclnet'], ['synthetic'], ['0003', '0001'])
    assert_nothing_is_clipped(figure)
    assert len(figure.axes) == 2 * len(PANELS)
    assert [text.get_text() for text in figure.texts][: len(PANELS) + 1 : 2][0] == 'Input'
    check_files(style.save_figure(figure, tmp_path / 'affinity'), figure)
    shown = [axes.images[0].get_array() for axes in figure.axes[: len(PANELS)]]
    assert not np.array_equal(shown[4], shown[5]) and not np.array_equal(shown[5], shown[6])
    # The cross is where it was asked for: pictures are 128 x 128, the original is 72 x 96.
    marked = draw_affinities(runs['aclnet'], ['synthetic'], ['0003'], at=(36, 24)).axes[0].images[0].get_array()
    assert marked[64, 32].tolist() == [255] * 3 and not np.array_equal(marked, shown[0])


@pytest.mark.slow
def test_affinities_need_an_aclnet_and_a_pixel_of_the_image(runs):
    with pytest.raises(TypeError, match='only ACLNet has affinities; .*supervised.py builds EncoderDecoder'):
        draw_affinities(runs['supervised'])
    with pytest.raises(ValueError, match='--at 72 0 is outside own/0000, 72 x 96'):
        draw_affinities(runs['aclnet'], at=(72, 0))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['supervised', 'aclnet'])
def test_features_are_drawn_from_both_classes_by_the_seed(runs, name):
    features, classes = tsne.collect_features(runs[name], ['synthetic'], first=2, pixels=40)
    assert classes.tolist() == [0] * 40 + [1] * 40
    assert len({tuple(feature) for feature in features}) > 40
    again = tsne.collect_features(runs[name], ['synthetic'], first=2, pixels=40)
    assert np.array_equal(features, again[0])
    other = tsne.collect_features(runs[name], ['synthetic'], first=2, pixels=40, seed=1)
    assert not np.array_equal(features, other[0])


def test_features_of_a_class_come_from_its_pixels(runs, monkeypatch, data_root):
    """A backbone that hands out the frame itself: the feature is the colour, and must be one of the mask's."""

    class Tap:
        def __init__(self, network, source):
            self.network = network

        def __enter__(self):
            self.handle = self.network.backbone.register_forward_pre_hook(
                lambda m, args: setattr(self, 'seen', args[0])
            )

        def __exit__(self, *exception):
            self.handle.remove()

        def pop(self):
            return self.seen

    monkeypatch.setattr(tsne, 'FeatureTap', Tap)
    features, classes = tsne.collect_features(runs['supervised'], images=['0002'], pixels=30)
    folder = data_root / 'Synthetic/test'
    image = cv2.resize(cv2.imread(str(folder / 'images/0002.png')), (128, 128))
    mask = cv2.imread(str(folder / 'masks/0002.png'), 0).astype(np.float32) / 255
    inside = cv2.resize(mask, (128, 128), interpolation=cv2.INTER_AREA) > 0.5
    for label in (0, 1):
        colors = {tuple(color[::-1]) for color in image[inside == label].tolist()}
        seen = {tuple(np.rint(feature * 64 + 127.5).astype(int).tolist()) for feature in features[classes == label]}
        assert seen <= colors


@pytest.mark.slow
def test_tsne_separates_what_is_separate_and_is_drawn(runs, tmp_path):
    pytest.importorskip('sklearn')
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(30, 6)), rng.normal(size=(30, 6)) + 12]).astype(np.float32)
    points = tsne.embed(features)
    assert points.shape == (60, 2) and np.array_equal(points, tsne.embed(features))
    centres = points[:30].mean(axis=0), points[30:].mean(axis=0)
    nearest = np.stack([np.linalg.norm(points - centre, axis=1) for centre in centres]).argmin(axis=0)
    assert nearest.tolist() == [0] * 30 + [1] * 30

    figure = tsne.draw_tsne(list(runs.values()), first=2, pixels=20)
    assert_nothing_is_clipped(figure)
    picture = check_files(style.save_figure(figure, tmp_path / 'tsne'), figure)
    assert len(figure.axes) == 2
    drawn = [collection.get_facecolor()[0, :3] for collection in figure.axes[0].collections]
    assert drawn[0][2] > 0.6 > drawn[0][0] and drawn[1][0] > 0.9 > drawn[1][2]  # blue, yellow
    assert picture.min() < 100


@pytest.mark.slow
def test_too_few_pixels_and_missing_libraries_are_told(runs, monkeypatch):
    with pytest.raises(ValueError, match='4 pixels of class background are too few, there must be 5'):
        tsne.collect_features(runs['supervised'], pixels=4)
    with pytest.raises(ValueError, match="source of features is 'tail'"):
        tsne.collect_features(runs['supervised'], source='tail')
    monkeypatch.setitem(sys.modules, 'sklearn.manifold', None)
    with pytest.raises(ImportError, match=r'pip install "mmseg_acl\[figures\]"'):
        tsne.embed(np.zeros((8, 2)))


# Curves and distributions


def write_log(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(map(json.dumps, records)))
    return path


def test_a_resumed_run_is_one_curve(tmp_path):
    write_log(tmp_path / '20260101_0/vis_data/scalars.json', [dict(loss=9 - s, step=s) for s in (1, 2, 3)])
    write_log(tmp_path / '20260101_1/vis_data/scalars.json', [dict(loss=10 * s, step=s) for s in (3, 4)])
    assert read_scalars(tmp_path)['loss'] == ([1, 2, 3, 4], [8, 7, 30, 40])
    with pytest.raises(ValueError, match=r"bad.json', line 2: no log of scalars"):
        bad = write_log(tmp_path / 'bad.json', [dict(loss=1, step=1)])
        bad.write_text(bad.read_text() + '\nnonsense')
        read_scalars(bad)


@pytest.mark.slow
def test_curves_show_what_was_logged(tmp_path):
    logs = {}
    for number, name in enumerate(('SupOnly', 'A method with a long name', 'MT')):
        records = [dict(loss=5 / (s + 1 + number), loss_seg=1.0, step=10 * s) for s in range(40)]
        records.append(
            {'teacher/mDice': 70 + number, 'student/mDice': 69, 'step': 390} if number else dict(mDice=60, step=390)
        )
        logs[name] = write_log(tmp_path / str(number) / 'scalars.json', records)
    figure = scores.draw_curves([(name, path.parent) for name, path in logs.items()])
    assert_nothing_is_clipped(figure)
    assert [axes.get_ylabel() for axes in figure.axes] == ['loss', 'student/mDice', 'teacher/mDice']
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines['MT'].get_ydata()[3] == 5 / 6 and lines['MT'].get_xdata()[3] == 30
    assert lines['SupOnly'].get_color() == style.COLORS[0]
    assert [list(line.get_ydata()) for line in figure.axes[1].lines] == [[60], [69], [69]]
    assert [list(line.get_ydata()) for line in figure.axes[2].lines] == [[], [71], [72]]
    check_files(style.save_figure(figure, tmp_path / 'curves'), figure)
    # Two seeds share a colour and one entry in the legend.
    figure = scores.draw_curves([('a', logs['MT']), ('a', logs['SupOnly']), ('b', logs['MT'])], ['loss_seg'])
    assert [line.get_color() for line in figure.axes[0].lines] == [style.COLORS[0]] * 2 + [style.COLORS[1]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['a', 'b']
    with pytest.raises(ValueError, match="no run has logged 'loss_x'; logged are loss, loss_seg, step, "):
        scores.draw_curves([('a', logs['SupOnly'])], ['loss_x'])
    only = write_log(tmp_path / 'only.json', [dict(time=1.0, step=1)])
    with pytest.raises(ValueError, match='no run has logged loss or mDice: choose --scalars from step, time'):
        scores.draw_curves([('a', only)])


def write_scores(path: Path, rows: list[tuple]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        csv.writer(file).writerows([('set', 'network', 'image', 'dice', 'iou'), *rows])
    return path


def test_dice_is_read_for_the_network_that_is_asked_for(tmp_path):
    rows = [
        (s, n, i, v, v)
        for i in range(2)
        for s, n, v in (('a', 'student', i), ('a', 'teacher', 10), ('b', 'student', 5))
    ]
    path = write_scores(tmp_path / 'per_image.csv', rows)
    assert {name: values.tolist() for name, values in scores.read_dice(path).items()} == {'a': [10, 10]}
    found = scores.read_dice(tmp_path, 'student')
    assert {name: values.tolist() for name, values in found.items()} == {'a': [0, 1], 'b': [5, 5]}
    with pytest.raises(ValueError, match='has no scores of first, only of student, teacher'):
        scores.read_dice(path, 'first')
    with pytest.raises(ValueError, match="in line 2 dice is 'x', no finite number"):
        scores.read_dice(write_scores(tmp_path / 'x.csv', [('a', 'student', 7, 'x', 1)]))
    (tmp_path / 'other.csv').write_text('image,iou\n1,2\n')
    with pytest.raises(ValueError, match="other.csv has no column 'set'"):
        scores.read_dice(tmp_path / 'other.csv')


@pytest.mark.slow
def test_distributions_show_quartiles_and_means_by_set(tmp_path):
    rng = np.random.default_rng(0)
    values = {name: rng.beta(5, 2, (2, 50)) * 100 for name in ('one', 'two', 'three')}
    runs = []
    for name, (on_a, on_b) in values.items():
        rows = [('a', 'student', i, v, 0) for i, v in enumerate(on_a)]
        rows += [('b', 'student', i, v, 0) for i, v in enumerate(on_b)] * (name != 'three')
        runs.append((name, write_scores(tmp_path / f'{name}.csv', rows)))
    figure = scores.draw_distribution(runs)
    assert_nothing_is_clipped(figure)
    (axes,) = figure.axes  # 'three' was not tested on b
    assert axes.get_title() == 'a'
    means = [line.get_ydata()[0] for line in axes.lines]
    assert means == pytest.approx([values[name][0].mean() for name in values])
    boxes = [c.get_segments()[0][:, 1] for c in axes.collections if isinstance(c, LineCollection)][::2]
    assert [tuple(box) for box in boxes] == [tuple(np.percentile(v[0], [25, 75])) for v in values.values()]
    check_files(style.save_figure(figure, tmp_path / 'distribution'), figure)
    assert len(scores.draw_distribution(runs[:2]).axes) == 2
    # Seeds of one method are put together; a method of one value has a violin too.
    constant = ('flat', write_scores(tmp_path / 'flat.csv', [('a', 'student', i, 50.0, 0) for i in range(3)]))
    figure = scores.draw_distribution([runs[0], ('one', runs[1][1]), constant], ['a'])
    both = np.concatenate([values['one'][0], values['two'][0]])
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == pytest.approx([both.mean(), 50])
    with pytest.raises(ValueError, match=r"three.csv' has no scores on 'b'; it has a"):
        scores.draw_distribution(runs, ['b'])
    lone = ('lone', write_scores(tmp_path / 'lone.csv', [('c', 'student', 1, 50.0, 0)]))
    with pytest.raises(ValueError, match='no test set in common: a, b, c'):
        scores.draw_distribution([runs[0], lone])


def test_dice_is_drawn_against_a_number_with_a_band_over_seeds(tmp_path):
    rng = np.random.default_rng(0)
    points, expected = [], {}
    for name, places in (('few', (28, 112)), ('plus', (28,))):
        for place in places:
            for seed in range(3):
                values = [('a', v) for v in rng.uniform(0, 100, 20)] + [('b', v) for v in rng.uniform(0, 100, 5)]
                rows = [(test, 'student', i, v, 0) for i, (test, v) in enumerate(values)]
                path = write_scores(tmp_path / f'{name}{place}_{seed}.csv', rows)
                points.append(scores.parse_point(f'{name}@{place}={path}'))
                expected.setdefault((name, place), []).append(np.mean([v for _, v in values]))
    # The order of the runs has no say.
    figure = scores.draw_against(points[::-1], 'labelled images')
    assert_nothing_is_clipped(figure)
    (axes,) = figure.axes
    assert axes.get_xlabel() == 'labelled images' and axes.get_xscale() == 'log'
    lines = {line.get_label(): line for line in axes.lines}
    assert lines['few'].get_xdata().tolist() == [28, 112] and lines['plus'].get_xdata().tolist() == [28]
    for name, line in lines.items():
        means = [np.mean(expected[name, place]) for place in line.get_xdata()]
        assert line.get_ydata() == pytest.approx(means)
    bars = [tuple(bar[:, 1]) for c in axes.collections if isinstance(c, LineCollection) for bar in c.get_segments()]
    np.testing.assert_allclose(sorted(bars), sorted((min(each), max(each)) for each in expected.values()))
    on_a = scores.draw_against(points[:1], 'labelled images', ['a']).axes[0].lines[0].get_ydata()[0]
    assert on_a != pytest.approx(expected['few', 28][0]) and 'mean over a' in axes.get_ylabel()
    with pytest.raises(ValueError, match="has no scores on 'c'; it has a, b"):
        scores.draw_against(points, 'labelled images', ['c'])


@pytest.mark.parametrize(
    'text', ['run', 'few=run', 'few@=run', 'few@many=run', 'few@0=run', 'few@-1=run', 'few@nan=run']
)
def test_a_point_has_a_name_a_number_and_a_path(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'run').mkdir()
    with pytest.raises(ValueError, match='is no point: give NAME@NUMBER=PATH'):
        scores.parse_point(text)
    assert scores.parse_point('ACL-Net+@2.5=run') == ('ACL-Net+', 2.5, Path('run'))
    with pytest.raises(FileNotFoundError, match="'nowhere' does not exist"):
        scores.parse_point('few@28=nowhere')


def test_names_stand_before_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_scores(tmp_path / 'lr=1' / 'per_image.csv', [])
    assert scores.parse_named('ACL-Net=lr=1/per_image.csv') == ('ACL-Net', Path('lr=1/per_image.csv'))
    assert scores.parse_named('lr=1/per_image.csv') == ('lr=1', Path('lr=1/per_image.csv'))
    assert scores.parse_named(str(path.parent)) == ('lr=1', path.parent)
    with pytest.raises(FileNotFoundError, match="'nowhere' does not exist"):
        scores.parse_named('a=nowhere')


@pytest.mark.slow
def test_nine_methods_fit():
    """The widest figures of the paper: nine methods and long file names in one row."""
    pictures = [[np.full((60, 80, 3), 9, np.uint8)] * 11]
    titles = [
        'Input',
        'Ground truth',
        'SupOnly',
        'Mean Teacher',
        'CAC',
        'AEL',
        'ELN',
        'PSMT',
        'U2PL',
        'CAFD',
        'ACL-Net',
    ]
    with style.paper_style():
        figure = style.picture_grid(pictures, titles, [['cju0qkwl35piu0993l0dewei2'] * 11])
    assert_nothing_is_clipped(figure)
    assert len(set(map(style.color_of, range(9)))) == 9 and style.style_of(0) != style.style_of(9)


# The command


def call(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, 'argv', ['visualize.py', *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')


@pytest.mark.slow
def test_every_command_writes_two_files(runs, tmp_path, monkeypatch, capsys):
    sup, acl = map(as_text, runs.values())
    log = write_log(tmp_path / 'scalars.json', [dict(loss=s, step=s) for s in range(3)])
    table = write_scores(tmp_path / 'per_image.csv', [('a', 'student', i, 10.0 * i, 0) for i in range(9)])
    commands = {
        'overlay': [sup, acl, f'{acl}@student', '--images', '0001'],
        'affinity': [acl, '--first', 1, '--at', 10, 20],
        'failures': [sup, '--worst', 2, '--datasets', 'synthetic'],
        'curves': [f'one={log}', '--scalars', 'loss'],
        'distribution': [f'one={table}'],
        'against': [f'one@28={table}', '--label', 'labels'],
    }
    for name, arguments in commands.items():
        call(monkeypatch, name, *arguments, '--out', tmp_path / 'out' / name)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(
        f'{name}.{kind}' for name in commands for kind in ('pdf', 'png')
    )
    assert 'written: ' in capsys.readouterr().out


@pytest.mark.slow
def test_the_tsne_command(runs, tmp_path, monkeypatch):
    pytest.importorskip('sklearn')
    call(
        monkeypatch,
        'tsne',
        as_text(runs['aclnet']),
        '--first',
        2,
        '--pixels',
        20,
        '--source',
        1,
        '--out',
        tmp_path / 't',
    )
    assert (tmp_path / 't.png').is_file() and (tmp_path / 't.pdf').is_file()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['overlay', 'x.py'], 'has not the form'),
        (['overlay', 'x.py:y.pth'], 'no config at x.py'),
        (['curves', 'nowhere'], "'nowhere' does not exist"),
        (['distribution', 'a=nowhere'], "'nowhere' does not exist"),
        (['against', 'a=28'], "'a=28' is no point: give NAME@NUMBER=PATH"),
    ],
)
def test_errors_are_one_message(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as found:
        call(monkeypatch, *arguments)
    assert found.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
