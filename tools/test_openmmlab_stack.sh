#!/usr/bin/env bash
# Run the tests on OpenMMLab's own releases, in an environment of their own. See docs/stacks.md.
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    cat <<'TEXT'
usage: tools/test_openmmlab_stack.sh [arguments of pytest]

example: tools/test_openmmlab_stack.sh -m 'not slow'

VENV names the environment (default .venv-openmmlab), which is made on first use and when requirements/openmmlab.txt
has changed. PYTHON names the interpreter that makes it (default python3).
TEXT
    exit 0
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=${VENV:-.venv-openmmlab}
python=$venv/bin/python
stamp=$venv/.installed

if [[ ! -e $stamp || requirements/openmmlab.txt -nt $stamp ]]; then
    echo "Making the environment in $venv: this takes some minutes."
    "${PYTHON:-python3}" -m venv "$venv"
    # mmcv-lite is the same mmcv without its compiled operators, which take hours to build and which nothing here
    # needs; mmpretrain is an extra. torch is the one that the default stack was tested with.
    sed -e 's/^mmcv==/mmcv-lite==/' -e '/^mmpretrain/d' requirements/openmmlab.txt >"$venv/requirements.txt"
    "$python" -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)" \
        --requirement "$venv/requirements.txt" pytest matplotlib prettytable rich scipy
    # mmseg imports mmcv.ops whether or not it calls an operator, and that wants to find each of them.
    cat >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/mmcv/_ext.py" <<'STAND_IN'
"""Stands in for mmcv's compiled operators, so that mmcv.ops can be imported."""


def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(name)

    def missing(*args, **kwargs):
        raise RuntimeError(f'mmcv.ops was not compiled: there is no {name}')

    return missing
STAND_IN
    touch "$stamp"
fi
"$python" -c 'import torch, mmengine, mmcv, mmseg, numpy; print("torch", torch.__version__, " mmengine",
    mmengine.__version__, " mmcv", mmcv.__version__, " mmseg", mmseg.__version__, " numpy", numpy.__version__)'
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m pytest "$@"
