"""Normalise every view of a batch alike."""

from __future__ import annotations

from mmengine.model import BaseDataPreprocessor
from mmseg.registry import MODELS


@MODELS.register_module()
class MultiBranchSegDataPreprocessor(BaseDataPreprocessor):
    """Apply one mmseg data preprocessor to each branch of ``{'inputs': {branch: images}, 'data_samples': ...}``.

    A batch without branches (validation, test) goes through as it would in plain mmseg.

    Args:
        data_preprocessor: Config of an mmseg ``SegDataPreProcessor``.
    """

    def __init__(self, data_preprocessor: dict) -> None:
        super().__init__()
        self.data_preprocessor = MODELS.build(data_preprocessor)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Batch of tensors and samples, per branch while training.

        Args:
            data: ``inputs`` and ``data_samples``, both dicts by branch or both lists.
            training: Passed on.
        """
        if not isinstance(data['inputs'], dict):
            return self.data_preprocessor(data, training)
        branches = {
            name: self.data_preprocessor(dict(inputs=images, data_samples=data['data_samples'][name]), training)
            for name, images in data['inputs'].items()
        }
        return {key: {name: branch[key] for name, branch in branches.items()} for key in ('inputs', 'data_samples')}
