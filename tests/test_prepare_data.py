"""From downloads to the data root: recognition, checks, safety, and a second call."""

import os
import runpy
import shutil
import stat
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_acl.datasets import PolypDataset, downloads, prepare, read_list, sequences
from mmseg_acl.datasets.catalogue import POLYP_SETS, PolypSet
from mmseg_acl.datasets.prepare import SetReport, format_reports
from mmseg_acl.datasets.sequences import draw_sequence_split, sequence_of

TOOL = Path(__file__).parents[1] / 'tools' / 'prepare_data.py'
KVASIR, CLINIC, COLON = ('cjuaa', 'cjuab', 'cjuac'), ('1', '2', '3', '4'), ('1', '2', '3')
# As the real ones, but few and small; cvc300 lies in colondb and has its size.
SETS = dict(
    kvasir=('Kvasir-SEG', KVASIR, None),
    clinicdb=('CVC-ClinicDB', CLINIC, (24, 18)),
    cvc300=('CVC-300', ('2', '3'), (28, 25)),
    colondb=('CVC-ColonDB', COLON, (28, 25)),
    etis=('ETIS-LaribPolypDB', ('1', '2'), (36, 28)),
)


@pytest.fixture(autouse=True)
def small_sets(monkeypatch, tmp_path):
    for name, (folder, names, size) in SETS.items():
        path = tmp_path / 'lists' / f'{name}.txt'
        path.parent.mkdir(exist_ok=True)
        path.write_text('\n'.join(names))
        monkeypatch.setitem(POLYP_SETS, name, PolypSet(folder, (str(path),), size, POLYP_SETS[name].aliases))


def frame(seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A frame and its mask, 0 and 255."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8), size)
    mask = np.zeros(size[::-1], np.uint8)
    mask[4 + seed % 5 : 14, 5:15] = 255
    return image, mask


def put(folder: Path, names, size, seed=0, images='images', masks='masks', suffix='.png', mask_name='{}') -> Path:
    for number, name in enumerate(names):
        pictures = frame(seed + number, size)
        for kind, stem, picture in ((images, name, pictures[0]), (masks, mask_name.format(name), pictures[1])):
            path = folder / kind / f'{stem}{suffix}'
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), picture)
    return folder


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), 'zip', folder.parent, folder.name))


def stems(folder: Path, kind: str = 'images') -> list[str]:
    return sorted(path.stem for path in (folder / kind).iterdir())


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob('*')
        if path.is_file()
    }


def kvasir(folder: Path, names=KVASIR, **kwargs) -> Path:
    put(folder, names, (30, 20), **{'suffix': '.jpg', **kwargs})
    (folder / 'kavsir_bboxes.json').write_text('{}')
    return folder


# What people download


@pytest.mark.parametrize('packed', [True, False])
def test_downloads_as_their_owners_pack_them(tmp_path, packed):
    get = tmp_path / 'get'
    folders = [
        kvasir(get / 'Kvasir-SEG'),
        put(get / 'CVC-ClinicDB', CLINIC, (24, 18), images='Original', masks='Ground Truth', suffix='.tif'),
        put(get / 'CVC-ColonDB', COLON, (28, 25), images='.', masks='.', suffix='.tiff', mask_name='p{}'),
        put(get / 'ETIS', ('1', '2'), (36, 28), images='ETIS-LaribPolypDB', masks='Ground Truth', mask_name='p{}'),
    ]
    before = tree(get)
    reports = prepare.prepare([zipped(folder) if packed else folder for folder in folders], tmp_path / 'root')
    assert [(report.name, report.pairs, report.added) for report in reports] == [
        ('kvasir', 3, 3),
        ('clinicdb', 4, 4),
        ('colondb', 3, 3),
        ('etis', 2, 2),
    ]
    for report in reports:
        _, names, _ = SETS[report.name]
        dataset = PolypDataset(data_root=str(tmp_path / 'root'), folder=report.folder.name)
        assert sorted(dataset.get_data_info(i)['name'] for i in range(len(dataset))) == sorted(names)
    assert (tmp_path / 'root/CVC-ColonDB/masks/2.tiff').read_bytes() == before['CVC-ColonDB/p2.tiff'][0]
    assert {path: found for path, found in tree(get).items() if not path.endswith('.zip')} == before
    assert sorted(path.name for path in (tmp_path / 'root').iterdir()) == sorted(r.folder.name for r in reports)
    assert os.stat(tmp_path / 'root/Kvasir-SEG/images/cjuaa.jpg').st_mode & 0o044  # others can read it


def test_pranets_zips_are_told_apart_by_names_and_sizes(tmp_path):
    train = tmp_path / 'TrainDataset'
    put(train, KVASIR[:2], (30, 20), images='image', masks='mask')
    put(train, CLINIC[:3], (24, 18), seed=10, images='image', masks='mask')
    test = tmp_path / 'TestDataset'
    put(test / 'Kvasir', KVASIR[2:], (30, 20), seed=2)
    put(test / 'CVC-ClinicDB', CLINIC[3:], (24, 18), seed=13)
    put(test / 'CVC-300', ('2', '3'), (28, 25), seed=21)
    put(test / 'CVC-ColonDB', COLON, (28, 25), seed=20)
    (first,) = [r for r in prepare.prepare([zipped(train)], tmp_path / 'root') if r.name == 'kvasir']
    assert (first.pairs, first.expected) == (2, 3)
    reports = {report.name: report for report in prepare.prepare([zipped(test)], tmp_path / 'root')}
    assert {name: (report.pairs, report.expected) for name, report in reports.items()} == dict(
        kvasir=(3, 3), clinicdb=(4, 4), cvc300=(2, 2), colondb=(3, 3)
    )
    assert reports['clinicdb'].added == 1 and stems(tmp_path / 'root/CVC-ClinicDB', 'masks') == list(CLINIC)


def test_endoscene_gives_cvc300s_test_frames_and_clinicdb(tmp_path, capsys):
    endoscene = tmp_path / 'CVC-EndoSceneStill'
    put(endoscene / 'CVC-300', COLON, (28, 25), images='bbdd', masks='gtpolyp', suffix='.bmp')
    put(endoscene / 'CVC-300', COLON, (28, 25), seed=50, images='gtlumen', masks='gtvoid', suffix='.bmp')
    put(endoscene / 'CVC-612', CLINIC, (24, 18), images='bbdd', masks='gtpolyp', suffix='.bmp')
    prepare.prepare([endoscene], tmp_path / 'root')
    assert stems(tmp_path / 'root/CVC-300') == ['2', '3'] and stems(tmp_path / 'root/CVC-ClinicDB') == list(CLINIC)
    assert '2 images left out' in capsys.readouterr().out  # frame 1 and its mask
    assert not (tmp_path / 'root/CVC-ColonDB').exists()


def test_one_set_packed_twice_is_taken_once(tmp_path):
    for suffix in ('.png', '.tif'):
        folder = tmp_path / 'archive' / suffix[1:].upper()
        put(folder, CLINIC, (24, 18), images='Original', masks='Ground Truth', suffix=suffix)
    (report,) = prepare.prepare([zipped(tmp_path / 'archive')], tmp_path / 'root')
    assert report.pairs == 4 and len(tree(report.folder)) == 8
    picture = cv2.imread(str(tmp_path / 'archive/TIF/Original/2.tif'))
    cv2.imwrite(str(tmp_path / 'archive/TIF/Original/2.tif'), 255 - picture)
    with pytest.raises(ValueError, match=r'TIF/Original/2\.tif and archive: PNG/Original/2\.png have one name but'):
        prepare.prepare([tmp_path / 'archive'], tmp_path / 'root2')


def test_numbers_with_zeros_and_a_set_that_has_to_be_named(tmp_path):
    folder = put(tmp_path / 'frames', ('002', '003'), (28, 25))
    with pytest.raises(ValueError, match=r'frames: images/002.png may belong to cvc300 or colondb.*--dataset'):
        prepare.prepare([folder], tmp_path / 'root')
    prepare.prepare([folder], tmp_path / 'root', dataset='cvc300')
    assert stems(tmp_path / 'root/CVC-300') == ['2', '3']
    with pytest.raises(ValueError, match="dataset='polyps' is unknown, there are kvasir"):
        prepare.prepare([folder], tmp_path / 'root', dataset='polyps')


# Twice


def test_a_second_call_writes_nothing(tmp_path):
    source = zipped(kvasir(tmp_path / 'Kvasir-SEG'))
    prepare.prepare([source], tmp_path / 'root')
    before = tree(tmp_path / 'root')
    (report,) = prepare.prepare([source], tmp_path / 'root')
    assert (report.present, report.added, report.pairs) == (3, 0, 3)
    assert tree(tmp_path / 'root') == before
    # The data root itself is a source like any other, which makes the tool a checker.
    (report,) = prepare.prepare([tmp_path / 'root'], tmp_path / 'root')
    assert report.present == 3 and tree(tmp_path / 'root') == before


def test_what_an_interruption_left_is_completed_and_strange_files_stay(tmp_path):
    source = kvasir(tmp_path / 'Kvasir-SEG')
    prepare.prepare([source], tmp_path / 'root')
    before = {path: data for path, (data, _) in tree(tmp_path / 'root').items()}
    (tmp_path / 'root/Kvasir-SEG/README.txt').write_text('mine')
    (tmp_path / 'root/Kvasir-SEG/images/cjuab.jpg').unlink()
    (report,) = prepare.prepare([source], tmp_path / 'root')
    assert (report.added, report.present, report.pairs) == (1, 2, 3)
    after = {path: data for path, (data, _) in tree(tmp_path / 'root').items()}
    assert after == {**before, 'Kvasir-SEG/README.txt': b'mine'}


def as_png(source: Path, folder: Path) -> Path:
    for path in source.rglob('*.jpg'):
        copy = folder / path.relative_to(source).with_suffix('.png')
        copy.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(copy), cv2.imread(str(path)))
    return folder


def test_another_encoding_of_the_same_frame_is_the_same_frame(tmp_path):
    source = kvasir(tmp_path / 'Kvasir-SEG')
    prepare.prepare([source], tmp_path / 'root')
    again = as_png(source, tmp_path / 'again' / 'Kvasir')
    before = tree(tmp_path / 'root')
    (report,) = prepare.prepare([again], tmp_path / 'root')
    assert report.present == 3 and tree(tmp_path / 'root') == before


@pytest.mark.parametrize('kind', ['images', 'masks'])
def test_a_file_that_differs_is_an_error_or_replaced(tmp_path, kind):
    source = kvasir(tmp_path / 'Kvasir-SEG')
    prepare.prepare([source], tmp_path / 'root')
    other = as_png(source, tmp_path / 'other' / 'Kvasir-SEG')
    picture = frame(90, (30, 20))[0] if kind == 'images' else frame(4, (30, 20))[1]
    cv2.imwrite(str(other / kind / 'cjuab.png'), picture)
    before = tree(tmp_path / 'root')
    with pytest.raises(ValueError, match=rf'(?s)1 problems.*{kind}/cjuab.png differs from .*cjuab.jpg.*--overwrite'):
        prepare.prepare([other], tmp_path / 'root')
    assert tree(tmp_path / 'root') == before
    (report,) = prepare.prepare([other], tmp_path / 'root', overwrite=True)
    assert (report.replaced, report.present, report.pairs) == (1, 2, 3)
    folder = tmp_path / 'root/Kvasir-SEG' / kind
    assert [path.name for path in sorted(folder.glob('cjuab*'))] == ['cjuab.png']
    assert (folder / 'cjuab.png').read_bytes() == (other / kind / 'cjuab.png').read_bytes()


# Files that are not fit


def spoil(folder: Path, what: str) -> None:
    image, mask = folder / 'images' / 'cjuab.jpg', folder / 'masks' / 'cjuab.jpg'
    if what == 'cut short':
        image.write_bytes(image.read_bytes()[:-200])
    elif what == 'text':
        image.write_text('no image')
    elif what == 'no mask':
        mask.unlink()
    elif what == 'no image':
        image.unlink()
    elif what == 'other size':
        cv2.imwrite(str(mask), np.zeros((20, 40), np.uint8))
    elif what == 'grey':
        cv2.imwrite(str(mask), np.linspace(0, 255, 600).reshape(20, 30).astype(np.uint8))
    elif what == 'dark':
        cv2.imwrite(str(mask), np.full((20, 30), 60, np.uint8))
    elif what == 'class numbers':
        mask.unlink()
        cv2.imwrite(str(mask.with_suffix('.png')), np.maximum(frame(1, (30, 20))[1], 1))
    elif what == 'white':
        for path in mask.parent.iterdir():
            cv2.imwrite(str(path), np.full((20, 30), 255, np.uint8))
    elif what == 'empty file':
        mask.write_bytes(b'')


@pytest.mark.parametrize(
    ('what', 'message'),
    [
        ('cut short', r'images/cjuab\.jpg: cut short after'),
        ('text', r'images/cjuab\.jpg: not a readable image'),
        ('no mask', r'images/cjuab\.jpg: there is no mask named cjuab'),
        ('no image', r'masks/cjuab\.jpg: there is no image named cjuab'),
        ('other size', r'masks/cjuab\.jpg is 40 x 20, its image is 30 x 20'),
        ('grey', r'masks/cjuab\.jpg: 8\d% of its pixels are neither black nor white'),
        ('dark', r'masks/cjuab\.jpg: .*values up to 60, which is neither 0/1 nor 0/255'),
        ('class numbers', r'masks/cjuab\.png: .*the value 1 beside 255 and none between'),
        ('white', r'all of the 3 masks of kvasir are polyp at every pixel, such as .*masks/cjuaa\.jpg'),
        ('empty file', r'masks/cjuab\.jpg: the file is empty'),
    ],
)
@pytest.mark.parametrize('packed', [True, False])
def test_unfit_files_are_named_and_nothing_is_written(tmp_path, what, message, packed):
    source = kvasir(tmp_path / 'Kvasir-SEG')
    fit = put(tmp_path / 'CVC-ClinicDB', CLINIC, (24, 18))
    spoil(source, what)
    with pytest.raises(ValueError, match=message) as found:
        prepare.prepare([fit, zipped(source) if packed else source], tmp_path / 'root')
    assert '.prepare-' not in str(found.value) and 'Nothing was written' in str(found.value)
    assert not list((tmp_path / 'root').iterdir())


def test_many_problems_are_counted_and_some_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, 'NUM_SHOWN_PROBLEMS', 2)
    source = kvasir(tmp_path / 'Kvasir-SEG')
    shutil.rmtree(source / 'masks')
    with pytest.raises(ValueError, match=r'(?s)3 problems.*cjuaa.*cjuab.*and 1 more'):
        prepare.prepare([source], tmp_path / 'root')


def test_a_resized_copy_is_no_original(tmp_path):
    resized = put(tmp_path / 'CVC-ClinicDB', CLINIC, (20, 20))
    with pytest.raises(ValueError, match=r'1\.png is 20 x 20, but images of CVC-ClinicDB are 24 x 18'):
        prepare.prepare([resized], tmp_path / 'root')
    with pytest.raises(ValueError, match=r"'.*mine' is not recognised: none of its 8 images.*1\.png \(20 x 20\)"):
        prepare.prepare([resized.rename(tmp_path / 'mine')], tmp_path / 'root')


def test_empty_masks_are_counted(tmp_path):
    source = kvasir(tmp_path / 'Kvasir-SEG', suffix='.png')
    cv2.imwrite(str(source / 'masks/cjuaa.png'), np.zeros((20, 30), np.uint8))
    cv2.imwrite(str(source / 'masks/cjuab.png'), frame(1, (30, 20))[1] // 255)  # 0/1 is a mask too
    (report,) = prepare.prepare([source], tmp_path / 'root')
    assert report.empty == ['cjuaa'] and report.pairs == 3


# Sources that are not safe, or none


def evil_zip(path: Path, name: str, mode: int = 0o644 | stat.S_IFREG, data: bytes = b'x') -> Path:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('Kvasir-SEG/images/cjuaa.jpg', b'innocent')
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return path


@pytest.mark.parametrize(
    'name',
    ['../evil.jpg', 'a/../../evil.jpg', '/evil.jpg', '\\evil.jpg', '..\\evil.jpg', 'C:/evil.jpg', '../evil.txt'],
)
def test_zips_that_climb_out_are_refused(tmp_path, name):
    path = evil_zip(tmp_path / 'evil.zip', name)
    with pytest.raises(ValueError, match=r'refused, nothing was unpacked.*evil.*leads out of the folder'):
        prepare.prepare([path], tmp_path / 'root')
    assert [found.name for found in tmp_path.iterdir() if found.name != 'lists'] == ['evil.zip']


def test_zips_with_links_are_refused(tmp_path):
    path = evil_zip(tmp_path / 'evil.zip', 'Kvasir-SEG/images/link.jpg', 0o777 | stat.S_IFLNK, b'/etc/passwd')
    with pytest.raises(ValueError, match=r'refused.*link\.jpg.*is a link'):
        prepare.prepare([path], tmp_path / 'root')
    assert not (tmp_path / 'root').exists()


def test_zip_bombs_are_refused(tmp_path, monkeypatch):
    path = evil_zip(tmp_path / 'bomb.zip', 'bomb.jpg', data=bytes(3 << 20))
    assert path.stat().st_size < 10_000
    for limit, value, message in (
        ('MAX_MEMBER_BYTES', 2 << 20, 'bomb.jpg.*would have 3 MiB; no image .* has 2'),
        ('MAX_BYTES', 2 << 20, 'would unpack to 2 files'),
        ('MAX_MEMBERS', 1, 'would unpack to 2 files'),
    ):
        with monkeypatch.context() as patched, pytest.raises(ValueError, match=f'refused, nothing.*{message}'):
            patched.setattr(downloads, limit, value)
            prepare.prepare([path], tmp_path / 'root')
    assert not (tmp_path / 'root').exists()


def test_damaged_zips_and_other_sources(tmp_path):
    path = zipped(kvasir(tmp_path / 'Kvasir-SEG'))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = next(i for i in archive.infolist() if i.filename.endswith('images/cjuab.jpg')).header_offset
    data[start + 150 : start + 160] = bytes(10)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r'is damaged at Kvasir-SEG/images/cjuab\.jpg.*download it again'):
        prepare.prepare([path], tmp_path / 'root')
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match='no zip file that can be read'):
        prepare.prepare([path], tmp_path / 'root')
    with pytest.raises(FileNotFoundError, match="none.zip' does not exist"):
        prepare.prepare([tmp_path / 'none.zip'], tmp_path / 'root')
    (tmp_path / 'bare').mkdir()
    with pytest.raises(ValueError, match="bare' holds no image"):
        prepare.prepare([tmp_path / 'bare'], tmp_path / 'root')
    with pytest.raises(ValueError, match="mine' is not recognised.*such as images/x.png"):
        prepare.prepare([put(tmp_path / 'mine', ['x'], (20, 20))], tmp_path / 'root')


@pytest.mark.parametrize('method', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_named_however_it_is_compressed(method, tmp_path):
    path, member = tmp_path / 'data.zip', 'Kvasir-SEG/images/a.jpg'
    with zipfile.ZipFile(path, 'w', method) as archive:
        archive.writestr(member, np.random.default_rng(0).integers(0, 50, 20_000, np.uint8).tobytes())
    data = bytearray(path.read_bytes())
    data[3000:3200] = b'\xff' * 200
    path.write_bytes(data)
    download = downloads.Download(path)
    with pytest.raises(ValueError, match=rf'is damaged at {member} .*download it again'):
        download.fetch(download.members[0], tmp_path)


# The command


def test_the_tool_prints_a_table_and_one_message(tmp_path, monkeypatch, capsys):
    source = zipped(kvasir(tmp_path / 'Kvasir-SEG'))
    monkeypatch.setenv('MMSEG_ACL_DATA', str(tmp_path / 'root'))
    monkeypatch.setattr(sys, 'argv', ['prepare_data.py', str(source)])
    runpy.run_path(str(TOOL), run_name='__main__')
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if '| kvasir' in line)
    assert [cell.strip() for cell in row.split('|')][3:10] == ['3', '3', '3', '0', '0', '30 x 20', '0']
    monkeypatch.setattr(sys, 'argv', ['prepare_data.py', str(tmp_path / 'nothing.zip')])
    with pytest.raises(SystemExit) as found:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert found.value.code == 2 and 'nothing.zip' in capsys.readouterr().err


def test_the_table_shows_what_is_missing():
    report = SetReport('kvasir', Path('root/Kvasir-SEG'), 1000, pairs=900, added=900)
    report.sizes.update([(622, 529), (622, 529), (720, 576)])
    assert '| 2 different |' in format_reports([report]) and '|   900 | 1000 |' in format_reports([report])


# The sequence-disjoint split of CVC-ClinicDB


def test_sequences_follow_the_table():
    assert [sequence_of(n) for n in (1, 25, 26, '205', '206', 591, 592, '612')] == [1, 1, 2, 10, 11, 28, 29, 29]
    assert sequences.NUM_SEQUENCES == 29
    for frame_number in (0, 613, '-1', 'cju0', '1.5'):
        with pytest.raises(ValueError, match='has no frame'):
            sequence_of(frame_number)


def test_the_shipped_sequence_split_is_drawn_again():
    split = draw_sequence_split()
    assert {part: read_list(f'clinicdb_seq/{part}') for part in split} == split
    assert {part: len(names) for part, names in split.items()} == dict(
        train=556, test=56, half=278, quarter=139, eighth=69, sixteenth=34, thirtysecond=17, sixtyfourth=8
    )
    assert set(split['eighth']) < set(split['quarter']) < set(split['half']) < set(split['train'])
    assert sorted(split['train'] + split['test'], key=int) == [str(n) for n in range(1, 613)]


@pytest.mark.parametrize(('num_test', 'seed'), [(62, 2023), (62, 1), (200, 7), (6, 0), (606, 0)])
def test_no_sequence_is_shared(num_test, seed):
    split = draw_sequence_split(num_test, seed)
    train, test = ({sequence_of(name) for name in split[part]} for part in ('train', 'test'))
    assert train and test and not train & test
    assert num_test - 26 < len(split['test']) <= num_test or num_test < 27
    assert len(train) + len(test) == 29


def test_bad_sizes_of_the_sequence_split():
    for num_test in (0, 5, 607):
        with pytest.raises(ValueError, match=f'num_test={num_test} must lie in 6 to 606'):
            draw_sequence_split(num_test)


def test_pranets_split_shares_its_sequences():
    """Why the other split is shipped."""
    train, test = ({sequence_of(name) for name in read_list(f'clinicdb/{part}')} for part in ('train', 'test'))
    assert len(test) > 20 and test <= train


@pytest.mark.slow
def test_real_folders_are_recognised_where_they_lie(real_data, tmp_path, monkeypatch):
    monkeypatch.undo()
    (report,) = prepare.prepare([real_data / 'CVC-300'], real_data_copy(real_data, tmp_path))
    assert (report.pairs, report.present, report.added) == (60, 60, 0)
    assert report.sizes == {(574, 500): 60} and not report.empty


def real_data_copy(real_data: Path, tmp_path: Path) -> Path:
    """A data root that only links to the real one."""
    (tmp_path / 'root').mkdir()
    (tmp_path / 'root/CVC-300').symlink_to(real_data / 'CVC-300')
    return tmp_path / 'root'
