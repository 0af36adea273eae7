"""Shortcuts for tests: what they leave out costs more time than the rest, and is looked at by other tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

from mmengine.config import Config
from torch import Tensor, nn
from yapf.yapflib import yapf_api

BASES = Path(__file__).parents[1] / 'configs' / '_base_'

LAY_OUT = yapf_api.FormatCode


def plain_texts() -> ExitStack:
    """Leave the text of a config as it is put together, until the result is closed.

    Its layout by yapf takes as long as a few steps of a tiny network. That the text is Python is still looked at.
    """

    def leave(text: str, **_: object) -> tuple[str, bool]:
        ast.parse(text)
        return text, False

    changes = ExitStack()
    changes.enter_context(patch.object(yapf_api, 'FormatCode', leave))
    return changes


@contextmanager
def bases_read_once() -> Iterator[None]:
    """Read every file of ``configs/_base_`` once: hundreds of configs have the same few below them."""
    read, known = Config._file2dict, {}

    def read_once(filename: str, *options, **named) -> tuple[dict, str, dict]:
        path = Path(filename).resolve()
        if BASES not in path.parents:
            return read(filename, *options, **named)
        key = path, path.stat().st_mtime_ns, options, *sorted(named.items())
        if key not in known:
            known[key] = read(filename, *options, **named)
        return deepcopy(known[key])

    with patch.object(Config, '_file2dict', staticmethod(read_once)):
        yield


@contextmanager
def without_start_weights() -> Iterator[None]:
    """Build models on whatever is in memory: to draw weights takes longer than all else, and copies take no less."""

    def leave(tensor: Tensor, *_: object, **__: object) -> Tensor:
        return tensor

    with ExitStack() as changes:
        for name in ('uniform_', 'normal_', 'trunc_normal_', 'kaiming_uniform_', 'xavier_uniform_'):
            changes.enter_context(patch.object(nn.init, name, leave))
        yield
