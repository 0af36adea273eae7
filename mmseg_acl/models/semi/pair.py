"""Two networks of one config that learn beside each other."""

from __future__ import annotations

from mmengine.model import BaseModule
from mmseg.utils import SampleList
from torch import Tensor, nn

from mmseg_acl.models.semi.joint_pass import StudentPass, joint_pass


class SegmentorPair(BaseModule):
    """Both networks with one forward pass, so that distributed training can wrap them as one module.

    Args:
        **networks: Two segmentors by their names.
    """

    def __init__(self, **networks: nn.Module) -> None:
        super().__init__()
        self.names = tuple(networks)
        for name, network in networks.items():
            self.add_module(name, network)

    def forward(self, labelled: Tensor, samples: SampleList, unlabelled: Tensor) -> list[StudentPass]:
        """What either network makes of the images; see :func:`~mmseg_acl.models.semi.joint_pass.joint_pass`."""
        return [joint_pass(getattr(self, name), labelled, samples, unlabelled) for name in self.names]


def summed_losses(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses of both networks together; what is logged beside them is the first's."""
    return {key: value + second[key] if 'loss' in key else value for key, value in first.items()}
