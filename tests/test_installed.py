"""The package as others get it: built, installed from its wheel, and used where there is no checkout."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from mmseg_acl.datasets import write_synthetic

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PARTS = ('mmseg_acl', 'configs', 'tools', 'tests')


def run(*command, folder, **environment):
    """What a command prints, with nothing of this checkout in sight."""
    kept = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    result = subprocess.run(
        [str(word) for word in command], cwd=folder, env={**kept, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, f'{result.stdout}\n{result.stderr}'
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel that is made from the sdist; nothing is downloaded."""
    source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('built')
    for path in ROOT.iterdir():
        if path.name in PARTS:
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns('__pycache__'))
        elif path.is_file():
            shutil.copy(path, source)
    build = f'from setuptools import build_meta; build_meta.build_sdist({str(out)!r})'
    run(sys.executable, '-c', build, folder=source)
    shutil.rmtree(source)
    (sdist,) = out.glob('*.tar.gz')
    run(*pip(sys.executable, 'wheel'), '--no-build-isolation', '-w', out, sdist, folder=out)
    (found,) = out.glob('*.whl')
    return found


def pip(python, command):
    return [sys.executable, '-m', 'pip', '--python', python, command, '--quiet', '--no-deps', '--no-index']


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """``run`` with the console command of an environment that has the wheel, in a folder with drawn frames."""
    environment, folder = tmp_path_factory.mktemp('environment'), tmp_path_factory.mktemp('elsewhere')
    run(sys.executable, '-m', 'venv', '--without-pip', environment, folder=folder)
    python = environment / 'bin' / 'python'
    run(*pip(python, 'install'), '--ignore-installed', wheel, folder=folder)
    # The stack below it is that of the tests. A checkout that is installed there as editable is not seen: what it
    # puts on the path is read in the folder of an environment alone.
    (packages,) = environment.glob('lib/python*/site-packages')
    (packages / 'stack.pth').write_text('\n'.join({sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}))
    write_synthetic(folder / 'data', 8, 8, 4)

    def command(*words):
        data = dict(MMSEG_ACL_DATA=str(folder / 'data'), MMSEG_ACL_WEIGHTS='none')
        return run(environment / 'bin' / 'mmseg-acl', *words, folder=folder, **data)

    command.folder, command.python = folder, python
    return command


def test_the_wheel_has_every_file_of_the_package(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}

    def files(folder):
        return {path for path in folder.rglob('*') if path.is_file() and '__pycache__' not in path.parts}

    beside = [ROOT / 'model-index.yml', *files(ROOT / 'configs'), *files(ROOT / 'tools')]
    expected = {f'mmseg_acl/.mim/{path.relative_to(ROOT)}' for path in beside}
    assert names == expected | {str(path.relative_to(ROOT)) for path in files(ROOT / 'mmseg_acl')}


def test_the_package_that_is_imported_is_the_installed_one(installed):
    said = run(installed.python, '-c', 'import mmseg_acl; print(mmseg_acl.__file__)', folder=installed.folder)
    assert str(ROOT) not in said and 'site-packages' in said


def test_the_demo_is_trained_and_predicts(installed):
    (installed.folder / 'mine.py').write_text("_base_ = 'mmseg_acl::demo/aclnet.py'\nrandomness = dict(seed=3)\n")
    said = installed('train', 'mine.py', '--work-dir', 'run', '--iters', '4')
    assert {'inspect-data', 'test', 'predict', 'export'} == set(re.findall(r'mmseg-acl ([\w-]+) /', said))
    assert 'python tools/' not in said
    frames = installed.folder / 'data' / 'Synthetic' / 'unlabelled' / 'images'
    installed('predict', 'run', frames, '--out', 'predicted')
    assert len(list((installed.folder / 'predicted').rglob('*.png'))) == len(list(frames.iterdir())) == 8


def test_a_grid_trains_and_tests_by_the_installed_tools(installed):
    (installed.folder / 'grid.yaml').write_text(
        'runs:\n'
        '  - config: mmseg_acl::demo/supervised.py\n'
        '    options: [train_cfg.max_iters=2, train_cfg.val_interval=2]\n'
        'test_sets: [synthetic]\n'
    )
    installed('experiments', 'run', 'grid.yaml', '--results', 'results')
    assert '1 done' in installed('experiments', 'status', 'grid.yaml', '--results', 'results')
    assert list((installed.folder / 'results').rglob('results.json'))


def test_own_folders_are_trained_on(installed):
    labelled, unlabelled = (installed.folder / 'data' / 'Synthetic' / name for name in ('labelled', 'unlabelled'))
    installed('train', '--labelled', labelled, '--unlabelled', unlabelled, '--iters', '2', '--work-dir', 'own')
    assert (installed.folder / 'own' / 'iter_2.pth').is_file()
