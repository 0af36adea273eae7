"""tools/suggest.py: which frames to label next, and the rules that it chooses by."""

from __future__ import annotations

import csv
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from test_predict import write_run
from tool_process import run_tool

from mmseg_acl.datasets.partitions import entry_of, read_list
from mmseg_acl.datasets.polyp import PolypDataset
from mmseg_acl.inference.trained import TrainedModel
from mmseg_acl.labelling import looking
from mmseg_acl.labelling.looking import Trained, agreement, doubt, look_at, open_looker
from mmseg_acl.labelling.pool import PoolFrame, excluded_entries, find_pool, group, sequences_of
from mmseg_acl.labelling.rules import RULES, Candidates, Looks, choose, cluster, k_centre, typicality


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp('runs') / 'run')


@pytest.fixture(scope='module')
def pool(tmp_path_factory, synthetic_root) -> Path:
    """A data set's folder with seven frames, one of them there a second time, brighter and smaller, and masks."""
    folder = tmp_path_factory.mktemp('pool')
    for kind in ('images', 'masks'):
        (folder / kind).mkdir()
    source = synthetic_root / 'Synthetic' / 'unlabelled'
    for number, path in enumerate(sorted((source / 'images').iterdir())):
        image = cv2.imread(str(path))
        cv2.imwrite(str(folder / 'images' / f'f{number}.png'), image)
        cv2.imwrite(str(folder / 'masks' / f'f{number}.png'), np.zeros(image.shape[:2], np.uint8))
        if number == 0:
            twin = cv2.convertScaleAbs(cv2.resize(image, None, fx=0.9, fy=0.9), alpha=1, beta=8)
            cv2.imwrite(str(folder / 'images' / 'twin.png'), twin)
            cv2.imwrite(str(folder / 'masks' / 'twin.png'), np.zeros(twin.shape[:2], np.uint8))
    return folder


def suggest(*args: object, **options) -> object:
    return run_tool('suggest.py', *args, data=Path('nowhere'), **options)


def looks_of(count: int, seed: int = 0, found: float = 0.5) -> Looks:
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 6))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    share = np.where(random.random(count) < found, 0.2, 0.0)
    return Looks(features, share, random.random(count), random.random(count))


def all_of(count: int, groups: np.ndarray | None = None, spare: tuple[int, ...] = ()) -> Candidates:
    groups = np.arange(count) if groups is None else groups
    return Candidates(groups, np.ones(count, bool), np.isin(np.arange(count), spare))


# ------------------------------------------------------------------ the tool


@pytest.mark.slow
@pytest.mark.parametrize('rule', RULES)
def test_a_suggestion_is_a_list_that_trains_a_table_and_a_sheet(rule, run, pool, tmp_path):
    done = suggest(run, pool, '--budget', 3, '--rule', rule, '--out', tmp_path)
    entries = read_list(tmp_path / 'suggested.txt')
    assert len(set(entries)) == 3 and 'next: python tools/predict.py' in done.stdout
    assert len(PolypDataset(str(tmp_path / 'suggested.txt'), folder='', data_root=str(pool))) == 3
    rows = list(csv.DictReader(open(tmp_path / 'suggested.csv')))
    assert [row['frame'] for row in rows] == entries and [row['rank'] for row in rows] == ['1', '2', '3']
    assert all(row['reason'] and Path(row['file']).is_file() for row in rows)
    assert (
        all((row['score'] == '') == row['reason'].startswith('random among all') for row in rows) or rule == 'random'
    )
    assert (cv2.imread(str(tmp_path / 'suggested_1.png')) < 200).mean() > 0.1
    again = tmp_path / 'again'
    suggest(run, pool, '--budget', 3, '--rule', rule, '--out', again)
    assert (again / 'suggested.csv').read_bytes() == (tmp_path / 'suggested.csv').read_bytes()
    assert not {'f0', 'twin'} <= set(entries)


@pytest.mark.slow
def test_labelled_and_excluded_frames_are_not_chosen_and_twins_of_labelled_ones_come_last(run, pool, tmp_path):
    for name, entries in (('labelled.txt', ['f0', 'f1']), ('test.txt', ['f2'])):
        (tmp_path / name).write_text('\n'.join(entries))
    options = ('--labelled', tmp_path / 'labelled.txt', '--exclude', tmp_path / 'test.txt', '--rule', 'typical')
    done = suggest('none', pool, '--budget', 9, '--out', tmp_path / 'out', *options)
    assert 'RANDOM weights' in done.stdout + done.stderr and 'chosen: 5, as the pool has no more' in done.stdout
    assert 'pool 5, labelled 2, excluded 1, groups 5' in done.stdout
    entries = read_list(tmp_path / 'out' / 'suggested.txt')
    assert sorted(entries) == ['f3', 'f4', 'f5', 'f6', 'twin'] and entries[-1] == 'twin'
    assert read_list(tmp_path / 'out' / 'train.txt') == ['f0', 'f1', *entries]
    assert 'near-twin is labelled' in (tmp_path / 'out' / 'suggested.csv').read_text()


@pytest.mark.slow
def test_seeds_differ_and_a_frame_that_cannot_be_read_is_skipped(pool, tmp_path):
    for number in range(20):
        image = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f'f{number}.png'), image)
    (tmp_path / 'broken.png').write_bytes(b'none')
    found = []
    for seed in (0, 1, 0):
        out = tmp_path.parent / f'out_{seed}'
        done = suggest('none', tmp_path, '--budget', 5, '--seed', seed, '--out', out, check=False)
        assert done.returncode == 1 and 'skipped' in done.stderr and 'broken.png' in done.stderr
        found.append(read_list(out / 'suggested.txt'))
    assert found[0] == found[2] != found[1]


@pytest.mark.slow
def test_what_was_looked_at_is_not_looked_at_again(run, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(looking, 'PART', 3)
    frames = find_pool(pool)
    looker = open_looker([str(run)], 'disagreement', 'cpu')
    whole = look_at(frames, looker, True, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 3
    max(files).unlink()
    seen = []
    look = looking._look_at_batch
    monkeypatch.setattr(looking, '_look_at_batch', lambda block, *rest: seen.extend(block) or look(block, *rest))
    again = look_at(frames, looker, True, tmp_path)
    assert len(seen) in (2, 3) and set(tmp_path.iterdir()) == set(files)
    for one, other in zip(whole[1], again[1], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole[2], again[2])
    # Another model's looks are others.
    look_at(frames, open_looker([str(run)], 'entropy', 'cpu'), True, tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.slow
def test_looks_are_those_of_the_networks(run, pool, tmp_path):
    frames = find_pool(pool)[:2]
    looker = open_looker([str(run)], 'disagreement', 'cpu')
    _, looks, _, _ = look_at(frames, looker, False, tmp_path)
    model: TrainedModel = looker.model
    for number, frame in enumerate(frames):
        sample = model.prepare(cv2.imread(str(frame.path)))
        batch = model.model.data_preprocessor(dict(inputs=[sample['inputs']], data_samples=None), False)['inputs']
        masks = []
        for network in ('teacher', 'student'):
            segmentor = model.running(network).segmentor
            with torch.no_grad():
                logits = segmentor.encode_decode(batch, [dict(img_shape=batch.shape[2:])])
                maps = segmentor.backbone(batch)[-1]
            prob = logits.softmax(1)[0].numpy()
            masks.append(prob[1] > prob[0])
            if network == 'teacher':
                mean = maps[0].mean((1, 2)).numpy()
                np.testing.assert_allclose(looks.features[number], mean / np.linalg.norm(mean), atol=1e-5)
                assert looks.share[number] == pytest.approx(masks[0].mean(), abs=1e-3)
                doubted = prob[:, prob.max(0) < 0.95]
                entropy = -(doubted * np.log2(doubted)).sum(0).mean()
                assert looks.entropy[number] == pytest.approx(entropy, rel=1e-3)
        dice = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
        assert looks.disagreement[number] == pytest.approx(1 - dice, abs=1e-3)


def test_doubt_and_agreement_have_their_limits():
    assert doubt(torch.tensor([[[0.96]], [[0.04]]])) == 0
    assert doubt(torch.tensor([[[0.5, 1.0]], [[0.5, 0.0]]])) == pytest.approx(1)
    empty, full = torch.zeros(2, 2).bool(), torch.ones(2, 2).bool()
    assert agreement(empty, empty) == 1 and agreement(empty, full) == 0 and agreement(full, full) == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('{run}', '{pool}', '--budget', '0'), 'budget is 0'),
        (('none', '{pool}', '--budget', '2', '--rule', 'entropy'), 'the rule entropy asks a trained model'),
        (('{run}', '{pool}/none', '--budget', '2'), "there is no folder '.*none'"),
        (('{run}', '{run}', '--budget', '2'), 'has no image'),
        (('nowhere', '{pool}', '--budget', '2'), "there is no work dir 'nowhere'"),
        (
            ('{run}', '{pool}', '--budget', '2', '--labelled', 'kvasir/dev'),
            '100 of the 100 labelled frames are not in',
        ),
        (('{run}', '{pool}', '--budget', '2', '--exclude', '{all}'), 'no frame of .* is left to choose from'),
        (('{run}', '{pool}', '--budget', '2', '--exclude', 'mine.txt'), "no list 'mine.txt'"),
        (('{run}', '{pool}', '--budget', '2', '--twins', '200'), 'twins is 200; it must lie in 0 to 127'),
        (('{run}', '{pool}', '--budget', '2', '--twins', 'x'), '--twins x'),
    ],
)
def test_what_is_wrong_is_said_before_the_work(arguments, message, run, pool, tmp_path, capsys, monkeypatch):
    (tmp_path / 'all.txt').write_text('\n'.join(frame.entry for frame in find_pool(pool)))
    words = [word.format(run=run, pool=pool, all=tmp_path / 'all.txt') for word in arguments]
    monkeypatch.setattr(sys, 'argv', ['suggest.py', *words, '--out', str(tmp_path / 'out')])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(Path(__file__).parents[1] / 'tools' / 'suggest.py'), run_name='__main__')
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / 'out').exists()


def test_a_model_without_a_teacher_has_no_disagreement():
    model = SimpleNamespace(networks=('student',), run=SimpleNamespace(checkpoint='iter_8.pth'))
    with pytest.raises(ValueError, match='compares student and teacher, but iter_8.pth has student alone'):
        Trained(model, both=True)


# ------------------------------------------------------------------ the pool


def test_entries_are_those_of_lists(tmp_path):
    for name in ('images/a.png', 'images/b.v2.jpg', 'one/images/a.png', 'two/a.png', 'masks/a.png', '.hidden.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [frame.entry for frame in find_pool(tmp_path)] == ['a', 'b.v2', 'one/a', 'two/a']
    assert [frame.entry for frame in find_pool(tmp_path / 'images')] == ['a', 'b.v2']
    (tmp_path / 'images' / 'a.jpg').touch()
    with pytest.raises(ValueError, match='have one name in a list, a: rename one'):
        find_pool(tmp_path)
    assert entry_of(Path('x') / 'images' / 'y.JPG') == 'x/y'


def test_shipped_test_and_dev_lists_are_excluded_where_names_match(tmp_path):
    named = [read_list(f'kvasir/{part}')[0] for part in ('test', 'dev', 'eighth')]
    for folder in ('Kvasir-SEG', 'mine'):
        (tmp_path / folder / 'images').mkdir(parents=True)
        for name in named:
            (tmp_path / folder / 'images' / f'{name}.jpg').touch()
    public, mine = (find_pool(tmp_path / folder / 'images') for folder in ('Kvasir-SEG', 'mine'))
    assert excluded_entries(public, None) == set(named[:2]) and not excluded_entries(mine, None)
    assert excluded_entries(find_pool(tmp_path), None) == {f'Kvasir-SEG/{name}' for name in named[:2]}
    assert named[0] in excluded_entries(mine, ['kvasir/test']) and not excluded_entries(public, [])


def test_sequences_are_told_by_folder_name_or_number():
    frames = [
        PoolFrame(entry, Path('CVC-ClinicDB/images', f'{entry}.png')) for entry in ('a/x1', 'a/x20', 'b/x', '7')
    ]
    assert sequences_of(frames, 'folder') == ['a', 'a', 'b', None]
    assert sequences_of(frames, 'name') == ['a/x', 'a/x', None, None]
    assert sequences_of(frames, 'auto') == [None, None, None, 'CVC-ClinicDB 1']
    assert sequences_of(frames, 'none') == [None] * 4


def test_twins_and_sequences_are_joined_over_others():
    hashes = np.zeros((5, 64), bool)
    hashes[1, :3] = hashes[2, :6] = hashes[3, 20:60] = True
    hashes[4, 10:40] = True
    twins, groups = group(hashes, [None, None, 's', 's', None], 3)
    assert len(set(twins[:3])) == 1 and len(set(twins)) == 3
    assert len(set(groups[:4])) == 1 and groups[4] not in groups[:4]
    twins, groups = group(None, ['s', 's', None, None, None], 3)
    assert len(set(twins)) == 5 and len(set(groups)) == 4


# ------------------------------------------------------------------ the rules


@pytest.mark.parametrize('rule', [rule for rule in RULES if rule != 'auto'])
def test_a_group_gives_one_frame_while_others_are_left(rule):
    looks, groups = looks_of(30), np.repeat(np.arange(10), 3)
    chosen = [choice.index for choice in choose(rule, looks, all_of(30, groups), np.array([], int), 8, 0)]
    assert len({groups[index] for index in chosen}) == len(chosen) == 8
    more = choose(rule, looks, all_of(30, groups), np.array([], int), 14, 0)
    assert len({choice.index for choice in more}) == 14
    assert len({groups[choice.index] for choice in more[:10]}) == 10
    assert all('though its group has one' in choice.reason for choice in more[10:])
    everything = choose(rule, looks, all_of(30, groups, spare=(3, 4)), np.array([], int), 99, 0)
    assert sorted(choice.index for choice in everything) == list(range(30))
    assert {choice.index for choice in everything[-2:]} == {3, 4}


def test_random_foreground_takes_two_thirds_with_predicted_foreground():
    looks = looks_of(300, found=0.1)
    chosen = choose('random-foreground', looks, all_of(300), np.array([], int), 15, 0)
    assert (looks.share[[choice.index for choice in chosen[:10]]] > 0).all()
    assert all(choice.score == looks.share[choice.index] for choice in chosen[:10])
    drawn = [choose('random-foreground', looks, all_of(300), np.array([], int), 15, seed)[10:] for seed in range(20)]
    share = np.mean([looks.share[choice.index] > 0 for each in drawn for choice in each])
    assert share < 0.3  # the rest come from all frames, of which a tenth has some


@pytest.mark.parametrize('rule', ['entropy', 'disagreement'])
def test_uncertain_frames_are_half_with_half_without_foreground_and_of_the_most_uncertain(rule):
    looks = looks_of(200)
    scores = getattr(looks, rule)
    labelled = np.arange(5)
    candidates = Candidates(np.arange(200), np.arange(200) >= 5, np.zeros(200, bool))
    chosen = np.array([choice.index for choice in choose(rule, looks, candidates, labelled, 9, 0)])
    found = looks.share[chosen] > 0
    assert found[:5].all() and not found[5:].any() and not np.isin(chosen, labelled).any()
    for part, count in ((looks.share > 0, 5), (looks.share == 0, 4)):
        part = part & (np.arange(200) >= 5)
        lowest = np.sort(scores[part])[-5 * count]
        assert (scores[chosen[part[chosen]]] >= lowest).all()
    # The first is the farthest of its shortlist from all labelled ones.
    part = np.flatnonzero((looks.share > 0) & (np.arange(200) >= 5))
    shortlist = part[np.argsort(-scores[part])][:25]
    distances = np.linalg.norm(looks.features[shortlist, None] - looks.features[labelled], axis=2).min(1)
    assert chosen[0] == shortlist[distances.argmax()]


def test_a_half_that_has_too_few_frames_is_filled_from_the_other():
    looks = looks_of(40, found=0.0)
    assert len(choose('entropy', looks, all_of(40), np.array([], int), 10, 0)) == 10


def test_typical_frames_come_from_clusters_without_labels():
    random = np.random.default_rng(1)
    centres = np.eye(6)[:4]
    features = np.concatenate(
        [centre + 0.01 * random.normal(size=(size, 6)) for centre, size in zip(centres, (9, 7, 5, 8), strict=True)]
    )
    owner = np.repeat(np.arange(4), (9, 7, 5, 8))
    looks = looks_of(29)._replace(features=features)
    candidates = Candidates(np.arange(29), np.arange(29) != 0, np.zeros(29, bool))
    chosen = choose('typical', looks, candidates, np.array([0]), 3, 0)
    # The cluster that has a label is left out; the others come by size, each by its most typical frame.
    assert [owner[choice.index] for choice in chosen] == [3, 1, 2]
    for choice in chosen:
        members = np.flatnonzero(owner == owner[choice.index])
        means = [np.linalg.norm(features[members] - features[i], axis=1).sum() for i in members]
        assert choice.index == members[np.argmin(means)]


def test_typicality_is_the_inverse_of_the_mean_distance():
    features = np.random.default_rng(2).normal(size=(60, 3))
    clusters = np.repeat([0, 1, 2], [35, 24, 1])
    found = typicality(features, clusters)
    for i in range(59):
        others = [
            np.linalg.norm(features[i] - features[j]) for j in range(60) if j != i and clusters[j] == clusters[i]
        ]
        assert found[i] == pytest.approx(1 / np.mean(sorted(others)[:20]))
    assert found[59] == 1


def test_clusters_minimise_distances():
    random = np.random.default_rng(3)
    features = np.concatenate([centre + 0.05 * random.normal(size=(20, 4)) for centre in 3 * np.eye(4)])
    found = cluster(features, 4, np.random.default_rng(0))
    assert [len(set(found[start : start + 20])) for start in range(0, 80, 20)] == [1] * 4 and len(set(found)) == 4
    assert len(set(cluster(np.ones((5, 2)), 3, random))) == 1


def test_k_centre_is_greedy():
    features = np.random.default_rng(4).normal(size=(30, 3))
    known = features[:2]
    chosen: list[int] = []
    for _ in range(6):
        held = np.concatenate([known, features[chosen]])
        chosen.append(int(np.argmax([min(np.linalg.norm(row - other) for other in held) for row in features])))
    assert k_centre(features, known, 6) == chosen
    assert k_centre(features[:2], features[:0], 5) == [0, 1]
