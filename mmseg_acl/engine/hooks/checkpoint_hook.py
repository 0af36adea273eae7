"""Checkpoints that survive whatever happens while they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import nn

from mmseg_acl.engine.atomic import BACKEND, remove_unfinished, write_atomically
from mmseg_acl.models.networks import is_semi_supervised
from mmseg_acl.models.semi.wrapping import unwrapped

# In this order; other scores may be better when they are low.
SCORES = ('mDice', 'mIoU')


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's hook, with a whole checkpoint on the disk at every moment.

    A checkpoint is written to another name, synced and renamed; then ``last_checkpoint`` likewise; only then is
    one deleted that ``max_keep_ckpts`` or a better score makes superfluous. mmengine deletes first and writes in
    place.

    Args:
        interval: Iterations (epochs) between two checkpoints, or -1 for one at the end only. With gradient
            accumulation it must be a multiple of ``accumulative_counts``: gradients are in no checkpoint.
        max_keep_ckpts: How many to keep, or -1 for all.
        save_best (str | list[str] | None): As in mmengine, but that ``'auto'`` takes mDice, else mIoU, of the
            network that predicts. Where a validation gives neither, or there is a reason against a best one, none is
            kept.
        backend_args: Where they go; by default to the local disk.
        **kwargs (Any): Other arguments of mmengine's ``CheckpointHook``.

    Raises:
        TypeError: mmengine's hook does not know an argument.
        ValueError: An interval or number is 0 or does not fit.
    """

    def __init__(
        self, interval: int = -1, max_keep_ckpts: int = -1, backend_args: dict | None = None, **kwargs
    ) -> None:
        for name, value in dict(interval=interval, max_keep_ckpts=max_keep_ckpts).items():
            if not isinstance(value, int) or value < 1 and value != -1:
                raise ValueError(f'{name} is {value!r}; it must be a whole number of at least 1, or -1')
        self.local = backend_args is None
        super().__init__(
            interval=interval,
            max_keep_ckpts=max_keep_ckpts,
            backend_args=dict(backend=BACKEND) if self.local else backend_args,
            **kwargs,
        )
        if self.args:
            # mmengine would pass them on and fail at the first checkpoint.
            raise TypeError(f"AtomicCheckpointHook got an unexpected keyword argument '{next(iter(self.args))}'")
        self.last_step: int | None = None
        self.no_best: str | None = None

    def keep_no_best(self, reason: str) -> None:
        """Keep the last checkpoints alone; ``no_best`` says why."""
        self.save_best, self.no_best = None, reason

    def before_train(self, runner: Runner) -> None:
        """Check the interval, and remove what a killed run has left unfinished."""
        super().before_train(runner)
        self._stay_in_own_folder()
        counts = accumulative_counts(runner)
        if not self.by_epoch and self.interval > 0 and self.interval % counts:
            raise ValueError(
                f'default_hooks.checkpoint.interval is {self.interval}; it must be a multiple of the '
                f'{counts} iterations whose gradients are accumulated'
            )
        if self.local and is_main_process():
            remove_unfinished(self.out_dir)

    def _stay_in_own_folder(self) -> None:
        """In a copied work dir, the best checkpoint so far is the copy; a better one must not remove the original."""
        here = lambda path: path and self.file_backend.join_path(self.out_dir, Path(path).name)  # noqa: E731
        if hasattr(self, 'best_ckpt_path'):
            self.best_ckpt_path = here(self.best_ckpt_path)
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[key] = here(path)

    def save_now(self, runner: Runner, iteration: int) -> Path | None:
        """Save the state after ``iteration`` steps, whether or not it is due; a hook that counts epochs cannot."""
        if self.by_epoch:
            return None
        if self.last_step != iteration:
            self._save_checkpoint_with_step(runner, iteration, dict(epoch=runner.epoch, iter=iteration))
        return Path(self.last_ckpt)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        old = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            old = [self.keep_ckpt_ids.popleft() for _ in range(len(self.keep_ckpt_ids) + 1 - self.max_keep_ckpts)]
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt, self.last_step = self.file_backend.join_path(self.out_dir, name), step
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
        )
        if not is_main_process():
            return
        write_atomically(self.last_ckpt.encode(), Path(runner.work_dir) / 'last_checkpoint')
        for superfluous in old:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(superfluous))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if self.save_best and 'auto' in self.key_indicators:
            score = best_score(runner.model, metrics)
            if score is None:
                self.keep_no_best('no validation gives mDice or mIoU')
                return
            self._init_rule(self.rules, [score])
        with self._removed_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removed_last(self) -> Iterator[None]:
        """Put off what mmengine removes until the code inside has written its files."""
        backend, waiting = self.file_backend, []
        self.file_backend = _Postponing(backend, waiting.append)
        try:
            yield
        finally:
            self.file_backend = backend
        # A score may rise twice at one iteration, as of a run that was resumed.
        kept = {getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()}
        for path in set(waiting) - kept:
            backend.remove(path)


class _Postponing:
    """A file backend that only notes what it is asked to remove."""

    def __init__(self, backend: object, note: Callable[[str], None]) -> None:
        self._backend, self.remove = backend, note

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)


def accumulative_counts(runner: Runner) -> int:
    """Iterations whose gradients make one update; the largest number where there are several optimizers."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if hasattr(wrapper, 'optim_wrappers') else [wrapper]
    return max(getattr(one, '_accumulative_counts', 1) for one in wrappers)


def best_score(model: nn.Module, keys: Iterable[str]) -> str | None:
    """The score that ``save_best='auto'`` stands for: of the network that predicts, mDice or else mIoU.

    Args:
        model: Such as a method, whose scores are named ``teacher/mDice``, or a segmentor, whose are ``mDice``.
        keys: Names of the scores of a validation.

    Returns:
        The name; None where there is none of them.
    """
    model, keys = unwrapped(model), set(keys)
    wanted = [f'{model.predict_on}/{score}' for score in SCORES] if is_semi_supervised(model) else []
    return next((key for key in (*wanted, *SCORES) if key in keys), None)
