"""docs/first_steps.ipynb runs from its first cell to its last, and is kept without what its cells print."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / 'docs' / 'first_steps.ipynb'
nbformat = pytest.importorskip('nbformat', reason='the extra [dev] is not installed')


def test_no_output_is_kept():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == 'code']
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip('nbclient', reason='the extra [dev] is not installed')
    pytest.importorskip('ipykernel', reason='the extra [dev] is not installed')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('work_dirs/first_steps', str(tmp_path)).replace('--iters 60', '--iters 8')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name='python3', resources=dict(metadata=dict(path=str(NOTEBOOK.parent)))
    )
    client.execute()
    assert (tmp_path / 'run' / 'report.html').is_file()
    printed = [''.join(output.get('text', '') for output in cell.get('outputs', ())) for cell in notebook.cells]
    assert any('mDice' in text for text in printed), 'scores'
    assert any(text.startswith('teacher: ') for text in printed), 'a prediction'
    pictures = [output for cell in notebook.cells for output in cell.get('outputs', ()) if 'data' in output]
    assert sum('image/png' in output.data for output in pictures) == 2
