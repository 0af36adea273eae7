"""What the masks of a set tell together: one that is foreground everywhere may be right, all of them are not."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping

import numpy as np
from mmengine.logging import print_log

from mmseg_acl.datasets.polyp_masks import read_polyp_mask

NUM_SHOWN = 5


def read_share(path: str) -> float:
    """The share of a mask's pixels that is polyp, 0 to 1.

    Raises:
        ValueError: See `read_polyp_mask`.
    """
    mask = read_polyp_mask(path)
    return np.count_nonzero(mask) / mask.size


def check_shares(shares: Mapping[str, float], source: str) -> None:
    """Look for masks that are read the wrong way round, or not at all.

    A single polyp may fill its frame; the median of Kvasir-SEG is 11 %, and 28 of its 1000 masks are above a half.

    Args:
        shares: Path of each mask, and the share of its pixels that is foreground, 0 to 1.
        source: What to call the set.

    Raises:
        ValueError: Every mask is foreground wholly.
    """
    if not shares:
        return
    if min(shares.values()) == 1:
        raise ValueError(
            f'all of the {len(shares)} masks of {source} are polyp at every pixel, such as {next(iter(shares))}: '
            'save polyps with value 255 on a background of 0'
        )
    median = statistics.median(shares.values())
    if median > 0.5:
        largest = sorted(shares, key=lambda path: -shares[path])[:NUM_SHOWN]
        named = ', '.join(f'{path} ({shares[path]:.0%})' for path in largest)
        print_log(
            f'the median mask of {source} ({len(shares)} masks) is polyp at {median:.0%} of its pixels, which is '
            f'much (Kvasir-SEG: 11 %). Are they the wrong way round? The largest: {named}. If background is white in '
            'them, invert the files: polyps 255, background 0',
            'current',
            logging.WARNING,
        )
