"""The whole way on synthetic frames: make them, train SupOnly and ACL-Net, test, predict, report.

It calls tools/train.py and tools/test.py as one would by hand.
"""

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import find_latest_checkpoint
from torch import nn

from mmseg_acl.colours import LEGEND, PREDICTION, TRUTH
from mmseg_acl.commands import as_typed
from mmseg_acl.datasets.polyp import DATA_ROOT_VARIABLE
from mmseg_acl.datasets.synthetic import write_synthetic
from mmseg_acl.engine import load_config
from mmseg_acl.evaluation.cross_dataset import build_loaders, load_model
from mmseg_acl.evaluation.polyp_metric import foreground_probability
from mmseg_acl.inference.writing import MASKS
from mmseg_acl.methods import BY_FOLDER
from mmseg_acl.visualization import Report, pictures, read_curves
from mmseg_acl.visualization.curves import plot_curves
from mmseg_acl.visualization.style import paper_style, picture_grid

METHODS = {BY_FOLDER[folder].name: folder for folder in ('supervised', 'aclnet')}
NUM_LABELLED, NUM_UNLABELLED, NUM_TEST = 24, 96, 32
NUM_SHOWN = 5
TITLES = ['frame', 'mask', *METHODS, 'affinity of the marked pixel']

# {(method, network): {'mDice': percent, 'mIoU': percent}}
Scores = dict[tuple[str, str], dict[str, float]]
# Pictures, (H, W, 3) uint8 in BGR, each with a caption.
Rows = list[list[tuple[np.ndarray, str]]]


def run_demo(repository: Path, out: Path) -> None:
    """Run the demonstration and write ``report.html``, and ``example.png`` with two rows of its pictures.

    Args:
        repository: Folder with tools/ and configs/.
        out: Folder for frames, runs, logs and the report.
    """
    start = time.monotonic()
    os.environ[DATA_ROOT_VARIABLE] = str((out / 'data').resolve())

    print(f'[1/4] Drawing {NUM_LABELLED + NUM_UNLABELLED + NUM_TEST} synthetic frames', flush=True)
    write_synthetic(out / 'data', NUM_LABELLED, NUM_UNLABELLED, NUM_TEST)

    print('[2/4] Training from RANDOM weights (nothing pre-trained), then testing', flush=True)
    configs = {method: repository / 'configs' / 'demo' / f'{name}.py' for method, name in METHODS.items()}
    # Side by side with half of the cores each: small networks make poor use of many.
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 2) // 2)))
    with ThreadPoolExecutor() as pool:
        found = pool.map(
            lambda method: _train_and_test(repository, configs[method], out / method, method),
            METHODS,
        )
    scores: Scores = {
        (method, network): score
        for method, networks in zip(METHODS, found, strict=True)
        for network, score in networks.items()
    }

    print('[3/4] Predicting the frames without labels, as one would frames of another folder', flush=True)
    predicting = [repository / 'tools' / 'predict.py', out / 'ACL-Net']
    predicting += [out / 'data' / 'Synthetic' / 'unlabelled' / 'images', '--out', out / 'predicted']
    run_tool([*predicting, '--overlay', '--csv', '--overwrite'], out / 'predicted' / 'predict.log')
    print(f'      {out / "predicted" / MASKS}', flush=True)

    print('[4/4] Writing the report', flush=True)
    models = {
        method: load_model(load_config(str(config)), find_latest_checkpoint(str(out / method)))
        for method, config in configs.items()
    }
    frames = build_loaders(load_config(str(configs['ACL-Net'])), ['synthetic'])['synthetic'].dataset
    rows = _draw_rows(out, models, frames)
    _draw_example(rows, out / 'example.png')
    report = _make_report(out, scores, models, rows)
    _add_next(report, out)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    report.add_text(f'Made in {minutes} min {seconds} s.')
    report.write(out / 'report.html')
    print(f'Done in {minutes} min {seconds} s. The report: {out / "report.html"}')


def _train_and_test(repository: Path, config: Path, work_dir: Path, method: str) -> dict[str, dict[str, float]]:
    """Train one method and score it; {network: {'mDice': percent, 'mIoU': percent}}."""
    for earlier in work_dir.glob('*.pth'):  # train.py would not overwrite them
        earlier.unlink()
    command = [repository / 'tools' / 'train.py', config, '--work-dir', work_dir]
    run_tool(command, work_dir / 'train.log', lambda line: _progress(line, method))
    command = [repository / 'tools' / 'test.py', config, find_latest_checkpoint(str(work_dir))]
    command += ['--datasets', 'synthetic', '--out', work_dir / 'test']
    run_tool(command, work_dir / 'test.log')
    results = json.loads((work_dir / 'test' / 'results.json').read_text())['synthetic']
    scores = {network: protocols['image'] for network, protocols in results.items()}
    for network, score in scores.items():
        shown = f'Dice {score["mDice"]:5.1f}   IoU {score["mIoU"]:5.1f}'
        print(f'      {method:8s} {network:8s} {shown}', flush=True)
    return scores


def run_tool(command: list[Path | str], log: Path, select: Callable[[str], str | None] | None = None) -> None:
    """Run a Python tool; keep what it prints in a file and show the lines that ``select`` makes.

    Raises:
        SystemExit: If the tool fails, with the end of what it printed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: deque[str] = deque(maxlen=20)
    with log.open('w') as file:
        process = subprocess.Popen(
            [sys.executable, '-u', *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for line in process.stdout:
            file.write(line)
            tail.append(line)
            if select and (shown := select(line)):
                print(f'      {shown}', flush=True)
    if process.wait():
        sys.exit(f'{"".join(tail)}\n{command[0]} failed; all that it printed is in {log}')


def _progress(line: str, method: str) -> str | None:
    """A line of mmengine's training log in short; None for other lines."""
    found = re.search(r'Iter\(train\)\s*\[\s*(\d+/\d+)\].*?eta: (\S+).*?\bloss: ([\d.]+)', line)
    if not found:
        return None
    iteration, eta, loss = found.groups()
    return f'{method:8s} iteration {iteration:>8s}   loss {loss}   {eta} to go'


def _make_report(out: Path, scores: Scores, models: dict[str, nn.Module], rows: Rows) -> Report:
    report = Report('ACL-Net on synthetic frames')
    report.add_text(
        f'Two models learnt from the same {NUM_LABELLED} labelled frames; ACL-Net also saw '
        f'{NUM_UNLABELLED} frames without labels. Both started from random weights and ran for a '
        'minute or two on a CPU, so this page shows that everything works together, not how good '
        'a method is: real images, pre-trained weights and longer runs are for that.'
    )
    report.add_heading(f'Scores on {NUM_TEST} unseen frames')
    report.add_table(
        ['method', 'network', 'mean Dice', 'mean IoU'],
        [
            [method, network, f'{score["mDice"]:.1f}', f'{score["mIoU"]:.1f}']
            for (method, network), score in scores.items()
        ],
    )
    report.add_text('In percent, per frame at probability 0.5, mean over frames (protocol image).')

    report.add_heading('Predictions')
    report.add_text(
        f"{NUM_SHOWN} test frames from ACL-Net's worst to its best. {LEGEND}. "
        'The last column is the affinity (Eq. 1) of the pixel under the cross with all '
        "others in the teacher's features, from dark blue (the lowest in this frame) to yellow."
    )
    report.add_pictures(
        TITLES,
        [[(pictures.to_data_uri(drawn), caption) for drawn, caption in row] for row in rows],
    )

    report.add_heading('Training')
    report.add_text(
        f'ACL-Net learns from labels alone for {models["ACL-Net"].warmup_iters} iterations; then '
        'its losses without labels are added: loss_consistency (Eq. 12) and loss_contrast (Eq. 4), weighted.'
    )
    curves = {method: read_curves(out / method) for method in METHODS}
    unsupervised = ('loss_consistency', 'loss_contrast')
    report.add_picture(
        plot_curves(
            {
                'loss, all parts': {method: curves[method]['loss'] for method in METHODS},
                'ACL-Net: losses without labels': {name: curves['ACL-Net'][name] for name in unsupervised},
            }
        )
    )
    return report


def _add_next(report: Report, out: Path) -> None:
    report.add_heading('What to do next')
    report.add_text(
        f'ACL-Net has also predicted the {NUM_UNLABELLED} frames without labels: masks, overlays and a table are in '
        f'{out / "predicted"}. The same model, and any other, goes on with:'
    )
    run = out / 'ACL-Net'
    report.add_table(
        ['to', 'give'],
        [
            [what, as_typed(f'python tools/{command}')]
            for what, command in (
                ('get masks for frames of your own', f'predict.py {run} FRAMES --out predicted --overlay'),
                ('see them in a browser', f'serve.py {run}'),
                ('use the model without this project', f'export.py {run} --format onnx'),
            )
        ],
    )
    report.add_text('docs/using.md has all of it; docs/own_data.md says how to train on your own frames.')


def _draw_rows(out: Path, models: dict[str, nn.Module], frames) -> Rows:
    """Rows of pictures with captions, from the frame with ACL-Net's lowest Dice to that with its highest."""
    dice = {method: _read_dice(out / method / 'test' / 'per_image.csv') for method in METHODS}
    names = [frames.get_data_info(index)['name'] for index in range(len(frames))]
    chosen = pictures.choose_quantiles([dice['ACL-Net'][name] for name in names], NUM_SHOWN)
    rows = []
    for index in chosen:
        sample = frames[index]
        image = pictures.read_image(sample['data_samples'].img_path)
        mask = sample['data_samples'].gt_sem_seg.data[0].numpy().astype(bool)
        point = pictures.find_inner_point(mask)
        share = (np.array(point) + 0.5) / mask.shape
        row = [
            (image, names[index]),
            (pictures.draw_mask(image, mask, TRUTH), ''),
        ]
        for method, model in models.items():
            predicted = _predict_probability(model, sample) > 0.5
            drawn = pictures.draw_mask(image, predicted, PREDICTION)
            row.append((drawn, f'Dice {dice[method][names[index]]:.1f}'))
        affinity = _map_affinity(models['ACL-Net'], sample, tuple(share))
        heat = pictures.draw_mark(pictures.draw_heat(image, affinity), point)
        row.append((heat, f'{affinity.min():.2f} to {affinity.max():.2f}'))
        rows.append(row)
    return rows


def _read_dice(path: Path) -> dict[str, float]:
    """Dice of each image from the last network of a per_image.csv, the one that predicts."""
    with path.open() as file:
        return {row['image']: float(row['dice']) for row in csv.DictReader(file)}


def _draw_example(rows: Rows, path: Path) -> None:
    """Every second of the rows as one picture, from the second on: neither the worst nor the best frame."""
    chosen = rows[1::2] or rows
    drawn, captions = ([[pair[part] for pair in row] for row in chosen] for part in (0, 1))
    with paper_style():
        picture_grid(drawn, TITLES, captions).savefig(path, dpi=100)


@torch.no_grad()
def _predict_probability(model: nn.Module, sample: dict) -> np.ndarray:
    """Foreground probability of one image at its original size.

    Args:
        model: A segmentor in eval mode.
        sample: What a data set with a test pipeline gives: ``inputs`` and ``data_samples``.

    Returns:
        (H, W) float64 in [0, 1].
    """
    output = model.test_step(pseudo_collate([sample]))[0]
    return foreground_probability(output.to_dict(), output.img_path)


@torch.no_grad()
def _map_affinity(model: nn.Module, sample: dict, point: tuple[float, float]) -> np.ndarray:
    """Affinity of one pixel with all others, by the teacher of an ACL-Net (Eq. 1).

    Args:
        model: An ``ACLNet`` in eval mode.
        sample: What a data set with a test pipeline gives.
        point: Row and column as shares of height and width, in [0, 1).

    Returns:
        (h, w) float32 in (0, 1), at the stride of the features.
    """
    images = model.data_preprocessor(pseudo_collate([sample]), False)['inputs']
    valid = torch.ones_like(images[:, 0], dtype=torch.bool)
    seen = model.inspect(images, valid)
    height, width = seen.grid
    row, column = int(point[0] * height), int(point[1] * width)
    return seen.teacher.map[0, row * width + column].reshape(height, width).float().cpu().numpy()
