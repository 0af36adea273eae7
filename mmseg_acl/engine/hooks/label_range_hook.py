"""Masks that fit the number of classes."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from mmseg_acl.datasets.polyp import PolypDataset
from mmseg_acl.errors import DataError
from mmseg_acl.models.networks import learner

IGNORE = 255
# Labelled images after which it is no chance any more that none has a foreground.
ENOUGH_IMAGES = 100


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Name the image whose mask has a label that the model has no class for, instead of failing in a loss.

    Masks of 0 and 255 read as class numbers would be worse: 255 is ignored, so nothing would fail, and nothing would
    be learned.

    Masks of ``PolypDataset`` are 0 and 1 by their making; those of other data sets are looked at when they come
    up.
    """

    def before_train(self, runner: Runner) -> None:
        """Find out how many classes there are, and whether the masks need a look.

        Raises:
            DataError: The data set names more classes than the segmentor has.
        """
        dataset = runner.train_dataloader.dataset
        sources = getattr(dataset, 'sources', [dataset])
        self._needed = not all(isinstance(source, PolypDataset) for source in sources)
        named = len(dataset.metainfo.get('classes') or ()) if hasattr(dataset, 'metainfo') else 0
        num_classes = getattr(learner(runner.model), 'num_classes', 0)
        if num_classes and named > num_classes:
            raise DataError(
                f'the data set names {named} classes ({", ".join(dataset.metainfo["classes"])}), and the segmentor '
                f'has num_classes={num_classes}: set num_classes={named} in every head, or mend metainfo'
            )
        self._classes = named or num_classes
        self._without_foreground: int | None = 0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Look at every labelled mask of the batch.

        Raises:
            DataError: A mask has colours, a label is no class, nor 255, or no mask has had any foreground so far.
        """
        if not self._needed or not self._classes:
            return
        samples = data_batch['data_samples']
        for sample in sum(samples.values(), []) if isinstance(samples, dict) else samples:
            if 'gt_sem_seg' not in sample:
                continue
            labels = sample.gt_sem_seg.data
            if labels.ndim != 3 or len(labels) != 1:
                raise DataError(
                    f'the mask of {sample.get("img_path")} has colours; a mask of class numbers holds 0 to '
                    f'{self._classes - 1} as grey values or as a palette (PNG of mode P), not as RGB'
                )
            found = labels[labels != IGNORE]
            if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < self._classes:
                raise DataError(
                    f'the mask of {sample.get("img_path")} has labels from {int(found.min())} to {int(found.max())}, '
                    f'but the data set has {self._classes} classes: 0 to {self._classes - 1} and {IGNORE} (ignored) '
                    'are allowed. Mend the mask, or the classes in metainfo and num_classes of the heads'
                )
            if self._without_foreground is not None:
                self._without_foreground = None if found.any() else self._without_foreground + 1
        if self._without_foreground is not None and self._without_foreground >= ENOUGH_IMAGES:
            raise DataError(
                f'the first {self._without_foreground} labelled images have no label but 0 and {IGNORE}, which is '
                f"ignored. If {IGNORE} means foreground in these masks, load them by dict(type='LoadPolypMask')"
            )
