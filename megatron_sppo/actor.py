"""The policy: log-probs of responses and the clipped update, over packed micro-batches.

With ``actor.reuse_first_forward`` the old log-probs of a step's first mini-batch are the ones that its own training forward
computes, with their gradient stopped. That is exact: no optimizer step lies between the two, so that the ratio is 1 and eq. 3's
gradient the plain policy gradient either way. The pass before the update then leaves these responses out: a fourth of
the actor's training FLOPs where a step is one mini-batch, an eighth where it is two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from megatron_sppo.algorithms.base import PolicyInputs
from megatron_sppo.batch import ActorBatch
from megatron_sppo.config.schema import ActorConfig
from megatron_sppo.losses import LossSum
from megatron_sppo.metrics import Max, Mean, Metric
from megatron_sppo.models.batching import MiniBatch, epoch_order, plan_mini_batches
from megatron_sppo.models.engine import MegatronEngine, Snapshot
from megatron_sppo.models.flops import Work
from megatron_sppo.models.packing import PackedSequences, Reads, RowLayout, concatenate, pack, positions_before
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.collectives import gather_rows
from megatron_sppo.ragged import Ragged

Loss = Callable[[PolicyInputs], LossSum]


@dataclass(frozen=True)
class ResponseRows:
    """A packed micro-batch of prompt + response with what is needed to read the responses' log-probs. R response tokens."""

    packed: PackedSequences
    lengths_S: Tensor  # response lengths, host
    predictors: Reads  # the positions whose hidden states predict the response tokens
    labels_r: Tensor  # the response tokens whose predictors this rank holds


def response_rows(prompts: Ragged, responses: Ragged, indices: Sequence[int], layout: RowLayout) -> ResponseRows:
    """Pack the sequences at ``indices``."""
    device = platform.device()
    chosen = responses.select(indices)
    sequences = concatenate(prompts.select(indices), chosen)
    packed = pack(sequences, range(len(indices)), layout, device)
    predictors = packed.reads(positions_before(packed, chosen.lengths))
    return ResponseRows(packed, chosen.lengths, predictors, chosen.values.to(device)[predictors.slots_r])


def token_scores(
    engine: MegatronEngine, output: Tensor, rows: ResponseRows, temperature: float, chunk: int
) -> tuple[Tensor, Tensor]:
    """(log-probs [R], entropy [R]) of the response tokens from the model's hidden states. Collective over TP and CP."""
    hidden_r = output[0].index_select(0, rows.predictors.local_r)
    scores_r = engine.model.output_layer.logprobs(hidden_r, rows.labels_r, temperature, chunk)
    logprobs_R, entropy_R = rows.predictors.assemble(scores_r, engine.groups.pg.cp)
    return logprobs_R, entropy_R


def mismatch_metrics(old_logprobs_N: Tensor, engine_logprobs_N: Tensor) -> dict[str, Metric]:
    """Trainer minus engine log-probs of the sampled tokens. KL(engine || trainer) by the k3 estimator. {} of no tokens."""
    gap_N = old_logprobs_N - engine_logprobs_N
    if not gap_N.numel():
        return {}
    return {
        "mismatch/logprob_abs_mean": Mean.of(gap_N.abs()),
        "mismatch/logprob_abs_max": Max(float(gap_N.abs().max())),
        "mismatch/kl": Mean.of(gap_N.exp() - 1 - gap_N),
    }


def loss_of_first_forward(loss: Loss) -> Loss:
    """``loss`` with the present log-probs as the old ones, and the metrics that only now can be known."""

    def on_policy(inputs: PolicyInputs) -> LossSum:
        old_N = inputs.logprobs_N.detach()
        found = loss(replace(inputs, old_logprobs_N=old_N))
        return replace(found, metrics={**found.metrics, **mismatch_metrics(old_N, inputs.engine_logprobs_N)})

    return on_policy


class Actor:
    def __init__(self, engine: MegatronEngine, config: ActorConfig, temperature: float) -> None:
        self.engine, self.config, self.temperature = engine, config, temperature
        self._reference: Snapshot | None = None

    def remember_reference(self) -> None:
        """Keep this rank's present parameters on the host as the KL's reference policy."""
        self._reference = self.engine.snapshot(torch.device("cpu"))

    def _plan(self, prompts: Ragged, responses: Ragged, order: Sequence[int]) -> list[MiniBatch]:
        lengths = (prompts.lengths + responses.lengths).tolist()
        config, engine = self.config, self.engine
        return plan_mini_batches(lengths, order, config.mini_batch_size, engine.groups.dp, config.micro_batch_tokens, engine.cost)

    def work(self, prompts: Ragged, responses: Ragged) -> Work:
        """Of one forward pass over all ranks."""
        return Work.forward(self.engine.hf, (prompts.lengths + responses.lengths).tolist(), int(responses.lengths.sum()))

    def _token_scores(self, output: Tensor, rows: ResponseRows) -> tuple[Tensor, Tensor]:
        """(log-probs [R], entropy [R]) of the response tokens at the sampling temperature."""
        return token_scores(self.engine, output, rows, self.temperature, self.config.logprob_chunk_tokens)

    def old_logprobs(self, prompts: Ragged, responses: Ragged, num_reused: int) -> Ragged:
        """As :meth:`logprobs` with NaN for the first ``num_reused`` responses: a step's first mini-batch, or none. Collective."""
        if not num_reused:
            return self.logprobs(prompts, responses)
        lengths, rest = responses.lengths[:num_reused], range(num_reused, len(responses))
        unknown = Ragged(torch.full((int(lengths.sum()),), torch.nan), lengths)
        return Ragged.joined([unknown, self.logprobs(prompts.select(rest), responses.select(rest))]) if rest else unknown

    def logprobs(self, prompts: Ragged, responses: Ragged) -> Ragged:
        """[B] log-prob of every response token, on every rank. Collective.

        Uses the micro-batches of the first epoch of :meth:`update`, so that the ratio of the first
        mini-batch is 1 to the last bit.
        """
        plan = self._plan(prompts, responses, range(len(responses)))
        bins = [indices for mini in plan for indices in mini.bins[self.engine.groups.dp_rank]]
        batches = [response_rows(prompts, responses, indices, self.engine.row_layout) for indices in bins]
        results = self.engine.forward(
            batches, lambda output, batch: self._token_scores(output, batch)[0].split(batch.lengths_S.tolist())
        )
        rows = {
            index: row for indices, split in zip(bins, results, strict=False) for index, row in zip(indices, split, strict=True)
        }
        return gather_rows(rows, responses.lengths, contribute=self.engine.groups.speaks)

    def reference_logprobs(self, prompts: Ragged, responses: Ragged) -> Ragged:
        """As :meth:`logprobs` under the remembered reference policy. Collective."""
        assert self._reference is not None, "remember_reference() comes first"
        with self.engine.swapped_parameters(self._reference):
            return self.logprobs(prompts, responses)

    def update(self, batch: ActorBatch, loss: Loss, seed: int) -> dict[str, Metric]:
        """All epochs and mini-batches of one step. Collective; the metrics are the same on every rank."""
        parts: list[dict[str, Metric]] = []
        with self.engine.training():
            for epoch in range(self.config.epochs):
                order = epoch_order(len(batch.response_tokens), seed, epoch)
                for number, mini in enumerate(self._plan(batch.prompt_tokens, batch.response_tokens, order)):
                    reuses = self.config.reuse_first_forward and (epoch, number) == (0, 0)
                    parts += self._optimizer_step(batch, mini, loss_of_first_forward(loss) if reuses else loss)
        return self.engine.reduced(parts)

    def _optimizer_step(self, batch: ActorBatch, mini: MiniBatch, loss: Loss) -> list[dict[str, Metric]]:
        bins = mini.bins[self.engine.groups.dp_rank]
        layout = self.engine.row_layout
        batches = [_PolicyRows.of(batch, indices, layout) for indices in bins]

        def token_loss(output: Tensor, rows: _PolicyRows) -> LossSum:
            logprobs_N, entropy_N = self._token_scores(output, rows.responses)
            return loss(rows.inputs(logprobs_N, entropy_N))

        update = self.engine.update(batches, token_loss)
        step = {"actor/grad_norm": Mean(update.grad_norm, 1), "actor/lr": Mean(update.lr, 1)}
        return [*update.micro_batch_metrics, step]


@dataclass(frozen=True)
class _PolicyRows:
    """A packed micro-batch with everything the policy loss reads, on the device. N = R response tokens."""

    responses: ResponseRows
    old_logprobs_N: Tensor
    engine_logprobs_N: Tensor
    reference_logprobs_N: Tensor
    advantages_N: Tensor

    @property
    def packed(self) -> PackedSequences:
        return self.responses.packed

    @classmethod
    def of(cls, batch: ActorBatch, indices: Sequence[int], layout: RowLayout) -> _PolicyRows:
        device = platform.device()
        picked = (batch.old_logprobs, batch.engine_logprobs, batch.reference_logprobs, batch.advantages)
        rows = response_rows(batch.prompt_tokens, batch.response_tokens, indices, layout)
        return cls(rows, *(ragged.select(indices).values.to(device) for ragged in picked))

    def inputs(self, logprobs_N: Tensor, entropy_N: Tensor) -> PolicyInputs:
        return PolicyInputs(
            lengths_S=self.responses.lengths_S,
            logprobs_N=logprobs_N,
            entropy_N=entropy_N,
            old_logprobs_N=self.old_logprobs_N,
            engine_logprobs_N=self.engine_logprobs_N,
            reference_logprobs_N=self.reference_logprobs_N,
            advantages_N=self.advantages_N,
        )
