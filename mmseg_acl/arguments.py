"""What several tools take on their command lines, refused before the work where it cannot be."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_acl.commands import as_typed


class ToolParser(argparse.ArgumentParser):
    """The parser of a tool; its help names the tools as the user has called them."""

    def format_help(self) -> str:
        return as_typed(super().format_help())


def folder(text: str) -> Path:
    """A folder to write to, which need not exist.

    Raises:
        argparse.ArgumentTypeError: It, or one that it would lie in, is a file.
    """
    path = Path(text)
    for part in (path, *path.parents):
        if part.exists():
            if not part.is_dir():
                raise argparse.ArgumentTypeError(f'{part} is a file; give a folder, which need not exist')
            break
    return path


def positive(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f'{text} is not a whole number of at least 1')
    return int(text)
