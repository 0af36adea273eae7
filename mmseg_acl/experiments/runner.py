"""Run a grid, several runs at a time: skip what is done, go on where it stopped, outlive what fails."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from prettytable import PrettyTable

from mmseg_acl.datasets.polyp import DATA_ROOT_VARIABLE
from mmseg_acl.engine.start.work_dir import in_use
from mmseg_acl.errors import RunError, Stopped
from mmseg_acl.evaluation.cross_dataset import OWN, present_sets
from mmseg_acl.evaluation.result_files import RESULTS
from mmseg_acl.experiments.commands import Printed, Process
from mmseg_acl.experiments.grid import Experiment, Run
from mmseg_acl.experiments.records import (
    TEST,
    checkpoint_iteration,
    collect,
    final_checkpoint,
    find_trained,
    folder_for,
    logged_iteration,
    outdated,
    read_record,
    recorded,
    scored_sets,
    spent_seconds,
    write_record,
)
from mmseg_acl.experiments.slurm import BusyError, Memory, Queue, SlurmError, SlurmJob, Standing, submits
from mmseg_acl.numerics import NUMERICS

LOCAL = '{python} {command}'
PLACEHOLDERS = ('command', 'python', 'name', 'log', 'slot')
TRAIN = 'train'
SHOWN_LINES = 15


@dataclass(frozen=True)
class Settings:
    """How a grid is run.

    Attributes:
        tools: Folder of ``train.py`` and ``test.py``.
        work_root: Each run trains in a folder of its own below this one.
        results: What is worth keeping of a finished run goes to a folder below this one.
        jobs: Runs at a time.
        command: Template of the command that trains, see :func:`fill_template`.
        test_command: Template of the command that tests.
        reuse: Folders with runs of ``tools/train.py`` that need not be repeated.
        report_every: Seconds between two lines about the progress.
        poll: Seconds between two looks at the running commands.
        ask_every: Seconds between two questions to a cluster about its jobs.
    """

    tools: Path
    work_root: Path
    results: Path
    jobs: int = 1
    command: str = LOCAL
    test_command: str = LOCAL
    reuse: tuple[Path, ...] = ()
    report_every: float = 60.0
    poll: float = 0.5
    ask_every: float = 15.0

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f'{self.jobs} runs at a time: it must be at least 1')
        if self.work_root.resolve() == self.results.resolve():
            raise ValueError(f'{self.work_root} is the folder to work in and the one for results: give two')
        for template in (self.command, self.test_command):
            fill_template(template, ['x'], Path('x'), 'x', 0)


@dataclass
class Job:
    """A command under way for a run.

    Attributes:
        run: The run.
        stage: ``train`` or ``test``.
        folder: The run's own folder.
        trained: Where its checkpoints are; another folder where a finished training was found.
        command: What was started.
        printed: What it prints, by the tool first.
    """

    run: Run
    stage: str
    folder: Path
    trained: Path
    command: Process | SlurmJob | None = None
    slot: int = 0
    first_iteration: int = 0
    printed: tuple[Printed, ...] = ()

    @property
    def log(self) -> Path:
        """What the tool prints."""
        return self.folder / f'{self.stage}.log'

    @property
    def launch_log(self) -> Path:
        """What a command prints that has the tool write its log itself."""
        return self.folder / 'launch.log'

    @property
    def iteration(self) -> int:
        """How far the training is known to be."""
        return max(self.first_iteration, logged_iteration(self.folder)) if self.stage == TRAIN else self.run.max_iters


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end.

    Attributes:
        run: The run.
        stage: ``train`` or ``test``.
        reason: What went wrong, in a few words.
        log: The whole of what was printed.
        lines: Its end.
    """

    run: Run
    stage: str
    reason: str
    log: Path
    lines: list[str]

    def __str__(self) -> str:
        shown = '\n'.join(f'    {line}' for line in self.lines)
        return f'{self.run.name}: {self.stage}.py {self.reason}; the end of {self.log}:\n{shown}'


def run_experiment(experiment: Experiment, settings: Settings) -> None:
    """Train and test every run that is not done yet, and print how it goes.

    A run is done when its results, on all of the experiment's test sets that are at hand, lie below
    ``settings.results``: runs are told by the hash of their config and their seed, not by the folder's name. One that
    was interrupted goes on from its last checkpoint. A run that fails is reported and the others go on. A job of
    Slurm that an earlier call has left is waited for.

    Raises:
        ValueError: No test set of the experiment is at hand, or nobody says how an earlier call's job stands.
        RunError: Some run failed; the message has the end of its log.
        Stopped: By Ctrl-C or SIGTERM, after the commands under way have been stopped in order.
    """
    _Runner(experiment, settings).run()


def fill_template(template: str, command: Sequence[str], log: Path, name: str, slot: int) -> list[str]:
    """Arguments of a command from its template.

    A template is split as a shell does, but no shell runs it. ``{command}`` is the tool with its arguments,
    separate or, within a longer argument (``--wrap "{python} {command}"``), quoted for a shell; ``{python}`` this
    interpreter, ``{log}`` the file for what is printed, ``{name}`` the run's name, ``{slot}`` a number below the
    number of runs at a time, such as that of a GPU.

    Raises:
        ValueError: There is no ``{command}``, or another placeholder.
    """
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise ValueError(f'the command template {template!r} cannot be split: {error}') from error
    unknown = set(re.findall(r'\{([a-z_]+)\}', template)) - set(PLACEHOLDERS)
    if '{command}' not in template or unknown:
        allowed = ', '.join(f'{{{name}}}' for name in PLACEHOLDERS)
        raise ValueError(
            f'the command template {template!r} {f"has {{{min(unknown)}}}" if unknown else "lacks {command}"}; '
            f'there are {allowed}, and {{command}} must be among them, as in {LOCAL!r}'
        )
    values = dict(command=shlex.join(command), python=sys.executable, name=name, log=str(log), slot=str(slot))
    filled = []
    for word in words:
        if word == '{command}':
            filled += command
        else:
            filled.append(re.sub(r'\{([a-z_]+)\}', lambda match: values[match[1]], word))
    return filled


def show_status(experiment: Experiment, results: Path, work_root: Path) -> str:
    """A table of all runs: how far each has come, and on which sets it was scored."""
    table = PrettyTable(['run', 'state', 'iteration', 'scored on'], title=experiment.title)
    table.align = 'l'
    done, work = recorded(results), recorded(work_root)
    queue = Queue(math.inf)
    counts: dict[str, int] = {}
    for run in experiment.distinct:
        folder = work.get(run.key)
        iteration = max(checkpoint_iteration(folder), logged_iteration(folder)) if folder else 0
        sets = scored_sets(done[run.key]) if run.key in done else set()
        if sets:
            state, iteration = 'done', run.max_iters
        elif folder is None:
            state = 'not begun'
        elif in_use(folder):
            state = 'running'
        elif standing := _standing(folder, queue):
            state = standing.state.lower()
        else:
            state = read_record(folder).get('state', 'interrupted')
            # What was done has no sound results any more.
            state = {'started': 'interrupted', 'done': 'without results'}.get(state, state)
        counts[state] = counts.get(state, 0) + 1
        scored = [name for name in experiment.test_sets if name in sets]
        table.add_row([run.name, state, f'{iteration} of {run.max_iters}', ' '.join(scored)])
    lines = [table.get_string(), ', '.join(f'{count} {state}' for state, count in counts.items())]
    return '\n'.join([*lines, *_left_out(experiment, (results, work_root))])


def _standing(folder: Path, queue: Queue) -> Standing | None:
    """How the job that a folder remembers stands; None where there is none that may still run."""
    memory = Memory.read(folder)
    if memory is None:
        return None
    queue.look()
    standing = Standing('UNKNOWN') if queue.fault else queue[memory.number]
    return standing if standing and not standing.over else None


def _left_out(experiment: Experiment, roots: Iterable[Path]) -> list[str]:
    """A line for each root with runs that another version of the training steps made."""
    found = [(root, outdated(root, experiment.distinct)) for root in roots]
    return [
        f'{len(folders)} of these runs, such as {folders[0].name}, stand in {root} from another version of the '
        f'training steps than {NUMERICS}, the present one: they stay as they are and do not count'
        for root, folders in found
        if folders
    ]


class _Runner:
    """The loop over running commands."""

    def __init__(self, experiment: Experiment, settings: Settings) -> None:
        self.experiment, self.settings = experiment, settings
        self.failures: list[Failure] = []
        self.done = 0
        self.active: list[Job] = []
        self.waiting: deque[Job] = deque()
        self.queue = Queue(settings.ask_every)
        self.began = self.reported = 0.0
        self.iterations_done = 0

    def run(self) -> None:
        self._plan()
        before = signal.signal(signal.SIGTERM, _raise_stopped)
        self.began = self.reported = time.monotonic()
        try:
            while self.waiting or self.active:
                self._start_waiting()
                time.sleep(self.settings.poll)
                for job in [job for job in self.active if job.command.ended()]:
                    self._end(job)
                if time.monotonic() - self.reported >= self.settings.report_every:
                    self._report()
        except (KeyboardInterrupt, Stopped) as error:
            self._stop_all()
            number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
            raise Stopped(
                f'stopped by {number.name}: {self.done} of {len(self.experiment.distinct)} runs are done; the same '
                'command goes on from there',
                number,
            ) from error
        finally:
            signal.signal(signal.SIGTERM, before)
        _say(f'{self.done} of {len(self.experiment.distinct)} runs are done, results in {self.settings.results}')
        if self.failures:
            told = '\n\n'.join(map(str, self.failures))
            raise RunError(f'{len(self.failures)} runs failed:\n\n{told}\n\nThe same command tries them again')

    def _plan(self) -> None:
        """Sort runs into those that are done and those to train or test."""
        runs, settings = self.experiment.distinct, self.settings
        results = recorded(settings.results)
        trained = find_trained(settings.reuse, runs) if settings.reuse else {}
        taken: set[Path] = set()
        for run in runs:
            sets = self._sets(run)
            if not sets:
                raise ValueError(
                    f'none of the test sets {", ".join(self.experiment.test_sets)} is at hand: set '
                    f'{DATA_ROOT_VARIABLE} to the folder that holds one of them'
                )
            folder = folder_for(settings.work_root, run, taken)
            taken.add(folder)
            source = folder if final_checkpoint(folder, run) else trained.get(run.key, folder)
            scored = scored_sets(results[run.key]) if run.key in results else set()
            missing = set(sets) - scored
            if not missing:
                self.done += 1
            elif self._is_under_way(Job(run, TRAIN, folder, source)):
                pass
            elif final_checkpoint(source, run):
                self.waiting.append(Job(run, TEST, folder, source))
            elif scored:
                self.done += 1
                _say(f'{run.name}: done, but not scored on {", ".join(sorted(missing))}: its checkpoint is gone')
            else:
                self.waiting.append(Job(run, TRAIN, folder, folder))
        under_way = f'{len(self.active)} under way, ' if self.active else ''
        _say(
            f'{self.experiment.title}: {len(runs)} runs, {self.done} done, {under_way}{len(self.waiting)} to do, '
            f'{settings.jobs} at a time, in {settings.work_root}'
        )
        for line in _left_out(self.experiment, (settings.results, settings.work_root)):
            _say(line)

    def _is_under_way(self, job: Job) -> bool:
        """Whether somebody works on a run already; a job of Slurm that an earlier call has left is waited for."""
        name = job.run.name
        try:
            job.command = SlurmJob.recall(job.folder, self.queue)
        except BusyError:
            _say(f'{name}: left out, another process waits for its job')
            return True
        if job.command is None:
            if in_use(job.folder):
                _say(f'{name}: left out, another process is training it')
                return True
            return False
        job.stage = job.command.stage
        job.first_iteration = job.iteration
        if job.command.ended():
            self._note_time(job)
            return False
        job.printed = Printed(job.log), Printed(job.launch_log)
        self.active.append(job)
        _say(f'{name}: {job.stage}.py goes on as job {job.command.number} of Slurm, log in {job.log}')
        return True

    def _sets(self, run: Run) -> list[str]:
        present = [*present_sets(run.config), OWN]
        return [name for name in self.experiment.test_sets if name in present]

    def _start_waiting(self) -> None:
        while self.waiting and len(self.active) < self.settings.jobs:
            job = self.waiting.popleft()
            job.slot = min(set(range(self.settings.jobs)) - {other.slot for other in self.active})
            job.first_iteration = checkpoint_iteration(job.folder)
            try:
                self._start(job)
            except OSError as error:
                self._fail(job, f'could not be started: {error}')
            except BusyError:
                _say(f'{job.run.name}: left out, another process waits for its job')

    def _start(self, job: Job) -> None:
        run, settings = job.run, self.settings
        write_record(job.folder, run, state='started')
        template = settings.command if job.stage == TRAIN else settings.test_command
        words = fill_template(template, self._command(job), job.log, run.name, job.slot)
        # Where the tool writes its log itself, what starts it needs a file of its own.
        output = job.launch_log if '{log}' in template else job.log
        job.printed = tuple(map(Printed.from_now, dict.fromkeys((job.log, output))))
        if job.stage == TEST:  # or what an earlier test has left would be taken for the scores of this one
            (job.folder / TEST / RESULTS).unlink(missing_ok=True)
        if submits(template):
            job.command = SlurmJob.submit(words, job.folder, job.stage, output, self.queue)
        else:
            job.command = Process(words, output)
        self.active.append(job)
        at = f', from iteration {job.first_iteration}' if job.stage == TRAIN and job.first_iteration else ''
        _say(f'{run.name}: {job.stage}.py started{at}, log in {job.log}')

    def _command(self, job: Job) -> list[str]:
        """The tool and its arguments, without the interpreter."""
        run, tools = job.run, self.settings.tools
        config, options = os.path.relpath(run.path), (['--cfg-options', *run.options] if run.options else [])
        if job.stage == TRAIN:
            # A scheduler may start the command again, after it has left a checkpoint.
            where = ['--work-dir', str(job.folder), '--seed', str(run.seed), '--auto-resume']
            return [os.path.relpath(tools / 'train.py'), config, *where, *options]
        checkpoint = str(final_checkpoint(job.trained, run))
        how = ['--datasets', *self._sets(run), '--protocol', *self.experiment.protocols]
        out = ['--out', str(job.folder / TEST)]
        return [os.path.relpath(tools / 'test.py'), config, checkpoint, *how, *out, *options]

    def _end(self, job: Job) -> None:
        """See to a command that has ended: what it left counts, whatever its status says."""
        run, fault = job.run, job.command.fault
        self.active.remove(job)
        if job.stage == TRAIN:
            self.iterations_done += job.iteration - job.first_iteration
            self._note_time(job)
            is_complete = final_checkpoint(job.folder, run) is not None
        else:
            is_complete = set(self._sets(run)) <= scored_sets(job.folder / TEST)
        if is_complete and fault:
            _say(f'{run.name}: {job.stage}.py {fault}, but has left all that it was to')
        if is_complete and job.stage == TRAIN:
            self.waiting.appendleft(Job(run, TEST, job.folder, job.folder))
        elif is_complete:
            self._finish(job)
        else:
            missing = f'no iter_{run.max_iters}.pth (a template has to wait for the end)'
            missing = missing if job.stage == TRAIN else f'no scores in {job.folder / TEST}'
            self._fail(job, fault or f'ended well, but left {missing}')

    def _finish(self, job: Job) -> None:
        """Keep what a run has brought."""
        run = job.run
        write_record(job.folder, run, state='done')
        results = folder_for(self.settings.results, run)
        collect(job.trained, job.folder, results, run)
        if not set(self._sets(run)) <= scored_sets(results):  # such as a log with losses that are no numbers
            self._fail(job, f'ended well, but what it left in {results} is not sound')
            return
        self.done += 1
        _say(f'{run.name}: done')
        self._report()

    def _note_time(self, job: Job) -> None:
        if job.stage == TRAIN:
            write_record(job.folder, job.run, seconds=round(spent_seconds(job.folder) + job.command.seconds))

    def _fail(self, job: Job, reason: str) -> None:
        write_record(job.folder, job.run, state='failed')
        told = [(printed.path, text) for printed in job.printed if (text := printed.read()).strip()]
        log, text = told[0] if told else (job.log, '')
        lines = text.replace('\r', '\n').splitlines()[-SHOWN_LINES:]
        self.failures.append(Failure(job.run, job.stage, reason, log, lines))
        _say(f'FAILED {self.failures[-1]}')

    def _report(self) -> None:
        """One line: what is done and running, and when all will be."""
        self.reported = time.monotonic()
        counts = [f'{self.done} of {len(self.experiment.distinct)} done']
        counts += [f'{len(self.failures)} failed'] if self.failures else []
        running = [
            f'{job.run.name} '
            + (f'{job.iteration}/{job.run.max_iters}' if job.stage == TRAIN else 'being tested')
            + (f', {job.command.waits_for}' if job.command.waits_for else '')
            for job in self.active
        ]
        _say('; '.join([', '.join(counts), *running, self._expected_end()]))

    def _expected_end(self) -> str:
        """From the iterations that all runs together have done a second; testing is short beside it."""
        training = [job for job in self.active if job.stage == TRAIN]
        done = self.iterations_done + sum(job.iteration - job.first_iteration for job in training)
        left = sum(job.run.max_iters - job.iteration for job in training)
        left += sum(
            job.run.max_iters - checkpoint_iteration(job.folder) for job in self.waiting if job.stage == TRAIN
        )
        if not left:
            return 'about to end'
        if not done:
            return 'end not known yet'
        seconds = left * (time.monotonic() - self.began) / done
        end = time.strftime('%a %H:%M', time.localtime(time.time() + seconds))
        return f'expected end {end}, in {_duration(seconds)}'

    def _stop_all(self) -> None:
        """Have all commands save and stop as they do on a scheduler's signal; a second Ctrl-C ends them at once."""
        _say(f'stopping {len(self.active)} commands (Ctrl-C again: at once)')
        try:
            for job in self.active:
                try:
                    job.command.stop()
                except SlurmError as error:
                    _say(f'{job.run.name}: {error}')
            while not all([job.command.ended() for job in self.active]):
                time.sleep(self.settings.poll)
        except (KeyboardInterrupt, Stopped):
            for job in self.active:
                job.command.kill()
        for job in self.active:
            self._note_time(job)


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    raise Stopped('stopped', number)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f'{minutes // 60} h {minutes % 60} min' if minutes >= 60 else f'{max(minutes, 1)} min'


def _say(text: str) -> None:
    print(f'[{time.strftime("%H:%M:%S")}] {text}', flush=True)
