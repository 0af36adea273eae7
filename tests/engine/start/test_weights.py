"""Where pre-trained weights come from."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmseg.registry import MODELS
from steps import CONFIGS

from mmseg_acl.engine import resolve_weights
from mmseg_acl.engine.start.weights import check_weights_fit

MOBILENET = dict(type='MobileNetV2', widen_factor=0.25, out_indices=(6,))


def model_config(checkpoint: str = 'open-mmlab://tiny_net', method: bool = True) -> ConfigDict:
    init = dict(type='Pretrained', checkpoint=checkpoint)
    plain = dict(type='EncoderDecoder', backbone=dict(MOBILENET, init_cfg=init), decode_head=dict(type='FCNHead'))
    return ConfigDict(dict(type='ACLNet', segmentor=plain) if method else plain)


@pytest.fixture
def folder(tmp_path):
    torch.save({'conv.weight': torch.zeros(1)}, tmp_path / 'tiny_net-0badcafe.pth')
    return tmp_path


@pytest.mark.parametrize('method', [True, False])
def test_a_folder_of_weights_serves_names_of_the_zoo(monkeypatch, folder, method):
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', str(folder))
    config = model_config(method=method)
    resolve_weights(config)
    backbone = (config.segmentor if method else config).backbone
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=str(folder / 'tiny_net-0badcafe.pth'))


def test_whole_model_checkpoints_give_their_backbone(monkeypatch, folder):
    torch.save({'state_dict': {'backbone.conv.weight': torch.zeros(1)}}, folder / 'other.pth')
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', str(folder))
    config = model_config('mmcls://other')
    resolve_weights(config)
    assert config.segmentor.backbone.init_cfg.prefix == 'backbone.'


def test_none_is_random_and_says_so(monkeypatch, caplog):
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    said = []
    monkeypatch.setattr('mmseg_acl.engine.start.weights.print_log', lambda text, **_: said.append(text))
    config = model_config()
    resolve_weights(config)
    assert 'init_cfg' not in config.segmentor.backbone
    assert 'RANDOM' in said[0] and 'tiny_net' in said[0]


def test_pretrained_of_older_configs_is_found(monkeypatch, folder):
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', str(folder))
    config = model_config()
    config.segmentor.backbone.pop('init_cfg')
    config.segmentor.pretrained = 'open-mmlab://tiny_net'
    resolve_weights(config)
    assert 'pretrained' not in config.segmentor
    assert config.segmentor.backbone.init_cfg.checkpoint.endswith('tiny_net-0badcafe.pth')


@pytest.mark.parametrize(
    ('setting', 'name', 'message'),
    [
        ('{folder}', 'open-mmlab://absent', 'no file called absent.pth.*tiny_net-0badcafe.pth'),
        ('{folder}/nowhere', 'open-mmlab://tiny_net', 'neither a folder nor "none"'),
        ('', 'weights/absent.pth', 'there is no such file.*MMSEG_ACL_WEIGHTS=none'),
        ('', 'open-mmlab://no_such_model_in_the_zoo', 'cannot be downloaded.*MMSEG_ACL_WEIGHTS'),
    ],
)
def test_missing_weights_are_one_message_with_the_ways_out(monkeypatch, folder, setting, name, message):
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', setting.format(folder=folder))
    with pytest.raises(FileNotFoundError, match=f'(?s){message}'):
        resolve_weights(model_config(name))


def test_two_files_of_one_name_are_not_guessed_between(monkeypatch, folder):
    torch.save({}, folder / 'tiny_net_v2.pth')
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', str(folder))
    with pytest.raises(FileNotFoundError, match='2 files.*tiny_net-0badcafe.pth, tiny_net_v2.pth'):
        resolve_weights(model_config())


def test_weights_of_another_backbone_are_refused(tmp_path):
    config = Config.fromfile(CONFIGS / 'supervised.py').model
    model = MODELS.build(config)
    good = tmp_path / 'good.pth'
    torch.save({f'backbone.{k}': v for k, v in model.backbone.state_dict().items()}, good)
    check_weights_fit(model, str(good))
    torch.save({'conv.weight': torch.zeros(1)}, tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='does not fit UNet: .* would stay random'):
        check_weights_fit(model, str(tmp_path / 'bad.pth'))
