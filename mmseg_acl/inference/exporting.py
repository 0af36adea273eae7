"""A trained model as files that run without this package: ONNX, TorchScript, safetensors, a plain mmseg model."""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmseg_acl._stack import errors_alone
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.engine.checkpoint import SAFETENSORS
from mmseg_acl.engine.export import plain_parts, write_config, write_weights
from mmseg_acl.inference.exported import ABOUT, INPUT, INSTALL, OUTPUT, open_session
from mmseg_acl.inference.predictor import Predictor, check_threshold
from mmseg_acl.inference.runs import ONNX, TORCHSCRIPT, find_run
from mmseg_acl.inference.trained import TrainedModel, frame_steps

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

NEEDS = {
    'mmseg': (),
    'onnx': ('onnx', 'onnxscript', 'onnxruntime'),
    'torchscript': (),
    'safetensors': ('safetensors',),
}
FORMATS = tuple(NEEDS)
OPSET = 20
LICENCE = (
    'The weights come under the terms of the images and of the pre-trained weights that they were trained with. For '
    'research; no medical device.'
)
# A side that is no multiple of the usual strides, and a batch that is not the example's.
OTHER_BATCH, LARGER = 3, (32, 64)
CLOSE = 1e-3


class Parity(NamedTuple):
    """How an exported model compares with the trained one over frames.

    Attributes:
        frames: Number of frames.
        difference: Largest difference of a probability.
        flipped: Share of pixels with another class.
        margin: Largest distance from the threshold, or between the two likeliest classes, of such a pixel.
    """

    frames: int
    difference: float
    flipped: float
    margin: float

    def __str__(self) -> str:
        flips = f'{100 * self.flipped:.4f} % of the pixels flip'
        margin = f', all within {self.margin:.1e} of the border' if self.flipped else ''
        return f'{self.frames} frames: probabilities differ by at most {self.difference:.1e}, {flips}{margin}'


class FramesToLogits(nn.Module):
    """A segmentor with its normalisation: uint8 frames (B, H, W, 3), BGR, to logits (B, C, H, W).

    A head with one channel gives two: 0 for the background, so that a softmax is its sigmoid.
    """

    def __init__(self, segmentor: nn.Module, about: dict) -> None:
        super().__init__()
        self.segmentor = segmentor
        normalisation = about['normalisation']
        self.turn = normalisation['channels'] == 'RGB'
        self.register_buffer('mean', torch.tensor(normalisation['mean'])[:, None, None])
        self.register_buffer('std', torch.tensor(normalisation['std'])[:, None, None])

    def forward(self, frames: Tensor) -> Tensor:
        """Logits at the size of the frames."""
        images = frames.permute(0, 3, 1, 2).float()
        images = images.flip(1) if self.turn else images
        images = (images - self.mean) / self.std
        size = images.shape[2:]
        logits = self.segmentor.encode_decode(images, [dict(img_shape=size, ori_shape=size, pad_shape=size)])
        return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def export(
    words: Sequence[str],
    formats: Sequence[str] = ('onnx',),
    out: str | Path | None = None,
    network: str | None = None,
    threshold: float | None = None,
    frames: Sequence[np.ndarray] = (),
    options: dict | None = None,
    say: Callable[[str], object] = print,
) -> list[Path]:
    """Write a trained model in several formats, and ``<network>.json`` with what they hold.

    Args:
        words: The run; see :func:`~mmseg_acl.inference.runs.find_run`.
        formats: Of ``FORMATS``.
        out: Folder, made if needed; by default ``export`` beside the checkpoint.
        network: Which network; by default the one that the model predicts with.
        threshold: That the files tell; by default 0.5.
        frames: (H, W, 3) uint8, BGR, to compare with the trained model; by default random ones.
        options: Overrides of the config.
        say: Called with each line of what was found.

    Returns:
        The files.

    Raises:
        ImportError: A format needs a library that is missing.
        ValueError: Something of the model cannot be exported, or the file that was written predicts otherwise.
    """
    for name in formats:
        require(name)
    if threshold is not None:
        check_threshold(threshold)
    run = find_run(words)
    if run.config is None:
        raise ValueError(f'{run.checkpoint} is exported already: give the run that it was made of')
    out = Path(out) if out else run.checkpoint.parent / 'export'
    model = TrainedModel(run, network, 'cpu', options)
    network = model.network
    written: list[Path] = []
    if {'mmseg', 'safetensors'} & set(formats):
        plain, state, meta = plain_parts(model.config, run.checkpoint, network)
        written.append(write_config(plain, out, network, run.checkpoint))
        if 'mmseg' in formats:
            written.append(write_weights(state, meta, written[0]))
        if 'safetensors' in formats:
            written.append(_write_safetensors(state, meta, written[0]))
    graphs = [name for name in ('onnx', 'torchscript') if name in formats]
    if graphs:
        about = describe(model, threshold)
        network_of_frames = FramesToLogits(model.segmentor, about).eval()
        out.mkdir(parents=True, exist_ok=True)
        files = {}
        for name in graphs:
            path = out / f'{network}{ONNX if name == "onnx" else TORCHSCRIPT}'
            kept = (_write_onnx if name == 'onnx' else _write_torchscript)(network_of_frames, about, path)
            if kept['size'] and not (about['resize'] and not about['resize']['keep_ratio']):
                path.unlink()
                raise ValueError(
                    f'the graph of {type(model.segmentor).__name__} takes frames of one size, {kept["size"]}, but '
                    'the test pipeline leaves them different ones: give it a Resize with keep_ratio=False'
                )
            say(f'{path.name}: {in_words(kept)}; {parity(model, path, frames or random_frames())}')
            files[path.name] = kept
            written.append(path)
        path = out / f'{network}.json'
        write_atomically(json.dumps(dict(about, files=files), indent=1).encode(), path)
        written.append(path)
    return written


def require(name: str) -> None:
    """Make sure that the libraries of a format are there.

    Raises:
        ImportError: One is missing.
        ValueError: There is no such format.
    """
    if name not in NEEDS:
        raise ValueError(f'there is no format {name!r}; there are {", ".join(FORMATS)}')
    for library in NEEDS[name]:
        try:
            importlib.import_module(library)
        except ModuleNotFoundError as error:
            raise ImportError(f'the format {name} needs the library {library} ({error}): {INSTALL}') from error


def describe(model: TrainedModel, threshold: float | None = None) -> dict:
    """What a program has to know to use a graph of the model, for its metadata.

    Raises:
        ValueError: Frames are prepared, or windows cut, in a way that the graph cannot repeat.
    """
    mode = model.segmentor.test_cfg.get('mode', 'whole')
    if mode != 'whole':
        raise ValueError(
            f"model.test_cfg.mode is '{mode}': windows are cut and put together outside of the network, which a "
            'graph does not do. If it may see whole frames, give --cfg-options model.segmentor.test_cfg.mode=whole '
            '(of a plain segmentor: model.test_cfg.mode=whole)'
        )
    steps = [step for step in frame_steps(model.config) if step['type'] not in ('PackSegInputs', 'Resize')]
    if steps:
        raise ValueError(
            f'the test pipeline has {steps[0]["type"]}, which is not exported: Resize is the only step that is'
        )
    resizes = [step for step in frame_steps(model.config) if step['type'] == 'Resize']
    if len(resizes) > 1 or any(set(step) - {'type', 'scale', 'keep_ratio'} for step in resizes):
        raise ValueError(
            f'the test pipeline resizes by {resizes}; one Resize with scale and keep_ratio can be exported'
        )
    preprocessor = model.preprocessor
    if padding := getattr(preprocessor, 'test_cfg', None):
        raise ValueError(f'data_preprocessor.test_cfg pads frames ({dict(padding)}), which is not exported')
    scale = resizes and resizes[0]['scale']
    scale = [scale, scale] if isinstance(scale, int) else list(scale or ())
    calibration = model.calibration
    mean, std = 3 * [0.0], 3 * [1.0]
    if hasattr(preprocessor, 'mean'):  # mmseg's has it only where it normalises
        mean, std = preprocessor.mean.flatten().tolist(), preprocessor.std.flatten().tolist()
    return dict(
        network=model.network,
        classes=list(model.classes),
        threshold=model.threshold if threshold is None else threshold,
        input=dict(name=INPUT, layout='(batch, height, width, 3)', type='uint8', channels='BGR'),
        # Width before height, as OpenCV has it.
        resize=dict(scale=scale, keep_ratio=bool(resizes[0].get('keep_ratio')), by='bilinear') if resizes else None,
        normalisation=dict(
            mean=mean,
            std=std,
            channels='RGB' if preprocessor._channel_conversion else 'BGR',
            inside_the_graph=True,
        ),
        output=dict(
            name=OUTPUT,
            layout='(batch, classes, height, width)',
            then='resize bilinearly to the size of the frame, softmax over the classes',
        ),
        align_corners=bool(model.segmentor.align_corners),
        calibration=calibration and calibration._asdict(),
        checkpoint=model.run.checkpoint.name,
        torch=torch.__version__,
        licence=LICENCE,
    )


def in_words(kept: dict) -> str:
    """What a graph takes."""
    batch = 'any batch' if kept['batch'] is None else f'batches of {kept["batch"]}'
    return f'{batch}, {"any size" if kept["size"] is None else "{} x {} pixels".format(*kept["size"])}'


def parity(model: TrainedModel, path: Path, frames: Sequence[np.ndarray]) -> Parity:
    """Compare an exported model with what it was made of, each as a user would call it."""
    exported = Predictor(path)
    trained = Predictor(model, threshold=exported.threshold)
    difference, flipped, pixels, margin = 0.0, 0, 0, 0.0
    for frame in frames:
        (first,), (second,) = trained([frame]), exported([frame])
        difference = max(difference, float(np.abs(first.probabilities - second.probabilities).max()))
        other = first.labels != second.labels
        if len(first.probabilities) == 2:
            distance = np.abs(first.probabilities[1] - trained.threshold)
        else:
            best = np.sort(first.probabilities, axis=0)
            distance = best[-1] - best[-2]
        flipped, pixels = flipped + int(other.sum()), pixels + other.size
        margin = max(margin, float(distance[other].max(initial=0)))
    return Parity(len(frames), difference, flipped / pixels, margin)


def random_frames(count: int = 3) -> list[np.ndarray]:
    """Smooth, colourful frames (H, W, 3) uint8 of several sizes, the same in each call."""
    draw = np.random.default_rng(0)
    return [
        torch.nn.functional.interpolate(
            torch.from_numpy(draw.uniform(0, 255, (1, 3, 8, 10))), size, mode='bicubic', align_corners=False
        )[0]
        .clamp(0, 255)
        .byte()
        .permute(1, 2, 0)
        .numpy()
        for size in ((240, 320), (288, 352), (531, 622))[:count]
    ]


def _write_safetensors(state: dict[str, Tensor], meta: dict, config_path: Path) -> Path:
    """Write ``<network>.safetensors`` beside the config of a plain mmseg model."""
    from safetensors.torch import save

    about = dict(meta.get('dataset_meta', {}), network=config_path.stem, licence=LICENCE)
    # Each entry with memory of its own: the format has no place for shared ones.
    content = save({name: value.contiguous().clone() for name, value in state.items()}, _texts(about))
    path = config_path.with_suffix(SAFETENSORS)
    write_atomically(content, path)
    return path


def _texts(about: dict) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def _write_onnx(network: FramesToLogits, about: dict, path: Path) -> dict:
    """Write the graph with as many free dimensions as it has, which is found by running it; say which."""
    example = _example(about)
    free, one = torch.export.Dim.DYNAMIC, torch.export.Dim.STATIC
    auto = torch.export.Dim.AUTO
    failures = []
    for dims in ((free, auto, auto), (free, one, one), (one, one, one)):
        inputs = example if dims[0] is free else example[:1]
        try:
            with _quietly():
                program = torch.onnx.export(
                    network,
                    (inputs,),
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    opset_version=OPSET,
                    dynamo=True,
                    dynamic_shapes=({0: dims[0], 1: dims[1], 2: dims[2]},),
                    verbose=False,
                )
        except Exception as error:  # torch.export names what it does not know by many classes
            failures.append(error)
            continue
        kept = dict(_kept(inputs, dims[0] is free, dims[1] is auto), opset=OPSET)
        proto = program.model_proto
        del proto.metadata_props[:]
        whole = dict(about, **kept)
        for key, value in {ABOUT: json.dumps(whole), **_texts(whole)}.items():
            proto.metadata_props.add(key=key, value=value)
        content = proto.SerializeToString()
        session = open_session(content)

        def run(frames: Tensor, session: InferenceSession = session) -> Tensor:
            return torch.from_numpy(session.run([OUTPUT], {INPUT: frames.numpy()})[0])

        if _agrees(network, run, inputs, kept):
            write_atomically(content, path)
            return kept
    reason = f': {_first_line(failures[-1])}' if failures else ', or its graph gives other logits at each run'
    raise ValueError(f'{failing_part(network, example[:1])} cannot be exported as ONNX{reason}')


def _write_torchscript(network: FramesToLogits, about: dict, path: Path) -> dict:
    example = _example(about)
    failure = None
    for size_is_free in (True, False):
        try:
            with _quietly(), torch.no_grad():
                traced = torch.jit.trace(network, example, check_trace=False)
        except Exception as error:
            failure = error
            break
        kept = _kept(example, True, size_is_free)
        if _agrees(network, traced, example, kept):
            with _quietly():
                content = io.BytesIO()  # torch ends the whole process where its own writing meets a full disk
                torch.jit.save(traced, content, _extra_files={f'{ABOUT}.json': json.dumps(dict(about, **kept))})
                write_atomically(content.getvalue(), path)
            return kept
    reason = f': {_first_line(failure)}' if failure else ': traced, it gives other logits'
    raise ValueError(f'{failing_part(network, example[:1])} cannot be exported as TorchScript{reason}')


def _kept(example: Tensor, batch_is_free: bool, size_is_free: bool) -> dict:
    """What a graph holds to: None where it takes any."""
    return dict(
        batch=None if batch_is_free else example.shape[0], size=None if size_is_free else list(example.shape[1:3])
    )


def _example(about: dict) -> Tensor:
    """Two frames of the size that the network sees."""
    width, height = about['resize']['scale'] if about['resize'] else (256, 256)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def _agrees(network: nn.Module, run: Callable[[Tensor], Tensor], example: Tensor, kept: dict) -> bool:
    """Whether a graph gives the network's logits for the example, and for other shapes that it claims to take."""
    shapes = [example]
    if kept['batch'] is None:
        shapes.append(example[:1].repeat(OTHER_BATCH, 1, 1, 1))
    if kept['size'] is None:
        shapes.append(torch.nn.functional.pad(example, (0, 0, 0, LARGER[1], 0, LARGER[0]), value=90))
    wanted = network(example)
    for frames in shapes:
        try:
            with _quietly():
                expected = wanted if frames is example else network(frames)
                found = run(frames)
        except Exception:  # a size that the network or its graph does not take after all, in classes of their own
            return False
        if found.shape != expected.shape or (found.softmax(1) - expected.softmax(1)).abs().max() > CLOSE:
            return False
    return True


def failing_part(network: FramesToLogits, frames: Tensor) -> str:
    """The part of a segmentor that torch cannot export, found by exporting its backbone and neck alone."""
    segmentor = network.segmentor
    images = torch.zeros(1, 3, *frames.shape[1:3])
    parts = {name: getattr(segmentor, name, None) for name in ('backbone', 'neck', 'decode_head')}
    features: object = images
    for name in ('backbone', 'neck'):
        part = parts[name]
        if part is None:
            continue
        try:
            with _quietly(), torch.no_grad():
                torch.export.export(part, (features,))
                features = part(features)
        except Exception:  # whatever it does not know
            return f'the {name} ({type(part).__name__})'
    return f'the decode_head ({type(parts["decode_head"]).__name__})'


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what exporters warn of: advice for whoever wrote the model, and how they go about it."""
    with errors_alone(logging.getLogger('torch.onnx')), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield
