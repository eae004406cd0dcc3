#!/usr/bin/env bash
# Transformer Engine's and Megatron's own Python over kernels in plain PyTorch, without a GPU: tests/transformer_engine.
#
#   tools/test_transformer_engine.sh VENV [pytest arguments]
#
# Its wheels are for torch with CUDA, so that it has an environment of its own. The one that it was last run in is in the usage message.
set -euo pipefail

usage() {
    cat >&2 <<'EOT'
usage: tools/test_transformer_engine.sh VENV [pytest arguments]

VENV is a virtual environment with
    Python 3.11 or later (3.12 was tested)
    torch built for CUDA (2.11.0; no GPU is needed)
    transformer-engine with its PyTorch extension (transformer-engine[core_cu13,pytorch] 2.12.0)
    megatron-core (0.16.1)
    transformers, and what setup.py asks for under install_requires; vllm is not needed
    pytest and hypothesis
EOT
    exit 2
}

(($# >= 1)) || usage
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$(cd "$1" 2>/dev/null && pwd)" || usage
readonly root venv python="$venv/bin/python"
shift
[[ -x "$python" ]] || usage
cd "$root"
export OMP_NUM_THREADS=1

"$python" - <<'EOT2'
import importlib
import sys

MODULES = (
    "torch transformer_engine.pytorch transformer_engine_torch megatron.core transformers numpy mpmath omegaconf yaml safetensors "
    "tokenizers pyarrow psutil pytest hypothesis"
)


def problem(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # a library that does not load raises what it likes
        return f"{name} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    return None


missing = [found for found in map(problem, MODULES.split()) if found]
if missing:
    sys.exit(f"test_transformer_engine: error: {sys.prefix} cannot import {', '.join(missing)}")
EOT2

exec "$python" -m pytest tests/transformer_engine "$@"
