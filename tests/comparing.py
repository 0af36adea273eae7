"""Are two runs the same, to the last bit?"""

from __future__ import annotations

from pathlib import Path

import torch

from mmseg_acl.engine import read_checkpoint


def same(a: object, b: object) -> bool:
    """Equal to the last bit, whatever is nested in what."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, banks, optimizers, schedules, every loss and every score, to the last bit."""
    a, b = read_checkpoint(a), read_checkpoint(b)
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        assert same(a[key], b[key]), key
    ours, theirs = (content['message_hub']['log_scalars'] for content in (a, b))
    told = {key for key in ours if 'time' not in key and 'memory' not in key}
    assert told and told == {key for key in theirs if 'time' not in key and 'memory' not in key}
    for key in told:
        assert ours[key].data[0].tolist() == theirs[key].data[0].tolist(), key
