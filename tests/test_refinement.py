"""Low-level affinity and refinement against loops written from the paper (Eqs 9 to 11)."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS

from mmseg_acl.models.refinement import LocalAffinity, PseudoLabelRefiner

SMALL = (1, 2, 4)
PRESETS = {'paper': (0.2, 0.2, 0.5, True), 'released': (0.3, 0.3, 0.01, False)}


def offsets(dilations):
    around = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    return [(step * dy, step * dx) for step in dilations for dy, dx in around]


def deviation(values):
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) + 1e-8


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def reference_kernel(image, *settings):
    """Eqs 9 and 10 for one (C, H, W) image, pixel by pixel; beyond the border the nearest pixel."""
    return kernel_of(image.shape, tuple(image.flatten().tolist()), *settings)


@functools.cache  # cases of the same seed have the same images
def kernel_of(shape, values, dilations, w1, w2, w3, normalize):
    channels, height, width = shape
    image = torch.tensor(values, dtype=torch.float64).view(shape)
    around = offsets(dilations)
    distances = [math.hypot(dy, dx) for dy, dx in around]
    spatial = softmax([-((d / (w2 * deviation(distances))) ** 2) for d in distances])
    kernel = torch.zeros(len(around), height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            exponents = [0.0] * len(around)
            for c in range(channels):
                values = [
                    image[c, min(max(i + dy, 0), height - 1), min(max(j + dx, 0), width - 1)].item()
                    for dy, dx in around
                ]
                scale = w1 * deviation(values)
                for n, value in enumerate(values):
                    exponents[n] -= ((value - image[c, i, j].item()) / scale) ** 2 / channels
            for n, colour in enumerate(softmax(exponents)):
                kernel[n, i, j] = (colour + w3 * spatial[n]) / (1 + w3 if normalize else 1)
    return kernel


def reference_step(prob, kernel, dilations):
    """One low-level step of Eq. 11 on (K, H, W)."""
    _, height, width = prob.shape
    out = torch.zeros_like(prob)
    for i in range(height):
        for j in range(width):
            for n, (dy, dx) in enumerate(offsets(dilations)):
                row, column = min(max(i + dy, 0), height - 1), min(max(j + dx, 0), width - 1)
                out[:, i, j] += kernel[n, i, j] * prob[:, row, column]
    return out


def two_classes(batch, height, width, dtype=torch.float64):
    p = torch.rand(batch, 1, height, width, dtype=dtype)
    return torch.cat([1 - p, p], dim=1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize('preset', PRESETS)
def test_kernel_is_that_of_the_loops(preset):
    w1, w2, w3, normalize = PRESETS[preset]
    image = torch.rand(2, 3, 6, 5, dtype=torch.float64) * 255
    kernel = LocalAffinity.from_preset(preset, dilations=SMALL)(image)
    assert kernel.shape == (2, 24, 6, 5)
    for b in range(2):
        expected = reference_kernel(image[b], SMALL, w1, w2, w3, normalize)
        torch.testing.assert_close(kernel[b], expected, rtol=1e-9, atol=1e-12)


def test_default_dilations_give_48_neighbours_in_order():
    local = LocalAffinity()
    assert local.offsets == offsets((1, 2, 4, 8, 12, 24))
    image = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    expected = reference_kernel(image[0], (1, 2, 4, 8, 12, 24), 0.2, 0.2, 0.5, True)
    torch.testing.assert_close(local(image)[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(('preset', 'row_sum'), [('paper', 1.0), ('released', 1.01)])
def test_rows_sum_to_row_sum(preset, row_sum):
    local = LocalAffinity.from_preset(preset)
    kernel = local(torch.rand(2, 3, 20, 30) * 255)
    assert local.row_sum == pytest.approx(row_sum)
    torch.testing.assert_close(kernel.sum(1), torch.full((2, 20, 30), row_sum))


def test_propagation_is_that_of_the_loops():
    local = LocalAffinity(SMALL)
    kernel = local(torch.rand(1, 3, 6, 5, dtype=torch.float64))
    prob = two_classes(1, 6, 5)
    expected = prob[0]
    for _ in range(3):
        expected = reference_step(expected, kernel[0], SMALL)
    torch.testing.assert_close(local.propagate(prob, kernel, 3)[0], expected)
    torch.testing.assert_close(local.propagate(prob, kernel, 0), prob)


def test_propagation_stays_on_the_simplex():
    local = LocalAffinity()
    prob = torch.rand(2, 4, 40, 30).softmax(1)
    out = local.propagate(prob, local(torch.rand(2, 3, 40, 30)), 10)
    assert out.min() >= 0
    torch.testing.assert_close(out.sum(1), torch.ones(2, 40, 30))


def test_shift_and_scale_of_a_channel_change_nothing():
    local = LocalAffinity()
    image = torch.rand(1, 3, 20, 20, dtype=torch.float64)
    scale = torch.tensor([255.0, 3.0, 0.2], dtype=torch.float64).view(1, 3, 1, 1)
    torch.testing.assert_close(local(image), local(image * scale - 7), rtol=1e-5, atol=1e-8)


def test_constant_image_leaves_only_distance():
    """All colours agree, so each is one in 48; a constant map is then a fixed point."""
    local = LocalAffinity()
    kernel = local(torch.full((1, 3, 10, 10), 0.1))
    colour = kernel - kernel.new_tensor(local._spatial).view(1, 48, 1, 1)
    torch.testing.assert_close(colour, torch.full_like(colour, 1 / 48 / 1.5))
    prob = torch.full((1, 2, 10, 10), 0.5)
    torch.testing.assert_close(local.propagate(prob, kernel, 10), prob)


def test_an_edge_in_the_image_stops_the_propagation():
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16:] = 200.0
    prob = torch.zeros(1, 2, 32, 32)
    prob[:, 1, :, 16:] = 1
    prob[:, 0, :, :16] = 1
    local = LocalAffinity(w3=0.0)
    torch.testing.assert_close(local.propagate(prob, local(image), 5), prob, atol=1e-4, rtol=0)


def test_single_bright_pixel_and_integer_images():
    image = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    image[..., 4, 4] = 255
    kernel = LocalAffinity()(image)
    assert kernel.dtype == torch.float32
    assert kernel.isfinite().all()
    torch.testing.assert_close(kernel.sum(1), torch.ones(1, 9, 9))


def test_permuting_the_batch_permutes_the_result():
    refiner = PseudoLabelRefiner(num_iters=2)
    prob, image = two_classes(3, 16, 16, torch.float32), torch.rand(3, 3, 16, 16)
    affinity = torch.rand(3, 16, 16).softmax(-1)
    order = torch.tensor([2, 0, 1])
    whole = refiner(prob, image, affinity, (4, 4)).prob[order]
    torch.testing.assert_close(refiner(prob[order], image[order], affinity[order], (4, 4)).prob, whole)


def reference_restore(y, start, ranged, gated):
    """What a stage hands on: the range of the teacher's map, and its values where it is sure."""
    if ranged:
        y = reference_range(y, start)
    if gated:
        y = y.clone()
        for i in range(y.shape[0]):
            for j in range(y.shape[1]):
                p = float(start[i, j])
                doubt = 1 - abs(2 * p - 1)
                y[i, j] = (1 - doubt) * p + doubt * y[i, j]
    return y


def reference_range(y, start):
    return (y - y.min()) / (y.max() - y.min()) * (start.max() - start.min()) + start.min()


def reference_high(y, affinity, grid):
    """A y of Eq. 11 for an (H, W) map whose side is a multiple of the grid's: the cells' means are averaged."""
    cell = y.shape[0] // grid[0], y.shape[1] // grid[1]
    coarse = torch.zeros(grid, dtype=y.dtype)
    for i in range(grid[0]):
        for j in range(grid[1]):
            block = y[i * cell[0] : (i + 1) * cell[0], j * cell[1] : (j + 1) * cell[1]]
            coarse[i, j] = block.mean()
    mixed = torch.zeros_like(coarse.flatten())
    for i in range(len(mixed)):
        for j in range(len(mixed)):
            mixed[i] += affinity[i, j] * coarse.flatten()[j]
    change = (mixed.view(grid) - coarse)[None, None]
    return (y + F.interpolate(change, size=y.shape, mode='bilinear', align_corners=False)[0, 0]).clamp(0, 1)


@pytest.mark.parametrize(('ranged', 'gated'), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('schedule', ['sequential', 'joint'])
@pytest.mark.parametrize(
    ('low', 'high'),
    [(True, True), *(pytest.param(*one, marks=pytest.mark.slow) for one in [(True, False), (False, True)])],
)
def test_both_schedules_are_those_of_the_loops(schedule, preset, ranged, gated, low, high):
    local = dict(dilations=SMALL, **LocalAffinity.presets[preset])
    refiner = PseudoLabelRefiner(local, schedule, 2, (0.3, 0.7), ranged=ranged, gated=gated, low=low, high=high)
    prob, image = two_classes(2, 8, 6), torch.rand(2, 3, 8, 6, dtype=torch.float64)
    affinity = torch.rand(2, 12, 12, dtype=torch.float64).softmax(-1)
    out = refiner(prob, image, affinity, (4, 3))
    for b in range(2):
        kernel = reference_kernel(image[b], SMALL, *PRESETS[preset])
        # Both classes are carried here, and the simplex is restored at the end.
        y = prob[b]
        if schedule == 'joint':
            for _ in range(2):
                near = reference_step(y, kernel, SMALL) if low else y
                far = [reference_high(c, affinity[b], (4, 3)) if high else c for c in y]
                y = 0.3 * near + 0.7 * torch.stack(far)
                y = y / y.sum(0)
            expected = reference_restore(y[1], prob[b, 1], ranged, gated)
            torch.testing.assert_close(out.stages['joint'][b, 1], expected)
        else:
            if high:
                far = torch.stack([reference_high(c, affinity[b], (4, 3)) for c in y])
                fg = reference_restore((0.3 * y + 0.7 * far)[1], prob[b, 1], ranged, gated)
                torch.testing.assert_close(out.stages['high'][b, 1], fg)
                y = torch.stack([1 - fg, fg])
            if low:
                for _ in range(2):
                    y = reference_step(y, kernel, SMALL)
                fg = reference_restore((y / y.sum(0))[1], prob[b, 1], ranged, gated)
                torch.testing.assert_close(out.stages['low'][b, 1], fg)
            expected = fg
        torch.testing.assert_close(out.prob[b], torch.stack([1 - expected, expected]))


def reference_restore_classes(y, prob, ranged, gated):
    """The same for K foreground maps (K, H, W) of C = K + 1 classes, and all C probabilities of the teacher."""
    labels = prob.argmax(0)
    if ranged:
        stretched = [reference_range(y[c], prob[c + 1]) if (labels == c + 1).any() else y[c] for c in range(len(y))]
        y = torch.stack(stretched)
    y = torch.stack([c / y.sum(0).clamp(min=1) for c in y])
    if gated:
        certain = (len(prob) * prob.amax(0) - 1) / (len(prob) - 1)
        y = certain * prob[1:] + (1 - certain) * y
    return y


@pytest.mark.slow
@pytest.mark.parametrize(('ranged', 'gated'), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize('schedule', ['sequential', 'joint'])
def test_four_classes_are_refined_as_in_the_loops(schedule, ranged, gated):
    refiner = PseudoLabelRefiner(dict(dilations=SMALL), schedule, 2, ranged=ranged, gated=gated, weighted=True)
    logits = 3 * torch.randn(2, 4, 8, 6, dtype=torch.float64)
    logits[:, 2] -= 10  # a class that is nowhere the likeliest
    prob, image = logits.softmax(1), torch.rand(2, 3, 8, 6, dtype=torch.float64)
    affinity = torch.rand(2, 12, 12, dtype=torch.float64).softmax(-1)
    out = refiner(prob, image, affinity, (4, 3))
    torch.testing.assert_close(out.prob.sum(1), torch.ones(2, 8, 6, dtype=torch.float64))
    assert out.prob.min() >= 0
    for b in range(2):
        kernel = reference_kernel(image[b], SMALL, *PRESETS['paper'])
        y = prob[b, 1:]
        if schedule == 'joint':
            for _ in range(2):
                far = torch.stack([reference_high(c, affinity[b], (4, 3)) for c in y])
                y = 0.3 * reference_step(y, kernel, SMALL) + 0.7 * far
            y = reference_restore_classes(y, prob[b], ranged, gated)
        else:
            far = torch.stack([reference_high(c, affinity[b], (4, 3)) for c in y])
            y = reference_restore_classes(0.3 * y + 0.7 * far, prob[b], ranged, gated)
            torch.testing.assert_close(out.stages['high'][b, 1:], y)
            y = reference_step(reference_step(y, kernel, SMALL), kernel, SMALL)
            y = reference_restore_classes(y, prob[b], ranged, gated)
        torch.testing.assert_close(out.prob[b, 1:], y)
        torch.testing.assert_close(out.weight[b], (4 * out.prob[b].amax(0) - 1) / 3)
    torch.testing.assert_close(list(out.stages.values())[-1], out.prob)


def test_stages_are_those_that_ran():
    prob, image = two_classes(1, 8, 8), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    affinity = torch.eye(4, dtype=torch.float64)[None]
    assert list(PseudoLabelRefiner()(prob, image, affinity, (2, 2)).stages) == ['high', 'low']
    assert list(PseudoLabelRefiner(high=False)(prob, image).stages) == ['low']
    nothing = PseudoLabelRefiner(low=False, high=False)(prob)
    assert nothing.stages == {}
    torch.testing.assert_close(nothing.prob, prob)


PLAIN = dict(alphas=(0.0, 1.0), ranged=False, gated=False, low=False)


def test_uniform_affinity_alone_gives_every_cell_the_mean_and_keeps_its_detail():
    """With a2 = 1 and every weight 1 / N, at the grid's own resolution each pixel gets the image's mean."""
    affinity = torch.full((2, 16, 16), 1 / 16, dtype=torch.float64)
    prob = two_classes(2, 4, 4)
    expected = prob.mean((2, 3), keepdim=True).expand_as(prob)
    torch.testing.assert_close(PseudoLabelRefiner(**PLAIN)(prob, None, affinity, (4, 4)).prob, expected)
    # Finer than the grid: two cells of the same mean, one with detail, which stays.
    prob = torch.full((2, 2, 8, 8), 0.5, dtype=torch.float64)
    prob[:, 1, 0, 0], prob[:, 1, 0, 1] = 0.7, 0.3
    prob[:, 0] = 1 - prob[:, 1]
    torch.testing.assert_close(PseudoLabelRefiner(**PLAIN)(prob, None, affinity, (4, 4)).prob, prob)


def test_one_hot_affinity_copies_pixels():
    """At the grid's own resolution, a permutation matrix permutes the pixels."""
    prob = two_classes(1, 4, 4)
    order = torch.randperm(16)
    affinity = torch.eye(16, dtype=torch.float64)[order][None]
    expected = prob.flatten(2)[..., order].view_as(prob)
    torch.testing.assert_close(PseudoLabelRefiner(**PLAIN)(prob, None, affinity, (4, 4)).prob, expected)


def test_the_identity_as_affinity_changes_nothing_at_any_resolution():
    prob = two_classes(2, 16, 16)
    out = PseudoLabelRefiner(low=False)(prob, None, torch.eye(16, dtype=torch.float64).expand(2, -1, -1), (4, 4))
    torch.testing.assert_close(out.prob, prob)


def test_a_sure_teacher_is_not_overruled():
    """With p in {0, 1} nothing moves; with p = 0.5 a pixel moves all the way."""
    prob = (two_classes(1, 16, 16) > 0.5).double()
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(PseudoLabelRefiner(high=False, gated=True)(prob, image).prob, prob)
    prob[:, :, 8, 8] = 0.5
    free = PseudoLabelRefiner(high=False, gated=False)(prob, image).prob
    gated = PseudoLabelRefiner(high=False, gated=True)(prob, image).prob
    assert free[0, 1, 8, 8] != 0.5
    torch.testing.assert_close(gated[..., 8, 8], free[..., 8, 8])
    gated[..., 8, 8] = prob[..., 8, 8]
    torch.testing.assert_close(gated, prob)


def test_what_refinement_left_in_doubt_weighs_little():
    torch.manual_seed(0)
    prob, image = (
        torch.rand(2, 2, 12, 12, dtype=torch.double).softmax(1),
        torch.rand(2, 3, 12, 12, dtype=torch.double),
    )
    refine = PseudoLabelRefiner(local=dict(dilations=SMALL), num_iters=2, high=False)
    plain = refine(prob, image)
    refine.weighted = True
    found = refine(prob, image)
    assert plain.weight is None and torch.equal(found.prob, plain.prob)
    torch.testing.assert_close(found.weight, 2 * found.prob.amax(1) - 1)
    assert found.weight.min() < 0.1 < found.weight.max() <= 1
    refine.low = False
    assert refine(prob, image).weight is None, 'labels that nothing refines count alike'


def test_uniform_image_averages_over_neighbours():
    """Without the distance term, a uniform image makes a step the plain mean of 48 neighbours."""
    local = LocalAffinity(w3=0.0)
    prob = two_classes(1, 12, 12)
    kernel = local(torch.full((1, 3, 12, 12), 0.7, dtype=torch.float64))
    edge = F.pad(prob, [24] * 4, mode='replicate')
    expected = sum(edge[..., 24 + dy :, 24 + dx :][..., :12, :12] for dy, dx in local.offsets) / 48
    torch.testing.assert_close(local.propagate(prob, kernel, 1), expected)


def test_ranging_keeps_a_small_polyp():
    """Plain averaging takes a polyp of one cell below one half; its range brings it back."""
    prob = torch.zeros(1, 2, 16, 16)
    prob[:, 1, :4, :4] = 0.9
    prob[:, 0] = 1 - prob[:, 1]
    affinity = (torch.eye(16) + 0.1).div(2.6)[None]
    plain = PseudoLabelRefiner(low=False, ranged=False, gated=False)(prob, None, affinity, (4, 4)).prob[:, 1]
    ranged = PseudoLabelRefiner(low=False, gated=False)(prob, None, affinity, (4, 4)).prob[:, 1]
    assert plain.max() < 0.8
    assert ranged.max() == pytest.approx(0.9)
    assert ranged.min() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize('schedule', ['sequential', 'joint'])
@pytest.mark.parametrize('p_fg', [0.0, 1.0, 0.3])
def test_one_class_labels_stay_as_they_are(schedule, p_fg):
    prob = torch.empty(1, 2, 16, 16)
    prob[:, 0], prob[:, 1] = 1 - p_fg, p_fg
    affinity = torch.rand(1, 16, 16).softmax(-1)
    image = torch.rand(1, 3, 16, 16)
    out = PseudoLabelRefiner(schedule=schedule)(prob, image, affinity, (4, 4))
    torch.testing.assert_close(out.prob, prob)


def test_ranges_are_taken_over_valid_pixels():
    prob = two_classes(1, 8, 8)
    prob[0, :, :, 4:] = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1)
    prob[0, 1, :, :4] *= 0.5
    prob[0, 0] = 1 - prob[0, 1]
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[..., 4:] = False
    affinity = torch.rand(1, 16, 16, dtype=torch.float64).softmax(-1)
    out = PseudoLabelRefiner(low=False, gated=False)(prob, None, affinity, (4, 4), valid).prob[0, 1]
    assert out[valid[0]].max() == pytest.approx(prob[0, 1][valid[0]].max().item())
    assert out[valid[0]].min() == pytest.approx(prob[0, 1][valid[0]].min().item())
    nowhere = PseudoLabelRefiner(low=False)(prob, None, affinity, (4, 4), ~valid & valid)
    assert nowhere.prob.isfinite().all()


def test_half_precision_input_and_autocast():
    prob, image = two_classes(1, 16, 16, torch.float32), torch.rand(1, 3, 16, 16)
    affinity = torch.rand(1, 16, 16).softmax(-1)
    refiner = PseudoLabelRefiner()
    full = refiner(prob, image, affinity, (4, 4)).prob
    with torch.autocast('cpu', dtype=torch.bfloat16):
        torch.testing.assert_close(refiner(prob, image, affinity, (4, 4)).prob, full)
        out = refiner(prob.bfloat16(), image.bfloat16(), affinity.bfloat16(), (4, 4)).prob
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    torch.testing.assert_close(out, full, atol=0.05, rtol=0)


def test_no_gradient_flows():
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    prob = two_classes(1, 8, 8, torch.float32).requires_grad_()
    out = PseudoLabelRefiner(high=False)(prob, image)
    assert not out.prob.requires_grad


def test_built_from_the_registry():
    local = MODELS.build(dict(type='LocalAffinity', w3=0.3))
    assert local.row_sum == 1
    refiner = MODELS.build(dict(type='PseudoLabelRefiner', local='released', schedule='joint'))
    assert refiner.local.row_sum == pytest.approx(1.01)
    assert not refiner.state_dict()


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: LocalAffinity(dilations=(0, 1)), r'dilations are \(0, 1\)'),
        (lambda: LocalAffinity(dilations=()), 'at least one'),
        (lambda: LocalAffinity(w1=0), 'w1 and w2 must be above 0'),
        (lambda: LocalAffinity.from_preset('printed'), "'printed'; allowed"),
        (lambda: PseudoLabelRefiner(schedule='both'), "'both'; allowed"),
        (lambda: PseudoLabelRefiner(num_iters=0), 'num_iters is 0'),
        (lambda: PseudoLabelRefiner(alphas=(0.5, 0.7)), 'sum to 1'),
        (lambda: PseudoLabelRefiner()(torch.rand(1, 1, 8, 8)), 'at least one foreground class'),
        (lambda: PseudoLabelRefiner(high=False)(torch.rand(1, 2, 8, 8)), 'image has shape None'),
        (
            lambda: PseudoLabelRefiner(high=False)(torch.rand(1, 2, 8, 8), torch.rand(1, 3, 4, 4)),
            'size of prob',
        ),
        (
            lambda: PseudoLabelRefiner(low=False)(torch.rand(1, 2, 8, 8), None, torch.rand(1, 9, 9), (2, 2)),
            r'affinity has shape \(1, 9, 9\) and grid is \(2, 2\)',
        ),
        (
            lambda: LocalAffinity().propagate(torch.rand(1, 2, 8, 8), torch.rand(1, 24, 8, 8), 1),
            'this map needs',
        ),
    ],
)
def test_errors_say_what_is_allowed(build, message):
    with pytest.raises(ValueError, match=message):
        build()
