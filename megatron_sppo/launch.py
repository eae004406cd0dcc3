"""``--nproc N``: torchrun on this machine, without its stack trace around an error that a rank has already explained."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence


def run_ranks(num_ranks: int, command: Sequence[str], name_of: Callable[[int], str] = "rank {}".format) -> int:
    """Run ``megatron-sppo <command>`` on ``num_ranks`` ranks; the exit code of the rank that failed first, else 0.

    ``name_of`` a rank is how a person calls it.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    # Left unset, torchrun gives each rank one thread and five lines of warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_ranks)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # vLLM's CPU build tells about NUMA binding once per rank
    try:
        torchrun(["--standalone", f"--nproc-per-node={num_ranks}", "-m", "megatron_sppo.cli", *command])
    except ChildFailedError as failure:
        rank, first = failure.get_first_failure()
        if first.exitcode < 0:  # killed: nothing was printed by the rank itself
            name = signal.Signals(-first.exitcode).name
            print(f"megatron-sppo: error: {name_of(rank)} was ended by {name}: out of memory?", file=sys.stderr)
            return 128 - first.exitcode
        return first.exitcode
    except SignalException as ended:  # Ctrl-C or a scheduler's SIGTERM; torchrun has ended the ranks
        return 128 + int(ended.sigval)
    return 0
