"""AffinityHead, ACLHead and CAAHead against loops written from the paper (Eqs 1 to 8)."""

import math
from copy import deepcopy

import pytest
import torch
from mmseg.registry import MODELS
from torch import nn
from torch.autograd import gradcheck

from mmseg_acl.models.heads.acl_head import ACLHead, Regions, filtered_rows
from mmseg_acl.models.heads.affinity_head import Affinity, AffinityHead
from mmseg_acl.models.heads.caa_head import CAAHead
from mmseg_acl.models.semi.memory_bank import MemoryBank


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def length(v, floor=0.0):
    """Smoothed at zero, as :func:`~mmseg_acl.models.semi.contrast.unit` has it, and not below the floor."""
    return max(math.sqrt(v @ v + 1e-8), floor)


def cosine(a, b, floors=(0.0, 0.0)):
    return float(a @ b) / (length(a, floors[0]) * length(b, floors[1]))


def floor_of(vectors):
    """A quarter of the lower quartile of lengths, but for those under a hundredth of the mean."""
    lengths = [math.sqrt(v @ v) for v in vectors]
    counted = sorted(value for value in lengths if value > 0.01 * sum(lengths) / len(lengths))
    return 0.25 * counted[len(counted) // 4]


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def perturb(module):
    """Move every parameter from where it starts, so that all of them take part."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double()


def affinities(batch=2, pixels=9, dim=4, dtype=torch.float64):
    """A student's and a teacher's affinity of no particular origin."""
    maps = torch.randn(2, batch, pixels, pixels, dtype=dtype)
    maps = (maps + maps.transpose(2, 3)).sigmoid()
    vectors = torch.randn(2, batch, pixels, dim, dtype=dtype)
    vectors = vectors - vectors.mean(2, keepdim=True)
    return Affinity(maps[0], vectors[0]), Affinity(maps[1], vectors[1])


# Eq. 1


@pytest.mark.parametrize('num_heads', [1, 2])
@pytest.mark.parametrize('vectors', ['features', 'rows'])
def test_affinity_is_that_of_the_loops(num_heads, vectors):
    head = perturb(AffinityHead(6, channels=4, num_heads=num_heads, vectors=vectors))
    head.requires_grad_(False)
    features = torch.randn(2, 6, 2, 3, dtype=torch.float64)
    affinity = head(features)
    width = 4 // num_heads
    queries, keys = [], []
    for feature in features:
        x = feature.flatten(1).T @ head.reduce.weight[:, :, 0, 0].T
        queries.append((x - x.mean(0)) @ head.query.weight.T)
        keys.append((x - x.mean(0)) @ head.key.weight.T)
    floor = floor_of(v for image in queries + keys for row in image for v in row.split(width))
    for b, (query, key) in enumerate(zip(queries, keys, strict=True)):
        x = features[b].flatten(1).T @ head.reduce.weight[:, :, 0, 0].T
        logits = torch.zeros(num_heads, 6, 6, dtype=torch.float64)
        for m in range(num_heads):
            part = slice(m * width, (m + 1) * width)
            for i in range(6):
                for j in range(6):
                    angle = cosine(query[i, part], key[j, part], (floor, floor))
                    logits[m, i, j] = head.scale[m].item() * angle
        expected = torch.zeros(6, 6, dtype=torch.float64)
        for i in range(6):
            for j in range(6):
                total = head.combine.bias.item()
                for m in range(num_heads):
                    weight = head.combine.weight[0, m].item()
                    total += weight * (logits[m, i, j] + logits[m, j, i]).item()
                expected[i, j] = 1 / (1 + math.exp(-total))
        torch.testing.assert_close(affinity.map[b], expected)

        if vectors == 'features':
            value = x @ head.value.weight.T
            context = torch.zeros(6, 4, dtype=torch.float64)
            for m in range(num_heads):
                part = slice(m * width, (m + 1) * width)
                for i in range(6):
                    for j, weight in enumerate(softmax(logits[m, i].tolist())):
                        context[i, part] += weight * value[j, part]
            z = x + context @ head.out.weight.T
        else:
            z = expected
        torch.testing.assert_close(affinity.vectors[b], z - z.mean(0))


@pytest.mark.slow
@pytest.mark.parametrize('vectors', ['features', 'rows'])
def test_affinity_gradients(vectors):
    head = perturb(AffinityHead(5, channels=4, num_heads=2, vectors=vectors))
    head.floor.share = 0.0  # what short vectors do not teach is tested in test_stability.py
    features = torch.randn(2, 5, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = list(head.parameters())
    assert gradcheck(lambda x, *_: head(x), (features, *parameters))
    sum(part.square().sum() for part in head(features)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in parameters)


def test_map_is_symmetric_and_between_zero_and_one():
    head = AffinityHead(24, channels=16, num_heads=4)
    affinity = head(torch.randn(2, 24, 7, 9))
    assert affinity.map.shape == (2, 63, 63)
    torch.testing.assert_close(affinity.map, affinity.map.transpose(1, 2))
    assert 0 < affinity.map.min() < affinity.map.max() < 1
    assert affinity.vectors.mean(1).abs().max() < 1e-5
    assert head.dim == affinity.vectors.shape[2] == 16


def test_affinity_is_meaningful_before_training():
    """Two regions of noisy features: pairs within a region are close to 1, across close to 0."""
    region = torch.zeros(8, 8)
    region[2:6, 2:6] = 1
    prototypes = torch.randn(2, 64)
    features = prototypes[region.long()].permute(2, 0, 1)[None] + 0.3 * torch.randn(1, 64, 8, 8)
    head = AffinityHead(64, channels=32)
    affinity = head(features).map[0]
    same = region.flatten()[:, None] == region.flatten()
    assert affinity[same].mean() > 0.9
    assert affinity[~same].mean() < 0.1


def test_start_keeps_the_geometry():
    """Reduction and projections start with orthonormal rows, the residual block as identity."""
    head = AffinityHead(40, channels=10, num_heads=2)
    reduce = head.reduce.weight.flatten(1)
    torch.testing.assert_close(reduce @ reduce.T, torch.eye(10), atol=1e-5, rtol=0)
    assert torch.equal(head.query.weight, head.key.weight)
    narrow = AffinityHead(8, channels=128)
    features = torch.randn(1, 8, 3, 3)
    x = features.flatten(2).transpose(1, 2)
    assert narrow.dim == 8
    torch.testing.assert_close(narrow(features).vectors, x - x.mean(1, keepdim=True))


def test_padding_does_not_reach_valid_pixels():
    """What stands in the padding changes nothing of the rows and columns of valid pixels."""
    head = perturb(AffinityHead(4, channels=4))
    features = torch.randn(1, 4, 3, 4, dtype=torch.float64)
    valid = torch.ones(1, 3, 4, dtype=torch.bool)
    valid[..., 2:] = False
    other = torch.where(valid[:, None], features, torch.randn_like(features))
    valid = valid.flatten(1)
    one, two = head(features, valid), head(other, valid)
    keep = valid[0]
    torch.testing.assert_close(one.map[0][keep][:, keep], two.map[0][keep][:, keep])
    torch.testing.assert_close(one.vectors[0][keep], two.vectors[0][keep])
    assert head(features, torch.zeros_like(valid)).vectors.isfinite().all()


# Eq. 2


def two(p_fg):
    """Probabilities (B, N, 2) from those of the foreground."""
    return torch.stack([1 - p_fg, p_fg], dim=-1)


def reference_regions(student, teacher, prob, beta):
    """One image with (N, C) probabilities: scores of the foreground classes and regions, pixel by pixel."""
    affinity = ((student + teacher) / 2).tolist()
    prob = prob.tolist()
    count, classes = len(prob), len(prob[0])
    likeliest = [row.index(max(row)) for row in prob]
    scores = [[] for _ in range(count)]
    for c in range(1, classes):
        raw = [sum(a * p[c] for a, p in zip(row, prob, strict=True)) / sum(row) for row in affinity]
        if classes == 2 or c in likeliest:
            raw = [(value - min(raw)) / (max(raw) - min(raw)) for value in raw]
        for i in range(count):
            scores[i].append(raw[i])
    regions = []
    for score in scores:
        if max(score) >= beta[1]:
            regions.append(1 + score.index(max(score)))
        else:
            regions.append(0 if max(score) <= beta[0] else -1)
    return scores, regions


def reference_label(score):
    return 1 + score.index(max(score)) if max(score) > 0.5 else 0


def reference_filter(affinity, regions):
    rows = []
    for i in range(len(affinity)):
        cut = [-1 not in (regions[i], other) and regions[i] != other for other in regions]
        row = [0.0 if cut[j] else float(affinity[i, j]) for j in range(len(affinity))]
        rows.append([value / sum(row) for value in row])
    return torch.tensor(rows, dtype=torch.float64)


def probabilities(images, pixels, classes):
    """Random ones in which every class but the last, of four, is somewhere the likeliest."""
    logits = 3 * torch.randn(images, pixels, classes, dtype=torch.float64)
    if classes == 4:
        logits[..., -1] -= 20
    return logits.softmax(-1)


def filtered_maps(affinity, regions, valid):
    """All rows of all images."""
    rows = torch.arange(affinity.shape[-1])
    return torch.stack([filtered_rows(*image, rows) for image in zip(affinity, regions.region, valid, strict=True)])


@pytest.mark.parametrize('classes', [2, 4])
def test_regions_filter_and_queries_are_those_of_the_loops(classes):
    student, teacher = affinities(pixels=16)
    prob = probabilities(2, 16, classes)
    head = ACLHead(dim=4, num_classes=classes)
    found = head.regions(student.map, teacher.map, prob)
    mean = (student.map + teacher.map) / 2
    every = torch.ones(2, 16, dtype=torch.bool)
    filtered = filtered_maps(mean, found, every)
    queries, keys = head.queries_keys(student, teacher, found, torch.arange(32))
    for b in range(2):
        scores, regions = reference_regions(student.map[b], teacher.map[b], prob[b], (0.45, 0.75))
        assert {0, 1} <= set(regions)
        torch.testing.assert_close(found.score[b], torch.tensor(scores, dtype=torch.float64))
        assert found.region[b].tolist() == regions
        assert found.label[b].tolist() == [reference_label(score) for score in scores]
        expected = reference_filter(mean[b], regions)
        torch.testing.assert_close(filtered[b], expected)
        rows = slice(16 * b, 16 * b + 16)
        torch.testing.assert_close(queries[rows], expected @ student.vectors[b])
        torch.testing.assert_close(keys[rows], expected @ teacher.vectors[b])
    torch.testing.assert_close(filtered.sum(-1), torch.ones(2, 16, dtype=torch.float64))
    some = torch.tensor([0, 3, 8, 15, 16, 31])
    for few, all_ in zip(head.queries_keys(student, teacher, found, some), (queries, keys), strict=True):
        torch.testing.assert_close(few, all_[some])


def test_a_class_that_the_teacher_sees_nowhere_is_reliable_nowhere():
    """Stretched, it would be at its best spot."""
    student, teacher = affinities(pixels=25)
    prob = probabilities(2, 25, 4)
    head = ACLHead(dim=4, num_classes=4)
    assert not (head.regions(student.map, teacher.map, prob).region == 3).any()
    padded = torch.ones(2, 25, dtype=torch.bool)
    padded[:, -1] = False
    prob[:, -1] = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)  # seen on padding alone
    assert not (head.regions(student.map, teacher.map, prob, padded).region == 3).any()
    assert (head.regions(student.map, teacher.map, prob).region == 3).any()


def test_queries_carry_gradients_and_keys_do_not():
    student, teacher = affinities(batch=1, pixels=4, dim=3)
    head = ACLHead(dim=3)
    regions = head.regions(student.map, teacher.map, two(torch.rand(1, 4, dtype=torch.float64)))
    inputs = [tensor.requires_grad_() for tensor in (*student, *teacher)]
    queries, keys = head.queries_keys(Affinity(*inputs[:2]), Affinity(*inputs[2:]), regions, torch.arange(4))
    assert queries.requires_grad and not keys.requires_grad

    def loss(map_, vectors):
        return head.queries_keys(Affinity(map_, vectors), teacher.detach(), regions, torch.arange(4))[0]

    assert gradcheck(loss, inputs[:2])
    queries.sum().backward()
    assert inputs[2].grad is None and inputs[3].grad is None


def test_score_is_stretched_whatever_the_teacher_sees():
    """A teacher that is sure of no pixel still shows where a polyp would be likeliest."""
    student, teacher = affinities()
    p_fg = 0.02 + 0.01 * torch.rand(2, 9, dtype=torch.float64)
    regions = ACLHead(dim=4).regions(student.map, teacher.map, two(p_fg))
    for b in range(2):
        expected = reference_regions(student.map[b], teacher.map[b], two(p_fg)[b], (0.45, 0.75))[0]
        torch.testing.assert_close(regions.score[b], torch.tensor(expected, dtype=torch.float64))
        assert regions.score[b].min() == 0 and regions.score[b].max() == 1


@pytest.mark.parametrize(('p_fg', 'region'), [(0.0, 0), (1.0, 1)])
def test_a_flat_score_is_not_stretched(p_fg, region):
    student, teacher = affinities()
    p_fg = torch.full((2, 9), p_fg, dtype=torch.float64)
    regions = ACLHead(dim=4).regions(student.map, teacher.map, two(p_fg))
    torch.testing.assert_close(regions.score[..., 0], p_fg)
    assert (regions.region == region).all() and regions.reliable.all()


def test_padding_is_never_reliable_and_never_looked_at():
    student, teacher = affinities()
    p_fg = torch.rand(2, 9, dtype=torch.float64)
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[:, 6:] = False
    head = ACLHead(dim=4)
    regions = head.regions(student.map, teacher.map, two(p_fg), valid)
    assert not regions.reliable[:, 6:].any()
    inner = [part.map[:, :6, :6] for part in (student, teacher)]
    alone = head.regions(*inner, two(p_fg[:, :6]))
    torch.testing.assert_close(regions.score[:, :6], alone.score)
    assert filtered_maps(student.map, regions, valid)[:, :, 6:].abs().max() == 0
    nothing = head.regions(student.map, teacher.map, two(p_fg), torch.zeros_like(valid))
    assert nothing.score.isfinite().all() and not nothing.reliable.any()


# Eqs 3 to 6


@pytest.mark.parametrize('classes', [2, 4])
def test_loss_is_that_of_the_loops(classes):
    """With room for every reliable pixel as an anchor, nothing is left to chance; a class without keys has no say."""
    student, teacher = affinities(pixels=16)
    prob = probabilities(2, 16, classes)
    head = ACLHead(dim=4, num_classes=classes, bank_size=64, min_keys=2, num_anchors=100, tau=0.5).double()
    stored = torch.randn(7, 4, dtype=torch.float64)
    stored_labels = torch.tensor([0, 1, 1, 0, 0, 1, 0])
    head.bank.enqueue(stored, stored_labels)
    anchors = []
    for b in range(2):
        scores, regions = reference_regions(student.map[b], teacher.map[b], prob[b], head.beta)
        mean = (student.map[b] + teacher.map[b]) / 2
        filtered = reference_filter(mean, regions)
        queries, keys = filtered @ student.vectors[b], filtered @ teacher.vectors[b]
        reliable = [i for i in range(16) if regions[i] >= 0]
        anchors += [(queries[i], keys[i], reference_label(scores[i])) for i in reliable]
    floor, least = (floor_of([anchor[part] for anchor in anchors]) for part in (0, 1))
    kept = [(key, label) for _, key, label in anchors if length(key) > least]
    bank = [*zip(stored, stored_labels.tolist(), strict=True), *kept]
    fill = [sum(label == c for _, label in bank) for c in range(classes)]
    losses = []
    for query, key, label in anchors:
        if fill[label] < 2 or sum(fill) - fill[label] < 2:
            continue
        positive = math.exp(cosine(query, key, (floor, 0)) / 0.5)
        negative = sum(math.exp(cosine(query, other, (floor, 0)) / 0.5) for other, its in bank if its != label)
        losses.append(-math.log(positive / (positive + negative)))
    out = head(student, teacher, prob)
    assert out['loss_contrast'].item() == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert out['reliable_share'].item() == pytest.approx(len(anchors) / 32)
    assert head.bank.fill.tolist() == fill and (fill[-1] == 0) == (classes == 4)


def test_a_class_joins_when_it_and_the_others_have_keys():
    """The ring of a class that never occurs stays empty and keeps nobody waiting."""
    head = ACLHead(dim=4, num_classes=4, bank_size=64, min_keys=6)
    for count, label, ready in [
        (6, 1, [False, False, False, False]),  # no others to be told from
        (3, 0, [False, False, False, False]),
        (3, 2, [False, True, False, False]),  # too few themselves, enough together
        (3, 0, [True, True, False, False]),
        (3, 2, [True, True, True, False]),
    ]:
        head.bank.enqueue(torch.randn(count, 4), torch.full((count,), label))
        assert head._ready() == ready


@pytest.mark.slow
def test_loss_gradients():
    """To the student's vectors; keys are constants though the student's map is part of them."""
    student, teacher = affinities()
    p_fg = torch.rand(2, 9, dtype=torch.float64)
    head = ACLHead(dim=4, bank_size=16, min_keys=1, num_anchors=100).double()
    head.query_floor.share = head.key_floor.share = 0.0
    head.bank.enqueue(torch.randn(6, 4), torch.arange(6) % 2)

    def loss(vectors):
        return deepcopy(head)(Affinity(student.map, vectors), teacher, two(p_fg))['loss_contrast']

    assert gradcheck(loss, student.vectors.requires_grad_())


def test_anchors_keys_and_labels():
    """At most num_anchors a class are drawn, from reliable pixels, and stored with their label."""
    student, teacher = affinities(batch=3, pixels=25)
    p_fg = torch.rand(3, 25, dtype=torch.float64)
    head = ACLHead(dim=4, bank_size=64, min_keys=1, num_anchors=5).double()
    regions = head.regions(student.map, teacher.map, two(p_fg))
    masks = [regions.region == label for label in (0, 1)]
    assert all(mask.sum() > 5 for mask in masks)
    _, keys = head.queries_keys(student, teacher, regions, torch.arange(75))
    keys = keys / keys.norm(dim=1, keepdim=True)
    head(student, teacher, two(p_fg))
    assert head.bank.fill.tolist() == [5, 5]
    for label, mask in enumerate(masks):
        similarity = head.bank.ring(label) @ keys[mask.flatten()].T
        assert similarity.max(1).values.min() > 1 - 1e-5


def test_no_loss_before_the_rings_are_filled():
    student, teacher = affinities(pixels=25, dtype=torch.float32)
    student = Affinity(*(tensor.requires_grad_() for tensor in student))
    p_fg = torch.rand(2, 25)
    head = ACLHead(dim=4, bank_size=64, min_keys=6, num_anchors=4)
    losses = []
    for _ in range(3):
        out = head(student, teacher, two(p_fg))
        losses.append(out['loss_contrast'].item())
        grads = torch.autograd.grad(out['loss_contrast'], list(student))
        assert all((grad == 0).all() for grad in grads) == (losses[-1] == 0)
    assert losses[0] == 0
    assert min(losses[1:]) > 0
    assert out['positive_cosine'] != 0


def test_loss_reaches_every_parameter_of_the_student():
    network = AffinityHead(12, channels=6, num_heads=2)
    nn.init.normal_(network.out.weight, std=0.1)
    features = torch.randn(2, 12, 5, 5, requires_grad=True)
    with torch.no_grad():
        teacher = network(features)
    head = ACLHead(dim=6, bank_size=64, min_keys=1, num_anchors=16)
    p_fg = torch.rand(2, 25)
    head(network(features), teacher, two(p_fg))
    head(network(features + torch.randn_like(features)), teacher, two(p_fg))['loss_contrast'].backward()
    assert features.grad.abs().sum() > 0
    for name, parameter in network.named_parameters():
        if name != 'combine.bias':
            assert parameter.grad.abs().sum() > 0, name


def test_same_seed_same_step():
    student, teacher = affinities(pixels=25)
    p_fg = torch.rand(2, 25, dtype=torch.float64)
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        head = ACLHead(dim=4, bank_size=8, min_keys=1, num_anchors=3).double()
        losses = [head(student, teacher, two(p_fg))['loss_contrast'].item() for _ in range(3)]
        states.append((losses, head.bank.keys.clone()))
    assert states[0][0] == states[1][0]
    assert torch.equal(states[0][1], states[1][1])


def test_permuting_the_batch_permutes_the_result():
    student, teacher = affinities(batch=3)
    p_fg = torch.rand(3, 9, dtype=torch.float64)
    order = torch.tensor([2, 0, 1])
    head, caa = ACLHead(dim=4), CAAHead(dim=4)
    whole = head.regions(student.map, teacher.map, two(p_fg))
    part = head.regions(student.map[order], teacher.map[order], two(p_fg[order]))
    for one, other in zip(whole, part, strict=True):
        torch.testing.assert_close(one[order], other)
    aggregated = caa(student, teacher)
    shuffled = [Affinity(whole.map[order], whole.vectors[order]) for whole in (student, teacher)]
    torch.testing.assert_close(aggregated[order], caa(*shuffled))
    network = AffinityHead(4, channels=4)
    features = torch.randn(3, 4, 3, 3)
    for one, other in zip(network(features), network(features[order]), strict=True):
        torch.testing.assert_close(one[order], other)


# Eqs 7 and 8


def with_clusters(head, dim, count):
    clusters = torch.randn(count, dim, dtype=torch.float64)
    head.double().clusters.copy_(clusters / clusters.norm(dim=1, keepdim=True))
    head.has_clusters.fill_(True)
    return head


def normalised(row):
    return [value / sum(row) for value in row]


def reference_caa(student, teacher, vectors, clusters, tau):
    """Eqs 7 and 8 for one image: maps (N, N) of both networks, vectors (N, d) of the student; no clusters, no S."""
    pixels = range(len(student))
    rows = [normalised([student[i, j].item() + teacher[i, j].item() for j in pixels]) for i in pixels]
    if clusters is None:
        return None, torch.tensor(rows, dtype=torch.float64)
    shares = [softmax([cosine(z, h) / tau for h in clusters]) for z in vectors]
    across = [
        normalised([sum(a * b for a, b in zip(shares[i], shares[j], strict=True)) for j in pixels]) for i in pixels
    ]
    joined = [[(a + b) / 2 for a, b in zip(rows[i], across[i], strict=True)] for i in pixels]
    return tuple(torch.tensor(table, dtype=torch.float64) for table in (shares, joined))


def test_aggregation_is_that_of_the_loops():
    student, teacher = affinities()
    head = with_clusters(CAAHead(dim=4, num_clusters=3, tau=0.4), 4, 3)
    assignment = head.assign(student.vectors)
    aggregated = head(student, teacher)
    for b in range(2):
        expected = reference_caa(student.map[b], teacher.map[b], student.vectors[b], head.clusters, 0.4)
        torch.testing.assert_close(assignment[b], expected[0])
        torch.testing.assert_close(aggregated[b], expected[1])
    ones = torch.ones(2, 9, dtype=torch.float64)
    torch.testing.assert_close(assignment.sum(-1), ones)
    torch.testing.assert_close(aggregated.sum(-1), ones)


def test_without_clusters_the_maps_stand_alone():
    student, teacher = affinities()
    aggregated = CAAHead(dim=4)(student, teacher)
    for b in range(2):
        torch.testing.assert_close(aggregated[b], reference_caa(student.map[b], teacher.map[b], None, None, None)[1])


def test_pixels_of_the_same_clusters_are_drawn_together():
    """Two pixels that their image tells nothing of, but that other images put into one cluster."""
    clusters = torch.eye(4, dtype=torch.float64)[:2]
    vectors = clusters[torch.tensor([0, 1, 0])][None]
    flat = Affinity(torch.full((1, 3, 3), 0.5, dtype=torch.float64), vectors)
    head = CAAHead(dim=4, num_clusters=2, tau=0.1).double()
    assert torch.allclose(head(flat, flat), torch.full((1, 3, 3), 1 / 3, dtype=torch.float64))
    head.clusters.copy_(clusters)
    head.has_clusters.fill_(True)
    first = head(flat, flat)[0, 0]
    assert first[2] == first[0] > first[1]


def test_no_row_looks_at_padding():
    student, teacher = affinities()
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[:, 5:] = False
    head = with_clusters(CAAHead(dim=4, num_clusters=3), 4, 3)
    aggregated = head(student, teacher, valid)
    assert aggregated[:, :, 5:].abs().max() == 0
    inner = [Affinity(whole.map[:, :5, :5], whole.vectors[:, :5]) for whole in (student, teacher)]
    torch.testing.assert_close(aggregated[:, :5, :5], head(*inner))
    assert head(student, teacher, ~valid & valid).isfinite().all()


def test_clusters_follow_the_bank():
    bank = MemoryBank(num_classes=2, size=64, dim=6)
    head = CAAHead(dim=6, num_clusters=3, interval=10)
    assert not head.update(bank, 0)
    bank.enqueue(torch.eye(6)[[0, 0, 0, 1, 1]], torch.zeros(5, dtype=torch.long))
    assert not head.update(bank, 10), 'one class alone'
    bank.enqueue(torch.eye(6)[[2, 2]], torch.ones(2, dtype=torch.long))
    assert not head.update(bank, 11)
    assert head.update(bank, 20)
    assert sorted(head.clusters.argmax(1).tolist()) == [0, 1, 2]
    torch.testing.assert_close(head.clusters.norm(dim=1), torch.ones(3))
    before = head.clusters.clone()
    assert head.update(bank, 30)
    torch.testing.assert_close(head.clusters, before)
    other = CAAHead(dim=6, num_clusters=3)
    other.load_state_dict(head.state_dict())
    assert other.has_clusters
    assert torch.equal(other.clusters, head.clusters)


def test_aggregation_carries_no_gradient():
    student, teacher = affinities()
    assert not CAAHead(dim=4)(Affinity(student.map.requires_grad_(), student.vectors), teacher).requires_grad


# What must never give NaN


@pytest.mark.parametrize('vectors', ['features', 'rows'])
@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('content', ['noise', 'constant', 'zero'])
@pytest.mark.parametrize('p_fg', ['mixed', 'zero', 'one', 'half'])
def test_everything_is_finite(vectors, autocast, content, p_fg):
    """A batch of one, forward and backward, over two steps with clusters in between."""
    network = AffinityHead(8, channels=6, num_heads=2, vectors=vectors)
    dim = network.dim or 16
    head = ACLHead(dim, bank_size=32, min_keys=1, num_anchors=8)
    head.bank.enqueue(torch.randn(8, dim), torch.arange(8) % 2)
    caa = CAAHead(dim, num_clusters=2, interval=1)
    features = {
        'noise': torch.randn(1, 8, 4, 4),
        'constant': torch.randn(1, 8, 1, 1).expand(1, 8, 4, 4),
        'zero': torch.zeros(1, 8, 4, 4),
    }[content].clone()
    features.requires_grad_()
    prob = {'mixed': torch.rand(1, 16), 'zero': torch.zeros(1, 16), 'one': torch.ones(1, 16)}
    prob = two(prob.get(p_fg, torch.full((1, 16), 0.5)))
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        for step in range(2):
            inputs = features.bfloat16() if autocast else features
            student = network(inputs)
            teacher = Affinity(*student).detach()
            out = head(student, teacher, prob.bfloat16() if autocast else prob)
            caa.update(head.bank, step)
            aggregated = caa(student, teacher)
            assert student.map.dtype == torch.float32
    out['loss_contrast'].backward()
    for name, value in out.items():
        assert value.isfinite(), name
    torch.testing.assert_close(aggregated.sum(-1), torch.ones(1, 16))
    assert features.grad.isfinite().all()
    assert features.grad.abs().max() < 10
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert head.bank.keys.isfinite().all() and caa.clusters.isfinite().all()


def test_half_precision_changes_little():
    network = AffinityHead(32, channels=16)
    features = torch.randn(1, 32, 6, 6).bfloat16()
    full = network(features.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = network(features)
    torch.testing.assert_close(half.map, full.map)
    torch.testing.assert_close(half.vectors, full.vectors)


def test_built_from_the_registry():
    assert MODELS.build(dict(type='AffinityHead', in_channels=512)).dim == 128
    assert MODELS.build(dict(type='ACLHead', dim=128)).bank.keys.shape == (2, 8192, 128)
    assert MODELS.build(dict(type='CAAHead', dim=128)).clusters.shape == (10, 128)
    names = set(ACLHead(dim=4).state_dict()) | set(CAAHead(dim=4).state_dict())
    floors = {'query_floor.usual', 'key_floor.usual'}
    assert names == {'bank.keys', 'bank.fill', 'bank.cursor', 'clusters', 'has_clusters'} | floors


def test_reliable_is_either_region():
    regions = Regions(torch.rand(1, 4, 2), torch.tensor([[2, 0, -1, 1]]))
    assert regions.reliable.tolist() == [[True, True, False, True]]
    assert regions.foreground.tolist() == [[True, False, False, True]]


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: AffinityHead(8, vectors='columns'), "'columns'; allowed"),
        (lambda: AffinityHead(8, num_heads=3), 'num_heads is 3'),
        (lambda: ACLHead(4, beta=(0.8, 0.7)), r'beta is \(0.8, 0.7\)'),
        (lambda: ACLHead(4, bank_size=10, min_keys=11), 'min_keys is 11'),
        (lambda: ACLHead(4, num_anchors=0), 'num_anchors is 0'),
        (lambda: ACLHead(4, num_classes=1), 'num_classes is 1'),
        (lambda: CAAHead(4, interval=0), 'interval is 0'),
        (lambda: CAAHead(4, tau=0), 'tau is 0'),
        (lambda: CAAHead(4, max_keys=5), 'max_keys is 5'),
    ],
)
def test_errors_say_what_is_allowed(build, message):
    with pytest.raises(ValueError, match=message):
        build()
