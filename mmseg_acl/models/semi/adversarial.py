"""Adversarial noise on a feature (virtual adversarial training, Miyato et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_acl.models.semi.precision import full_precision


class AdversarialNoise:
    """The noise of a given length that changes a prediction most, by one step of the power method.

    Lengths are shares of the length of the image's feature: what disturbs one network is nothing to another, whose
    feature is larger.

    Around a feature x, the divergence ``KL(p(x) || p(x + r))`` is least, 0, at ``r = 0``, so that its gradient
    there says nothing, and grows fastest along the first eigenvector of its Hessian. One product of the
    Hessian with a random direction d, the difference of two gradients ``(g(xi d) - g(0)) / xi`` with
    ``g(0) = 0``, turns d towards it.

    Args:
        epsilon: Length of an image's noise, as a share of its feature's; not negative.
        xi: Length of the step of the difference, likewise; above 0. The usual length of 1e-6 is for double precision:
            spread over the 82 000 entries of a trained MobileNetV2's float32 feature, whose length is about 70, it
            left nothing but rounding (cosine with the direction in double precision -0.2 to 0.0; with lengths from
            0.01 to 0.1 it is above 0.998).

    Raises:
        ValueError: A length outside what is allowed.
    """

    def __init__(self, epsilon: float = 0.1, xi: float = 1e-3) -> None:
        if epsilon < 0:
            raise ValueError(f'epsilon is {epsilon}; the length of adversarial noise must not be negative')
        if xi <= 0:
            raise ValueError(f'xi is {xi}; the step of the power method must be above 0')
        self.epsilon, self.xi = epsilon, xi

    @full_precision
    def __call__(self, feature: Tensor, predict: Callable[[Tensor], Tensor], valid: Tensor) -> Tensor:
        """Noise (B, d, h, w) for a feature of that shape; no gradient.

        Args:
            feature: (B, d, h, w).
            predict: Gives the logits (B, C or 1, H, W) of a feature. It must treat each image alone (networks
                in ``eval`` mode) and have no parameters that want a gradient.
            valid: (B, H, W) bool; what is predicted elsewhere does not count.
        """
        feature = feature.detach()
        with torch.no_grad():
            clean = _probabilities(predict(feature))
        length = feature.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        step = (self.xi * length * unit_length(torch.randn_like(feature))).requires_grad_()
        logits = predict(feature + step)
        with torch.no_grad():
            error = (_probabilities(logits) - clean) * valid.unsqueeze(1)  # the divergence's gradient by the logits
        (gradient,) = torch.autograd.grad(logits, step, error)
        return self.epsilon * length * unit_length(gradient)


def _probabilities(logits: Tensor) -> Tensor:
    """One a logit, unlike those of ``pseudo_label``, and in the precision of the logits."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def unit_length(vectors: Tensor) -> Tensor:
    """Scale every image's vector, all that follows the first dimension, to length 1; the zero vector stays."""
    flat = vectors.flatten(1)
    # First by the largest entry: squares of what is left of a sure prediction's gradient may underflow.
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    return F.normalize(flat, dim=1).view_as(vectors)
