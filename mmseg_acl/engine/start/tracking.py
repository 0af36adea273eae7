"""Scalars and pictures of a run for a tracking program, beside the files that every run writes."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config


class Tracker(NamedTuple):
    """A tracking program.

    Attributes:
        backend: What writes for it, by its name in the registry.
        module: The library that it needs.
    """

    backend: str
    module: str


TRACKERS = {
    'tensorboard': Tracker('TensorboardVisBackend', 'tensorboard'),
    'wandb': Tracker('WandbVisBackend', 'wandb'),
    'mlflow': Tracker('MLflowPictureBackend', 'mlflow'),
}
PROJECT = 'mmseg_acl'
MLFLOW_DATABASE = 'mlflow.db'


def add_tracker(config: Config, name: str) -> None:
    """Let a run write its scalars and pictures for a tracking program, too, in place.

    Args:
        config: Of the run, with its work dir.
        name: One of `TRACKERS`.

    Raises:
        ImportError: Its library is missing.
        ValueError: The config has no visualizer that could write them, or there is no such program.
    """
    if name not in TRACKERS:
        raise ValueError(f'--tracker {name} is unknown; there are {", ".join(TRACKERS)}')
    tracker = TRACKERS[name]
    if importlib.util.find_spec(tracker.module) is None:
        raise ImportError(f'--tracker {name} needs the library {tracker.module}: pip install "mmseg_acl[{name}]"')
    if not config.get('visualizer'):
        raise ValueError(f'--tracker {name}: {config.filename} has no visualizer, which writes scalars and pictures')
    run = '/'.join(Path(config.work_dir).parts[-2:])
    settings: dict[str, dict[str, Any]] = {
        'tensorboard': {},
        'wandb': dict(init_kwargs=dict(project=PROJECT, name=run)),
        'mlflow': dict(exp_name=PROJECT, run_name=run, **_mlflow_store(Path(config.work_dir))),
    }
    present = list(config.visualizer.get('vis_backends') or [])
    if not any(backend['type'] == tracker.backend for backend in present):
        config.visualizer.vis_backends = [*present, dict(type=tracker.backend, **settings[name])]


def _mlflow_store(work_dir: Path) -> dict[str, str]:
    """Where MLflow writes: to the server that the environment names, else to a database in the work dir.

    MLflow 3 has given up its store of plain files, which mmengine would take.
    """
    if uri := os.environ.get('MLFLOW_TRACKING_URI'):
        return dict(tracking_uri=uri)
    folder = work_dir.absolute()
    return dict(
        tracking_uri=f'sqlite:///{(folder / MLFLOW_DATABASE).as_posix()}',
        artifact_location=(folder / 'mlflow').as_uri(),
    )
