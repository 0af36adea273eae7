"""What is shipped, what the stack must be, and that its noise does not reach a user."""

import ast
import logging
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
import setuptools  # noqa: F401  lends its distutils
import torch

from distutils.core import run_setup  # isort: skip
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mmseg_acl
from mmseg_acl import _stack

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'mmseg_acl'


@pytest.fixture(scope='module')
def distribution():
    """What setuptools makes of pyproject.toml and setup.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return run_setup('setup.py', stop_after='config')


@pytest.fixture(scope='module')
def extras(distribution):
    """Requirements by extra; what is asked for as an extra of our own stands in its place."""
    own = re.compile(r'mmseg_acl\[([\w,]+)\]')

    def expand(requirements):
        for requirement in requirements:
            if match := own.fullmatch(requirement):
                yield from chain.from_iterable(expand(found[name]) for name in match[1].split(','))
            else:
                yield requirement

    found = distribution.extras_require
    return {name: list(expand(requirements)) for name, requirements in found.items()}


def same(*requirements):
    """Whether lists of requirements ask for the same, in whatever order."""
    return len({frozenset(map(Requirement, found)) for found in requirements}) == 1


def run_python(code, *paths):
    path = os.pathsep.join([*map(str, paths), str(ROOT), os.environ.get('PYTHONPATH', '')])
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_every_module_and_list_is_shipped(distribution):
    folders = {path.parent for path in PACKAGE.rglob('*.py')}
    names = {folder.relative_to(ROOT).as_posix().replace('/', '.') for folder in folders}
    assert names == set(distribution.packages)

    shipped = {
        path
        for package, patterns in distribution.package_data.items()
        for pattern in patterns
        for path in (ROOT / package.replace('.', '/')).glob(pattern)
    }
    data = {path for path in PACKAGE.rglob('*.*') if path.suffix in ('.txt', '.csv')}
    assert data and data == shipped


def test_the_version_stands_in_one_place(distribution):
    assert distribution.get_version() == mmseg_acl.__version__
    for file in ('setup.py', 'pyproject.toml'):
        assert f"'{mmseg_acl.__version__}'" not in (ROOT / file).read_text()


def test_the_stack_is_the_same_in_requirements_extras_and_message(distribution, extras):
    lines = (ROOT / 'requirements.txt').read_text().splitlines()
    required = [line for line in lines if line and not line.startswith('#')]
    assert same(extras['onedl'], required)
    assert re.findall(r'"([^"]+)"', _stack.INSTALL_DEFAULT) == required
    openmmlab = _stack.INSTALL_OPENMMLAB.removeprefix('pip install ').replace('"', '').split()
    assert same(extras['openmmlab'], openmmlab)
    stack = ('torch', 'mmengine', 'mmcv', 'mmsegmentation', 'mmpretrain')
    for requirement in distribution.install_requires:
        assert not re.sub(r'^onedl-', '', requirement).startswith(stack), requirement


def test_the_pins_of_openmmlabs_releases_lie_within_their_ranges(extras):
    lines = (ROOT / 'requirements' / 'openmmlab.txt').read_text().splitlines()
    pins = dict(line.split('==') for line in lines if '==' in line)
    ranges = {found.name: found.specifier for found in map(Requirement, extras['openmmlab'])}
    assert {'mmengine', 'mmcv', 'mmsegmentation', 'mmpretrain'} == pins.keys()
    assert all(ranges[name].contains(version) for name, version in pins.items() if name in ranges)
    assert set(ranges) <= {re.match(r'\w+', line)[0] for line in lines if line and line[0] != '#'}


def test_every_required_package_is_pinned(distribution, extras):
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith('#')]
    assert all(re.fullmatch(r'[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*', pin) for pin in pins), pins
    pinned = {pin.split('==')[0].lower() for pin in pins}
    for requirement in distribution.install_requires + extras['onedl'] + extras['dev']:
        assert re.match(r'[\w.-]+', requirement)[0].lower() in pinned, requirement


@pytest.mark.slow
def test_the_pins_agree_with_one_another(distribution, extras):
    """Gradio excludes the newest Pillow: what one package asks for may not be pinned otherwise for another."""
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pins = {
        canonicalize_name(name): version for name, version in (line.split('==') for line in lines if '==' in line)
    }
    ours = [lines for name, lines in extras.items() if name != 'openmmlab']
    asked = {'mmseg_acl': [*distribution.install_requires, *chain.from_iterable(ours)]}
    for found in metadata.distributions():
        name = canonicalize_name(found.name)
        if pins.get(name) == found.version:
            asked[name] = found.requires or ()
    assert len(asked) > 40
    for name, requirements in asked.items():
        for requirement in map(Requirement, requirements):
            pin = pins.get(canonicalize_name(requirement.name))
            applies = requirement.marker is None or requirement.marker.evaluate(dict(extra=''))
            assert not pin or not applies or requirement.specifier.contains(pin), (name, str(requirement), pin)


@pytest.mark.slow
def test_imports_between_rooms_run_one_way():
    rooms = {}
    for file in PACKAGE.rglob('*.py'):
        room = file.relative_to(PACKAGE).parts[0].removesuffix('.py')
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        ours = [node for node in nodes if (node.module or '').split('.')[0] == PACKAGE.name]
        found = {
            name for node in ours for name in (node.module.split('.')[1:2] or [alias.name for alias in node.names])
        }
        rooms.setdefault(room, set()).update(found - {room})
    del rooms['__init__']
    order = list(TopologicalSorter(rooms).static_order())  # a circle is a CycleError
    assert order.index('engine') < order.index('visualization') < order.index('demo')


@pytest.mark.slow
def test_only_what_draws_imports_matplotlib():
    """It would take longer than all imports of this package together."""
    code = f"""
import runpy, sys
import mmseg_acl.engine, mmseg_acl.visualization
sys.argv = ['train.py', '--help']
try:
    runpy.run_path({str(ROOT / 'tools' / 'train.py')!r}, run_name='__main__')
except SystemExit:
    sys.exit('matplotlib' in sys.modules)
"""
    result = run_python(code)
    assert 'usage: train.py' in result.stdout and result.returncode == 0, result.stderr


@pytest.mark.slow
def test_import_and_build_are_silent():
    code = """
import mmseg_acl
from mmseg.registry import MODELS
from mmengine.registry import init_default_scope
init_default_scope('mmseg')
head = dict(type='FCNHead', in_channels=4, channels=4, num_convs=1, num_classes=2)
MODELS.build(head)
loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
MODELS.build(dict(head, out_channels=1, threshold=0.5, loss_decode=loss))
"""
    result = run_python(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')


@pytest.mark.slow
def test_other_warnings_and_prints_still_show(capsys):
    code = 'import mmseg_acl, warnings; warnings.warn("for binary segmentation of mine"); print(1)'
    result = run_python(code)
    assert 'for binary segmentation of mine' in result.stderr
    assert result.stdout == '1\n'
    with _stack._printed_noise_hidden():
        print('Could not import OneDL\nsomething else')
    assert capsys.readouterr().out == 'something else\n'


def test_log_noise_is_dropped_and_the_rest_kept(caplog):
    logger = logging.getLogger('test_log_noise')
    _stack.hide_log_noise(logger)
    logger.warning('"FileClient" will be deprecated in future. Please use io functions')
    logger.warning('The prefix is not set in metric class IoUMetric.')
    logger.warning('loss is nan')
    assert caplog.messages == ['loss is nan']


@pytest.mark.slow
@pytest.mark.parametrize('name', ['torch', 'mmengine', 'mmcv', 'mmseg'])
def test_a_missing_part_is_named_with_the_command_that_installs_it(name):
    result = run_python(f'import sys; sys.modules[{name!r}] = None; import mmseg_acl')
    assert result.returncode == 1
    assert 'ImportError: mmseg_acl needs torch, mmengine, mmcv and mmseg' in result.stderr
    assert f'\n  - {name} ' in result.stderr
    assert _stack.INSTALL_DEFAULT in result.stderr
    assert 'Could not import OneDL' not in result.stdout + result.stderr


@pytest.mark.slow
def test_an_unfit_version_is_named(tmp_path):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text("__version__ = '1.7.2'\n")
    result = run_python('import mmseg_acl', tmp_path)
    assert result.returncode == 1
    assert '  - mmcv is version 1.7.2; 2.0.1 or newer, below 3, is needed' in result.stderr


@pytest.mark.slow
def test_a_part_that_does_not_import_is_named(tmp_path):
    (tmp_path / 'mmseg').mkdir()
    (tmp_path / 'mmseg' / '__init__.py').write_text("raise AssertionError('MMCV==9 is used')\n")
    result = run_python('import mmseg_acl', tmp_path)
    assert '  - mmseg is installed but does not import: MMCV==9 is used' in result.stderr


@pytest.mark.slow
def test_a_torchvision_made_for_another_torch_is_named_with_the_one_that_fits(tmp_path):
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision' / '__init__.py').write_text("raise RuntimeError('operator nms does not exist')\n")
    (tmp_path / 'mmseg').mkdir()
    (tmp_path / 'mmseg' / '__init__.py').write_text('import torchvision\n')
    result = run_python('import mmseg_acl', tmp_path)
    fits = f'0.{_stack._release(torch.__version__)[1] + 15}'
    assert '  - mmseg is installed but does not import: operator nms does not exist' in result.stderr
    assert f'pip install "torchvision=={fits}.*"' in result.stderr


def test_versions_compare_as_numbers():
    assert _stack._release('2.13.0+cpu') == (2, 13, 0)
    assert _stack._release('0.10.12') > _stack._release('0.10.7')
