"""What a run is doing, as a page that is written anew at each validation and at the end."""

from __future__ import annotations

import heapq
import subprocess
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.dataset import pseudo_collate
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from torch import nn
from torch.utils.data import Dataset

from mmseg_acl.colours import LEGEND, PREDICTION, TRUTH
from mmseg_acl.datasets.class_data import leaves
from mmseg_acl.datasets.labels import IGNORE
from mmseg_acl.datasets.semi_supervised import random_scope
from mmseg_acl.datasets.survey import SourceSurvey
from mmseg_acl.engine.best import best_checkpoints, next_steps
from mmseg_acl.engine.export import dataset_of_frames
from mmseg_acl.models.networks import is_semi_supervised, networks_of
from mmseg_acl.models.semi.wrapping import unwrapped
from mmseg_acl.visualization import pictures
from mmseg_acl.visualization.report import Curve, Report, read_scalars

REPORT = 'report.html'
# Scores that are drawn, with a panel each; label quality is what refinement logs.
SCORES = ('mDice', 'mIoU')
QUALITY = ('labelled/', 'hidden/')
LABELS = ('LoadPolypMask', 'LoadAnnotations')
RECENT = 20


class Scored(NamedTuple):
    """A validation image and what was predicted.

    Attributes:
        dice: In percent, mean over the classes beside the background that mask or prediction have.
        order: Of two with one score the earlier counts as worse.
        path: The image's file.
        truth: (H, W) uint8.
        found: (H, W) uint8.
    """

    dice: float
    order: int
    path: str
    truth: np.ndarray
    found: np.ndarray


@HOOKS.register_module()
class ReportHook(Hook):
    """Write ``report.html`` into the work dir, at each validation and at the end of a run.

    It needs no other file and no network, and reads well on a telephone. It has the validation scores of each
    network, each loss by itself, the quality of pseudo-labels where it is logged, the worst and the best validation
    images, labelled and unlabelled frames, speed and memory, config and commit, and what to do next.

    What is predicted on validation and unlabelled images goes to the visualizer, too: to files, and to a tracker.
    Nothing that a training draws at random changes. A page that cannot be made is said and does not end the run.

    Args:
        frames: How many of each kind are shown; 0 for no page at all.
    """

    priority = 'LOWEST'  # when scores are logged and checkpoints are saved

    def __init__(self, frames: int = 3) -> None:
        if frames < 0:
            raise ValueError(f'frames is {frames}; it must be at least 0, which writes no report')
        self.frames = frames
        self._network: str | None = None
        self._worst: list[tuple[float, int, Scored]] = []
        self._best: list[tuple[float, int, Scored]] = []
        self._number = count()
        self._began = time.time()

    def before_train(self, runner: Runner) -> None:
        """Note which network predicts, and when training began."""
        model = unwrapped(runner.model)
        self._network = model.predict_on if is_semi_supervised(model) else None
        self._began = time.time()

    def before_val_epoch(self, runner: Runner) -> None:
        """Forget the images of the last validation."""
        self._worst, self._best, self._number = [], [], count()

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: list | None = None
    ) -> None:
        """Keep the images that the predicting network does worst and best on."""
        if (
            self.frames
            and is_main_process()
            and getattr(unwrapped(runner.model), 'predict_on', None) == self._network
        ):
            for sample in outputs or ():
                if scored := _score(sample, next(self._number)):
                    self._keep(scored)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the page, where a training validates."""
        if runner.iter:
            self._write(runner, running=True)

    def after_train(self, runner: Runner) -> None:
        """Write the page of the finished run."""
        self._write(runner, running=False)
        if is_main_process() and (Path(runner.work_dir) / REPORT).is_file():
            runner.logger.info(f'the report of this run: {Path(runner.work_dir) / REPORT}')

    def _keep(self, scored: Scored) -> None:
        for heap, sign in ((self._worst, -1), (self._best, 1)):
            heapq.heappush(heap, (sign * scored.dice, sign * scored.order, scored))
            if len(heap) > self.frames:
                heapq.heappop(heap)

    @master_only
    def _write(self, runner: Runner, running: bool) -> None:
        if not self.frames:
            return
        model = unwrapped(runner.model)
        training = model.training
        try:
            with random_scope([0]), torch.no_grad():
                self._make(runner, model.eval(), running).write(Path(runner.work_dir) / REPORT)
        except Exception as error:  # a training is worth more than its report
            runner.logger.warning(
                f'{REPORT} could not be written ({type(error).__name__}: {error}); training goes on'
            )
        finally:
            model.train(training)

    def _make(self, runner: Runner, model: nn.Module, running: bool) -> Report:
        name = Path(runner.cfg.filename or 'run').stem
        report = Report(f'{type(model).__name__}: {name}')
        curves = read_scalars(Path(runner.work_dir))
        self._add_state(report, runner, curves, running)
        _add_curves(report, 'Validation', 'Each network on the validation images, in percent.', _scores(curves))
        _add_curves(
            report,
            'Losses',
            'Each by itself, with its weight: sums of different losses say nothing.',
            _losses(curves),
        )
        _add_curves(
            report,
            'Quality of the pseudo-labels',
            'Dice in percent, against masks that no loss of these images sees.',
            _quality(curves),
        )
        self._add_validation(report, runner)
        self._add_labelled(report, runner)
        self._add_unlabelled(report, runner, model)
        _add_origin(report, runner, curves)
        return report

    def _add_state(self, report: Report, runner: Runner, curves: Mapping[str, Curve], running: bool) -> None:
        done = min(runner.iter, runner.max_iters) if running else runner.iter
        minutes = (time.time() - self._began) / 60
        state = f'running, iteration {done} of {runner.max_iters}' if running else f'ended at iteration {done}'
        rows = [['state', f'{state}, after {minutes:.0f} min'], ['written', time.strftime('%Y-%m-%d %H:%M:%S')]]
        for key, (score, path) in best_checkpoints(runner).items():
            rows.append([f'best {key}', f'{score:.2f}, {Path(path).name}'])
        if 'time' in curves:
            recent = float(np.mean(curves['time'][1][-RECENT:]))
            left = recent * (runner.max_iters - done) / 60
            rows.append(['speed', f'{recent:.2f} s an iteration' + (f', {left:.0f} min to go' if running else '')])
        if 'memory' in curves:
            rows.append(['GPU memory', f'{max(curves["memory"][1]) / 1024:.1f} GiB'])
        report.add_table(['', ''], rows)
        if not running and (text := next_steps(runner)):
            report.add_heading('What to do next')
            report.add_code(text)

    def _add_validation(self, report: Report, runner: Runner) -> None:
        if not self._worst:
            return
        report.add_heading('Worst and best validation images')
        report.add_text(f'By mean Dice. {LEGEND}; further classes have colours of their own.')
        worst = sorted((kept[2] for kept in self._worst), key=lambda scored: scored.dice)
        shown = {scored.order for scored in worst}  # of a few images the best may be among the worst
        best = sorted((kept[2] for kept in self._best if kept[2].order not in shown), key=lambda scored: -scored.dice)
        for title, chosen in (('worst', worst), ('best', best)):
            rows = []
            for number, scored in enumerate(chosen):
                image = pictures.read_image(scored.path)
                found = pictures.draw_labels(image, scored.found, PREDICTION)
                runner.visualizer.add_image(f'{title}_{number}', found[..., ::-1], step=runner.iter)
                caption = f'{Path(scored.path).stem}, Dice {scored.dice:.1f}'
                rows.append(
                    [
                        (_thumbnail(image, scored.truth, TRUTH), caption),
                        (pictures.to_small_uri(found), ''),
                    ]
                )
            if rows:
                report.add_pictures([f'{title}: mask', 'prediction'], rows)

    def _add_labelled(self, report: Report, runner: Runner) -> None:
        cells = []
        for dataset in _sources(runner, labelled=True)[:1]:
            survey = SourceSurvey('labelled', dataset)
            for index in _spread(len(dataset), self.frames):
                path, labels = dataset.get_data_info(index)['img_path'], survey.read_labels(index)
                image = pictures.read_image(path)
                labels = np.zeros(image.shape[:2], np.uint8) if labels is None else _without_ignored(labels)
                cells.append((_thumbnail(image, labels, TRUTH), Path(path).stem))
        if cells:
            report.add_heading('Labelled images')
            report.add_text('Some of those that are trained on, with their masks.')
            report.add_pictures([''] * len(cells), [cells])

    def _add_unlabelled(self, report: Report, runner: Runner, model: nn.Module) -> None:
        steps = dataset_of_frames(runner.cfg).get('pipeline')
        sources = _sources(runner, labelled=False)
        if not steps or not sources:
            return
        pipeline = Compose([step for step in steps if step['type'] not in LABELS])
        cells = []
        for index in _spread(len(sources[0]), self.frames):
            path = sources[0].get_data_info(index)['img_path']
            sample = model.val_step(pseudo_collate([pipeline(dict(img_path=path, seg_fields=[]))]))[0]
            found = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
            drawn = pictures.draw_labels(pictures.read_image(path), found, PREDICTION)
            # For whatever tracks the run, and as a file; each frame under one name, so that it is seen to change.
            runner.visualizer.add_image(f'unlabelled_{len(cells)}', drawn[..., ::-1], step=runner.iter)
            cells.append((pictures.to_small_uri(drawn), Path(path).stem))
        network = f' by the {self._network}' if self._network else ''
        report.add_heading('Unlabelled images')
        report.add_text(f'Some of those that are trained on, with what is predicted{network} now.')
        report.add_pictures([''] * len(cells), [cells])


def _score(sample: SegDataSample, order: int) -> Scored | None:
    """Dice of a predicted sample; None where it has no mask or no prediction at the mask's size."""
    if 'gt_sem_seg' not in sample or 'pred_sem_seg' not in sample:
        return None
    truth = sample.gt_sem_seg.data[0].cpu().numpy().astype(np.uint8)
    found = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
    if truth.shape != found.shape:
        return None
    known = truth != IGNORE
    truth, found = np.where(known, truth, 0), np.where(known, found, 0)
    scores = []
    for label in set(np.union1d(truth, found)) - {0}:
        mine, other = truth == label, found == label
        scores.append(2 * np.count_nonzero(mine & other) / (np.count_nonzero(mine) + np.count_nonzero(other)))
    return Scored(100 * float(np.mean(scores)) if scores else 100.0, order, sample.img_path, truth, found)


def _scores(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """A panel a score, a line a network."""
    panels: dict[str, dict[str, Curve]] = {}
    for key, curve in curves.items():
        network, _, score = key.rpartition('/')
        if score in SCORES and not key.startswith(QUALITY):
            panels.setdefault(score, {})[network or 'network'] = curve
    return panels


def _losses(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """A panel a loss; their sum has none."""
    return {key: {key: curve} for key, curve in sorted(curves.items()) if 'loss' in key and key != 'loss'}


def _quality(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """A panel a kind of images, a line a stage of the labels."""
    panels: dict[str, dict[str, Curve]] = {}
    for key, curve in curves.items():
        if key.startswith(QUALITY):
            kind, _, stage = key.partition('/')
            panels.setdefault(f'on {kind} images', {})[stage] = curve
    return panels


def _add_curves(report: Report, title: str, text: str, panels: Mapping[str, Mapping[str, Curve]]) -> None:
    if not panels:
        return
    from mmseg_acl.visualization.curves import plot_curves  # matplotlib: by who draws

    report.add_heading(title)
    report.add_text(text)
    report.add_panels([plot_curves({name: curves}) for name, curves in panels.items()])


def _add_origin(report: Report, runner: Runner, curves: Mapping[str, Curve]) -> None:
    report.add_heading('Where it comes from')
    config = Path(runner.work_dir) / Path(runner.cfg.filename or 'config.py').name
    rows = [
        ['config', str(config)],
        ['commit', _commit()],
        ['seed', str(runner.seed)],
        ['networks', ', '.join(networks_of(unwrapped(runner.model)))],
        ['training images', ', '.join(f'{len(source)} {kind}' for kind, source in _all_sources(runner))],
    ]
    if runner.val_loop is not None:
        rows.append(['validation images', str(len(runner.val_loop.dataloader.dataset))])
    report.add_table(['', ''], rows)
    if config.is_file():
        report.add_details('the whole config', config.read_text(encoding='utf-8'))


def _commit() -> str:
    """Of this code, wherever a run was started."""
    command = ['git', '-C', str(Path(__file__).parent), 'rev-parse', '--short=7', 'HEAD']
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # installed without its repository, or no git
        return 'unknown'


def _all_sources(runner: Runner) -> Iterator[tuple[str, Dataset]]:
    dataset = runner.train_dataloader.dataset
    sources = getattr(dataset, 'sources', [dataset])
    labelled = getattr(dataset, 'num_labelled', len(sources))
    for number, source in enumerate(sources):
        for leaf in leaves(source):
            if hasattr(leaf, 'get_data_info'):
                yield 'labelled' if number < labelled else 'unlabelled', leaf


def _sources(runner: Runner, labelled: bool) -> list[Dataset]:
    wanted = 'labelled' if labelled else 'unlabelled'
    return [source for kind, source in _all_sources(runner) if kind == wanted]


def _spread(length: int, wanted: int) -> list[int]:
    return np.unique(np.linspace(0, length - 1, min(length, wanted)).astype(int)).tolist()


def _without_ignored(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == IGNORE, 0, labels).astype(np.uint8)


def _thumbnail(image: np.ndarray, labels: np.ndarray, colour: str) -> str:
    """A frame with labels, small, as the address of an <img>."""
    return pictures.to_small_uri(pictures.draw_labels(image, labels, colour))
