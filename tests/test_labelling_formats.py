"""Proposals for labelling tools and the way back: COCO, CVAT, Label Studio, PNG."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
import zipfile
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from test_predict import masks_of, write_run
from tool_process import run_tool

from mmseg_acl.datasets.polyp import PolypDataset
from mmseg_acl.datasets.polyp_masks import read_polyp_mask
from mmseg_acl.labelling.formats import coco, cvat, labelstudio
from mmseg_acl.labelling.formats.common import Labelled, fill_polygon, regions
from mmseg_acl.labelling.importing import import_labels

CLASSES = ('background', 'polyp')
# Frames without a polyp, with two, with a hole, and of one name in two folders, one of them with a space.
CASES = ('none', 'two', 'case 1/f1', 'case_2/f1')


def labels_of(name: str) -> np.ndarray:
    labels = np.zeros((48, 70), np.uint8)
    if name == 'two':
        labels[5:15, 10:30] = labels[30:44, 50:70] = 1
    elif name == 'case 1/f1':
        cv2.circle(labels, (30, 20), 15, 1, -1)
        labels[17:22, 28:34] = 0
    elif name == 'case_2/f1':
        labels[0, 0] = labels[47, 20:60] = 1
    return labels


@pytest.fixture
def frames(tmp_path) -> Path:
    """The frames of the cases."""
    folder = tmp_path / 'frames'
    for number, name in enumerate(CASES):
        image = np.random.default_rng(number).integers(0, 255, (48, 70, 3), np.uint8)
        path = folder / f'{name}.{"jpg" if number else "png"}'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    return folder


def cases() -> list[Labelled]:
    return [
        Labelled(PurePosixPath(f'{name}.{"jpg" if number else "png"}'), lambda name=name: labels_of(name))
        for number, name in enumerate(CASES)
    ]


def write(kind: str, folder: Path) -> Path:
    """An export of the cases."""
    path = folder / {'coco': 'coco.json', 'cvat': 'cvat.zip', 'labelstudio': 'tasks.json', 'png': 'masks'}[kind]
    if kind == 'coco':
        coco.write_coco(cases(), CLASSES, path)
    elif kind == 'cvat':
        cvat.write_cvat(cases(), CLASSES, path)
    elif kind == 'labelstudio':
        labelstudio.write_labelstudio(cases(), CLASSES, path, labelstudio.LOCAL_FILES, 'model')
        annotate(path)
    else:
        for name in CASES:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path / f'{name}.png'), 255 * labels_of(name))
    return path


def annotate(path: Path) -> None:
    """Make an export of tasks, as if a person had submitted the predictions."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task['annotations'] = [dict(result=each['result'], was_cancelled=False) for each in task['predictions']]
    path.write_text(json.dumps(tasks))


def imported(out: Path) -> dict[str, np.ndarray]:
    dataset = PolypDataset(str(out / 'labelled.txt'), folder='', data_root=str(out))
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return {info['name']: read_polyp_mask(info['seg_map_path']) for info in infos}


# ------------------------------------------------------------------ there and back


@pytest.mark.parametrize('kind', ['coco', 'cvat', 'labelstudio', 'png'])
def test_an_export_becomes_a_labelled_folder(kind, frames, tmp_path):
    out = tmp_path / 'labelled'
    done = import_labels(write(kind, tmp_path), frames, out)
    found = imported(out)
    assert sorted(found) == sorted(CASES) == sorted(done.entries) and done.states == dict(drawn=4)
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, labels_of(name))
    # The frames are the very files.
    for file in frames.rglob('*.*'):
        parent = out / file.relative_to(frames).parent / 'images'
        assert (parent / file.name).read_bytes() == file.read_bytes()


def test_pycocotools_reads_what_is_written(tmp_path, capsys):
    found = COCO(str(write('coco', tmp_path)))
    assert [category['name'] for category in found.loadCats(found.getCatIds())] == ['polyp']
    images = {image['file_name']: image for image in found.loadImgs(found.getImgIds())}
    assert list(images) == ['none.png', 'two.jpg', 'case 1/f1.jpg', 'case_2/f1.jpg']
    for name, image in zip(CASES, images.values(), strict=True):
        assert (image['height'], image['width']) == (48, 70)
        annotations = found.loadAnns(found.getAnnIds(image['id']))
        masks = [found.annToMask(each) for each in annotations]
        assert len(masks) == dict(none=0, two=2).get(name, 1 + (name == 'case_2/f1'))
        np.testing.assert_array_equal(sum(masks, np.zeros((48, 70))), labels_of(name))
        for each, mask in zip(annotations, masks, strict=True):
            assert each['area'] == mask.sum() and each['iscrowd'] == 0
            code = coco_mask.encode(np.asfortranarray(mask))
            assert each['bbox'] == coco_mask.toBbox(code).tolist()


def test_compressed_run_lengths_and_polygons_are_those_of_pycocotools():
    random = np.random.default_rng(0)
    for number in range(30):
        mask = cv2.GaussianBlur(random.random((61, 83)), (0, 0), 1 + number / 4) > 0.5
        code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        np.testing.assert_array_equal(coco.decode(code['counts'].decode(), (61, 83)), mask)
        np.testing.assert_array_equal(coco.decode(coco.encode(mask), (61, 83)), mask)
        angles = np.sort(random.uniform(0, 2 * np.pi, 12))
        radii = random.uniform(10, 40, 12)  # some of them beyond the frame
        points = np.stack([40 + radii * np.cos(angles), 30 + radii * np.sin(angles)], 1).ravel().tolist()
        reference = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([points], 61, 83)))
        found = np.zeros((61, 83), np.uint8)
        fill_polygon(found, points)
        assert (found & reference).sum() / (found | reference).sum() > 0.95
    square = np.zeros((9, 9), np.uint8)
    fill_polygon(square, [2, 3, 5, 3, 5, 6, 2, 6])
    assert square.sum() == 9 and square[3:6, 2:5].all()


def test_coco_of_polygons_and_compressed_run_lengths_is_imported(frames, tmp_path):
    path = write('coco', tmp_path)
    content = json.loads(path.read_text())
    by_name = {image['file_name']: image['id'] for image in content['images']}
    for annotation in content['annotations']:
        if annotation['image_id'] == by_name['case 1/f1.jpg']:
            mask = coco_mask.encode(np.asfortranarray(labels_of('case 1/f1')))
            annotation['segmentation'] = dict(size=mask['size'], counts=mask['counts'].decode())
    content['annotations'] = [each for each in content['annotations'] if each['image_id'] != by_name['two.jpg']]
    polygons = [[10, 5, 30, 5, 30, 15, 10, 15], [50, 30, 70, 30, 70, 44, 50, 44]]
    extra = dict(id=99, image_id=by_name['two.jpg'], category_id=1, segmentation=polygons)
    content['annotations'].append(extra)
    path.write_text(json.dumps(content))
    import_labels(path, frames, tmp_path / 'out')
    for name, mask in imported(tmp_path / 'out').items():
        np.testing.assert_array_equal(mask, labels_of(name))


def test_the_zip_is_as_cvat_has_it(tmp_path):
    with zipfile.ZipFile(write('cvat', tmp_path)) as archive:
        names = archive.namelist()
        assert archive.read('labelmap.txt').decode().splitlines()[1:] == ['background:0,0,0::', 'polyp:128,0,0::']
        listed = archive.read('ImageSets/Segmentation/default.txt').decode().splitlines()
        assert listed == ['none', 'two', 'case 1/f1', 'case_2/f1']
        for name in CASES:
            assert {f'SegmentationClass/{name}.png', f'SegmentationObject/{name}.png'} <= set(names)
        data = np.frombuffer(archive.read('SegmentationObject/two.png'), np.uint8)
        objects = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert len(np.unique(objects.reshape(-1, 3), axis=0)) == 3
        assert not (objects[..., 2] > 0)[labels_of('two') == 0].any()


def test_voc_colours_are_known():
    assert cvat.voc_colours(256)[[0, 1, 2, 3, 20, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 64, 128], [224, 224, 192]
    ]  # fmt: skip


def test_cvat_may_have_other_colours_and_leave_out_empty_masks(frames, tmp_path):
    path = tmp_path / 'export.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('labelmap.txt', '# label:color_rgb:parts:actions\nbackground:0,0,0::\npolyp:0,128,7::\n')
        archive.writestr('ImageSets/Segmentation/default.txt', 'none\ntwo\n')
        picture = np.zeros((48, 70, 3), np.uint8)
        picture[labels_of('two') > 0] = (7, 128, 0)  # BGR
        archive.writestr('SegmentationClass/two.png', cv2.imencode('.png', picture)[1].tobytes())
    import_labels(path, frames, tmp_path / 'out')
    found = imported(tmp_path / 'out')
    assert sorted(found) == ['none', 'two'] and not found['none'].any()
    np.testing.assert_array_equal(found['two'], labels_of('two'))


@pytest.mark.slow
def test_label_studio_run_lengths_follow_their_description():
    random = np.random.default_rng(1)
    for size in ((1, 1), (3, 5), (40, 61), (300, 400)):
        mask = cv2.GaussianBlur(random.random(size), (0, 0), 2) > 0.5
        code = labelstudio.encode(mask)
        assert all(0 <= byte <= 255 for byte in code)
        np.testing.assert_array_equal(labelstudio.decode(code, size), mask)
        np.testing.assert_array_equal(slow_decode(code).reshape(*size, 4)[..., 3] > 0, mask)
    # Single values, which Label Studio writes too: 4 of 8 bits, none of them a run.
    bits = (
        f'{4:032b}{7:05b}' + f'{2:04b}{3:04b}{7:04b}{15:04b}' + '000011' + ''.join(f'{v:08b}' for v in (9, 9, 9, 255))
    )
    code = [int(bits[i : i + 8].ljust(8, '0'), 2) for i in range(0, len(bits), 8)]
    assert labelstudio.decode(code, (1, 1)).tolist() == [[1]] and slow_decode(code).tolist() == [9, 9, 9, 255]
    with pytest.raises(ValueError, match='end too early'):
        labelstudio.decode(code[:8], (1, 1))
    with pytest.raises(ValueError, match='are of 1 pixels, not of 2 x 1'):
        labelstudio.decode(code, (2, 1))


def slow_decode(code: list[int]) -> np.ndarray:
    """Value by value."""
    bits = iter([int(bit) for byte in code for bit in f'{byte:08b}'])

    def number(count: int) -> int:
        return int(''.join(str(next(bits)) for _ in range(count)), 2)

    total, word = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        run = number(1)
        length = number(sizes[number(2)]) + 1
        values += [number(word)] * length if run else [number(word) for _ in range(length)]
    return np.array(values)


def test_label_studio_exports_have_polygons_skipped_tasks_and_uploaded_names(frames, tmp_path):
    path = write('labelstudio', tmp_path)
    tasks = json.loads(path.read_text())
    interface = (path.with_suffix('.xml')).read_text()
    assert '<Label value="polyp"/>' in interface and tasks[2]['data']['image'].endswith('?d=case%201/f1.jpg')
    names = {shape['from_name'] for task in tasks for each in task['predictions'] for shape in each['result']}
    assert all(f'name="{name}"' in interface for name in names)
    tasks[0]['annotations'][0]['was_cancelled'] = True
    tasks[1]['data'] = dict(image='/data/upload/3/0a1b2c3d-two.jpg')
    polygon = [[100 * x / 70, 100 * y / 48] for x, y in ((10, 5), (30, 5), (30, 15), (10, 15))]
    shape = dict(
        tasks[1]['annotations'][0]['result'][0],
        type='polygonlabels',
        value=dict(points=polygon, polygonlabels=['polyp']),
    )
    tasks[1]['annotations'][0]['result'] = [shape, dict(type='choices', value=dict(choices=['clear']))]
    tasks[3]['annotations'] = []
    del tasks[2]['data']['frame']
    path.write_text(json.dumps(tasks))
    done = import_labels(path, frames, tmp_path / 'out')
    assert done.entries == ['two', 'case 1/f1']
    assert imported(tmp_path / 'out')['two'].sum() == 200


def test_what_was_corrected_and_what_confirmed_is_kept(frames, tmp_path):
    proposals = tmp_path / 'proposals'
    shutil.copytree(write('png', tmp_path), proposals / 'masks')
    corrected = proposals / 'masks' / 'two.png'
    cv2.imwrite(str(corrected), 0 * cv2.imread(str(corrected), 0))
    (proposals / 'masks' / 'none.png').unlink()
    (tmp_path / 'some.txt').write_text('none\ntwo\ncase 1/f1\n')
    export, out = write('cvat', tmp_path), tmp_path / 'out'
    done = import_labels(export, frames, out, proposals=proposals, only=str(tmp_path / 'some.txt'))
    assert done.states == dict(drawn=1, corrected=1, confirmed=1) and done.left == 1
    kept = json.loads((out / 'provenance.json').read_text())
    assert {name: record['state'] for name, record in kept.items()} == {
        'none': 'drawn', 'two': 'corrected', 'case 1/f1': 'confirmed'
    }  # fmt: skip
    assert kept['two']['changed'] == pytest.approx(labels_of('two').mean()) and kept['two']['format'] == 'cvat'
    # What is there is not replaced unasked, and what is new is added.
    with pytest.raises(ValueError, match='has masks of 3 of these frames'):
        import_labels(export, frames, out)
    (tmp_path / 'rest.txt').write_text('case_2/f1')
    import_labels(export, frames, out, only=str(tmp_path / 'rest.txt'))
    assert sorted(imported(out)) == sorted(CASES) and len(json.loads((out / 'provenance.json').read_text())) == 4
    assert import_labels(export, frames, out, overwrite=True).states == dict(drawn=4)


def test_a_frame_that_is_turned_by_its_file_is_saved_upright(tmp_path):
    frames = tmp_path / 'frames'
    frames.mkdir()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(
        frames / 'f.jpg', exif=exif
    )
    labels = np.zeros((60, 40), np.uint8)
    labels[5:20, 3:9] = 1
    path = tmp_path / 'coco.json'
    coco.write_coco([Labelled(PurePosixPath('f.jpg'), lambda: labels)], CLASSES, path)
    import_labels(path, frames, tmp_path / 'out')
    np.testing.assert_array_equal(
        cv2.imread(str(tmp_path / 'out' / 'images' / 'f.png')), cv2.imread(str(frames / 'f.jpg'))
    )
    np.testing.assert_array_equal(imported(tmp_path / 'out')['f'], labels)


def test_several_classes_come_back_as_numbers(frames, tmp_path):
    classes = ('background', 'polyp', 'tool')

    def labels() -> np.ndarray:
        return labels_of('two') + (np.arange(70) > 40) * labels_of('two')

    found = [Labelled(PurePosixPath('case 1/f1.jpg'), labels)]
    for kind, writer in (('coco', coco.write_coco), ('cvat', cvat.write_cvat)):
        path = tmp_path / {'coco': 'coco.json', 'cvat': 'cvat.zip'}[kind]
        writer(found, classes, path)
        out = tmp_path / kind
        import_labels(path, frames, out, classes=classes)
        with Image.open(out / 'masks' / 'case 1' / 'f1.png') as image:
            np.testing.assert_array_equal(np.array(image), labels())
        assert (out / 'images' / 'case 1' / 'f1.jpg').is_file()
        with pytest.raises(ValueError, match="has the label 'tool', but the classes are background, polyp"):
            import_labels(path, frames, tmp_path / 'other')


def test_regions_are_joined_over_corners():
    labels = np.array([[1, 0, 2], [0, 1, 2], [0, 0, 0], [1, 0, 0]], np.uint8)
    assert [(label, int(mask.sum())) for label, mask in regions(labels)] == [(1, 2), (1, 1), (2, 2)]


# ------------------------------------------------------------------ the tools


@pytest.mark.slow
def test_proposals_of_a_model_come_back_as_its_masks(frames, tmp_path):
    run = write_run(tmp_path / 'run')
    (tmp_path / 'list.txt').write_text('two\ncase 1/f1\ncase_2/f1\n')
    formats = ('--format', 'png', 'coco', 'cvat', 'labelstudio', '--list', tmp_path / 'list.txt')
    out = tmp_path / 'proposals'
    done = run_tool('predict.py', run, frames, '--out', out, *formats, data=Path('nowhere'))
    assert 'written: 3 masks' in done.stdout
    annotate(out / 'labelstudio.json')
    expected = {name.removesuffix('.png'): mask > 0 for name, mask in masks_of(out).items()}
    assert sorted(expected) == ['case 1/f1', 'case_2/f1', 'two'] and any(mask.any() for mask in expected.values())
    for file in ('coco.json', 'cvat.zip', 'labelstudio.json', 'masks'):
        options = ('--images', frames, '--out', tmp_path / file, '--proposals', out)
        done = run_tool('import_labels.py', out / file, *options, data=Path('nowhere'))
        assert 'imported: 3 frames (3 confirmed)' in done.stdout and 'next: train' in done.stdout
        found = imported(tmp_path / file)
        assert sorted(found) == sorted(expected)
        for name, mask in found.items():
            np.testing.assert_array_equal(mask, expected[name])


def spoil_json(path: Path, change) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ('kind', 'change', 'message'),
    [
        ('coco', lambda c: c.pop('images'), 'is no JSON of COCO'),
        ('coco', lambda c: c['categories'][0].update(name='Polyp'), "has the label 'Polyp'"),
        (
            'coco',
            lambda c: c['annotations'][0]['segmentation'].update(counts=[3]),
            'annotation 1 cannot be read: .*3 pix',
        ),
        ('coco', lambda c: c['annotations'][0].update(segmentation=[[1, 2]]), 'a polygon has 1 points'),
        ('coco', lambda c: c['images'][0].update(file_name='x.png'), "has 1 frames that are not in '.*': x.png"),
        (
            'coco',
            lambda c: c['images'][2].update(file_name='f1.jpg'),
            "'f1.jpg', which may be case 1/f1 or case_2/f1",
        ),
        ('coco', lambda c: c['images'][0].update(width=71), 'the mask of none is 71 x 48, but .*none.png is 70 x 48'),
        ('labelstudio', lambda c: c[1].pop('data'), 'is no export of Label Studio'),
        ('labelstudio', lambda c: c[1].update(annotations=2 * c[1]['annotations']), 'two.jpg has 2 annotations'),
        ('labelstudio', lambda c: [t.update(annotations=[]) for t in c], 'has no labelled frame'),
        (
            'labelstudio',
            lambda c: c[1]['annotations'][0]['result'][0].update(type='keypointlabels'),
            "type 'keypointl",
        ),
        ('labelstudio', lambda c: c[1]['annotations'][0]['result'][0]['value'].update(rle=[1]), 'end too early'),
    ],
)
def test_a_damaged_export_is_refused_before_anything_is_written(kind, change, message, frames, tmp_path):
    path = spoil_json(write(kind, tmp_path), change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        import_labels(path, frames, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_damaged_zip_is_refused(frames, tmp_path):
    path = tmp_path / 'x.zip'
    path.write_bytes(b'none')
    with pytest.raises(ValueError, match='is no zip'):
        import_labels(path, frames, tmp_path / 'out')
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a.txt', '')
    with pytest.raises(ValueError, match='export the task from CVAT as "Segmentation mask 1.1"'):
        import_labels(path, frames, tmp_path / 'out')
    path = write('cvat', tmp_path)
    with zipfile.ZipFile(path, 'a') as archive:
        picture = cv2.imencode('.png', np.full((48, 70, 3), 9, np.uint8))[1].tobytes()
        with pytest.warns(UserWarning, match='Duplicate name'):
            archive.writestr('SegmentationClass/two.png', picture)
    with pytest.raises(ValueError, match='two.png has the colour 9,9,9, which labelmap.txt does not name'):
        import_labels(path, frames, tmp_path / 'out')


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('import_labels.py', ('none.zip', '--images', '{frames}'), "there is no export 'none.zip'"),
        ('import_labels.py', ('{frames}/none.png', '--images', '{frames}'), 'is none that is known'),
        ('import_labels.py', ('{frames}', '--images', 'nowhere'), "there is no folder 'nowhere'"),
        ('import_labels.py', ('{frames}', '--images', '{frames}', '--classes', 'polyp'), 'name at least two'),
        ('predict.py', ('nowhere', '{frames}', '--list', 'kvasir/dev'), 'lacks 100 of the 100 frames of kvasir/dev'),
        ('predict.py', ('nowhere', '{frames}/none.png', '--list', 'kvasir/dev'), 'a list names frames of a folder'),
        ('predict.py', ('nowhere', '{film}', '--format', 'coco'), 'labelling tools take images'),
    ],
)
def test_what_is_wrong_is_said_before_the_work(tool, arguments, message, frames, tmp_path, capsys, monkeypatch):
    film = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*'MJPG'), 12, (80, 64))
    writer.write(np.zeros((64, 80, 3), np.uint8))
    writer.release()
    words = [word.format(frames=frames, film=film) for word in arguments]
    monkeypatch.setattr(sys, 'argv', [tool, *words, '--out', str(tmp_path / 'out')])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(Path(__file__).parents[1] / 'tools' / tool), run_name='__main__')
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
