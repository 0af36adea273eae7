"""Several optimizers for one model."""

from __future__ import annotations

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
