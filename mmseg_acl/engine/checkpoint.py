"""Read checkpoints without executing what is in them, and fit them to a model exactly."""

from __future__ import annotations

import errno
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from mmseg_acl.models.networks import is_semi_supervised, learner


def _history_method(owner: object, name: str) -> object:
    """Stand in for ``getattr`` in a checkpoint: mmengine stores its histories' statistics by it, and only
    those are given out."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise UnpicklingError(f'the file asks for {name!r} of {owner!r}')
    return getattr(owner, name)


_multiarray = (np.core if np.lib.NumpyVersion(np.__version__) < '2.0.0' else np._core).multiarray
# What mmengine stores beside tensors: the logger's histories, which are numpy arrays in a buffer.
STORED_BY_MMENGINE = [
    HistoryBuffer,
    (_history_method, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    # By the names that NumPy 1 and 2 store them under, so that either reads what the other has written.
    *(
        (getattr(_multiarray, function), f'numpy.{core}.multiarray.{function}')
        for function in ('_reconstruct', 'scalar')
        for core in ('core', '_core')
    ),
    *(type(np.dtype(code)) for code in ('f8', 'f4', 'i8', 'i4', 'u1', '?')),
]


def read_checkpoint(path: str | Path) -> dict:
    """Content of a checkpoint, by a loader that builds tensors and mmengine's own records only.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a checkpoint, is cut short, or holds objects that a checkpoint does not need.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    try:
        with torch.serialization.safe_globals(STORED_BY_MMENGINE):
            content = torch.load(path, map_location='cpu', weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError, OSError) as error:
        raise ValueError(f'{path} cannot be read as a checkpoint: {_reason(error)}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}; a checkpoint is a dict of tensors')
    return content


def _reason(error: Exception) -> str:
    """The line of torch's long advice that says what is wrong; the advice itself is to execute the file."""
    # Of a file that is cut short, torch gives a byte that is no instruction, or a place before its beginning.
    senseless = isinstance(error, KeyError) or getattr(error, 'errno', None) == errno.EINVAL
    text = '' if senseless else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if 'Unsupported' in line or 'the file asks' in line]
    if telling:
        return telling[0].split('. Please use')[0].removeprefix('WeightsUnpickler error: ')
    return lines[0] if lines and 'Weights only' not in lines[0] else 'it is not a checkpoint, or is cut short'


def state_of(checkpoint: dict) -> dict[str, Tensor]:
    """The model's state in a checkpoint, whichever way it is wrapped."""
    state = checkpoint.get('state_dict', checkpoint)
    return {key.removeprefix('module.'): value for key, value in state.items() if isinstance(value, Tensor)}


def load_model_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into ``model``; every entry must find its place.

    A plain mmseg checkpoint of the same segmentor fits a semi-supervised model as well: it fills all its
    networks.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no checkpoint, or belongs to another model.
    """
    state = state_of(read_checkpoint(path))
    whole = check_state_fits(model, state, path)
    model.load_state_dict(state, strict=whole)


def check_state_fits(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> bool:
    """Make sure that every entry of a state finds its place in ``model``, and every place its entry.

    Returns:
        Whether it is the state of all of the model; else it is that of its student, a plain segmentor.

    Raises:
        ValueError: It belongs to another model.
    """
    expected = model.state_dict()
    plain = learner(model).state_dict()
    wanted = plain if is_semi_supervised(model) and state.keys() == plain.keys() else expected
    missing, foreign = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape]
    if missing or foreign or shapes:
        faults = [
            f'{len(names)} {what}, such as {sorted(names)[0]!r}'
            for names, what in ((missing, 'missing'), (foreign, 'unknown'), (shapes, 'of another shape'))
            if names
        ]
        raise ValueError(
            f'{path} was not made by this model ({type(model).__name__}, {len(expected)} entries): '
            f'{"; ".join(faults)}. Give the config it was trained with'
        )
    return wanted is expected
