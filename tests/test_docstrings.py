"""The examples in the methods' docstrings are configs, and train what the shipped configs train."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import pytest
from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_acl.methods import METHODS

CONFIGS = Path(__file__).parents[1] / 'configs'
# What the three dots of an example stand for, where it does not name a file of that folder.
REST = ('datasets/kvasir_128.py', 'schedules/1200i.py', 'default_runtime.py')
# A class that two methods share has an example of the first.
FIRST = {method.type: method for method in reversed(METHODS)}.values()
OURS = [method for method in FIRST if MODELS.get(method.type).__module__.startswith('mmseg_acl')]


@pytest.mark.parametrize('method', OURS, ids=lambda method: method.folder)
def test_the_example_is_the_laptop_config(method, tmp_path):
    text = inspect.getdoc(MODELS.get(method.type))
    example = re.search(r'^Example, a config[^\n]*::\n\n((?: {4}[^\n]*\n)+)', text, re.MULTILINE)
    assert example, f'{method.type} has no example'
    code = textwrap.dedent(example[1])
    named = [file for file in REST if f'_base_/{file.split("/")[0]}' not in code]
    code = code.replace('...', ', '.join(f"'../_base_/{file}'" for file in named))
    path = tmp_path / 'example.py'
    path.write_text(code.replace("'../_base_", f"'{CONFIGS.as_posix()}/_base_"), encoding='utf-8')
    found, shipped = Config.fromfile(path), Config.fromfile(CONFIGS / method.folder / 'mbv2_kvasir_quarter.py')
    for key in ('model', 'optim_wrapper', 'train_dataloader'):
        assert found[key] == shipped[key], key
