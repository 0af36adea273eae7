"""CAC: the two crops, their correspondence, the directional contrast and the bank of two steps."""

from __future__ import annotations

import math
from copy import deepcopy

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.structures import SegDataSample
from steps import CONFIGS, SIDE, batch, build

from mmseg_acl.datasets import MarkValid, PadFields, TwoCrops, view_collate
from mmseg_acl.models.segmentors.cac import shared_cells
from mmseg_acl.models.semi.memory_bank import MemoryBank
from mmseg_acl.models.semi.projector import Projector

FLIP = dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])
LARGE = (96, 104)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    np.random.seed(0)


def numbered(size: tuple[int, int] = LARGE) -> dict:
    """An image whose colour says where a pixel lies."""
    rows, columns = np.indices(size)
    image = np.stack([rows, columns, np.zeros(size, int)], axis=-1).astype(np.uint8)
    return MarkValid()(dict(img=image, img_path='frame.png', ori_shape=size, img_shape=size, seg_fields=[]))


def crop_batch(images: int = 3, seed: int = 0, classes: int = 2) -> dict:
    """Labelled images with a stripe of each class, and two crops each of unlabelled ones."""
    random = np.random.default_rng(seed)
    np.random.seed(seed)

    def draw(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        columns = np.indices(size)[1] + random.integers(0, size[1])
        mask = columns * classes // size[1] % classes
        image = 20 + 200 * mask / (classes - 1) + random.normal(0, 15, size)
        return np.repeat(image[..., None], 3, axis=2).clip(0, 255).astype(np.uint8), mask

    data = batch(images, seed, classes)
    for i, sample in enumerate(data['data_samples']['sup']):
        image, mask = draw((SIDE, SIDE))
        data['inputs']['sup'][i] = torch.from_numpy(image).movedim(-1, 0)
        sample.gt_sem_seg.data = torch.from_numpy(mask)[None]
    colours = dict(type='ColorJitter', prob=0.5)
    cut = TwoCrops((SIDE, SIDE), [FLIP, colours])
    pairs = [cut(dict(numbered(), img=draw(LARGE)[0])) for _ in range(images)]
    for key, views in view_collate(pairs).items():
        data[key] = dict(sup=data[key]['sup'], **views)
    return data


def losses(model, data: dict, iteration: int) -> dict:
    model.before_step(iteration)
    torch.manual_seed(iteration)
    return model(**model.data_preprocessor(deepcopy(data), training=True), mode='loss')


def train(model, steps: range, classes: int = 2, lr: float = 0.05) -> list[dict]:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    history = []
    for iteration in steps:
        model.train()
        found = losses(model, crop_batch(seed=iteration, classes=classes), iteration)
        optimizer.zero_grad()
        model.parse_losses(found)[0].backward()
        optimizer.step()
        model.after_step()
        history.append({key: float(value.detach()) for key, value in found.items()})
    return history


# ------------------------------------------------------------------ the crops


def test_crops_overlap_as_asked_and_lie_whole_strides_apart():
    cut = TwoCrops((64, 48), min_iou=0.3, stride=8)
    ious, flips = [], set()
    for _ in range(300):
        out = cut(numbered())
        first, second = (out['data_samples'][name].crop_corner for name in TwoCrops.VIEWS)
        assert all(0 <= a <= 96 - 64 and 0 <= b <= 104 - 48 for a, b in (first, second))
        assert (second[0] - first[0]) % 8 == (second[1] - first[1]) % 8 == 0
        shared = max(0, 64 - abs(first[0] - second[0])) * max(0, 48 - abs(first[1] - second[1]))
        ious.append(shared / (2 * 64 * 48 - shared))
        flips.add(first[0] % 8)
        for name in TwoCrops.VIEWS:
            assert out['inputs'][name].shape == (3, 64, 48) and out['data_samples'][name].valid.shape == (64, 48)
    assert min(ious) >= 0.3 and max(ious) == 1 and min(ious) < 0.4
    assert len(flips) == 8, 'the first crop lies anywhere'


@pytest.mark.slow
@pytest.mark.parametrize('stride', [1, 2, 8])
def test_shared_cells_show_the_same_place(stride):
    """The image names its places, so cells of the two maps must agree; a loop says which cells there are."""
    cut = TwoCrops((64, 48), [FLIP], stride=8)
    grid = (64 // stride, 48 // stride)
    seen = set()
    for _ in range(60):
        out = cut(numbered())
        samples = [out['data_samples'][name] for name in TwoCrops.VIEWS]
        first, second = shared_cells(samples[0].metainfo, samples[1].metainfo, (64, 48), grid)
        means = [
            torch.nn.functional.avg_pool2d(out['inputs'][name][:2].double(), stride).flatten(1)
            for name in TwoCrops.VIEWS
        ]
        assert torch.equal(means[0][:, first], means[1][:, second])
        places = [{tuple(place) for place in mean.T.tolist()} for mean in means]
        assert {tuple(place) for place in means[0][:, first].T.tolist()} == places[0] & places[1]
        assert len(first.unique()) == len(first) == len(second.unique())
        seen |= {sample.flip_direction for sample in samples}
    assert seen == {None, 'horizontal', 'vertical', 'diagonal'}


def test_shared_cells_of_a_hand_made_overlap():
    here = dict(crop_corner=(0, 0), flip_direction=None)
    there = dict(crop_corner=(8, 16), flip_direction='horizontal')
    first, second = shared_cells(here, there, (32, 32), (4, 4))
    # Places (1..3, 2..3) of the first crop are (0..2, 0..1) of the second, whose columns run backwards.
    assert first.tolist() == [6, 7, 10, 11, 14, 15]
    assert second.tolist() == [3, 2, 7, 6, 11, 10]
    apart = dict(crop_corner=(40, 0), flip_direction=None)
    assert all(
        len(cells) == 0 for pair in ((here, apart), (apart, here)) for cells in shared_cells(*pair, (32, 32), (4, 4))
    )
    with pytest.raises(ValueError, match=r'\[8, 16\] pixels apart.*16 x 16 pixels.*TwoCrops\(stride'):
        shared_cells(here, there, (32, 32), (2, 2))


def test_crops_have_colours_of_their_own_and_their_padding_is_marked():
    cut = TwoCrops((128, 128), [dict(type='ColorJitter', prob=1.0)], stride=8)
    out = cut(PadFields(size=(128, 128))(numbered()))
    one, other = out['inputs'].values()
    assert not torch.equal(one, other)
    for sample in out['data_samples'].values():
        assert sample.valid.data.sum() == LARGE[0] * LARGE[1] and sample.valid.data[0, : LARGE[0], : LARGE[1]].all()


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [(dict(min_iou=0), r'min_iou=0 must lie in \(0, 1\]'), (dict(stride=0), 'stride=0')],
)
def test_wrong_crops_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        TwoCrops((8, 8), **wrong)


def test_an_image_smaller_than_a_crop_is_refused():
    with pytest.raises(ValueError, match=r'96 x 104 has no crop of 128 x 64.*PadFields'):
        TwoCrops((128, 64))(numbered())


@pytest.mark.parametrize('track', ['semi_128', 'semi_384'])
def test_the_pipelines_make_crops_of_the_tracks_size(track, tmp_path):
    config = Config.fromfile(CONFIGS.parents[1] / 'configs' / '_base_' / 'datasets' / f'{track}.py')
    cv2.imwrite(str(tmp_path / 'frame.png'), numbered()['img'])
    pipeline = Compose(config.two_crops_pipeline)
    apart = set()
    for _ in range(8):
        out = pipeline(dict(img_path=str(tmp_path / 'frame.png'), seg_fields=[]))
        assert {tuple(image.shape[1:]) for image in out['inputs'].values()} == {config.crop_size}
        samples = out['data_samples'].values()
        assert all(sample.valid.data.all() and 'gt_sem_seg' not in sample for sample in samples)
        apart.add(len({sample.crop_corner for sample in samples}))
    assert 2 in apart


# ------------------------------------------------------------------ shared pieces


def test_the_projector_is_a_perceptron_on_every_pixel():
    projector = Projector(5, hidden_channels=7, out_channels=3, num_layers=3).double()
    feature = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    vectors = projector(feature)
    assert vectors.shape == (2, 3, 4, 6)
    pixel = feature[1, :, 2, 5]
    layers = [module for module in projector.modules() if isinstance(module, torch.nn.Conv2d)]
    for i, layer in enumerate(layers):
        pixel = layer.weight[:, :, 0, 0] @ pixel + layer.bias
        pixel = pixel.relu() if i < 2 else pixel
    torch.testing.assert_close(vectors[1, :, 2, 5], pixel)
    assert [layer.out_channels for layer in layers] == [7, 7, 3]
    normalised = Projector(5, norm_cfg=dict(type='BN'))
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in normalised.modules()) == 1
    with pytest.raises(ValueError, match='num_layers is 0'):
        Projector(5, num_layers=0)


def test_a_bank_keeps_the_newest_keys_of_each_ring():
    bank = MemoryBank(2, (4, 3), 2)
    angles = torch.arange(7) / 7
    keys = torch.stack([angles.cos(), angles.sin()], dim=1)
    bank.enqueue(keys, torch.tensor([0, 0, 0, 0, 0, 0, 1]))  # ring 0 has wrapped around: keys 2 to 5
    bank.keep(torch.tensor([3, 2]))
    torch.testing.assert_close(bank.ring(0), keys[3:6])
    torch.testing.assert_close(bank.ring(1), keys[6:])
    bank.enqueue(keys[:3], torch.tensor([0, 0, 1]))
    torch.testing.assert_close(bank.ring(0), keys[[1, 4, 5, 0]])  # key 3, the oldest, has given way
    assert bank.fill.tolist() == [4, 2]
    bank.keep(torch.tensor([0, 1]))
    assert bank.fill.tolist() == [0, 1]
    torch.testing.assert_close(bank.ring(1), keys[2:3])


# ------------------------------------------------------------------ the loss


def drawn(classes: int, seed: int = 0, cells: int = 40, dim: int = 6) -> dict:
    """Random cells of two views, and an overlap of cells that are no neighbours in either."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2 * cells, dim, generator=generator, dtype=torch.float64)
    prob = (4 * torch.randn(2 * cells, classes, generator=generator, dtype=torch.float64)).softmax(dim=1)
    valid = torch.rand(2 * cells, generator=generator) > 0.2
    first = torch.randperm(cells, generator=generator)[:25]
    second = cells + torch.randperm(cells, generator=generator)[:25]
    return dict(vectors=vectors, prob=prob, valid=valid, first=first, second=second)


def cosine(a: list, b: list) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def reference(cells: dict, earlier: list[tuple[list, int]], threshold: float, tau: float) -> float:
    """Eqs 2 to 4 one pixel and one negative at a time; ``earlier`` are keys and classes of the previous step."""
    vectors, prob = cells['vectors'].tolist(), cells['prob'].tolist()
    confidence = [max(p) for p in prob]
    label = [p.index(max(p)) for p in prob]
    bank = earlier + [(v, c) for v, c, seen in zip(vectors, label, cells['valid'].tolist(), strict=True) if seen]
    total = 0.0
    for anchors, targets in ((cells['first'], cells['second']), (cells['second'], cells['first'])):
        terms = []
        for a, t in zip(anchors.tolist(), targets.tolist(), strict=True):
            if not (cells['valid'][a] and cells['valid'][t]):
                continue
            if not (confidence[t] > threshold and confidence[a] < confidence[t]):
                continue
            positive = math.exp(cosine(vectors[a], vectors[t]) / tau)
            negative = sum(math.exp(cosine(vectors[a], key) / tau) for key, c in bank if c != label[a])
            terms.append(-math.log(positive / (positive + negative)))
        total += sum(terms) / max(len(terms), 1)
    return total


def cac(classes: int = 2, **changes):
    changes = {'segmentor.decode_head.num_classes': classes, 'projector.out_channels': 6, **changes}
    return build('cac', **changes).double()


@pytest.mark.parametrize('classes', [2, 4])
def test_the_contrast_is_that_of_the_loops(classes):
    model = cac(classes, threshold=0.75)
    before, now = drawn(classes, seed=1), drawn(classes, seed=2)
    found = model.contrast(**before)
    assert found['loss_contrast'].item() == pytest.approx(reference(before, [], 0.75, 0.1), rel=1e-5)
    found = model.contrast(**now)
    labels = before['prob'].argmax(dim=1)
    earlier = [(before['vectors'][i].tolist(), int(labels[i])) for i in before['valid'].nonzero().flatten()]
    expected = reference(now, earlier, 0.75, 0.1)
    assert expected > 1
    assert found['loss_contrast'].item() == pytest.approx(expected, rel=1e-5)


def test_only_the_less_sure_view_is_drawn_and_only_to_a_sure_target():
    model = cac(threshold=0.75)
    # Pairs: the first view less sure, the second less sure, no sure view, equally sure.
    p = torch.tensor([0.6, 0.95, 0.6, 0.1, 0.9, 0.8, 0.7, 0.1], dtype=torch.float64)
    vectors = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    cells = dict(prob=torch.stack([p, 1 - p], dim=1), valid=torch.ones(8, dtype=torch.bool))
    # The fourth pair, of the other class, gives the negatives.
    pairs = dict(first=torch.tensor([0, 1, 2, 3]), second=torch.tensor([4, 5, 6, 7]))
    found = model.contrast(vectors, **cells, **pairs)
    found['loss_contrast'].backward()
    moved = vectors.grad.abs().sum(dim=1) > 1e-9
    # 0 (.6) goes to 4 (.9), and 5 (.8) to 1 (.95); targets, the pair of .6 and .7, and ties stay.
    assert moved.tolist() == [True, False, False, False, False, True, False, False]
    assert found['anchor_share'].item() == 0.5


@pytest.mark.slow
def test_padding_is_no_anchor_no_target_and_no_negative():
    values = []
    for fill in (0.0, 7.0):
        cells = drawn(2)
        cells['vectors'][~cells['valid']] += fill
        cells['prob'][~cells['valid']] = cells['prob'][~cells['valid']].flip(1) if fill else 0.5
        model = cac(threshold=0.6)
        values.append(model.contrast(**cells)['loss_contrast'])
        assert int(model.bank.fill.sum()) == int(cells['valid'].sum())
    assert values[0] > 0 and torch.equal(*values)


@pytest.mark.slow
def test_nothing_to_contrast_is_a_zero_that_stays_connected():
    cells = drawn(2)
    everywhere = torch.tensor([0.99, 0.01], dtype=torch.float64).expand(80, 2)
    for change in (
        dict(prob=everywhere - torch.rand(80, 1, dtype=torch.float64) / 10),  # all background: no negatives
        dict(prob=torch.full((80, 2), 0.5, dtype=torch.float64)),  # nobody is sure
        dict(valid=torch.zeros(80, dtype=torch.bool)),
    ):
        vectors = cells['vectors'].clone().requires_grad_()
        found = cac(threshold=0.75).contrast(**dict(cells, vectors=vectors, **change))
        found['loss_contrast'].backward()
        assert found['loss_contrast'].item() == 0 and torch.equal(vectors.grad, torch.zeros_like(vectors))
        assert all(torch.isfinite(value) for value in found.values())


def test_the_bank_holds_this_step_and_the_one_before():
    model = cac(num_keys=10)
    history = []
    for step in range(4):
        vectors = torch.randn(80, 6, dtype=torch.float64)
        labels = torch.randint(2, (80,))
        model._remember(vectors, labels, torch.arange(80) % 40 < (30 if step else 7))
        history.append(torch.nn.functional.normalize(vectors))
        kept = torch.cat([model.bank.ring(0), model.bank.ring(1)])
        # Seven pixels a view at the first step are fewer than asked for; later ten of thirty are drawn.
        assert len(kept) == (14, 34, 40, 40)[step]
        for age, vectors in enumerate(reversed(history)):
            there = torch.cdist(kept, vectors).min(dim=1).values < 1e-3
            assert there.sum() == ((14, 20, 20, 20)[step - age] if age < 2 else 0)


# ------------------------------------------------------------------ the method


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('classes', [2, 4])
def test_it_trains_with_two_classes_and_with_four(classes):
    model = build('cac', **{'segmentor.decode_head.num_classes': classes, 'threshold': 1.05 / classes})
    history = train(model, range(8), classes)
    assert all(math.isfinite(value) for step in history for value in step.values())
    assert not any('loss_contrast' in step for step in history[:2])  # the warm-up
    assert all(step['loss_contrast'] > 0 for step in history[2:])
    # In single steps a class may be predicted nowhere.
    assert any(step['bank_smallest'] > 0 for step in history[2:])
    assert all(0.1 < step['overlap_share'] <= 1 and 0 < step['anchor_share'] <= 1 for step in history[2:])
    assert history[-1]['loss_seg'] < history[0]['loss_seg']


@pytest.mark.trained
@pytest.mark.slow
def test_a_sigmoid_head_trains():
    changes = dict(num_classes=2, out_channels=1)
    head = {f'segmentor.decode_head.{key}': value for key, value in changes.items()}
    loss = [dict(type='CrossEntropyLoss', use_sigmoid=True), dict(type='PolypDiceLoss')]
    history = train(build('cac', **head, **{'segmentor.decode_head.loss_decode': loss}), range(6))
    assert all(step['loss_contrast'] > 0 for step in history[2:])


@pytest.mark.slow
def test_gradients_reach_all_of_the_student_and_the_projector():
    model = build('cac')
    for iteration in (0, 3):
        model.zero_grad()
        model.parse_losses(losses(model, crop_batch(), iteration))[0].backward()
        assert all(parameter.grad is not None for parameter in model.parameters()), iteration
    moved = [float(p.grad.abs().sum()) > 0 for p in model.projector.parameters()]
    assert all(moved)
    model.zero_grad()
    losses(model, crop_batch(), 4)['loss_contrast'].backward()
    assert float(next(model.student.backbone.parameters()).grad.abs().sum()) > 0


@pytest.mark.slow
def test_the_overlap_reaches_the_loss_through_views_and_flips():
    """With two equal crops that differ in their flips alone, an untrained network is as consistent as it can be."""
    model = build('cac', **{'segmentor.decode_head.dropout_ratio': 0}).eval()
    shares = []
    for flip in (None, 'horizontal'):
        data = crop_batch(images=2)
        for i, sample in enumerate(data['data_samples']['unsup_second']):
            data['inputs']['unsup_second'][i] = data['inputs']['unsup_first'][i].flip(-1)
            first = data['data_samples']['unsup_first'][i]
            first.set_metainfo(dict(flip_direction=None))
            sample.set_metainfo(dict(crop_corner=first.crop_corner, flip_direction=flip))
        found = losses(model, data, 3)
        assert found['overlap_share'] == 1
        shares.append(float(found['positive_cosine']))
    assert shares[1] > shares[0]


@pytest.mark.trained
@pytest.mark.slow
def test_a_resumed_run_equals_an_unbroken_one():
    unbroken, resumed = build('cac'), build('cac')
    train(unbroken, range(5))
    resumed.load_state_dict(unbroken.state_dict())
    assert train(unbroken, range(5, 8)) == train(resumed, range(5, 8))
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_there_is_no_teacher():
    model = build('cac')
    assert model.networks == ('student',) and model.predict_on == 'student'
    assert model.ema_pairs() == [] and not any('teacher' in name for name, _ in model.named_parameters())
    assert isinstance(model.eval().predict(torch.rand(1, 3, SIDE, SIDE))[0], SegDataSample)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(threshold=1.0), 'threshold is 1.0'),
        (dict(tau=0), 'tau is 0; it must be above 0'),
        (dict(num_keys=0), 'num_keys is 0'),
        (dict(predict_on='teacher'), "predict_on is 'teacher'; CAC has student"),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        build('cac', **wrong)


def test_views_of_another_method_are_refused():
    with pytest.raises(ValueError, match='sup, unsup_weak, unsup_strong; CAC needs unsup_first and unsup_second'):
        losses(build('cac'), batch(), 3)
