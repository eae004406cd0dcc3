"""Two ranks that train and one that rolls out; one kills itself while all wait: ``watched.py RANK``."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from megatron_sppo.parallel.job import start_job
from megatron_sppo.parallel.watch import watching


def main(victim: int) -> None:
    job = start_job(num_rollout_ranks=1)
    with watching(job):
        if victim < 0:
            dist.barrier(group=job.host_group)
            return
        dist.barrier(group=job.host_group)
        if job.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        # Every other rank waits for one that will never answer: within gloo, and outside of any collective.
        if job.rank == 1:
            time.sleep(100)
        dist.recv(torch.empty(1), group_src=1, group=job.host_group)


if __name__ == "__main__":
    main(int(sys.argv[1]))
