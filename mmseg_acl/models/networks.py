"""The networks of a model: a plain segmentor is one, a semi-supervised method has one or several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from mmseg_acl.models.segmentors.semi_supervised import SemiSupervisedSegmentor
from mmseg_acl.models.semi.wrapping import unwrapped


def is_semi_supervised(model: nn.Module) -> bool:
    """Whether a model is one of this package's methods, which learn from views and name their networks."""
    return isinstance(unwrapped(model), SemiSupervisedSegmentor)


def networks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The segmentors of a model by name, in the order in which they are scored.

    A plain segmentor is its own ``student``.

    Args:
        model: A method or a plain segmentor, wrapped for distributed training or not.
    """
    model = unwrapped(model)
    if not is_semi_supervised(model):
        return {'student': model}
    return {name: getattr(model, name) for name in model.networks}


def learner(model: nn.Module) -> nn.Module:
    """The segmentor that learns, the first of several; of a plain segmentor itself."""
    return next(iter(networks_of(model).values()))


def predictor(model: nn.Module) -> nn.Module:
    """The segmentor that ``model.predict`` runs."""
    model = unwrapped(model)
    return networks_of(model)[model.predict_on] if is_semi_supervised(model) else model


@contextmanager
def predicting(model: nn.Module, network: str) -> Iterator[None]:
    """Have ``model`` predict with one of its networks; afterwards it predicts as before.

    Raises:
        ValueError: It has no such network.
    """
    model, names = unwrapped(model), networks_of(model)
    if network not in names:
        raise ValueError(f'{type(model).__name__} has no network {network!r}; it has {", ".join(names)}')
    if not is_semi_supervised(model):
        yield
        return
    before, model.predict_on = model.predict_on, network
    try:
        yield
    finally:
        model.predict_on = before
