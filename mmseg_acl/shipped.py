"""What comes with the package beside its code: configs and tools, and configs that are named from anywhere.

In a checkout, and so in an editable install, both lie beside the package. A wheel has them in ``mmseg_acl/.mim``,
where OpenMMLab's packages have theirs. ``mmseg_acl::aclnet/r50_kvasir_quarter.py`` names a config in either.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from unittest.mock import patch

from mmengine.config import Config

PACKAGE = Path(__file__).resolve().parent
MIM = '.mim'
INSTALLED = (PACKAGE / MIM).is_dir()
ROOT = PACKAGE / MIM if INSTALLED else PACKAGE.parent
CONFIGS = ROOT / 'configs'
TOOLS = ROOT / 'tools'
MARK = '::'
PREFIX = f'{PACKAGE.name}{MARK}'


def shipped_path(name: str) -> str:
    """The file that a name stands for.

    Args:
        name: Such as ``mmseg_acl::aclnet/r50_kvasir_quarter.py``; anything else is a path already, and stays.

    Raises:
        FileNotFoundError: The package has no such config; the message has those of nearly the same name.
    """
    if not name.startswith(PREFIX):
        return name
    wanted = name.removeprefix(PREFIX)
    path = CONFIGS / wanted
    if not path.is_file():
        known = [file.relative_to(CONFIGS).as_posix() for file in sorted(CONFIGS.rglob('*')) if file.is_file()]
        near = [PREFIX + other for other in get_close_matches(wanted, known)]
        raise FileNotFoundError(
            f'there is no {name}: {"near it are " + ", ".join(near) if near else f"see what lies in {CONFIGS}"}'
        )
    return str(path)


def read_config(path: str | Path) -> Config:
    """A config by its path or its name; names may stand in its ``_base_``, too.

    mmengine finds ``mmseg::...`` by the name of a distribution, so not on the default stack, and ``mmseg_acl::...``
    not at all. Here both are found by the package that is imported.

    Raises:
        FileNotFoundError: There is no such config.
    """
    with _named_bases():
        return Config.fromfile(shipped_path(str(path)))


@contextmanager
def _named_bases() -> Iterator[None]:
    by_path = Config._get_cfg_path

    def find(base: str, file: str) -> tuple[str, str | None]:
        if base.startswith(PREFIX):
            # Without a scope: our parts are registered with mmseg's.
            return shipped_path(base), None
        package, mark, name = base.partition(MARK)
        spec = importlib.util.find_spec(package) if mark and package.isidentifier() else None
        inside = Path(spec.origin).parent / MIM / 'configs' / name if spec and spec.origin else None
        return (str(inside), package) if inside and inside.is_file() else by_path(base, file)

    with patch.object(Config, '_get_cfg_path', staticmethod(find)):
        yield
