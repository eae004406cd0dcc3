"""What the plan's memory model says of the machine that a run has begun on."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
import torch.distributed as dist

from megatron_sppo.config.offload import Level
from megatron_sppo.config.schema import Config
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.device_memory import free_and_total
from megatron_sppo.parallel.gpus import GPUS, find_gpu
from megatron_sppo.plan.assumptions import Assumptions
from megatron_sppo.plan.machines import Machines
from megatron_sppo.plan.memory import Memory
from megatron_sppo.plan.setup import Setup


def offload_level(config: Config) -> Level:
    """``offload``; for ``auto`` the least with which the run fits in what this rank's GPU has free, and none on a CPU."""
    if config.offload != "auto":
        return config.offload
    if not platform.is_gpu():
        return "none"
    free, _ = free_and_total()
    mine = free + torch.cuda.memory_reserved()  # what is free but for this process's own models
    known = find_gpu(torch.cuda.get_device_name()) or GPUS["h100"]  # only its memory matters here
    world_size = dist.get_world_size()
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    machines = Machines(world_size // per_node, per_node, replace(known, memory=float(mine)))
    return Memory(Setup.of(config, machines), Assumptions()).offload
