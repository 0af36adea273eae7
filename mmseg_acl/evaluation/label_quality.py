"""What refinement makes of a checkpoint's pseudo-labels, setting by setting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from prettytable import PrettyTable
from rich.progress import track

from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.evaluation.cross_dataset import load_model
from mmseg_acl.evaluation.labelled_images import labelled_images
from mmseg_acl.models import ACLNet
from mmseg_acl.models.semi.pseudo_label import mean_dice


class Setting(NamedTuple):
    """One way to refine: attributes laid over those of the checkpoint's model.

    Attributes:
        refiner: Of its ``PseudoLabelRefiner``.
        aggregation: Of its ``CAAHead``.
    """

    refiner: dict[str, Any] = {}
    aggregation: dict[str, Any] = {}


NO_CLUSTERS = dict(has_clusters=torch.tensor(False))
HIGH, LOW = dict(low=False, gated=True), dict(high=False, gated=True)
SETTINGS = {
    'as configured': Setting(),
    'as configured, gated': Setting(dict(gated=True)),
    'as configured, not gated': Setting(dict(gated=False)),
    **{f'LA, {n} iterations': Setting(dict(LOW, num_iters=n)) for n in (1, 3, 5, 10, 20, 40)},
    'LA, 10 iterations, not gated': Setting(dict(LOW, num_iters=10, gated=False)),
    'LA, 10 iterations, range not restored': Setting(dict(LOW, num_iters=10, ranged=False)),
    'HA': Setting(HIGH),
    'HA without AG': Setting(HIGH, NO_CLUSTERS),
    'HA, not gated': Setting(dict(HIGH, gated=False)),
    'joint, 3 iterations': Setting(dict(schedule='joint', num_iters=3, gated=True)),
}


class Quality(NamedTuple):
    """Dice of pseudo-labels in percent, mean over images.

    Attributes:
        dice: After refinement.
        change: Against the teacher's own labels.
        error: Standard error of the change, paired by image.
    """

    dice: float
    change: float
    error: float


@torch.no_grad()
def measure_label_quality(config: Config, checkpoint: str, ann_file: str, out_dir: str) -> dict[str, Quality]:
    """Score the pseudo-labels of labelled images under every setting, at the network's input size.

    The images should be none that the network was trained on with labels: ``kvasir/dev`` lies outside every
    labelled partition.

    Args:
        config: Config of an ``ACLNet``.
        checkpoint: Its weights.
        ann_file: A list of the config's test data set class, by name or path.
        out_dir: Where ``label_quality.json`` goes.

    Returns:
        Quality by setting; the first is the teacher's own labels.

    Raises:
        TypeError: The model is no ``ACLNet``.
        FileNotFoundError, ValueError: Checkpoint, list or images are missing or do not fit.
    """
    model = load_model(config, checkpoint)
    if not isinstance(model, ACLNet):
        raise TypeError(f'only ACLNet refines pseudo-labels; this config builds {type(model).__name__}')
    dice: dict[str, list[float]] = {name: [] for name in ('teacher', *SETTINGS)}
    for images, masks in track(list(labelled_images(config, model, ann_file)), description='label quality'):
        valid = torch.ones_like(masks, dtype=torch.bool)
        seen = model.inspect(images, valid)
        dice['teacher'].append(float(mean_dice(seen.prob, masks, valid)))
        for name, setting in SETTINGS.items():
            with _laid_over(model.refiner, setting.refiner), _laid_over(model.caa_head, setting.aggregation):
                refined = model.refine(seen.prob, images, model.aggregate(seen.affinities), valid)
            dice[name].append(float(mean_dice(refined.prob, masks, valid)))
    own = torch.tensor(dice['teacher'])
    found = {}
    for name, values in dice.items():
        change = torch.tensor(values) - own
        error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else 0.0
        found[name] = Quality(sum(values) / len(values), float(change.mean()), error)
    out = Path(out_dir) / 'label_quality.json'
    scores = {name: quality._asdict() for name, quality in found.items()}
    write_atomically(f'{json.dumps(scores, indent=1)}\n'.encode(), out)
    print(f'{format_quality(found, len(own))}\nwritten: {out}')
    return found


def format_quality(found: dict[str, Quality], images: int) -> str:
    """A table a terminal and Markdown can both show."""
    table = PrettyTable(['pseudo-labels', f'Dice, {images} images', 'change', 'standard error'])
    table.align = 'r'
    table.align['pseudo-labels'] = 'l'
    for name, quality in found.items():
        table.add_row([name, f'{quality.dice:.2f}', f'{quality.change:+.2f}', f'{quality.error:.2f}'])
    return table.get_string()


@contextmanager
def _laid_over(module: torch.nn.Module, values: dict[str, Any]) -> Iterator[None]:
    """Give ``module`` other attributes for a while."""
    before = {name: getattr(module, name) for name in values}
    try:
        for name, value in values.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
