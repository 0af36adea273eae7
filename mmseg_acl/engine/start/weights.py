"""Where pre-trained weights come from, settled before anything is built."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import nn

from mmseg_acl.engine.checkpoint import check_numbers, read_checkpoint, state_of
from mmseg_acl.models.networks import learner

VARIABLE = 'MMSEG_ACL_WEIGHTS'
WAYS_OUT = (
    f'Set {VARIABLE} to a folder that has it, set {VARIABLE}=none to train from random weights, or name a '
    "file in the config: backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='FILE'))"
)


def resolve_weights(model: ConfigDict, read: Callable[[Path], dict] = read_checkpoint) -> None:
    """Replace every pre-trained weight that ``model`` names by a local file, in place.

    ``MMSEG_ACL_WEIGHTS`` is a folder in which a file is looked up by the name the config gives
    (``open-mmlab://resnet50_v1c`` finds ``resnet50_v1c.pth`` or ``resnet50_v1c-2cccc1ad.pth``), or ``none``.
    Without it, a path must exist and an address is downloaded to mmengine's cache. A ``pretrained=`` of
    mmseg's older configs is moved to its backbone's ``init_cfg``.

    Args:
        model: ``model`` of a config.
        read: Reads a file of weights.

    Raises:
        FileNotFoundError: Weights are named and cannot be had; the message says the ways out.
    """
    setting = os.environ.get(VARIABLE, '')
    for backbone in _backbones(model):
        name = backbone['init_cfg']['checkpoint']
        if setting == 'none':
            backbone.pop('init_cfg')
            print_log(
                f'{VARIABLE}=none: {backbone["type"]} starts from RANDOM weights, not from {name}',
                logger='current',
                level=logging.WARNING,
            )
            continue
        path = Path(name) if '://' not in name and Path(name).is_file() else None
        if path is None and setting:
            path = _find(Path(setting), name)
        if path is None:
            _download(name)
        else:
            backbone['init_cfg']['checkpoint'] = str(path)
            if any(key.startswith('backbone.') for key in state_of(read(path))):
                backbone['init_cfg']['prefix'] = 'backbone.'


def check_weights_fit(model: nn.Module, path: str, read: Callable[[str], dict] = read_checkpoint) -> None:
    """Refuse backbone weights that leave part of the backbone at random: mmengine would only warn.

    A tenth of the parameters may be missing: Swin's output norms, for one, are in no classifier.

    A backbone with a method ``fit`` has names of its own for what its files hold, and says itself what does not fit.

    Args:
        model: Whose learning network has the backbone.
        path: File of the weights.
        read: Reads it.

    Raises:
        ValueError: More parameters of the backbone are missing from the file, or have another shape; or one is no
            finite number.
    """
    segmentor = learner(model)
    # One inside a backbone is what has weights.
    backbone = getattr(segmentor.backbone, 'backbone', segmentor.backbone)
    published = state_of(read(path))
    if hasattr(backbone, 'fit'):
        check_numbers(backbone.fit(published, path), path, backbone)
        return
    state = {key.removeprefix('backbone.'): value for key, value in published.items()}
    wanted = dict(backbone.named_parameters())
    unfit = [k for k, v in wanted.items() if k not in state or state[k].shape != v.shape]
    if len(unfit) > 0.1 * len(wanted):
        raise ValueError(
            f'{path} does not fit {type(backbone).__name__}: {len(unfit)} of its {len(wanted)} '
            f'parameters would stay random, such as {unfit[0]!r}. Give weights of this backbone. {WAYS_OUT}'
        )
    used = backbone.state_dict().keys() & state.keys()
    check_numbers({name: value for name, value in state.items() if name in used}, path, backbone)


def local_weights(model: ConfigDict) -> list[str]:
    """Files that the backbones of a resolved config start from."""
    names = [backbone['init_cfg']['checkpoint'] for backbone in _backbones(model)]
    return [name for name in names if '://' not in name]


def _backbones(config: ConfigDict) -> Iterator[ConfigDict]:
    """Backbone configs below ``config`` that name weights, in mmseg's old or new way."""
    for key, part in list(config.items()):
        if not isinstance(part, dict):
            continue
        if key in ('backbone', 'backbone_cfg'):  # the latter is a backbone inside one (STDC, BiSeNet, ICNet)
            name = part.pop('pretrained', None) or config.get('pretrained')
            config.pop('pretrained', None)
            if name:
                part['init_cfg'] = ConfigDict(type='Pretrained', checkpoint=name)
            init = part.get('init_cfg')
            if isinstance(init, dict) and init.get('checkpoint'):
                yield part
        yield from _backbones(part)


def _find(folder: Path, name: str) -> Path:
    """The one file of ``folder`` that ``name`` means."""
    if not folder.is_dir():
        raise FileNotFoundError(f'{VARIABLE} is {str(folder)!r}, which is neither a folder nor "none"')
    stem = name.rsplit('/', 1)[-1].removesuffix('.pth')
    exact = folder / f'{stem}.pth'
    found = [exact] if exact.is_file() else sorted(folder.glob(f'{stem}[-_]*.pth'))
    if len(found) != 1:
        what = f'{len(found)} files' if found else 'no file'
        there = ', '.join(p.name for p in (found or sorted(folder.glob('*.pth')))) or 'nothing'
        raise FileNotFoundError(
            f'the config names {name!r}; {VARIABLE}={folder} has {what} called {stem}.pth or {stem}-*.pth '
            f'(it has: {there}). {WAYS_OUT}'
        )
    return found[0]


def _download(name: str) -> None:
    """Have mmengine fetch ``name`` into its cache now, so that a failure is seen before the work starts."""
    reason = 'there is no such file'
    if '://' in name:
        try:
            CheckpointLoader.load_checkpoint(name, map_location='cpu')
            return
        except (URLError, OSError, KeyError) as error:
            reason = f'it cannot be downloaded ({error})'
    raise FileNotFoundError(f'the config starts from the weights {name!r}: {reason}. {WAYS_OUT}')
