"""All ranks that the launcher started, whatever they do: the ones that train and the ones that roll out.

Colocated, every rank does both and the job is torch's world. Separate, the launcher's T + R ranks are cut in two before anything
is built: the first T train and the last R roll out, and each part has a torch world (default process group) of its own. What says
"world" in Megatron, in vLLM and in this package means its part, and works unchanged. A third pair of groups, over all ranks,
joins the two; it is used for nothing but what passes between them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import torch.distributed as dist
from torch.distributed import distributed_c10d, rendezvous

from megatron_sppo.config.placement import name_of_rank
from megatron_sppo.parallel import platform

Role = Literal["train", "rollout", "both"]

# One part waits for the other as long as generating or training a step takes; that a rank is gone is noticed by other means.
_PATIENCE = timedelta(hours=24)


@dataclass(frozen=True)
class Job:
    """``None`` as a group means torch's default group. Ranks of the groups are ranks of the job."""

    rank: int
    size: int
    host_group: dist.ProcessGroup | None = field(repr=False)  # gloo, for metadata and small results
    device_group: dist.ProcessGroup | None = field(repr=False)  # NCCL on GPU, for weights
    num_train_ranks: int = 0  # 0 = every rank does everything
    store: dist.Store | None = field(default=None, repr=False)  # the launcher's; None where torch's world is all there is

    @classmethod
    def colocated(cls) -> Job:
        """Every rank trains and rolls out: the job is torch's world."""
        return cls(dist.get_rank(), dist.get_world_size(), platform.host_group(), None)

    @property
    def role(self) -> Role:
        if not self.num_train_ranks:
            return "both"
        return "train" if self.rank < self.num_train_ranks else "rollout"

    def name_of(self, rank: int) -> str:
        """How a person calls a rank: "rollout rank 1 (rank 3 of the job)"."""
        return name_of_rank(rank, self.num_train_ranks)

    @property
    def first_rollout_rank(self) -> int:
        """The rank of the job that speaks for those that roll out."""
        return self.num_train_ranks

    @contextmanager
    def part_environment(self) -> Iterator[None]:
        """``RANK`` and ``WORLD_SIZE`` are those of this part while inside: vLLM's external launcher reads them."""
        launcher = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE")}
        os.environ.update(RANK=str(dist.get_rank()), WORLD_SIZE=str(dist.get_world_size()))
        try:
            yield
        finally:
            os.environ.update(launcher)


def start_job(num_rollout_ranks: int = 0, timeout: timedelta = platform.DEFAULT_TIMEOUT) -> Job:
    """Join the launcher's job; 0 ranks = colocated. Call it once, before anything else starts ``torch.distributed``.

    ``timeout`` is that of collectives within a part.
    """
    if num_rollout_ranks == 0:
        platform.start_distributed(timeout)
        return Job.colocated()
    platform.prepare_process()
    store, rank, size = next(iter(rendezvous("env://")))
    store.set_timeout(_PATIENCE)
    num_train_ranks = size - num_rollout_ranks
    assert num_train_ranks > 0, "checked before: config.placement.check_placement"
    is_train = rank < num_train_ranks
    first, part_size = (0, num_train_ranks) if is_train else (num_train_ranks, num_rollout_ranks)
    part_store = dist.PrefixStore("train" if is_train else "rollout", store)
    platform.join_world(part_store, rank - first, part_size, timeout)
    host_group = _group_across_worlds("job_host", "gloo", store, rank, size)
    device_group = _group_across_worlds("job_device", "nccl", store, rank, size) if platform.is_gpu() else host_group
    return Job(rank, size, host_group, device_group, num_train_ranks, store)


def _group_across_worlds(name: str, backend: str, store: dist.Store, rank: int, size: int) -> dist.ProcessGroup:
    """A group of ranks that belong to different default groups; its ranks and "global" ranks are those of the job.

    ``new_group`` and ``split_group`` take members of the default group alone, and a bare ``ProcessGroupGloo`` is unknown to
    ``torch.distributed``'s functions; hence the function that ``init_process_group`` itself is made of.
    """
    group, _ = distributed_c10d._new_process_group_helper(
        size,
        rank,
        [],  # as of a default group: no ranks of the one that exists
        dist.Backend(backend),
        store,
        group_name=distributed_c10d.GroupName(name),
        timeout=_PATIENCE,
        group_desc=name,
    )
    distributed_c10d._world.pg_group_ranks[group] = {job_rank: job_rank for job_rank in range(size)}
    return group
