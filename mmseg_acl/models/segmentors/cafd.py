"""CAFD: collaborative and adversarial learning of focused and dispersive representations (Wu et al., ICCV 2021)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapperDict
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor, nn

from mmseg_acl.models.heads.focused_dispersive import add_block
from mmseg_acl.models.losses import pseudo_label_loss
from mmseg_acl.models.segmentors.paired import PairedSegmentor
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch
from mmseg_acl.models.semi.pair import summed_losses
from mmseg_acl.models.semi.pseudo_label import IGNORE, hard_labels, one_hot, probabilities, true_labels
from mmseg_acl.models.semi.rampup import sigmoid_rampup
from mmseg_acl.models.semi.wrapping import unwrapped
from mmseg_acl.phases import check_phase


@MODELS.register_module()
class CAFD(PairedSegmentor):
    """Two networks, one focused and one dispersive, that teach each other what a discriminator trusts.

    A **reconstruction**: we found no code. From the paper are the two networks of one architecture with
    a focused and a dispersive block, their consistency, the discriminator on their probability maps, whose output is
    a confidence map on unlabelled images, and the auxiliary adversarial losses. From AdvSemiSeg (Hung et al., BMVC
    2018), whose scheme it builds on, are the discriminator's layers and optimizer, that it learns from labelled
    images alone, and the threshold and late start of pseudo-labels. Ours are, because nothing says more:

    - the inside of the blocks (``heads/focused_dispersive.py``), and that they stand as a neck before the head;
    - who learns from whom: each network learns on the strong view, from what the other, in ``eval`` mode, predicts
      on the weak one;
    - consistency is the squared error, as in Mean Teacher, averaged with the confidence as weight. The weights
      are normalised, since a discriminator that has learnt well trusts nothing much, but one region more than
      another;
    - pseudo-labels are learnt by cross-entropy + Dice, as labels are;
    - the smoothing of ground-truth maps (``truth_stride``).

    There is no teacher and no average: the networks learn by one optimizer, the discriminator by another
    (``SeparateOptimWrapperConstructor``). No loss of the networks reaches the discriminator's parameters, which are
    constants in it, and the discriminator is given predictions without a gradient. During the warm-up the unlabelled
    images stay away; the discriminator learns from the first step.

    Example, a config that trains it on one's own segmentor::

        _base_ = [
            '../_base_/networks/mbv2.py',
            '../_base_/methods/cafd_128.py',
            '../_base_/schedules/1200i_adversarial.py',
            ...,
        ]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)

    Args:
        segmentor: Config of an mmseg segmentor, of two classes or more. Both networks are built from it.
        focused: Arguments of the ``FocusedBlock`` but its ``in_channels``.
        dispersive: Arguments of the ``DispersiveBlock`` but its ``in_channels``.
        discriminator: Arguments of the ``FCDiscriminator`` but its ``in_channels``.
        adversarial_weights: Weights of the adversarial loss on labelled and on unlabelled images.
        consistency_weight: Weight of the consistency after its ramp.
        rampup_iters: Length of the ramp, counted from the end of the warm-up.
        label_weight: Weight of the loss with pseudo-labels.
        labels_after: Iteration at which pseudo-labels begin.
        confidence: A pseudo-label counts where the discriminator gives it more than this; in [0, 1).
        truth_stride: The discriminator sees ground-truth maps averaged over squares of this side and resized, as
            maps of the networks, whose logits stand at a stride, are never sharp. With 1 it sees one-hot maps.
        **kwargs: See :class:`SemiSupervisedSegmentor`.

    Raises:
        ValueError: A number outside what is allowed.
    """

    networks = ('focused', 'dispersive')

    def __init__(
        self,
        segmentor: dict,
        focused: dict | None = None,
        dispersive: dict | None = None,
        discriminator: dict | None = None,
        adversarial_weights: tuple[float, float] = (0.1, 0.001),
        consistency_weight: float = 10.0,
        rampup_iters: int | float = 400,
        label_weight: float = 0.5,
        labels_after: int | float = 5000,
        confidence: float = 0.2,
        truth_stride: int = 1,
        **kwargs: Any,
    ) -> None:
        if not 0 <= confidence < 1:
            raise ValueError(f'confidence is {confidence}; probabilities are compared with it, so it is in [0, 1)')
        if truth_stride < 1:
            raise ValueError(f'truth_stride is {truth_stride}; it must be at least 1, which leaves maps as they are')
        check_phase('rampup_iters', rampup_iters)
        check_phase('labels_after', labels_after)
        super().__init__(segmentor, **kwargs)
        add_block(self.focused, dict(focused or {}, type='FocusedBlock'))
        add_block(self.dispersive, dict(dispersive or {}, type='DispersiveBlock'))
        self.discriminator = MODELS.build(
            dict(discriminator or {}, type='FCDiscriminator', in_channels=self.focused.num_classes)
        )
        self.adversarial_weights, self.truth_stride = adversarial_weights, truth_stride
        self.consistency_weight, self.rampup_iters = consistency_weight, rampup_iters
        self.label_weight, self.labels_after, self.confidence = label_weight, labels_after, confidence

    @property
    def focused(self) -> nn.Module:
        """The network with the focused block."""
        return unwrapped(self.segmentors).focused

    @property
    def dispersive(self) -> nn.Module:
        """The network with the dispersive block."""
        return unwrapped(self.segmentors).dispersive

    # ---------------------------------------------------------------- training

    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict[str, Tensor]:
        """One step of the networks and one of the discriminator.

        Args:
            data: A batch as the data loader gives it.
            optim_wrapper: ``'segmentor'`` for the networks and ``'discriminator'``.

        Returns:
            What is to be logged; ``loss`` is the networks' total.

        Raises:
            TypeError: There is one optimizer only.
        """
        if not isinstance(optim_wrapper, OptimWrapperDict) or 'discriminator' not in optim_wrapper:
            raise TypeError(
                "CAFD's discriminator needs an optimizer of its own: inherit schedules/80e_adversarial.py or "
                "1200i_adversarial.py, or set optim_wrapper=dict(constructor='SeparateOptimWrapperConstructor', "
                'separate=dict(discriminator=dict(optimizer=...)))'
            )
        ours, theirs = optim_wrapper['segmentor'], optim_wrapper['discriminator']
        with ours.optim_context(self.segmentors), theirs.optim_context(self.discriminator):
            losses = self._run_forward(self.data_preprocessor(data, training=True), mode='loss')
        judgement, log = self.parse_losses({'loss_dis': losses.pop('loss_dis')})
        total, found = self.parse_losses(losses)
        ours.update_params(total)
        theirs.update_params(judgement)
        return {**log, **found}

    def supervised_loss(self, images: Tensor, samples: SampleList) -> dict[str, Tensor]:
        """``loss_seg``, the adversarial loss on labelled images and ``loss_dis``."""
        return self.run_pair(images, samples, images[:0])[0]

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """The losses of the warm-up, and on unlabelled images ``loss_consistency``, later ``loss_label`` too."""
        targets = [probabilities(self.predict_weak(name, batch.weak)) for name in self.networks]
        trust = [self.confidence_map(target, batch.valid) for target in targets]
        losses, logits = self.run_pair(batch.labelled, batch.samples, batch.strong, batch.valid)

        # Each network learns from the other.
        lessons = list(zip(logits, reversed(targets), reversed(trust), strict=True))
        ramp = sigmoid_rampup(self.iteration - self.warmup_iters, self.rampup_iters)
        losses['loss_consistency'] = (
            self.consistency_weight * ramp * sum(confident_error(*lesson) for lesson in lessons)
        )
        losses['confidence'] = torch.stack(trust).sum() / (len(trust) * batch.valid.sum().clamp(min=1))
        if self.iteration >= self.labels_after:
            labels = [hard_labels(target, weight > self.confidence) for _, target, weight in lessons]
            losses['loss_label'] = self.label_weight * sum(
                pseudo_label_loss(own, target, label) for (own, target, _), label in zip(lessons, labels, strict=True)
            )
            kept = (torch.stack(labels) != IGNORE).sum()
            losses['kept_share'] = kept / (len(labels) * batch.valid.sum().clamp(min=1))
        return losses

    def run_pair(
        self, labelled: Tensor, samples: SampleList, unlabelled: Tensor, valid: Tensor | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Run both networks over the labelled images and ``unlabelled``, and judge what they predict.

        Args:
            labelled: (L, 3, H, W).
            samples: Their data samples.
            unlabelled: (U, 3, H, W), as both networks see them.
            valid: (U, H, W) bool, false on padding; needed where U is not 0.

        Returns:
            ``loss_seg``, ``loss_adv``, ``loss_dis`` and what else the segmentor has; and the logits
            (U, C or 1, H, W) of either network on the unlabelled images.
        """
        first, second = self.segmentors(labelled, samples, unlabelled)
        losses = summed_losses(first.losses, second.losses)
        truth = true_labels(samples)
        maps = probabilities(torch.cat([first.logits.labelled, second.logits.labelled]))
        losses['loss_dis'] = self.discriminator_loss(maps.detach(), truth)
        weights = self.adversarial_weights
        losses['loss_adv'] = weights[0] * self.adversarial_loss(maps, (truth != IGNORE).repeat(2, 1, 1))
        logits = [first.logits.unlabelled, second.logits.unlabelled]
        if len(unlabelled):
            maps = probabilities(torch.cat(logits))
            losses['loss_adv'] = losses['loss_adv'] + weights[1] * self.adversarial_loss(maps, valid.repeat(2, 1, 1))
        return losses, logits

    @torch.no_grad()
    def predict_weak(self, name: str, images: Tensor) -> Tensor:
        """Logits (U, C or 1, H, W) of a network for weak views, in ``eval`` mode: no dropout, no statistics."""
        network = getattr(self, name)
        training = network.training
        network.eval()
        logits = self.run_teacher(images, name)
        network.train(training)
        return logits

    # ---------------------------------------------------------------- the discriminator

    def discriminator_loss(self, maps: Tensor, truth: Tensor) -> Tensor:
        """Binary cross-entropy of the discriminator: ground truth is 1, predictions are 0; each counts one half.

        Args:
            maps: (2 L, C, H, W) probabilities of both networks, one after the other, without a gradient.
            truth: (L, H, W) labels; 255 takes no part.
        """
        valid = truth != IGNORE
        real = truth_maps(truth, maps.shape[1], self.truth_stride)
        every = torch.cat([valid, valid, valid])
        logits = self.discriminator(masked(torch.cat([real, maps]), every))
        judged_real, judged_maps = logits.split([len(real), len(maps)])
        right = -mean_where(F.logsigmoid(judged_real.float())[:, 0], valid)
        caught = -mean_where(F.logsigmoid(-judged_maps.float())[:, 0], every[len(real) :])
        return (right + caught) / 2

    def adversarial_loss(self, maps: Tensor, valid: Tensor) -> Tensor:
        """Cross-entropy of (B, C, H, W) probabilities passing for ground truth, where ``valid`` (B, H, W)."""
        return -mean_where(F.logsigmoid(self.judge(maps, valid))[:, 0], valid)

    @torch.no_grad()
    def confidence_map(self, maps: Tensor, valid: Tensor) -> Tensor:
        """Confidence (B, H, W) in [0, 1] in (B, C, H, W) probabilities: sigmoid(D), 0 where not ``valid``."""
        return self.judge(maps, valid).sigmoid()[:, 0] * valid

    def judge(self, maps: Tensor, valid: Tensor) -> Tensor:
        """The discriminator's logits (B, 1, H, W) of ``maps``, with its parameters as constants.

        It is called beside any wrapper for distributed training, which would wait for their gradients.
        """
        discriminator = unwrapped(self.discriminator)
        constants = {name: value.detach() for name, value in discriminator.named_parameters()}
        return torch.func.functional_call(discriminator, constants, (masked(maps, valid),)).float()


def truth_maps(truth: Tensor, num_classes: int, stride: int) -> Tensor:
    """Ground-truth maps (B, C, H, W) of labels (B, H, W), smoothed to ``stride``; 0 where labels are 255."""
    sharp = one_hot(truth, num_classes)
    if stride == 1:
        return sharp
    coarse = F.avg_pool2d(sharp, stride, ceil_mode=True, count_include_pad=False)
    return F.interpolate(coarse, size=truth.shape[1:], mode='bilinear', align_corners=False)


def masked(maps: Tensor, valid: Tensor) -> Tensor:
    """``maps`` (B, C, H, W) with zeros where not ``valid`` (B, H, W), so that padding tells nobody apart."""
    return maps * valid[:, None]


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values`` (B, H, W) where ``valid``; 0 if nowhere."""
    return (values * valid).sum() / valid.sum().clamp(min=1)


def confident_error(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Squared error of probabilities, mean over classes and, weighted, over pixels.

    Args:
        logits: (B, C or 1, H, W) of the one that learns.
        target: (B, C, H, W) probabilities.
        weight: (B, H, W), not negative; the result is 0 where it is 0 everywhere.
    """
    error = (probabilities(logits) - target).square().mean(dim=1)
    return (weight * error).sum() / weight.sum().clamp(min=1e-8)
