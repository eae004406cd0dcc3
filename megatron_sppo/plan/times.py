"""Seconds of each phase of a step, from FLOPs and bandwidths: a floor under stated efficiencies, not a promise.

FLOPs are those of :mod:`megatron_sppo.models.flops`; full recomputation takes one more forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_sppo.config.arithmetic import num_reused
from megatron_sppo.config.schema import ModelConfig
from megatron_sppo.models.flops import TRAINING_PASSES, forward_flops
from megatron_sppo.plan.assumptions import Assumptions
from megatron_sppo.plan.engine_memory import EngineMemory, kv_bytes_per_token
from megatron_sppo.plan.setup import Setup
from megatron_sppo.plan.trainer_memory import micro_batches


@dataclass(frozen=True)
class Times:
    setup: Setup
    engine: EngineMemory
    assumptions: Assumptions
    reshard_bytes: tuple[float, float]  # most that a rank receives within its node, and from other nodes
    offload_bytes: float = 0.0  # of a rank, which leave and come back once a step

    @property
    def prompt(self) -> float:
        return max(1.0, self.assumptions.mean_prompt * self.setup.config.rollout.max_prompt_tokens)

    @property
    def response(self) -> float:
        return max(1.0, self.assumptions.mean_response * self.setup.config.rollout.max_response_tokens)

    def seconds(self) -> dict[str, float]:
        """Phases in the order of a step."""
        config, responses = self.setup.config, self.setup.num_responses
        sequence = self.prompt + self.response
        actor = forward_flops(self.setup.actor, responses * sequence, responses * sequence**2, responses * self.response)
        found = {"wake and sleep": self._wake()} if self._wake() else {}
        found["rollout"] = self.rollout()
        if self.setup.uses_critic:
            read = sequence if self.setup.critic_reads_responses else self.prompt
            critic = forward_flops(self.setup.critic, responses * read, responses * read**2)
            found["value"] = self._forward(critic)
            found["critic update"] = config.critic.epochs * self._update(critic, config.critic, read)
        if before := self._share_before_update():
            found["old log-probs"] = before * self._forward(actor)
        if self.setup.needs_reference:
            found["reference log-probs"] = self._forward(actor)
        found["actor update"] = config.actor.epochs * self._update(actor, config.actor, sequence)
        found["reshard"] = self.reshard()
        if self.offload_bytes:
            found["offload"] = 2 * self.offload_bytes / self.assumptions.host_link
        return found

    def _share_before_update(self) -> float:
        """Of the responses: those whose old log-probs are not taken from their own training forward."""
        config, responses = self.setup.config, self.setup.num_responses
        if config.rollout.stream and config.actor.reuse_first_forward:
            return 0.0  # each mini-batch is an update of its own
        return 1 - num_reused(config.actor, responses) / responses

    @property
    def step(self) -> float:
        """All phases one after the other, or the longer side where rollouts overlap the training of a step."""
        seconds, rollout = self.seconds(), self.setup.config.rollout
        total = sum(seconds.values())
        if rollout.max_staleness or rollout.stream:
            return max(seconds["rollout"], total - seconds["rollout"])
        return total

    def rollout(self) -> float:
        """Decoding in steps of one token for every running sequence: a step reads the weights and the running sequences' keys and
        values once, or computes, whichever takes longer. There are as many steps as the longest response has tokens, or more
        where not all sequences run at once.
        """
        steps = max(self.setup.config.rollout.max_response_tokens, self._share * self.response / self.running)
        return steps * self.decode_step(self.running) + self._prefill()

    @property
    def _share(self) -> float:
        """Responses of one engine."""
        return self.setup.num_sampled * self.setup.config.rollout.tp / self.setup.rollout_ranks

    @property
    def running(self) -> int:
        """Sequences that an engine decodes at once, at half of their mean response."""
        held = self.engine.sequences(round(self.prompt + self.response / 2))
        return max(1, min(self.setup.config.rollout.max_num_seqs, held, round(self._share)))

    def decode_step(self, sequences: int) -> float:
        hf, gpu, tp, a = self.setup.actor, self.setup.machines.gpu, self.setup.config.rollout.tp, self.assumptions
        length = self.prompt + self.response / 2
        keys = sequences * length * kv_bytes_per_token(hf, tp, self.engine.itemsize)
        reading = (self.engine.weights + keys) / (a.decode_bandwidth * gpu.memory_bandwidth)
        flops = forward_flops(hf, sequences, 2 * length * sequences, sequences) / tp  # a token and ``length`` keys
        latency = a.scheduling + (2 * hf.num_layers * a.all_reduce if tp > 1 else 0.0)
        return max(reading, flops / (a.decode_flops * gpu.bf16_flops)) + latency

    def _prefill(self) -> float:
        prompts = self.setup.num_sampled
        flops = forward_flops(self.setup.actor, prompts * self.prompt, prompts * self.prompt**2)
        return self._spread(flops, self.assumptions.forward_flops, self.setup.rollout_ranks)

    def _wake(self) -> float:
        """Weights that a reshard replaces are thrown away; with ``weight_sync=gather`` sleep copies them to the host and back."""
        rollout = self.setup.config.rollout
        copies = rollout.sleep and not self.setup.is_separate and rollout.weight_sync == "gather"
        return 2 * self.engine.weights / self.assumptions.host_link if copies else 0.0

    def _spread(self, flops: float, efficiency: float, ranks: int) -> float:
        return flops / (efficiency * self.setup.machines.gpu.bf16_flops * ranks)

    def _forward(self, flops: float) -> float:
        return self._spread(flops, self.assumptions.forward_flops, self.setup.train_ranks)

    def _update(self, forward: float, model: ModelConfig, mean_tokens: float) -> float:
        passes = TRAINING_PASSES + (model.recompute == "full")
        busy = self._spread(passes * forward, self.assumptions.train_flops, self.setup.train_ranks)
        return busy / (1 - self.bubble(model, mean_tokens))

    def bubble(self, model: ModelConfig, mean_tokens: float) -> float:
        """Share of an update that pipeline stages wait: (pp - 1) / (m + pp - 1) with m micro-batches (arXiv 2104.04473)."""
        replicas = self.setup.train_ranks // (model.tp * model.pp * model.cp)
        sequences = -(-(model.mini_batch_size or self.setup.num_responses) // replicas)
        return (model.pp - 1) / (micro_batches(model, sequences, mean_tokens) + model.pp - 1)

    def reshard(self) -> float:
        a, gpu = self.assumptions, self.setup.machines.gpu
        near, far = self.reshard_bytes
        return near / (a.link_efficiency * gpu.nvlink_bandwidth) + far / (a.link_efficiency * a.network)
