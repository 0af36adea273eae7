"""How sure the student is of each class, as a moving average (Hu et al. 2021, Sec. 3.2)."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from mmseg_acl.models.semi.pseudo_label import IGNORE


class ConfidenceBank(nn.Module):
    """A confidence ``s_c`` in [0, 1] for each class, and how weak classes are favoured by it.

    ``s_c <- m s_c + (1 - m) mean p_c``, the mean over the labelled pixels of class c. The first ``1 / (1 - m)``
    updates are a plain mean, as the EMA teacher's are, so that no starting value lingers on. A class without pixels
    in a step keeps its confidence; one that was never seen has 0, the weakest. Confidences and counters are
    buffers: they are saved and resumed with the model.

    Args:
        num_classes: Number of classes, 0 being the background.
        momentum: ``m``, in [0, 1).

    Raises:
        ValueError: Fewer than two classes or a momentum out of range.
    """

    def __init__(self, num_classes: int, momentum: float = 0.999) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f'num_classes is {num_classes}; a confidence bank compares at least 2 classes')
        if not 0 <= momentum < 1:
            raise ValueError(f'bank momentum is {momentum}; it must be in [0, 1)')
        self.momentum = momentum
        self.register_buffer('confidence', torch.zeros(num_classes))
        self.register_buffer('updates', torch.zeros(num_classes, dtype=torch.long))

    @torch.no_grad()
    def update(self, prob: Tensor, labels: Tensor) -> None:
        """Take in a step's labelled pixels, those of all ranks. Every rank has to call it.

        Args:
            prob: (B, C, H, W) probabilities of the student.
            labels: (B, H, W) true classes, 255 where unknown.
        """
        valid = labels != IGNORE
        classes, own = labels[valid], prob.movedim(1, -1)[valid]
        own = own.gather(1, classes[:, None])[:, 0].to(self.confidence)
        totals = self.confidence.new_zeros(2, len(self.confidence))
        totals[0].index_add_(0, classes, own)
        totals[1].index_add_(0, classes, torch.ones_like(own))
        all_reduce(totals)
        present = totals[1] > 0
        self.updates += present
        decay = (1 - 1 / self.updates.clamp(min=1)).clamp(max=self.momentum)
        mean = totals[0] / totals[1].clamp(min=1)
        self.confidence.copy_(torch.where(present, torch.lerp(mean, self.confidence, decay), self.confidence))

    def class_rates(self, power: float = 1.0) -> Tensor:
        """Chance (C,) of each class to be chosen for pasting, ``softmax((1 - s)^power)``; 0 for the background."""
        rates = torch.zeros_like(self.confidence)
        rates[1:] = (1 - self.confidence[1:]).clamp(min=0).pow(power).softmax(dim=0)
        return rates

    def keep_rates(self, gamma: float, floor: float) -> Tensor:
        """Chance (C,) of a pixel of each class to be kept, ``((1 - s_c) / max(1 - s))^gamma``, at least ``floor``."""
        weakness = 1 - self.confidence
        return (weakness / weakness.max().clamp(min=1e-6)).pow(gamma).clamp(min=floor, max=1.0)
