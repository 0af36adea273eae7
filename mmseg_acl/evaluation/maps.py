"""Score maps of any origin, as image files, against a folder of masks."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track

from mmseg_acl.datasets.mask_shares import check_shares, read_share
from mmseg_acl.datasets.partitions import IMAGE_SUFFIXES, read_list
from mmseg_acl.datasets.polyp_masks import read_polyp_mask
from mmseg_acl.evaluation.cross_dataset import format_table
from mmseg_acl.evaluation.map_files import read_map
from mmseg_acl.evaluation.polyp_metric import PolypMetric
from mmseg_acl.evaluation.result_files import PER_IMAGE, RESULTS, Results, write_results

SHOWN = 5


def evaluate_maps(
    maps_dir: str | Path,
    masks_dir: str | Path,
    out_dir: str | Path,
    protocols: Sequence[str] = ('image',),
    threshold: float = 0.5,
    names: str | None = None,
) -> Results:
    """Score a folder of maps and write ``results.json`` and ``per_image.csv`` as ``tools/test.py`` does.

    Maps and masks are paired by file name without suffix. A map of another size than its mask is resized
    bilinearly, as PraNet's test script does (Fan et al., MICCAI 2020). 8-bit maps are divided by 255, 16-bit ones by
    65535; if no map of the folder has a value above 1, all are taken for binary ones of 0 and 1.

    Args:
        maps_dir: Folder of the maps, see :func:`~mmseg_acl.evaluation.map_files.read_map`.
        masks_dir: Folder of the masks, see :func:`~mmseg_acl.datasets.polyp_masks.read_polyp_mask`.
        out_dir: Folder of the two files, made if needed.
        protocols: Protocols of ``PolypMetric``.
        threshold: For the protocols ``image`` and ``dataset``. With another one than 0.5 their names in the results
            end in it, as in ``image@0.3``.
        names: List of the masks to score, a shipped one (``kvasir/test``) or a file; None takes all of the folder.

    Returns:
        ``{set: {network: {protocol: {metric: percent}}}}``; the set has the name of the masks' folder (of the one
        above it where that is ``masks``), the network that of the maps' folder.

    Raises:
        FileNotFoundError: A folder does not exist, or a mask of the list or a map for a mask is missing.
        ValueError: A folder is empty, a map has no mask, two files have one name, a file cannot be read, or all
            masks are polyp everywhere.
    """
    metric = PolypMetric(protocols, threshold=threshold)
    maps_dir, masks_dir = Path(maps_dir), Path(masks_dir)
    pairs = _pairs(_by_stem(maps_dir, 'maps'), _by_stem(masks_dir, 'masks'), maps_dir, masks_dir, names)
    binary = all(read_map(path).max(initial=0) <= 1 for path, _ in pairs)
    check_shares({str(mask): read_share(str(mask)) for _, mask in pairs}, f"'{masks_dir}'")
    for map_file, mask_file in track(pairs, description=f'{maps_dir.name:10s}'):
        mask = torch.from_numpy(read_polyp_mask(str(mask_file)))
        values = read_map(map_file)
        scale = 1 if binary else np.iinfo(values.dtype).max
        probability = torch.from_numpy(values.astype(np.float64) / scale)[None]
        if probability.shape[1:] != mask.shape:
            size = tuple(mask.shape)
            probability = F.interpolate(probability[None], size, mode='bilinear', align_corners=False)[0]
        sample = dict(img_path=str(mask_file), seg_logits=dict(data=probability), gt_sem_seg=dict(data=mask[None]))
        metric.process({}, [sample])

    name = masks_dir.resolve().parent.name if masks_dir.resolve().name == 'masks' else masks_dir.resolve().name
    network = maps_dir.resolve().name
    scores = {
        protocol if threshold == 0.5 or protocol == 'pranet' else f'{protocol}@{threshold:g}': values
        for protocol, values in metric.compute_protocols(metric.results).items()
    }
    results: Results = {name: {network: scores}}
    write_results(Path(out_dir), results, [(name, network, score) for score in metric.per_image])
    print('\n'.join(format_table(results, {name: len(pairs)}, protocol) for protocol in scores))
    print(f'written: {Path(out_dir) / RESULTS}, {Path(out_dir) / PER_IMAGE}')
    return results


def _by_stem(folder: Path, kind: str) -> dict[str, Path]:
    """Image files of a folder by their names without suffix, sorted."""
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of {kind} '{folder}' does not exist")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith('.'):
            continue
        # One spelling of accented letters: macOS writes them as letters of their own.
        stem = unicodedata.normalize('NFC', path.stem)
        if stem in found:
            raise ValueError(f'{found[stem]} and {path} have one name: which of them counts? Remove the other')
        found[stem] = path
    if not found:
        raise ValueError(f"the folder of {kind} '{folder}' has no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _pairs(
    maps: dict[str, Path], masks: dict[str, Path], maps_dir: Path, masks_dir: Path, names: str | None
) -> list[tuple[Path, Path]]:
    """Map and mask of every image that is to be scored."""
    wanted = list(masks) if names is None else [unicodedata.normalize('NFC', name) for name in read_list(names)]
    if lacking := [stem for stem in wanted if stem not in masks]:
        raise FileNotFoundError(f"the list '{names}' names {_some(lacking)}, of which '{masks_dir}' has no mask")
    if lacking := [stem for stem in wanted if stem not in maps]:
        near = next((stem for stem in maps if lacking[0] in stem), None)
        raise FileNotFoundError(
            f"'{maps_dir}' has no map for {len(lacking)} of {len(wanted)} masks: {_some(lacking)}. "
            + (f'There is {maps[near].name}: a map has the name of its mask. ' if near else '')
            + 'Add the maps, or name the images to score by --list'
        )
    if extra := sorted(set(maps) - set(wanted)):
        raise ValueError(
            f"'{maps_dir}' has {len(extra)} maps that belong to no mask{' of the list' if names else ''}: "
            f'{_some(extra)}. Remove them, or give the masks that they belong to'
        )
    return [(maps[stem], masks[stem]) for stem in wanted]


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:SHOWN]) + (', ...' if len(names) > SHOWN else '')
