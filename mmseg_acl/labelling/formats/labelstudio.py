"""Label Studio's JSON: tasks with predicted brush regions, and exports with a person's annotations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.labelling.formats.common import Labelled, class_number, fill_polygon, regions, runs

IMAGE, BRUSH = 'image', 'brush'
# Where Label Studio serves files of its own machine.
LOCAL_FILES = '/data/local-files/?d='
# What it puts before the name of a file that was uploaded.
UPLOADED = re.compile(r'^[0-9a-f]{8}-')
# Bits of a run's length; four sizes to choose from.
SIZES = (4, 8, 12, 16)
WORD = 8
SHAPES = {'brushlabels': 'rle', 'polygonlabels': 'points'}
# Answers about the whole frame, which have no shape.
NO_SHAPES = ('choices', 'textarea', 'rating', 'number', 'datetime', 'taxonomy', 'pairwise')


def write_labelstudio(frames: Iterable[Labelled], classes: Sequence[str], path: Path, root: str, model: str) -> None:
    """Write tasks to import, with a prediction each, and beside them the labelling interface as XML.

    Args:
        frames: The frames.
        classes: Names, the background first.
        path: The JSON file.
        root: What stands before a frame's path to make its address, such as ``LOCAL_FILES``.
        model: Name of the model.
    """
    tasks = []
    for frame in frames:
        labels = frame.read()
        height, width = labels.shape
        shapes = [
            dict(
                id=f'region{number}',
                type='brushlabels',
                from_name=BRUSH,
                to_name=IMAGE,
                original_width=width,
                original_height=height,
                image_rotation=0,
                value=dict(format='rle', rle=encode(mask), brushlabels=[classes[label]]),
            )
            for number, (label, mask) in enumerate(regions(labels), 1)
        ]
        # The second entry comes back in an export, whatever becomes of the address.
        data = dict(image=root + quote(str(frame.file)), frame=str(frame.file))
        tasks.append(dict(data=data, predictions=[dict(model_version=model, result=shapes)]))
    write_atomically(json.dumps(tasks).encode(), path)
    write_atomically(interface(classes).encode(), path.with_suffix('.xml'))


def interface(classes: Sequence[str]) -> str:
    """The labelling interface that fits the tasks, to paste into a project's settings."""
    labels = ''.join(f'    <Label value={quoteattr(name)}/>\n' for name in classes[1:])
    return (
        f'<View>\n  <Image name="{IMAGE}" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="{BRUSH}" toName="{IMAGE}">\n{labels}  </BrushLabels>\n</View>\n'
    )


def read_labelstudio(path: Path, classes: Sequence[str]) -> list[Labelled]:
    """The frames that a person has annotated, of an export as JSON; tasks without an annotation are left out.

    Args:
        path: The export.
        classes: Names, the background first.

    Raises:
        ValueError: The file is no such export, or has several annotations of one frame.
    """
    try:
        tasks = json.loads(path.read_text(encoding='utf-8'))
        found = []
        for task in tasks:
            done = [each for each in task['annotations'] if not each.get('was_cancelled')]
            file = PurePosixPath(task['data'].get('frame') or file_of(task['data'][IMAGE]))
            if len(done) > 1:
                raise ValueError(f'{path}: {file} has {len(done)} annotations: keep one in Label Studio')
            if done:
                found.append(Labelled(file, partial(_read, done[0]['result'], f'{path}: {file}', classes)))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path} is no export of Label Studio in the format JSON, with data.image and annotations ({error!r})'
        ) from error
    return found


def file_of(address: str) -> str:
    """The path of a frame within the address of its image."""
    parts = urlsplit(address)
    local = parse_qs(parts.query).get('d')
    file = PurePosixPath(local[0] if local else unquote(parts.path).lstrip('/'))
    name = UPLOADED.sub('', file.name)
    return name if name != file.name else str(file)


def encode(mask: np.ndarray) -> list[int]:
    """A mask (H, W) bool as bytes of Label Studio's run-length code, of a picture with four channels of 0 or 255.

    The bits are: 32 with the number of values; 5 with the bits of a value less one; four times 4 with the bits of a
    length less one; then for each run a 1, two bits that say which of the four, the length less one, the value.
    """
    values, lengths = runs(np.repeat(mask.ravel(), 4))
    bits = [f'{4 * mask.size:032b}{WORD - 1:05b}', *(f'{size - 1:04b}' for size in SIZES)]
    for value, length in zip(values.tolist(), lengths.tolist(), strict=True):
        while length:
            piece = min(length, 1 << SIZES[-1])
            choice = next(number for number, size in enumerate(SIZES) if piece <= 1 << size)
            bits.append(f'1{choice:02b}{piece - 1:0{SIZES[choice]}b}{255 * value:0{WORD}b}')
            length -= piece
    text = ''.join(bits)
    whole = np.frombuffer(text.encode(), np.uint8) - ord('0')
    return np.packbits(whole).tolist()


def decode(code: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) uint8 of :func:`encode`'s bytes, or of those that Label Studio wrote: the fourth channel.

    Raises:
        ValueError: The bytes end too early, or are of a picture of another size.
    """
    bits = ''.join(f'{byte:08b}' for byte in code)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError('its run lengths end too early')
        place += count
        return int(bits[place - count : place], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1]:
        raise ValueError(f'its run lengths are of {total // 4} pixels, not of {size[0]} x {size[1]}')
    parts = []
    done = 0
    while done < total:
        run = take(1)
        length = take(sizes[take(2)]) + 1
        parts.append(np.full(length, take(word)) if run else np.array([take(word) for _ in range(length)]))
        done += length
    return (np.concatenate(parts)[:total].reshape(-1, 4)[:, 3] > 127).astype(np.uint8).reshape(size)


def _read(result: list[dict], where: str, classes: Sequence[str]) -> np.ndarray | None:
    labels = None
    for shape in result:
        kind = shape.get('type')
        if kind in NO_SHAPES:
            continue
        if kind not in SHAPES:
            raise ValueError(f'{where} has a region of type {kind!r}; {" and ".join(SHAPES)} are read')
        size = (shape['original_height'], shape['original_width'])
        if labels is None:
            labels = np.zeros(size, np.uint8)
        try:
            if kind == 'brushlabels':
                mask = decode(shape['value']['rle'], size)
            else:
                mask = np.zeros(size, np.uint8)  # points are in percent
                fill_polygon(mask, (np.array(shape['value']['points']) * [size[1] / 100, size[0] / 100]).ravel())
            (name,) = shape['value'][kind]
        except (ValueError, KeyError) as error:
            raise ValueError(f'{where}: region {shape.get("id")} cannot be read: {error}') from error
        labels[mask > 0] = class_number(name, classes, where)
    return labels
