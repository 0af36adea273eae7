"""Several teachers that speak with one voice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor, nn

from mmseg_acl.models.semi.joint_pass import decode, full_image_metas


class Ensemble(nn.Module):
    """Segmentors of one config whose logits are averaged; it predicts as any of them does.

    A checkpoint of a single segmentor fills all members alike.

    Args:
        members: mmseg encoder-decoders.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def num_classes(self) -> int:
        """Of each member."""
        return self.members[0].num_classes

    @property
    def align_corners(self) -> bool:
        """How each member resizes its logits."""
        return self.members[0].align_corners

    @property
    def test_cfg(self) -> dict:
        """Whether each member sees an image whole or in windows."""
        return self.members[0].test_cfg

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Mean logits (B, C, H, W) for images (B, 3, H, W)."""
        return self._mean(lambda member: member.encode_decode(inputs, batch_img_metas))

    def decode(self, features: Any, size: tuple[int, int]) -> Tensor:
        """Mean logits (B, C, H, W) with (H, W) = ``size`` of the members' heads, all for the same features."""
        return self._mean(lambda member: decode(member, features, size))

    def predict(self, inputs: Tensor, data_samples: OptSampleList = None) -> SampleList:
        """As mmseg's ``EncoderDecoder.predict``, from the mean logits."""
        metas = full_image_metas(inputs) if data_samples is None else [sample.metainfo for sample in data_samples]
        return self.members[0].postprocess_result(self.inference(inputs, metas), data_samples)

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Mean logits (B, C, H, W) of whole images, or of their windows put together."""
        return self._mean(lambda member: member.inference(inputs, batch_img_metas))

    def forward(self, inputs: Tensor, data_samples: OptSampleList = None, mode: str = 'tensor') -> Any:
        """Each member's raw outputs in ``'tensor'`` mode, the only one."""
        return [member(inputs, data_samples, mode=mode) for member in self.members]

    def extract_feat(self, inputs: Tensor) -> list:
        """Each member's features."""
        return [member.extract_feat(inputs) for member in self.members]

    def _mean(self, logits_of: Callable[[nn.Module], Tensor]) -> Tensor:
        return torch.stack([logits_of(member) for member in self.members]).mean(dim=0)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        for key in [f'{prefix}{name}' for name in self.members[0].state_dict()]:
            if key in state_dict:
                value, name = state_dict.pop(key), key[len(prefix) :]
                for i in range(len(self.members)):
                    state_dict[f'{prefix}members.{i}.{name}'] = value
        super()._load_from_state_dict(state_dict, prefix, *args)
