#!/usr/bin/env bash
# Tests that import Megatron, with another release of it. Usage: tools/test_megatron.sh 0.19 TEST...
#
# The release (and triton, which it imports from 0.18 on) goes into <environment>/megatron-<release>, which is put first on
# PYTHONPATH; the environment stays as it is. Where pip cannot get the release, this fails and says so. A newer one is announced.
set -euo pipefail

readonly root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly venv="${MEGATRON_SPPO_VENV:-$root/.venv}"
readonly release="${1:?usage: tools/test_megatron.sh RELEASE TEST...}"
readonly folder="$venv/megatron-$release"
shift
cd "$root"
export PATH="$venv/bin:$PATH" OMP_NUM_THREADS=1

# Megatron's wheels for Python 3.11 ask for 3.12 from 0.17 on, and run all the same.
get() { python -m pip "$@" -qq --disable-pip-version-check --no-deps --ignore-requires-python; }

if [[ ! -d "$folder" ]]; then
    scratch="$(mktemp -d "$venv/megatron.XXXXXX")"
    trap 'rm -rf "$scratch"' EXIT
    if ! get install --no-compile --target "$scratch/site" "megatron-core~=$release.0" triton; then
        echo "test_megatron: pip cannot get megatron-core $release (or triton) for $(python -V): upstream has moved, or the index is out of reach" >&2
        exit 1
    fi
    mv "$scratch/site" "$folder"
fi

newer="${release%.*}.$((${release##*.} + 1))"
if get download --dest "$(mktemp -d)" "megatron-core>=$newer" 2>/dev/null; then
    echo "test_megatron: upstream has moved: megatron-core $newer or later is out, and $release is the newest that is tested here"
fi

export PYTHONPATH="$folder${PYTHONPATH:+:$PYTHONPATH}"
# Found, not imported: importing takes twelve seconds.
python - <<'EOF'
from importlib.metadata import version
from importlib.util import find_spec

print(f"test_megatron: megatron-core {version('megatron-core')} from {find_spec('megatron.core').origin}", flush=True)
EOF
exec python -m pytest "$@"
