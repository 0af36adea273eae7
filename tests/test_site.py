"""`make docs`: the documents as a site, every link of which leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / 'README.md', *ROOT.glob('docs/*.md'), *ROOT.glob('results/**/*.md')]
FETCHED = re.compile(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^"]*"')


def build(out: Path, *options: str) -> subprocess.CompletedProcess:
    """The site as the Makefile builds it: strict, so that a link to nowhere or an undocumented type is an error."""
    command = [sys.executable, '-m', 'mkdocs', 'build', '-f', str(ROOT / 'docs/site/mkdocs.yml'), '-d', str(out)]
    environment = dict(os.environ, NO_MKDOCS_2_WARNING='1')
    return subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_site_has_every_document_and_the_api_and_asks_no_other_host(tmp_path):
    pytest.importorskip('mkdocs', reason='pip install -e ".[docs]"')
    done = build(tmp_path / 'site')
    assert done.returncode == 0, done.stderr
    for path in DOCUMENTS:
        page = path.relative_to(ROOT).with_suffix('.html')
        page = page.with_name('index.html') if path.name == 'README.md' else page
        text = (tmp_path / 'site' / page).read_text(encoding='utf-8')
        title = re.search(r'^# (.*)$', path.read_text(encoding='utf-8'), re.MULTILINE)[1]
        # As Markdown writes it, without what it makes of quotes and code.
        assert re.sub(r'\W', '', title)[:12] in re.sub(r'<[^>]*>|&\w+;|\W', '', text), page
        assert not FETCHED.search(text), page
    api = (tmp_path / 'site' / 'api' / 'models.segmentors.html').read_text(encoding='utf-8')
    assert 'id="mmseg_acl.models.segmentors.aclnet.ACLNet"' in api
    assert ':class:' not in api
