"""Loads what the tests share, which is in shared_fixtures.py, where tests are run.

With pytest-xdist one process hands out the tests and runs none. It does without the stack, or the
others would begin only after its imports.
"""

import importlib

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests their fixtures."""
    if config.getoption('dist', 'no') == 'no' or hasattr(config, 'workerinput'):
        config.pluginmanager.register(importlib.import_module('shared_fixtures'))
