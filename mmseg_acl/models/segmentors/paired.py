"""The base of methods with two networks that learn from each other, without a teacher."""

from __future__ import annotations

from torch import nn

from mmseg_acl.models.segmentors.semi_supervised import SemiSupervisedSegmentor
from mmseg_acl.models.semi.pair import SegmentorPair
from mmseg_acl.models.semi.student import build_segmentor


class PairedSegmentor(SemiSupervisedSegmentor):
    """Two networks of one config in one module, which distributed training can wrap.

    A method names them in ``networks`` and has a property for each.
    """

    def build_networks(self, segmentor: dict) -> None:
        """Two networks of one config, each with pre-trained weights where it names some."""
        self.segmentors = SegmentorPair(**{name: build_segmentor(segmentor) for name in self.networks})

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """None: both networks learn."""
        return []

    def network_path(self, network: str) -> str:
        """Where a network stands in the state dict."""
        return f'segmentors.{network}'
