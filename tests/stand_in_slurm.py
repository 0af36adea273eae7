"""Stand-ins for ``sbatch``, ``squeue`` and ``scancel``: shell scripts that keep jobs as folders."""

from __future__ import annotations

from pathlib import Path

# A job's folder has its state, the number of its process, and what it was cancelled by. Beside the programs lie the
# switches: ``refuse`` (sbatch says no), ``hold`` (jobs stay in the queue), ``down`` (nobody answers).
PROGRAMS = dict(
    sbatch=r"""
if [ -e "$here/refuse" ]; then echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1; fi
log=/dev/null
while [ $# -gt 0 ]; do
    case $1 in
        --wait) wait=1 ;;
        -o) shift; log=$1 ;;
        --wrap) shift; wrap=$1 ;;
    esac
    shift
done
number=1
until mkdir "$here/jobs/$number" 2>/dev/null; do number=$((number + 1)); done
job=$here/jobs/$number
echo PENDING >"$job/state"
setsid bash -c '
    here=$0 job=$1 log=$2 wrap=$3
    stand() { echo "$1" >"$job/new" && mv "$job/new" "$job/state"; }
    while [ -e "$here/hold" ] && [ ! -e "$job/cancelled" ]; do sleep 0.02; done
    if [ ! -e "$job/cancelled" ]; then
        bash -c "$wrap" >>"$log" 2>&1 &
        echo $! >"$job/process"
        stand RUNNING
        wait $! && state=COMPLETED || state=FAILED
    fi
    if [ -e "$job/cancelled" ]; then state=CANCELLED; fi
    stand $state
' "$here" "$job" "$log" "$wrap" >/dev/null 2>&1 &
echo "Submitted batch job $number"
until [ -z "$wait" ] || grep -qE 'COMPLETED|FAILED|CANCELLED' "$job/state"; do sleep 0.02; done
[ -z "$wait" ] || grep -q COMPLETED "$job/state"
""",
    squeue=r"""
if [ -e "$here/down" ]; then echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; fi
for job in "$here"/jobs/*/; do
    number=$(basename "$job")
    [ "$number" = '*' ] || echo "$number|$(cat "$job/state")|0:07|Resources"
done
""",
    scancel=r"""
if [ -e "$here/down" ]; then echo 'scancel: error: Unable to contact slurm controller' >&2; exit 1; fi
touch "$here/jobs/$1/cancelled"
[ ! -e "$here/jobs/$1/process" ] || kill -TERM "$(cat "$here/jobs/$1/process")"
""",
)


def write_programs(folder: Path) -> None:
    """Make the folder of a cluster without jobs, with the programs in it."""
    (folder / 'jobs').mkdir(parents=True)
    for name, text in PROGRAMS.items():
        program = folder / name
        program.write_text(f'#!/bin/bash\nhere=$(cd "$(dirname "$0")" && pwd)\n{text.lstrip()}')
        program.chmod(0o755)
