"""Every key and type that has another name now ends in an error that names it, wherever it comes up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import FUNCTIONS
from mmseg.registry import MODELS
from steps import CONFIGS

from mmseg_acl.engine import load_config
from mmseg_acl.engine.start.config_checks import check_config
from mmseg_acl.models import ACLNet
from mmseg_acl.renamed import RENAMED_KEYS, RENAMED_TYPES

KEYS = [(cls, old, new) for cls, keys in RENAMED_KEYS.items() for old, new in keys.items()]


def config_of(cls: str) -> Path:
    """The tests' config of a method."""
    return next(path for path in CONFIGS.glob('*.py') if f"type='{cls}'" in path.read_text(encoding='utf-8'))


@pytest.mark.slow
@pytest.mark.parametrize(('cls', 'old', 'new'), KEYS)
def test_an_old_key_is_refused_by_its_new_name(cls, old, new, tmp_path):
    said = re.escape(f'model.{old} of {cls} has another name now, {new!r}')
    with pytest.raises(ValueError, match=said):  # on the command line
        check_config(load_config(str(config_of(cls)), str(tmp_path), {f'model.{old}': 0.3}))
    config = Config.fromfile(config_of(cls))
    check_config(config)
    config.model[old] = 0.3
    with pytest.raises(ValueError, match=said):  # in a file
        check_config(config)
    with pytest.raises(ValueError, match=re.escape(f'{old!r} of {cls} has another name now, {new!r}')):
        MODELS.build(config.model)
    config.model[new] = config.model.pop(old)
    assert getattr(MODELS.build(config.model), new) == 0.3


@pytest.mark.parametrize(('old', 'new'), RENAMED_TYPES.items())
def test_an_old_type_is_refused_by_its_new_name(old, new):
    registry = next(found for found in (MODELS, FUNCTIONS) if new in found.module_dict)
    said = re.escape(f'type={old!r} has another name now, {new!r}')
    with pytest.raises(ValueError, match=said):
        registry.get(old)([])
    with pytest.raises(ValueError, match=said):
        registry.build(dict(type=old, data_preprocessor=dict(type='SegDataPreProcessor')))
    config = Config.fromfile(CONFIGS / 'mean_teacher.py')
    for path in ('model.data_preprocessor', 'train_dataloader.collate_fn'):
        changed = Config(config.to_dict())
        changed.merge_from_dict({path: dict(type=old)})
        with pytest.raises(ValueError, match=re.escape(f'{path}.') + said):
            check_config(changed)


def test_a_method_of_ones_own_knows_the_old_names_of_its_base():
    class Mine(ACLNet):
        """Nothing new."""

    with pytest.raises(ValueError, match=r"'lambda_con' of Mine has another name now, 'consistency_weight'"):
        Mine(Config.fromfile(CONFIGS / 'aclnet.py').model.segmentor, lambda_con=0.1)


def test_an_argument_that_there_never_was_is_named():
    config = Config.fromfile(CONFIGS / 'aclnet.py').model
    with pytest.raises(TypeError, match="ACLNet got an unexpected keyword argument 'consistency_wieght'"):
        MODELS.build(dict(config, consistency_wieght=0.1))
