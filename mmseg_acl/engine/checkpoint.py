"""Read checkpoints without executing what is in them, and fit them to a model exactly."""

from __future__ import annotations

import errno
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from mmseg_acl.models.networks import is_semi_supervised, learner

SAFETENSORS = '.safetensors'


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
        ValueError: It is not a checkpoint, is cut short or damaged, or holds objects that a checkpoint does not need.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    if path.suffix == SAFETENSORS:
        return dict(state_dict=_read_safetensors(path))
    try:
        with torch.serialization.safe_globals(STORED_BY_MMENGINE), warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Detected pickle protocol')  # which the file then has, or is damaged
            content = torch.load(path, map_location='cpu', weights_only=True)
        damaged = _damaged_part(path)
    except Exception as error:  # a damaged file has the unpickler fail in whichever way its bytes lead to
        raise ValueError(f'{path} cannot be read as a checkpoint: {_reason(error)}') from error
    if damaged:
        raise ValueError(f'{path} is damaged: the checksum of {damaged} does not fit. Copy or download it again')
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}; a checkpoint is a dict of tensors')
    for key in ('meta', 'state_dict'):
        require_kind(content.get(key, {}), dict, key, path)
    for name in content.get('state_dict', content):
        require_kind(name, str, 'name of an entry', path)
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise ImportError(f'{path} needs the library safetensors: pip install "mmseg_acl[export]"') from error
    try:
        return load_file(path)
    except Exception as error:  # the library's own class, which it raises for every damage
        raise ValueError(f'{path} cannot be read as safetensors: {error}') from error


def require_kind(value: object, kind: type | tuple[type, ...], what: str, path: str | Path) -> None:
    """Refuse a part of a checkpoint that is of another kind than programs write.

    Raises:
        ValueError: ``value`` is no ``kind``.
    """
    if not isinstance(value, kind):
        kinds = ' or '.join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(
            f'{path} is no checkpoint, or is damaged: its {what} is a {type(value).__name__}, not a {kinds}'
        )


def _damaged_part(path: Path) -> str | None:
    """Name of a part whose bytes are not as they were written, which torch reads over.

    The old format of torch has no checksums; nor has a file that was written without them.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() if any(part.CRC for part in archive.infolist()) else None


def _reason(error: Exception) -> str:
    """The line of torch's long advice that says what is wrong; the advice itself is to execute the file."""
    # Of a file that is cut short, torch gives a byte that is no instruction, or a place before its beginning.
    telling = isinstance(error, (UnpicklingError, RuntimeError, OSError)) and error.args[:1] != (errno.EINVAL,)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] if telling else []
    refused = [line for line in lines if 'Unsupported' in line or 'the file asks' in line]
    if refused:
        return refused[0].split('. Please use')[0].removeprefix('WeightsUnpickler error: ')
    understood = lines and 'Weights only' not in lines[0]
    return lines[0] if understood else 'it is not a checkpoint, or is cut short or damaged'


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
        ValueError: The file is no checkpoint, belongs to another model, or holds what is no finite number.
    """
    state = state_of(read_checkpoint(path))
    whole = check_state_fits(model, state, path)
    model.load_state_dict(state, strict=whole)


def check_state_fits(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> bool:
    """Make sure that every entry of a state finds its place in ``model``, and every place its entry.

    Returns:
        Whether it is the state of all of the model; else it is that of its student, a plain segmentor.

    Raises:
        ValueError: It belongs to another model, or holds what is no finite number.
    """
    expected = model.state_dict()
    plain = learner(model).state_dict()
    whole = not is_semi_supervised(model) or state.keys() != plain.keys()
    wanted = expected if whole else plain
    missing, foreign = sorted(wanted.keys() - state.keys() - _optional(model)), sorted(state.keys() - wanted.keys())
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
            + _other_classes(model, missing + foreign, shapes)
        )
    check_numbers(state, path, model if whole else learner(model))
    return whole


def _other_classes(model: nn.Module, names: list[str], shapes: list[str]) -> str:
    """How to start from a model for other classes: what differs is its last layers alone."""
    if names or not all('conv_seg' in name for name in shapes):
        return ''
    part = 'model.segmentor' if is_semi_supervised(model) else 'model'
    return (
        ', or, to start from all of it but the layers for its own number of classes, leave load_from out and set '
        f"{part}.init_cfg=dict(type='Pretrained', checkpoint=...)"
    )


def _optional(model: nn.Module) -> set[str]:
    """Entries that checkpoints of earlier versions lack and that modules do without: their ``optional_state``."""
    return {
        f'{name}.{key}'.replace('.module.', '.')  # parts that are wrapped for distributed training
        for name, module in model.named_modules()
        for key in getattr(module, 'optional_state', ())
    }


def check_numbers(state: dict[str, Tensor], path: str | Path, model: nn.Module) -> None:
    """Refuse weights and buffers that are NaN, infinite, or complex where the model's are real.

    What a buffer of the model holds before training it may hold afterwards: there are masks with infinite entries.

    Args:
        state: Tensors by their names in ``model``; others are only looked at for themselves.
        path: Where they are from, for the message.
        model: Not trained.

    Raises:
        ValueError: The message names the first such tensor.
    """
    wanted, buffers = model.state_dict(), dict(model.named_buffers())
    faults = {}
    for name, value in state.items():
        if fault := number_fault(value, wanted.get(name), buffers.get(name)):
            faults[name] = fault
    if faults:
        first = next(iter(faults))
        more = f', and so have {len(faults) - 1} more of its {len(state)} tensors' if len(faults) > 1 else ''
        raise ValueError(
            f'{path} cannot be used: {first} {faults[first]}{more}. Weights are finite real numbers: take a '
            'checkpoint from before the training broke, or copy the file again'
        )


def is_finite(value: Tensor) -> bool:
    """Whether no entry of a tensor is NaN or infinite. Costs a sum, where all is well."""
    value = value.float() if value.element_size() == 1 else value  # torch sums no eight-bit floats
    return bool(value.sum().isfinite() or value.isfinite().all())


def number_fault(value: Tensor, wanted: Tensor | None = None, buffer: Tensor | None = None) -> str:
    """What is wrong with the numbers of a tensor; an empty text where nothing is.

    Args:
        value: The tensor.
        wanted: Into which it is to be copied.
        buffer: Not trained; what it has in common with this is as it should be.
    """
    if value.is_quantized or value.is_meta or value.layout != torch.strided:
        return f'is no plain tensor ({value.layout}, {value.dtype}, {value.device})'
    if value.is_complex() and not (wanted is not None and wanted.is_complex()):
        return f'has complex numbers ({value.dtype})'
    if wanted is not None and wanted.is_floating_point() and value.is_floating_point():
        value = value.to(wanted.dtype)  # what is finite in 64 bits need not be in 32
    if not value.is_floating_point() and not value.is_complex() or is_finite(value):
        return ''
    broken = ~value.isfinite()
    if buffer is not None and buffer.shape == value.shape:
        broken &= ~torch.isclose(value, buffer.to(value), equal_nan=True)
    if not broken.any():
        return ''
    kind = 'NaN' if value[broken].isnan().any() else 'infinite numbers'
    return f'has {kind} ({int(broken.sum())} of its {value.numel()} entries)'
