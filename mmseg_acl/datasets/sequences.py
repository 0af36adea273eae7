"""CVC-ClinicDB's 29 sequences, and a split that keeps each of them whole.

Frames of a sequence show one polyp, often almost alike. PraNet's split is by frame, so all its test frames have
neighbours in its training list; the split drawn here has none.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from mmseg_acl.datasets.partitions import PARTITION_SEED, draw_partitions

NUM_FRAMES = 612
# The first frame of each sequence, from the table in the data set's README.
FIRST_FRAMES = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298),
    *(318, 343, 364, 384, 409, 429, 448, 467, 479, 504, 529, 547, 572, 592),
)
NUM_SEQUENCES = len(FIRST_FRAMES)
PRANET_TEST_FRAMES = 62


def sequence_of(frame: int | str) -> int:
    """The sequence, 1 to 29, of a frame of CVC-ClinicDB.

    Args:
        frame: Its number, 1 to 612, as a number or as the file's name without suffix.

    Raises:
        ValueError: There is no such frame.
    """
    number = int(frame) if str(frame).isdecimal() else 0
    if not 1 <= number <= NUM_FRAMES:
        raise ValueError(f'CVC-ClinicDB has no frame {frame!r}: its frames are 1 to {NUM_FRAMES}')
    return bisect_right(FIRST_FRAMES, number)


def draw_sequence_split(num_test: int = PRANET_TEST_FRAMES, seed: int = PARTITION_SEED) -> dict[str, list[str]]:
    """Draw whole sequences for the test, the rest to train, and labelled partitions of the latter.

    Sequences are taken in a random order, each that still fits into `num_test` frames. The shipped lists
    `clinicdb_seq/*` are those of the defaults: 556 frames to train, 56 of three sequences to test. Three polyps are
    few: other seeds give other splits to average over.

    Args:
        num_test: The most frames to test on. PraNet's split tests on 62.
        seed: Seed of the order and of the partitions.

    Returns:
        `train`, `test`, and the parts of `train` (see `draw_partitions`); frames in their order.

    Raises:
        ValueError: `num_test` leaves one of the parts without a sequence.
    """
    ends = (*FIRST_FRAMES[1:], NUM_FRAMES + 1)
    frames = [[str(n) for n in range(*bounds)] for bounds in zip(FIRST_FRAMES, ends, strict=True)]
    shortest = min(map(len, frames))
    if not shortest <= num_test <= NUM_FRAMES - shortest:
        raise ValueError(
            f'num_test={num_test} must lie in {shortest} to {NUM_FRAMES - shortest}: the shortest sequence has '
            f'{shortest} of the {NUM_FRAMES} frames'
        )
    test: set[str] = set()
    # The legacy generator's stream is frozen by NumPy's policy: the draw stays reproducible.
    for index in np.random.RandomState(seed).permutation(NUM_SEQUENCES):
        if len(test) + len(frames[index]) <= num_test:
            test.update(frames[index])
    everything = [name for sequence in frames for name in sequence]
    train = [name for name in everything if name not in test]
    return dict(train=train, test=[name for name in everything if name in test], **draw_partitions(train, seed))
