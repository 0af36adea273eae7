"""Models, batches and training steps that the tests of the methods share."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

CONFIGS = Path(__file__).parent / 'configs'
SIDE = 64


def build(name: str, **changes):
    config = Config.fromfile(CONFIGS / f'{name}.py')
    config.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    return model


def half_size(method: str) -> dict[str, tuple[int, int]]:
    """Options by which a run of the tests' configs works on images of 64 x 64 pixels, not 128 x 128: a quarter."""

    def found(value: object, place: str) -> Iterator[str]:
        if value == (2 * SIDE, 2 * SIDE):
            yield place
        elif isinstance(value, dict | list | tuple):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from found(inner, f'{place}.{key}')

    config = Config.fromfile(CONFIGS / f'{method}.py')
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    return {place: (SIDE, SIDE) for loader in loaders for place in found(config[loader], loader)}


def batch(images: int = 3, seed: int = 0, classes: int = 2) -> dict:
    """Frames with a bright disc on a dark ground, by view, as the collate function gives them."""
    generator = torch.Generator().manual_seed(seed)
    ys, xs = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing='ij')

    def draw():
        centre = torch.rand(2, generator=generator) * SIDE / 2 + SIDE / 4
        mask = ((ys - centre[0]) ** 2 + (xs - centre[1]) ** 2 < (SIDE / 5) ** 2).long()
        image = 60 + 120 * mask + 20 * torch.randn(3, SIDE, SIDE, generator=generator)
        return image.clamp(0, 255).byte(), mask[None] * (classes - 1)

    meta = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE))
    views = dict(sup=[draw() for _ in range(images)], unsup_weak=[draw() for _ in range(images)])
    inputs = {name: [image for image, _ in pairs] for name, pairs in views.items()}
    inputs['unsup_strong'] = [(255 - image.float() * 0.5).byte() for image in inputs['unsup_weak']]
    valid = PixelData(data=torch.ones(1, SIDE, SIDE, dtype=torch.bool))
    sup = [SegDataSample(gt_sem_seg=PixelData(data=mask), metainfo=dict(meta)) for _, mask in views['sup']]
    weak = [SegDataSample(valid=valid.clone(), metainfo=dict(meta)) for _ in range(images)]
    return dict(inputs=inputs, data_samples=dict(sup=sup, unsup_weak=weak, unsup_strong=deepcopy(weak)))


def losses(model, data: dict, iteration: int) -> dict:
    model.before_step(iteration)
    torch.manual_seed(iteration)
    return model(**model.data_preprocessor(deepcopy(data), training=True), mode='loss')


def train(model, steps: int, start: int = 0, lr: float = 0.05) -> list[dict]:
    """Plain SGD steps as the runner makes them; returns the losses of each."""
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=lr, momentum=0.9)
    history = []
    for iteration in range(start, start + steps):
        model.train()
        found = losses(model, batch(seed=iteration), iteration)
        optimizer.zero_grad()
        model.parse_losses(found)[0].backward()
        optimizer.step()
        model.after_step()
        history.append({k: float(v.detach()) for k, v in found.items()})
    return history
