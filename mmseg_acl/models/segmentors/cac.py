"""CAC: directional context-aware consistency (Lai et al., CVPR 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from mmseg_acl.models.segmentors.semi_supervised import SemiSupervisedSegmentor
from mmseg_acl.models.semi.contrast import info_nce
from mmseg_acl.models.semi.feature_tap import FeatureTap
from mmseg_acl.models.semi.memory_bank import MemoryBank
from mmseg_acl.models.semi.precision import full_precision
from mmseg_acl.models.semi.projector import Projector
from mmseg_acl.models.semi.pseudo_label import probabilities


@dataclass
class CropBatch:
    """One step's images, the unlabelled ones as two overlapping crops each.

    Attributes:
        labelled: (L, 3, H, W) labelled images.
        samples: Their data samples, with ``gt_sem_seg``.
        crops: (2U, 3, H, W), the first crops of all unlabelled images and then, in the same order, the second.
        valid: (2U, H, W) bool, false on padding.
        crop_samples: Data samples of the crops, with ``crop_corner`` and ``flip_direction``.
    """

    labelled: Tensor
    samples: SampleList
    crops: Tensor
    valid: Tensor
    crop_samples: SampleList


@MODELS.register_module()
class CAC(SemiSupervisedSegmentor):
    """Features of a pixel that two crops share agree, whatever context each crop shows around it.

    There is no teacher and no pseudo-label loss. On the overlap of two crops of an unlabelled image, the view that
    is less sure of a pixel is drawn towards the surer one, and away from pixels predicted to be of another class
    (the directional contrastive loss, Eqs 2 to 4). The data come from ``TwoCrops``.

    Defaults are those of the paper and its released code, which begins after 5 epochs; that the crops of an image are
    whole strides apart is its rule, too. Deviations: class and confidence of a cell come from the mean of its pixels'
    probabilities, which any head has; a padded cell is no anchor, target or negative; ``num_keys`` is shared out
    among the ranks, so that a checkpoint does not depend on their number; labelled and unlabelled images pass the
    student together.

    Cost: the student sees L + 2U images forward and backward, 12 where a method with one strong view shows it 8;
    no teacher runs.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/cac_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
        train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=_base_.two_crops_pipeline)))

    Args:
        segmentor: Config of an mmseg segmentor.
        projector: Arguments of the :class:`~mmseg_acl.models.semi.projector.Projector` but its ``in_channels``.
        num_keys: Most pixels of either view that a step puts into the bank, over all ranks.
        threshold: A pixel is a target where its view is more confident than this, in [0, 1).
        tau: Temperature of the contrast, above 0.
        contrast_weight: Weight of the contrastive loss.
        **kwargs: See :class:`SemiSupervisedSegmentor`.

    Raises:
        ValueError: A threshold, a temperature or a number of keys outside what is allowed.
    """

    networks = ('student',)

    def __init__(
        self,
        segmentor: dict,
        projector: dict | None = None,
        num_keys: int = 6400,
        threshold: float = 0.75,
        tau: float = 0.1,
        contrast_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f'threshold is {threshold}; a confidence threshold is in [0, 1)')
        if tau <= 0:
            raise ValueError(f'tau is {tau}; it must be above 0')
        if num_keys < get_world_size():
            raise ValueError(f'num_keys is {num_keys}; each of the {get_world_size()} ranks needs at least 1')
        super().__init__(segmentor, **kwargs)
        self.student_tap = FeatureTap(self.student)
        self.projector = Projector(self.student_tap.channels, **(projector or {}))
        classes = self.student.num_classes
        # Room for two views in each of two steps, should all pixels be of one class.
        self.bank = MemoryBank(classes, 4 * num_keys, self.projector.out_channels)
        self.register_buffer('newest', torch.zeros(classes, dtype=torch.long))  # keys of the latest step
        self.num_keys, self.threshold, self.tau, self.contrast_weight = num_keys, threshold, tau, contrast_weight

    def make_batch(self, inputs: dict[str, Tensor], data_samples: dict[str, SampleList]) -> CropBatch:
        """The labelled view and the two crops.

        Raises:
            ValueError: The unlabelled pipeline does not end in ``TwoCrops``.
        """
        views = ('unsup_first', 'unsup_second')
        if not set(views) <= inputs.keys():
            raise ValueError(
                f'the batch has the views {", ".join(inputs)}; CAC needs {" and ".join(views)}: give the unlabelled '
                'data set a pipeline that ends in TwoCrops, such as two_crops_pipeline of _base_/datasets/semi_384.py'
            )
        samples = [sample for view in views for sample in data_samples[view]]
        return CropBatch(
            labelled=inputs['sup'],
            samples=data_samples['sup'],
            crops=torch.cat([inputs[view] for view in views]),
            valid=torch.cat([sample.valid.data for sample in samples]).bool(),
            crop_samples=samples,
        )

    def semi_supervised_loss(self, batch: CropBatch) -> dict[str, Tensor]:
        """``loss_seg``, ``loss_contrast`` (Eq. 1 with the directional loss of Eqs 2 to 4), and scalars."""
        student = self.run_student(batch, batch.crops)
        feature = student.features.unlabelled
        grid = feature.shape[2:]
        prob = F.adaptive_avg_pool2d(probabilities(student.logits.unlabelled.detach()), grid)
        # A cell of the grid counts where none of its pixels is padding.
        padded = F.adaptive_max_pool2d((~batch.valid).to(prob).unsqueeze(1), grid)
        overlap = (cells.to(prob.device) for cells in self._overlap(batch.crop_samples, batch.crops.shape[2:], grid))
        found = self.contrast(_pixels(self.projector(feature)), _pixels(prob), padded.flatten() == 0, *overlap)
        found['loss_contrast'] = self.contrast_weight * found['loss_contrast']
        return student.losses | found

    @full_precision
    def contrast(
        self, vectors: Tensor, prob: Tensor, valid: Tensor, first: Tensor, second: Tensor
    ) -> dict[str, Tensor]:
        """Store this step's keys and compute the directional contrastive loss in both directions.

        Args:
            vectors: (P, d) projected features of all cells of the first crops and then of the second.
            prob: (P, C) probabilities of the same cells, without gradient.
            valid: (P,) bool, false on padding.
            first: (n,) cells of first crops.
            second: (n,) the cells of second crops that show the same places.

        Returns:
            ``loss_contrast``; and, to be watched, ``overlap_share`` (of all cells), ``anchor_share`` (of the overlap,
            both directions), ``positive_cosine`` (mean of the overlap) and ``bank_smallest`` (keys in the emptiest
            ring).
        """
        confidence, labels = prob.max(dim=1)
        both = valid[first] & valid[second]
        first, second = first[both], second[both]
        # Before the loss: pixels of these very crops are negatives too.
        self._remember(vectors.detach(), labels, valid)

        loss, num_anchors = 0 * vectors.sum(), 0
        for anchor, target in ((first, second), (second, first)):
            # Eq. 3's direction and the positive filter of Eq. 4.
            chosen = (confidence[target] > self.threshold) & (confidence[anchor] < confidence[target])
            anchor, target = anchor[chosen], target[chosen]
            for label in range(prob.shape[1]):
                own = labels[anchor] == label
                positives, negatives = vectors[target[own]].detach(), self.bank.negatives(label)
                terms = info_nce(vectors[anchor[own]], positives, negatives, self.tau)
                loss = loss + terms.sum() / max(len(anchor), 1)
            num_anchors += len(anchor)
        overlap = max(len(first), 1)
        cosine = torch.cosine_similarity(vectors[first].detach(), vectors[second].detach())
        return dict(
            loss_contrast=loss,
            overlap_share=loss.new_tensor(2 * len(first) / len(vectors)),
            anchor_share=loss.new_tensor(num_anchors / overlap),
            positive_cosine=cosine.sum() / overlap,
            bank_smallest=self.bank.fill.min().to(loss),
        )

    def _remember(self, keys: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Have the bank hold the keys of the previous step and of this one, and nothing older."""
        rows = []
        for view, cells in enumerate(valid.chunk(2)):
            candidates = cells.nonzero().squeeze(1)
            order = torch.randperm(len(candidates), device=candidates.device)
            rows.append(candidates[order[: self.num_keys // get_world_size()]] + view * len(cells))
        rows = torch.cat(rows)
        self.bank.keep(self.newest)
        previous = self.bank.fill.clone()
        self.bank.enqueue(keys[rows], labels[rows])
        self.newest.copy_(self.bank.fill - previous)

    @staticmethod
    def _overlap(samples: SampleList, size: tuple[int, int], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Cells of all first crops, and of all second ones, that show the same places; see :func:`shared_cells`."""
        images, cells = len(samples) // 2, grid[0] * grid[1]
        pairs = []
        for i, (one, other) in enumerate(zip(samples[:images], samples[images:], strict=True)):
            first, second = shared_cells(one.metainfo, other.metainfo, size, grid)
            pairs.append(torch.stack([first + i * cells, second + (images + i) * cells]))
        first, second = torch.cat(pairs, dim=1)
        return first, second


def shared_cells(first: dict, second: dict, size: tuple[int, int], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cells of two crops' feature maps that show the same places of their image.

    Args:
        first: ``crop_corner`` (top, left) and ``flip_direction`` of the first crop, as ``TwoCrops`` records them.
        second: The same of the second crop.
        size: (H, W) of the crops.
        grid: (h, w) of their feature maps.

    Returns:
        (n,) indices into the h * w cells of the first map, and (n,) of the second.

    Raises:
        ValueError: The crops are not whole cells apart.
    """
    apart = [there - here for here, there in zip(first['crop_corner'], second['crop_corner'], strict=True)]
    if any(step * cells % length for step, cells, length in zip(apart, grid, size, strict=True)):
        raise ValueError(
            f'the two crops are {apart} pixels apart, which is not whole cells of {size[0] / grid[0]:g} x '
            f'{size[1] / grid[1]:g} pixels: set TwoCrops(stride=...) to a multiple of the stride of the features'
        )
    down, right = (step * cells // length for step, cells, length in zip(apart, grid, size, strict=True))
    here = _cells(grid, first.get('flip_direction'))[_span(down, grid[0]), _span(right, grid[1])]
    there = _cells(grid, second.get('flip_direction'))[_span(-down, grid[0]), _span(-right, grid[1])]
    return here.flatten(), there.flatten()


def _cells(grid: tuple[int, int], flip: str | None) -> Tensor:
    """At each place (h, w) of the crop as it was before its flip, the index of the cell that shows it now."""
    flipped = {None: (), 'horizontal': (1,), 'vertical': (0,), 'diagonal': (0, 1)}[flip]
    return torch.arange(grid[0] * grid[1]).view(grid).flip(flipped)


def _span(shift: int, length: int) -> slice:
    """The part of 0 .. length that remains of it after a shift."""
    return slice(max(shift, 0), max(length + min(shift, 0), 0))


def _pixels(maps: Tensor) -> Tensor:
    """(B, C, h, w) as (B * h * w, C)."""
    return maps.movedim(1, -1).flatten(0, 2)
