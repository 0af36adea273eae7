"""Training steps of every method on made-up frames, as numbers that can be compared: what must not change.

``tests/data/golden_steps.json`` was written by this script, at first at commit 1a6be0e, before the models were
tidied up::

    PYTHONPATH=<tree> python tests/golden_steps.py tests/data/golden_steps.json

It holds the losses of steps in float64: thresholds, arg maxima and drawn pixels hang on single bits, and in float32
machines round differently. On one machine two trees can be compared as they are used, in float32, to the last bit,
parameters, buffers and inspections included::

    PYTHONPATH=<tree> python tests/golden_steps.py --exact before.json
    PYTHONPATH=<other tree> python tests/golden_steps.py --exact after.json
    python tests/golden_steps.py --compare before.json after.json

A change that is meant to change numbers writes the file anew and says so.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from steps import CONFIGS, SIDE, batch

import mmseg_acl  # noqa: F401  registers the package's parts with mmseg

GOLDEN = Path(__file__).parent / 'data' / 'golden_steps.json'
# The tests' configs warm up for 2 iterations; ELN's second phase ends after 4, CAFD's labels begin then.
STEPS = 6
SIGMOID = dict(
    num_classes=2,
    out_channels=1,
    threshold=0.5,
    loss_decode=[dict(type='CrossEntropyLoss', use_sigmoid=True), dict(type='PolypDiceLoss')],
)
# A network that predicts both classes at once has boxes to paste, labels to doubt and pixels to contrast.
OPINIONS = dict(init_cfg=dict(type='Normal', std=1.0, override=dict(name='conv_seg')))
OURS = dict(contrast_weight=0.05, affinity_weight=2.0, refinement=dict(num_iters=2, weighted=True, gated=True))
ROW_ONE = dict(use_contrast=False, use_aggregation=False, refinement=dict(low=False, high=False))
# Method, changes of its model and, where it is not the U-Net of the tests, its head.
CASES: dict[str, tuple[str, dict, dict]] = {
    'Mean Teacher': ('mean_teacher', {}, {}),
    'Mean Teacher, sigmoid': ('mean_teacher', {}, SIGMOID),
    'CAC': ('cac', {}, {}),
    'AEL': ('ael', {}, OPINIONS),
    'CAFD': ('cafd', dict(confidence=0.505), OPINIONS),
    'ELN': ('eln', {}, OPINIONS),
    'ELN, balanced over all, sigmoid': ('eln', dict(balance='all'), dict(SIGMOID, **OPINIONS)),
    'PSMT': ('psmt', dict(threshold=0.7), OPINIONS),
    'U2PL': ('u2pl', {}, {}),
    'U2PL, opinions': ('u2pl', dict(cutmix=dict(prob=1.0)), OPINIONS),
    'ACL-Net': ('aclnet', {}, {}),
    'ACL-Net, our weights': ('aclnet', OURS, {}),
    'ACL-Net, row I': ('aclnet', ROW_ONE, {}),
    'ACL-Net, no contrast': ('aclnet', dict(use_contrast=False, use_aggregation=False, refine_after=2), {}),
    'ACL-Net, no aggregation': ('aclnet', dict(use_aggregation=False, refinement=dict(low=False)), SIGMOID),
    'ACL-Net, joint': ('aclnet', dict(threshold=0.51, refinement=dict(schedule='joint', gated=False)), {}),
    'ACL-Net, rows of a stage': (
        'aclnet',
        dict(affinity=dict(vectors='rows'), contrast=dict(dim=SIDE * SIDE // 64), feature_source=1),
        {},
    ),
}
# Names at 1a6be0e, and today's.
OLD_KEYS = {'contrast_weight': 'lambda_tra', 'affinity_weight': 'lambda_aff', 'consistency_weight': 'lambda_con'}
NEW_NAMES = {
    'loss_con': 'loss_consistency',
    'loss_con_sup': 'loss_consistency_labelled',
    'loss_weak': 'loss_consistency_weak',
    'loss_strong': 'loss_consistency_strong',
    'loss_tra': 'loss_contrast',
    'loss_aff': 'loss_affinity',
    'kept': 'kept_share',
}


def build(method: str, changes: dict, head: dict) -> torch.nn.Module:
    """The method's model of the tests' configs, changed; the same numbers in it on every call."""
    config = Config.fromfile(CONFIGS / f'{method}.py')
    known = inspect.signature(MODELS.get(config.model.type)).parameters
    changes = {key if key in known or key not in OLD_KEYS else OLD_KEYS[key]: value for key, value in changes.items()}
    config.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    config.merge_from_dict({f'model.segmentor.decode_head.{key}': value for key, value in head.items()})
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    return model


def frames(seed: int) -> dict:
    """A batch with padding, with pixels to be ignored and, for CAC, two crops of each unlabelled image."""
    data = batch(seed=seed)
    views = data['data_samples']
    views['sup'][0].gt_sem_seg.data[:, :5] = 255
    for view in ('unsup_weak', 'unsup_strong'):
        views[view][1].valid.data[..., 50:] = False
    generator = torch.Generator().manual_seed(seed + 100)
    for view, corner, flip in (('unsup_first', (0, 8), None), ('unsup_second', (8, 0), 'horizontal')):
        crops, samples = [], []
        for image in data['inputs']['unsup_weak']:
            crop = image.roll(corner, dims=(1, 2)).float() + 5 * torch.randn(1, SIDE, SIDE, generator=generator)
            crops.append((crop.flip(2) if flip else crop).clamp(0, 255).byte())
            meta = dict(views['sup'][0].metainfo, crop_corner=corner, flip_direction=flip)
            sample = SegDataSample(metainfo=meta)
            sample.valid = PixelData(data=torch.ones(1, SIDE, SIDE, dtype=torch.bool))
            samples.append(sample)
        samples[0].valid.data[..., 60:, :] = False
        data['inputs'][view], views[view] = crops, samples
    return data


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """A hash of names, types and every bit."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


@contextmanager
def double_precision() -> Iterator[None]:
    """Everything in float64, also what the models turn into float32 for the sake of half precision."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(torch.Tensor, 'float', torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(default)


def train(model: torch.nn.Module, dtype: torch.dtype) -> list[dict[str, float]]:
    """Take the steps; what the model returned at each, by today's names."""
    model.to(dtype)
    crops, history = type(model).__name__ == 'CAC', []
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.02, momentum=0.9)
    for iteration in range(STEPS):
        model.train()
        model.before_step(iteration)
        inputs, samples = preprocessed(model, iteration, dtype, crops)
        torch.manual_seed(iteration)
        found = model(inputs, samples, mode='loss')
        optimizer.zero_grad()
        model.parse_losses(found)[0].backward()
        optimizer.step()
        model.after_step()
        step = {NEW_NAMES.get(key, key): float(value.detach()) for key, value in found.items()}
        if crops and 'loss_consistency' in step:  # CAC's contrast was called so
            step['loss_contrast'] = step.pop('loss_consistency')
        history.append(step)
    return history


def preprocessed(model: torch.nn.Module, seed: int, dtype: torch.dtype, crops: bool) -> tuple[dict, dict]:
    """Frames as the model gets them, by view."""
    data = frames(seed)
    views = [view for view in data['inputs'] if crops or view not in ('unsup_first', 'unsup_second')]
    data = {key: {view: part[view] for view in views} for key, part in data.items()}
    data = model.data_preprocessor(data, training=True)
    return {view: images.to(dtype) for view, images in data['inputs'].items()}, data['data_samples']


def golden(case: str) -> list[dict[str, float]]:
    """Losses of each step in float64."""
    with double_precision():
        return train(build(*CASES[case]), torch.float64)


def rounded(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """To ten digits, more than the test looks at."""
    return [{key: float(f'{value:.10g}') for key, value in step.items()} for step in history]


def exact(case: str) -> dict:
    """Losses of each step in float32, and hashes of the state afterwards and of an inspection."""
    model = build(*CASES[case])
    result = dict(losses=train(model, torch.float32), state=digest(model.state_dict()))
    if hasattr(model, 'inspect'):
        inputs, samples = preprocessed(model, 99, torch.float32, False)
        valid = torch.cat([sample.valid.data for sample in samples['unsup_weak']])
        seen = model.inspect(inputs['unsup_weak'], valid)
        maps = dict(prob=seen.prob, refined=seen.refined.prob, student=seen.student.map, teacher=seen.teacher.map)
        result['inspection'] = digest(dict(maps, aggregated=seen.aggregated, vectors=seen.student.vectors))
    return result


def differences(before: dict, after: dict) -> list[str]:
    """Where two results are not the same to the last bit."""
    found = [f'{case}: only in one of them' for case in before.keys() ^ after.keys()]
    for case in before.keys() & after.keys():
        found += [f'{case}: {key}' for key in before[case] if before[case][key] != after[case].get(key)]
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('files', nargs='+', type=Path, help='file to write, or two to compare')
    parser.add_argument('--exact', action='store_true', help='write what --compare compares')
    parser.add_argument('--compare', action='store_true', help='say where two files of --exact differ')
    args = parser.parse_args()
    if len(args.files) != 1 + args.compare:
        parser.error('give one file to write, or --compare and two files')
    if args.compare:
        before, after = (json.loads(path.read_text(encoding='utf-8')) for path in args.files)
        found = differences(before, after)
        print('\n'.join(found) or f'{len(before)} cases are equal to the last bit')
        raise SystemExit(bool(found))
    init_default_scope('mmseg')
    torch.set_num_threads(1)
    results = {case: exact(case) if args.exact else rounded(golden(case)) for case in CASES}
    args.files[0].write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
