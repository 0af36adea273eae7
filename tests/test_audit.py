"""Near-duplicates are found where they are put, and only there; so are shared sequences."""

import csv
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_acl.datasets.audit import Audit, Frame, Twins, audit_data, find_twins, format_audit, write_audit
from mmseg_acl.datasets.synthetic import draw_frame
from mmseg_acl.visualization.style import DPI, WIDTH, save_figure
from mmseg_acl.visualization.twins import draw_twins

TOOL = Path(__file__).parents[1] / 'tools' / 'audit_data.py'


def write(folder: Path, name: str, image: np.ndarray, suffix: str = '.png') -> None:
    (folder / 'images').mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / 'images' / f'{name}{suffix}'), image)


@pytest.fixture(scope='module')
def frames() -> list[np.ndarray]:
    """Twelve frames, none of them like another."""
    return [draw_frame(np.random.default_rng(i), (96, 128))[0] for i in range(12)]


@pytest.fixture
def root(tmp_path, frames) -> Path:
    """Two sets; `new/copy` is `old/b` again, smaller, brighter and as JPEG."""
    pytest.importorskip('imagehash')
    for name, image in zip('abcdef', frames, strict=False):
        write(tmp_path / 'old', name, image)
    for name, image in zip('uvwxy', frames[6:], strict=False):
        write(tmp_path / 'new', name, image)
    brighter = cv2.convertScaleAbs(cv2.resize(frames[1], (96, 72), interpolation=cv2.INTER_AREA), alpha=1.1, beta=6)
    write(tmp_path / 'new', 'copy', brighter, '.jpg')
    return tmp_path


def described(audit: Audit) -> list[tuple[str, str, str, str]]:
    both = [[audit.frames[i] for i in pair[:2]] for pair in audit.twins]
    return [(a.split, a.name, b.split, b.name) for a, b in both]


def test_a_copy_in_another_set_is_found_and_nothing_else(root):
    audit = audit_data(['old:', 'new:'], str(root))
    assert audit.splits == {'old:': 6, 'new:': 6}
    assert described(audit) == [('old:', 'b', 'new:', 'copy')]
    assert audit.twins[0].distance <= 24 and len(audit.twins_of('new:', 'old:')) == 1
    assert not audit.twins_of('old:', 'old:') and not audit.in_both(audit.twins[0])


def test_pairs_across_splits_come_first_and_one_file_is_told(root, frames):
    write(root / 'old', 'again', frames[0])
    (root / 'mine.txt').write_text('b\nc.png\n')
    audit = audit_data(['old:', f'old:{root / "mine.txt"}', 'new:'], str(root))
    mine = f'old:{root / "mine.txt"}'
    assert sorted(described(audit)[:4]) == sorted(
        [
            ('old:', 'b', mine, 'b'),
            ('old:', 'c', mine, 'c'),
            ('old:', 'b', 'new:', 'copy'),
            (mine, 'b', 'new:', 'copy'),
        ]
    )
    assert described(audit)[4:] == [('old:', 'a', 'old:', 'again')]
    assert [audit.in_both(pair) for pair in audit.twins] == [pair.distance == 0 for pair in audit.twins[:4]] + [False]
    assert f'| old: | {mine} | 2 | 2 of 7 | 2 of 2 | 2 |' in format_audit(audit)
    assert '| old: | itself | 1 | 2 of 7 | 2 of 7 | 0 |' in format_audit(audit)


def test_pairs_agree_with_counting_bits_one_by_one(monkeypatch):
    monkeypatch.setattr('mmseg_acl.datasets.audit.BLOCK', 7)
    rng = np.random.default_rng(0)
    bits = rng.random((20, 256)) < 0.5
    bits[13] = bits[2] ^ (rng.random(256) < 0.05)
    bits[19] = bits[0]
    for threshold in (0, 24, 110):
        expected = {
            (i, j, int((bits[i] != bits[j]).sum()))
            for i in range(20)
            for j in range(i + 1, 20)
            if (bits[i] != bits[j]).sum() <= threshold
        }
        found = find_twins(bits, threshold)
        assert set(found) == expected and len(found) == len(expected) > 0


def audit_of(*frames: tuple, twins=()) -> Audit:
    """Frames as (split, folder, name, sequence)."""
    made = [Frame(split, name, f'/data/{folder}/images/{name}.png', seq) for split, folder, name, seq in frames]
    return Audit(made, [Twins(*pair) for pair in twins], 24)


def test_shared_sequences_and_cvc300_in_colondb_are_said():
    audit = audit_of(
        ('clinicdb/train', 'CVC-ClinicDB', '1', 1),
        ('clinicdb/train', 'CVC-ClinicDB', '30', 2),
        ('clinicdb/test', 'CVC-ClinicDB', '2', 1),
        ('clinicdb/test', 'CVC-ClinicDB', '60', 3),
        ('cvc300/test', 'CVC-300', '149', None),
        ('cvc300/test', 'CVC-300', '150', None),
        ('cvc300/test', 'CVC-300', '151', None),
        ('colondb/test', 'CVC-ColonDB', '149', None),
        ('colondb/test', 'CVC-ColonDB', '7', None),
        twins=[(4, 7, 0), (5, 8, 3), (4, 8, 9), (4, 5, 2)],
    )
    text = format_audit(audit)
    assert '| clinicdb/train | clinicdb/test | 1 | 1 of 2 | 1 |' in text
    assert '2 of 3 frames of CVC-300 have a near-duplicate in CVC-ColonDB, 1 of them under the same number' in text
    assert 'Not compared: CVC-300 and CVC-ColonDB' in format_audit(audit_of(('x', 'CVC-ClinicDB', '1', 1)))
    assert 'Fewer than two splits' in format_audit(audit_of(('x', 'CVC-ClinicDB', '1', 1)))


def test_the_joint_list_and_the_sequence_lists_find_their_folders(tmp_path, frames, monkeypatch):
    pytest.importorskip('imagehash')
    write(tmp_path / 'CVC-ClinicDB', '26', frames[0])
    write(tmp_path / 'Kvasir-SEG', 'cju', frames[1])
    lists = {'polyp/train': ['CVC-ClinicDB/26', 'Kvasir-SEG/cju'], 'clinicdb_seq/test': ['26']}
    monkeypatch.setattr('mmseg_acl.datasets.polyp.read_list', lists.__getitem__)
    audit = audit_data(list(lists), str(tmp_path))
    assert [(frame.name, frame.sequence) for frame in audit.frames] == [
        ('CVC-ClinicDB/26', 2),
        ('Kvasir-SEG/cju', None),
        ('26', 2),
    ]
    assert described(audit) == [('polyp/train', 'CVC-ClinicDB/26', 'clinicdb_seq/test', '26')]


@pytest.mark.slow
def test_what_is_written_can_be_read_again(root, tmp_path):
    write(root / 'old', 'twin', cv2.imread(str(root / 'old/images/c.png')))
    audit = audit_data(['old:', 'new:'], str(root))
    write_audit(audit, tmp_path / 'out')
    with (tmp_path / 'out/pairs.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['image_1'], row['image_2'], row['kind']) for row in rows] == [
        ('b', 'copy', 'near-duplicate'),
        ('c', 'twin', 'near-duplicate'),
    ]
    assert rows[1]['distance'] == '0' and rows[0]['split_2'] == 'new:' and rows[0]['sequence_1'] == ''
    png, pdf = save_figure(draw_twins(audit, 1), tmp_path / 'out/twins')
    height, width = cv2.imread(str(png)).shape[:2]
    assert width == round(WIDTH * DPI) and height < width / 2
    assert pdf.read_bytes().startswith(b'%PDF')
    audit.twins.clear()
    assert draw_twins(audit) is None


def test_bad_input(root, monkeypatch):
    for threshold in (-1, 128):
        with pytest.raises(ValueError, match=f'threshold={threshold} must lie in 0 to 127'):
            audit_data(['old:'], str(root), threshold)
    with pytest.raises(ValueError, match="split 'kvasir/third' is neither a shipped list .* nor FOLDER:LIST"):
        audit_data(['kvasir/third'], str(root))
    with pytest.raises(ValueError, match='names one of them twice'):
        audit_data(['old:', 'old:'], str(root))
    with pytest.raises(ValueError, match='no data set lies under'):
        audit_data(root=str(root))
    with pytest.raises(FileNotFoundError, match='none/images'):
        audit_data(['none:'], str(root))
    monkeypatch.setitem(sys.modules, 'imagehash', None)
    with pytest.raises(ImportError, match=r'pip install "mmseg_acl\[audit\]"'):
        audit_data(['old:'], str(root))


@pytest.mark.slow
def test_the_tool(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(root))
    out = tmp_path / 'audit'
    monkeypatch.setattr(sys, 'argv', ['audit_data.py', '--splits', 'old:', 'new:', '--out', str(out)])
    runpy.run_path(str(TOOL), run_name='__main__')
    assert sorted(path.name for path in out.iterdir()) == ['audit.md', 'pairs.csv', 'twins.pdf', 'twins.png']
    assert '| old: | new: | 1 | 1 of 6 | 1 of 6 | 0 |' in capsys.readouterr().out
    shutil.rmtree(out)
    monkeypatch.setattr(sys, 'argv', [*sys.argv[:4], '--threshold', '200', '--out', str(out)])
    with pytest.raises(SystemExit) as found:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert found.value.code == 2 and 'threshold=200' in capsys.readouterr().err and not out.exists()


@pytest.mark.slow
def test_real_splits(real_data):
    """PraNet's ClinicDB split has twins and shared sequences; ours has neither; no two sequences look alike."""
    pytest.importorskip('imagehash')
    pranet, ours = (('clinicdb/train', 'clinicdb/test'), ('clinicdb_seq/train', 'clinicdb_seq/test'))
    audit = audit_data([*pranet, *ours, 'cvc300/test'], str(real_data))
    assert len(audit.twins_of(*pranet)) >= 5 and not audit.twins_of(*ours)
    assert all(len({audit.frames[i].sequence for i in pair[:2]}) == 1 for pair in audit.twins)
    text = format_audit(audit)
    assert '| clinicdb/train | clinicdb/test | 26 | 62 of 62 |' in text
    assert '| clinicdb_seq/train | clinicdb_seq/test | 0 | 0 of 56 | - |' in text
