"""Run the tests that train under other seeds, start weights and instruction sets, and write what holds as a table.

    python tests/robustness.py                      all variations of the quick tests that train
    python tests/robustness.py --only seed -- -m trained tests/test_cac.py

What comes after ``--`` goes to pytest in place of ``-m 'trained and not slow'``. The status is 1 where a test fails.
Each variation is a run of pytest of its own, since torch chooses its instructions as it starts; variation.py has what
a seed and a disturbance change.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from variation import DISTURB, SEED

ROOT = Path(__file__).parents[1]
# Relative, some ten units in the last place of a float: what another machine changes within a step or two.
SIZE = '1e-6'


def variations() -> Iterator[tuple[str, dict[str, str]]]:
    """Names of the variations and what each sets in the environment."""
    for number in range(10):
        yield f'seed {number}', {SEED: str(number)}
    for number in range(10):
        yield f'disturbed {number}', {SEED: str(number), DISTURB: SIZE}
    for capability in ('default', 'avx2'):
        yield capability, {'ATEN_CPU_CAPABILITY': capability}
        yield f'{capability} disturbed', {'ATEN_CPU_CAPABILITY': capability, DISTURB: SIZE}
    # Convolutions are oneDNN's, which chooses its instructions itself.
    yield 'onednn sse41', {'ONEDNN_MAX_CPU_ISA': 'SSE41'}


def run(settings: dict[str, str], arguments: list[str]) -> dict[str, str]:
    """Outcome by test: ``passed``, ``skipped`` or ``failed``."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, 'report.xml')
        command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', f'--junitxml={report}', *arguments]
        environment = dict(os.environ, OMP_NUM_THREADS='1', **settings)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode > 1 or not report.is_file():
            raise RuntimeError(f'{" ".join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}')
        outcomes = {}
        for case in ET.parse(report).iter('testcase'):
            found = {child.tag for child in case}
            name = f'{case.get("classname").rpartition(".")[2]}::{case.get("name")}'
            failed = outcomes.get(name) == 'failed' or found & {'failure', 'error'}
            outcomes[name] = 'failed' if failed else 'skipped' if 'skipped' in found else 'passed'
        return outcomes


def table(outcomes: dict[str, dict[str, str]]) -> str:
    """A table in Markdown: a row a group of variations, its numbers of tests, and those that fail."""
    lines = ['| variation | passed | skipped | failed | which |', '|---|---|---|---|---|']
    for name, found in outcomes.items():
        count = {outcome: list(found.values()).count(outcome) for outcome in ('passed', 'skipped', 'failed')}
        which = ', '.join(test for test, outcome in found.items() if outcome == 'failed')
        lines.append(f'| {name} | {count["passed"]} | {count["skipped"]} | {count["failed"]} | {which} |')
    return '\n'.join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', help='variations whose name contains this')
    parser.add_argument('--jobs', type=int, default=1, help='variations at a time (default: 1)')
    parser.add_argument('pytest', nargs='*', help='arguments of pytest, after --')
    args = parser.parse_args()
    chosen = {name: settings for name, settings in variations() if (args.only or '') in name}
    if not chosen:
        parser.error(f'no variation is called {args.only!r}; there are {", ".join(name for name, _ in variations())}')
    arguments = args.pytest or ['-m', 'trained and not slow']

    def outcome(settings: dict[str, str]) -> dict[str, str]:
        return run(settings, arguments)

    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = {}
        for name, found in zip(chosen, pool.map(outcome, chosen.values()), strict=True):
            outcomes[name] = found
            failed = [test for test, how in found.items() if how == 'failed']
            print(f'{name}: {len(found)} tests, {len(failed)} failed', *failed, sep='\n  ', flush=True)
    print('\n' + table(outcomes))
    return int(any('failed' in found.values() for found in outcomes.values()))


if __name__ == '__main__':
    sys.exit(main())
