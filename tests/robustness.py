"""Run the tests that train under other seeds, start weights and instruction sets, and write what holds as a table.

    python tests/robustness.py                      all variations of the quick tests that train
    python tests/robustness.py --only seed -- -m trained tests/test_cac.py

What comes after ``--`` goes to pytest in place of ``-m 'trained and not slow'``. The status is 1 where a test fails.
Each variation is a run of pytest of its own, since torch chooses its instructions as it starts; variation.py has what
a seed and a disturbance change.

After each variation, ``table.md`` and ``outcomes.json`` in the folder ``--out`` are written anew. A run that was
stopped goes on where it was: variations that ``outcomes.json`` has are not run again, unless a Python file or the
arguments of pytest have changed since, or pytest itself had failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from variation import DISTURB, SEED

from mmseg_acl.engine.atomic import write_atomically

ROOT = Path(__file__).parents[1]
# Relative, some ten units in the last place of a float: what another machine changes within a step or two.
SIZE = '1e-6'
# Stands for the tests of a variation in which pytest itself fails.
PYTEST = 'pytest itself'


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
            print(f'{" ".join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}', file=sys.stderr)
            return {PYTEST: 'failed'}
        outcomes = {}
        for case in ET.parse(report).iter('testcase'):
            found = {child.tag for child in case}
            name = f'{case.get("classname").rpartition(".")[2]}::{case.get("name")}'
            failed = outcomes.get(name) == 'failed' or found & {'failure', 'error'}
            outcomes[name] = 'failed' if failed else 'skipped' if 'skipped' in found else 'passed'
        return outcomes


def table(outcomes: dict[str, dict[str, str]]) -> str:
    """A table in Markdown: a row a variation, its numbers of tests, and those that fail."""
    lines = ['| variation | passed | skipped | failed | which |', '|---|---|---|---|---|']
    for name, _ in variations():
        if name not in outcomes:
            continue
        found = outcomes[name]
        count = {outcome: list(found.values()).count(outcome) for outcome in ('passed', 'skipped', 'failed')}
        which = ', '.join(test for test, outcome in found.items() if outcome == 'failed')
        lines.append(f'| {name} | {count["passed"]} | {count["skipped"]} | {count["failed"]} | {which} |')
    return '\n'.join(lines) + '\n'


def tree() -> str:
    """Fingerprint of all Python files that the tests may read."""
    fingerprint = hashlib.sha256()
    for folder in ('mmseg_acl', 'tests', 'configs', 'tools'):
        for path in sorted((ROOT / folder).rglob('*.py')):
            fingerprint.update(f'{path.relative_to(ROOT)}\0'.encode() + path.read_bytes() + b'\0')
    return fingerprint.hexdigest()


class Outcomes:
    """What was found so far, in a folder.

    Args:
        folder: Where ``outcomes.json`` and ``table.md`` are.
        key: What the outcomes hold for; those of another key are left behind.
    """

    def __init__(self, folder: Path, key: dict[str, object]) -> None:
        self.folder, self.key = folder, key
        self.found: dict[str, dict[str, str]] = {}
        stored = folder / 'outcomes.json'
        if stored.is_file():
            content = json.loads(stored.read_text())
            if content['key'] == key:
                self.found = {name: found for name, found in content['outcomes'].items() if PYTEST not in found}

    def add(self, name: str, outcome: dict[str, str]) -> None:
        """Take in a variation, and write both files."""
        self.found[name] = outcome
        content = json.dumps(dict(key=self.key, outcomes=self.found), indent=1)
        write_atomically(content.encode(), self.folder / 'outcomes.json')
        write_atomically(table(self.found).encode(), self.folder / 'table.md')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', help='variations whose name contains this')
    parser.add_argument('--jobs', type=int, default=1, help='variations at a time (default: 1)')
    parser.add_argument('--out', type=Path, default=ROOT / 'work_dirs' / 'robustness', help='folder for the table')
    parser.add_argument('pytest', nargs='*', help='arguments of pytest, after --')
    args = parser.parse_args()
    chosen = {name: settings for name, settings in variations() if (args.only or '') in name}
    if not chosen:
        parser.error(f'no variation is called {args.only!r}; there are {", ".join(name for name, _ in variations())}')
    arguments = args.pytest or ['-m', 'trained and not slow']
    outcomes = Outcomes(args.out, dict(tree=tree(), pytest=arguments))
    # A SIGTERM, too, leaves no variation in the queue.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))

    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            waiting = {
                pool.submit(run, settings, arguments): name
                for name, settings in chosen.items()
                if name not in outcomes.found
            }
            if len(waiting) < len(chosen):
                print(f'{len(chosen) - len(waiting)} of {len(chosen)} variations are in {args.out}', flush=True)
            for done in as_completed(waiting):
                name, found = waiting[done], done.result()
                outcomes.add(name, found)
                failed = [test for test, how in found.items() if how == 'failed']
                print(f'{name}: {len(found)} tests, {len(failed)} failed', *failed, sep='\n  ', flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    print('\n' + table(outcomes.found), end='')
    return int(any('failed' in outcomes.found[name].values() for name in chosen))


if __name__ == '__main__':
    sys.exit(main())
