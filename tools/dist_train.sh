#!/usr/bin/env bash
# Train with several processes: one a GPU, or, where there is no GPU, that many on CPUs.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]

example: tools/dist_train.sh configs/aclnet/r50_kvasir_quarter.py 4 --work-dir work_dirs/four

On several machines, call it on each with the same CONFIG and PROCESSES (of one machine) and set
  NNODES       number of machines
  NODE_RANK    number of this one, from 0
  MASTER_ADDR  address of machine 0
  PORT         a free port of machine 0 (default 29500)
PYTHON names the interpreter (default python).
TEXT
}

if [[ $# -ge 1 && ($1 == -h || $1 == --help) ]]; then
    usage
    exit 0
fi
if [[ $# -lt 2 || ! $2 =~ ^[1-9][0-9]*$ ]]; then
    [[ $# -lt 2 ]] || echo "error: PROCESSES is '$2'; it must be a whole number of at least 1" >&2
    usage >&2
    exit 2
fi
config=$1
processes=$2
shift 2

if [[ ${NNODES:-1} == 1 && -z ${PORT:-} ]]; then
    meeting=(--standalone) # finds a free port by itself
else
    meeting=(
        --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}"
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}"
    )
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "${PYTHON:-python}" -m torch.distributed.run "${meeting[@]}" --nproc_per_node "$processes" \
    "$root/tools/train.py" "$config" --launcher pytorch "$@"
