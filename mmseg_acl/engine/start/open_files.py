"""Loaders where a process may have few files open."""

from __future__ import annotations

import os
import resource

import torch.multiprocessing
from mmengine.logging import print_log

# torch keeps a file open for each tensor that a loader's process hands over. This many suffice for any batch, and
# mmengine raises the limit to it where the system allows that.
AMPLE = 4096
# Pipes and connections of one loader's process, and files that are open for a moment: a log, an image, a checkpoint.
PER_WORKER, AT_A_TIME = 5, 16


def prepare_open_files(num_workers: int, setting: str) -> None:
    """Have batches handed over by names instead of open files, where a process may have few of these.

    A loader's process that cannot open a file loses its batch without a word, and the run would wait for it.

    Args:
        num_workers: Processes that load images.
        setting: Where the config says so, such as ``train_dataloader.num_workers``.

    Raises:
        ValueError: Their pipes alone are more than a process may have open.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not num_workers or limit == resource.RLIM_INFINITY or limit >= AMPLE:
        return
    open_now = len(os.listdir('/dev/fd'))
    needed = open_now + PER_WORKER * num_workers + AT_A_TIME
    if needed > limit:
        fitting = max(0, (limit - open_now - AT_A_TIME) // PER_WORKER)
        raise ValueError(
            f'{setting} is {num_workers}, for which {needed} files have to be open; this process may open {limit}: '
            f'raise the limit with `ulimit -n {AMPLE}`, or set {setting} to {fitting} or less'
        )
    if 'file_system' in torch.multiprocessing.get_all_sharing_strategies():
        torch.multiprocessing.set_sharing_strategy('file_system')
        print_log(
            f'this process may open {limit} files (ulimit -n): batches are handed over by names in /dev/shm',
            logger='current',
        )


def too_many_open_files() -> str:
    """What a user can do against it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f'this process may open {limit}: raise the limit with `ulimit -n {AMPLE}`, or set fewer num_workers'
