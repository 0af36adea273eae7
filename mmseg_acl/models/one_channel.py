"""Heads with one channel and a sigmoid: where their probability is cut."""

from __future__ import annotations

from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS

THRESHOLD = 0.5


def with_threshold(config: Any, path: str = 'model') -> Any:
    """A copy of a model's config in which every head with one channel has the threshold 0.5.

    mmseg's own is 0.3, and a warning. Masks would be handed out at that and scored at 0.5.

    Args:
        config: Config of a model or of a part of it.
        path: Where it stands, for the message.

    Raises:
        ValueError: Such a head has another threshold.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(with_threshold(part, f'{path}.{index}') for index, part in enumerate(config))
    if not isinstance(config, dict):
        return config
    config = type(config)({key: with_threshold(part, f'{path}.{key}') for key, part in config.items()})
    if _has_one_channel(config):
        if config.get('threshold') not in (None, THRESHOLD):
            raise ValueError(
                f'{path}.threshold is {config["threshold"]}; a head with one channel is cut at {THRESHOLD} here, in '
                f'masks and in scores alike: set threshold={THRESHOLD}, or leave it out. Scores at another one come '
                'from tools/evaluate_maps.py --threshold'
            )
        config['threshold'] = THRESHOLD
    return config


def _has_one_channel(config: dict) -> bool:
    if (config.get('out_channels') or config.get('num_classes')) != 1:
        return False
    kind = config.get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, BaseDecodeHead)
