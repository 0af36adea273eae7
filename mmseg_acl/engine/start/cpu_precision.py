"""Is bfloat16 faster on this CPU? That hangs on its instructions and on the network, so it is measured."""

from __future__ import annotations

import time

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn

from mmseg_acl.datasets.semi_supervised import random_scope
from mmseg_acl.engine.start.rehearsal import peek
from mmseg_acl.models.networks import learner
from mmseg_acl.models.semi.wrapping import unwrapped

ROUNDS = 2
# As DeepLab's global pooling sees them: with one image, batch normalization has nothing to normalise.
IMAGES = 2


def say_what_bfloat16_costs(runner: Runner, config: Config) -> None:
    """Log how long a network takes in bfloat16 beside single precision, where a run asks for it on a CPU.

    The precision stays as asked for: a run that chose it by a stopwatch could not be repeated. No random state and
    no weight changes.
    """
    model = unwrapped(runner.model)
    if config.optim_wrapper.get('type') != 'BFloat16OptimWrapper' or next(model.parameters()).device.type != 'cpu':
        return
    ratio = time_ratio(learner(model), torch.zeros(IMAGES, 3, *_size(runner)))
    said = f'--amp: forward, the network takes {ratio:.2f} of its time in single precision on this CPU'
    if ratio > 1:
        runner.logger.warning(f'{said}. Leave --amp out: this CPU is faster without it')
    else:
        runner.logger.info(said)


def time_ratio(network: nn.Module, images: Tensor) -> float:
    """Time of a segmentor's forward pass under bfloat16 autocast, as a multiple of that in single precision.

    The precisions take turns, so that what else the machine does strikes both; the best round counts.

    Args:
        network: An mmseg segmentor.
        images: (N, 3, H, W), normalised.
    """
    training = network.training
    network.eval()
    times: dict[bool, list[float]] = {False: [], True: []}
    try:
        with random_scope([0]), torch.no_grad():
            for _ in range(ROUNDS + 1):  # the first round prepares what libraries prepare once
                for bfloat16, found in times.items():
                    start = time.perf_counter()
                    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=bfloat16):
                        network(images, mode='tensor')
                    found.append(time.perf_counter() - start)
    finally:
        network.train(training)
    return min(times[True][1:]) / min(times[False][1:])


def _size(runner: Runner) -> tuple[int, int]:
    """Height and width of the first image as it is trained on."""
    inputs = peek(runner.train_dataloader.dataset, 0)['inputs']
    view = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    return tuple(view.shape[-2:])
