#!/usr/bin/env bash
# Builds the CPU environment once; a no-op afterwards. Usage: tools/setup_env.sh cpu
#
#   MEGATRON_SPPO_VENV   where it goes (default: .venv in the repository)
#   PYTHON               the Python 3.11 to build it from (default: python3.11, else python3)
#
# The lock is complete, so pip installs it without resolving. Safe when two run at once: the second waits and finds it done.
set -euo pipefail

readonly root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly venv="${MEGATRON_SPPO_VENV:-$root/.venv}"
readonly lock="$root/requirements/cpu.lock"
readonly stamp="$venv/.megatron_sppo_stamp"
readonly torch_cpu_index="https://download.pytorch.org/whl/cpu"

fail() {
    echo "setup_env: $*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3}; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 with its venv module was not found as '${PYTHON:-python3.11 or python3}'; install it or name it, as in PYTHON=/path/to/python3.11 $0 cpu"
}

wanted_stamp() {
    cat "$lock" "$root/setup.py" "${BASH_SOURCE[0]}" | sha256sum | cut -d' ' -f1
}

is_current() {
    [[ -f "$stamp" && "$(cat "$stamp")" == "$(wanted_stamp)" ]]
}

install_lock() {
    # --no-compile: byte-compiling what is never imported costs more than compiling the rest at first import (verify's, below).
    local pip=("$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-compile --no-deps)
    local torch
    torch="$(grep '^torch==' "$lock")"
    # Where the CPU build of torch is offered under its own name it is taken; otherwise from PyTorch's CPU index.
    if ! "${pip[@]}" "$torch" 2>/dev/null; then
        echo "setup_env: $torch is not offered by pip's default index; using $torch_cpu_index"
        "${pip[@]}" --extra-index-url "$torch_cpu_index" "$torch"
    fi
    "${pip[@]}" -r "$lock"
    "${pip[@]}" --no-build-isolation -e "$root"
}

# Where PYTHONDONTWRITEBYTECODE is set, as in many images, nothing would ever keep what an import compiled: `import vllm` took 17 s, not 6.
verify() {
    (cd / && unset PYTHONDONTWRITEBYTECODE && HF_HUB_OFFLINE=1 VLLM_LOGGING_LEVEL=ERROR "$venv/bin/python" -W ignore - <<'PY'
import torch

assert torch.version.cuda is None, f"torch {torch.__version__} is a CUDA build"
import megatron.core
import megatron_sppo
from vllm import LLM, __version__ as vllm_version  # `import vllm` alone is lazy and proves little

print(f"setup_env: torch {torch.__version__}, vllm {vllm_version}, megatron-core {megatron.core.__version__}")
PY
    ) || fail "the environment in $venv does not import; delete that folder and run this again"
}

[[ "${1:-}" == cpu ]] || fail "usage: tools/setup_env.sh cpu (for GPUs see docker/README.md)"
is_current && exit 0

mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
is_current && exit 0

if [[ ! -x "$venv/bin/python" ]]; then
    python="$(find_python)"
    echo "setup_env: building $venv with $python (about 600 MB to download, a few minutes)"
    "$python" -m venv "$venv"
fi
"$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    fail "$venv was made by another Python than 3.11; delete that folder and run this again"
install_lock
verify
wanted_stamp >"$stamp"
echo "setup_env: ready in ${SECONDS} s"
