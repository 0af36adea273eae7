"""tools/serve.py: the page in a real browser, with no network but its own."""

from __future__ import annotations

import base64
import http.client
import re
import runpy
import shutil
import socket
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from test_predict import masks_of, predict, write_run

from mmseg_acl.inference.exporting import export, random_frames
from mmseg_acl.web.page import POLICY, Page

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
UPLOAD = '#{} input[type=file]'


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp('runs') / 'run')


@pytest.fixture(scope='module')
def page(run) -> Iterator[Page]:
    pytest.importorskip('gradio', reason='the extra [web] is not installed')
    export([str(run)], ['torchscript'], say=lambda line: None)
    page = Page([str(run)], device='cpu', exported=[str(run / 'export' / 'teacher.torchscript')])
    yield page
    page.close()


@pytest.fixture(scope='module')
def address(page) -> str:
    return page.launch(largest=1, block=False)


@pytest.fixture(scope='module')
def browser() -> Iterator[object]:
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if CHROMIUM is None:
        pytest.skip('there is no chromium: apt-get install chromium')
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])


@pytest.fixture
def frame(tmp_path) -> Path:
    path = tmp_path / 'my frame.png'
    cv2.imwrite(str(path), random_frames()[0])
    return path


@pytest.fixture
def visit(browser, address) -> Iterator[object]:
    """A visitor's view of the page, who notes what it asks other hosts for."""
    tab = browser.new_page(viewport=dict(width=1200, height=1000))
    tab.set_default_timeout(60_000)
    tab.asked = []
    tab.on('request', lambda request: tab.asked.append(request.url))
    tab.goto(address)
    tab.wait_for_selector(UPLOAD.format('frame'), state='attached')
    yield tab
    tab.close()


def downloaded(tab, button: str, folder: Path) -> Path:
    tab.wait_for_selector(f'{button}:not([disabled])')
    with tab.expect_download() as waiting:
        tab.click(button)
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def source_of(tab, picture: str) -> str:
    tab.wait_for_selector(f'#{picture} img')
    return tab.get_attribute(f'#{picture} img', 'src')


def changed_source(tab, picture: str, before: str) -> str:
    tab.wait_for_function(
        '([picture, before]) => { const img = document.querySelector(`#${picture} img`);'
        ' return img && img.getAttribute("src") !== before }',
        arg=[picture, before],
    )
    return source_of(tab, picture)


def drop(tab, onto: str, path: Path) -> None:
    """What a browser does when a file is dragged onto a part of a page."""
    carried = tab.evaluate_handle(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name, {type: 'image/png'}));
            return carried;
        }""",
        [path.name, base64.b64encode(path.read_bytes()).decode()],
    )
    tab.dispatch_event(f'#{onto} button[aria-dropeffect]', 'drop', dict(dataTransfer=carried))


@pytest.mark.slow
def test_a_frame_is_dropped_thresholded_and_its_mask_is_that_of_predict(visit, run, frame, tmp_path):
    drop(visit, 'frame', frame)
    first, mask = source_of(visit, 'overlay'), source_of(visit, 'mask')
    there = cv2.imread(str(downloaded(visit, '#download', tmp_path)), cv2.IMREAD_UNCHANGED)
    slider = visit.locator('#threshold input[type=range]')
    slider.fill('0.7')
    slider.dispatch_event('pointerup')
    assert changed_source(visit, 'overlay', first) != first
    changed_source(visit, 'mask', mask)
    file = downloaded(visit, '#download', tmp_path)
    assert file.name == 'my frame_mask.png'
    for mask, threshold in ((there, 0.5), (cv2.imread(str(file), cv2.IMREAD_UNCHANGED), 0.7)):
        out = tmp_path / str(threshold)
        predict(run, frame, '--out', out, '--threshold', threshold)
        (here,) = masks_of(out).values()
        assert np.array_equal(mask, here) and 0 < (here > 0).mean() < 1
    assert visit.locator('#regions').get_by_text('polyp').count()
    assert visit.get_by_text(re.compile('Predicted:.*polyp')).is_visible(), 'the legend'
    assert {urlsplit(url).hostname for url in visit.asked if url.startswith(('http', 'ws'))} == {'127.0.0.1'}


@pytest.mark.slow
def test_what_is_no_image_gets_a_sentence(visit, tmp_path):
    path = tmp_path / 'letter.png'
    path.write_text('Dear all')
    visit.set_input_files(UPLOAD.format('frame'), path)
    visit.get_by_text('letter.png is no image that can be read').wait_for()


@pytest.mark.slow
def test_another_network_is_taken(visit, frame):
    visit.set_input_files(UPLOAD.format('frame'), frame)
    first = source_of(visit, 'probability')
    visit.click('#network input')
    visit.get_by_role('option', name='student').click()
    student = changed_source(visit, 'probability', first)
    visit.click('#network input')
    visit.get_by_role('option', name='teacher.torchscript').click()
    assert changed_source(visit, 'probability', student) not in (student, '')


@pytest.mark.slow
def test_two_visitors_keep_their_own_frames(browser, address, visit, frame, tmp_path):
    other = tmp_path / 'other.png'
    cv2.imwrite(str(other), random_frames()[1])
    second = browser.new_page()
    second.goto(address)
    second.wait_for_selector(UPLOAD.format('frame'), state='attached')
    visit.set_input_files(UPLOAD.format('frame'), frame)
    second.set_input_files(UPLOAD.format('frame'), other)
    for tab, name, shape in ((visit, 'my frame', (240, 320)), (second, 'other', (288, 352))):
        path = downloaded(tab, '#download', tmp_path)
        assert path.name == f'{name}_mask.png' and cv2.imread(str(path), 0).shape == shape
    second.close()


@pytest.mark.slow
def test_a_video_becomes_an_overlay_and_a_table(page, frame, tmp_path):
    film = cv2.VideoWriter(str(tmp_path / 'film.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10, (320, 240))
    for shift in range(3):
        film.write(np.roll(cv2.imread(str(frame)), 5 * shift, axis=1))
    film.release()
    overlay, table, masks = page.predict_film(str(tmp_path / 'film.avi'), 'teacher', 0.5)
    assert len(table.value['data']) == 3
    shown = cv2.VideoCapture(overlay)
    assert [shown.read()[0] for _ in range(4)] == [True, True, True, False]
    shutil.unpack_archive(masks.value['path'], tmp_path / 'masks')
    assert len(list((tmp_path / 'masks').rglob('*.png'))) == 3
    for path, message in ((None, 'no video yet'), (str(frame), 'is no video')):
        with pytest.raises(page.gradio.Error, match=message):
            page.predict_film(path, 'teacher', 0.5)


@pytest.mark.slow
def test_a_small_file_with_a_huge_frame_is_refused_before_it_is_decoded(page, tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    for side in (6_000, 60_000):
        header = struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0)
        path = tmp_path / f'{side}.png'
        path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', b'') + chunk(b'IEND', b''))
        with pytest.raises(page.gradio.Error, match=f'{side}.png .* at most 25 million pixels'):
            page.predict(str(path), 'teacher')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('host', 'size', 'status'), [('127.0.0.1', 1 << 10, 200), ('127.0.0.1', 2 << 20, 413), ('evil.example', 1, 400)]
)
def test_large_files_and_foreign_names_are_refused(host, size, status, address):
    port = urlsplit(address).port
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(size)
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    headers = {'Host': f'{host}:{port}', 'Content-Type': 'multipart/form-data; boundary=x'}
    connection.request('POST', '/gradio_api/upload', form + b'\r\n--x--\r\n', headers)
    assert connection.getresponse().status == status
    connection.close()


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(page, address):
    port = urlsplit(address).port
    served = page.blocks
    with pytest.raises(ValueError, match=f'no free port {port}: give another --port'):
        page.launch(port=port, block=False)
    page.blocks = served


@pytest.mark.slow
def test_only_this_machine_is_listened_to(address):
    port = urlsplit(address).port
    with socket.socket() as own, pytest.raises(ConnectionRefusedError):
        own.connect(('127.0.0.2', port))


def test_browsers_are_told_to_ask_no_other_host():
    hosts = set(re.findall(r"[\w.*-]+\.\w+|'self'|data:|blob:|wss?:", POLICY))
    assert hosts == {"'self'", 'data:', 'blob:', 'ws:', 'wss:'} and "default-src 'self'" in POLICY


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--threshold', '0'), 'threshold is 0.0'),
        (('--port', '0'), 'port is 0'),
        (('--max-mb', '0'), 'max-mb is 0'),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(arguments, message, run, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['serve.py', str(run), *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(Path(__file__).parents[1] / 'tools' / 'serve.py'), run_name='__main__')
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_without_gradio_the_mend_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ImportError, match=r'needs Gradio .*pip install "mmseg_acl\[web\]"'):
        Page([str(run)])
