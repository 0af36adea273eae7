"""A local page: drop a frame or a video, see the mask, move the threshold, download."""

from __future__ import annotations

import csv
import html
import os
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from mmseg_acl.colours import class_colour
from mmseg_acl.inference import Predictor, find_frames, predict_into
from mmseg_acl.inference.predictor import check_threshold, to_labels
from mmseg_acl.inference.sources import VIDEO_SUFFIXES, read_frame
from mmseg_acl.inference.trained import TrainedModel
from mmseg_acl.inference.writing import MASKS, TABLE, Outputs, draw, mask_png, regions_of

INSTALL = 'pip install "mmseg_acl[web]"'
HOST = '127.0.0.1'
OWN_NAMES = ('127.0.0.1', 'localhost')
NOTE = 'For research only: no medical device. Frames stay on the machine that runs this page.'
REGIONS = ('class', 'left', 'top', 'width', 'height', 'pixels', 'share of the frame in %')
SESSIONS, HOUR = 20, 3600
# A small file may hold a frame that does not fit into memory.
LARGEST_FRAME = 25_000_000
# Gradio's own page names fonts and a script of other hosts; browsers are told to take none.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob: ws: wss:; "
    "form-action 'self'; object-src 'none'"
)
CSS = (
    '.gradio-container {max-width: 1080px !important; margin: auto} .gradio-container main {width: 100%} '
    'footer {display: none !important}'
)


class Found(NamedTuple):
    """What a visitor's frame came to; it stays with the visitor, so that a threshold needs no second pass.

    Attributes:
        name: Of the frame, without a suffix.
        frame: (H, W, 3) uint8, BGR.
        probabilities: (C, H, W) float32.
    """

    name: str
    frame: np.ndarray
    probabilities: np.ndarray


class Page:
    """The page of a model.

    Args:
        run: As :class:`~mmseg_acl.inference.Predictor` takes it.
        device: Likewise.
        threshold: Where the slider begins; by default the model's own.
        exported: Files that ``tools/export.py`` wrote, to choose from beside the run's own networks.

    Attributes:
        predictors: A predictor for each network, the one that a model predicts with first.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: An exported model has other classes than the run.
    """

    def __init__(
        self,
        run: Sequence[str],
        device: str | None = None,
        threshold: float | None = None,
        exported: Sequence[str] = (),
    ) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix='mmseg_acl_page_')
        self.gradio = _import_gradio(self.folder.name)
        first = Predictor(run, device=device, threshold=threshold)
        self.predictors = {first.network: first}
        if isinstance(first.model, TrainedModel):
            for network in first.model.networks:
                model = first.model.running(network)
                self.predictors.setdefault(network, Predictor(model, threshold=first.threshold))
        for file in exported:
            other = Predictor(file, threshold=first.threshold)
            if other.classes != first.classes:
                raise ValueError(
                    f'{file} has the classes {", ".join(other.classes)}, the run {", ".join(first.classes)}: give '
                    'what was exported of this run'
                )
            self.predictors[f'{other.network} ({Path(file).name})'] = other

    def build(self) -> Any:
        """The page as Gradio's blocks."""
        gr = self.gradio
        first = next(iter(self.predictors.values()))
        two = len(first.classes) == 2
        with gr.Blocks(title='mmseg_acl', analytics_enabled=False, delete_cache=(HOUR, HOUR)) as blocks:
            gr.Markdown(f'# {" / ".join(first.classes[1:])}\n`{first.run.checkpoint}`\n\n**{NOTE}**')
            with gr.Row():
                network = gr.Dropdown(list(self.predictors), value=first.network, label='Network', elem_id='network')
                threshold = gr.Slider(
                    0.01,
                    0.99,
                    first.threshold,
                    step=0.01,
                    label='Threshold',
                    info='foreground is what is more probable',
                    elem_id='threshold',
                    visible=two,
                )
            with gr.Tab('Image'):
                state = gr.State(None, time_to_live=HOUR)
                file = gr.File(label='Drop a frame here, or choose one', elem_id='frame', height=120)
                with gr.Row():
                    shown = [
                        gr.Image(
                            label=label,
                            format='png',
                            interactive=False,
                            elem_id=label.lower(),
                            buttons=['fullscreen'],
                        )
                        for label in ('Overlay', 'Mask', 'Probability')
                    ]
                gr.HTML(_legend(first.classes))
                regions = gr.Dataframe(headers=list(REGIONS), label='Regions', interactive=False, elem_id='regions')
                mask = gr.DownloadButton('Download the mask', interactive=False, elem_id='download')
            with gr.Tab('Video'):
                film = gr.File(label='Drop a video here, or choose one', elem_id='film', height=120)
                start = gr.Button('Predict the video', elem_id='start', variant='primary')
                overlay = gr.Video(label='Overlay', interactive=False, elem_id='overlay-film', buttons=['download'])
                table = gr.Dataframe(label='Frames', interactive=False, elem_id='frames')
                masks = gr.DownloadButton('Download the masks', interactive=False, elem_id='masks')

            outputs = [*shown, regions, mask]
            one_at_a_time = dict(concurrency_id='model', concurrency_limit=1)
            for event in (file.upload, network.change):
                event(self.predict, [file, network], state, **one_at_a_time).success(
                    self.show, [state, threshold], outputs, show_progress='hidden'
                )
            file.clear(lambda: None, None, state).success(self.show, [state, threshold], outputs)
            threshold.change(
                self.show, [state, threshold], outputs, show_progress='hidden', trigger_mode='always_last'
            )
            start.click(self.predict_film, [film, network, threshold], [overlay, table, masks], **one_at_a_time)
        return blocks

    def predict(self, path: str | None, network: str) -> Found | None:
        """Run a network over an uploaded file."""
        if path is None:
            return None
        try:
            _check_size(Path(path))
            frame = read_frame(Path(path))
        except ValueError as error:
            raise self.gradio.Error(
                f'{Path(path).name} is no image that can be read: choose a PNG, JPEG, TIFF or BMP of at most '
                f'{LARGEST_FRAME // 1_000_000} million pixels',
                duration=None,
            ) from error
        (found,) = self.predictors[network]([frame])
        return Found(Path(path).stem, frame, found.probabilities)

    def show(self, found: Found | None, threshold: float) -> tuple:
        """Overlay, mask, probability, regions and download of a frame at a threshold."""
        button = self.gradio.DownloadButton
        if found is None:
            return None, None, None, [], button(interactive=False)
        labels = to_labels(found.probabilities, threshold)
        png = mask_png(labels, len(found.probabilities))
        file = self._new_folder() / f'{found.name}_mask.png'
        file.write_bytes(png)
        mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        likely = np.round(255 * (1 - found.probabilities[0])).astype(np.uint8)
        overlay = draw(found.frame, labels)
        return (
            overlay[..., ::-1],
            mask[..., ::-1],
            likely,
            self._regions(labels),
            button(value=str(file), interactive=True),
        )

    def predict_film(self, path: str | None, network: str, threshold: float) -> tuple:
        """Overlay, table and masks of an uploaded video."""
        gr = self.gradio
        if path is None:
            raise gr.Error('There is no video yet: drop one above', duration=None)
        if Path(path).suffix.lower() not in VIDEO_SUFFIXES:
            raise gr.Error(f'{Path(path).name} is no video: choose {", ".join(VIDEO_SUFFIXES)}', duration=None)
        predictor = Predictor(self.predictors[network].model, threshold=threshold)
        out = self._new_folder()
        try:
            predict_into(predictor, find_frames(path), out, Outputs(table=True, video='.webm'))
        except ValueError as error:
            raise gr.Error(f'{Path(path).name}: {error}', duration=None) from error
        with open(out / TABLE, newline='') as file:
            header, *rows = csv.reader(file)
        if not rows:
            raise gr.Error(f'{Path(path).name} has no frame that can be read', duration=None)
        film = (out / 'overlay.webm').rename(out / f'{Path(path).stem}_overlay.webm')
        masks = shutil.make_archive(str(out / f'{Path(path).stem}_masks'), 'zip', out / MASKS)
        return (
            str(film),
            gr.Dataframe(headers=header, value=rows),
            gr.DownloadButton(value=masks, interactive=True),
        )

    def _new_folder(self) -> Path:
        """For what a visitor downloads; Gradio makes copies, so that those of former hours are not needed."""
        folders = Path(self.folder.name, 'written')
        folders.mkdir(exist_ok=True)
        for former in folders.iterdir():
            if former.stat().st_mtime < time.time() - HOUR:
                shutil.rmtree(former, ignore_errors=True)  # another visitor's call may have been first
        folder = folders / uuid.uuid4().hex
        folder.mkdir()
        return folder

    def _regions(self, labels: np.ndarray) -> list[list]:
        """A row a region, class by class, the largest first."""
        names = next(iter(self.predictors.values())).classes
        return [
            [name, *region, round(100 * region.area / labels.size, 2)]
            for label, name in enumerate(names[1:], 1)
            for region in regions_of(labels == label)
        ]

    def launch(self, host: str = HOST, port: int | None = None, largest: int = 500, block: bool = True) -> str:
        """Serve the page and return its address, at once or, with ``block``, when it has been stopped.

        Args:
            host: Address to listen at; others than 127.0.0.1 let other machines in.
            port: By default the first free one from 7860.
            largest: Of an uploaded file, MiB.
            block: Whether to wait until it is stopped.

        Raises:
            ValueError: The port is taken.
        """
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        gr = self.gradio
        guards = [Middleware(_OwnHostOnly)]
        if host == HOST:  # a foreign page whose name was made to lead here is not answered
            guards.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(OWN_NAMES)))
        options = dict(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            max_file_size=f'{largest}mb',
            state_session_capacity=SESSIONS,
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=[],
            css=CSS,
            theme=gr.themes.Base(font=['system-ui', 'sans-serif'], font_mono=['monospace']),
            app_kwargs=dict(middleware=guards, docs_url=None, redoc_url=None),
        )
        self.blocks = self.build().queue(max_size=50)
        try:
            _, address, _ = self.blocks.launch(**options)
        except OSError as error:
            raise ValueError(f'{host} has no free port {port or "from 7860"}: give another --port') from error
        if block:
            print(f'{address}  (Ctrl-C stops it)', flush=True)
            self.blocks.block_thread()
        return address

    def close(self) -> None:
        """Stop serving, and remove what visitors uploaded."""
        self.blocks.close(verbose=False)
        self.folder.cleanup()


class _OwnHostOnly:
    """Tells browsers to load nothing from other hosts."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_policy(message: dict) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [*message['headers'], (b'content-security-policy', POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def _legend(classes: Sequence[str]) -> str:
    """The colour of each predicted class."""
    swatches = (
        f'<span style="color: {class_colour(label)}">\u25a0</span> {html.escape(name)}'
        for label, name in enumerate(classes[1:], 1)
    )
    return f'Predicted: {"&ensp;".join(swatches)}'


def _import_gradio(folder: str) -> Any:
    """Gradio, which reads these when it is imported: no word to anybody, and uploads where they are removed."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED='False', HF_HUB_OFFLINE='1', GRADIO_TEMP_DIR=folder)
    # It asks itself whether it is there, which a proxy could not answer.
    for name in ('no_proxy', 'NO_PROXY'):
        os.environ[name] = ','.join(filter(None, (os.environ.get(name), *OWN_NAMES)))
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ImportError(f'the page needs Gradio ({error}): {INSTALL}') from error
    return gradio


def _check_size(path: Path) -> None:
    """Refuse a frame that is too large before it is decoded.

    Raises:
        ValueError: It has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
    except UnidentifiedImageError:  # it may be a kind that OpenCV alone reads
        return
    except Image.DecompressionBombError as error:
        raise ValueError(f'{path}: {error}') from error
    if width * height > LARGEST_FRAME:
        raise ValueError(f'{path} has {width} x {height} pixels')


def check_options(threshold: float | None, port: int | None, largest: int) -> None:
    """Refuse what cannot be served with.

    Raises:
        ValueError: A value is out of range.
    """
    if threshold is not None:
        check_threshold(threshold)
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f'port is {port}; it must be within 1 and 65535')
    if largest < 1:
        raise ValueError(f'max-mb is {largest}; it must be at least 1')
