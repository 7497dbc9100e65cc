#!/usr/bin/env bash
# Measure what models cost on a GPU, and what PyTorch's programs cost there:
#
#     bash experiments/benchmark/gpu.sh DIR [--rounds=20 --compiled ...]
#
# writes one folder per measurement into DIR; further options go to all of them. Install
# both programs in one go, so that one set of CUDA libraries serves both (cuda12 if that
# is what PyTorch brings):
#
#     python -m pip install . 'jax[cuda13]' \
#         torch torch_geometric nequip==0.6.1 torchmd-net e3nn
#
# A measurement that fails, for want of a package say, does not stop the others; the
# last line names those that failed. PYTHON names the interpreter.
set -uo pipefail

if [[ $# -lt 1 || $1 == -* ]]; then
    echo 'error: expected a folder, as in: bash experiments/benchmark/gpu.sh DIR' >&2
    exit 2
fi
out=$(realpath -m -- "$1")
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python}
# jax takes memory as it needs it, and leaves the rest to PyTorch.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

platform=$("$python" -c 'import jax; print(jax.default_backend())') || exit 2
if [[ $platform != gpu && ${JAX_PLATFORMS:-} != cpu ]]; then
    echo "error: expected a GPU, found $platform; install jax[cuda13] or jax[cuda12]," \
        'or set JAX_PLATFORMS=cpu for the processor' >&2
    exit 2
fi

failed=()
measure() {
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    "$python" -m experiments.benchmark "--out=$out/$name" "$@" || failed+=("$name")
}

measure models --figure=models "$@"
for model in nequip torchmd_et schnet equiformer egnn; do
    measure "molecules_$model" --figure=molecules "--potentials=$model" "$@"
done
measure step --figure=step "$@"

if ((${#failed[@]})); then
    printf '\nfailed: %s\n' "${failed[*]}" >&2
    exit 1
fi
