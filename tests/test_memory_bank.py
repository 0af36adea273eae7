"""The memory bank and the InfoNCE loss (Eqs 4 to 6) against plain references."""

import math
from collections import deque

import pytest
import torch
from torch.autograd import gradcheck

from mmseg_acl.models.semi import memory_bank
from mmseg_acl.models.semi.contrast import info_nce, unit
from mmseg_acl.models.semi.memory_bank import MemoryBank


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def reference_info_nce(anchor, positive, negatives, tau):
    """Eqs 4 and 5 for one anchor, on lists."""
    similar = math.exp(cosine(anchor, positive) / tau)
    others = sum(math.exp(cosine(anchor, negative) / tau) for negative in negatives)
    return -math.log(similar / (similar + others))


@pytest.mark.parametrize('shared', [True, False])
def test_info_nce_is_that_of_the_loops(shared):
    anchors, positives = torch.randn(2, 4, 6, dtype=torch.float64)
    negatives = torch.randn(*([7] if shared else [4, 7]), 6, dtype=torch.float64)
    losses = info_nce(anchors, positives, negatives, tau=0.3)
    for a in range(4):
        own = negatives if shared else negatives[a]
        expected = reference_info_nce(anchors[a].tolist(), positives[a].tolist(), own.tolist(), 0.3)
        assert losses[a].item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize('shared', [True, False])
def test_info_nce_gradients(shared):
    anchors, positives = torch.randn(2, 3, 4, dtype=torch.float64)
    negatives = torch.randn(*([5] if shared else [3, 5]), 4, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (anchors, positives, negatives)]
    assert gradcheck(lambda *args: info_nce(*args, tau=0.5), inputs)


def test_info_nce_falls_as_the_positive_comes_closer():
    anchor = torch.tensor([[1.0, 0.0]])
    negatives = torch.tensor([[0.0, 1.0]]).repeat(100, 1)
    losses = [info_nce(anchor, torch.tensor([[math.cos(t), math.sin(t)]]), negatives).item() for t in (0.0, 0.7, 1.5)]
    assert losses == sorted(losses)
    assert losses[2] == pytest.approx(math.log(101), abs=0.2)


def test_info_nce_without_anchors_or_negatives():
    assert info_nce(torch.zeros(0, 3), torch.zeros(0, 3), torch.randn(5, 3)).shape == (0,)
    assert info_nce(torch.randn(2, 3), torch.randn(2, 3), torch.zeros(0, 3)).tolist() == [0, 0]


def test_zero_vectors_have_finite_gradients():
    anchors = torch.zeros(2, 3, requires_grad=True)
    info_nce(anchors, torch.zeros(2, 3), torch.randn(4, 3)).sum().backward()
    assert anchors.grad.isfinite().all()
    assert anchors.grad.abs().max() < 1e5


@pytest.mark.parametrize(
    ('positives', 'negatives', 'tau', 'message'),
    [
        ((2, 3), (5, 3), 0.5, 'positives have shape'),
        ((4, 3), (5, 2), 0.5, 'negatives have shape'),
        ((4, 3), (3, 5, 3), 0.5, 'negatives have shape'),
        ((4, 3), (5, 3), 0.0, 'tau is 0.0'),
    ],
)
def test_info_nce_errors(positives, negatives, tau, message):
    with pytest.raises(ValueError, match=message):
        info_nce(torch.rand(4, 3), torch.rand(positives), torch.rand(negatives), tau)


def test_rings_are_first_in_first_out():
    """Against a deque a class, over many steps of uneven sizes, some larger than the ring."""
    bank = MemoryBank(num_classes=3, size=5, dim=4)
    rings = [deque(maxlen=5) for _ in range(3)]
    for step in range(30):
        count = int(torch.randint(0, 14, ()))
        keys, labels = torch.randn(count, 4), torch.randint(0, 3, (count,))
        if step % 7 == 0:
            labels[:] = 1
        bank.enqueue(keys, labels)
        for key, label in zip(keys, labels, strict=True):
            rings[label].append(key / key.norm())
        for label, ring in enumerate(rings):
            assert bank.fill[label] == len(ring)
            # Slots turn round; rolled by the cursor they are in the order of arrival.
            stored = bank.ring(label)
            if len(ring) == 5:
                stored = stored.roll(-int(bank.cursor[label]), 0)
            if ring:
                torch.testing.assert_close(stored, torch.stack(list(ring)))


def test_negatives_are_of_the_other_labels_only():
    bank = MemoryBank(num_classes=3, size=4, dim=3)
    axes = torch.eye(3)
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    bank.enqueue(axes[labels] * 7, labels)
    for label in range(3):
        negatives = bank.negatives(label)
        assert len(negatives) == (labels != label).sum()
        assert (negatives @ axes[label]).abs().max() == 0
        torch.testing.assert_close(negatives.norm(dim=1), torch.ones(len(negatives)))


def test_sample_draws_stored_keys_without_repetition():
    bank = MemoryBank(num_classes=2, size=8, dim=16)
    bank.enqueue(torch.randn(10, 16), torch.tensor([0] * 7 + [1] * 3))
    stored = torch.cat([bank.ring(0), bank.ring(1)])
    sample = bank.sample(6)
    matches = (sample[:, None] == stored).all(-1)
    assert matches.sum(1).tolist() == [1] * 6
    assert matches.sum(0).max() == 1
    assert len(bank.sample(100)) == 10
    assert len(MemoryBank(2, 8, 16).sample(4)) == 0


def test_saved_and_resumed():
    bank, other = MemoryBank(2, 4, 3), MemoryBank(2, 4, 3)
    bank.enqueue(torch.randn(7, 3), torch.tensor([0, 1, 0, 0, 0, 0, 0]))
    other.load_state_dict(bank.state_dict())
    more = torch.randn(3, 3), torch.tensor([0, 1, 1])
    bank.enqueue(*more)
    other.enqueue(*more)
    for name, value in bank.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_keys_of_all_ranks_are_stored(monkeypatch):
    """Two ranks with 3 and 1 keys: each is padded to 3, and the padding is not stored."""
    first, second = torch.randn(3, 4), torch.randn(1, 4)
    gathered = iter(
        [
            [torch.tensor([3]), torch.tensor([1])],
            [unit(first), torch.cat([unit(second), torch.zeros(2, 4)])],
            [torch.tensor([0, 1, 0]), torch.tensor([1, 0, 0])],
        ]
    )
    sent = []

    def all_gather(tensor):
        sent.append(tensor)
        return next(gathered)

    monkeypatch.setattr(memory_bank, 'get_world_size', lambda: 2)
    monkeypatch.setattr(memory_bank, 'all_gather', all_gather)
    bank = MemoryBank(2, 8, 4)
    bank.enqueue(second, torch.tensor([1]))
    assert [len(tensor) for tensor in sent] == [1, 3, 3]
    torch.testing.assert_close(bank.ring(0), unit(first[[0, 2]]))
    torch.testing.assert_close(bank.ring(1), unit(torch.stack([first[1], second[0]])))


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: MemoryBank(2, 0, 4), 'size is 0'),
        (lambda: MemoryBank(2, 3, 4).enqueue(torch.rand(2, 5), torch.tensor([0, 1])), r'\(n, 4\)'),
        (lambda: MemoryBank(2, 3, 4).enqueue(torch.rand(2, 4), torch.tensor([0])), r'\(n,\)'),
        (lambda: MemoryBank(2, 3, 4).enqueue(torch.rand(1, 4), torch.tensor([2])), '2 to 2'),
        (lambda: MemoryBank(2, 3, 4).enqueue(torch.rand(1, 4), torch.tensor([-1])), '-1 to -1'),
    ],
)
def test_bank_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()
