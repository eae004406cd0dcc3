"""Under torchrun: log-probs, values and one SPPO step of each case against plain PyTorch on the HF model.

    torchrun --nproc-per-node 2 step_parity.py CASES.json

CASES.json maps a name to {"model": HF folder, "overrides": ["actor.tp=2", ...], "on_policy": true}. Prints one line
``RESULT {"case": name, ...}`` per case on rank 0; every number is the worst over the ranks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megatron_sppo.actor import Actor
from megatron_sppo.algorithms import build_algorithm
from megatron_sppo.algorithms.base import PolicyInputs
from megatron_sppo.algorithms.sppo import SPPO
from megatron_sppo.batch import CriticBatch, Outcomes, Prompts, Rollouts
from megatron_sppo.config.algorithms import CRITICS
from megatron_sppo.config.arithmetic import num_reused
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config
from megatron_sppo.critic import Critic, initial_logit
from megatron_sppo.losses import LossSum
from megatron_sppo.models import optimizer
from megatron_sppo.models.batching import plan_mini_batches
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import HFModelConfig, read_hf_config
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.collectives import gather_objects
from megatron_sppo.parallel.groups import Layout, ModelGroups, build_groups
from megatron_sppo.ragged import Ragged
from megatron_sppo.weights.export_hf import iter_hf_tensors
from megatron_sppo.weights.load_hf import load_hf_weights
from tests.distributed.programs.plain_sppo import (
    MAX_RESPONSE_TOKENS,
    OPTIMIZER,
    PRIOR,
    TEMPERATURE,
    VALUE_CLIP,
    Problem,
    TrainedPolicy,
    TrainedValue,
    make_problem,
)

DEFAULTS = [
    "actor.mini_batch_size=6",
    "critic.mini_batch_size=6",
    "actor.logprob_chunk_tokens=16",
    "critic.micro_batch_tokens=40",
    f"actor.optimizer.clip_grad={OPTIMIZER.clip_grad}",
    f"critic.prior={PRIOR}",
    f"algorithm.value_clip={VALUE_CLIP}",
    f"rollout.temperature={TEMPERATURE}",
    f"rollout.max_response_tokens={MAX_RESPONSE_TOKENS}",
]

Loss = Callable[[PolicyInputs], LossSum]


trained_policy = cache(TrainedPolicy)
trained_value = cache(TrainedValue)


def read_config(model: str, overrides: list[str]) -> Config:
    config = load_config(Config, [], [f"actor.path={model}", f"critic.path={model}", *DEFAULTS, *overrides])
    of_actor, of_critic = (
        replace(OPTIMIZER, distributed=given.distributed, overlap=given.overlap)
        for given in (config.actor.optimizer, config.critic.optimizer)
    )
    actor = replace(config.actor, optimizer=replace(of_actor, clip_grad=config.actor.optimizer.clip_grad))
    critic = replace(config.critic, optimizer=of_critic)
    return replace(config, actor=actor, critic=critic)


def largest_difference(engine: MegatronEngine, hf: HFModelConfig, want: dict[str, Tensor]) -> float:
    seen, worst = set(), 0.0
    for name, tensor in iter_hf_tensors(engine.model, hf, engine.groups):
        seen.add(name)
        worst = max(worst, float((tensor - want[name]).abs().max()))
    assert seen >= {n for n in want if not n.startswith("lm_head")}, "tensors are missing from the export"
    return worst


def copies_are_equal(model: nn.Module, groups: ModelGroups) -> bool:
    """Bit for bit: replicated parameters over TP, every parameter over DP and CP."""
    equal = True
    for parameter in model.parameters():
        sharded = getattr(parameter, "tensor_model_parallel", False)
        for group in [groups.pg.dp_cp] if sharded else [groups.pg.dp_cp, groups.pg.tp]:
            others = [torch.empty_like(parameter) for _ in range(group.size())]
            dist.all_gather(others, parameter.detach(), group=group)
            equal = equal and all(torch.equal(parameter, other) for other in others)
    return equal


def first_ratio(loss: Loss, calls: int) -> tuple[Loss, list[float]]:
    """``loss``, and a list that will hold the largest |log ratio| of each of the first ``calls`` micro-batches."""
    seen: list[float] = []

    def watched(inputs: PolicyInputs) -> LossSum:
        if len(seen) < calls:
            seen.append(float((inputs.logprobs_N - inputs.old_logprobs_N).detach().abs().max()))
        return loss(inputs)

    return watched, seen


def rollouts_of(problem: Problem, engine_logprobs: Ragged) -> Rollouts:
    names = tuple(str(i) for i in range(len(problem.prompts)))
    prompts = Prompts(names, names, names, names, problem.prompts)
    num_rows = len(names)
    truncated = torch.zeros(num_rows, dtype=torch.bool)
    return Rollouts(prompts, torch.arange(num_rows), problem.responses, engine_logprobs, truncated, names)


def shifted(logprobs: Ragged, shift: Ragged) -> Ragged:
    return logprobs.with_values(logprobs.values + shift.values)


def run_actor(hf: HFModelConfig, config: Config, groups: ModelGroups, want: TrainedPolicy, on_policy: bool) -> dict[str, Any]:
    problem = make_problem(hf.vocab_size, on_policy)
    engine = MegatronEngine(hf, config.actor, groups, "lm", total_steps=10)
    load_hf_weights(engine.model, hf, config.actor.path, groups)
    engine.start_optimizer()
    assert len(engine.ddp.bucket_groups) > 1 or not engine.ddp.ddp_config.overlap_grad_reduce, "several buckets are tested"
    actor = Actor(engine, config.actor, TEMPERATURE)
    actor.remember_reference()
    logprobs = actor.logprobs(problem.prompts, problem.responses)
    again = actor.logprobs(problem.prompts, problem.responses)
    reused = num_reused(config.actor, len(problem.responses))
    before = actor.old_logprobs(problem.prompts, problem.responses, reused) if reused else logprobs
    old, at_engine, reference = (
        shifted(base, shift)
        for base, shift in (
            (before, problem.old_shift),
            (logprobs, problem.engine_shift),
            (logprobs, problem.reference_shift),
        )
    )
    algorithm = SPPO(config.algorithm, config.rollout, seed=1)
    rollouts, values = (
        rollouts_of(problem, at_engine),
        Ragged(problem.values_B, torch.ones(len(problem.values_B), dtype=torch.int64)),
    )
    batch = algorithm.assign_credit(Outcomes(rollouts, problem.rewards_B, torch.zeros(12), values, old, reference)).actor
    lengths = (problem.prompts.lengths + problem.responses.lengths).tolist()
    calls = len(actor_bins(config, lengths, engine))
    loss, first_log_ratios = first_ratio(algorithm.actor_loss, calls)
    metrics = actor.update(batch, loss, seed=0)
    after = actor.logprobs(problem.prompts, problem.responses)
    remembered = actor.reference_logprobs(problem.prompts, problem.responses)
    restored = actor.logprobs(problem.prompts, problem.responses)
    return {
        "logprob_error": float((logprobs.values - torch.cat(want.first)).abs().max()),
        "plain_grad_norm": want.grad_norm,
        "not_repeatable": not torch.equal(logprobs.values, again.values),
        "first_log_ratio": max(first_log_ratios, default=0.0),
        "actor_grad_norm_error": abs(metrics["actor/grad_norm"].value() / want.grad_norm - 1),
        "actor_weight_error": largest_difference(engine, hf, {n: p.detach() for n, p in want.model.named_parameters()}),
        "actor_copies_differ": not copies_are_equal(engine.model, groups),
        "reference_lost": not torch.equal(remembered.values, logprobs.values),
        "policy_not_restored": not torch.equal(after.values, restored.values),
        "actor_stood_still": torch.equal(after.values, logprobs.values) or want.moved < 1e-4,
    }


def actor_bins(config: Config, lengths: list[int], engine: MegatronEngine) -> tuple[tuple[int, ...], ...]:
    """This rank's micro-batches of the first mini-batch where it computes losses."""
    size, budget, groups = config.actor.mini_batch_size, config.actor.micro_batch_tokens, engine.groups
    plan = plan_mini_batches(lengths, range(len(lengths)), size, groups.dp, budget, engine.cost)
    return plan[0].bins[groups.dp_rank] if groups.is_last_stage else ()


def run_critic(hf: HFModelConfig, config: Config, groups: ModelGroups, want: TrainedValue) -> dict[str, Any]:
    problem, name = make_problem(hf.vocab_size, on_policy=True), config.algorithm.name
    form = CRITICS[name]
    engine = MegatronEngine(hf, config.critic, groups, "value", 10, initial_logit(PRIOR, form))
    load_hf_weights(engine.model, hf, config.critic.path, groups)
    engine.start_optimizer()
    assert len(engine.ddp.bucket_groups) > 1 or not engine.ddp.ddp_config.overlap_grad_reduce, "several buckets are tested"
    critic = Critic(engine, config.critic, form)
    before = critic.values(problem.prompts, problem.responses)
    algorithm = build_algorithm(config)
    targets = before.with_values(problem.rewards_B) if form.reads == "prompt" else problem.returns
    batch = CriticBatch(problem.prompts, problem.responses, targets, before)
    metrics = critic.update(batch, algorithm.critic_loss, seed=0)
    after = critic.values(problem.prompts, problem.responses)
    trunk = {name: p.detach() for name, p in want.model.named_parameters() if name.startswith("model.")}
    head_error = 0.0
    if groups.is_last_stage:
        pairs = ((engine.model.output_layer.weight, want.head.weight), (engine.model.output_layer.bias, want.head.bias))
        head_error = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    return {
        "prior_error": float((before.values - PRIOR).abs().max()),
        "value_error": float((after.values - want.values_after).abs().max()),
        "critic_weight_error": max(head_error, largest_difference(engine, hf, trunk)),
        "critic_grad_norm_error": abs(metrics["critic/grad_norm"].value() / want.grad_norm - 1),
        "critic_copies_differ": not copies_are_equal(engine.model, groups),
        "critic_stood_still": torch.equal(before.values, after.values) or want.moved < 1e-4,
    }


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    model = case["model"]
    on_policy = case.get("on_policy", True)
    hf, config = read_hf_config(model), read_config(model, case.get("overrides", []))
    actor_groups, critic_groups = build_groups([Layout.of(config.actor), Layout.of(config.critic)], seed=1)
    policy = trained_policy(model, config.algorithm, on_policy, config.actor.optimizer.clip_grad)
    result = run_actor(hf, config, actor_groups, policy, on_policy)
    return result | run_critic(hf, config, critic_groups, trained_value(model, config.algorithm.name))


def main(file: Path) -> None:
    rank, _ = platform.start_distributed()
    platform.quiet_upstream()
    optimizer.BUCKET_PARAMETERS = 3000  # several buckets even of a tiny model
    for name, case in json.loads(file.read_text()).items():
        everywhere = gather_objects(run_case(case))
        worst = {key: max(result[key] for result in everywhere) for key in everywhere[0]}
        if rank == 0:
            print("RESULT", json.dumps({"case": name, **worst}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
