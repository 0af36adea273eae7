"""DINOv2 and DINOv3 written from their papers, on the names and shapes of the authors' files.

Slow and plain: what the encoder, which runs ``transformers``' networks, is compared with.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dinov2_shapes(dims: int, layers: int, positions: int, registers: int = 0) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ``dinov2_vit*14_pretrain.pth`` and ``dinov2_vit*14_reg4_pretrain.pth``."""
    shapes = dict(cls_token=(1, 1, dims), pos_embed=(1, positions + 1, dims), mask_token=(1, dims))
    if registers:
        shapes['register_tokens'] = (1, registers, dims)
    return {**shapes, **_vit_shapes(dims, layers, 14)}


def dinov3_shapes(dims: int, layers: int, heads: int, registers: int = 4) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ``dinov3_vit{s,b,l}16_pretrain_lvd1689m-*.pth``."""
    shapes = dict(cls_token=(1, 1, dims), storage_tokens=(1, registers, dims), mask_token=(1, dims))
    shapes['rope_embed.periods'] = (dims // heads // 4,)
    shapes.update({f'blocks.{i}.attn.qkv.bias_mask': (3 * dims,) for i in range(layers)})
    return {**shapes, **_vit_shapes(dims, layers, 16)}


def _vit_shapes(dims: int, layers: int, patch: int) -> dict[str, tuple[int, ...]]:
    shapes = {'patch_embed.proj.weight': (dims, 3, patch, patch), 'patch_embed.proj.bias': (dims,)}
    for i in range(layers):
        for name, rows, columns in (
            ('attn.qkv', 3 * dims, dims),
            ('attn.proj', dims, dims),
            ('mlp.fc1', 4 * dims, dims),
            ('mlp.fc2', dims, 4 * dims),
        ):
            shapes[f'blocks.{i}.{name}.weight'], shapes[f'blocks.{i}.{name}.bias'] = (rows, columns), (rows,)
        for name in ('norm1.weight', 'norm1.bias', 'norm2.weight', 'norm2.bias', 'ls1.gamma', 'ls2.gamma'):
            shapes[f'blocks.{i}.{name}'] = (dims,)
    return {**shapes, 'norm.weight': (dims,), 'norm.bias': (dims,)}


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random weights of such names; what is no weight as the authors have it."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        if name.endswith('bias_mask'):  # the keys' bias has no effect
            state[name] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(shape[0] // 3)
        elif name == 'rope_embed.periods':
            state[name] = 100 ** (2 * torch.arange(shape[0]) / (2 * shape[0]))
    return state


def features(state: dict[str, Tensor], images: Tensor, heads: int, eps: float) -> list[tuple[Tensor, Tensor]]:
    """Map (B, C, h, w) and class token (B, C) behind every block, normalised.

    Args:
        state: By the authors' names; rotary positions where it has periods, else interpolated ones.
        images: (B, 3, H, W).
        heads: Heads of attention.
        eps: Of the norms.
    """
    weight, bias = state['patch_embed.proj.weight'], state['patch_embed.proj.bias']
    patches = F.conv2d(images, weight, bias, stride=weight.shape[-1])
    height, width = patches.shape[2:]
    x = patches.flatten(2).transpose(1, 2)
    count, _, dims = x.shape
    x = torch.cat([state['cls_token'].expand(count, 1, dims), x], dim=1)
    registers = state.get('register_tokens', state.get('storage_tokens', x[:1, :0])).expand(count, -1, dims)
    if 'pos_embed' in state:
        x = x + _positions(state['pos_embed'], height, width, antialias='register_tokens' in state)
    x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
    first = 1 + registers.shape[1]
    angles = _angles(state['rope_embed.periods'], height, width) if 'rope_embed.periods' in state else None
    outputs = []
    for i in range(sum(name.endswith('norm1.weight') for name in state)):
        block = {k.removeprefix(f'blocks.{i}.'): v for k, v in state.items() if k.startswith(f'blocks.{i}.')}
        x = x + block['ls1.gamma'] * _attention(block, _norm(block, 'norm1', x, eps), heads, angles, first)
        hidden = F.gelu(_linear(block, 'mlp.fc1', _norm(block, 'norm2', x, eps)))
        x = x + block['ls2.gamma'] * _linear(block, 'mlp.fc2', hidden)
        normed = _norm(state, 'norm', x, eps)
        outputs.append((normed[:, first:].transpose(1, 2).reshape(count, dims, height, width), normed[:, 0]))
    return outputs


def _positions(embeddings: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    side = math.isqrt(embeddings.shape[1] - 1)
    grid = embeddings[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(height, width), mode='bicubic', antialias=antialias)
    return torch.cat([embeddings[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def _angles(periods: Tensor, height: int, width: int) -> Tensor:
    """(N, width of a head): of each patch, its place in [-1, 1] times 2 pi over the periods, rows first, twice."""
    rows, columns = (2 * (torch.arange(n) + 0.5) / n - 1 for n in (height, width))
    places = torch.cartesian_prod(rows, columns)
    angles = 2 * math.pi * places[:, :, None] / periods
    return angles.flatten(1).repeat(1, 2)


def _attention(block: dict[str, Tensor], x: Tensor, heads: int, angles: Tensor | None, first: int) -> Tensor:
    bias = block['attn.qkv.bias'] * block.get('attn.qkv.bias_mask', 1)
    q, k, v = F.linear(x, block['attn.qkv.weight'], bias).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    if angles is not None:
        q, k = (torch.cat([z[:, :, :first], _turned(z[:, :, first:], angles)], dim=2) for z in (q, k))
    weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
    return _linear(block, 'attn.proj', (weights @ v).transpose(1, 2).flatten(2))


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    one, two = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat([-two, one], dim=-1) * angles.sin()


def _linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f'{name}.weight'], state[f'{name}.bias'])


def _norm(state: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f'{name}.weight'], state[f'{name}.bias'], eps)
