"""A training step of every method, against one of SupOnly: what each costs in time and memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmseg.registry import MODELS
from torch import nn

from mmseg_acl.benchmarks.measure import Report, extra_memories, seconds
from mmseg_acl.benchmarks.step import CONFIGS, fill_bank, random_weights, ready_to_build
from mmseg_acl.datasets import write_synthetic
from mmseg_acl.engine import load_config
from mmseg_acl.methods import BY_NAME, METHODS
from mmseg_acl.models.networks import is_semi_supervised
from mmseg_acl.models.segmentors import ACLNet
from mmseg_acl.models.semi.memory_bank import MemoryBank

NAMES = tuple(method.name for method in METHODS)


class Step:
    """One iteration as the runner makes it, on one batch of synthetic frames, loading not counted.

    All phases of the method have begun and its banks are full.

    Args:
        method: Name of one of :mod:`mmseg_acl.methods`; its laptop config is used, with random weights.
        root: A data root with synthetic frames.
    """

    def __init__(self, method: str, root: str) -> None:
        ready_to_build()
        config = load_config(str(CONFIGS / BY_NAME[method].folder / 'mbv2_kvasir_eighth.py'))
        torch.manual_seed(0)
        self.batch = next(iter(Runner.build_dataloader(on_frames(config.train_dataloader, root), seed=0)))
        self.model: nn.Module = MODELS.build(random_weights(config.model))
        self.model.init_weights()
        # As the runner does.
        self.model.to(memory_format=torch.channels_last).train()
        self.optimizer = build_optim_wrapper(self.model, config.optim_wrapper)
        self.semi = is_semi_supervised(self.model)
        self.iteration = config.train_cfg.max_iters - 1
        for part in self.model.modules():
            if isinstance(part, MemoryBank):
                fill_bank(part)
        if isinstance(self.model, ACLNet):
            self.model.caa_head.update(self.model.acl_head.bank, 0)

    def __call__(self) -> None:
        self.model.train()
        if self.semi:
            self.model.before_step(self.iteration)
        self.model.train_step(self.batch, self.optimizer)
        if self.semi:
            self.model.after_step()

    def state(self) -> float:
        """Parameters and buffers, in MiB."""
        return sum(tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers())) / 2**20


def on_frames(loader: dict, root: str) -> dict:
    """A config's data loader with its own views and ratio, over the synthetic frames below ``root``."""
    loader.dataset.pop('partition', None)
    for source in ('labelled', 'unlabelled'):
        found = loader.dataset.get(source) or []
        for config in [found] if isinstance(found, dict) else found:
            config.update(type='PolypDataset', data_root=root, folder=f'Synthetic/{source}')
    return loader


def prepare(method: str, root: str) -> Callable[[], None]:
    """Build the step whose memory is measured; one before loads what libraries load and makes the momenta."""
    step = Step(method, root)
    step()
    return step


def run(repeats: int, methods: Sequence[str] = NAMES) -> Report:
    """Measure time and memory of a step of each of ``methods``, ``'SupOnly'`` among them."""
    with tempfile.TemporaryDirectory() as root:
        write_synthetic(root, labelled=8, unlabelled=8, test=0)
        steps = {method: Step(method, root) for method in methods}
        times = seconds(steps, repeats)
        peaks = extra_memories(prepare, [(method, root) for method in methods])
    whole = {name: peak + steps[name].state() for name, peak in zip(methods, peaks, strict=True)}
    rows = [
        {
            'method': name,
            'ms': times[name] * 1e3,
            'iterations a second': 1 / times[name],
            'time to SupOnly': times[name] / times['SupOnly'],
            'peak, MiB': whole[name],
            'memory to SupOnly': whole[name] / whole['SupOnly'],
        }
        for name in methods
    ]
    return Report(
        title='A training step of every method on 4 labelled and 4 unlabelled images, MobileNetV2, 128 x 128',
        rows=rows,
        notes=[
            'SupOnly has the 4 labelled images alone. Late in the run: every phase has begun, banks are full. '
            'Weights and frames are random.',
            'Peak: what a step needs beyond its model, plus parameters and buffers.',
        ],
    )
