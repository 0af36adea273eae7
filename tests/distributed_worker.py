"""One process of tests/engine/test_distributed.py: runs several trainings and writes what it saw of each.

    torchrun --nproc_per_node 2 tests/distributed_worker.py OUT CASES

CASES is a json of {name: [method, {dotted option: value}]}; OUT receives NAME_RANK.pth.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import torch
from building import plain_texts
from mmengine.hooks import Hook
from mmengine.runner import Runner
from variation import vary

from mmseg_acl.engine import build_runner, leave_processes, load_config, train
from mmseg_acl.models.semi.wrapping import unwrapped

CONFIGS = Path(__file__).parent / 'configs'


class Watch(Hook):
    """Keep the losses and the images of every step, as this process has them."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.images: list[list[str]] = []

    def before_train(self, runner: Runner) -> None:
        self.start = {name: value.clone() for name, value in unwrapped(runner.model).state_dict().items()}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        found = {name: torch.as_tensor(value).detach() for name, value in outputs.items() if 'loss' in name}
        self.losses.append({name: float(value) for name, value in found.items()})
        views = data_batch['data_samples']
        self.images.append([sample.img_path for view in ('sup', 'unsup_weak') for sample in views.get(view, [])])


def run(method: str, options: dict, work_dir: Path, launcher: str = 'none') -> dict:
    """Train, and return what can be compared."""
    path = CONFIGS / f'{method}.py'
    config = load_config(str(path), work_dir=str(work_dir), options=options, launcher=launcher)
    runner, watch = build_runner(config), Watch()
    runner.register_hook(watch)
    train(runner)
    model = unwrapped(runner.model)
    return dict(
        losses=watch.losses,
        images=watch.images,
        start=watch.start,
        state=model.state_dict(),
        wrapper=type(runner.model).__name__,
    )


def main() -> None:
    out, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    vary()
    plain_texts()
    for name, (method, options) in cases.items():
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        try:
            found = run(method, options, out / name, 'pytorch')
        except Exception:  # the other cases are to be seen as well
            found = dict(error=traceback.format_exc())
        torch.save(found, out / f'{name}_{os.environ["RANK"]}.pth')
    leave_processes()


if __name__ == '__main__':
    main()
