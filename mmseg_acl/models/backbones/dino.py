"""DINOv2 (Oquab et al. 2023) and DINOv3 (Siméoni et al. 2025) as encoders: the ViTs of ``transformers``."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from math import ceil, floor
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, update_init_info
from mmengine.runner import CheckpointLoader
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_acl.models.backbones.published import of_dinov2, of_dinov3

INSTALL = 'pip install "mmseg_acl[dino]"'


class Arch(NamedTuple):
    """Size of a ViT.

    Attributes:
        embed_dims: Channels.
        num_layers: Blocks.
        num_heads: Heads of attention in each.
    """

    embed_dims: int
    num_layers: int
    num_heads: int


ARCHS = {'small': Arch(384, 12, 6), 'base': Arch(768, 12, 12), 'large': Arch(1024, 24, 16)}


class DINO(BaseModule):
    """What DINOv2 and DINOv3 have in common.

    Every output is normalised by the ViT's last norm, as in UniMatch V2. The mask token, which served pre-training
    alone, is kept for its checkpoints and does not learn.

    Args:
        arch: ``'small'``, ``'base'`` or ``'large'``, or a dict of ``embed_dims``, ``num_layers`` and ``num_heads``.
        out_indices: Blocks whose outputs are given out, from 0. The last of them is the ViT's last: what comes
            behind it would never learn.
        output_cls_token: Whether each output is a pair of the map and the class token, as mmseg's ``DPTHead`` takes
            it; else it is the map.
        num_registers: Register tokens.
        frozen: Whether the encoder stays as it is: no gradient, ``eval`` mode.
        drop_path_rate: Of each block, in [0, 1).
        init_cfg: None for random weights, or ``dict(type='Pretrained', checkpoint=FILE)`` with a published file, by
            its authors or from the model hub.

    Attributes:
        patch_size: Side of a patch in pixels; heights and widths of images are multiples of it.
        num_layers: Blocks.

    Raises:
        ImportError: ``transformers`` is not installed.
        ValueError: An unknown size, blocks that there are not, or another kind of ``init_cfg``.
    """

    patch_size: int

    def __init__(
        self,
        arch: str | dict = 'small',
        out_indices: Sequence[int] = (2, 5, 8, 11),
        output_cls_token: bool = False,
        num_registers: int = 0,
        frozen: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch, size = arch, _size_of(arch)
        self.num_layers, self.out_indices = size.num_layers, tuple(out_indices)
        if sorted(set(self.out_indices)) != list(self.out_indices) or self.out_indices[-1:] != (size.num_layers - 1,):
            raise ValueError(
                f'out_indices is {self.out_indices}; it must rise, and its last must be the last of the '
                f'{size.num_layers} blocks of this {type(self).__name__}, {size.num_layers - 1}: what comes behind '
                'the last output would never learn'
            )
        if self.out_indices[0] < 0:
            raise ValueError(f'out_indices is {self.out_indices}; the first block is 0')
        if init_cfg is not None and (not isinstance(init_cfg, dict) or 'checkpoint' not in init_cfg):
            raise ValueError(
                f"init_cfg is {init_cfg!r}; allowed are dict(type='Pretrained', checkpoint=FILE) and None, for the "
                "random weights of transformers' own models"
            )
        self.output_cls_token, self.num_registers, self.frozen = output_cls_token, num_registers, frozen
        try:
            self.vit = self._build(size, drop_path_rate)
        except ImportError as error:
            raise ImportError(f'{type(self).__name__} needs the library transformers ({error}): {INSTALL}') from error
        self.vit.embeddings.mask_token.requires_grad_(False)
        if frozen:
            self.vit.requires_grad_(False).eval()

    @abstractmethod
    def _build(self, size: Arch, drop_path_rate: float) -> nn.Module:
        """The backbone of ``transformers``, which gives out tokens."""

    @abstractmethod
    def _own_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published state by the names of ``vit``."""

    @abstractmethod
    def _tokens(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Patches (B, N, C) and class token (B, C) of each output."""

    def _stages(self) -> list[int]:
        """``out_indices`` as ``transformers`` counts, with the embeddings as the first."""
        return [index + 1 for index in self.out_indices]

    def forward(self, images: Tensor) -> tuple[Any, ...]:
        """Maps (B, C, H / patch, W / patch), or pairs of one and the class token (B, C).

        Args:
            images: (B, 3, H, W).

        Raises:
            ValueError: A side is no multiple of the patch.
        """
        height, width = images.shape[2:]
        if not torch.jit.is_tracing():
            self._check_sides(height, width)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens = self._tokens(images)
        grid = (height // self.patch_size, width // self.patch_size)
        outputs = [(patches.transpose(1, 2).unflatten(2, grid), cls_token) for patches, cls_token in tokens]
        return tuple(list(pair) if self.output_cls_token else pair[0] for pair in outputs)

    def _check_sides(self, height: int, width: int) -> None:
        patch = self.patch_size
        if height % patch or width % patch:
            counts = {max(rounded(side / patch), 1) for side in (height, width) for rounded in (floor, ceil)}
            raise ValueError(
                f'the images are {height} x {width} pixels, and the sides that {type(self).__name__} takes are '
                f'multiples of {patch}, such as {", ".join(str(count * patch) for count in sorted(counts))}: resize '
                'and crop to one of these (crop_size in configs/_base_/datasets), or have the rest padded where '
                f'images are predicted at their own size: data_preprocessor=dict(test_cfg=dict(size_divisor={patch}))'
            )

    def train(self, mode: bool = True) -> DINO:
        """Set the mode; a frozen encoder stays in ``eval``."""
        super().train(mode)
        if self.frozen:
            self.vit.eval()
        return self

    # ---------------------------------------------------------------- weights

    def init_weights(self) -> None:
        """Load the published weights that ``init_cfg`` names; without any, those of the construction stay.

        Raises:
            FileNotFoundError, ValueError: See :meth:`fit`.
        """
        if not self.is_init and self.init_cfg:
            path = self.init_cfg['checkpoint']
            content = CheckpointLoader.load_checkpoint(path, map_location='cpu')
            state = content.get('state_dict', content)
            self.load_state_dict(self.fit(state, path))
            print_log(f'load model from: {path}', logger='current')
            if hasattr(self, '_params_init_info'):
                update_init_info(self, init_info=f'{type(self).__name__}: load from {path}')
        self.is_init = True

    def fit(self, state: dict[str, Tensor], path: str) -> dict[str, Tensor]:
        """A published state by this module's names: every entry has a place here, every place an entry.

        Args:
            state: Of the encoder, or of a segmentor that has it as its ``backbone``.
            path: Where it is from, for the message.

        Raises:
            ValueError: It is of another network; the message names entries, and which network it seems to be of.
        """
        prefix = 'backbone.'
        if any(name.startswith(prefix) for name in state):
            state = {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}
        try:
            found = self._own_names(state)
        except ValueError as error:
            raise ValueError(f'{path} does not fit {self.title}: {error}') from error
        wanted = self.vit.state_dict()
        unlike = [_shapes(name, found[name], wanted[name]) for name in wanted.keys() & found.keys()]
        faults = [
            f'{len(names)} {what}, such as {min(names)}'
            for what, names in (
                ('missing', wanted.keys() - found.keys()),
                ('unknown', found.keys() - wanted.keys()),
                ('of another shape', [*filter(None, unlike)]),
            )
            if names
        ]
        if faults:
            raise ValueError(
                f'{path} does not fit {self.title}, which has {len(wanted)} entries: {"; ".join(faults)}. '
                f'{_guess(state)}. Give a published file of this network, or set the backbone in the config to it'
            )
        return {f'vit.{name}': value for name, value in found.items()}

    def layer_of(self, name: str) -> int:
        """How deep a parameter is: 0 in the embeddings, 1 in the first block, ``num_layers + 1`` behind the last.

        Args:
            name: Of the parameter, in this module.
        """
        if '.embeddings.' in f'.{name}':
            return 0
        block = re.search(r'\.layer\.(\d+)\.', name)
        return int(block[1]) + 1 if block else self.num_layers + 1

    @property
    def title(self) -> str:
        """Which network it is, for messages."""
        return f'{type(self).__name__}(arch={self.arch!r}, num_registers={self.num_registers})'


@MODELS.register_module()
class DINOv2(DINO):
    """DINOv2's ViT (Oquab et al., TMLR 2024), with 14 pixels a patch.

    Positions are those of the pre-training and are interpolated to the grid of each image: bicubically, and with
    registers also smoothed, as ``transformers`` does it.

    Args:
        img_size: Side of the images of the pre-training's end, from which the number of positions follows. The
            published files are of 518 pixels, 37 x 37 positions.
        **kwargs: See :class:`DINO`. Files with ``_reg4`` in their names have ``num_registers=4``.

    Raises:
        ImportError, ValueError: See :class:`DINO`.
    """

    patch_size = 14

    def __init__(self, *args: Any, img_size: int = 518, **kwargs: Any) -> None:
        self.img_size = img_size
        super().__init__(*args, **kwargs)

    def _build(self, size: Arch, drop_path_rate: float) -> nn.Module:
        settings = dict(
            hidden_size=size.embed_dims,
            num_hidden_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            image_size=self.img_size,
            patch_size=self.patch_size,
            drop_path_rate=drop_path_rate,
            out_indices=self._stages(),
            reshape_hidden_states=False,
        )
        if not self.num_registers:
            from transformers import Dinov2Backbone, Dinov2Config

            return Dinov2Backbone(Dinov2Config(**settings))
        from transformers import Dinov2WithRegistersBackbone, Dinov2WithRegistersConfig

        return Dinov2WithRegistersBackbone(
            Dinov2WithRegistersConfig(**settings, num_register_tokens=self.num_registers)
        )

    def _own_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return of_dinov2(state)

    def _tokens(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        first = 1 + self.num_registers
        return [(tokens[:, first:], tokens[:, 0]) for tokens in self.vit(images).feature_maps]


@MODELS.register_module()
class DINOv3(DINO):
    """DINOv3's ViT (Siméoni et al. 2025), with 16 pixels a patch, rotary positions and four registers.

    Its rotary positions are not scaled at random while training, as they were in the pre-training: student and
    teacher are to see the same grid.

    Args:
        **kwargs: See :class:`DINO`.

    Raises:
        ImportError, ValueError: See :class:`DINO`.
    """

    patch_size = 16

    def __init__(self, *args: Any, num_registers: int = 4, **kwargs: Any) -> None:
        super().__init__(*args, num_registers=num_registers, **kwargs)

    def _build(self, size: Arch, drop_path_rate: float) -> nn.Module:
        from transformers import DINOv3ViTBackbone, DINOv3ViTConfig

        return DINOv3ViTBackbone(
            DINOv3ViTConfig(
                hidden_size=size.embed_dims,
                intermediate_size=4 * size.embed_dims,
                num_hidden_layers=size.num_layers,
                num_attention_heads=size.num_heads,
                patch_size=self.patch_size,
                num_register_tokens=self.num_registers,
                drop_path_rate=drop_path_rate,
                pos_embed_rescale=None,
                out_indices=self._stages(),
                reshape_hidden_states=False,
                return_class_token=True,
            )
        )

    def _own_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return of_dinov3(state, self.vit.rope_embeddings.inv_freq)

    def _tokens(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = self.vit(images)
        return list(zip(found.feature_maps, found.cls_tokens, strict=True))


def _size_of(arch: str | dict) -> Arch:
    if isinstance(arch, str) and arch in ARCHS:
        return ARCHS[arch]
    if isinstance(arch, dict) and set(arch) == set(Arch._fields):
        return Arch(**arch)
    raise ValueError(f'arch is {arch!r}; allowed are {", ".join(map(repr, ARCHS))} and a dict of {Arch._fields}')


def _shapes(name: str, found: Tensor, wanted: Tensor) -> str:
    """What is wrong with the shape of an entry; an empty text where nothing is."""
    return '' if found.shape == wanted.shape else f'{name} ({tuple(found.shape)}, not {tuple(wanted.shape)})'


def _guess(state: dict[str, Tensor]) -> str:
    """Of which network a published state seems to be, in a sentence without its full stop."""
    by_end = {name.rpartition('.')[2]: value for name, value in state.items()}
    if 'cls_token' not in by_end:
        return 'It is no file of DINOv2 or DINOv3'
    dims = by_end['cls_token'].shape[-1]
    layers = len({found[1] for name in state if (found := re.search(r'(?:blocks|layer)\.(\d+)\.', name))})
    names = [repr(name) for name, arch in ARCHS.items() if arch[:2] == (dims, layers)]
    registers = [by_end[name].shape[1] for name in ('register_tokens', 'storage_tokens') if name in by_end]
    kind = 'DINOv2' if by_end.keys() & {'pos_embed', 'position_embeddings'} else 'DINOv3'
    arch = names[0] if names else f'{layers} blocks of {dims} channels'
    return f'It seems to be of {kind}(arch={arch}, num_registers={sum(registers)})'
