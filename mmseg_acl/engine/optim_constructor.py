"""Several optimizers for one model, and learning rates that fall with the depth of an encoder."""

from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapperDict
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmseg_acl.models.semi.wrapping import unwrapped

SEGMENTOR = 'segmentor'


class SeparateOptimWrappers(OptimWrapperDict):
    """Optimizer wrappers by name, each of which counts the steps.

    mmengine's own dict leaves the counting out, so that with ``accumulative_counts`` the last step and the
    place in a cycle after a resume would be wrong.
    """

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Tell every wrapper where the run stands."""
        for wrapper in self.values():
            wrapper.initialize_count_status(model, cur_iter, max_iters)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SeparateOptimWrapperConstructor:
    """Give some children of a model an optimizer of their own; the rest shares the usual one, ``'segmentor'``.

    As in ``configs/_base_/schedules/80e_adversarial.py``::

        optim_wrapper = dict(
            constructor='SeparateOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=0.001),
            separate=dict(discriminator=dict(optimizer=dict(type='Adam', lr=1e-4))),
        )

    What is set for the usual one (``type`` and with it mixed precision, ``accumulative_counts``,
    ``clip_grad``) holds for the separate ones too, unless they set it themselves; ``paramwise_cfg`` does not.
    The model's ``train_step`` gets the wrappers as a dict. A ``param_scheduler`` that is a list serves each of
    them; one that is a dict of lists, by the same names, tells them apart.

    Args:
        optim_wrapper_cfg: ``optim_wrapper`` of the config.
        paramwise_cfg: See mmengine's ``DefaultOptimWrapperConstructor``; for the usual one.

    Raises:
        ValueError: ``separate`` is empty, names no child of the model, or all of them.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.shared = dict(optim_wrapper_cfg)
        self.separate = self.shared.pop('separate', None)
        self.paramwise_cfg = paramwise_cfg
        if not self.separate:
            raise ValueError(
                'optim_wrapper.separate is empty: name the parts that have their own optimizer, as in '
                "separate=dict(discriminator=dict(optimizer=dict(type='Adam', lr=1e-4))), or take no constructor"
            )

    def __call__(self, model: nn.Module) -> SeparateOptimWrappers:
        """Build the wrappers for ``model``, which may be wrapped for distributed training."""
        children = dict(unwrapped(model).named_children())
        parts = {name: part for name, part in children.items() if any(p.requires_grad for p in part.parameters())}
        unknown = self.separate.keys() - parts.keys()
        if unknown or self.separate.keys() == parts.keys() or SEGMENTOR in self.separate:
            raise ValueError(
                f'optim_wrapper.separate names {", ".join(sorted(self.separate))}; the parts of this model that '
                f'learn are {", ".join(parts)}, of which some, not all, may be named'
            )
        wrappers = {
            name: DefaultOptimWrapperConstructor({**self.shared, **own})(parts.pop(name))
            for name, own in self.separate.items()
        }
        rest = DefaultOptimWrapperConstructor(self.shared, self.paramwise_cfg)(nn.ModuleDict(parts))
        return SeparateOptimWrappers(**{SEGMENTOR: rest}, **wrappers)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Learning rates of an encoder that fall from its last layer to its first, beside mmengine's own settings.

    The rate of layer l of L is multiplied by ``layer_decay ** (L + 1 - l)`` (BEiT, Bao et al. 2022). The embeddings
    are layer 0, and what comes behind the last block is layer L + 1. Everything outside the encoder keeps its rate.
    An encoder has ``num_layers``, and a method ``layer_of`` that says how deep a parameter is. As in
    ``configs/_base_/schedules/80e_dino.py``::

        optim_wrapper = dict(
            constructor='LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=2e-4),
            paramwise_cfg=dict(layer_decay=0.9, custom_keys=dict(backbone=dict(lr_mult=1 / 40))),
        )

    Args:
        optim_wrapper_cfg: ``optim_wrapper`` of the config.
        paramwise_cfg: ``layer_decay``, in (0, 1], where 1 changes nothing; the rest is that of mmengine's
            ``DefaultOptimWrapperConstructor``.

    Raises:
        ValueError: ``layer_decay`` is missing or out of range, or no encoder of the model knows its layers.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        decay = paramwise_cfg.pop('layer_decay', None)
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 < decay <= 1:
            raise ValueError(
                f'optim_wrapper.paramwise_cfg.layer_decay is {decay!r}; it must be above 0 and at most 1, where 1 '
                'lets all layers learn at one rate'
            )
        self.layer_decay = decay
        super().__init__(optim_wrapper_cfg, paramwise_cfg or dict(bypass_duplicate=False))

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any) -> None:
        """Add the groups of ``module``, one a parameter, with the rates of encoders' layers among them."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:  # mmengine goes down the model by itself
            return
        scales = self._scales(module)
        for group in params:
            scale = scales.get(id(group['params'][0]), 1.0)
            if scale != 1:
                group['lr'] = scale * group.get('lr', self.base_lr)

    def _scales(self, model: nn.Module) -> dict[int, float]:
        """What the rate of a parameter is multiplied by."""
        encoders = [part for part in model.modules() if hasattr(part, 'layer_of')]
        if not encoders:
            raise ValueError(
                'LayerDecayOptimWrapperConstructor: no encoder of the model says which layer a parameter is of, as '
                'DINOv2 and DINOv3 do: take optim_wrapper.constructor and paramwise_cfg.layer_decay away'
            )
        return {
            id(parameter): self.layer_decay ** (encoder.num_layers + 1 - encoder.layer_of(name))
            for encoder in encoders
            for name, parameter in encoder.named_parameters()
        }
