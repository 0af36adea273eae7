"""Masks that fit the number of classes."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from mmseg_acl.datasets.class_data import check_samples, labels_to_check
from mmseg_acl.errors import DataError
from mmseg_acl.models.networks import learner

# Labelled images after which it is no chance any more that none has a foreground.
ENOUGH_IMAGES = 100


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Name the image whose mask has a label that the model has no class for, instead of failing in a loss.

    Masks of 0 and 255 read as class numbers would be worse: 255 is ignored, so nothing would fail, nothing would be
    learned, and a validation on such masks would score 100.

    Masks of ``PolypDataset`` are 0 and 1 by their making; those of other data sets are looked at when they come up,
    in training, validation and tests alike. What can be known of their files before is found by
    :func:`~mmseg_acl.datasets.class_data.check_labelled`.
    """

    def before_train(self, runner: Runner) -> None:
        """Find out how many classes there are, and whether the masks need a look.

        Raises:
            DataError: The data set names more classes than the segmentor has.
        """
        dataset = runner.train_dataloader.dataset
        named, num_classes = getattr(dataset, 'metainfo', {}).get('classes') or (), _num_classes(runner)
        if num_classes and len(named) > num_classes:
            raise DataError(
                f'the data set names {len(named)} classes ({", ".join(named)}), and the segmentor has '
                f'num_classes={num_classes}: set num_classes={len(named)} in every head, or mend metainfo'
            )
        self._train = labels_to_check(dataset, num_classes)
        self._count = not getattr(dataset, 'has_foreground', False)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Look at every labelled mask of the batch.

        Raises:
            DataError: A mask has colours, a label is no class, nor 255, or no mask has had any foreground so far.
        """
        check_samples(self._train, data_batch['data_samples'])
        if self._count and self._train and not self._train.has_foreground and self._train.masks >= ENOUGH_IMAGES:
            raise DataError(self._train.ignored_foreground(f'the first {self._train.masks} labelled images'))

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin to look at the masks to validate on."""
        self._scored = labels_to_check(runner.val_dataloader.dataset, _num_classes(runner))

    def before_test_epoch(self, runner: Runner) -> None:
        """Begin to look at the masks to test on."""
        self._scored = labels_to_check(runner.test_dataloader.dataset, _num_classes(runner))

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Look at every mask of the batch; raises as :meth:`before_train_iter`."""
        check_samples(self._scored, data_batch['data_samples'])

    before_test_iter = before_val_iter

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Refuse scores on masks of 0 and 255 alone before they are told.

        Raises:
            DataError: That is all that the masks hold.
        """
        if self._scored and self._scored.only_ignored:
            raise DataError(self._scored.ignored_foreground('the masks of the images to score'))

    after_test_epoch = after_val_epoch


def _num_classes(runner: Runner) -> int:
    return getattr(learner(runner.model), 'num_classes', 0)
