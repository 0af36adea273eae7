"""Weights of DINOv2 and DINOv3 as they were published, by the names that the networks of ``transformers`` have.

Each network was published twice: by its authors (``dinov2_vits14_pretrain.pth``) and in the format of the model hub
(``model.safetensors``). The tables below say what an entry of either is called in the network as it is built. An
entry that stands in no table keeps its name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

# A pattern of a name, and what it becomes. Several targets share the rows of a tensor, in equal parts.
Table = Sequence[tuple[str, tuple[str, ...]]]

OURS = ((r'vit\.(.*)', (r'\1',)),)  # a checkpoint of a run of ours
QKV = (r'attention.q_proj', r'attention.k_proj', r'attention.v_proj')

_V2 = r'encoder.layer.\1.'
DINOV2: Table = (
    *OURS,
    # The authors' files.
    (r'(cls_token|mask_token|register_tokens)', (r'embeddings.\1',)),
    (r'pos_embed', ('embeddings.position_embeddings',)),
    (r'patch_embed\.proj\.(weight|bias)', (r'embeddings.patch_embeddings.projection.\1',)),
    (r'blocks\.(\d+)\.(norm[12]\..*|mlp\.fc[12]\..*)', (_V2 + r'\2',)),
    (r'blocks\.(\d+)\.attn\.qkv\.(weight|bias)', tuple(f'{_V2}{part}.\\2' for part in QKV)),
    (r'blocks\.(\d+)\.attn\.proj\.(weight|bias)', (_V2 + r'attention.o_proj.\2',)),
    (r'blocks\.(\d+)\.ls([12])\.gamma', (_V2 + r'layer_scale\2.lambda1',)),
    (r'norm\.(weight|bias)', (r'layernorm.\1',)),
    # The model hub's.
    (r'encoder\.layer\.(\d+)\.attention\.attention\.query\.(.*)', (f'{_V2}{QKV[0]}.\\2',)),
    (r'encoder\.layer\.(\d+)\.attention\.attention\.key\.(.*)', (f'{_V2}{QKV[1]}.\\2',)),
    (r'encoder\.layer\.(\d+)\.attention\.attention\.value\.(.*)', (f'{_V2}{QKV[2]}.\\2',)),
    (r'encoder\.layer\.(\d+)\.attention\.output\.dense\.(.*)', (_V2 + r'attention.o_proj.\2',)),
)

_V3 = r'model.layer.\1.'
DINOV3: Table = (
    *OURS,
    # The authors' files.
    (r'(cls_token|mask_token)', (r'embeddings.\1',)),
    (r'storage_tokens', ('embeddings.register_tokens',)),
    (r'patch_embed\.proj\.(weight|bias)', (r'embeddings.patch_embeddings.\1',)),
    (r'blocks\.(\d+)\.(norm[12]\..*)', (_V3 + r'\2',)),
    (r'blocks\.(\d+)\.attn\.qkv\.(weight|bias)', tuple(f'{_V3}{part}.\\2' for part in QKV)),
    (r'blocks\.(\d+)\.attn\.proj\.(weight|bias)', (_V3 + r'attention.o_proj.\2',)),
    (r'blocks\.(\d+)\.ls([12])\.gamma', (_V3 + r'layer_scale\2.lambda1',)),
    (r'blocks\.(\d+)\.mlp\.fc1\.(weight|bias)', (_V3 + r'mlp.up_proj.\2',)),
    (r'blocks\.(\d+)\.mlp\.fc2\.(weight|bias)', (_V3 + r'mlp.down_proj.\2',)),
    # The model hub's.
    (r'layer\.(\d+)\.(.*)', (_V3 + r'\2',)),
)


def renamed(state: dict[str, Tensor], table: Table) -> dict[str, Tensor]:
    """A state by the names of a table's right side.

    Raises:
        ValueError: Two of its entries are one and the same.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        names = [name]
        for pattern, targets in table:
            if match := re.fullmatch(pattern, name):
                names = [match.expand(target) for target in targets]
                break
        for own, part in zip(names, value.chunk(len(names)) if len(names) > 1 else [value], strict=True):
            if own in found:
                raise ValueError(f'the file has {own} twice, by the names of two formats')
            found[own] = part
    return found


def of_dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state of DINOv2 by the names of ``transformers``' ``Dinov2Backbone``, with registers or without."""
    return renamed(state, DINOV2)


def of_dinov3(state: dict[str, Tensor], inv_freq: Tensor) -> dict[str, Tensor]:
    """A published state of DINOv3 by the names of ``transformers``' ``DINOv3ViTBackbone``.

    The authors' files have three things that the network has not. The bias of the keys is masked with zeros, so it is
    left out where it has no effect. The periods of the rotary positions follow from the network's width, which is
    checked. A norm for small crops (``local_cls_norm``) served pre-training alone. And their mask token has an axis
    less.

    Args:
        state: As it was published.
        inv_freq: (width of a head / 4,) frequencies of the network, one over the periods.

    Raises:
        ValueError: The periods are others, or the keys do have a bias.
    """
    state = {name: value for name, value in state.items() if not name.startswith('local_cls_norm.')}
    periods = state.pop('rope_embed.periods', 1 / inv_freq)
    # Some files have them in 16 bits.
    if periods.shape != inv_freq.shape or not (periods.to(inv_freq) * inv_freq - 1).abs().max() < 0.01:
        raise ValueError(f'its rotary positions have the periods {periods.tolist()}, not {(1 / inv_freq).tolist()}')
    masks = {
        name.removesuffix('_mask'): state.pop(name) for name in list(state) if name.endswith('.attn.qkv.bias_mask')
    }
    if state.get('mask_token', inv_freq).ndim == 2:
        state['mask_token'] = state['mask_token'][:, None]
    found = renamed(state, DINOV3)
    for name in [name for name in found if name.endswith('attention.k_proj.bias')]:
        layer = name.removeprefix('model.layer.').split('.')[0]
        mask = masks.get(f'blocks.{layer}.attn.qkv.bias')
        bias = found.pop(name) if mask is None else found.pop(name) * mask.chunk(3)[1]
        if bias.any():
            raise ValueError(f'the keys of its layer {layer} have a bias, which those of DINOv3 have not')
    return found
