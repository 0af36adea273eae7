"""One network of a checkpoint as a plain mmseg model: a config and weights that mmseg runs by itself."""

from __future__ import annotations

import io
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry, init_default_scope
from mmseg.registry import DATASETS, METRICS, MODELS, TRANSFORMS
from torch import Tensor

from mmseg_acl.colours import palette
from mmseg_acl.datasets import polyp_masks
from mmseg_acl.datasets.polyp_masks import LoadPolypMask
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.engine.checkpoint import load_model_weights
from mmseg_acl.models.networks import networks_of
from mmseg_acl.models.one_channel import with_threshold

PACKAGE = 'mmseg_acl'
MASK_MODULE = 'polyp_masks'
HEADER = """\
# The {network} of {checkpoint} as a plain mmseg model; mmseg_acl is not needed to run it:
#     from mmseg.apis import inference_model, init_model
#     model = init_model('{stem}.py', '{stem}.pth')
#     result = inference_model(model, 'image.jpg')
"""
POLYP_MASKS = """\
# To score it with mmseg's tools/test.py, let test_dataloader.dataset name your images and masks. Masks are read by
# polyp_masks.py, which lies beside this file and belongs to it: 0/255, 0/1, boolean, RGB or palette, PNG or JPEG.
"""
CLASS_NUMBERS = """\
# To score it with mmseg's tools/test.py, let test_dataloader.dataset name your images and masks. Masks hold class
# numbers as those it was trained on; 255 is a pixel to be ignored. Masks of 0 and 255 whose 255 means foreground
# must not be scored: any model that knows nothing but 0 would reach 100.
"""
# A folder of a config is not among those that Python looks for modules in.
FIND_MASKS = """\
import sys

sys.path.insert(0, '{{ fileDirname }}')
"""


def export_student(
    config: Config, checkpoint: str | Path, out_dir: str | Path, network: str = 'student'
) -> tuple[Path, Path]:
    """Write ``<network>.py`` and ``<network>.pth`` for unmodified mmseg.

    The model's own losses of this package are left out of its config (a trained model has no use for them), the
    metric is replaced by mmseg's, and so is a data set of this package. What reads masks of polyps goes along as
    ``polyp_masks.py``, which needs mmseg alone: mmseg's own loader would ignore their 255 and score 100.

    Args:
        config: Config that the checkpoint was trained with; a method's or a plain segmentor's.
        checkpoint: Weights of this model.
        out_dir: Folder of the two files, made if needed.
        network: Which of the model's networks.

    Returns:
        Paths of the config and of the weights.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It belongs to another model, the model has no such network, or a part of the segmentor is one
            of this package, so that plain mmseg would not know it.
    """
    plain, state, meta = plain_parts(config, checkpoint, network)
    path = write_config(plain, out_dir, network, checkpoint)
    return path, write_weights(state, meta, path)


def plain_parts(config: Config, checkpoint: str | Path, network: str) -> tuple[Config, dict[str, Tensor], dict]:
    """Config, weights and meta of one network as a plain mmseg model; raises as :func:`export_student`."""
    init_default_scope(config.get('default_scope', 'mmseg'))
    plain = plain_config(config)  # before the weights are read, so that what cannot be exported is found at once
    model = MODELS.build(deepcopy(config.model))
    networks = networks_of(model)
    if network not in networks:
        raise ValueError(f'{type(model).__name__} has no network {network!r}; it has {", ".join(networks)}')
    load_model_weights(model, checkpoint)
    state = networks[network].state_dict()
    MODELS.build(plain.model).load_state_dict(state)  # strictly: what is written fits what is written beside it
    meta = dict(dataset_meta=dataset_meta(dataset_of_frames(config)))
    return plain, state, meta if meta['dataset_meta'] else {}


def write_config(plain: Config, out_dir: str | Path, network: str, checkpoint: str | Path) -> Path:
    """Write ``<network>.py``, and what reads masks of polyps where it needs it, into a folder made if needed."""
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    header = HEADER.format(network=network, checkpoint=Path(checkpoint).name, stem=network)
    if MASK_MODULE in plain.get('custom_imports', {}).get('imports', []):
        header += POLYP_MASKS + FIND_MASKS
        write_atomically(Path(polyp_masks.__file__).read_bytes(), out_dir / f'{MASK_MODULE}.py')
    else:
        header += CLASS_NUMBERS
    path = out_dir / f'{network}.py'
    write_atomically(f'{header}{plain.pretty_text}'.encode(), path)
    return path


def write_weights(state: dict[str, Tensor], meta: dict, config_path: Path) -> Path:
    """Write ``<network>.pth`` beside the config of a plain mmseg model."""
    path = config_path.with_suffix('.pth')
    content = io.BytesIO()
    torch.save(dict(state_dict=state, meta=meta), content)
    write_atomically(content.getvalue(), path)
    return path


def plain_config(config: Config) -> Config:
    """A config for inference and tests with nothing of this package in it.

    Raises:
        ValueError: A part that matters for predictions is one of this package.
    """
    if 'segmentor' in config.model:
        model = deepcopy(config.model.segmentor)
        outer = config.model.get('data_preprocessor')
        if outer:
            model.data_preprocessor = deepcopy(outer.get('data_preprocessor', outer))
    else:
        model = deepcopy(config.model)
    model = with_threshold(model)
    _strip(model, MODELS, 'model')
    _without_weights(model)

    dataset = dataset_of_frames(config)
    pipeline = [_plain_transform(step) for step in _find(dataset, 'pipeline') or []]
    if not pipeline:
        raise ValueError(
            'neither test_dataloader.dataset nor val_dataloader.dataset has a pipeline, so it is not known how '
            'images are to be read'
        )
    evaluator = config.get('test_evaluator', [])
    evaluators = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    if not evaluators or any(_is_ours(metric, METRICS) for metric in evaluators):
        evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mDice'])

    imports = config.get('custom_imports', {}).get('imports', [])
    imports = [name for name in ([imports] if isinstance(imports, str) else imports) if name.split('.')[0] != PACKAGE]
    if any(step['type'] == 'LoadPolypMask' for step in pipeline):
        imports.append(MASK_MODULE)
    return Config(
        dict(
            default_scope='mmseg',
            **(dict(custom_imports=dict(imports=imports, allow_failed_imports=False)) if imports else {}),
            env_cfg=dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0)),
            log_processor=dict(by_epoch=False),
            vis_backends=[dict(type='LocalVisBackend')],
            visualizer=dict(
                type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'
            ),
            model=model,
            test_pipeline=pipeline,
            test_dataloader=dict(
                batch_size=1,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=_plain_dataset(dataset, pipeline),
            ),
            test_evaluator=deepcopy(evaluator),
            test_cfg=dict(type='TestLoop'),
        )
    )


def dataset_of_frames(config: Config) -> ConfigDict:
    """The data set of a config that says how frames are read and what the classes are: the first of those to test on,
    to validate on, and to train on with the pipeline `test_pipeline`; empty where there is none of them.
    """
    for key in ('test_dataloader', 'val_dataloader'):
        if dataset := (config.get(key) or {}).get('dataset'):
            return dataset
    labelled = (config.get('train_dataloader') or {}).get('dataset', {}).get('labelled')
    source = labelled[0] if isinstance(labelled, (list, tuple)) and labelled else labelled
    if isinstance(source, dict) and config.get('test_pipeline'):
        return ConfigDict(source, pipeline=config.test_pipeline)
    return ConfigDict()


def dataset_meta(dataset: ConfigDict) -> dict:
    """Classes and palette of a data set's config; empty where it does not name its classes."""
    found = dict(getattr(DATASETS.get(dataset.type), 'METAINFO', {}), **(_find(dataset, 'metainfo') or {}))
    if not found and 'datasets' in dataset:  # several, one after another
        return dataset_meta(dataset.datasets[0])
    if not found.get('classes'):
        return {}
    classes = list(found['classes'])
    colours = found.get('palette') or palette(len(classes))
    return dict(classes=classes, palette=[list(colour) for colour in colours])


def _find(dataset: ConfigDict, key: str) -> Any:
    """A data set's own entry, or that of the data set that it wraps."""
    while key not in dataset:
        inner = dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
        if inner is None:
            return None
        dataset = inner
    return dataset[key]


def _is_ours(part: Any, registry: Registry) -> bool:
    """Whether a config names a class of this package."""
    if not isinstance(part, dict) or 'type' not in part:
        return False
    kind = part['type']
    cls = registry.module_dict.get(kind.removeprefix('mmseg.')) if isinstance(kind, str) else kind
    return getattr(cls, '__module__', '').split('.')[0] == PACKAGE


def _strip(part: Any, registry: Registry, path: str) -> None:
    """Leave this package's losses out of a model's config, in place; refuse anything else of this package."""
    items = part.items() if isinstance(part, dict) else enumerate(part)
    for key, value in list(items):
        here = f'{path}.{key}'
        if isinstance(key, str) and key.startswith('loss'):
            losses = value if isinstance(value, list) else [value]
            kept = [loss for loss in losses if not _is_ours(loss, registry)]
            if len(kept) < len(losses):
                default = dict(type='CrossEntropyLoss', use_sigmoid=part.get('out_channels') == 1)
                part[key] = kept if isinstance(value, list) and kept else (kept or [default])[0]
        elif _is_ours(value, registry):
            raise ValueError(f'{here} is {value["type"]} of {PACKAGE}, which plain mmseg does not have')
        elif isinstance(value, (dict, list, tuple)):
            _strip(value, registry, here)


def _without_weights(part: Any) -> None:
    """Take every name of pre-trained weights out of a model's config, in place: they are in the checkpoint."""
    if isinstance(part, dict):
        part.pop('pretrained', None)
        init = part.get('init_cfg')
        if isinstance(init, dict) and 'checkpoint' in init:
            part.pop('init_cfg')
        part = part.values()
    if not isinstance(part, str):
        for value in part:
            if isinstance(value, (dict, list, tuple)):
                _without_weights(value)


def _plain_transform(step: dict) -> dict:
    if step['type'] in ('LoadPolypMask', LoadPolypMask):
        return dict(type='LoadPolypMask', optional=True)  # mmseg predicts through the pipeline of its tests
    if _is_ours(step, TRANSFORMS):
        raise ValueError(f'the test pipeline has {step["type"]} of {PACKAGE}, which plain mmseg does not have')
    return deepcopy(step)


def _plain_dataset(dataset: ConfigDict, pipeline: list[dict]) -> dict:
    """The test set itself where mmseg knows it, else a place for the user's own."""
    inner = [dataset, *(dataset.get('datasets') or []), *filter(None, [dataset.get('dataset')])]
    if not any(_is_ours(part, DATASETS) for part in inner) and dataset.get('pipeline') == pipeline:
        return deepcopy(dataset)
    return dict(
        type='BaseSegDataset',
        metainfo=dataset_meta(dataset),
        data_root='data/mine',
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        img_suffix='.jpg',
        seg_map_suffix='.png',
        test_mode=True,
        pipeline=pipeline,
    )
