"""The sequence-level critic: V(s_p) = sigmoid(logit at the last prompt token). It reads the prompt alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_sppo.batch import CriticBatch
from megatron_sppo.config.schema import CriticConfig
from megatron_sppo.losses import LossSum
from megatron_sppo.metrics import Mean, Metric
from megatron_sppo.models.batching import MiniBatch, epoch_order, plan_mini_batches
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.packing import PackedSequences, Reads, RowLayout, pack
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.collectives import gather_rows
from megatron_sppo.ragged import Ragged


@dataclass(frozen=True)
class PromptRows:
    """A packed micro-batch of prompts."""

    packed: PackedSequences
    last: Reads  # of each prompt's last token
    rewards_S: Tensor

    @classmethod
    def of(cls, prompts: Ragged, rewards_B: Tensor, indices: Sequence[int], layout: RowLayout) -> PromptRows:
        device = platform.device()
        packed = pack(prompts.select(indices), range(len(indices)), layout, device)
        last = packed.reads(packed.starts_S + packed.lengths_S - 1)
        return cls(packed, last, rewards_B[list(indices)].to(device))


class Critic:
    def __init__(self, engine: MegatronEngine, config: CriticConfig) -> None:
        self.engine, self.config = engine, config

    def _plan(self, prompts: Ragged, order: Sequence[int]) -> list[MiniBatch]:
        config = self.config
        lengths = prompts.lengths.tolist()
        return plan_mini_batches(lengths, order, config.mini_batch_size, self.engine.groups.dp, config.micro_batch_tokens)

    def _last_logits(self, output: Tensor, rows: PromptRows) -> Tensor:
        """[S] logit of V at each prompt's last token."""
        logits_r = output[0, :, 0].index_select(0, rows.last.local_r)
        (logits_S,) = rows.last.assemble((logits_r,), self.engine.groups.pg.cp)
        return logits_S

    def values(self, prompts: Ragged) -> Tensor:
        """[B] V(s_p) of every prompt, on every rank. Collective."""
        bins = [indices for mini in self._plan(prompts, range(len(prompts))) for indices in mini.bins[self.engine.groups.dp_rank]]
        no_rewards = torch.zeros(len(prompts))
        batches = [PromptRows.of(prompts, no_rewards, indices, self.engine.row_layout) for indices in bins]
        results = self.engine.forward(batches, lambda output, batch: self._last_logits(output, batch).sigmoid().split(1))
        rows = {
            index: row for indices, split in zip(bins, results, strict=False) for index, row in zip(indices, split, strict=True)
        }
        one_each = torch.ones(len(prompts), dtype=torch.int64)
        return gather_rows(rows, one_each, contribute=self.engine.groups.speaks).values

    def update(self, batch: CriticBatch, loss: Callable[[Tensor, Tensor], LossSum], seed: int) -> dict[str, Metric]:
        """All epochs and mini-batches of one step. Collective; the metrics are the same on every rank."""
        parts: list[dict[str, Metric]] = []
        for epoch in range(self.config.epochs):
            order = epoch_order(len(batch.prompt_tokens), seed, epoch)
            for mini in self._plan(batch.prompt_tokens, order):
                bins = mini.bins[self.engine.groups.dp_rank]
                layout = self.engine.row_layout
                batches = [PromptRows.of(batch.prompt_tokens, batch.rewards_B, indices, layout) for indices in bins]
                update = self.engine.update(batches, lambda output, rows: loss(self._last_logits(output, rows), rows.rewards_S))
                parts += update.micro_batch_metrics
                parts.append({"critic/grad_norm": Mean(update.grad_norm, 1), "critic/lr": Mean(update.lr, 1)})
        return self.engine.reduced(parts)
