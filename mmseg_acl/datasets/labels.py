"""Labels in masks of class numbers: do they fit the classes, and is anything but background left of them?"""

from __future__ import annotations

import numpy as np

IGNORE = 255
MEND = 'Mend the masks; where their labels are right, the classes in metainfo and num_classes of the heads'


class Labels:
    """The labels of many masks.

    Args:
        num_classes: Labels from 0 to one less, and 255 (ignored), are allowed.
        reduced: Whether mmseg's ``reduce_zero_label`` has made 0 ignored and 1 the class 0.

    Attributes:
        found: Labels seen so far.
        masks: Number of masks seen so far.
    """

    def __init__(self, num_classes: int, reduced: bool = False) -> None:
        self.num_classes, self.reduced = num_classes, reduced
        self.found: set[int] = set()
        self.masks = 0

    def add(self, labels: np.ndarray) -> str | None:
        """Take note of one mask.

        Args:
            labels: Whole numbers (H, W); another shape is a fault.

        Returns:
            What is wrong with the mask, if anything, to be put behind its name.
        """
        last = self.num_classes - 1
        if labels.ndim != 2:
            return (
                f'has colours; a mask of class numbers holds 0 to {last} as grey values or as a palette (PNG of mode '
                'P), not as RGB'
            )
        found = _distinct(labels)
        known = [label for label in found if label != IGNORE]
        if known and not 0 <= known[0] <= known[-1] <= last:
            return (
                f'has labels from {known[0]} to {known[-1]}, but the data set has {self.num_classes} classes: 0 to '
                f'{last} and {IGNORE} (ignored) are allowed'
            )
        self.found.update(found)
        self.masks += 1
        return None

    @property
    def has_foreground(self) -> bool:
        """Whether any label but 0 and 255 has been seen."""
        return bool(self.found - {0, IGNORE})

    @property
    def only_ignored(self) -> bool:
        """Whether 255 has been seen, and no label but it and 0."""
        return self.found in ({IGNORE}, {0, IGNORE})

    def ignored_foreground(self, what: str) -> str:
        """What to say of masks that have :attr:`only_ignored`: a model that knows nothing but 0 would score 100."""
        mend = (
            'reduce_zero_label=True has made label 0 ignored and label 1 the class 0: set reduce_zero_label=False '
            'where the masks count classes from 0'
            if self.reduced
            else f"if {IGNORE} means foreground in these masks, load them by dict(type='LoadPolypMask'); if it is a "
            'border of images without foreground, save it as 0'
        )
        return f'{what} have no label but 0 and {IGNORE}, which is ignored: {mend}'

    def update(self, other: Labels) -> None:
        """Take note of all masks that ``other`` has seen."""
        self.found |= other.found
        self.masks += other.masks


def _distinct(labels: np.ndarray) -> list[int]:
    """Distinct values, ascending."""
    if labels.size and 0 <= labels.min() <= labels.max() <= IGNORE:  # many times as fast as sorting
        return np.flatnonzero(np.bincount(labels.ravel())).tolist()
    return np.unique(labels).tolist()
