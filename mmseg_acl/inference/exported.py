"""An exported model, ONNX or TorchScript, as a function from frames to probabilities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmcv.transforms import Resize
from torch import Tensor

from mmseg_acl.inference.maps import frame_probabilities
from mmseg_acl.inference.reliability import Calibration
from mmseg_acl.inference.runs import ONNX, RunFiles

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INPUT, OUTPUT = 'frames', 'logits'
# The entry of a file's metadata that holds all of it as JSON.
ABOUT = 'mmseg_acl'
INSTALL = 'pip install "mmseg_acl[export]"'


class ExportedModel:
    """A file that ``tools/export.py`` wrote; it says itself how frames are prepared.

    Args:
        run: ``.onnx`` or ``.torchscript``.
        network: None, or the name of the network in it.
        device: ``'cpu'``, the default, or such as ``'cuda:0'``.

    Attributes:
        network: Name of the network in the file.
        networks: The same, as a model may have several.
        classes: Names of the classes, the background first.
        threshold: Where the foreground's probability is cut if nobody says otherwise.
        about: The file's metadata, as in the JSON beside it.
        calibration: What ``tools/calibrate.py`` had stored when it was exported; None where that was nothing.

    Raises:
        ValueError: The file is of another kind, was not written by the tool, or holds another network.
        ImportError: ONNX Runtime is missing.
    """

    def __init__(self, run: RunFiles, network: str | None = None, device: str | None = None) -> None:
        self.run, path = run, run.checkpoint
        self.about, self._run = (_open_onnx if path.suffix == ONNX else _open_torchscript)(path, device or 'cpu')
        self.network, self.classes = self.about['network'], tuple(self.about['classes'])
        self.networks = (self.network,)
        self.threshold = self.about['threshold']
        calibration = self.about.get('calibration')
        self.calibration = calibration and Calibration(**calibration)
        if network not in (None, self.network):
            raise ValueError(f'{path} has no network {network!r}; it has {self.network}')
        resize = self.about['resize']
        self._resize = resize and Resize(scale=tuple(resize['scale']), keep_ratio=resize['keep_ratio'])

    @property
    def identity(self) -> dict[str, object]:
        """What tells its predictions from those of another model."""
        return dict(
            checkpoint=str(self.run.checkpoint.resolve()),
            content=hashlib.sha256(self.run.checkpoint.read_bytes()).hexdigest()[:16],
            network=self.network,
        )

    def prepare(self, frame: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """A frame (H, W, 3) uint8, BGR, as the network takes it, and the size that it had."""
        seen = self._resize(dict(img=frame))['img'] if self._resize else frame
        return np.ascontiguousarray(seen), frame.shape[:2]

    @staticmethod
    def size(sample: tuple[np.ndarray, tuple[int, int]]) -> tuple[int, int]:
        """Height and width at which the network sees a frame."""
        return sample[0].shape[:2]

    @torch.no_grad()
    def probabilities(
        self, samples: list[tuple[np.ndarray, tuple[int, int]]], flip: tuple[int, ...] = ()
    ) -> list[Tensor]:
        """As :meth:`~mmseg_acl.inference.trained.TrainedModel.probabilities`."""
        frames = np.stack([seen for seen, _ in samples])
        for dim in flip:  # height and width are the last two of a map, and the second and third of frames
            frames = np.flip(frames, dim - 1)
        logits = self.logits(np.ascontiguousarray(frames))
        logits = logits.flip(flip) if flip else logits
        return [
            frame_probabilities(each, own, self.about['align_corners'])
            for each, (_, own) in zip(logits, samples, strict=True)
        ]

    def logits(self, frames: np.ndarray) -> Tensor:
        """(B, C, H, W) of frames (B, H, W, 3) uint8, BGR, as prepared; a graph of batch 1 gets them singly."""
        if self.about['batch'] == 1:
            return torch.cat([self._run(frame[None]) for frame in frames])
        return self._run(frames)


def _open_onnx(path: Path, device: str) -> tuple[dict, Callable[[np.ndarray], Tensor]]:
    try:
        session = open_session(path.read_bytes(), device)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    except ModuleNotFoundError as error:
        raise ImportError(f'{path} is run by ONNX Runtime ({error}): {INSTALL}') from error
    about = _read_about(session.get_modelmeta().custom_metadata_map.get(ABOUT), path)
    return about, lambda frames: torch.from_numpy(session.run([OUTPUT], {INPUT: frames})[0])


def open_session(content: bytes, device: str = 'cpu') -> InferenceSession:
    """ONNX Runtime for the bytes of a file, with as many threads as torch has.

    Raises:
        ModuleNotFoundError: It is not installed.
        ValueError: It cannot read the file, or has no support for the device.
    """
    import onnxruntime

    providers = ['CPUExecutionProvider']
    if torch.device(device).type == 'cuda':
        if 'CUDAExecutionProvider' not in onnxruntime.get_available_providers():
            raise ValueError(f'device is {device}, which this ONNX Runtime cannot use: pip install onnxruntime-gpu')
        providers.insert(0, ('CUDAExecutionProvider', dict(device_id=torch.device(device).index or 0)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is an exception
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # its own classes, one a kind of damage
        raise ValueError(f'it cannot be read as ONNX: {str(error).splitlines()[0]}') from error


def _open_torchscript(path: Path, device: str) -> tuple[dict, Callable[[np.ndarray], Tensor]]:
    found = {f'{ABOUT}.json': ''}
    try:
        module = torch.jit.load(str(path), map_location=device, _extra_files=found).eval()
    except RuntimeError as error:
        raise ValueError(f'{path} cannot be read as TorchScript: {str(error).splitlines()[0]}') from error
    about = _read_about(found[f'{ABOUT}.json'], path)
    return about, lambda frames: module(torch.from_numpy(frames).to(device)).float()


def _read_about(text: str | bytes | None, path: Path) -> dict:
    if not text:
        raise ValueError(
            f'{path} does not say how frames are prepared: it was not written by tools/export.py, which puts that '
            'into the file'
        )
    return json.loads(text)
