"""Megatron parameters -> full HF tensors on every rank, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megatron_sppo.models import fp8
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import ModelGroups
from megatron_sppo.weights.mapping import OUTPUT_LAYER, mapped_parameters, rule_for


@dataclass(frozen=True)
class _Entry:
    """One parameter of the whole model, as every rank knows it."""

    name: str
    shape: torch.Size
    """Of one TP rank's part."""
    dtype: torch.dtype
    stage: int


def _catalogue(parameters: dict[str, Tensor], groups: ModelGroups) -> list[_Entry]:
    """Every parameter of the model, stage by stage, the same list on every rank. Collective over the pipeline group."""
    mine = [_Entry(name, parameter.shape, parameter.dtype, groups.pp_rank) for name, parameter in parameters.items()]
    if groups.layout.pp == 1:
        return mine
    stages: list[list[_Entry]] = [[]] * groups.layout.pp
    dist.all_gather_object(stages, mine, group=groups.pg.pp)
    return [entry for stage in stages for entry in stage]


def _from_stage(entry: _Entry, parameters: dict[str, Tensor], dtype: torch.dtype | None, groups: ModelGroups) -> Tensor:
    """This TP rank's part of the parameter, on all stages; cast before it travels."""
    target = dtype or entry.dtype
    if entry.stage == groups.pp_rank:
        part = fp8.plain(parameters[entry.name]).to(target)
    else:
        part = torch.empty(entry.shape, dtype=target, device=platform.device())
    if groups.layout.pp > 1:
        dist.broadcast(part, group=groups.pg.pp, group_src=entry.stage)
    return part


def _gather_tp(part: Tensor, groups: ModelGroups) -> list[Tensor]:
    gathered = part.new_empty(groups.layout.tp, *part.shape)
    dist.all_gather_into_tensor(gathered, part.unsqueeze(0), group=groups.pg.tp)
    return list(gathered)


@torch.no_grad()
def iter_hf_tensors(
    model: nn.Module, hf: HFModelConfig, groups: ModelGroups, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Every full HF tensor on every rank, in one order, cast to ``dtype`` (default: the parameter's own).

    Collective over the model: all ranks must consume it to the end. Peak extra memory is about two copies of the largest tensor.
    A tensor may be a view of a live parameter: read it before the next iteration, do not write to it. A tied model yields its
    embedding once and no lm_head; a value model yields its trunk, its scalar head has no HF counterpart. With a distributed
    optimizer that gathers parameters lazily (``overlap_param_gather``), have them gathered before calling this.
    """
    parameters: dict[str, Tensor] = dict(mapped_parameters(model))
    for entry in _catalogue(parameters, groups):
        if entry.name == OUTPUT_LAYER and hf.tied_embeddings:
            continue  # the last stage's copy of the embedding
        rule = rule_for(entry.name, hf)
        part = _from_stage(entry, parameters, dtype, groups)
        parts = _gather_tp(part, groups) if rule.sharded and groups.layout.tp > 1 else [part]
        yield from rule.export(parts)
