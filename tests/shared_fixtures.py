"""Fixtures that several test files share."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from building import bases_read_once, plain_texts
from grid_tools import GridTools, describe_grid
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope, init_default_scope
from mmseg.visualization import SegLocalVisualizer
from tool_process import ToolProcess
from torch.optim.optimizer import register_optimizer_step_pre_hook
from variation import is_varied, vary

import mmseg_acl  # noqa: F401  registers the package's parts with mmseg
from mmseg_acl.datasets import write_synthetic
from mmseg_acl.experiments.grid import Experiment


@pytest.fixture(scope='session', autouse=True)
def default_scope() -> None:
    """Registries look in mmseg first, as they do when a config is run."""
    if DefaultScope.get_current_instance() is None:
        init_default_scope('mmseg')


@pytest.fixture(scope='session', autouse=True)
def variation() -> Iterator[None]:
    """Other seeds and start weights, where the environment asks for them."""
    with vary():
        yield


@pytest.fixture(scope='session', autouse=True)
def texts() -> Iterator[None]:
    """Configs are written without a layout, here as in the tools of tool_process.py."""
    with plain_texts():
        yield


@pytest.fixture(autouse=True)
def trained_tests_are_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test in which an optimizer steps has the mark by which robustness.py finds it."""
    mark = request.node.get_closest_marker('trained')
    if mark and mark.kwargs.get('stored') and is_varied():
        pytest.skip('it compares with stored numbers of one seed')
    steps = []
    hook = register_optimizer_step_pre_hook(lambda *_: steps.append(1))
    try:
        yield
    finally:
        hook.remove()
    if steps and not mark:
        pytest.fail('an optimizer steps in this test: mark it with @pytest.mark.trained, see tests/variation.py')


@pytest.fixture(autouse=True)
def tools_in_processes_are_slow(request: pytest.FixtureRequest) -> Iterator[None]:
    """The quick tests do without the server of tool_process.py, which takes as long to start as many of them."""
    before = ToolProcess.started
    yield
    if ToolProcess.started > before and not request.node.get_closest_marker('slow'):
        pytest.fail('a tool runs in a process of its own in this test: mark it with @pytest.mark.slow')


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a tool that runs in this process sets in the environment ends with its test."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Loggers and visualizers end with their test: a later run would write to a closed stream or a lost folder."""
    known = {kind: set(kind._instance_dict) for kind in (MMLogger, SegLocalVisualizer)}
    yield
    for kind, names in known.items():
        for name in set(kind._instance_dict) - names:
            del kind._instance_dict[name]


@pytest.fixture(scope='session')
def real_data() -> Path:
    """Folder with Kvasir-SEG and the others; tests that ask for it are skipped where it is not."""
    beside = Path(__file__).resolve().parents[2] / 'shared' / 'data'
    root = Path(os.environ.get('MMSEG_ACL_DATA') or beside)
    if not (root / 'Kvasir-SEG' / 'images').is_dir():
        pytest.skip(f"no real data: '{root}' has no Kvasir-SEG/images (set MMSEG_ACL_DATA)")
    return root


@pytest.fixture(scope='session')
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with synthetic frames: 5 labelled, 7 unlabelled, 3 to test."""
    root = tmp_path_factory.mktemp('data')
    write_synthetic(root, labelled=5, unlabelled=7, test=3, size=(72, 96), seed=0)
    return root


@pytest.fixture(scope='module')
def bases() -> Iterator[None]:
    """For a file that reads many of the shipped configs."""
    with bases_read_once():
        yield


@pytest.fixture
def describe(tmp_path: Path) -> Callable[..., Experiment]:
    """Write a description of a grid with these entries and read it."""
    return partial(describe_grid, tmp_path / 'grid.yaml')


@pytest.fixture
def tools(tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch) -> GridTools:
    """Stand-ins for the tools that a grid calls."""
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    return GridTools(tmp_path)
