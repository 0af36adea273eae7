"""A training step of every method, against one of SupOnly: what each costs in time and memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmseg.registry import MODELS
from torch import nn

from mmseg_acl.benchmarks.measure import Report, SkipPart, extra_memories, seconds
from mmseg_acl.benchmarks.step import CONFIGS, TRACKS, fill_bank, random_weights, ready_to_build
from mmseg_acl.datasets import write_synthetic
from mmseg_acl.engine import load_config
from mmseg_acl.methods import BY_NAME, METHODS
from mmseg_acl.models.networks import is_semi_supervised
from mmseg_acl.models.segmentors import ACLNet
from mmseg_acl.models.semi.memory_bank import MemoryBank

NETWORKS = dict(mbv2='MobileNetV2', r50='ResNet-50')
NAMES = tuple(method.name for method in METHODS)


class Step:
    """One iteration as the runner makes it, on one batch of synthetic frames, loading not counted.

    All phases of the method have begun and its banks are full.

    Args:
        method: Name of one of :mod:`mmseg_acl.methods`; its config of the track is used, with random weights.
        root: A data root with synthetic frames.
        side: Of the images, 128 (MobileNetV2) or 384 (ResNet-50).
        device: Where it runs.
        amp: Mixed precision, as ``tools/train.py --amp``.
    """

    def __init__(self, method: str, root: str, side: int = 128, device: str = 'cpu', amp: bool = False) -> None:
        ready_to_build()
        network, data, _ = TRACKS[side]
        config = load_config(str(CONFIGS / BY_NAME[method].folder / f'{network}_{data}.py'), amp=amp)
        torch.manual_seed(0)
        self.batch = next(iter(Runner.build_dataloader(on_frames(config.train_dataloader, root), seed=0)))
        self.model: nn.Module = MODELS.build(random_weights(config.model))
        self.model.init_weights()
        # As the runner does.
        self.model.to(device, memory_format=torch.channels_last).train()
        self.optimizer = build_optim_wrapper(self.model, config.optim_wrapper)
        self.semi = is_semi_supervised(self.model)
        self.iteration = config.train_cfg.max_iters - 1
        for part in self.model.modules():
            if isinstance(part, MemoryBank):
                fill_bank(part)
        if isinstance(self.model, ACLNet):
            self.model.caa_head.update(self.model.acl_head.bank, 0)

    def __call__(self) -> dict[str, torch.Tensor]:
        """Make the step; its losses."""
        self.model.train()
        if self.semi:
            self.model.before_step(self.iteration)
        losses = self.model.train_step(self.batch, self.optimizer)
        if self.semi:
            self.model.after_step()
        return losses

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


def prepare(method: str, root: str, side: int) -> Callable[[], object]:
    """Build the step whose memory is measured; one before loads what libraries load and makes the momenta."""
    step = Step(method, root, side)
    step()
    return step


def on_cpu(methods: Sequence[str], root: str, side: int, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds and MiB of a step of each method; they take turns."""
    steps = {method: Step(method, root, side) for method in methods}
    times = seconds(steps, repeats)
    peaks = extra_memories(prepare, [(method, root, side) for method in methods])
    return [*times.values()], [peak + steps[name].state() for name, peak in zip(methods, peaks, strict=True)]


def on_gpu(methods: Sequence[str], root: str, side: int, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds and MiB of a step of each method in fp16, one after another, since a GPU may not hold all of them."""
    times, peaks = [], []
    for method in methods:
        step = Step(method, root, side, 'cuda', amp=True)
        for _ in range(3):  # libraries choose their algorithms, the optimizer makes its momenta
            step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

        def whole_step(step: Step = step) -> None:
            step()
            torch.cuda.synchronize()

        times.append(seconds({method: whole_step}, repeats)[method])
        peaks.append(torch.cuda.max_memory_allocated() / 2**20)
        del step, whole_step
        torch.cuda.empty_cache()
    return times, peaks


def run(repeats: int, methods: Sequence[str] = NAMES, side: int = 128, device: str = 'cpu') -> Report:
    """Measure time and memory of a step of each of ``methods``, ``'SupOnly'`` among them.

    Raises:
        SkipPart: A GPU is asked for, and there is none.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise SkipPart('the cost of the methods on a GPU needs a GPU that torch sees')
    with tempfile.TemporaryDirectory() as root:
        write_synthetic(root, labelled=8, unlabelled=8, test=0)
        times, peaks = (on_gpu if device == 'cuda' else on_cpu)(methods, root, side, repeats)
    supervised = methods.index('SupOnly')
    rows = [
        {
            'method': name,
            'ms': time * 1e3,
            'iterations a second': 1 / time,
            'time to SupOnly': time / times[supervised],
            'peak, MiB': peak,
            'memory to SupOnly': peak / peaks[supervised],
        }
        for name, time, peak in zip(methods, times, peaks, strict=True)
    ]
    where = f' on {torch.cuda.get_device_name()} in fp16' if device == 'cuda' else ''
    return Report(
        title='A training step of every method on 4 labelled and 4 unlabelled images, '
        f'{NETWORKS[TRACKS[side][0]]}, {side} x {side}{where}',
        rows=rows,
        notes=[
            'SupOnly has the 4 labelled images alone. Late in the run: every phase has begun, banks are full. '
            'Weights and frames are random.',
            'Peak: what torch has allocated on the GPU.'
            if device == 'cuda'
            else 'Peak: what a step needs beyond its model, plus parameters and buffers.',
        ],
    )
