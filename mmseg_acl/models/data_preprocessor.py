"""Normalise every view of a batch alike."""

from __future__ import annotations

import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_acl.models.semi.pseudo_label import IGNORE


@MODELS.register_module()
class MultiViewSegDataPreprocessor(BaseDataPreprocessor):
    """Apply one mmseg data preprocessor to each view of ``{'inputs': {view: images}, 'data_samples': ...}``.

    A batch without views (validation, test) goes through as it would in plain mmseg. The maps that mmseg does
    not know, ``valid`` and ``hidden_sem_seg``, are padded with the images.

    Args:
        data_preprocessor: Config of an mmseg ``SegDataPreProcessor``. While training mmseg wants either ``size``
            or ``size_divisor``, which its model files leave to others; without both the images stay as they are.
    """

    def __init__(self, data_preprocessor: dict) -> None:
        super().__init__()
        if not data_preprocessor.get('size') and not data_preprocessor.get('size_divisor'):
            data_preprocessor = dict(data_preprocessor, size_divisor=1)
        self.data_preprocessor = MODELS.build(data_preprocessor)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Batch of tensors and samples, by view while training.

        Args:
            data: ``inputs`` and ``data_samples``, both dicts by view or both lists.
            training: Passed on.
        """
        if not isinstance(data['inputs'], dict):
            return self.data_preprocessor(data, training)
        views = {
            name: self.data_preprocessor(dict(inputs=images, data_samples=data['data_samples'][name]), training)
            for name, images in data['inputs'].items()
        }
        for view in views.values():
            for sample in view['data_samples']:
                _pad_maps(sample, view['inputs'].shape[2:])
        return {key: {name: view[key] for name, view in views.items()} for key in ('inputs', 'data_samples')}


def _pad_maps(sample: SegDataSample, size: tuple[int, int]) -> None:
    """Pad our maps right and below, as mmseg pads images and labels."""
    for key, value in (('valid', False), ('hidden_sem_seg', IGNORE)):
        if key in sample:
            data = sample.get(key).data
            padding = (0, size[1] - data.shape[-1], 0, size[0] - data.shape[-2])
            if any(padding):
                sample.set_data({key: PixelData(data=F.pad(data, padding, value=value))})
