"""Sequence-level PPO (SPPO) for reasoning language models on Megatron-core and vLLM."""

import warnings

__version__ = "0.1.0"

# Megatron-core warns at import, once per rank and module, that its optional CUDA packages are missing. Which layers are
# used is decided in parallel/platform.py and printed at start; these lines would bury it.
warnings.filterwarnings("ignore", message=".*(Transformer Engine|Apex|[Mm]ulti.tensor|apex).*", module="megatron")
# Upstream's own housekeeping between its pinned versions: nothing that a user could act on.
warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.distributed.*is deprecated.*")
warnings.filterwarnings("ignore", message=".*grad attribute of a Tensor that is not a leaf.*", module="megatron")
warnings.filterwarnings("ignore", message=".*full scope is deprecated.*", module="megatron")
