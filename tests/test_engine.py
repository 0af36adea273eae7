"""Weights, checkpoints, launch and hooks."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmseg.registry import MODELS

from mmseg_acl.engine import load_config, load_model_weights, read_checkpoint, resolve_weights, user_errors
from mmseg_acl.engine.start.weights import check_weights_fit

CONFIGS = Path(__file__).parent / 'configs'
MOBILENET = dict(type='MobileNetV2', widen_factor=0.25, out_indices=(6,))


def model_config(checkpoint: str = 'open-mmlab://tiny_net', method: bool = True) -> ConfigDict:
    init = dict(type='Pretrained', checkpoint=checkpoint)
    plain = dict(type='EncoderDecoder', backbone=dict(MOBILENET, init_cfg=init), decode_head=dict(type='FCNHead'))
    return ConfigDict(dict(type='ACLNet', segmentor=plain) if method else plain)


@pytest.fixture
def folder(tmp_path):
    torch.save({'conv.weight': torch.zeros(1)}, tmp_path / 'tiny_net-0badcafe.pth')
    return tmp_path


# ------------------------------------------------------------------ pre-trained weights


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


# ------------------------------------------------------------------ checkpoints


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, 'executed')


def test_a_crafted_pickle_does_not_execute(tmp_path):
    target = tmp_path / 'proof'
    torch.save({'state_dict': {}, 'extra': Bomb(target)}, tmp_path / 'bomb.pth')
    with pytest.raises(ValueError, match='bomb.pth cannot be read as a checkpoint'):
        read_checkpoint(tmp_path / 'bomb.pth')
    assert not target.exists()
    with open(tmp_path / 'bomb.pth', 'wb') as file:
        pickle.dump({'state_dict': Bomb(target)}, file)
    with pytest.raises(ValueError):
        read_checkpoint(tmp_path / 'bomb.pth')
    assert not target.exists()


def test_what_mmengine_stores_can_be_read(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save({'state_dict': {}, 'message_hub': {'log_scalars': {'train/loss': buffer}}}, tmp_path / 'a.pth')
    found = read_checkpoint(tmp_path / 'a.pth')['message_hub']['log_scalars']['train/loss']
    assert found.data[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize('content', [b'', b'no checkpoint', None])
def test_broken_checkpoints_are_named(tmp_path, content):
    path = tmp_path / 'broken.pth'
    if content is None:
        torch.save({'state_dict': {'a': torch.zeros(1000)}}, path)
        path.write_bytes(path.read_bytes()[:-500])
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match='broken.pth cannot be read'):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        read_checkpoint(tmp_path / 'absent.pth')


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    mean_teacher = MODELS.build(Config.fromfile(CONFIGS / 'mean_teacher.py').model)
    acl = MODELS.build(Config.fromfile(CONFIGS / 'aclnet.py').model)
    torch.save({'state_dict': mean_teacher.state_dict()}, tmp_path / 'mt.pth')
    with pytest.raises(
        ValueError, match=r"not made by this model \(ACLNet.* missing, such as 'acl_head.bank.cursor'"
    ):
        load_model_weights(acl, tmp_path / 'mt.pth')
    torch.save({'state_dict': mean_teacher.student.state_dict()}, tmp_path / 'plain.pth')
    load_model_weights(acl, tmp_path / 'plain.pth')
    for key, value in mean_teacher.student.state_dict().items():
        assert torch.equal(acl.teacher.state_dict()[key], value)


# ------------------------------------------------------------------ launch


def test_the_command_line_lies_over_the_config(tmp_path):
    config = load_config(
        str(CONFIGS / 'aclnet.py'), work_dir=str(tmp_path), options={'train_cfg.max_iters': 3}, seed=7, amp=True
    )
    assert (config.train_cfg.max_iters, config.randomness.seed, config.work_dir) == (3, 7, str(tmp_path))
    assert config.optim_wrapper.type in ('AmpOptimWrapper', 'BFloat16OptimWrapper')
    default = load_config('configs/aclnet/mbv2_kvasir_eighth.py') if Path('configs').is_dir() else None
    if default is not None:
        assert Path(default.work_dir) == Path('work_dirs/aclnet/mbv2_kvasir_eighth')
    with pytest.raises(FileNotFoundError, match='no config at absent.py'):
        load_config('absent.py')


def test_user_errors_are_one_message(capsys, monkeypatch):
    monkeypatch.delenv('MMSEG_ACL_DEBUG', raising=False)
    with pytest.raises(SystemExit) as stop, user_errors():
        raise FileNotFoundError('no such thing: make it')
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[0] == 'error: no such thing: make it'
    with pytest.raises(ZeroDivisionError), user_errors():
        _ = 1 / 0
