"""Under torchrun: log-probs and entropies of each model in each layout against HF, and packed rows against single ones.

    torchrun --nproc-per-node 2 hf_parity.py CASES.json

CASES.json maps a name to {"model": HF folder, "overrides": ["actor.tp=2", ...]}.
Prints one line ``RESULT {"case": name, ...}`` per case.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoModelForCausalLM

from megatron_sppo.actor import Actor
from megatron_sppo.algorithms.base import PolicyInputs
from megatron_sppo.batch import ActorBatch
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import ActorConfig, Config
from megatron_sppo.losses import LossSum
from megatron_sppo.metrics import Mean
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import read_hf_config
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, build_groups
from megatron_sppo.ragged import Ragged
from megatron_sppo.weights.load_hf import load_hf_weights
from tests.distributed.programs.plain_sppo import TEMPERATURE, make_problem, token_scores

ONE_SEQUENCE_PER_ROW = 1  # no two sequences fit into a budget of one token


@cache
def hf_scores(model: str) -> tuple[Tensor, Tensor]:
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    problem = make_problem(policy.config.vocab_size, on_policy=True)
    with torch.no_grad():
        rows = zip(problem.prompts.rows(), problem.responses.rows(), strict=True)
        logprobs, entropies = zip(*(token_scores(policy, *row) for row in rows), strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def mean_entropy(actor: Actor, prompts: Ragged, responses: Ragged) -> float:
    """Over all response tokens, as the update's metric sees it; the learning rate is 0."""
    zeros = responses.with_values(torch.zeros(len(responses.values)))
    batch = ActorBatch(prompts, responses, zeros, zeros, zeros, zeros)

    def entropy_only(inputs: PolicyInputs) -> LossSum:
        count = inputs.entropy_N.numel()
        return LossSum(-inputs.entropy_N.sum(), count, {"entropy": Mean(float(inputs.entropy_N.detach().sum()), count)})

    return actor.update(batch, entropy_only, seed=0)["entropy"].value()


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    model = case["model"]
    config = load_config(Config, [], [f"actor.path={model}", "actor.optimizer.lr=0", *case["overrides"]]).actor
    hf = read_hf_config(model)
    (groups,) = build_groups([Layout.of(config)], seed=1)
    engine = MegatronEngine(hf, config, groups, "lm", total_steps=1)
    load_hf_weights(engine.model, hf, model, groups)
    engine.start_optimizer()
    problem = make_problem(hf.vocab_size, on_policy=True)

    def logprobs(variant: ActorConfig) -> Tensor:
        return Actor(engine, variant, TEMPERATURE).logprobs(problem.prompts, problem.responses).values

    packed, single = logprobs(config), logprobs(replace(config, micro_batch_tokens=ONE_SEQUENCE_PER_ROW))
    few = Actor(engine, config, TEMPERATURE).logprobs(problem.prompts.select([3]), problem.responses.select([3])).values
    want, entropy = hf_scores(model)
    entropy_found = mean_entropy(Actor(engine, config, TEMPERATURE), problem.prompts, problem.responses)
    return {
        "logprob_error": float((packed - want).abs().max()),
        "packed_against_single": float((packed - single).abs().max()),
        "one_response_error": float((few - want.split(problem.responses.lengths.tolist())[3]).abs().max()),
        "entropy_error": abs(entropy_found - float(entropy.mean())),
        "spread": float(want.std()),
    }


def main(file: Path) -> None:
    rank, _ = platform.start_distributed()
    platform.quiet_upstream()
    for name, case in json.loads(file.read_text()).items():
        result = run_case(case)
        if rank == 0:
            print("RESULT", json.dumps({"case": name, **result}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
