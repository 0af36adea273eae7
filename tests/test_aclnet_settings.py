"""docs/aclnet.md says of every setting of ACL-Net and ACL-Net+ whose it is, and the configs are as it says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mmengine.config import Config

from mmseg_acl.models import ACLNet
from mmseg_acl.phases import resolve_phases

ROOT = Path(__file__).parents[1]
CLASSES = {'printed', 'reading', 'scaled', 'ours'}
TRACKS = (384, 128)


class Row(NamedTuple):
    key: str
    values: dict[int, Any]
    classes: set[str]
    source: str


def rows() -> Iterator[Row]:
    page = (ROOT / 'docs' / 'aclnet.md').read_text()
    section = page[page.index('whose each setting is') :].split('\n## ')[0]
    for line in re.findall(r'^\| `.*', section, re.MULTILINE):
        key, large, small, classes, source = (cell.strip() for cell in line.strip('|').split('|'))
        values = {track: ast.literal_eval(cell) for track, cell in zip(TRACKS, (large, small), strict=True) if cell}
        yield Row(key.strip('`'), values, set(classes.split(', ')), source)


def settings(method: str, track: int) -> dict[str, Any]:
    """Keys of a method, dotted."""

    def flat(value: dict, path: str = '') -> dict[str, Any]:
        found = {}
        for key, inner in value.items():
            found |= flat(inner, f'{path}{key}.') if isinstance(inner, dict) else {f'{path}{key}': inner}
        return found

    method = Config.fromfile(ROOT / f'configs/_base_/methods/{method}_{track}.py').method
    config = Config(dict(model=method, train_cfg=dict(max_iters={384: 13500, 128: 1200}[track])))
    resolve_phases(config)
    found = flat(config.model.to_dict())
    assert found.pop('type') == ACLNet.__name__
    return found


def documented(track: int, ours: bool) -> dict[str, Any]:
    return {row.key: row.values[track] for row in rows() if (row.classes == {'ours'}) == ours and track in row.values}


def test_every_row_says_what_it_rests_on():
    found = list(rows())
    assert len(found) > 20
    for row in found:
        assert row.classes <= CLASSES and row.source and row.values, row
        assert row.classes == {'ours'} or 'ours' not in row.classes, row


@pytest.mark.parametrize('track', TRACKS)
def test_aclnet_has_nothing_of_ours(track):
    assert settings('aclnet', track) == documented(track, ours=False)


@pytest.mark.parametrize('track', TRACKS)
def test_aclnet_plus_adds_what_is_ours_and_nothing_else(track):
    plain, plus = settings('aclnet', track), settings('aclnet_plus', track)
    assert {key: value for key, value in plus.items() if plain.get(key, ...) != value} == documented(track, ours=True)
    assert plain.keys() <= plus.keys()


def test_only_what_is_scaled_differs_between_the_tracks():
    large, small = (settings('aclnet', track) for track in TRACKS)
    differing = {key for key in large.keys() | small.keys() if large.get(key) != small.get(key)}
    assert differing == {row.key for row in rows() if 'scaled' in row.classes}


@pytest.mark.parametrize('path', sorted((ROOT / 'configs/aclnet/ablation').glob('*.py')), ids=lambda path: path.stem)
def test_no_row_of_the_ablation_has_anything_of_ours(path):
    model = Config.fromfile(path).model
    assert 'affinity_weight' not in model and not {'gated', 'weighted'} & model.refinement.keys()
