"""The command line of tools/test.py, with bad input too."""

import csv
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_acl.datasets.partitions import read_list
from mmseg_acl.datasets.synthetic import write_synthetic
from mmseg_acl.evaluation import cross_dataset

ROOT = Path(__file__).parents[1]
CONFIG = """
default_scope = 'mmseg'
custom_imports = dict(imports=['mmseg_acl'], allow_failed_imports=False)
preprocessor = dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[64.0] * 3, bgr_to_rgb=True)
segmentor = dict(
    type='EncoderDecoder',
    data_preprocessor=preprocessor,
    backbone=dict(type='UNet', base_channels=2, num_stages=2, strides=(1, 1), downsamples=(True,),
                  enc_num_convs=(1, 1), dec_num_convs=(1,), enc_dilations=(1, 1),
                  dec_dilations=(1,)),
    decode_head=dict(type='FCNHead', in_channels=2, in_index=1, channels=2, num_convs=1,
                     num_classes=2),
    test_cfg=dict(mode='whole'),
)
model = {model}
test_dataloader = dict(
    num_workers=0,
    dataset=dict(
        type='PolypDataset',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(16, 16), keep_ratio=False),
            dict(type='LoadPolypMask'),
            dict(type='PackSegInputs'),
        ],
    ),
)
"""
MODEL_OF = dict(plain='segmentor', semi="dict(type='MeanTeacher', segmentor=segmentor)")


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    """Tiny frames under the names of CVC-300, and synthetic ones."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for kind, channels in (('images', (3,)), ('masks', ())):
        (root / 'CVC-300' / kind).mkdir(parents=True)
        for name in read_list('cvc300/test'):
            array = rng.integers(0, 256, (20, 24, *channels))
            array = array if channels else 255 * (array > 128)
            cv2.imwrite(str(root / 'CVC-300' / kind / f'{name}.png'), array.astype(np.uint8))
    write_synthetic(root, labelled=1, unlabelled=1, test=3, size=(32, 40))
    return root


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """(config, checkpoint, networks) of tiny random models; a teacher and its student differ."""
    init_default_scope('mmseg')
    torch.manual_seed(0)
    found = {}
    for name, model_config in MODEL_OF.items():
        folder = tmp_path_factory.mktemp(name)
        config, checkpoint = folder / 'config.py', folder / 'run' / 'last.pth'
        config.write_text(CONFIG.replace('{model}', model_config))
        checkpoint.parent.mkdir()
        model = MODELS.build(Config.fromfile(config).model)
        torch.save(dict(state_dict=model.state_dict()), checkpoint)
        found[name] = config, checkpoint, getattr(model, 'networks', ('student',))
    return found


@pytest.fixture(params=list(MODEL_OF))
def trained(request, models):
    """Each of the models in turn."""
    return models[request.param]


@pytest.fixture
def run_tool(monkeypatch, capsys, data_root):
    """Run tools/test.py with these arguments; gives exit status, stdout and stderr."""
    monkeypatch.setenv('MMSEG_ACL_DATA', str(data_root))

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['tools/test.py', *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(ROOT / 'tools' / 'test.py'), run_name='__main__')
        except SystemExit as end:
            status = end.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.mark.slow
def test_results_and_per_image_scores_of_all_present_sets(run_tool, trained, tmp_path):
    config, checkpoint, networks = trained
    protocols = ['image', 'dataset']
    status, out, _ = run_tool(config, checkpoint, '--protocol', *protocols, '--out', tmp_path / 'out')
    assert status == 0
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    with (tmp_path / 'out' / 'per_image.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['set', 'network', 'image', 'dice', 'iou']
    assert list(results) == ['cvc300', 'synthetic']
    for name, images in (('cvc300', 60), ('synthetic', 3)):
        assert list(results[name]) == list(networks)
        for network in networks:
            scores = results[name][network]
            assert list(scores) == protocols
            mine = [row for row in rows if (row['set'], row['network']) == (name, network)]
            assert len({row['image'] for row in mine}) == images
            for metric, column in (('mDice', 'dice'), ('mIoU', 'iou')):
                mean = np.mean([float(row[column]) for row in mine])
                assert scores['image'][metric] == pytest.approx(mean, abs=1e-9)
            assert f'{scores["dataset"]["Dice"]:.2f}' in out
    assert 'protocol image' in out and 'protocol dataset' in out


@pytest.mark.slow
def test_networks_are_scored_each_by_itself(run_tool, models, tmp_path):
    config, checkpoint, _ = models['semi']
    named = ('--datasets', 'cvc300', '--out')
    assert run_tool(config, checkpoint, *named, tmp_path / 'both')[0] == 0
    status, *_ = run_tool(config, checkpoint, '--network', 'teacher', *named, tmp_path / 'one')
    assert status == 0
    both, one = (json.loads((tmp_path / folder / 'results.json').read_text())['cvc300'] for folder in ('both', 'one'))
    assert list(one) == ['teacher']
    assert one['teacher'] == both['teacher'] != both['student']


@pytest.mark.slow
def test_equal_rows_of_a_teacher_that_never_began_are_explained(run_tool, models, tmp_path):
    config, checkpoint, _ = models['semi']
    state = torch.load(checkpoint)['state_dict']
    equal = {key: state[key.replace('teacher.', 'student.', 1)] for key in state}
    torch.save(dict(state_dict=equal), tmp_path / 'equal.pth')
    named = ('--datasets', 'synthetic', '--out', tmp_path / 'out')
    status, out, _ = run_tool(config, tmp_path / 'equal.pth', *named)
    assert status == 0 and 'student and teacher have equal weights, so their rows are equal' in out
    assert 'equal weights' not in run_tool(config, checkpoint, *named)[1]


def test_results_lie_beside_the_checkpoint_by_default(run_tool, models):
    config, checkpoint, _ = models['semi']
    assert run_tool(config, checkpoint, '--datasets', 'synthetic')[0] == 0
    assert (checkpoint.parent / 'test' / 'results.json').is_file()


def test_a_missing_set_is_an_error_before_the_model_is_touched(run_tool, models, monkeypatch):
    def refuse(*_):
        raise AssertionError('the model was loaded')

    monkeypatch.setattr(cross_dataset, 'load_model_weights', refuse)
    status, _, err = run_tool(*models['semi'][:2], '--datasets', 'cvc300', 'etis')
    assert status == 2
    assert 'ETIS-LaribPolypDB' in err and 'MMSEG_ACL_DATA' in err and 'cvc300' in err


def test_an_unknown_set_protocol_or_network_lists_what_there_is(run_tool, models):
    for option, allowed in (
        ('--datasets', 'clinicdb'),
        ('--protocol', 'pranet'),
        ('--network', 'teacher'),
    ):
        status, _, err = run_tool(*models['semi'][:2], option, 'nonsense')
        assert status == 2
        assert 'nonsense' in err and allowed in err


def test_a_network_that_the_model_lacks_is_an_error(run_tool, models):
    status, _, err = run_tool(*models['plain'][:2], '--network', 'teacher')
    assert status == 2
    assert "EncoderDecoder has no network 'teacher', it has student" in err


def test_no_set_at_all_is_an_error(run_tool, models, monkeypatch, tmp_path):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(tmp_path))
    status, _, err = run_tool(*models['semi'][:2])
    assert status == 2
    assert str(tmp_path) in err and 'Kvasir-SEG' in err


@pytest.mark.slow
def test_missing_or_foreign_files_are_named(run_tool, models, tmp_path):
    config, checkpoint, _ = models['semi']
    status, _, err = run_tool(config, tmp_path / 'none.pth')
    assert status == 2 and 'none.pth' in err
    status, _, err = run_tool(tmp_path / 'none.py', checkpoint)
    assert status == 2 and 'none.py' in err
    (tmp_path / 'text.pth').write_text('no checkpoint')
    status, _, err = run_tool(config, tmp_path / 'text.pth')
    assert status == 2 and 'text.pth' in err
    torch.save(dict(state_dict={'backbone.weight': torch.zeros(1)}), tmp_path / 'other.pth')
    status, _, err = run_tool(config, tmp_path / 'other.pth')
    assert status == 2 and 'other.pth' in err


def test_help_names_every_option_and_set(run_tool):
    status, out, _ = run_tool('--help')
    assert status == 0
    for word in ('--datasets', '--protocol', '--network', '--out', '--save-maps', '--cfg-options', 'etis'):
        assert word in out
