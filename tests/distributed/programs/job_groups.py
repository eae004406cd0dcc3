"""Three ranks that train and one that rolls out: collectives within the parts, and everything that passes between them."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from megatron_sppo.parallel import platform
from megatron_sppo.parallel.job import Job, start_job


def check_parts(job: Job) -> None:
    """Each part's world sums over its own ranks, whatever the other does."""
    is_train = job.role == "train"
    assert (dist.get_rank(), dist.get_world_size()) == ((job.rank, 3) if is_train else (job.rank - 3, 1))
    for _ in range(3 if is_train else 1):  # no rank of the other part takes part
        total = torch.tensor([job.rank + 1])
        dist.all_reduce(total)
        assert int(total) == (1 + 2 + 3 if is_train else 4)
    pair = dist.new_group([0, 1]) if is_train else dist.new_group([0])
    ones = torch.ones(1)
    if dist.get_rank() < 2 and (is_train or dist.get_rank() == 0):
        dist.all_reduce(ones, group=pair)
        assert float(ones) == (2 if is_train else 1)


def check_bridge(job: Job) -> None:
    """Objects from all, a broadcast from either part, and messages in both directions at once."""
    names: list[str] = [""] * job.size
    dist.all_gather_object(names, f"{job.role}{job.rank}", group=job.host_group)
    assert names == ["train0", "train1", "train2", "rollout3"]
    for source in (0, 3):
        value = torch.full((4,), float(job.rank), device=platform.device())
        dist.broadcast(value, group_src=source, group=job.device_group)
        assert value.tolist() == [source] * 4
    mine, theirs = torch.full((1000,), float(job.rank), device=platform.device()), {}
    peers = [3] if job.role == "train" else [0, 1, 2]
    operations = []
    for peer in peers:
        theirs[peer] = torch.empty_like(mine)
        operations.append(dist.P2POp(dist.isend, mine, group=job.device_group, group_peer=peer))
        operations.append(dist.P2POp(dist.irecv, theirs[peer], group=job.device_group, group_peer=peer))
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    assert all(bool((values == peer).all()) for peer, values in theirs.items())


def main() -> None:
    launcher = (os.environ["RANK"], os.environ["WORLD_SIZE"])
    job = start_job(num_rollout_ranks=1, timeout=timedelta(minutes=7))
    assert platform.world_timeout() == timedelta(minutes=7)
    assert (job.size, job.num_train_ranks) == (4, 3)
    with job.part_environment():
        assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == (str(dist.get_rank()), str(dist.get_world_size()))
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == launcher
    check_parts(job)
    check_bridge(job)
    check_parts(job)
    dist.barrier(group=job.host_group)
    dist.destroy_process_group()
    print(f"rank {job.rank} is done: {job.name_of(job.rank)}", flush=True)


if __name__ == "__main__":
    main()
