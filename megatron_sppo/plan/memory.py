"""Memory per GPU by component and phase, on the rank that needs most, in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from megatron_sppo.config.arithmetic import data_parallel, mini_batch_size
from megatron_sppo.config.offload import COPIED, LEAVING, LEVELS, Level, Part
from megatron_sppo.config.schema import ModelConfig
from megatron_sppo.plan.assumptions import Assumptions
from megatron_sppo.plan.engine_memory import EngineMemory
from megatron_sppo.plan.setup import Setup
from megatron_sppo.plan.trainer_memory import Shard, itemsize, micro_batches, row_tokens
from megatron_sppo.reshard.alias import aliasable_share
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.declared import layouts

Phase = Literal["rollout", "critic update", "log-probs", "actor update", "reshard"]
PHASES: tuple[Phase, ...] = ("rollout", "critic update", "log-probs", "actor update", "reshard")
_MIB = 2**20
USED: dict[str, Phase] = {"actor": "actor update", "critic": "critic update"}  # what `offload` brings back is there in these
COMPUTES: dict[str, tuple[Phase, ...]] = {"actor": ("log-probs", "actor update"), "critic": ("critic update",)}
STAGING = 4  # times rollout.reshard_cap_mib: two arenas of a round in each direction (megatron_sppo/reshard/executor.py)

Table = dict[str, dict[Phase, float]]  # component -> phase -> bytes; phases in which it is absent are left out


@dataclass(frozen=True)
class Memory:
    setup: Setup
    assumptions: Assumptions

    @cached_property
    def offload(self) -> Level:
        """``offload``, or what ``auto`` comes to: the least with which the run fits, and all where nothing does."""
        level = self.setup.config.offload
        if level != "auto":
            return level
        choices = (replace(self, setup=replace(self.setup, config=replace(self.setup.config, offload=each))) for each in LEVELS)
        return next((memory.offload for memory in choices if not memory.problem()), LEVELS[-1])

    @cached_property
    def engine(self) -> EngineMemory:
        rollout = self.setup.config.rollout
        dtype = self.setup.config.actor.dtype if rollout.dtype == "auto" else rollout.dtype
        return EngineMemory(self.setup.actor, rollout, self.setup.machines.gpu, itemsize(dtype))

    @property
    def usable(self) -> float:
        return self.setup.machines.gpu.memory * (1 - self.assumptions.fragmentation)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """By kind of rank, of the one with the highest peak: ranks differ by the pipeline stages that they hold."""
        trainers = list(self._shards())
        if self.setup.is_separate:
            return {
                "training rank": _fullest(self._table(shards, rolls_out=False) for shards in trainers),
                "rollout rank": self._table((), rolls_out=True),
            }
        return {"rank": _fullest(self._table(shards, rolls_out=True) for shards in trainers)}

    @property
    def peak(self) -> tuple[Phase, float]:
        return max((peak_of(table) for table in self.tables.values()), key=lambda item: item[1])

    @property
    def rollout_total(self) -> float:
        """Of a rank that rolls out, while it does."""
        return totals(list(self.tables.values())[-1])["rollout"]

    def problem(self) -> str:
        """Why it does not fit, or nothing."""
        phase, peak = self.peak
        if peak > self.usable:
            return f"the {phase} phase needs {_gb(peak)} of the {_gb(self.usable)} that one {self.setup.machines.gpu.name} offers"
        if self.engine.sequences(self.setup.longest) < 1:
            return (
                f"vLLM's share of {_gb(self.engine.share)} leaves {_gb(max(0.0, self.engine.kv_cache))} for the KV cache after "
                f"{_gb(self.engine.weights)} of weights and {_gb(self.engine.activations)} of activations: not one sequence of "
                f"{self.setup.longest} tokens"
            )
        return ""

    @property
    def host_bytes(self) -> dict[str, float]:
        """Pinned or pageable memory of one node's training ranks together."""
        ranks = min(self.setup.machines.gpus_per_node, self.setup.train_ranks)
        shards = max(self._shards(), key=lambda shards: sum(shard.state.total for shard in shards))
        found = {"checkpoint being written": ranks * sum(shard.written_weights + shard.state.optimizer for shard in shards)}
        if self.offload != "none":
            found[f"what offload={self.offload} brings there"] = ranks * self.offload_bytes
        if self.setup.config.rollout.sleep and not self.setup.is_separate:
            found["vLLM's weights, while it sleeps after a validation"] = ranks * self.engine.weights
        if self.setup.needs_reference:
            found["reference policy"] = ranks * shards[0].state.weights
        return found

    @property
    def offload_bytes(self) -> float:
        """Host memory of what ``offload`` brings there, of the rank with most."""
        return max(sum(map(self._offloaded, ("actor", "critic"), shards)) for shards in self._shards())

    def _offloaded(self, name: str, shard: Shard) -> float:
        return sum(getattr(shard.state, part) for part in LEAVING[self.offload][name] & COPIED)

    def _shards(self) -> Iterator[tuple[Shard, ...]]:
        """(actor, critic) as each kind of rank holds them; the actor alone where the algorithm has no critic."""
        setup, world_size, config = self.setup, self.setup.train_ranks, self.setup.config
        ranks_per_stage = [world_size // model.pp for model in (config.actor, config.critic)]
        for stages in sorted({tuple(rank // size for size in ranks_per_stage) for rank in range(world_size)}):
            actor = Shard(setup.actor, config.actor, "lm", stages[0], world_size)
            critic = Shard(setup.critic, config.critic, "value", stages[1], world_size)
            yield (actor, critic) if setup.uses_critic else (actor,)

    def _table(self, shards: tuple[Shard, ...], *, rolls_out: bool) -> Table:
        table: Table = {}
        for name, shard in zip(("actor", "critic"), shards, strict=False):
            state = shard.state
            leaving = LEAVING[self.offload][name]
            sizes: dict[Part, float] = {"weights": state.weights, "gradients": state.gradients, "optimizer": state.optimizer}
            for part, size in sizes.items():
                table[f"{name} {part}"] = dict.fromkeys((USED[name],) if part in leaving else PHASES, size)
            table[f"{name} FP8 copies"] = dict.fromkeys(COMPUTES[name], shard.fp8_copies)
            table[f"{name} FP8 transposes"] = {USED[name]: shard.fp8_transposes}
        if rolls_out:
            table |= self._engine_rows()
        if shards:
            table |= self._work_rows(*shards)
        table["reshard buckets"] = {"reshard": self._staging()}
        table["CUDA context, NCCL"] = dict.fromkeys(PHASES, self.assumptions.context)
        return {name: row for name, row in table.items() if any(row.values())}

    def _work_rows(self, actor: Shard, critic: Shard | None = None) -> Table:
        """What comes and goes while models compute."""
        rows: Table = {
            "activations": self._activations(actor, critic),
            "logits in chunks": dict.fromkeys(COMPUTES["actor"], actor.head_bytes),
        }
        if self.setup.needs_reference:  # Actor.reference_logprobs keeps the policy's weights beside the reference's
            rows["policy's weights, swapped out"] = {"log-probs": actor.state.weights}
        return rows

    def _staging(self) -> float:
        """The planned reshard's arenas; gathering holds the largest tensor and the parts that it is made of."""
        rollout, hf = self.setup.config.rollout, self.setup.actor
        if rollout.weight_sync == "gather":
            return 2 * hf.vocab_size * hf.hidden_size * self.engine.itemsize
        return STAGING * rollout.reshard_cap_mib * _MIB

    def _engine_rows(self) -> Table:
        engine, rollout = self.engine, self.setup.config.rollout
        graphs = 0.0 if rollout.execution == "eager" else self.assumptions.cuda_graphs
        sleeps = rollout.sleep and not self.setup.is_separate
        awake: tuple[Phase, ...] = ("rollout",) if sleeps else PHASES
        weights = engine.weights * (1 - self.aliased_share)
        return {
            "vLLM weights": dict.fromkeys((*awake, "reshard"), weights),
            "vLLM activations": {"rollout": engine.activations},
            "vLLM KV cache": dict.fromkeys(awake, max(0.0, engine.kv_cache)),
            "vLLM CUDA graphs": dict.fromkeys(PHASES, graphs),
        }

    @cached_property
    def aliased_share(self) -> float:
        """Of vLLM's weights, what is the trainer's own memory (``rollout.alias_weights``), on the rank with the least."""
        if not self.setup.config.rollout.alias_weights:
            return 0.0
        sources, targets = layouts(self.setup.actor, self.setup.cluster, hf_shapes(self.setup.actor))
        first = self.setup.cluster.tp * self.setup.config.rollout.tp * self.setup.cluster.pp  # later ranks repeat these
        return min(map(aliasable_share, sources[:first], targets[:first]))

    def _activations(self, actor: Shard, critic: Shard | None) -> dict[Phase, float]:
        setup, config = self.setup, self.setup.config
        row, count = self._rows(config.actor, setup.longest)
        found: dict[Phase, float] = {
            "log-probs": actor.forward_activations(row),
            "actor update": actor.activations(row, count),
        }
        if critic is not None:
            row, count = self._rows(
                config.critic, setup.longest if setup.critic_reads_responses else config.rollout.max_prompt_tokens
            )
            found["critic update"] = critic.activations(row, count)
        return found

    def _rows(self, model: ModelConfig, longest: int) -> tuple[int, int]:
        """(tokens of the largest row on a rank, micro-batches of an optimizer step at full length)."""
        replicas = data_parallel(model, self.setup.train_ranks)
        sequences = -(-mini_batch_size(model, self.setup.num_responses) // replicas)
        return row_tokens(model, longest, sequences), micro_batches(model, sequences, longest)


def peak_of(table: Table) -> tuple[Phase, float]:
    return max(totals(table).items(), key=lambda item: item[1])


def _fullest(tables: Iterable[Table]) -> Table:
    return max(tables, key=lambda table: peak_of(table)[1])


def totals(table: Table) -> dict[Phase, float]:
    return {phase: sum(row.get(phase, 0.0) for row in table.values()) for phase in PHASES}


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
