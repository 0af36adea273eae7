"""SourceRatioSampler, and loaders that do not depend on workers or on a resume."""

import itertools
import pickle
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmseg_acl.datasets import Draw, SourceRatioSampler, samplers

CONFIG = Path(__file__).resolve().parents[1] / 'configs/_base_/datasets/synthetic.py'


class Sources:
    """Stands for a data set of several sources."""

    def __init__(self, *sizes: int) -> None:
        self.source_sizes = list(sizes)


def draws(sampler, count: int, start: int = 0) -> list[tuple[int, int, int]]:
    taken = itertools.islice(sampler, start, start + count)
    return [(int(draw), draw.number, draw.seed) for draw in taken]


def test_every_block_holds_the_ratio():
    sampler = SourceRatioSampler(Sources(5, 11), ratio=(3, 2), seed=0)
    for block in range(40):
        indices = [index for index, _, _ in draws(sampler, 5, 5 * block)]
        assert all(index < 5 for index in indices[:3]), indices
        assert all(5 <= index < 16 for index in indices[3:]), indices


def test_each_source_runs_through_fresh_permutations():
    sampler = SourceRatioSampler(Sources(5, 11), ratio=(3, 2), seed=0)
    streams = {0: [], 1: []}
    for index, number, _ in draws(sampler, 5 * 110):
        stream = streams[int(index >= 5)]
        assert number == len(stream)  # numbers count the draws of the source
        stream.append(index)
    for source, images in ((0, range(5)), (1, range(5, 16))):
        stream = streams[source]
        passes = [stream[i : i + len(images)] for i in range(0, len(stream), len(images))]
        full = [tuple(p) for p in passes if len(p) == len(images)]
        assert all(sorted(p) == list(images) for p in full)
        assert len(set(full)) > 0.6 * len(full)


def test_unshuffled_order_is_the_data_sets():
    sampler = SourceRatioSampler(Sources(3, 4), ratio=(2, 1), seed=0, shuffle=False)
    assert [index for index, _, _ in draws(sampler, 9)] == [0, 1, 3, 2, 0, 4, 1, 2, 5]


def test_seed_decides_the_order():
    def indices(seed):
        return draws(SourceRatioSampler(Sources(50, 60), seed=seed), 48)

    assert indices(3) == indices(3)
    assert [d[0] for d in indices(3)] != [d[0] for d in indices(4)]
    assert all(seed == 3 for _, _, seed in indices(3))
    assert SourceRatioSampler(Sources(50, 60)).seed >= 0  # None: a random one


def test_ranks_share_one_stream(monkeypatch):
    alone = SourceRatioSampler(Sources(7, 9), ratio=(2, 3), seed=5)
    expected = {(int(d >= 7), n): d for d, n, _ in draws(alone, 5 * 30)}

    found = defaultdict(list)
    for rank in range(3):
        monkeypatch.setattr(samplers, 'get_dist_info', lambda rank=rank: (rank, 3))
        sampler = SourceRatioSampler(Sources(7, 9), ratio=(2, 3), seed=5)
        for index, number, _ in draws(sampler, 5 * 10):
            found[int(index >= 7), number].append(index)
    assert {key: [index] for key, index in expected.items()} == found


@pytest.mark.parametrize('skipped', [0, 1, 5, 8, 123])
def test_skip_is_absolute(skipped):
    sampler = SourceRatioSampler(Sources(7, 9), ratio=(2, 3), seed=5)
    expected = draws(sampler, 20, skipped)
    sampler.skip(99)
    sampler.skip(skipped)
    assert draws(sampler, 20) == expected
    with pytest.raises(ValueError, match='num_samples=-1'):
        sampler.skip(-1)


def test_errors():
    with pytest.raises(TypeError, match='list has no `source_sizes`'):
        SourceRatioSampler([1, 2, 3])
    for ratio in ((4,), (4, 0), (1, 1, 1)):
        with pytest.raises(ValueError, match=r'must be 2 positive numbers'):
            SourceRatioSampler(Sources(3, 4), ratio=ratio)


def test_length_is_the_data_sets():
    assert len(SourceRatioSampler(Sources(3, 4))) == 7


def test_a_draw_survives_pickling():
    draw = pickle.loads(pickle.dumps(Draw(3, number=40, seed=7)))
    assert (draw, draw.number, draw.seed) == (3, 40, 7)
    assert isinstance(draw, Draw)


def build_loader(num_workers: int, skip: int = 0):
    config = Config.fromfile(CONFIG).train_dataloader
    config.num_workers = num_workers
    loader = Runner.build_dataloader(config, seed=11)
    loader.sampler.skip(skip)
    return loader


def assert_same(first: dict, second: dict) -> None:
    assert first['inputs'].keys() == second['inputs'].keys()
    for view, images in first['inputs'].items():
        assert all(torch.equal(a, b) for a, b in zip(images, second['inputs'][view], strict=True))
        for a, b in zip(first['data_samples'][view], second['data_samples'][view], strict=True):
            assert a.img_path == b.img_path
            assert torch.equal(a.valid.data, b.valid.data)


@pytest.mark.slow
def test_batches_depend_neither_on_workers_nor_on_a_resume(synthetic_root, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    torch.manual_seed(0)
    alone = list(itertools.islice(build_loader(0), 4))
    torch.manual_seed(1)
    with_workers = list(itertools.islice(build_loader(2), 4))
    for first, second in zip(alone, with_workers, strict=True):
        assert_same(first, second)
    resumed = list(itertools.islice(build_loader(0, skip=3 * 8), 1))
    assert_same(alone[3], resumed[0])
    # Not because the views never change: the same image comes again with other geometry.
    by_path = defaultdict(list)
    for batch in alone:
        for image, sample in zip(batch['inputs']['sup'], batch['data_samples']['sup'], strict=True):
            by_path[sample.img_path].append(image)
    assert all(not torch.equal(images[0], images[1]) for images in by_path.values())
