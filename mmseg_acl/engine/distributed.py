"""What several processes need beyond mmengine: a start without GPUs, and gradients in the order of the weights."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner
from torch import nn


class DistributedRunner(Runner):
    """mmengine's runner, which wraps a model for DDP in the memory order that it will train in.

    DDP lays its buffers for gradients out as the weights are when it gets them. Where a hook changes that afterwards,
    the gradients of the first step are mixed up (seen with torch 2.13), in all processes alike, without an error.
    """

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Convert the model as ``ChannelsLastHook`` would, if the config has one; then wrap it."""
        if any(hook['type'] == 'ChannelsLastHook' for hook in self.cfg.get('custom_hooks') or []):
            model = model.to(memory_format=torch.channels_last)
        return super().wrap_model(model_wrapper_cfg, model)


def leave_processes() -> None:
    """End the talk with the other processes, once all of them are done.

    An interpreter that ends with gloo's threads still running now and then aborts, and torchrun then calls a finished
    run failed.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def prepare_cpus(config: Config) -> None:
    """Have the processes of a distributed run talk over gloo and keep their models on the CPU, if there is no GPU.

    mmengine would choose a GPU for each process, and name it to what wraps the model.

    Raises:
        ValueError: The processes were not started by torchrun.
    """
    launcher = config.get('launcher', 'none')
    if launcher == 'none' or get_device() != 'cpu':
        return
    if launcher != 'pytorch':
        raise ValueError(
            f'--launcher {launcher} needs a GPU for each process, and this machine has none that torch can use: '
            'start processes on CPUs by tools/dist_train.sh'
        )
    if not torch.distributed.is_initialized():
        seconds = config.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
        timeout = None if seconds is None else timedelta(seconds=seconds)
        torch.distributed.init_process_group('gloo', timeout=timeout)
    wrapper = config.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=config.get('find_unused_parameters', False),
    )
    config.model_wrapper_cfg = dict(wrapper, device_ids=None)
