"""Jobs of Slurm: their numbers, kept in the runs' folders, how they stand, and how they are ended."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.engine.start.work_dir import take_lock
from mmseg_acl.evaluation.result_files import read_json
from mmseg_acl.experiments.commands import Process

MEMORY, LOCK = 'job.json', 'job.lock'
# What sbatch prints, also with --parsable. A job on another cluster (--clusters) is not this controller's.
SUBMITTED = re.compile(r'^(?:Submitted batch job )?(\d+)\n', re.M)
ASK = ('squeue', '--me', '--noheader', '--states=all', '--format=%A|%T|%M|%r')
PENDING, RUNNING, COMPLETED = 'PENDING', 'RUNNING', 'COMPLETED'
# Whatever else Slurm says of a job, it is not over: it may be requeued, suspended, held or about to end.
OVER = {
    *('BOOT_FAIL', 'CANCELLED', COMPLETED, 'DEADLINE', 'FAILED', 'NODE_FAIL', 'OUT_OF_MEMORY', 'PREEMPTED'),
    *('REVOKED', 'TIMEOUT'),
}
TIME = re.compile(r'(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)')
# Seconds between two looks at a submission that is to be cancelled, and two questions for what was cancelled.
SUBMISSION_PAUSE, STOPPING_PAUSE = 0.1, 2.0


class SlurmError(ValueError):
    """A program of Slurm that is not there, or says no."""


@dataclass(frozen=True)
class Standing:
    """What Slurm says of a job.

    Attributes:
        state: Such as ``RUNNING``.
        seconds: How long it has run since it was last begun.
        reason: Why it waits.
    """

    state: str
    seconds: int = 0
    reason: str = ''

    @property
    def over(self) -> bool:
        """Whether it will not run any more."""
        return self.state in OVER

    def __str__(self) -> str:
        return self.state.lower() + (f' ({self.reason})' if self.state == PENDING else '')


@dataclass(frozen=True)
class Memory:
    """What a run's folder says of the job that works there.

    Attributes:
        number: Of the job; '' until it is known.
        stage: ``train`` or ``test``.
        output: Name of the file to which the submission was printed.
        start: Where in it.
    """

    number: str
    stage: str
    output: str
    start: int

    @classmethod
    def read(cls, folder: Path) -> Memory | None:
        """The memory in a folder; None where there is none, or nothing was submitted.

        Raises:
            ValueError: It is damaged.
        """
        file = folder / MEMORY
        if not file.is_file():
            return None
        content = read_json(file)
        kinds = dict(number=str, stage=str, output=str, start=int)
        if not isinstance(content, dict) or any(not isinstance(content.get(k), kind) for k, kind in kinds.items()):
            raise ValueError(
                f'{file} is no record of a job: see with squeue whether one works there, then remove the file'
            )
        found = cls(**{key: content[key] for key in kinds})
        number = found.number or _number_in(folder / found.output, found.start)
        return replace(found, number=number) if number else None

    def write(self, folder: Path) -> None:
        """Leave it in a folder."""
        write_atomically(f'{json.dumps(asdict(self), indent=2)}\n'.encode(), folder / MEMORY)


class Queue:
    """How the jobs of this user stand, all asked for at once.

    Args:
        pause: Seconds between two questions.

    Attributes:
        fault: Why the last question had no answer; '' where it had one.
    """

    def __init__(self, pause: float) -> None:
        self.pause, self.fault = pause, ''
        self._asked = -math.inf
        self._jobs: dict[str, Standing] = {}

    def __getitem__(self, number: str) -> Standing | None:
        """How a job stood when last asked; None where Slurm knew no such job any more."""
        return self._jobs.get(number)

    def look(self, since: float = -math.inf, strict: bool = False) -> None:
        """Ask, where it is time to.

        Args:
            since: Ask also where the last question was before that moment.
            strict: Whether it matters that there is an answer.

        Raises:
            SlurmError: There is none, and ``strict``.
        """
        now = time.monotonic()
        if now - self._asked >= self.pause or self._asked < since:
            self._asked = now
            try:
                self._jobs, self.fault = dict(map(_read_line, _call(*ASK).splitlines())), ''
            except SlurmError as error:
                self.fault = str(error)
        if strict and self.fault:
            raise SlurmError(self.fault)


class BusyError(ValueError):
    """Another process looks after a run's job."""


class SlurmJob:
    """A command that hands its work to Slurm: its work is over when the job is, however often that is requeued.

    Until then the run's folder remembers the job, and no other process may look after it.

    Args:
        folder: The run's folder.
        memory: Of the job.
        queue: Of all jobs.

    Raises:
        BusyError: Another process looks after the folder's job.
    """

    def __init__(self, folder: Path, memory: Memory, queue: Queue) -> None:
        self._folder, self._memory, self._queue = folder, memory, queue
        self._lock = take_lock(folder / LOCK)
        if self._lock is None:
            raise BusyError(f'another process waits for the job of {folder}')
        self._submission: Process | None = None
        self._known_since = -math.inf  # answers from before that moment say nothing of the job
        self._standing: Standing | None = None
        self._earlier = 0  # seconds of what ran before it was requeued
        self._is_over = self._is_given_up = False

    @classmethod
    def submit(cls, words: Sequence[str], folder: Path, stage: str, output: Path, queue: Queue) -> SlurmJob:
        """Call the command ``words``, which prints the job's number to the file ``output`` in the folder.

        Raises:
            OSError: It cannot be started.
            BusyError: Another process looks after the folder's job.
        """
        memory = Memory('', stage, output.name, output.stat().st_size if output.is_file() else 0)
        job = cls(folder, memory, queue)
        memory.write(folder)
        try:
            job._submission = Process(words, output)
        except OSError:
            job._forget()
            raise
        return job

    @classmethod
    def recall(cls, folder: Path, queue: Queue) -> SlurmJob | None:
        """The job that a folder remembers; None where it remembers none.

        Raises:
            ValueError: What it remembers is damaged.
            BusyError: Another process looks after it.
            SlurmError: Slurm cannot be asked how it stands.
        """
        memory = Memory.read(folder)
        if memory is None:
            (folder / MEMORY).unlink(missing_ok=True)
            return None
        job = cls(folder, memory, queue)
        try:
            queue.look(strict=True)
        except SlurmError as error:
            raise SlurmError(
                f'job {memory.number} of Slurm may still be at work in {folder}, and {error}. Call the grid where '
                f'Slurm answers; if that job is over, remove {folder / MEMORY}'
            ) from error
        return job

    @property
    def stage(self) -> str:
        """What the job does, ``train`` or ``test``."""
        return self._memory.stage

    @property
    def number(self) -> str:
        """Of the job; '' until it is known."""
        return self._memory.number

    def ended(self) -> bool:
        """Whether the job is over, or was refused."""
        if self._is_over or self._is_given_up:
            return True
        is_submitted = self._submission is None or self._submission.ended()
        if not self.number and not self._find_number():
            self._is_over = is_submitted
        else:
            self._queue.look(since=self._known_since)
            if not self._queue.fault:
                standing = self._queue[self.number]
                self._note(standing)
                # Slurm forgets after some minutes what is over, which sbatch --wait may still have to tell.
                self._is_over = standing.over if standing else is_submitted
        if self._is_over:
            self._forget()
        return self._is_over

    @property
    def fault(self) -> str:
        """How the job ended, in a few words; '' where it ended well."""
        if self._standing and self._standing.over:
            state = self._standing.state
            return '' if state == COMPLETED else f'ended as job {self.number} of Slurm: {state}'
        if self._submission is None:
            return f'ended as job {self.number} of Slurm, which knows no more of it'
        return self._submission.fault

    @property
    def seconds(self) -> float:
        """How long the job has run, without its time in the queue."""
        return self._earlier + (self._standing.seconds if self._standing else 0)

    @property
    def waits_for(self) -> str:
        """What it waits for; '' while it runs."""
        if not self.number:
            return 'being submitted'
        if self._queue.fault:
            return f'job {self.number}, of which nothing is known now ({self._queue.fault})'
        return f'job {self.number} {self._standing}' if self._standing and self._standing.state != RUNNING else ''

    def stop(self) -> None:
        """Cancel the job, which gets SIGTERM as a process would.

        Raises:
            SlurmError: It cannot be cancelled; it stays remembered, and is waited for no longer.
        """
        while not self.number and not self.ended():  # it may have been submitted just now
            time.sleep(SUBMISSION_PAUSE)
        if self._is_over:
            return
        self._queue.pause = min(self._queue.pause, STOPPING_PAUSE)
        try:
            _call('scancel', self.number)
        except SlurmError as error:
            self._is_given_up = True
            self._lock.release()
            raise SlurmError(
                f'job {self.number} of Slurm is not cancelled, the next call asks for it: {error}'
            ) from error

    def kill(self) -> None:
        """Wait no longer: Slurm itself kills what does not end after scancel."""
        if self._submission:
            self._submission.kill()
        self._lock.release()

    def _find_number(self) -> bool:
        number = _number_in(self._folder / self._memory.output, self._memory.start)
        if number:
            self._memory = replace(self._memory, number=number)
            self._memory.write(self._folder)
            self._known_since = time.monotonic()
        return bool(number)

    def _note(self, standing: Standing | None) -> None:
        if standing is None:
            return
        if self._standing and standing.seconds < self._standing.seconds:
            self._earlier += self._standing.seconds
        self._standing = standing

    def _forget(self) -> None:
        (self._folder / MEMORY).unlink(missing_ok=True)
        self._lock.release()


def submits(template: str) -> bool:
    """Whether a command template hands its work to Slurm by ``sbatch``."""
    return any(Path(word).name == 'sbatch' for word in shlex.split(template))


def _number_in(output: Path, start: int) -> str:
    """The number of the job that was submitted, in what was printed from ``start`` on; '' where there is none."""
    if not output.is_file():
        return ''
    with output.open('rb') as file:
        file.seek(start)
        match = SUBMITTED.search(file.read().decode(errors='replace'))
    return match[1] if match else ''


def _read_line(line: str) -> tuple[str, Standing]:
    """A job and how it stands, from what :data:`ASK` prints.

    Raises:
        SlurmError: It is no such line.
    """
    try:
        number, state, run_time, reason = line.split('|', 3)
    except ValueError as error:
        raise SlurmError(f'squeue said {line!r}, where {ASK[-1]} was asked for') from error
    match = TIME.fullmatch(run_time)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    return number, Standing(state, ((days * 24 + hours) * 60 + minutes) * 60 + seconds, reason)


def _call(*words: str) -> str:
    """What a program of Slurm prints.

    Raises:
        SlurmError: It is not there, or failed.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise SlurmError(f'{words[0]} cannot be called: {error.strerror}') from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ['']
        raise SlurmError(f'{words[0]} ended with status {done.returncode}: {said[-1]}')
    return done.stdout
