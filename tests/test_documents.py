"""Documents: their tables are those of the results files, and descriptions of tables that are wrong are told."""

from __future__ import annotations

import csv
import json
import re
import runpy
import sys
from itertools import chain
from pathlib import Path

import pytest
import yaml
from test_experiments import LAPTOP_GRIDS

from mmseg_acl.experiments.documents import BEGIN, END, figure_points, make_table, update_document
from mmseg_acl.experiments.grid import read_experiment
from mmseg_acl.experiments.tables import write_tables
from mmseg_acl.numerics import NUMERICS

ROOT = Path(__file__).parents[1]
LAPTOP = ROOT / 'results' / 'laptop'
ARCHIVE = LAPTOP / 'archive'
DOCUMENTS = sorted({ROOT / 'README.md', *ROOT.glob('docs/**/*.md'), *ROOT.glob('results/**/*.md')})
LINK = re.compile(r'\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)')
NUM_WORDS = 30
# Tables of grids and reports of the benchmark, whose captions are alike.
GENERATED = {
    *(path.with_suffix('.md').name for path in LAPTOP.rglob('*.tex')),
    *(path.with_suffix('.md').name for path in ROOT.glob('results/speed/*.json')),
}
TESTS = {'first': 'kvasir', 'both': ['kvasir', 'cvc300']}


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_are_those_of_the_results(path):
    assert update_document(path) == path.read_text(), f'{path} is not what `make results` writes: run it'


@pytest.mark.slow
@pytest.mark.parametrize('name', LAPTOP_GRIDS)
def test_tables_of_the_grids_are_those_of_the_results(name, tmp_path):
    experiment = read_experiment(ROOT / 'configs' / 'experiments' / f'{name}.yaml')
    for written in write_tables(experiment, LAPTOP, tmp_path):
        committed = LAPTOP / written.name
        if written.suffix == '.csv':  # not rounded, so that machines may differ in the last digits
            found, wanted = (list(csv.reader(path.open(newline=''))) for path in (written, committed))
            assert len(found) == len(wanted)
            for cell, other in zip(chain(*found), chain(*wanted), strict=True):
                assert cell == other or float(cell) == pytest.approx(float(other), rel=1e-6)
        else:
            assert written.read_text() == committed.read_text(), f'{committed} is not what `make results` writes'


def test_the_pages_with_results_have_tables():
    for path in (ROOT / 'README.md', ARCHIVE / 'README.md'):
        assert BEGIN.search(path.read_text())


@pytest.mark.slow
def test_prose_keeps_to_the_line_length(monkeypatch):
    run_tool(monkeypatch, *DOCUMENTS, tool='check_markdown.py')


LONG = 'word ' * 24
ALLOWED = {
    'table': f'| a | b |\n|---|---|\n| {LONG} | {LONG} |\n',
    'code': f'```\n{LONG}\n```\n\n    {LONG}\n',
    'link': f'see [the page](https://example.org/{"x" * 100}) and <https://example.org/{"y" * 100}>\n',
    'comment': f'<!-- {LONG} -->\n',
    'as long as allowed': 'x' * 118 + '\n',
}


def test_lines_of_prose_that_are_too_long_are_named(tmp_path, monkeypatch):
    page = tmp_path / 'page.md'
    page.write_text('\n'.join(ALLOWED.values()))
    run_tool(monkeypatch, page, tool='check_markdown.py')
    page.write_text(f'# Title\n\nshort\n{LONG}\n\n- item\n  {LONG}\n\n## {LONG}\n')
    with pytest.raises(SystemExit) as stopped:
        run_tool(monkeypatch, page, tool='check_markdown.py')
    assert str(stopped.value).split('\n') == [
        *(f'{page}:{line}' for line in (4, 7, 9)),
        '3 lines of prose are longer than 118 characters',
    ]


def test_links_lead_somewhere():
    for path in DOCUMENTS:
        for target, anchor in LINK.findall(path.read_text()):
            page = path.parent / target if target else path
            assert page.exists(), f'{path} links to {target}'
            headings = re.findall(r'^#+ (.*)$', page.read_text(), re.M) if anchor else ()
            anchors = [re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings]
            assert not anchor or anchor in anchors, f'{path} links to {target}#{anchor}; there are {anchors}'


def test_no_page_repeats_another():
    """No thirty words of prose in a row stand in two places."""
    places: dict[tuple[str, ...], str] = {}
    for path in (path for path in DOCUMENTS if path.name not in GENERATED):
        prose = re.sub(r'(?ms:^ *```.*?^ *```$)|(?m:^\|.*$|^.*-->$)', '', path.read_text())
        words = re.findall(r'\w+', prose.lower())
        for start in range(len(words) - NUM_WORDS + 1):
            run = tuple(words[start : start + NUM_WORDS])
            place = places.setdefault(run, f'{path}, word {start}')
            assert place.endswith(f'{path}, word {start}'), f'{path} repeats {place}: {" ".join(run)}'


@pytest.fixture
def results(tmp_path):
    """Two kinds of runs on two images of one set and one of another; a function that describes a table of them."""

    def write(folder, scores):
        folder.mkdir()
        found, lines = {}, ['set,network,image,dice,iou']
        networks = dict(student=-1, teacher=0) if folder.name.startswith('taught') else dict(student=0)
        for test, images in scores.items():
            value = sum(images) / len(images)
            found[test] = {
                name: dict(image=dict(mDice=value + more, mIoU=value - 10, missed=value / 10))
                for name, more in networks.items()
            }
            lines += [
                f'{test},{name},{i},{dice + networks[name]},0' for name in networks for i, dice in enumerate(images)
            ]
        (folder / 'results.json').write_text(json.dumps(found))
        (folder / 'per_image.csv').write_text('\n'.join(lines) + '\n')
        (folder / 'run.json').write_text(json.dumps(dict(hash='a', seed=0, numerics=NUMERICS)))

    write(tmp_path / 'plain_seed0', dict(kvasir=[60, 70], cvc300=[20]))
    write(tmp_path / 'plain_seed1', dict(kvasir=[62, 72], cvc300=[22]))
    write(tmp_path / 'taught_seed0', dict(kvasir=[70, 80], cvc300=[60]))
    write(tmp_path / 'taught_seed1', dict(kvasir=[70, 80], cvc300=[51]))
    (tmp_path / 'speed.json').write_text(json.dumps(dict(rows=[{'method': 'MT', 'time to SupOnly': 2.449}])))

    def describe(**table):
        description = tmp_path / 'tables.yaml'
        runs = dict(Plain='plain_seed*', Taught='taught_seed*')
        description.write_text(yaml.safe_dump(dict(runs=runs, tables=dict(one=table)), sort_keys=False))
        return description

    return describe


def test_means_over_seeds_by_hand(results):
    rows = [dict(runs='Plain', labelled=7), dict(runs='Taught', label='MT', cost='MT')]
    table = make_table(results(form='means', tests=TESTS, rows=rows, costs='speed.json'), 'one')
    assert table[0] == '| method | labelled | seeds | first | both | time of a step |'
    # Of both sets: (60 + 70 + 20) / 3 = 50 and (62 + 72 + 22) / 3 = 52; taught, of the teacher, 70 and 67.
    assert table[2] == '| Plain | 7 | 2 | 66.0 ± 1.4 | 51.0 ± 1.4 |  |'
    assert table[3] == '| MT |  | 2 | 75.0 ± 0.0 | 68.5 ± 2.1 | 2.4 |'


def test_runs_show_each_network(results):
    table = make_table(results(form='runs', tests=dict(Kvasir='kvasir')), 'one')
    assert table[0] == '| run | folder | Kvasir Dice | Kvasir IoU |'
    assert table[2] == '| Plain, seed 0 | `plain_seed0` | 65.0 | 55.0 |'
    assert table[4] == '| Taught, seed 0 | `taught_seed0` | 74.0 / 75.0 | 65.0 / 65.0 |'


def test_differences_are_paired_by_image_and_seed(results):
    rows = [dict(what='Taught - Plain', of=['Taught', 'Plain'])]
    (line,) = make_table(results(form='differences', tests=['kvasir', 'cvc300'], rows=rows), 'one')[2:]
    what, seeds, difference, interval, by_seed = line.strip('| ').split(' | ')
    # Image by image, mean over seeds: 9, 9 and 34.5; seed by seed 70 - 50 and 67 - 52.
    assert (what, seeds, difference, by_seed) == ('Taught - Plain', '2 / 2', '+17.5', '+20.0, +15.0')
    low, high = map(float, interval.split(' to '))
    assert low <= 9 and high >= 33  # of images alone: 9 to 34.5


def test_any_score_is_averaged_by_images_and_seeds(results):
    columns = dict(missed=dict(tests=['kvasir', 'cvc300'], score='missed'))
    table = make_table(results(form='scores', columns=columns, rows=[dict(runs='Plain', label='P')]), 'one')
    assert table[0] == '| method | seeds | missed |'
    # Two images of Kvasir and one of CVC-300: (2 * 6.5 + 2) / 3 = 5 and (2 * 6.7 + 2.2) / 3 = 5.2.
    assert table[2] == '| P | 2 | 5.1 ± 0.1 |'


def test_scores_may_stand_beside_the_time_of_a_step(results):
    columns = {'a': dict(tests=['kvasir'], score='mDice')}
    rows = [dict(runs='Plain'), dict(runs='Taught', cost='MT')]
    table = make_table(results(form='scores', columns=columns, rows=rows, costs='speed.json'), 'one')
    assert table[0].endswith('| a | time of a step |') and table[2].endswith('|  |') and table[3].endswith('| 2.4 |')


def test_labels_and_shifts_are_read(results, tmp_path):
    for iteration, change in ((300, 1.5), (600, -0.25)):
        folder = tmp_path / 'run' / f'iter_{iteration}'
        folder.mkdir(parents=True)
        measured = dict(teacher=dict(dice=70.0), LA=dict(change=change, error=0.1))
        (folder / 'label_quality.json').write_text(json.dumps(measured))
        (folder / 'shifts.json').write_text(json.dumps(dict(none=80 + change, grey=70.0)))
    table = make_table(results(form='labels', run='run', iterations=[300, 600], rows=dict(LA='low')), 'one')
    assert table[2:] == ["| the teacher's own, Dice | 70.0 | 70.0 |", '| low | +1.5 ± 0.1 | -0.2 ± 0.1 |']
    table = make_table(results(form='shifts', columns={'as it is': 'none'}, rows=dict(A='run/iter_300')), 'one')
    assert table[2:] == ['| A | 81.5 |']


def run_tool(monkeypatch, *arguments, tool='experiments.py'):
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
    runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')


def test_the_command_fills_a_document_and_leaves_the_rest(results, tmp_path, monkeypatch):
    results(form='runs', tests=dict(Kvasir='kvasir'))
    page = tmp_path / 'docs' / 'page.md'
    page.parent.mkdir()
    mark = '<!-- table one of ../tables.yaml, written by make results -->'
    page.write_text(f'# Page\n\n{mark}\nof yore\n{END}\n\nbetween\n\n{mark}\n{END}\nend\n')
    run_tool(monkeypatch, 'documents', page)
    text = page.read_text()
    assert text.count('| Plain, seed 0 |') == 2 and 'of yore' not in text
    assert text.startswith(f'# Page\n\n{mark}\n| run |') and text.endswith(f'|\n{END}\nend\n') and 'between' in text
    run_tool(monkeypatch, 'documents', page)
    assert page.read_text() == text
    # A table that is not that of the results shows.
    page.write_text(text.replace('65.0', '66.0'))
    assert update_document(page) == text


WRONG = {
    'no end': ({}, lambda text: text.replace(END, ''), 'each mark of a table needs'),
    'no such table': ({}, lambda text: text.replace('table one', 'table two'), "no table 'two'; there are one"),
    'no description': ({}, lambda text: text.replace('tables.yaml', 'none.yaml'), 'no description of tables at'),
    'no form': (dict(form='round'), None, "has the form 'round'; allowed are means, scores, runs"),
    'unknown key': (dict(form='runs', test=TESTS), None, "unexpected keyword argument 'test'"),
    'unknown runs': (
        dict(form='means', tests=TESTS, rows=[dict(runs='Best')]),
        None,
        "no runs 'Best'; there are Plain",
    ),
    'not scored': (
        dict(form='means', tests=dict(a='etis'), rows=[dict(runs='Plain')]),
        None,
        'lacks scores on one of etis',
    ),
    'no such score': (
        dict(form='scores', columns=dict(a=dict(tests=['kvasir'], score='false_alarms')), rows=[dict(runs='Plain')]),
        None,
        'has no false_alarms of kvasir: test the checkpoint again',
    ),
}


@pytest.mark.parametrize('table, change, message', WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told(table, change, message, results, tmp_path, monkeypatch, capsys):
    results(**table or dict(form='runs', tests=dict(Kvasir='kvasir')))
    page = tmp_path / 'page.md'
    text = f'<!-- table one of tables.yaml, written by make results -->\n{END}\n'
    page.write_text(change(text) if change else text)
    before = page.read_text()
    with pytest.raises(SystemExit) as stopped:
        run_tool(monkeypatch, 'documents', page)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert page.read_text() == before


def test_runs_of_another_version_of_the_steps_have_tables_of_their_own(results, tmp_path):
    description = results(form='runs', tests=dict(Kvasir='kvasir'))
    for seed in (0, 1):
        (tmp_path / f'plain_seed{seed}' / 'run.json').unlink()  # as it was before there were versions
    with pytest.raises(ValueError, match=f'plain_seed0 was trained by version 0 .* are of version {NUMERICS}'):
        make_table(description, 'one')
    content = yaml.safe_load(description.read_text())
    description.write_text(yaml.safe_dump({**content, 'numerics': 0}))
    with pytest.raises(ValueError, match=f'taught_seed0 was trained by version {NUMERICS} .* are of version 0'):
        make_table(description, 'one')
    description.write_text(yaml.safe_dump({**content, 'numerics': 0, 'runs': dict(Plain='plain_seed*')}))
    assert len(make_table(description, 'one')) == 4


def test_rows_of_runs_that_are_planned_are_left_out_till_they_are_made(results):
    rows = [dict(runs='Plain'), dict(runs='Later')]
    description = results(form='means', tests=TESTS, rows=rows)
    content = yaml.safe_load(description.read_text())
    content['runs']['Later'] = 'later_seed*'
    content['tables']['two'] = dict(
        form='differences',
        tests=['kvasir'],
        rows=[dict(what='a', of=['Later', 'Plain']), dict(what='b', of=['Taught', 'Plain'])],
    )
    content['tables']['three'] = dict(form='runs', tests=dict(Kvasir='kvasir'))
    description.write_text(yaml.safe_dump({**content, 'planned': True}))
    assert [line.split(' | ')[0] for line in make_table(description, 'one')[2:]] == ['| Plain']
    assert [line.split(' | ')[0] for line in make_table(description, 'two')[2:]] == ['| b']
    assert len(make_table(description, 'three')) == 6
    content['tables']['one']['rows'][1]['runs'] = 'Latter'
    description.write_text(yaml.safe_dump({**content, 'planned': True}))
    with pytest.raises(ValueError, match="no runs 'Latter'"):
        make_table(description, 'one')


def test_figures_show_the_runs_that_are_made(results, tmp_path, monkeypatch, capsys):
    description = results(form='runs', tests=dict(Kvasir='kvasir'))
    content = yaml.safe_load(description.read_text())
    content['runs']['Later'] = 'later_seed*'
    content['planned'] = True
    content['figures'] = {
        'labels': dict(
            label='labels', tests=['kvasir'], points={'A': {28: 'Plain', 112: 'Later'}, 'B': {14: 'Taught'}}
        ),
        'cost': dict(label='time', tests=['kvasir'], costs='speed.json', points={'B': {'MT': 'Taught'}}),
        'unknown': dict(label='time', tests=['kvasir'], costs='speed.json', points={'B': {'XT': 'Taught'}}),
        'none': dict(label='labels', tests=['kvasir'], points={'A': {112: 'Later'}}),
        'half': dict(label='labels', points={}),
    }
    description.write_text(yaml.safe_dump(content))
    label, tests, points = figure_points(description, 'labels')
    assert (label, tests) == ('labels', ['kvasir'])
    assert [(name, place, folder.name) for name, place, folder in points] == [
        *(('A', 28, f'plain_seed{seed}') for seed in (0, 1)),
        *(('B', 14, f'taught_seed{seed}') for seed in (0, 1)),
    ]
    assert {place for _, place, _ in figure_points(description, 'cost').points} == {2.449}
    for name, message in (
        ('unknown', "no cost of 'XT'; there are MT"),
        ('none', "no run of the figure 'none' has been made yet"),
        ('half', "figure 'half' must have label, tests and points"),
        ('all', "no figure 'all'; there are cost, half, labels"),
    ):
        with pytest.raises(ValueError, match=message):
            figure_points(description, name)
    arguments = ('against', '--described', description, 'labels', '--out', tmp_path / 'figure')
    run_tool(monkeypatch, *arguments, tool='visualize.py')
    assert (tmp_path / 'figure.png').is_file() and 'figure.pdf' in capsys.readouterr().out
    for asked, message in (
        (('against',), 'no run is given: give NAME@NUMBER=PATH, or --described'),
        ((*arguments, '--label', 'cost', '--datasets', 'kvasir'), '--described says label, datasets, too'),
    ):
        with pytest.raises(SystemExit):
            run_tool(monkeypatch, *asked, tool='visualize.py')
        assert message in capsys.readouterr().err


def test_a_pattern_without_folders_and_a_folder_without_seed_are_told(results, tmp_path):
    description = results(form='runs', tests=dict(Kvasir='kvasir'))
    content = yaml.safe_load(description.read_text())
    description.write_text(yaml.safe_dump({**content, 'runs': dict(A='absent_*')}))
    with pytest.raises(ValueError, match="no folder fits 'absent_\\*'"):
        make_table(description, 'one')
    (tmp_path / 'plain_seed0').rename(tmp_path / 'plain_best')
    description.write_text(yaml.safe_dump({**content, 'runs': dict(A='plain_best')}))
    with pytest.raises(ValueError, match='does not end with _seed and a number'):
        make_table(description, 'one')
    description.write_text('- a list')
    with pytest.raises(ValueError, match='must have the two keys runs and tables'):
        make_table(description, 'one')
