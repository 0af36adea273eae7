"""tools/export.py: graphs that predict as the model does, wherever they are run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from test_predict import masks_of, predict, write_run

from mmseg_acl.inference import Predictor
from mmseg_acl.inference.exporting import FramesToLogits, describe, export, failing_part, random_frames
from mmseg_acl.inference.predictor import Prediction
from mmseg_acl.inference.runs import RunFiles
from mmseg_acl.inference.trained import TrainedModel

pytest.importorskip('onnxruntime', reason='the extra [export] is not installed')
onnx = pytest.importorskip('onnx', reason='the extra [export] is not installed')
RESNET = dict(
    backbone=dict(_delete_=True, type='ResNetV1c', depth=18, base_channels=4, norm_eval=False),
    decode_head=dict(
        _delete_=True, type='FCNHead', in_channels=32, in_index=3, channels=8, num_convs=1, num_classes=2,
        norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss'),
    ),
    auxiliary_head=None,
)  # fmt: skip


@MODELS.register_module()
class NoisyHead(FCNHead):
    """Predicts something else each time."""

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        logits = super().forward(inputs)
        return logits + torch.rand_like(logits)


class Moody(torch.nn.Module):
    """Goes one way or the other, depending on what it sees."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images if images.mean() > 0 else -images]


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """Of a network that takes frames of any size."""
    return write_run(tmp_path_factory.mktemp('runs') / 'run', segmentor=RESNET)


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory) -> tuple[Path, list[str]]:
    """All formats of one run, and what was said of them."""
    said: list[str] = []
    out = tmp_path_factory.mktemp('exported')
    export([str(run)], ('mmseg', 'onnx', 'torchscript', 'safetensors'), out, threshold=0.4, say=said.append)
    return out, said


@pytest.fixture(scope='module')
def frames(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('frames')
    for number, frame in enumerate(random_frames()):
        cv2.imwrite(str(folder / f'{number}.png'), frame)
    return folder


@pytest.mark.slow
def test_all_formats_are_written_and_compared(exported):
    out, said = exported
    names = {path.name for path in out.iterdir()} - {'polyp_masks.py'}
    assert names == {f'teacher.{kind}' for kind in ('json', 'onnx', 'pth', 'py', 'safetensors', 'torchscript')}
    assert [line.split(':')[0] for line in said] == ['teacher.onnx', 'teacher.torchscript']
    for line in said:
        assert 'any batch, any size; 3 frames' in line and '0.0000 % of the pixels flip' in line
        assert float(re.search(r'at most (\S+),', line)[1]) < 1e-3


@pytest.mark.slow
def test_the_metadata_say_how_a_graph_is_used(run, exported):
    out, _ = exported
    model = onnx.load(out / 'teacher.onnx')
    about = {entry.key: entry.value for entry in model.metadata_props}
    normalisation = Config.fromfile(run / 'mean_teacher.py').model.segmentor.data_preprocessor
    assert json.loads(about['classes']) == ['background', 'polyp'] and about['threshold'] == '0.4'
    assert json.loads(about['normalisation'])['mean'] == normalisation.mean
    assert json.loads(about['normalisation'])['std'] == normalisation.std
    assert int(about['opset']) == next(each.version for each in model.opset_import if each.domain == '')
    assert 'no medical device' in about['licence']
    beside = json.loads((out / 'teacher.json').read_text())
    assert beside.pop('files')['teacher.onnx'] == dict(batch=None, size=None, opset=int(about['opset']))
    assert beside.items() <= json.loads(about['mmseg_acl']).items()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['teacher.onnx', 'teacher.torchscript'])
def test_predict_takes_an_exported_model_as_a_run(name, run, exported, frames, tmp_path):
    done = predict(exported[0] / name, frames, '--out', tmp_path / 'there', '--batch', 2)
    assert f'{name}, network teacher, classes background, polyp' in done.stdout
    predict(run, frames, '--out', tmp_path / 'here', '--threshold', 0.4)
    there, here = masks_of(tmp_path / 'there'), masks_of(tmp_path / 'here')
    assert there.keys() == here.keys() and len(here) == 3
    pixels = sum(mask.size for mask in here.values())
    assert sum((there[each] != here[each]).sum() for each in here) <= 1e-4 * pixels
    assert 0 < sum((mask > 0).sum() for mask in here.values()) < pixels
    other = predict(exported[0] / name, frames, '--out', tmp_path / 'here', check=False)
    assert other.returncode == 2 and 'predictions of another' in other.stderr


@pytest.mark.slow
def test_mirror_images_are_averaged_as_in_torch(run, exported):
    frame = random_frames()[1]
    first, second = (
        Predictor(model, device='cpu', flips=True)([frame])[0] for model in (run, exported[0] / 'teacher.onnx')
    )
    np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-3)


@pytest.mark.slow
def test_weights_without_pickle_are_a_checkpoint(run, exported):
    out, _ = exported
    pickled, plain = (
        Predictor((out / 'teacher.py', out / f'teacher.{kind}'), device='cpu') for kind in ('pth', 'safetensors')
    )
    frame = random_frames()[0]
    found = [model([frame])[0].probabilities for model in (pickled, plain, Predictor(run, device='cpu'))]
    assert np.array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)


SIGMOID = [dict(type='CrossEntropyLoss', use_sigmoid=True)]


@pytest.mark.slow
@pytest.mark.parametrize('head', [dict(classes=4), dict(out_channels=1, loss_decode=SIGMOID)])
def test_a_graph_that_keeps_its_size_is_found_by_running_it(head, tmp_path):
    run = write_run(tmp_path / 'run', **head)  # a U-Net, which computes sizes in Python
    said: list[str] = []
    export([str(run)], ('torchscript',), tmp_path, network='student', say=said.append)
    assert said[0].startswith('student.torchscript: any batch, 128 x 128 pixels; 3 frames')
    assert float(re.search(r'at most (\S+),', said[0])[1]) < 1e-3
    found = Predictor(tmp_path / 'student.torchscript')(random_frames())
    assert [each.labels.shape for each in found] == [frame.shape[:2] for frame in random_frames()]


@pytest.mark.slow
def test_teachers_that_speak_with_one_voice_are_one_network(tmp_path):
    run = write_run(tmp_path / 'run', method='psmt')
    said: list[str] = []
    export([str(run)], ('torchscript',), tmp_path, say=said.append)
    assert said[0].startswith('teacher.torchscript') and float(re.search(r'at most (\S+),', said[0])[1]) < 1e-3
    trained = TrainedModel(RunFiles(run / 'psmt.py', run / 'iter_8.pth'), device='cpu')
    frame = random_frames()[0]
    with torch.no_grad():
        output = trained.model.test_step(pseudo_collate([trained.prepare(frame)]))[0]
    expected = output.seg_logits.data.softmax(0).numpy()
    np.testing.assert_allclose(Predictor(trained)([frame])[0].probabilities, expected, atol=1e-5)


@pytest.fixture
def changed(run, tmp_path):
    """A function that writes a run with some changes of its config."""

    def change(**changes: object) -> list[str]:
        config = Config.fromfile(run / 'mean_teacher.py')
        config.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
        config.dump(tmp_path / 'config.py')
        shutil.copy(run / 'iter_8.pth', tmp_path)
        return [str(tmp_path / 'config.py'), str(tmp_path / 'iter_8.pth')]

    return change


READ, PACK = dict(type='LoadImageFromFile'), dict(type='PackSegInputs')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(model__segmentor__test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(32, 32))),
            "test_cfg.mode is 'slide'.*--cfg-options",
        ),
        (
            dict(test_dataloader__dataset__pipeline=[READ, dict(type='RandomFlip', prob=0.5), PACK]),
            'the test pipeline has RandomFlip, which is not exported',
        ),
        (
            dict(test_dataloader__dataset__pipeline=[READ, dict(type='Resize', scale_factor=0.5), PACK]),
            'one Resize with scale and keep_ratio can be exported',
        ),
        (
            dict(model__segmentor__data_preprocessor=dict(test_cfg=dict(size_divisor=32))),
            'data_preprocessor.test_cfg pads frames',
        ),
        (dict(model__segmentor__decode_head=dict(type='NoisyHead')), r'decode_head \(NoisyHead\) cannot be exported'),
    ],
)
def test_what_cannot_be_exported_is_named(changes, message, changed, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(changed(**changes), ('torchscript',), tmp_path)
    assert not list(tmp_path.glob('*.torchscript'))


@pytest.mark.slow
def test_the_part_that_torch_cannot_export_is_found(run):
    model = TrainedModel(RunFiles(run / 'mean_teacher.py', run / 'iter_8.pth'), device='cpu')
    network = FramesToLogits(model.segmentor, describe(model))
    example = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    assert failing_part(network, example) == 'the decode_head (FCNHead)'
    model.segmentor.backbone = Moody()
    assert failing_part(network, example) == 'the backbone (Moody)'


@pytest.mark.slow
def test_a_missing_library_is_named_with_its_mend(run, exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ImportError, match=r'needs the library onnxscript .*pip install "mmseg_acl\[export\]"'):
        export([str(run)], ('onnx',), tmp_path)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match=r'run by ONNX Runtime .*pip install "mmseg_acl\[export\]"'):
        Predictor(exported[0] / 'teacher.onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_files_of_others_and_damaged_ones_are_refused(exported, tmp_path):
    for name in ('teacher.onnx', 'teacher.torchscript', 'teacher.safetensors'):
        (tmp_path / name).write_bytes((exported[0] / name).read_bytes()[:1000])
    foreign = onnx.load(exported[0] / 'teacher.onnx')
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / 'foreign.onnx')
    for run, message in (
        ('teacher.onnx', 'cannot be read as ONNX'),
        ('teacher.torchscript', 'cannot be read as TorchScript'),
        ('foreign.onnx', 'was not written by tools/export.py'),
    ):
        with pytest.raises(ValueError, match=f'{run}.*{message}'):
            Predictor(tmp_path / run)
    with pytest.raises(ValueError, match='cannot be read as safetensors'):
        Predictor((exported[0] / 'teacher.py', tmp_path / 'teacher.safetensors'))
    with pytest.raises(ValueError, match="has no network 'student'; it has teacher"):
        Predictor(exported[0] / 'teacher.onnx', network='student')
    with pytest.raises(ValueError, match='is exported already'):
        export([str(exported[0] / 'teacher.onnx')], out=tmp_path)


def example_of(language: str) -> str:
    """The lines of docs/using.md that run a graph by ONNX Runtime."""
    text = (Path(__file__).parents[1] / 'docs' / 'using.md').read_text()
    (code,) = [found for found in re.findall(rf'```{language}\n(.*?)```', text, re.DOTALL) if 'onnxruntime' in found]
    return code


@pytest.fixture(scope='module')
def resized(tmp_path_factory) -> tuple[Path, Prediction]:
    """A folder with a graph and a frame, named as in the examples, and what the tool makes of the frame."""
    folder = tmp_path_factory.mktemp('example')
    run = write_run(folder / 'run')  # its pipeline has a Resize
    export([str(run)], ('onnx',), folder / 'exported', say=lambda line: None)
    frame = random_frames()[0]
    cv2.imwrite(str(folder / 'frame.png'), frame)
    return folder, Predictor(run, device='cpu')([frame])[0]


def check_example(folder: Path, found: Prediction) -> None:
    """The mask that an example wrote is that of the tool, wherever that is sure."""
    mask = cv2.imread(str(folder / 'mask.png'), cv2.IMREAD_UNCHANGED)
    sure = np.abs(found.probabilities[1] - 0.5) > 1e-3
    assert ((mask > 0) == found.labels)[sure].all() and sure.mean() > 0.9 and 0 < (mask > 0).mean() < 1


@pytest.mark.slow
def test_fifteen_lines_of_the_docs_give_the_mask_of_predict(resized, monkeypatch):
    code = example_of('python')
    assert len(code.strip().splitlines()) <= 15
    monkeypatch.chdir(resized[0])
    exec(compile(code, 'docs/using.md', 'exec'), {})
    check_example(*resized)


@pytest.mark.slow
def test_the_lines_in_cpp_give_the_mask_of_predict(resized, tmp_path):
    """Headers are looked for where the compiler does by itself: name a folder of them in CPLUS_INCLUDE_PATH."""
    compiler = shutil.which('c++') or shutil.which('g++')
    if not compiler:
        pytest.skip('there is no C++ compiler')
    # The wheel of ONNX Runtime has the library, but no headers.
    (library,) = Path(sys.modules['onnxruntime'].__file__).parent.glob('capi/libonnxruntime.so.*')
    (tmp_path / 'libonnxruntime.so.1').symlink_to(library)  # the name that it asks to be loaded by
    flags = ['-std=c++17', '-I/usr/include/opencv4', str(library), f'-Wl,-rpath,{tmp_path}']
    flags += [f'-lopencv_{part}' for part in ('core', 'imgcodecs', 'imgproc')]

    def build(code: str, program: Path) -> subprocess.CompletedProcess:
        program.with_suffix('.cpp').write_text(code)
        command = [compiler, str(program.with_suffix('.cpp')), '-o', str(program), *flags]
        return subprocess.run(command, capture_output=True, text=True)

    code = example_of('cpp')
    # What is missing skips the test; what is wrong in the lines does not.
    headers = [line for line in code.splitlines() if line.startswith('#include')]
    probe = build('\n'.join([*headers, 'int main() { cv::Mat image = cv::imread(""); }']), tmp_path / 'probe')
    if probe.returncode:
        missing = re.search(r'error: (.*)|cannot find (.*)', probe.stderr)
        pytest.skip(f'headers or libraries are missing: {missing[0] if missing else probe.stderr}')
    folder, found = resized
    width, height = json.loads((folder / 'exported' / 'teacher.json').read_text())['resize']['scale']
    assert '{128, 128}' in code
    done = build(code.replace('{128, 128}', f'{{{width}, {height}}}'), tmp_path / 'example')
    assert done.returncode == 0, done.stderr
    (folder / 'mask.png').unlink(missing_ok=True)
    subprocess.run([str(tmp_path / 'example')], cwd=folder, check=True)
    check_example(folder, found)
