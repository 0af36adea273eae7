"""What ACL-Net's losses send to the features stays of the usual size, whatever the frames and the features are."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from steps import SIDE, batch, build, losses
from torch import Tensor, nn

from mmseg_acl.engine.checkpoint import load_model_weights
from mmseg_acl.models.heads.acl_head import ACLHead
from mmseg_acl.models.heads.affinity_head import AffinityHead
from mmseg_acl.models.losses import affinity_loss, pseudo_label_loss
from mmseg_acl.models.semi.collapse import CollapseWatch
from mmseg_acl.models.semi.contrast import unit
from mmseg_acl.models.semi.length_floor import LengthFloor
from mmseg_acl.models.semi.pseudo_label import hard_labels
from mmseg_acl.models.semi.texture import fill_blank, is_blank, texture

CONFIGS = Path(__file__).parents[1] / 'configs'
IMAGES, CHANNELS, GRID = 3, 8, 6
CASES = 500
LIMIT = 10


# ------------------------------------------------------------------ what short vectors teach


def reference_unit(vector: list[float], floor: float) -> list[float]:
    length = max(math.sqrt(sum(x * x for x in vector) + 1e-8), floor)
    return [x / length for x in vector]


def reference_gradient(vector: list[float], floor: float, direction: list[float]) -> list[float]:
    """Of ``unit(v) . direction`` by finite differences, times the share that a vector of this length is heard."""
    length = math.sqrt(sum(x * x for x in vector))
    heard = min(max(length / floor - 1, 0), 1) if floor else 1
    gradient = []
    for i in range(len(vector)):
        values = []
        for step in (1e-6, -1e-6):
            moved = [x + step * (i == j) for j, x in enumerate(vector)]
            values.append(sum(a * b for a, b in zip(reference_unit(moved, floor), direction, strict=True)))
        gradient.append(heard * (values[0] - values[1]) / 2e-6)
    return gradient


@pytest.mark.parametrize('floor', [0.0, 0.3, 2.0])
def test_unit_with_a_floor_is_that_of_the_loops(floor):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    vectors *= torch.logspace(-2, 1, 20, dtype=torch.float64)[:, None]
    vectors.requires_grad_()
    direction = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    found = unit(vectors, floor=torch.tensor(floor, dtype=torch.float64))
    (gradient,) = torch.autograd.grad((found * direction).sum(), vectors)
    for i, vector in enumerate(vectors.tolist()):
        assert found[i].tolist() == pytest.approx(reference_unit(vector, floor))
        expected = reference_gradient(vector, floor, direction[i].tolist())
        assert gradient[i].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    if floor:
        assert gradient.norm(dim=1).max() < direction.norm(dim=1).max() / (2 * floor)


def test_without_a_floor_and_for_long_vectors_unit_is_as_it_was():
    vectors = torch.randn(50, 4)
    assert torch.equal(unit(vectors, floor=0.25 * vectors.norm(dim=1).min()), unit(vectors))


def test_usual_is_the_quartile_of_what_is_not_next_to_nothing_and_follows_slowly():
    floor = LengthFloor(share=0.5, memory=10)
    lengths = torch.tensor([1e-9, 1e-9, 1e-9, 4.0, 3.0, 2.0, 1.0, 5.0, 9.0, 9.0])
    valid = torch.arange(10) < 8
    assert floor.eval()(lengths) == 0 and floor.usual == 0
    assert floor.train()(lengths, valid) == 0.5 * 2.0 and floor.usual == 2.0
    for change, sign in ((1e-3, -1), (1e3, 1)):
        # Of the first batches of another size next to nothing is taken over, of many all.
        floor.usual.fill_(2.0)
        for update in range(1, 11):
            assert floor(change * lengths, valid).item() == pytest.approx(math.exp(sign * update / 10))
        for _ in range(100):
            floor(change * lengths, valid)
        assert floor.usual.item() == pytest.approx(change * 2.0, rel=0.01)
    before = floor.usual.clone()
    assert floor.eval()(1e-3 * lengths) == 0.5 * before
    floor.train()
    for nothing in (lengths[:0], lengths[valid & ~valid], 0 * lengths):
        floor(nothing)
    assert torch.equal(floor.usual, before)


@pytest.mark.slow
def test_a_checkpoint_of_before_there_were_floors_is_loaded(tmp_path):
    model = build('aclnet')
    for module in model.modules():
        if isinstance(module, LengthFloor):
            module.usual.fill_(3)
    state = model.state_dict()
    older = {name: value for name, value in state.items() if not name.endswith('.usual')}
    assert len(state) - len(older) == 4
    torch.save(dict(state_dict=older), tmp_path / 'older.pth')
    torch.save(dict(state_dict=state), tmp_path / 'newer.pth')
    for name, expected in (('newer', 3), ('older', 0)):
        other = build('aclnet')
        load_model_weights(other, tmp_path / f'{name}.pth')
        found = {key: value.item() for key, value in other.state_dict().items() if key.endswith('.usual')}
        assert found == dict.fromkeys(state.keys() - older.keys(), expected)


@pytest.mark.parametrize(('wrong', 'message'), [(dict(share=1.0), 'share is 1.0'), (dict(memory=0), 'memory is 0')])
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        LengthFloor(**wrong)


# ------------------------------------------------------------------ gradients at the features


class Drawn(NamedTuple):
    """Features (B, C, h, w) of both networks, the teacher's foreground (B, h, w) and the labels (B, h, w)."""

    student: Tensor
    teacher: Tensor
    foreground: Tensor
    mask: Tensor


class Draw:
    """Batches with discs, and what can be wrong with them."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def power(self, low: float, high: float, *shape: int) -> Tensor:
        """Between 10^low and 10^high."""
        return 10 ** (low + (high - low) * self.rand(*shape))

    def some(self, size: int) -> Tensor:
        """(size,) bool, at least one of them."""
        return (self.rand(size) < 0.5) | (torch.arange(size) == int(size * self.rand()))

    def ordinary(self) -> Drawn:
        ys, xs = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing='ij')
        y, x = (1 + 3 * self.rand(IMAGES, 1, 1) for _ in range(2))
        mask = (ys - y) ** 2 + (xs - x) ** 2 < (1.2 + self.rand(IMAGES, 1, 1)) ** 2
        prototypes = self.randn(2, CHANNELS)[mask.long()].movedim(-1, 1)
        student = (prototypes + 0.5 * self.randn(IMAGES, CHANNELS, GRID, GRID)).relu()
        teacher = (student + 0.1 * self.randn(*student.shape)).relu()
        return Drawn(student, teacher, 0.7 * mask + 0.1 + 0.1 * self.rand(*mask.shape), mask)

    def case(self) -> Drawn:
        """An ordinary batch in which one thing or several are wrong."""
        drawn = self.ordinary()
        for _ in range(1 + int(3 * self.rand())):
            drawn = self.WRONG[int(len(self.WRONG) * self.rand())](self, drawn)
        return drawn

    def _features(self, drawn: Drawn, change, both: bool = True) -> Drawn:
        teacher = change(drawn.teacher) if both else drawn.teacher
        return drawn._replace(student=change(drawn.student), teacher=teacher)

    def black(self, drawn: Drawn) -> Drawn:
        images = self.some(IMAGES).view(-1, 1, 1, 1)
        return self._features(drawn, lambda x: x.masked_fill(images, 0))

    def constant(self, drawn: Drawn) -> Drawn:
        """But for noise, of any size down to that of a rounding."""
        images, size = self.some(IMAGES).view(-1, 1, 1, 1), self.power(-8, -1) * (self.rand() < 0.7)
        return self._features(drawn, lambda x: torch.where(images, x[..., :1, :1] + size * x, x))

    def dead_channels(self, drawn: Drawn) -> Drawn:
        alive = self.some(CHANNELS).view(-1, 1, 1)
        return self._features(drawn, lambda x: x * alive, both=bool(self.rand() < 0.5))

    def scaled(self, drawn: Drawn) -> Drawn:
        """All, or some images, in both networks or in the student alone."""
        size, images = self.power(-4, 4), self.some(IMAGES).view(-1, 1, 1, 1) | (self.rand() < 0.5)
        return self._features(drawn, lambda x: torch.where(images, size * x, x), both=bool(self.rand() < 0.5))

    def short_pixels(self, drawn: Drawn) -> Drawn:
        size = self.power(-4, 0, IMAGES, 1, GRID, GRID)
        return self._features(drawn, lambda x: x.mean((2, 3), keepdim=True).lerp(x, size))

    def no_polyp(self, drawn: Drawn) -> Drawn:
        images = (self.some(IMAGES) | (self.rand() < 0.5)).view(-1, 1, 1)
        foreground = torch.where(images, self.power(-4, 0) * drawn.foreground, drawn.foreground)
        return drawn._replace(foreground=foreground, mask=drawn.mask & ~images)

    def tiny_polyp(self, drawn: Drawn) -> Drawn:
        mask = torch.zeros_like(drawn.mask)
        mask[:, 2, 3] = True
        return drawn._replace(mask=mask)

    WRONG = (black, constant, dead_channels, scaled, short_pixels, no_polyp, tiny_polyp)


class Losses(nn.Module):
    """The three losses of ACL-Net on given features, and the norms of their gradients there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.affinity = AffinityHead(CHANNELS)
        nn.init.normal_(self.affinity.out.weight, std=0.1)
        self.contrast = ACLHead(CHANNELS, bank_size=128, min_keys=1, num_anchors=16)
        self.classifier = nn.Conv2d(CHANNELS, 2, 1).requires_grad_(False)

    def gradients(self, drawn: Drawn) -> dict[str, float]:
        features = drawn.student.clone().requires_grad_()
        with torch.no_grad():
            teacher = self.affinity.eval()(drawn.teacher)
        student = self.affinity.train()(features)
        prob = torch.stack([1 - drawn.foreground, drawn.foreground], dim=1)
        members = torch.stack([~drawn.mask, drawn.mask], dim=1).flatten(2).transpose(1, 2)
        large = F.interpolate(prob, scale_factor=4)
        labels = hard_labels(large, torch.ones_like(large[:, 0], dtype=torch.bool))
        logits = F.interpolate(self.classifier(features), scale_factor=4, mode='bilinear')
        found = dict(
            contrast=self.contrast(student, teacher, prob.flatten(2).transpose(1, 2))['loss_contrast'],
            affinity=affinity_loss(student.map, members),
            consistency=pseudo_label_loss(logits, large, labels),
        )
        return {
            name: float(torch.autograd.grad(loss, features, retain_graph=True)[0].norm())
            for name, loss in found.items()
        }


def ratios(cases: int = CASES) -> dict[str, list[float]]:
    """Of the gradients in drawn cases to the median of ordinary batches, all from the same state of the heads."""
    heads, draw = Losses(), Draw(seed=1)
    usual = [heads.gradients(draw.ordinary()) for _ in range(40)][10:]
    median = {name: sorted(step[name] for step in usual)[len(usual) // 2] for name in usual[0]}
    found: dict[str, list[float]] = {name: [] for name in median}
    state = deepcopy(heads.state_dict())
    for _ in range(cases):
        heads.load_state_dict(state)
        for name, norm in heads.gradients(draw.case()).items():
            found[name].append(norm / median[name])
    return found


@pytest.mark.slow
def test_no_loss_sends_more_than_ten_times_the_usual_gradient_to_the_features():
    for name, found in ratios().items():
        assert len(found) == CASES and all(map(math.isfinite, found))
        assert max(found) <= LIMIT, f'{name}: {max(found):.3g}'
        assert sorted(found)[CASES // 2] > 0.01, f'{name}: most cases teach something'


@pytest.mark.slow
def test_a_few_of_these_cases():
    for name, found in ratios(cases=40).items():
        assert max(found) <= LIMIT, f'{name}: {max(found):.3g}'


@pytest.mark.slow
def test_without_floors_they_would():
    """The cases are hard enough to see the difference."""
    heads, draw = Losses(), Draw(seed=1)
    for module in heads.modules():
        if isinstance(module, LengthFloor):
            module.share = 0.0
    usual = [heads.gradients(draw.ordinary()) for _ in range(10)]
    worst = [deepcopy(heads).gradients(draw.case()) for _ in range(40)]
    for name in ('contrast', 'affinity'):
        assert max(step[name] for step in worst) > 100 * LIMIT * max(step[name] for step in usual), name


def test_keys_that_are_noise_are_neither_stored_nor_learnt_from():
    heads, draw = Losses(), Draw(seed=2)
    for _ in range(3):
        heads.gradients(draw.ordinary())
    drawn = draw.ordinary()
    bank = heads.contrast.bank
    before = bank.fill.clone(), bank.keys.clone()
    # The teacher sees next to nothing, all of it alike.
    noise = drawn.teacher[..., :1, :1] + 1e-6 * draw.randn(*drawn.teacher.shape)
    assert heads.gradients(drawn._replace(teacher=noise))['contrast'] == 0
    assert torch.equal(bank.fill, before[0]) and torch.equal(bank.keys, before[1])
    assert heads.gradients(drawn)['contrast'] > 0 and bank.fill.sum() > before[0].sum()


# ------------------------------------------------------------------ frames without texture


def test_texture_is_the_deviation_of_the_valid_values():
    images = torch.randn(3, 3, 6, 5, dtype=torch.float64) * torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1)
    valid = torch.rand(3, 6, 5) < 0.6
    valid[2] = False
    for found, image, seen in zip(texture(images, valid), images, valid, strict=True):
        variances = []
        for channel in image:
            values = channel[seen].tolist()
            mean = sum(values) / max(len(values), 1)
            variances.append(sum((value - mean) ** 2 for value in values) / max(len(values), 1))
        assert found.item() == pytest.approx(math.sqrt(sum(variances) / 3))


@pytest.mark.parametrize('unit_of_images', [1e-3, 1.0, 255.0])
def test_a_frame_has_texture_by_what_labelled_ones_have(unit_of_images):
    labelled = 55 * torch.randn(2, 3, 32, 32)
    frames = torch.stack([
        torch.zeros(3, 32, 32), torch.full((3, 32, 32), 90.0), 3 * torch.randn(3, 32, 32),
        9 * torch.randn(3, 32, 32), 55 * torch.randn(3, 32, 32),
    ])  # fmt: skip
    # A padded frame is judged by what of it is valid.
    valid = torch.ones(5, 32, 32, dtype=torch.bool)
    frames[1, :, :, 16:], valid[1, :, 16:] = -100, False
    found = is_blank(unit_of_images * frames, unit_of_images * labelled, valid)
    assert found.tolist() == [True, True, True, False, False]


def test_labelled_images_stand_in_for_blank_ones_and_others_stay_to_the_bit():
    images, labelled = torch.randn(5, 3, 4, 4), torch.randn(2, 3, 4, 4)
    found = fill_blank(images, torch.tensor([True, False, True, True, False]), labelled)
    assert torch.equal(found, torch.stack([labelled[0], images[1], labelled[0], labelled[1], images[4]]))


def blanked(data: dict, kind: str) -> dict:
    """The batch with its second unlabelled frame blank, in both views."""
    size = (3, SIDE, SIDE)
    grey = {'black': torch.zeros(size), 'constant': torch.full(size, 77.0), 'noise': 20 + 2 * torch.randn(size)}[kind]
    for view in ('unsup_weak', 'unsup_strong'):
        data['inputs'][view][1] = grey.clamp(0, 255).byte()
    return data


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['black', 'constant', 'noise'])
@pytest.mark.parametrize('cutmix', [0.0, 1.0])
def test_frames_without_texture_do_not_teach(kind, cutmix):
    """Of the losses on unlabelled images theirs is nothing, and what is predicted of them does not matter."""
    model = build('aclnet', cutmix=dict(prob=cutmix)).eval()
    whole = losses(model, blanked(batch(seed=5), kind), iteration=4)
    assert whole['loss_consistency'] > 0 and whole['loss_contrast'] > 0
    assert whole['blank_share'].item() == pytest.approx(1 / 3)
    assert losses(model, batch(seed=5), iteration=4)['blank_share'] == 0

    alone = blanked(batch(seed=5), kind)
    for i in (0, 2):
        alone['data_samples']['unsup_weak'][i].valid.data[:] = False
    found = losses(model, alone, iteration=4)
    assert found['loss_consistency'] <= 0.01 * whole['loss_consistency']
    assert found['reliable_share'] == 0


@pytest.mark.slow
def test_the_experiment_blackens_the_unlabelled_frames_alone():
    plain, black = (
        Config.fromfile(CONFIGS / f'aclnet_plus/{name}mbv2_kvasir_eighth.py') for name in ('', 'black_frames/')
    )
    load, blacken, *others = black.train_dataloader.dataset.unlabelled.pipeline
    assert blacken == dict(type='BlackFrames', share=0.5)
    black.train_dataloader.dataset.unlabelled.pipeline = [load, *others]
    assert black.to_dict() == plain.to_dict()


@pytest.mark.parametrize(
    'path', sorted(CONFIGS.glob('aclnet*/*.py')), ids=lambda path: f'{path.parent.name}-{path.stem}'
)
def test_gradients_are_clipped_in_the_configs(path):
    assert Config.fromfile(path).optim_wrapper.clip_grad == dict(max_norm=20)


# ------------------------------------------------------------------ a map that is constant


@pytest.fixture
def said(monkeypatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr('mmseg_acl.models.semi.collapse.print_log', lambda text, **_: messages.append(text))
    return messages


def test_a_constant_map_is_said_once_and_when_it_is_time(said):
    watch, valid = CollapseWatch(interval=10), torch.ones(2, 40, dtype=torch.bool)
    valid[:, 30:] = False
    constant = 0.7 + 1e-3 * torch.rand(2, 40, 40)
    constant[..., 30:], constant[:, 30:] = 0.0, 1.0  # padding does not count
    alive = constant.clone()
    alive[1, 0, :5] = 0.5
    watch.look(alive, valid, 10)
    watch.look(constant, valid, 11)
    watch.look(constant, valid, None)
    watch.look(constant, valid & False, 20)
    assert not said
    watch.look(constant, valid, 20)
    watch.look(constant, valid, 30)
    (message,) = said
    assert 'constant: at iteration 20' in message and 'clip_grad' in message and 'lr' in message


@pytest.mark.slow
@pytest.mark.parametrize(('iteration', 'weight'), [(0, 1.0), (50, 0.0)])
def test_a_network_that_has_died_is_said_in_training(said, iteration, weight):
    """During the warm-up by the labelled images' affinity, later by the others'."""
    model = build('aclnet', affinity_weight=weight)
    losses(model, batch(), iteration)
    assert not said
    for head in (model.affinity_head, model.affinity_teacher):
        nn.init.zeros_(head.query.weight)
    losses(model, batch(), iteration)
    losses(model, batch(), iteration)
    assert len(said) == 1
