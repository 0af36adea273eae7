"""Masks of a folder of frames by ``tools/predict.py``, against the bare network and bare decoding of these frames."""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmseg.registry import MODELS

from mmseg_acl.benchmarks.measure import Report, SkipPart, cpu_seconds, data_folders
from mmseg_acl.benchmarks.step import CONFIGS, random_weights, ready_to_build
from mmseg_acl.engine import load_config
from mmseg_acl.inference.exported import ExportedModel
from mmseg_acl.inference.exporting import export, require
from mmseg_acl.inference.predictor import Predictor
from mmseg_acl.inference.sources import find_frames, read_frame
from mmseg_acl.inference.trained import TrainedModel
from mmseg_acl.inference.writing import mask_png, predict_into

CONFIG = CONFIGS / 'aclnet_plus' / 'mbv2_kvasir_quarter.py'
IMAGES, BATCH = 300, 8
# Frames that are timed together, so that a round is short enough to be undisturbed.
GROUP = 60
# In turn a frame of each, so that sizes differ.
FOLDERS = ('Kvasir-SEG/images', 'CVC-ClinicDB/images', 'CVC-300/images')
TARGET = 1.15


def write_run(folder: Path, config: Path) -> list[str]:
    """A run with random weights, as :func:`~mmseg_acl.inference.runs.find_run` takes it."""
    ready_to_build()
    content = load_config(str(config))
    content.model = random_weights(content.model)
    torch.manual_seed(0)
    model = MODELS.build(content.model)
    model.init_weights()
    content.dump(folder / 'config.py')
    torch.save(dict(state_dict=model.state_dict()), folder / 'random.pth')
    return [str(folder / 'config.py'), str(folder / 'random.pth')]


def batches(count: int) -> list[slice]:
    """Places of so many samples, some at a time."""
    return [slice(start, start + BATCH) for start in range(0, count, BATCH)]


@torch.no_grad()
def bare_network(model: TrainedModel, samples: Sequence[dict]) -> Callable[[], object]:
    """The network's passes over frames that are normalised and stacked already."""
    whole = model.model.data_preprocessor(pseudo_collate(list(samples)), False)
    inputs = whole['inputs'].contiguous(memory_format=torch.channels_last)
    metas = [sample.metainfo for sample in whole['data_samples']]

    @torch.no_grad()
    def run() -> None:
        for own in batches(len(metas)):
            model.segmentor.inference(inputs[own], metas[own])

    return run


def bare_graph(model: ExportedModel, frames: Sequence[np.ndarray]) -> Callable[[], object]:
    """The same in ONNX Runtime; normalising is part of the graph."""
    stack = np.stack([model.prepare(frame)[0] for frame in frames])
    return lambda: [model.logits(stack[own]) for own in batches(len(stack))]


def _each(run: Callable[[object], object], given: Sequence) -> None:
    for each in given:
        run(each)


def _predict(predictor: Predictor, listed: Path, out: Path) -> None:
    predict_into(predictor, find_frames(str(listed)), out, batch=BATCH, overwrite=True)


def _written(out: Path) -> list[np.ndarray]:
    """Masks below a folder, of 0 and 1."""
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) // 255 for path in sorted(out.rglob('*.png'))]


def measure(paths: Sequence[Path], repeats: int, config: Path = CONFIG) -> Report:
    """Measure it on frames of any sizes.

    Raises:
        ImportError: ONNX Runtime is missing.
    """
    require('onnx')
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()):
        folder = Path(scratch)
        words = write_run(folder, config)
        export(words, ['onnx'], folder)
        predictors = {'torch': Predictor(words), 'ONNX Runtime': Predictor([str(folder / 'teacher.onnx')])}
        frames = [read_frame(path) for path in paths]
        trained, exported = (predictor.model for predictor in predictors.values())
        runs: dict[tuple[str, int], Callable[[], object]] = {}
        pixels = differing = 0
        for start in range(0, len(paths), GROUP):
            group, own = paths[start : start + GROUP], frames[start : start + GROUP]
            listed = folder / f'{start}.txt'
            listed.write_text(''.join(f'{path.resolve()}\n' for path in group))
            outs = {name: folder / name / str(start) for name in predictors}
            predict = {name: partial(_predict, predictors[name], listed, out) for name, out in outs.items()}
            for run in predict.values():
                run()
            masks, others = (_written(out) for out in outs.values())
            pixels += sum(mask.size for mask in masks)
            differing += sum((one != other).sum() for one, other in zip(masks, others, strict=True))
            runs |= {
                ('decoding', start): partial(_each, read_frame, group),
                ('encoding', start): partial(_each, partial(mask_png, classes=2), masks),
                ('torch', start): bare_network(trained, [trained.prepare(frame) for frame in own]),
                ('ONNX Runtime', start): bare_graph(exported, own),
                **{(f'predict {name}', start): run for name, run in predict.items()},
            }
        found = cpu_seconds(runs, repeats)
    ms = {name: value / len(paths) * 1e3 for name, value in found.items()}
    sizes = {frame.shape[:2] for frame in frames}
    return Report(
        title='Masks of a folder, against the bare network and decoding, in CPU time a frame',
        rows=[
            {
                'run by': name,
                'network, ms': ms[name],
                'decoding, ms': ms['decoding'],
                'predict.py, ms': ms[f'predict {name}'],
                'to network and decoding': ms[f'predict {name}'] / (ms[name] + ms['decoding']),
                'encoding masks, ms': ms['encoding'],
                'frames a second': 1e3 / ms[f'predict {name}'],
                'network to ONNX Runtime': ms[name] / ms['ONNX Runtime'],
            }
            for name in predictors
        ],
        notes=[
            f'Target: {TARGET} times network and decoding. What lies between is resizing, probabilities at the '
            "frame's size, and encoding and writing the mask.",
            f'{len(paths)} frames of {len(sizes)} sizes, read before; batches of {BATCH}; the teacher of '
            f'{config.parent.name}/{config.name} with random weights.',
            f'{differing} of {pixels} pixels differ between the two.',
            f'CPU time, the best round of every {GROUP} frames.',
        ],
    )


def run(repeats: int) -> Report:
    """Measure it on real frames.

    Raises:
        SkipPart: There are none, or ONNX Runtime is missing.
    """
    folders = [sorted(folder.iterdir()) for folder in data_folders(FOLDERS)]
    in_turn = [path for paths in itertools.zip_longest(*folders) for path in paths if path]
    try:
        return measure(in_turn[:IMAGES], repeats)
    except ImportError as error:
        raise SkipPart(str(error)) from error
