"""The value model. SPPO's reads the prompt alone: V(s_p) at its last token. PPO's reads the response too: V before each token.

Both are one model: V is read at the n positions that precede n tokens, the response's or (n = 1) its first alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from megatron_sppo.algorithms.base import ValueInputs
from megatron_sppo.batch import CriticBatch
from megatron_sppo.config.algorithms import CriticForm
from megatron_sppo.config.schema import CriticConfig
from megatron_sppo.losses import LossSum
from megatron_sppo.metrics import Mean, Metric
from megatron_sppo.models.batching import MiniBatch, epoch_order, plan_mini_batches
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.flops import Work
from megatron_sppo.models.packing import PackedSequences, Reads, RowLayout, concatenate, pack, positions_before
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.collectives import gather_rows
from megatron_sppo.ragged import Ragged

Loss = Callable[[ValueInputs], LossSum]


class ValueModel(Protocol):
    def values(self, prompts: Ragged, responses: Ragged) -> Ragged:
        """[B] V of every row, on every rank. Collective."""
        ...

    def update(self, batch: CriticBatch | None, loss: Loss, seed: int) -> dict[str, Metric]:
        """All epochs and mini-batches of one step. Collective; the metrics are the same on every rank."""
        ...

    def work(self, prompts: Ragged, responses: Ragged) -> Work:
        """Of :meth:`values` over all ranks."""
        ...


class NoCritic:
    """Of algorithms that take their baseline from other responses."""

    def values(self, prompts: Ragged, responses: Ragged) -> Ragged:
        return Ragged(torch.empty(0), torch.zeros(len(prompts), dtype=torch.int64))

    def update(self, batch: CriticBatch | None, loss: Loss, seed: int) -> dict[str, Metric]:
        return {}

    def work(self, prompts: Ragged, responses: Ragged) -> Work:
        return Work(0, 0.0)


@dataclass(frozen=True)
class _Sequences:
    """What the critic reads and where its values are wanted, for all rows of a step."""

    tokens: Ragged  # [B]
    num_values_B: Tensor  # int64: V is read at this many positions, the last ones

    @classmethod
    def of(cls, prompts: Ragged, responses: Ragged, form: CriticForm) -> _Sequences:
        if form.reads == "prompt":
            return cls(prompts, torch.ones(len(prompts), dtype=torch.int64))
        before_last = Ragged(torch.cat([row[:-1] for row in responses.rows()]), responses.lengths - 1)
        return cls(concatenate(prompts, before_last), responses.lengths)


@dataclass(frozen=True)
class _ValueRows:
    """A packed micro-batch."""

    packed: PackedSequences
    indices: tuple[int, ...]  # [S] rows of the step
    lengths_S: Tensor  # values per sequence, host
    reads: Reads

    @classmethod
    def of(cls, sequences: _Sequences, indices: Sequence[int], layout: RowLayout) -> _ValueRows:
        packed = pack(sequences.tokens.select(indices), range(len(indices)), layout, platform.device())
        lengths_S = sequences.num_values_B[list(indices)]
        last = positions_before(packed, lengths_S) + 1  # V is read at the last token too
        return cls(packed, tuple(indices), lengths_S, packed.reads(last))


class Critic:
    def __init__(self, engine: MegatronEngine, config: CriticConfig, form: CriticForm) -> None:
        self.engine, self.config, self.form = engine, config, form

    def _plan(self, sequences: _Sequences, order: Sequence[int]) -> list[MiniBatch]:
        config, lengths = self.config, sequences.tokens.lengths.tolist()
        engine = self.engine
        return plan_mini_batches(lengths, order, config.mini_batch_size, engine.groups.dp, config.micro_batch_tokens, engine.cost)

    def work(self, prompts: Ragged, responses: Ragged) -> Work:
        """See the protocol."""
        lengths = prompts.lengths if self.form.reads == "prompt" else prompts.lengths + responses.lengths - 1
        return Work.forward(self.engine.hf, lengths.tolist())

    def _logits(self, output: Tensor, rows: _ValueRows) -> Tensor:
        """[N] logits where V is wanted."""
        logits_r = output[0, :, 0].index_select(0, rows.reads.local_r)
        (logits_N,) = rows.reads.assemble((logits_r,), self.engine.groups.pg.cp)
        return logits_N

    def _value(self, logits_N: Tensor) -> Tensor:
        return logits_N.sigmoid() if self.form.output == "probability" else logits_N

    def values(self, prompts: Ragged, responses: Ragged) -> Ragged:
        """See the protocol."""
        sequences = _Sequences.of(prompts, responses, self.form)
        plan = self._plan(sequences, range(len(prompts)))
        bins = [indices for mini in plan for indices in mini.bins[self.engine.groups.dp_rank]]
        batches = [_ValueRows.of(sequences, indices, self.engine.row_layout) for indices in bins]
        results = self.engine.forward(
            batches, lambda output, rows: self._value(self._logits(output, rows)).split(rows.lengths_S.tolist())
        )
        found = {
            index: row for indices, split in zip(bins, results, strict=False) for index, row in zip(indices, split, strict=True)
        }
        return gather_rows(found, sequences.num_values_B, contribute=self.engine.groups.speaks)

    def update(self, batch: CriticBatch | None, loss: Loss, seed: int) -> dict[str, Metric]:
        """See the protocol."""
        assert batch is not None, "an algorithm with a critic gives it something to learn"
        sequences = _Sequences.of(batch.prompt_tokens, batch.response_tokens, self.form)
        parts: list[dict[str, Metric]] = []
        with self.engine.training():
            for epoch in range(self.config.epochs):
                for mini in self._plan(sequences, epoch_order(len(batch.prompt_tokens), seed, epoch)):
                    parts += self._optimizer_step(sequences, batch, mini, loss)
        return self.engine.reduced(parts)

    def _optimizer_step(self, sequences: _Sequences, batch: CriticBatch, mini: MiniBatch, loss: Loss) -> list[dict[str, Metric]]:
        layout, device = self.engine.row_layout, platform.device()
        batches = [_ValueRows.of(sequences, indices, layout) for indices in mini.bins[self.engine.groups.dp_rank]]

        def value_loss(output: Tensor, rows: _ValueRows) -> LossSum:
            targets_N, old_N = (part.select(rows.indices).values.to(device) for part in (batch.targets, batch.values))
            return loss(ValueInputs(rows.lengths_S, self._logits(output, rows), targets_N, old_N))

        update = self.engine.update(batches, value_loss)
        return [*update.micro_batch_metrics, {"critic/grad_norm": Mean(update.grad_norm, 1), "critic/lr": Mean(update.lr, 1)}]


class ValuesAhead:
    """A critic that reads the prompt alone, asked as soon as the prompts are known: while other ranks sample the responses."""

    def __init__(self, critic: Critic) -> None:
        assert critic.form.reads == "prompt", f"this critic reads the {critic.form.reads}"
        self._critic = critic
        self._held: tuple[Ragged, Ragged] | None = None  # (prompts, V of each) of the step under way

    def begin(self, prompts: Ragged) -> None:
        """[B] a prompt for each response to come, in their order. Collective."""
        self._held = prompts, self._critic.values(prompts, Ragged.empty_rows(len(prompts)))

    def values(self, prompts: Ragged, responses: Ragged) -> Ragged:
        """Those that :meth:`begin` found; the critic's own where it was not called: a curriculum, old rollouts."""
        if self._held is None:
            return self._critic.values(prompts, responses)
        (begun, values), self._held = self._held, None
        assert prompts.lengths.equal(begun.lengths) and prompts.values.equal(begun.values), "other prompts than those begun"
        return values

    def update(self, batch: CriticBatch | None, loss: Loss, seed: int) -> dict[str, Metric]:
        """See the protocol."""
        return self._critic.update(batch, loss, seed)

    def work(self, prompts: Ragged, responses: Ragged) -> Work:
        """See the protocol."""
        return self._critic.work(prompts, responses)


def initial_logit(prior: float, form: CriticForm) -> float:
    """Of the value head, so that V = ``prior`` everywhere before the first update."""
    return math.log(prior / (1.0 - prior)) if form.output == "probability" else prior
