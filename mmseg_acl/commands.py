"""The console command ``mmseg-acl``: every tool under one name, wherever the package is installed."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import mmseg_acl
from mmseg_acl.shipped import INSTALLED, PREFIX, TOOLS

NAME = 'mmseg-acl'
# They check the project itself, and need its checkout.
DEVELOPMENT = ('check_markdown.py', 'test_openmmlab_stack.sh')


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a tool as its script does; without one, list them.

    Args:
        arguments: The tool's name and its arguments; None takes those of the command line.

    Raises:
        SystemExit: With status 2 if there is no such tool.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    found = tools()
    if not arguments or arguments[0] in ('-h', '--help'):
        print(overview(found))
        return
    if arguments[0] == '--version':
        print(f'{mmseg_acl.__name__} {mmseg_acl.__version__}')
        return
    name = arguments[0].replace('_', '-')
    if name not in found:
        near = get_close_matches(name, found, cutoff=0.5)
        mend = f'did you mean {" or ".join(near)}?' if near else f'there are {", ".join(found)}'
        sys.exit(_refuse(f"there is no command '{arguments[0]}': {mend} ({NAME} --help says what each does)"))
    _run(name, found[name], arguments[1:])


def tools() -> dict[str, Path]:
    """The tools by the names of their commands, such as ``check-labels``."""
    files = (file for file in sorted(TOOLS.iterdir()) if file.suffix in ('.py', '.sh'))
    return {file.stem.replace('_', '-'): file for file in files if file.name not in DEVELOPMENT}


def overview(found: dict[str, Path]) -> str:
    """A line for each tool, with how to call it above and below."""
    width = max(map(len, found))
    return '\n'.join(
        [
            f'usage: {NAME} COMMAND [arguments]',
            '',
            'Semi-supervised segmentation for MMSegmentation, polyps first.',
            '',
            'commands:',
            *(f'  {name:{width}}  {first_line(file)}' for name, file in found.items()),
            '',
            f'{NAME} COMMAND --help explains a command, {NAME} --version says which version this is.',
            f'Configs that come with the package are named {PREFIX}aclnet_plus/r50_kvasir_quarter.py.',
        ]
    )


def first_line(file: Path) -> str:
    """What a tool does: the first line of its docstring, or of its comments after the line that names the shell."""
    text = file.read_text(encoding='utf-8')
    if file.suffix == '.sh':
        return text.splitlines()[1].removeprefix('# ')
    return ast.get_docstring(ast.parse(text)).splitlines()[0]


def as_typed(text: str) -> str:
    """A text for users in the words that they have at hand.

    Help and hints are written for a checkout: ``python tools/test.py configs/x/y.py``. Whoever has started this
    program by the console command, or has no checkout, reads ``mmseg-acl test mmseg_acl::x/y.py``.
    """
    if not INSTALLED and not Path(sys.argv[0]).name.startswith(NAME):
        return text
    names = {file.name: name for name, file in tools().items()}

    def command(match: re.Match) -> str:
        space, file = match.groups()
        return f'{NAME}{space or " "}{names[file]}' if file in names else match[0]

    text = re.sub(r'(?:python(\s+))?\btools/(\w+\.(?:py|sh))', command, text)
    return re.sub(r'(?<![\w/])configs/((?:\w+/)*\w+\.(?:py|yaml))', rf'{PREFIX}\1', text)


def _run(name: str, file: Path, arguments: list[str]) -> None:
    # The tool's own parser reads what follows; its usage begins with the name of the program.
    sys.argv = [f'{NAME} {name}', *arguments]
    if file.suffix == '.sh':
        os.environ.setdefault('PYTHON', sys.executable)
        os.execvp('bash', ['bash', str(file), *arguments])
    else:
        spec = importlib.util.spec_from_file_location(f'{mmseg_acl.__name__}_{file.stem}', file)
        tool = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = tool
        spec.loader.exec_module(tool)
        tool.main()


def _refuse(message: str) -> int:
    print(f'error: {message}', file=sys.stderr)
    return 2
