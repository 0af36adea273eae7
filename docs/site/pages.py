"""Pages of the site: the repository's Markdown files under the paths that they have, and the API from docstrings.

MkDocs takes pages from one folder. Ours stand beside what they speak of, and link to one another by relative paths.
So the site has the repository's tree, and a link holds in both.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / 'mmseg_acl'
# What the API page of a part begins with, in the order in which a user meets the parts.
PARTS = {
    'inference': 'Prediction and export',
    'models.segmentors': 'Methods',
    'models.semi': 'The pieces that methods are made of',
    'models': 'Networks, refinement and losses',
    'datasets': 'Data',
    'engine': 'Training and checkpoints',
    'engine.hooks': 'Hooks',
    'evaluation': 'Scores',
    'experiments': 'Grids of runs',
    'labelling': 'The labelling loop',
    'visualization': 'Pictures',
}
LINK = re.compile(r'(\]\()(?!https?:|#)([^)#\s]+)((?:#[^)\s]*)?\))')


def documents() -> list[Path]:
    """The Markdown files that are pages, and the pictures beside them."""
    found = [*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*'), *(ROOT / 'results').rglob('*.md')]
    found += (ROOT / 'results').rglob('*.png')
    return sorted({path for path in found if path.suffix in {'.md', '.png', '.svg'} and path.is_file()})


def public_modules(part: str) -> list[str]:
    """Names of the modules right below a part that have a public class or function with a docstring."""
    names = []
    for path in sorted(PACKAGE.joinpath(*part.split('.')).glob('*.py')):
        if path.name.startswith('_'):
            continue
        body = ast.parse(path.read_text(encoding='utf-8')).body
        public = [node for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name[0] != '_']
        if any(ast.get_docstring(node) for node in public):
            names.append(f'mmseg_acl.{part}.{path.stem}')
    return names


def api_page(part: str, title: str) -> str:
    """The page of a part of the package: what mkdocstrings shows of each of its modules."""
    return f'# {title}\n\n' + '\n\n'.join(f'::: {name}' for name in public_modules(part)) + '\n'


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of the API, so that a new part stands in one place."""
    api = [{title: f'api/{part}.md'} for part, title in PARTS.items()]
    config.nav.append({'API': api})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents and the pages of the API."""
    listed = set(re.findall(r'[\w/.]+\.md', str(config.nav)))
    for path in documents():
        name = path.relative_to(ROOT).as_posix()
        file = File.generated(config, name, abs_src_path=str(path))
        if path.suffix == '.md' and name not in listed:
            # A table that a page links to is no chapter of its own.
            file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    for part, title in PARTS.items():
        files.append(File.generated(config, f'api/{part}.md', content=api_page(part, title)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to folders to their pages, and take files that are no pages, such as the licence, along."""
    here = PurePosixPath(page.file.src_uri).parent

    def link(found: re.Match) -> str:
        target = os.path.normpath(here / found[2])
        if files.get_file_from_path(f'{target}/README.md'):
            return f'{found[1]}{found[2].rstrip("/")}/README.md{found[3]}'
        if files.get_file_from_path(target) is None and (ROOT / target).is_file():
            files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
        return found[0]

    return LINK.sub(link, markdown)
