"""tools/export_student.py: what it writes runs in mmseg without this package, with equal outputs."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.registry import MODELS, TRANSFORMS
from steps import CONFIGS

from mmseg_acl.colours import palette
from mmseg_acl.datasets import LoadPolypMask
from mmseg_acl.engine.export import dataset_meta, export_student, plain_config

TOOL = Path(__file__).parents[2] / 'tools' / 'export_student.py'
# Nothing of this package can be imported here.
PLAIN_MMSEG = """
import json, sys
sys.modules['mmseg_acl'] = None
import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.apis import MMSegInferencer, inference_model, init_model
config, weights, image, data, out, *codings = sys.argv[1:]
model = init_model(config, weights, device='cpu')
result = inference_model(model, image)
found = MMSegInferencer(model=config, weights=weights, device='cpu')(image, show=False)
scores = {}
for coding in codings:
    cfg = Config.fromfile(config)
    folders = dict(img_path='images', seg_map_path=coding)
    changes = dict(data_root=data, img_suffix='.png', data_prefix=folders, seg_map_suffix='.' + coding.split('_')[1])
    cfg.merge_from_dict({'work_dir': out, 'load_from': weights, 'experiment_name': coding,
                         'test_dataloader': dict(dataset=changes)})
    scores[coding] = {key: float(value) for key, value in Runner.from_cfg(cfg).test().items()}
np.savez(out + '/outputs.npz', logits=result.seg_logits.data.numpy(), api=result.pred_sem_seg.data.numpy()[0],
         inferencer=found['predictions'])
json.dump(dict(scores=scores, meta=model.dataset_meta), open(out + '/found.json', 'w'))
"""


def trained(tmp_path: Path, name: str = 'aclnet', **changes) -> tuple[Config, Path]:
    """A config and a checkpoint whose networks all differ."""
    config = Config.fromfile(CONFIGS / f'{name}.py')
    config.merge_from_dict(changes)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'last.pth')
    return config, tmp_path / 'last.pth'


CODINGS = {'binary_png': 255, 'binary_jpg': 255, 'numbers_png': 1}


def write_frames(folder: Path, count: int = 3) -> Path:
    """Images, and the same masks in several codings."""
    rng = np.random.default_rng(0)
    for kind in ('images', *CODINGS):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(folder / 'images' / f'{i}.png'), rng.integers(0, 256, (40, 56, 3), np.uint8))
        mask = np.kron(rng.integers(0, 2, (5, 7), np.uint8), np.ones((8, 8), np.uint8))  # JPEG blurs within blocks
        for coding, foreground in CODINGS.items():
            cv2.imwrite(str(folder / coding / f'{i}.{coding.split("_")[1]}'), foreground * mask)
    return folder


def reference_scores(config: Config, checkpoint: Path, network: str, data: Path) -> dict[str, float]:
    """mIoU and mDice as IoUMetric defines them, from the masks of class numbers."""
    overlap, union, total = np.zeros((3, 2))
    for path in sorted((data / 'images').iterdir()):
        found = predict(config, checkpoint, network, path).pred_sem_seg.data.numpy()[0]
        mask = cv2.imread(str(data / 'numbers_png' / path.name), cv2.IMREAD_UNCHANGED)
        for label in (0, 1):
            ours, theirs = found == label, mask == label
            overlap[label] += (ours & theirs).sum()
            union[label] += (ours | theirs).sum()
            total[label] += ours.sum() + theirs.sum()
    return dict(mIoU=100 * (overlap / union).mean(), mDice=100 * (2 * overlap / total).mean())


def run_tool(monkeypatch: pytest.MonkeyPatch, *arguments) -> None:
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')


def predict(config: Config, checkpoint: Path, network: str, image: Path):
    """What the model predicts through its own test pipeline."""
    model = MODELS.build(config.model)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'])
    model.predict_on = network
    steps = [s for s in config.test_dataloader.dataset.pipeline if s.type != 'LoadPolypMask']
    data = Compose(steps)(dict(img_path=str(image)))
    with torch.no_grad():
        return model.eval().test_step(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))[0]


@pytest.mark.slow
@pytest.mark.parametrize('network', ['student', 'teacher'])
def test_plain_mmseg_gives_the_same_output(tmp_path, monkeypatch, capsys, network):
    config, checkpoint = trained(tmp_path)
    data = write_frames(tmp_path / 'data')
    image = data / 'images' / '0.png'
    source = tmp_path / 'config.py'
    config.dump(source)
    run_tool(monkeypatch, source, checkpoint, '--network', network)
    printed = capsys.readouterr().out
    written = [tmp_path / 'export' / f'{network}.{suffix}' for suffix in ('py', 'pth')]
    assert all(f'written: {path}' in printed for path in written)
    assert 'PolypDiceLoss' not in written[0].read_text()

    arguments = [*map(str, written), str(image), str(data), str(tmp_path), *CODINGS]
    # With another number of threads torch takes other kernels, which round otherwise.
    threads = dict(os.environ, OMP_NUM_THREADS=str(torch.get_num_threads()))
    command = [sys.executable, '-c', PLAIN_MMSEG, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=threads)
    assert done.returncode == 0, done.stderr[-3000:]
    found, outputs = json.loads((tmp_path / 'found.json').read_text()), np.load(tmp_path / 'outputs.npz')
    expected = predict(config, checkpoint, network, image)
    np.testing.assert_array_equal(outputs['logits'], expected.seg_logits.data.numpy())
    labels = expected.pred_sem_seg.data.numpy()[0]
    np.testing.assert_array_equal(outputs['api'], labels)
    np.testing.assert_array_equal(outputs['inferencer'], labels)
    assert 0 < labels.mean() < 1 and labels.shape == (40, 56)
    assert found['meta']['classes'] == ['background', 'polyp']
    # Masks of 0 and 255 once scored 100, whatever was predicted.
    reference = reference_scores(config, checkpoint, network, data)
    for coding in CODINGS:
        assert set(found['scores'][coding]) == {'aAcc', 'mIoU', 'mAcc', 'mDice'}
        for key, value in reference.items():
            assert found['scores'][coding][key] == pytest.approx(value, abs=0.01) and value < 90


@pytest.mark.slow
def test_a_copy_of_the_mask_loader_leaves_the_packages_own_in_place(tmp_path):
    config, checkpoint = trained(tmp_path, 'mean_teacher')
    export_student(config, checkpoint, tmp_path / 'out', 'teacher')
    runpy.run_path(str(tmp_path / 'out' / 'polyp_masks.py'), run_name='polyp_masks')
    assert TRANSFORMS.get('LoadPolypMask') is LoadPolypMask


@pytest.mark.slow
def test_what_is_written_names_nothing_of_this_package(tmp_path):
    config, checkpoint = trained(tmp_path, 'mean_teacher')
    path, weights = export_student(config, checkpoint, tmp_path / 'out', 'teacher')
    plain = Config.fromfile(path)
    assert plain.model.type == 'EncoderDecoder'
    assert plain.model.decode_head.loss_decode == [dict(type='CrossEntropyLoss')]
    assert [step.type for step in plain.test_pipeline] == [
        'LoadImageFromFile',
        'Resize',
        'LoadPolypMask',
        'PackSegInputs',
    ]
    assert 'mmseg_acl' not in re.sub('(?m)^#.*', '', path.read_text())
    assert not re.search('import.*mmseg_acl', (tmp_path / 'out' / 'polyp_masks.py').read_text())
    assert plain.test_dataloader.dataset.type == 'BaseSegDataset' and plain.test_evaluator.type == 'IoUMetric'
    stored = torch.load(weights, weights_only=True)
    expected = torch.load(checkpoint, weights_only=True)['state_dict']
    assert all(torch.equal(value, expected[f'teacher.{key}']) for key, value in stored['state_dict'].items())
    assert stored['meta']['dataset_meta']['palette'] == palette(2)


def test_a_supervised_model_is_exported_too(tmp_path):
    config, checkpoint = trained(tmp_path, 'supervised')
    path, _ = export_student(config, checkpoint, tmp_path / 'out')
    assert Config.fromfile(path).model.decode_head.loss_decode == [dict(type='CrossEntropyLoss')]


def test_losses_of_this_package_alone_leave_mmsegs_default(tmp_path):
    config, _ = trained(tmp_path)
    head = config.model.segmentor.decode_head
    head.loss_decode = dict(type='PolypDiceLoss')
    head.out_channels = 1
    assert plain_config(config).model.decode_head.loss_decode == dict(type='CrossEntropyLoss', use_sigmoid=True)


def test_pretrained_weights_and_own_imports(tmp_path):
    config, _ = trained(tmp_path)
    config.model.segmentor.pretrained = 'open-mmlab://resnet50'
    config.model.segmentor.backbone.init_cfg = dict(type='Pretrained', checkpoint='somewhere.pth')
    config.custom_imports = dict(imports=['mmseg_acl', 'mmpretrain.models'], allow_failed_imports=False)
    plain = plain_config(config)
    assert 'somewhere' not in plain.pretty_text and 'open-mmlab' not in plain.pretty_text
    assert plain.custom_imports.imports == ['mmpretrain.models', 'polyp_masks']


def test_a_test_set_of_mmsegs_stays_as_it_is(tmp_path):
    config, _ = trained(tmp_path)
    config.test_dataloader.dataset = dict(
        type='BaseSegDataset',
        metainfo=dict(classes=('a', 'b')),
        data_prefix=dict(img_path='there'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    )
    config.test_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU'])]
    plain = plain_config(config)
    assert 'custom_imports' not in plain
    assert plain.test_dataloader.dataset == config.test_dataloader.dataset
    assert plain.test_evaluator == config.test_evaluator
    meta = dataset_meta(config.test_dataloader.dataset)
    assert meta['classes'] == ['a', 'b'] and np.shape(meta['palette']) == (2, 3)


@pytest.mark.parametrize(
    ('change', 'network', 'message'),
    [
        ({}, 'ensemble', "ACLNet has no network 'ensemble'; it has student, teacher"),
        ({'model.segmentor.decode_head.act_cfg': dict(type='AffinityHead')}, 'student', 'act_cfg is AffinityHead of'),
        ({'model.segmentor.decode_head.channels': 4}, 'student', 'was not made by this model'),
    ],
)
def test_what_cannot_be_exported_is_named(tmp_path, change, network, message):
    config, checkpoint = trained(tmp_path)
    config.merge_from_dict(change)
    with pytest.raises(ValueError, match=message):
        export_student(config, checkpoint, tmp_path / 'out', network)
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_a_missing_checkpoint_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    source = tmp_path / 'config.py'
    Config.fromfile(CONFIGS / 'aclnet.py').dump(source)
    with pytest.raises(SystemExit) as end:
        run_tool(monkeypatch, source, 'none.pth')
    assert end.value.code == 2 and 'no checkpoint at none.pth' in capsys.readouterr().err
