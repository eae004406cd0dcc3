"""The one file that knows how releases of Megatron-core differ; 0.16 to 0.19 work. Does not import Megatron.

What was found between 0.16.1 and 0.19.2 by running the tests of this package with each:

* *0.17*: saving in the background asks for ``nvidia-resiliency-ext`` unless Megatron's own writers are chosen.
* *0.18*: Megatron imports ``triton`` whether there is a GPU or not, and does not say so in its requirements.
* *0.19*: an optimizer's parameter groups are recognised in a checkpoint by their learning rates, too, so that a run could not be
  resumed with another one.

What all of them need on a CPU is in :mod:`megatron_sppo.parallel.megatron_cpu`.
"""

from __future__ import annotations

import importlib.util
import runpy
from functools import cache
from pathlib import Path

from megatron_sppo.errors import UserError
from megatron_sppo.parallel.releases import Releases, release

SUPPORTED = Releases("megatron-core", oldest=(0, 16), newest=(0, 19))

# Of a parameter group: what the config's schedule says. Every group of ours has the same.
SCHEDULE_KEYS = ("max_lr", "min_lr")

_CHOOSES_WRITERS, _IMPORTS_TRITON = (0, 17), (0, 18)


@cache
def installed() -> str:
    """Megatron's version, read from its files: importing it takes seconds, and fails where triton is missing."""
    spec = importlib.util.find_spec("megatron")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "core" / "package_info.py"
        if file.is_file():
            version = str(runpy.run_path(str(file))["__version__"])
            return version.partition("+")[0]  # what follows is the commit of whatever repository one stands in
    raise UserError(f"megatron-core is not installed: pip install '{SUPPORTED.requirement}'")


def check_installed() -> str:
    """A warning in one sentence, or nothing; UserError for what cannot work."""
    warning = SUPPORTED.check(installed())
    if release(installed()) >= _IMPORTS_TRITON and importlib.util.find_spec("triton") is None:
        raise UserError(f"megatron-core {installed()} imports triton, which is not installed: pip install triton")
    return warning


def save_arguments() -> dict[str, str]:
    """For ``dist_checkpointing.save(async_sharded_save=True)``: Megatron's own writers."""
    return {"async_strategy": "mcore"} if release(installed()) >= _CHOOSES_WRITERS else {}
