"""S-measure, weighted F-measure and E-measure against loops over pixels that follow the papers."""

import math

import numpy as np
import pytest

from mmseg_acl.evaluation.structure import enhanced_alignment, structure_measure, weighted_f

MASKS = {
    'half': lambda rows, columns: columns < 5,
    'corner': lambda rows, columns: (rows < 4) & (columns < 3),
    'pixel': lambda rows, columns: (rows == 2) & (columns == 6),
    'last pixel': lambda rows, columns: (rows == 8) & (columns == 10),
}


@pytest.fixture(params=MASKS)
def pair(request):
    mask = MASKS[request.param](*np.mgrid[:9, :11])
    return np.random.default_rng(0).random(mask.shape), mask


def mean(values):
    return sum(values) / len(values)


def test_e_measure_is_that_of_each_pixel(pair):
    values, mask = pair
    for threshold in (0.0, 0.3, 0.9, 2.0):
        binary = values >= threshold
        terms = []
        for p, m in zip(binary.ravel().astype(float), mask.ravel().astype(float), strict=True):
            a, b = p - binary.mean(), m - mask.mean()
            terms.append((1 + 2 * a * b / (a * a + b * b)) ** 2 / 4)
        found = enhanced_alignment((binary & mask).sum(), binary.sum(), mask.sum(), mask.size)
        assert found == pytest.approx(sum(terms) / (mask.size - 1), abs=1e-12)


def block_similarity(pairs):
    x, y = mean([a for a, _ in pairs]), mean([b for _, b in pairs])
    n = max(len(pairs) - 1, 1)
    var_x, var_y = (sum((pair[i] - m) ** 2 for pair in pairs) / n for i, m in ((0, x), (1, y)))
    both = sum((a - x) * (b - y) for a, b in pairs) / n
    if 4 * x * y * both == 0:
        return 1.0 if (x * x + y * y) * (var_x + var_y) == 0 else 0.0
    return 4 * x * y * both / ((x * x + y * y) * (var_x + var_y))


def test_s_measure_is_that_of_object_and_four_blocks(pair):
    values, mask = pair
    height, width = mask.shape
    objects = 0.0
    for inside in (True, False):
        kept = [v if inside else 1 - v for v, m in zip(values.ravel(), mask.ravel(), strict=True) if m == inside]
        m = mean(kept)
        spread = math.sqrt(sum((v - m) ** 2 for v in kept) / (len(kept) - 1)) if len(kept) > 1 else 0.0
        objects += 2 * m / (m * m + 1 + spread) * len(kept) / mask.size
    places = [(r, c) for r in range(height) for c in range(width)]
    row, column = (round(mean([place[i] for place in places if mask[place]])) for i in (0, 1))
    regions = 0.0
    for below in (False, True):
        for right in (False, True):
            block = [(r, c) for r, c in places if (r > row) == below and (c > column) == right]
            if block:
                pairs = [(values[place], float(mask[place])) for place in block]
                regions += block_similarity(pairs) * len(block) / mask.size
    assert structure_measure(values, mask) == pytest.approx(max(0, (objects + regions) / 2), abs=1e-12)


def test_weighted_f_measure_looks_at_neighbours_and_distance(pair):
    values, mask = pair
    height, width = mask.shape
    error = np.abs(values - mask)
    objects = [(r, c) for r in range(height) for c in range(width) if mask[r, c]]
    nearest = {
        (r, c): min((math.hypot(r - y, c - x), (y, x)) for y, x in objects)
        for r in range(height)
        for c in range(width)
    }
    bell = {(y, x): math.exp(-(y * y + x * x) / 50) for y in range(-3, 4) for x in range(-3, 4)}
    hits, misses, false = 0.0, [], 0.0
    for (r, c), (distance, _) in nearest.items():
        if mask[r, c]:
            seen = {(r + y, c + x): weight for (y, x), weight in bell.items() if (r + y, c + x) in nearest}
            around = sum(weight * error[nearest[place][1]] for place, weight in seen.items())
            misses.append(min(error[r, c], around / sum(bell.values())))
            hits += 1 - misses[-1]
        else:
            false += error[r, c] * (2 - math.exp(math.log(0.5) / 5 * distance))
    recall, precision = 1 - mean(misses), hits / (hits + false)
    assert weighted_f(values, mask) == pytest.approx(2 * recall * precision / (recall + precision), abs=1e-12)


def test_without_an_object_and_with_nothing_else():
    values = np.random.default_rng(1).random((6, 7))
    empty, full = np.zeros((6, 7), bool), np.ones((6, 7), bool)
    assert structure_measure(values, empty) == pytest.approx(1 - values.mean())
    assert structure_measure(values, full) == pytest.approx(values.mean())
    assert weighted_f(values, empty) == 0 and 0 < weighted_f(values, full) < 1
    assert enhanced_alignment(np.array([0, 0]), np.array([0, 42]), 0, 42) == pytest.approx([42 / 41, 0])
    assert enhanced_alignment(np.array([0, 42]), np.array([0, 42]), 42, 42) == pytest.approx([0, 42 / 41])


@pytest.mark.parametrize('name', MASKS)
def test_the_mask_itself_is_perfect(name):
    mask = MASKS[name](*np.mgrid[:9, :11])
    assert structure_measure(mask.astype(float), mask) == pytest.approx(1)
    assert weighted_f(mask.astype(float), mask) == pytest.approx(1)
