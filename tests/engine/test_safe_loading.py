"""A checkpoint executes nothing, whichever way it is read."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint_with_prefix
from mmseg.registry import MODELS

from mmseg_acl.engine import build_runner, load_config, resolve_weights
from mmseg_acl.engine.safe_loading import load_from_anywhere
from mmseg_acl.evaluation.cross_dataset import load_model
from mmseg_acl.evaluation.label_quality import measure_label_quality

CONFIGS = Path(__file__).parents[1] / 'configs'
REFUSED = 'cannot be read as a checkpoint'


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, 'executed')


@pytest.fixture(params=['zip', 'pickle'])
def bomb(request, tmp_path, monkeypatch, synthetic_root) -> Path:
    """A checkpoint of this project's form that would write a file; the test fails if it does."""
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    target, path = tmp_path / 'proof', tmp_path / 'run' / 'iter_4.pth'
    path.parent.mkdir()
    content = dict(state_dict={}, meta=dict(iter=4, epoch=0, seed=0), optimizer={}, message_hub=Bomb(target))
    if request.param == 'zip':
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    (path.parent / 'last_checkpoint').write_text(str(path))
    yield path
    assert not target.exists(), 'executed'


def config(bomb: Path, resume: bool = False, **changes):
    work_dir = bomb.parent if resume else bomb.parent.parent / 'other'
    return load_config(str(CONFIGS / 'mean_teacher.py'), work_dir=str(work_dir), options=changes, resume=resume)


def test_the_bomb_would_go_off(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / 'proof')))
    assert (tmp_path / 'proof').read_text() == 'executed'


def test_every_loader_of_mmengine_is_replaced():
    assert set(CheckpointLoader._schemes.values()) == {load_from_anywhere}
    with pytest.raises(ValueError, match='s3://a/b.pth are not read: download the file'):
        load_from_anywhere('s3://a/b.pth')


def test_resume(bomb):
    with pytest.raises(ValueError, match=REFUSED):
        build_runner(config(bomb, resume=True))


def test_load_from(bomb):
    with pytest.raises(ValueError, match=REFUSED):
        build_runner(config(bomb, load_from=str(bomb)))


@pytest.mark.slow
def test_the_stacks_own_ways(bomb):
    runner = build_runner(config(bomb))
    for read in (
        runner.resume,
        runner.load_checkpoint,
        lambda name: load_checkpoint(runner.model, name),
        lambda name: _load_checkpoint_with_prefix('backbone.', name),
    ):
        with pytest.raises(ValueError, match=REFUSED):
            read(str(bomb))


def test_pretrained_weights(bomb, monkeypatch):
    model = dict(config(bomb).model.segmentor)
    model['init_cfg'] = dict(type='Pretrained', checkpoint=str(bomb))
    with pytest.raises(ValueError, match=REFUSED):
        MODELS.build(model).init_weights()
    # mmengine loads weights of a teacher, a neck or a head likewise; the backbone's are looked at before.
    backbone = dict(type='UNet', init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://iter_4'))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', str(bomb.parent))
    with pytest.raises(ValueError, match=REFUSED):
        resolve_weights(ConfigDict(type='EncoderDecoder', backbone=backbone))


def test_downloads(bomb, monkeypatch):
    cache = bomb.parent / 'hub' / 'checkpoints'
    cache.mkdir(parents=True)
    (cache / 'bomb.pth').write_bytes(bomb.read_bytes())
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(cache.parent))
    with pytest.raises(ValueError, match=REFUSED):
        load_checkpoint(torch.nn.Identity(), 'https://example.invalid/a/bomb.pth?download=1')


@pytest.mark.slow
def test_tools(bomb):
    with pytest.raises(ValueError, match=REFUSED):
        load_model(config(bomb), str(bomb))
    with pytest.raises(ValueError, match=REFUSED):
        measure_label_quality(config(bomb), str(bomb), 'kvasir/dev', str(bomb.parent))


def test_a_program_in_a_text_is_not_executed(tmp_path):
    """mmengine's ``resume`` executes ``meta.config``."""
    code = f"from pathlib import Path\nPath({str(tmp_path / 'proof')!r}).write_text('executed')\n"
    torch.save(dict(state_dict={}, meta=dict(config=code, iter=1)), tmp_path / 'a.pth')
    assert CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))['meta'] == dict(iter=1)


def test_a_classifier_of_the_zoo_gives_its_backbone(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    state = {'backbone.a': torch.ones(2), 'head.b': torch.ones(1)}
    torch.save(dict(state_dict=state), tmp_path / 'checkpoints' / 'net-0badcafe.pth')
    monkeypatch.setattr(
        'mmseg_acl.engine.safe_loading.stack.get_mmcls_models', lambda: {'net': 'https://x.invalid/net-0badcafe.pth'}
    )
    assert list(load_from_anywhere('mmcls://net')['state_dict']) == ['a']
    with pytest.raises(KeyError):
        load_from_anywhere('mmcls://absent')
