#!/usr/bin/env bash
# Train as a job of Slurm, one process a GPU.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
    tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]

example: GPUS=4 GPUS_PER_NODE=4 tools/slurm_train.sh gpu aclnet configs/aclnet/r50_kvasir_quarter.py --resume

  GPUS           number of GPUs, and so of processes (default 8)
  GPUS_PER_NODE  how many of them a machine has (default 8, or GPUS if fewer)
  CPUS_PER_TASK  CPU cores a process (default 5)
  SRUN_ARGS      more arguments of srun, e.g. "--time=24:00:00 --signal=TERM@120"
PYTHON names the interpreter (default python).
TEXT
}

if [[ $# -ge 1 && ($1 == -h || $1 == --help) ]]; then
    usage
    exit 0
fi
if [[ $# -lt 3 ]]; then
    usage >&2
    exit 2
fi
if ! command -v srun >/dev/null; then
    echo 'error: there is no srun here; on a machine without Slurm use tools/dist_train.sh' >&2
    exit 2
fi
partition=$1
job=$2
config=$3
shift 3

gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# SRUN_ARGS is split into words on purpose. --kill-on-bad-exit: a process that dies ends the job.
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job" --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$root/tools/train.py" "$config" --launcher slurm "$@"
