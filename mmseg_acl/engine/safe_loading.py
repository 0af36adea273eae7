"""Have mmengine read every checkpoint by the loader that executes nothing.

mmengine falls back to an unsafe load where the safe one fails, reads downloads unsafely, and executes a text from
the checkpoint when it resumes. ``--resume``, ``load_from``, ``init_cfg`` and mmseg's own functions all ask its
``CheckpointLoader``, whose loaders are replaced here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.runner import checkpoint as stack
from mmengine.runner.checkpoint import CheckpointLoader

from mmseg_acl.engine.checkpoint import read_checkpoint


def load_from_anywhere(filename: str, map_location: Any = None) -> dict:
    """Read a checkpoint from a path or an address.

    Args:
        filename: Path, ``http(s)://`` address, or a name in mmengine's lists: ``open-mmlab://``, ``mmcls://``,
            ``torchvision://``.
        map_location: Not used: tensors come to the main memory, and the modules they are copied into move them.

    Raises:
        FileNotFoundError: There is no such file.
        KeyError: A list has no such name.
        ValueError: The file is no checkpoint, or this kind of address is not read.
    """
    if '://' not in filename:
        return _without_code(read_checkpoint(Path(filename).expanduser()))
    checkpoint = _without_code(read_checkpoint(_download(_address(filename))))
    if filename.startswith('mmcls://'):
        # A classifier, of which mmengine takes the backbone.
        state = checkpoint.get('state_dict', checkpoint)
        prefix = 'backbone.'
        return dict(state_dict={k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return checkpoint


def replace_loaders() -> None:
    """Put :func:`load_from_anywhere` in the place of every loader mmengine has."""
    CheckpointLoader.register_scheme(tuple(CheckpointLoader._schemes), load_from_anywhere, force=True)


def _without_code(checkpoint: dict) -> dict:
    """Leave out ``meta.config``, which mmengine's ``resume`` would execute; its own checkpoints have none."""
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def _address(name: str) -> str:
    """The web address that a name means."""
    scheme, _, model = name.partition('://')
    if scheme in ('http', 'https'):
        return name
    if scheme in ('open-mmlab', 'openmmlab'):
        found = stack.get_external_models()[stack.get_deprecated_model_names().get(model, model)]
    elif scheme == 'mmcls':
        found = stack.get_mmcls_models()[model]
    elif scheme in ('torchvision', 'modelzoo'):
        found = stack.get_torchvision_models()[model]
    else:
        found = ''
    if not found.startswith(('http://', 'https://')):
        raise ValueError(f'checkpoints at {name} are not read: download the file and give its path')
    return found


def _download(address: str) -> Path:
    """Fetch a file into torch's cache, where mmengine keeps them, too; at once or not at all."""
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(address).path).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path))
    return path
