"""Two ranks that train and one that rolls out; strangers connect, then one kills itself while all wait: ``watched.py RANK``."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

import torch
import torch.distributed as dist

from megatron_sppo.parallel.job import start_job
from megatron_sppo.parallel.watch import watching

SILENT: list[socket.socket] = []  # connections that stay open


def scan_ports(port: int) -> None:
    """Strangers on the network: one hangs up, one says nonsense, one says nothing. None of them is a rank that died."""
    address = os.environ["MASTER_ADDR"], port
    socket.create_connection(address).close()
    with socket.create_connection(address) as nonsense:
        nonsense.sendall(b"GET / HTTP/1.1\r\nHost: rank0\r\n\r\n")
    SILENT.append(socket.create_connection(address))


def outlive() -> None:
    """A child, as those that write checkpoints, that lives on when this process is gone; it holds copies of open files."""
    if os.fork() == 0:
        os.closerange(0, 3)  # whoever reads the output must not wait for it
        time.sleep(20)
        os._exit(0)


def main(victim: int) -> None:
    job = start_job(num_rollout_ranks=1)
    with watching(job):
        if job.rank == 1:
            scan_ports(int(job.store.get("watch_port")))
        dist.barrier(group=job.host_group)
        if victim < 0:
            return
        if job.rank == victim:
            outlive()
            os.kill(os.getpid(), signal.SIGKILL)
        # Every other rank waits for one that will never answer: within gloo, and outside of any collective.
        if job.rank == 1:
            time.sleep(100)
        dist.recv(torch.empty(1), group_src=1, group=job.host_group)


if __name__ == "__main__":
    main(int(sys.argv[1]))
