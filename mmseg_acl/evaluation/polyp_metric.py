"""How polyp segmentation is scored: foreground Dice and IoU, by three protocols."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from mmseg_acl.evaluation.calibration import brier_score, calibration_gaps, expected_calibration_error
from mmseg_acl.evaluation.curves import areas_by_threshold, overlap, quantise
from mmseg_acl.evaluation.structure import enhanced_alignment, structure_measure, weighted_f

PROTOCOLS = ('image', 'pranet', 'dataset')
# A polyp whose frame has a Dice below this, in percent, counts as missed.
MISSED = 10


class ImageScore(NamedTuple):
    """Scores of one image at one threshold, in percent."""

    image: str
    dice: float
    iou: float


@dataclass(frozen=True)
class ImageResult:
    """What is kept of one image: areas in pixels at the threshold, its size, calibration, and curves where asked for.

    ``brier`` and ``gaps`` are those of :mod:`~mmseg_acl.evaluation.calibration`. ``curves`` is (3, 256): Dice, IoU
    and E-measure at the thresholds 255 to 0; ``structure`` is (3,): S-measure, weighted F-measure, mean absolute
    error. All in [0, 1]. Not a tuple: mmengine rebuilds tuples as plain ones when it gathers results.
    """

    image: str
    intersection: int
    predicted: int
    area: int
    pixels: int
    brier: float
    gaps: np.ndarray
    curves: np.ndarray | None = None
    structure: np.ndarray | None = None


@METRICS.register_module()
class PolypMetric(BaseMetric):
    """Foreground scores of binary segmentation at the mask's original size.

    The foreground's probability is taken from ``seg_logits``: softmax of two channels, or the one
    channel of ``out_channels=1`` heads, which mmseg hands out as a probability. Every value is in
    percent and not rounded. The protocols are not interchangeable:

    - ``'image'``: Dice and IoU of each image at probability 0.5, mean over images. Prediction and
      mask both empty: 100; one empty: 0. Keys ``mDice``, ``mIoU``. Also ``missed``, the share of images with a
      polyp whose Dice is below 10 (the missed-polyp rate); ``brier`` (Brier score, mean over images) and ``ece``
      (expected calibration error with 15 bins, each image with the same weight), both of the foreground's
      probability. Of these three less is better. Where images have no polyp, also
      ``false_alarms``, the share of these images with any predicted pixel, and ``false_area``, the
      predicted share of such an image's pixels, mean over them all. Of a set without any polyp,
      ``mDice`` and ``mIoU`` are the share of its images without a false alarm.
    - ``'pranet'``: PraNet's protocol (Fan et al., MICCAI 2020): the map is stretched to its
      minimum and maximum, rounded to 8 bit and compared with 256 thresholds by ``>=``. A threshold
      without a true positive scores 0, and so does an image without a polyp: the protocol knows no such
      images, and stretches the faintest map to the full range, so that it says nothing of false alarms.
      Keys ``pranet/meanDic`` and ``pranet/meanIoU`` (mean over images and thresholds),
      ``pranet/maxDic`` and ``pranet/maxIoU`` (maximum of the curve of image means),
      ``pranet/Smeasure``, ``pranet/wFmeasure``, ``pranet/meanEm``, ``pranet/maxEm``, ``pranet/MAE``.
      The last five are those of :mod:`mmseg_acl.evaluation.structure`.
    - ``'dataset'``: Dice and IoU from areas summed over the set; 100 where neither masks nor
      predictions have a pixel. Keys ``dataset/Dice``, ``dataset/IoU``.

    Args:
        protocol: One of the names above, or several.
        out_csv: Where to write the score of every image (columns image, dice, iou; protocol
            ``image``) at each evaluation. None writes nothing.
        collect_device: 'cpu' or 'gpu', where results of several processes are gathered.
        prefix: Put before every key, such as the test set's name.
        threshold: The foreground of the protocols ``image`` and ``dataset`` is where the probability is greater than
            this; in [0, 1).

    Raises:
        ValueError: If a protocol is unknown or the threshold is out of range.
    """

    # Scores that hang on the images: whether there are any with a polyp, and any without.
    CONDITIONAL = ('missed', 'false_alarms', 'false_area')
    # Not None, which mmengine would take as forgotten.
    default_prefix = ''

    def __init__(
        self,
        protocol: str | Sequence[str] = 'image',
        out_csv: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not 0 <= threshold < 1:
            raise ValueError(f'PolypMetric: threshold={threshold}; it must be at least 0 and below 1')
        self.threshold = threshold
        self.protocols = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        unknown = [name for name in self.protocols if name not in PROTOCOLS]
        if unknown or not self.protocols:
            raise ValueError(
                f'PolypMetric: protocol={protocol!r}, allowed are {", ".join(PROTOCOLS)}, one or a list of them'
            )
        self.out_csv = out_csv
        self.per_image: list[ImageScore] = []

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Score the images of one batch.

        Args:
            data_batch: Not used.
            data_samples: Outputs of the model as dicts, with ``seg_logits`` (C, H, W), C 1 or 2,
                ``gt_sem_seg`` (1, H, W) of 0 and 1, and ``img_path``.

        Raises:
            ValueError: If sizes differ, the mask holds other values than 0 and 1, or the model has
                more than two channels.
        """
        for sample in data_samples:
            path = str(sample.get('img_path', f'image {len(self.results)}'))
            mask = _read_mask(sample, path)
            probability = foreground_probability(sample, path)
            if probability.shape != mask.shape:
                raise ValueError(
                    f'{path}: the prediction is {_size(probability)}, its mask {_size(mask)}. '
                    'Predictions are scored at the original size of the mask: load the mask after '
                    'Resize in the test pipeline, and undo padding'
                )
            predicted = probability > self.threshold
            pranet = _score_pranet(probability, mask) if 'pranet' in self.protocols else ()
            self.results.append(
                ImageResult(
                    Path(path).stem,
                    int(np.count_nonzero(predicted & mask)),
                    int(np.count_nonzero(predicted)),
                    int(np.count_nonzero(mask)),
                    mask.size,
                    brier_score(probability, mask),
                    calibration_gaps(probability, mask),
                    *pranet,
                )
            )

    def compute_metrics(self, results: list[ImageResult]) -> dict[str, float]:
        """Scores of a whole set as one flat dict, and the csv where one is asked for.

        Raises:
            ValueError: If there is no result.
        """
        scores = self.compute_protocols(results)
        if self.out_csv:
            path = Path(self.out_csv)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open('w', newline='') as file:
                csv.writer(file).writerows([ImageScore._fields, *self.per_image])
        return {
            key if protocol == 'image' else f'{protocol}/{key}': value
            for protocol, values in scores.items()
            for key, value in values.items()
        }

    def compute_protocols(self, results: list[ImageResult]) -> dict[str, dict[str, float]]:
        """Scores as {protocol: {name: percent}}; also fills ``per_image``.

        Raises:
            ValueError: If there is no result.
        """
        if not results:
            raise ValueError('PolypMetric: no image was scored; is the test set empty?')
        areas = [(result.intersection, result.predicted, result.area, result.pixels) for result in results]
        intersection, predicted, area, pixels = np.array(areas).T
        dice, iou = (100 * values for values in overlap(intersection, predicted, area, 1.0))
        self.per_image = [
            ImageScore(result.image, float(d), float(i)) for result, d, i in zip(results, dice, iou, strict=True)
        ]
        scores: dict[str, dict[str, float]] = {}
        for protocol in self.protocols:
            if protocol == 'image':
                scores[protocol] = {'mDice': float(dice.mean()), 'mIoU': float(iou.mean())}
                free = area == 0
                if not free.all():
                    scores[protocol]['missed'] = 100 * float((dice[~free] < MISSED).mean())
                scores[protocol]['brier'] = 100 * float(np.mean([result.brier for result in results]))
                scores[protocol]['ece'] = 100 * expected_calibration_error([result.gaps for result in results])
                if free.any():
                    scores[protocol]['false_alarms'] = 100 * float((predicted[free] > 0).mean())
                    scores[protocol]['false_area'] = 100 * float((predicted[free] / pixels[free]).mean())
            elif protocol == 'dataset':
                sums = intersection.sum(), predicted.sum(), area.sum()
                names = ('Dice', 'IoU')
                values = overlap(*sums, both_empty=1.0)
                scores[protocol] = {n: 100 * float(v) for n, v in zip(names, values, strict=True)}
            else:
                scores[protocol] = _average_pranet(results)
        return scores


def foreground_probability(sample: dict, path: str) -> np.ndarray:
    """Probability of the foreground from what a segmentor predicts.

    Args:
        sample: A predicted data sample as a dict, with ``seg_logits``.
        path: The image's name for the error.

    Returns:
        (H, W) float64 in [0, 1].

    Raises:
        ValueError: If there are no logits of one or two channels.
    """
    if 'seg_logits' not in sample:
        raise ValueError(f'{path}: the model gave no seg_logits, which PolypMetric scores')
    logits = torch.as_tensor(sample['seg_logits']['data']).detach().cpu().double()
    if logits.ndim != 3 or logits.shape[0] not in (1, 2):
        raise ValueError(
            f'{path}: seg_logits have the shape {tuple(logits.shape)}; PolypMetric scores one '
            'foreground class: (2, H, W) logits or a (1, H, W) probability'
        )
    # softmax(a, b)[1] = sigmoid(b - a), without the exponentials of large logits.
    return (torch.sigmoid(logits[1] - logits[0]) if logits.shape[0] == 2 else logits[0]).numpy()


def _read_mask(sample: dict, path: str) -> np.ndarray:
    """(H, W) bool mask."""
    if 'gt_sem_seg' not in sample:
        raise ValueError(f'{path}: there is no mask to score against (gt_sem_seg)')
    mask = torch.as_tensor(sample['gt_sem_seg']['data']).cpu().numpy()
    mask = mask.reshape(mask.shape[-2:])
    if mask.dtype != bool and mask.max(initial=0) > 1:
        raise ValueError(
            f'{path}: the mask holds the value {mask.max()}, allowed are 0 and 1; '
            'load it by LoadPolypMask, which reads any near-binary coding'
        )
    return mask.astype(bool)


def _size(array: np.ndarray) -> str:
    return f'{array.shape[1]}x{array.shape[0]} (width x height)'


def _score_pranet(probability: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``curves`` and ``structure`` of one image, see ``ImageResult``."""
    levels = quantise(probability)
    inside, predicted = areas_by_threshold(levels, mask)
    area = np.count_nonzero(mask)
    dice, iou = overlap(inside, predicted, area, both_empty=0.0)
    curves = np.stack([dice, iou, enhanced_alignment(inside, predicted, area, mask.size)])
    values = levels / 255
    structure = np.array([structure_measure(values, mask), weighted_f(values, mask), np.abs(values - mask).mean()])
    return curves, structure


def _average_pranet(results: list[ImageResult]) -> dict[str, float]:
    curves = 100 * np.mean([result.curves for result in results], axis=0)
    structure = 100 * np.mean([result.structure for result in results], axis=0)
    scores = {}
    for name, curve in zip(('Dic', 'IoU', 'Em'), curves, strict=True):
        scores[f'mean{name}'] = float(curve.mean())
        scores[f'max{name}'] = float(curve.max())
    for name, value in zip(('Smeasure', 'wFmeasure', 'MAE'), structure, strict=True):
        scores[name] = float(value)
    return scores
