"""What runs but wastes something, each with its fix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.plan.assumptions import GB, Assumptions
from megatron_sppo.plan.changes import Change, fits
from megatron_sppo.plan.memory import Memory
from megatron_sppo.plan.setup import Setup
from megatron_sppo.plan.times import Times
from megatron_sppo.plan.traffic import Push

TOO_MUCH_BUBBLE = 0.25
TOO_FEW_SEQUENCES = 0.9  # of those that could run at once


def advice(memory: Memory, times: Times, push: Push, assumptions: Assumptions) -> list[str]:
    """Sentences; the first ones are the config's own warnings."""
    setup = memory.setup
    parts = (
        setup.warnings,
        _key_value_cache(memory),
        _cuts(setup, assumptions),
        _recomputation(setup, assumptions),
        _across_nodes(setup, push),
        _second_copy(memory, push),
        _bubbles(setup, times),
        _duplicated_heads(setup),
        _missing_files(setup),
    )
    return [sentence for part in parts for sentence in part]


def _key_value_cache(memory: Memory) -> Iterator[str]:
    setup, engine = memory.setup, memory.engine
    share = -(-setup.num_sampled * setup.config.rollout.tp // setup.rollout_ranks)
    wanted = min(setup.config.rollout.max_num_seqs, share)
    held = engine.sequences(setup.longest)
    if held < 1 or held >= TOO_FEW_SEQUENCES * wanted:
        return
    room = memory.usable - memory.rollout_total
    fix = f"set rollout.max_num_seqs={held}, or raise rollout.tp"
    if room > GB:
        more = setup.config.rollout.gpu_memory_utilization + room / setup.machines.gpu.memory
        fix = f"raise rollout.gpu_memory_utilization to {min(0.95, more):.2f}, which fits, or set rollout.max_num_seqs={held}"
    if setup.config.offload == "none":
        fix += ", or make room for a larger rollout.gpu_memory_utilization with offload=auto"
    yield (
        f"the KV cache of {engine.kv_cache / GB:.1f} GB holds {held} of {wanted} sequences at {setup.longest} tokens; "
        f"vLLM will hold others back or recompute them: {fix}"
    )


def _cuts(setup: Setup, assumptions: Assumptions) -> Iterator[str]:
    for name in setup.trained:
        hf: HFModelConfig = getattr(setup, name)
        tp = getattr(setup.config, name).tp
        smallest = next((n for n in range(1, tp) if tp % n == 0 and fits(setup, _tp(setup, name, n), assumptions)), tp)
        if smallest < tp:
            yield (
                f"{name}.tp={tp} wastes two all-reduces in each of {hf.num_layers} layers on a model that fits with less: "
                f"set {_tp(setup, name, smallest)}"
            )


def _tp(setup: Setup, name: str, tp: int) -> Change:
    """With sequence parallelism turned off where it has no meaning any more."""
    model = getattr(setup.config, name)
    off = ((f"{name}.sequence_parallel", False),) if tp == 1 and model.sequence_parallel else ()
    return Change(((f"{name}.tp", tp), *off))


def _recomputation(setup: Setup, assumptions: Assumptions) -> Iterator[str]:
    for name in setup.trained:
        change = Change(((f"{name}.recompute", "none"),))
        if getattr(setup.config, name).recompute == "full" and fits(setup, change, assumptions):
            yield f"{name}.recompute=full computes every layer once more though its activations would fit: set {change}"


def _across_nodes(setup: Setup, push: Push) -> Iterator[str]:
    per_node = setup.machines.gpus_per_node
    sizes = {f"{name}.tp": getattr(setup.config, name).tp for name in (*setup.trained, "rollout")}
    for key, tp in sizes.items():
        if per_node % tp and setup.machines.nodes > 1:
            yield (
                f"{key}={tp} puts ranks of one tensor-parallel group on two nodes of {per_node} GPUs, where all-reduces cross "
                f"the network: set {key} to a divisor of {per_node}"
            )
    far = push.most_received[1]
    if far > GB:
        yield (
            f"a rank fetches {far / GB:.2f} GB from other nodes per reshard, for its node does not hold every pipeline stage: "
            "lower actor.pp, or accept it"
        )


def _second_copy(memory: Memory, push: Push) -> Iterator[str]:
    """Of the weights, where vLLM could use the trainer's; CUDA graphs hold addresses, so with them it cannot."""
    rollout = memory.setup.config.rollout
    possible = rollout.weight_sync == "reshard" and rollout.execution == "eager" and not memory.setup.is_separate
    if possible and not rollout.alias_weights and push.report.aliasable == 1.0:
        yield (
            f"vLLM keeps {memory.engine.weights / GB:.1f} GB of weights a rank that the trainer has in the same layout: "
            "set rollout.alias_weights=true"
        )


def _bubbles(setup: Setup, times: Times) -> Iterator[str]:
    for name in setup.trained:
        model, reads_prompt = getattr(setup.config, name), name == "critic" and not setup.critic_reads_responses
        mean = times.prompt if reads_prompt else times.prompt + times.response
        share = times.bubble(model, mean)
        if share > TOO_MUCH_BUBBLE:
            yield (
                f"{name}.pp={model.pp} leaves its stages idle for {share:.0%} of an update: a mini-batch has few micro-batches: "
                f"lower {name}.pp or {name}.micro_batch_tokens, or raise {name}.mini_batch_size"
            )


def _duplicated_heads(setup: Setup) -> Iterator[str]:
    tp, heads = setup.config.rollout.tp, setup.actor.num_kv_heads
    if tp > heads:
        yield (
            f"rollout.tp={tp} keeps each of the {heads} KV heads on {tp // heads} ranks, which halves what the KV cache gains: "
            f"set rollout.tp={heads} and run more engines"
        )


def _missing_files(setup: Setup) -> Iterator[str]:
    missing = [path for path in (*setup.config.data.train, *setup.config.data.validation) if not Path(path).is_file()]
    if missing:
        yield f"data not on this machine, so not looked at: {', '.join(missing)}"
