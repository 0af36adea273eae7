"""The stack below this package: is it there, is it fit, and imported without its noise.

The import names ``torch``, ``mmengine``, ``mmcv`` and ``mmseg`` come from two families of
distributions (see README.md). This module imports nothing of them at its top, so that it can say
what to install where they are missing.
"""

import contextlib
import importlib
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

# Import name -> first version that serves, first version that does not.
VERSIONS = {
    'torch': ('2.6', '3'),
    'mmengine': ('0.10', '1'),
    'mmcv': ('2.0.1', '3'),
    'mmseg': ('1.2', '2'),
}
# torchvision 0.15 belongs to torch 2.0, 0.16 to 2.1 and so on.
TORCHVISION_BEFORE_TORCH = 15
# mmseg imports these parts by itself as soon as something is built; importing them here keeps
# what they print in one place, and shows a broken part before a run starts.
PARTS = (
    'mmseg.datasets',
    'mmseg.engine',
    'mmseg.evaluation',
    'mmseg.models',
    'mmseg.visualization',
)

INSTALL_DEFAULT = (
    'pip install "torch>=2.6,<3" "onedl-mmengine>=0.10.8,<0.11" "onedl-mmcv>=2.3,<3" "onedl-mmsegmentation>=1.4,<2"'
)
INSTALL_OPENMMLAB = (
    'pip install "torch>=2.6,<3" "mmengine>=0.10.4,<0.11" "mmcv>=2.0.1,<2.2" '
    '"mmsegmentation>=1.2,<2" "numpy<2" ftfy regex'
)

# Lines printed to stdout while the stack is imported: an optional data source that is not there.
PRINTED_NOISE = {'Could not import OneDL'}
# Beginnings (regular expressions) of warnings that name no fault of the user's.
WARNED_NOISE = (
    # The optional compiled operators; nothing here uses them.
    r'Fail to import ``MultiScaleDeformableAttention``',
    r'`torch\.jit\.\w+` is deprecated',
    # Two channels are what the methods need; one channel is supported, too.
    r'For binary segmentation, we suggest using',
    # Older mmsegs use their own builder.
    r'``build_loss`` would be deprecated soon',
    # True of every mmseg config: the losses ignore the pixels that the padding marks.
    r'Default ``avg_non_ignore`` is False',
)
# Beginnings of log lines that mmengine's own hooks and metrics cause.
LOGGED_NOISE = (
    r'The prefix is not set in metric class',
    r'"FileClient" will be deprecated in future',
    # Said also of a database in the work dir.
    r'Please make sure that the mlflow server is running',
    r'"HardDiskBackend" is the alias of "LocalBackend"',
)


def check_stack() -> None:
    """Import the stack quietly and make sure that it serves.

    Raises:
        ImportError: If a part is missing, has an unusable version or does not import. The message
            names every such part and gives the commands that install the stack.
    """
    hide_warnings()
    with _printed_noise_hidden():
        problems = [problem for name in VERSIONS if (problem := _find_problem(name))]
        if not problems:
            problems = [problem for part in PARTS if (problem := _find_import_problem(part))][:1]
    if problems:
        listed = '\n'.join(f'  - {problem}' for problem in problems)
        raise ImportError(
            f'mmseg_acl needs torch, mmengine, mmcv and mmseg, and this environment does not serve:'
            f'\n{listed}\nInstall the default stack:\n  {INSTALL_DEFAULT}\n'
            f"or OpenMMLab's own releases:\n  {INSTALL_OPENMMLAB}"
        )


def hide_warnings() -> None:
    """Ignore the stack's warnings listed in ``WARNED_NOISE``; every other one still shows."""
    for message in WARNED_NOISE:
        warnings.filterwarnings('ignore', message=message)


def hide_log_noise(logger: logging.Logger) -> None:
    """Drop the log lines listed in ``LOGGED_NOISE`` from a runner's logger."""
    pattern = re.compile('|'.join(LOGGED_NOISE))
    logger.addFilter(lambda record: not pattern.match(record.getMessage()))


@contextlib.contextmanager
def _printed_noise_hidden() -> Iterator[None]:
    captured = io.StringIO()
    try:
        with contextlib.redirect_stdout(captured):
            yield
    finally:
        for line in captured.getvalue().splitlines():
            if line not in PRINTED_NOISE:
                print(line)


@contextlib.contextmanager
def errors_alone(logger: logging.Logger) -> Iterator[None]:
    """Let a logger say nothing below errors meanwhile."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _find_problem(name: str) -> str | None:
    """What is wrong with one package of the stack, or None."""
    problem = _find_import_problem(name)
    if problem:
        return problem
    version = importlib.import_module(name).__version__
    first, stop = VERSIONS[name]
    if not _release(first) <= _release(version) < _release(stop):
        return f'{name} is version {version}; {first} or newer, below {stop}, is needed'
    return None


def _find_import_problem(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return f'{name} is not installed'
        return f'{name} is installed but needs {error.name}: pip install {error.name}'
    # A wrong partner fails an assertion in mmseg and mmcv; a library of the system, an OSError; a torchvision made
    # for another torch, a RuntimeError.
    except (ImportError, AssertionError, AttributeError, OSError, RuntimeError) as error:
        return f'{name} is installed but does not import: {error}{_way_out(error)}'
    return None


def _way_out(error: Exception) -> str:
    """What mends a failed import, where that is known."""
    if 'libGL' in str(error):
        return ' (on a machine without a screen: pip install opencv-python-headless)'
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    if 'torchvision' in str(error) or any('torchvision' in Path(file).parts for file in files):
        torch = importlib.import_module('torch').__version__
        fits = f'0.{_release(torch)[1] + TORCHVISION_BEFORE_TORCH}'
        return (
            f' (the torchvision here does not fit torch {torch}: install torchvision {fits} from where torch came '
            f'from, such as pip install "torchvision=={fits}.*", or take it away: pip uninstall torchvision)'
        )
    return ''


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version: '2.13.0+cpu' -> (2, 13, 0)."""
    return tuple(int(number) for number in re.findall(r'\d+', version.split('+')[0])[:3])
