#!/usr/bin/env bash
# Tests that import Megatron, with another release of it. Usage: tools/test_megatron.sh 0.19 TEST...
#
# The release (and triton, which it imports from 0.18 on) goes into <environment>/megatron-<release>, which is put first on
# PYTHONPATH; the environment stays as it is. Where pip cannot get the release, this fails and says so. A newer one is announced.
set -euo pipefail

readonly release="${1:?usage: tools/test_megatron.sh RELEASE TEST...}"
shift
source "$(dirname "${BASH_SOURCE[0]}")/release_overlay.sh"
overlay "megatron-$release" "megatron-core~=$release.0" triton

newer="${release%.*}.$((${release##*.} + 1))"
if get download --dest "$(mktemp -d)" "megatron-core>=$newer" 2>/dev/null; then
    echo "test_megatron: upstream has moved: megatron-core $newer or later is out, and $release is the newest that is tested here"
fi

# Found, not imported: importing takes twelve seconds.
python - <<'EOF'
from importlib.metadata import version
from importlib.util import find_spec

print(f"test_megatron: megatron-core {version('megatron-core')} from {find_spec('megatron.core').origin}", flush=True)
EOF
exec python -m pytest "$@"
