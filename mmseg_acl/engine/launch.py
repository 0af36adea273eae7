"""From a config file to a runner, with every error a user can make found before training starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmseg_acl._stack import hide_log_noise
from mmseg_acl.engine.hooks.mean_teacher_hook import unwrapped
from mmseg_acl.engine.weights import check_weights_fit, local_weights, resolve_weights

DEBUG = 'MMSEG_ACL_DEBUG'


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what a user got wrong into one message on stderr and exit status 2.

    ``MMSEG_ACL_DEBUG=1`` shows the traceback instead. Other exceptions are defects and pass through.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, ValueError, TypeError, KeyError, ImportError) as error:
        if os.environ.get(DEBUG):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f'error: {text}\n({DEBUG}=1 shows where)', file=sys.stderr)
        sys.exit(2)


def load_config(
    path: str,
    work_dir: str | None = None,
    options: dict | None = None,
    seed: int | None = None,
    amp: bool = False,
    launcher: str = 'none',
    resume: bool = False,
) -> Config:
    """Read a config and lay the command line over it.

    Args:
        path: Config file.
        work_dir: Where the run writes; by default ``work_dirs/<folder of the config>/<its name>``.
        options: Dotted keys and their values, as given by ``--cfg-options``.
        seed: Overrides ``randomness.seed``.
        amp: Mixed precision: fp16 on a GPU, bfloat16 on a CPU.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        resume: Go on from the last checkpoint in ``work_dir``.

    Raises:
        FileNotFoundError: There is no such config.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f'no config at {path}; those that come with the project lie under configs/')
    config = Config.fromfile(path)
    if options:
        config.merge_from_dict(options)
    config.launcher = launcher
    if work_dir is not None:
        config.work_dir = work_dir
    elif config.get('work_dir') is None:
        config.work_dir = str(Path('work_dirs') / file.resolve().parent.name / file.stem)
    if seed is not None:
        config.randomness = dict(config.get('randomness', {}), seed=seed)
    if amp:
        kind = 'AmpOptimWrapper' if torch.cuda.is_available() else 'BFloat16OptimWrapper'
        config.optim_wrapper.type = kind
    if resume:
        config.resume, config.load_from = True, None
    return config


def build_runner(config: Config) -> Runner:
    """A runner with model, data and weights checked, ready to train.

    mmengine builds the loops when ``train`` is called; here they are built at once, so that a missing file or
    a wrong key ends the program before anything is computed.

    Raises:
        FileNotFoundError, ValueError, TypeError, KeyError: The config asks for what cannot be.
    """
    resolve_weights(config.model)
    runner = Runner.from_cfg(config)
    hide_log_noise(runner.logger)
    for path in local_weights(config.model):
        check_weights_fit(unwrapped(runner.model), path)
    _ = runner.train_loop, runner.val_loop
    return runner
