"""From a config file to a runner, with every error a user can make found before training starts."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmseg_acl._stack import hide_log_noise
from mmseg_acl.commands import as_typed
from mmseg_acl.datasets.class_data import folders_explained
from mmseg_acl.engine.best import settle_best, tell_next_steps
from mmseg_acl.engine.checkpoint import check_state_fits, state_of
from mmseg_acl.engine.distributed import DistributedRunner, prepare_cpus
from mmseg_acl.engine.hooks.stop_signal_hook import StopSignalHook
from mmseg_acl.engine.progress_bar import progress_bar
from mmseg_acl.engine.same_run import check_same_data, check_same_optimizer
from mmseg_acl.engine.start.config_checks import check_config, check_options, leave_out_dissolved_hooks, rank
from mmseg_acl.engine.start.cpu_precision import say_what_bfloat16_costs
from mmseg_acl.engine.start.open_files import prepare_open_files, too_many_open_files
from mmseg_acl.engine.start.reading import CheckpointReader
from mmseg_acl.engine.start.rehearsal import rehearse
from mmseg_acl.engine.start.resume import has_checkpoint, prepare_resume
from mmseg_acl.engine.start.run_config import RunConfig
from mmseg_acl.engine.start.section_types import check_section_types
from mmseg_acl.engine.start.validation_rehearsal import rehearse_validation
from mmseg_acl.engine.start.weights import check_weights_fit, local_weights, resolve_weights
from mmseg_acl.engine.start.work_dir import claim_work_dir
from mmseg_acl.errors import CheckpointError, DataError, RunError
from mmseg_acl.models.one_channel import with_threshold
from mmseg_acl.models.semi.student import check_losses
from mmseg_acl.models.semi.wrapping import unwrapped
from mmseg_acl.numerics import NUMERICS
from mmseg_acl.phases import resolve_phases, too_late
from mmseg_acl.renamed import instead_of_removed_file
from mmseg_acl.shipped import read_config, shipped_path

DEBUG = 'MMSEG_ACL_DEBUG'
USER_ERRORS = (OSError, ValueError, TypeError, KeyError, ImportError)
# How torch begins when one of its loader's processes has gone; where it goes while it hands over a batch, the
# connection breaks.
LOST_LOADER = 'DataLoader worker (pid'
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class OptionsAction(DictAction):
    """mmengine's ``--cfg-options``, which also says what is wrong with an argument."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        try:
            super().__call__(parser, *args, **kwargs)
        except (ValueError, AssertionError):
            values = args[1] if len(args) > 1 else kwargs.get('values')
            parser.error(f'--cfg-options takes KEY=VALUE, e.g. train_cfg.max_iters=600; got {" ".join(values)}')


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what a user got wrong into one message on stderr and exit status 2.

    A :class:`~mmseg_acl.errors.RunError` ends with its own status. ``MMSEG_ACL_DEBUG=1`` shows the traceback
    instead. Other exceptions are defects and pass through.
    """
    try:
        yield
    except (*USER_ERRORS, RunError) as error:
        if os.environ.get(DEBUG):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
            text = f'{error}; {too_many_open_files()}'
        print(f'error: {as_typed(str(text))}\n({DEBUG}=1 shows where)', file=sys.stderr)
        sys.exit(error.status if isinstance(error, RunError) else 2)
    except KeyboardInterrupt:
        if os.environ.get(DEBUG):
            raise
        print('stopped by Ctrl-C', file=sys.stderr)
        sys.exit(130)


def load_config(
    path: str,
    work_dir: str | None = None,
    options: dict | None = None,
    seed: int | None = None,
    amp: bool = False,
    launcher: str = 'none',
    resume: bool | Literal['auto'] = False,
    iters: int | None = None,
) -> Config:
    """Read a config and lay the command line over it.

    Args:
        path: Config file, or the name of one that comes with the package (:mod:`mmseg_acl.shipped`).
        work_dir: Where the run writes; by default ``work_dirs/<folder of the config>/<its name>``.
        options: Dotted keys and their values, as given by ``--cfg-options``.
        seed: Overrides ``randomness.seed``.
        amp: Mixed precision: fp16 on a GPU, bfloat16 on a CPU.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        resume: Go on from the last checkpoint in ``work_dir``; ``'auto'``: if it has one.
        iters: Length of the run; all that counts iterations is scaled with it (:mod:`mmseg_acl.phases`).

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: It cannot be read, an option would change nothing, a length makes no sense, or a head with one
            channel has another threshold than scores have.
    """
    file = Path(shipped_path(path))
    if file.is_dir():
        inside = ', '.join(map(str, sorted(file.glob('*.py')))) or 'there is none in it'
        raise FileNotFoundError(f'{path} is a folder, and a config file is asked for: {inside}')
    if not file.is_file():
        raise FileNotFoundError(f'no config at {path}; those that come with the project lie under configs/')
    try:
        config = read_config(file)
    except Exception as error:  # a config is a program: whatever it does wrong
        instead = instead_of_removed_file(str(error))
        if isinstance(error, UnicodeDecodeError):
            instead = ': save it as UTF-8'
        raise ValueError(f'{path} cannot be read as a config: {type(error).__name__}: {error}{instead}') from error
    if options:
        check_options(config, options)
        config.merge_from_dict(options)
    check_section_types(config)
    resolve_phases(config, iters, options or ())
    config.launcher = launcher
    if work_dir is not None:
        config.work_dir = work_dir
    elif config.get('work_dir') is None:
        config.work_dir = str(Path('work_dirs') / file.resolve().parent.name / file.stem)
    if seed is not None:
        config.randomness = dict(config.get('randomness', {}), seed=seed)
    if amp:
        if config.get('optim_wrapper') is None:
            raise ValueError(f'--amp: {path} has no optim_wrapper')
        kind = 'AmpOptimWrapper' if torch.cuda.is_available() else 'BFloat16OptimWrapper'
        config.optim_wrapper.type = kind
    if resume == 'auto':
        resume = has_checkpoint(config)
    if resume:
        config.resume, config.load_from = True, None
    if config.get('model') is not None:
        config.model = with_threshold(config.model)
    config.numerics = NUMERICS  # a run leaves it in its config, beside its checkpoints
    return config


def build_runner(config: Config) -> Runner:
    """A runner with work dir, model, data and weights checked, ready for :func:`train`.

    mmengine builds the loops when ``train`` is called; here they are built at once, so that a missing file or
    a wrong key ends the program before anything is computed.

    Raises:
        FileNotFoundError, ValueError, TypeError, KeyError: The config asks for what cannot be.
    """
    check_config(config)
    if fault := too_late(config):
        print_log(fault, 'current', logging.WARNING)  # before the many lines of a start; and after them, in its log
    leave_out_dissolved_hooks(config)
    read = CheckpointReader()
    resolve_weights(config.model, read)
    if rank(config.get('launcher', 'none')) == 0:
        claim_work_dir(config.work_dir, bool(config.get('resume')))
    resumed = prepare_resume(config, read) if config.get('resume') else None
    start = state_of(read(config.load_from)) if _is_file_name(config.get('load_from')) else None
    prepare_cpus(config)
    try:
        runner = DistributedRunner.from_cfg(RunConfig.of(config))
        hide_log_noise(runner.logger)
        check_losses(runner.model)
        for path in local_weights(config.model):
            check_weights_fit(unwrapped(runner.model), path, read)
        if start is not None:
            check_state_fits(unwrapped(runner.model), start, config.load_from)
        with folders_explained(config.train_dataloader, config.get('val_dataloader')):
            _ = runner.train_loop, runner.val_loop
        if resumed is not None:
            check_same_data(runner.train_dataloader.dataset, resumed.content['meta'], resumed.path)
            check_same_optimizer(runner, resumed.content, resumed.path)
    except (AssertionError, AttributeError, IndexError, RuntimeError, ZeroDivisionError) as error:
        # How the stack refuses what it does not check: the parts of a config do not fit.
        raise ValueError(f'the config cannot be built: {error_text(error)}') from error
    for key in ('train_dataloader', 'val_dataloader'):
        prepare_open_files((config.get(key) or {}).get('num_workers', 0), f'{key}.num_workers')
    rehearse(runner)
    say_what_bfloat16_costs(runner, config)
    if runner.val_loop is not None:
        settle_best(runner, rehearse_validation(runner))
    if not config.get('resume') and config.filename:
        # The copy in the work dir, since options of the command line may have changed the data.
        copy = Path(runner.work_dir) / Path(config.filename).name
        hint = f'to look at the frames and masks of this run: python tools/inspect_data.py {copy}'
        runner.logger.info(as_typed(hint))
    return runner


def train(runner: Runner) -> None:
    """Train. Up to the end of the first step, whatever fails is taken for something that the user can mend.

    Raises:
        ValueError: The parts of the config do not fit together.
        RunError: The run had to end later; the message says why, and what is left of it.
    """
    first = _FirstStep()
    runner.register_hook(first)
    try:
        with progress_bar(runner):
            runner.train()
        tell_next_steps(runner)
    except RunError as error:
        if isinstance(error, DataError) and not first.done:
            raise ValueError(str(error)) from error
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            raise CheckpointError(
                f'{runner.work_dir} cannot be written to: {error.strerror}. The checkpoints there are as they were. '
                'Make room, then go on with --resume'
            ) from error
        if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
            raise RunError(f'at iteration {runner.iter + 1}: {error}; {too_many_open_files()}') from error
        for hook in runner.hooks:
            if isinstance(hook, StopSignalHook):  # a signal to all processes may have ended a loader's worker
                hook.stop_if_asked(runner)
        if LOST_LOADER in str(error) or isinstance(error, (ConnectionError, EOFError)):
            raise RunError(
                f'a process that loads images was killed at iteration {runner.iter + 1} ({error_text(error)}): often '
                'memory has run out. Go on with --resume, with fewer train_dataloader.num_workers or a smaller batch'
            ) from error
        if first.done:
            raise _Defect(f'at iteration {runner.iter + 1}') from error
        if isinstance(error, OSError):
            raise
        raise ValueError(f'the run failed before its first step was done: {error_text(error)}') from error


class _FirstStep(Hook):
    """Know whether a step has been done."""

    done = False

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        self.done = True


class _Defect(Exception):
    """Passes through ``user_errors`` with the traceback of its cause."""


def error_text(error: Exception) -> str:
    """What an error says; of an assertion without words, what was asserted."""
    if str(error):
        return f'{type(error).__name__}: {error}'
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f'{frame.line!r} does not hold ({Path(frame.filename).name}, {frame.name})'


def _is_file_name(name: str | None) -> bool:
    return bool(name) and '://' not in name
