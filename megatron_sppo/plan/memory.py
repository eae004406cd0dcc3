"""Memory per GPU by component and phase, on the rank that needs most, in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from megatron_sppo.config.arithmetic import data_parallel, mini_batch_size
from megatron_sppo.config.schema import ModelConfig
from megatron_sppo.plan.assumptions import Assumptions
from megatron_sppo.plan.engine_memory import EngineMemory
from megatron_sppo.plan.setup import Setup
from megatron_sppo.plan.trainer_memory import Shard, itemsize, micro_batches, row_tokens

Phase = Literal["rollout", "critic update", "log-probs", "actor update", "reshard"]
PHASES: tuple[Phase, ...] = ("rollout", "critic update", "log-probs", "actor update", "reshard")
_MIB = 2**20
STAGING = 4  # times rollout.reshard_cap_mib: two arenas of a round in each direction (megatron_sppo/reshard/executor.py)

Table = dict[str, dict[Phase, float]]  # component -> phase -> bytes; phases in which it is absent are left out


@dataclass(frozen=True)
class Memory:
    setup: Setup
    assumptions: Assumptions

    @cached_property
    def engine(self) -> EngineMemory:
        rollout = self.setup.config.rollout
        dtype = self.setup.config.actor.dtype if rollout.dtype == "auto" else rollout.dtype
        return EngineMemory(self.setup.actor, rollout, self.setup.machines.gpu, itemsize(dtype))

    @property
    def usable(self) -> float:
        return self.setup.machines.gpu.memory * (1 - self.assumptions.fragmentation)

    @cached_property
    def table(self) -> Table:
        """Of the rank with the highest peak: ranks differ by the pipeline stages of actor and critic that they hold."""
        return max((self._table(*shards) for shards in self._shards()), key=lambda table: max(totals(table).values()))

    @property
    def peak(self) -> tuple[Phase, float]:
        return max(totals(self.table).items(), key=lambda item: item[1])

    def problem(self) -> str:
        """Why it does not fit, or nothing."""
        phase, peak = self.peak
        if peak > self.usable:
            return f"the {phase} phase needs {_gb(peak)} of the {_gb(self.usable)} that a {self.setup.machines.gpu.name} offers"
        if self.engine.sequences(self.setup.longest) < 1:
            return (
                f"vLLM's share of {_gb(self.engine.share)} leaves {_gb(max(0.0, self.engine.kv_cache))} for the KV cache after "
                f"{_gb(self.engine.weights)} of weights and {_gb(self.engine.activations)} of activations: not one sequence of "
                f"{self.setup.longest} tokens"
            )
        return ""

    @property
    def host_bytes(self) -> dict[str, float]:
        """Pinned or pageable memory of one node's ranks together."""
        ranks, config = self.setup.machines.gpus_per_node, self.setup.config
        state = sum(self._state_of_a_save(shard) for shard in self._fullest())
        found = {"checkpoint being written": ranks * state}
        if config.rollout.sleep:
            found["vLLM's weights while it sleeps"] = ranks * self.engine.weights
        if self.setup.needs_reference:
            found["reference policy"] = ranks * self._fullest()[0].state.weights
        return found

    def _state_of_a_save(self, shard: Shard) -> float:
        return shard.state.weights + shard.state.optimizer

    def _fullest(self) -> tuple[Shard, ...]:
        return max(self._shards(), key=lambda shards: sum(shard.state.total for shard in shards))

    def _shards(self) -> Iterator[tuple[Shard, ...]]:
        """(actor, critic) as each kind of rank holds them; the actor alone where the algorithm has no critic."""
        setup, world_size = self.setup, self.setup.machines.world_size
        config = setup.config
        ranks_per_stage = [world_size // model.pp for model in (config.actor, config.critic)]
        for stages in sorted({tuple(rank // size for size in ranks_per_stage) for rank in range(world_size)}):
            actor = Shard(setup.actor, config.actor, "lm", stages[0], world_size)
            critic = Shard(setup.critic, config.critic, "value", stages[1], world_size)
            yield (actor, critic) if setup.uses_critic else (actor,)

    def _table(self, actor: Shard, critic: Shard | None = None) -> Table:
        always = dict.fromkeys(PHASES, 1.0)
        table: Table = {}
        for name, shard in (("actor", actor), ("critic", critic)):
            if shard is not None:
                state = shard.state
                for part, size in (("weights", state.weights), ("gradients", state.gradients), ("optimizer", state.optimizer)):
                    table[f"{name} {part}"] = {phase: size * on for phase, on in always.items()}
        table |= self._engine_rows()
        table["activations"] = self._activations(actor, critic)
        table["logits in chunks"] = {
            "log-probs": actor.head_bytes(backward=False),
            "actor update": actor.head_bytes(backward=True),
        }
        table["reshard buckets"] = {"reshard": self._staging()}
        if self.setup.needs_reference:  # Actor.reference_logprobs keeps the policy's weights beside the reference's
            table["policy's weights, swapped out"] = {"log-probs": actor.state.weights}
        table["CUDA context, NCCL"] = dict.fromkeys(PHASES, self.assumptions.context)
        return {name: row for name, row in table.items() if any(row.values())}

    def _staging(self) -> float:
        """The planned reshard's arenas; gathering holds the largest tensor and the parts that it is made of."""
        rollout, hf = self.setup.config.rollout, self.setup.actor
        if rollout.weight_sync == "gather":
            return 2 * hf.vocab_size * hf.hidden_size * self.engine.itemsize
        return STAGING * rollout.reshard_cap_mib * _MIB

    def _engine_rows(self) -> Table:
        engine, sleeps = self.engine, self.setup.config.rollout.sleep
        compiled = self.setup.config.rollout.execution != "eager"
        awake: tuple[Phase, ...] = ("rollout",) if sleeps else PHASES
        return {
            "vLLM weights": dict.fromkeys((*awake, "reshard"), engine.weights),
            "vLLM activations": {"rollout": engine.activations},
            "vLLM KV cache": dict.fromkeys(awake, max(0.0, engine.kv_cache)),
            "vLLM CUDA graphs": dict.fromkeys(PHASES, self.assumptions.cuda_graphs if compiled else 0.0),
        }

    def _activations(self, actor: Shard, critic: Shard | None) -> dict[Phase, float]:
        setup, config = self.setup, self.setup.config
        row, count = self._rows(config.actor, setup.longest)
        found: dict[Phase, float] = {
            "log-probs": actor.forward_activations(row),
            "actor update": actor.activations(row, count),
        }
        if critic is not None:
            row, count = self._rows(config.critic, config.rollout.max_prompt_tokens)
            found["critic update"] = critic.activations(row, count)
        return found

    def _rows(self, model: ModelConfig, longest: int) -> tuple[int, int]:
        """(tokens of the largest row on a rank, micro-batches of an optimizer step at full length)."""
        replicas = data_parallel(model, self.setup.machines.world_size)
        sequences = -(-mini_batch_size(model, self.setup.num_responses) // replicas)
        return row_tokens(model, longest, sequences), micro_batches(model, sequences, longest)


def totals(table: Table) -> dict[Phase, float]:
    return {phase: sum(row.get(phase, 0.0) for row in table.values()) for phase in PHASES}


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
