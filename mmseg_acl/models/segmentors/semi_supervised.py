"""The base of every method: a student, its EMA teacher, and a labelled and an unlabelled batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor, nn

from mmseg_acl.models.losses import no_loss
from mmseg_acl.models.semi.feature_tap import FeatureTap
from mmseg_acl.models.semi.joint_pass import Parts, StudentPass, full_image_metas, joint_pass
from mmseg_acl.models.semi.student import build_segmentor
from mmseg_acl.models.semi.teacher import ema_decay, ema_update, freeze
from mmseg_acl.models.semi.texture import fill_blank, is_blank
from mmseg_acl.models.semi.wrapping import unwrapped
from mmseg_acl.phases import check_phase
from mmseg_acl.renamed import refuse_renamed


@dataclass
class SemiBatch:
    """One step's images, by view.

    Attributes:
        labelled: (L, 3, H, W) labelled images.
        samples: Their data samples, with ``gt_sem_seg``.
        weak: (U, 3, H, W) unlabelled images after geometry only.
        strong_views: The same with strong colours, pixel-aligned with ``weak``: ``unsup_strong`` and, where the
            pipeline makes more, all views whose names begin so, in its order.
        valid: (U, H, W) bool, false on padding.
    """

    labelled: Tensor
    samples: SampleList
    weak: Tensor
    strong_views: tuple[Tensor, ...]
    valid: Tensor

    @property
    def strong(self) -> Tensor:
        """(U, 3, H, W) the first strong view."""
        return self.strong_views[0]

    def two_strong_views(self) -> tuple[Tensor, Tensor]:
        """The strong views of a method that needs two.

        Raises:
            ValueError: There are more or fewer.
        """
        if len(self.strong_views) != 2:
            raise ValueError(
                f'the unlabelled pipeline makes {len(self.strong_views)} strong view(s) and this method needs 2: let '
                "it end in dict(type='Views', unsup_weak=[], unsup_strong=colors, unsup_strong2=colors), as "
                'two_views_pipeline of _base_/datasets/semi_384.py does'
            )
        first, second = self.strong_views
        return first, second

    def without_blank(self) -> tuple[SemiBatch, Tensor]:
        """The batch with labelled images, all invalid, in the place of unlabelled ones without texture.

        What a teacher says of a black frame is no label, and in BatchNorm's statistics it has no place either.

        Returns:
            The batch, and which (U,) of its unlabelled images were replaced.
        """
        blank = is_blank(self.weak, self.labelled, self.valid)
        batch = replace(
            self,
            weak=fill_blank(self.weak, blank, self.labelled),
            strong_views=tuple(fill_blank(view, blank, self.labelled) for view in self.strong_views),
            valid=self.valid & ~blank[:, None, None],
        )
        return batch, blank


# What mmseg's tools set to None before they build a model.
OF_SEGMENTORS = ('pretrained', 'train_cfg', 'test_cfg')


@MODELS.register_module()
class SemiSupervisedSegmentor(BaseSegmentor):
    """Any mmseg segmentor as a student, with an EMA teacher beside it.

    A method is a subclass that says in :meth:`semi_supervised_loss` what it does with a batch. ``networks`` names
    the segmentors it has, the student first and then its teachers; a method whose networks stand in another
    relation builds them in :meth:`build_networks` and says in :meth:`ema_pairs` which follow which. Training
    needs ``MeanTeacherHook`` among the hooks: it announces each step and, after it, updates the teachers.

    Teachers predict in ``eval`` mode, and floating buffers are averaged as parameters are. The released teachers of
    AEL, PSMT, ELN and U2PL run in training mode, and most average parameters alone.

    Example, a config of one's own method on one's own segmentor; the files in ``_base_`` are those of ``configs/``::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/datasets/kvasir_128.py', ...]
        custom_imports = dict(imports=['mmseg_acl', 'my_package'])
        model = dict(_delete_=True, type='MyMethod', segmentor=_base_.model, warmup_iters=1 / 8)

    What counts iterations, here and in the methods, may be a share of the run (:mod:`mmseg_acl.phases`).

    Args:
        segmentor: Config of an mmseg segmentor. Its ``data_preprocessor`` serves every view.
        teacher_momentum: Decay of the EMA, in [0, 1); see :func:`~mmseg_acl.models.semi.teacher.ema_decay`.
        warmup_iters: Iterations on labelled images alone. The teacher starts, as a copy, when they end.
        predict_on: Which of ``networks`` ``predict`` runs; by default the teacher where there is one, else the
            first.
        data_preprocessor: Config; by default the segmentor's own, applied to each view.
        init_cfg: Passed to mmengine's ``BaseModule``.
        **unknown: None; an argument that was renamed ends in an error that names the present one. mmseg's own tools
            set ``pretrained``, ``train_cfg`` and ``test_cfg`` of every model, which may be None here.

    Raises:
        ValueError: A momentum, warm-up or network name outside what is allowed, or an argument by its old name.
        TypeError: An argument that there is not.
    """

    networks = ('student', 'teacher')
    student_tap: FeatureTap | None = None

    def __init__(
        self,
        segmentor: dict,
        teacher_momentum: float = 0.999,
        warmup_iters: int | float = 0,
        predict_on: str | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
        **unknown: Any,
    ) -> None:
        refuse_renamed(type(self), unknown)
        unknown = {key: value for key, value in unknown.items() if key not in OF_SEGMENTORS or value is not None}
        if unknown:
            raise TypeError(f'{type(self).__name__} got an unexpected keyword argument {next(iter(unknown))!r}')
        if not 0 <= teacher_momentum < 1:
            raise ValueError(f'teacher_momentum is {teacher_momentum}; it must be in [0, 1)')
        check_phase('warmup_iters', warmup_iters)
        segmentor = deepcopy(segmentor)
        inner = segmentor.pop('data_preprocessor', None)
        if data_preprocessor is None:
            if inner is None:
                raise ValueError('neither the model nor its segmentor has a data_preprocessor; give one of them')
            data_preprocessor = dict(type='MultiViewSegDataPreprocessor', data_preprocessor=inner)
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.build_networks(segmentor)
        self.teacher_momentum, self.warmup_iters = teacher_momentum, warmup_iters
        self.predict_on = predict_on or ('teacher' if 'teacher' in self.networks else self.networks[0])
        self.iteration: int | None = None

    def build_networks(self, segmentor: dict) -> None:
        """Make a module of every name in ``networks``: the first learns, the others are its teachers.

        Args:
            segmentor: Config of the student.
        """
        student, *teachers = self.networks
        setattr(self, student, build_segmentor(segmentor))
        for teacher in teachers:
            setattr(self, teacher, freeze(build_segmentor(without_weights(segmentor))))

    # ---------------------------------------------------------------- training

    def loss(self, inputs: dict[str, Tensor], data_samples: dict[str, SampleList]) -> dict[str, Tensor]:
        """Losses of one step: supervised alone during warm-up, then the method's.

        Args:
            inputs: Images by view: ``sup``, ``unsup_weak``, ``unsup_strong``, ..., each (B, 3, H, W).
            data_samples: Data samples by view.

        Raises:
            RuntimeError: ``MeanTeacherHook`` is not at work.
        """
        if self.iteration is None:
            raise RuntimeError(
                f'{type(self).__name__} was not told the iteration, so no phase of it would begin and no teacher be '
                "updated: add custom_hooks = [dict(type='MeanTeacherHook')] to the config"
            )
        if self.iteration < self.warmup_iters:
            return self.supervised_loss(inputs['sup'], data_samples['sup'])
        return self.semi_supervised_loss(self.make_batch(inputs, data_samples))

    def supervised_loss(self, images: Tensor, samples: SampleList) -> dict[str, Tensor]:
        """Losses of the warm-up, on labelled images (L, 3, H, W) alone; what learns beside the student adds 0."""
        losses = joint_pass(self.student, images, samples, images[:0]).losses
        waiting = [part for part in self.children() if part is not self.student]
        losses['loss_seg'] = losses['loss_seg'] + no_loss(*waiting)
        return losses

    def make_batch(self, inputs: dict[str, Tensor], data_samples: dict[str, SampleList]) -> SemiBatch:
        """The step's images as the method's own batch; a method with views of its own overrides it.

        Raises:
            ValueError: A view is missing.
        """
        missing = [view for view in ('sup', 'unsup_weak', 'unsup_strong') if view not in inputs]
        if missing:
            raise ValueError(
                f'the batch has the views {", ".join(inputs)}; {type(self).__name__} needs {missing[0]!r}, too: let '
                "the pipeline of its data set end in dict(type='Views', ...), as in _base_/datasets/semi_384.py"
            )
        return SemiBatch(
            labelled=inputs['sup'],
            samples=data_samples['sup'],
            weak=inputs['unsup_weak'],
            strong_views=tuple(images for view, images in inputs.items() if view.startswith('unsup_strong')),
            valid=torch.cat([sample.valid.data for sample in data_samples['unsup_weak']]).bool(),
        )

    @abstractmethod
    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """The method's losses; keys with ``loss`` are summed, other scalars are logged."""

    def run_student(
        self, batch: SemiBatch, unlabelled: Tensor, perturb: Callable[[Any], Any] | None = None
    ) -> StudentPass:
        """Run the student once over the labelled images and ``unlabelled`` (U, 3, H, W).

        A method that needs the student's features has a ``student_tap``.

        Args:
            batch: The step's images.
            unlabelled: The view of the unlabelled images that the student is to see.
            perturb: Changes the features on their way to the heads; see
                :func:`~mmseg_acl.models.semi.joint_pass.joint_pass`.
        """
        if self.student_tap is None:
            return joint_pass(self.student, batch.labelled, batch.samples, unlabelled, perturb)
        with self.student_tap:
            found = joint_pass(self.student, batch.labelled, batch.samples, unlabelled, perturb)
        return found._replace(features=Parts(self.student_tap.pop(), len(batch.labelled)))

    @torch.no_grad()
    def run_teacher(self, images: Tensor, teacher: str = 'teacher') -> Tensor:
        """Logits (B, C, H, W) of the teacher of that name for ``images`` (B, 3, H, W), at their size."""
        return getattr(self, teacher).encode_decode(images, full_image_metas(images))

    def before_step(self, iteration: int) -> None:
        """Called by the hook before each step with the number of steps done."""
        self.iteration = iteration

    def after_step(self) -> None:
        """Called by the hook after each step: move the teachers towards the student."""
        decay = ema_decay(self.iteration + 1 - self.warmup_iters, self.teacher_momentum)
        for teacher, student in self.ema_pairs():
            ema_update(teacher, student, decay)

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Pairs (teacher, student) of modules kept by EMA; a method with more than the segmentors adds them."""
        student, *teachers = (getattr(self, name) for name in self.networks)
        return [(teacher, student) for teacher in teachers]

    def train(self, mode: bool = True) -> SemiSupervisedSegmentor:
        """Set the mode of everything but the teachers, which stay in ``eval`` (mmengine calls this each step)."""
        super().train(mode)
        for teacher, _ in self.ema_pairs():
            teacher.eval()
        return self

    def init_weights(self) -> None:
        """Initialise the student, then start the teachers as its copies."""
        super().init_weights()
        for part in filter(is_model_wrapper, self.children()):  # mmengine passes by what is wrapped
            unwrapped(part).init_weights()
        self.copy_to_teachers()

    def copy_to_teachers(self) -> None:
        """Hard copy of the student into every teacher."""
        for teacher, student in self.ema_pairs():
            ema_update(teacher, student, 0.0)

    # ---------------------------------------------------------------- prediction

    @property
    def predict_on(self) -> str:
        """Which network ``predict`` runs."""
        return self._predict_on

    @predict_on.setter
    def predict_on(self, network: str) -> None:
        if network not in self.networks:
            raise ValueError(f'predict_on is {network!r}; {type(self).__name__} has {", ".join(self.networks)}')
        self._predict_on = network

    @property
    def network(self) -> nn.Module:
        """The segmentor that predicts."""
        return getattr(self, self.predict_on)

    @property
    def decode_head(self) -> nn.Module:
        """That of the predicting network, as mmseg's tools look for it."""
        return self.network.decode_head

    @property
    def out_channels(self) -> int:
        """Channels of the predicting network's logits."""
        return self.network.out_channels

    @property
    def num_classes(self) -> int:
        """Classes of the predicting network."""
        return self.network.num_classes

    @property
    def align_corners(self) -> bool:
        """Whether the predicting network's logits are resized with aligned corners."""
        return self.network.align_corners

    def predict(self, inputs: Tensor, data_samples: OptSampleList = None) -> SampleList:
        """Predict with the network named by ``predict_on``; as in any mmseg segmentor."""
        return self.network.predict(inputs, data_samples)

    def _forward(self, inputs: Tensor, data_samples: OptSampleList = None) -> Any:
        return self.network(inputs, data_samples, mode='tensor')

    def extract_feat(self, inputs: Tensor) -> Any:
        """Features of the predicting network."""
        return self.network.extract_feat(inputs)

    def encode_decode(self, inputs: Tensor, batch_data_samples: SampleList) -> Tensor:
        """Logits of the predicting network, at the size of ``inputs``."""
        return self.network.encode_decode(inputs, batch_data_samples)

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """State by the same names whether or not parts are wrapped for distributed training: any run can load it."""
        state = super().state_dict(*args, **kwargs)
        for name, part in self.named_children():
            if is_model_wrapper(part):
                for key in list(state):  # all of them, so that their order stays
                    state[key.replace(f'{name}.module.', f'{name}.')] = state.pop(key)
        return state

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """Let a plain mmseg checkpoint of the segmentor fill all networks alike."""
        first = getattr(self, self.networks[0])
        plain = {f'{prefix}{key}' for key in first.state_dict()}
        if plain & state_dict.keys():
            for key in plain & state_dict.keys():
                value, name = state_dict.pop(key), key[len(prefix) :]
                for network in self.networks:
                    state_dict[f'{prefix}{self.network_path(network)}.{name}'] = value
        super()._load_from_state_dict(state_dict, prefix, *args)

    def network_path(self, network: str) -> str:
        """Where a network stands in the state dict; a method whose networks stand deeper overrides it."""
        return network


def without_weights(config: dict) -> dict:
    """A copy of a segmentor's config that names no pre-trained weights: a teacher starts as its student."""
    config = deepcopy(config)
    config.pop('init_cfg', None)
    config.pop('pretrained', None)
    for part in config.values():
        if isinstance(part, dict) and part.get('init_cfg', {}) and 'checkpoint' in part['init_cfg']:
            part.pop('init_cfg')
    return config
