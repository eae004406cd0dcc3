#!/usr/bin/env bash
# Every check, cheapest first: lint, types, import direction, then the test tiers. Usage: tools/test.sh [pytest arguments]
#
# All checks run even when an earlier one fails; the exit code is 0 only if all passed. The GPU tier runs where CUDA is.
set -euo pipefail

readonly root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly venv="${MEGATRON_SPPO_VENV:-$root/.venv}"
cd "$root"

summary=()
failures=0

check() {
    local name="$1"
    shift
    echo
    echo "== $name: $*"
    local start=$SECONDS outcome=passed
    "$@" || outcome="FAILED (exit code $?)"
    [[ "$outcome" == passed ]] || failures=$((failures + 1))
    summary+=("$(printf '%-12s %5d s  %s' "$name" $((SECONDS - start)) "$outcome")")
}

pytest_tier() {
    local tier="$1" code=0
    shift
    [[ -d "tests/$tier" ]] || { echo "there is no tests/$tier yet"; return 0; }
    python -m pytest "tests/$tier" "$@" || code=$?
    # 5: pytest found no test. That is a tier nothing was selected in (e.g. by -k), not a failure of the code.
    [[ $code == 5 ]] && { echo "no test selected in tests/$tier"; return 0; }
    return "$code"
}

check environment tools/setup_env.sh cpu
((failures == 0)) || exit 1
export PATH="$venv/bin:$PATH" OMP_NUM_THREADS=1
unset PYTHONDONTWRITEBYTECODE # hundreds of ranks import what the first could have compiled for all

check ruff ruff check .
check format ruff format --check .
check mypy mypy
check imports lint-imports
# Unit tests run on several cores, a file on one of them. The other tiers' tests start ranks of their own, one test after the other.
check unit pytest_tier unit -n auto --maxprocesses 4 --dist loadfile "$@"
for tier in distributed engine_cpu end_to_end; do
    check "$tier" pytest_tier "$tier" "$@"
done
# Where Megatron's releases were found to differ, and a layout of each kind. Any tier can be run with any release (docs/install.md).
# This one brings Triton, whose interpreter runs our kernels on a CPU.
if (($# == 0)); then
    check core-0.19 env TRITON_INTERPRET=1 tools/test_megatron.sh 0.19 -q tests/unit/test_{logprobs,logit_kernels,versions,fp8}.py \
        tests/distributed/test_{step,hf}_parity.py -k "test_log or test_versions or test_fp8 or recompute or bce or wide_heads"
fi
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    check gpu pytest_tier gpu "$@"
else
    summary+=("$(printf '%-12s %5d s  %s' gpu 0 'skipped: no CUDA device')")
fi

echo
printf '%s\n' "${summary[@]}"
printf '%-12s %5d s  %s\n' total "$SECONDS" "$failures failed"
((failures == 0))
