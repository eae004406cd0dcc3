"""Under torchrun: log-probs, values and one SPPO step of each layout against a plain PyTorch implementation on the HF model.

    torchrun --nproc-per-node 2 step_parity.py MODEL_DIR '{"tp": 2}' '{"pp": 2}' ...

Each JSON argument overrides the actor's ModelConfig; ``critic`` in it holds the critic's layout. Prints one JSON line per layout on rank 0.
"""

from __future__ import annotations

import json
import math
import sys

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from megatron_sppo.actor import Actor
from megatron_sppo.algorithms.sppo import SPPO
from megatron_sppo.batch import ActorBatch, CriticBatch
from megatron_sppo.config.schema import ActorConfig, AlgorithmConfig, CriticConfig, OptimizerConfig, RolloutConfig
from megatron_sppo.critic import Critic
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import HFModelConfig, read_hf_config
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, ModelGroups, build_groups
from megatron_sppo.ragged import Ragged
from megatron_sppo.weights.export_hf import iter_hf_tensors
from megatron_sppo.weights.load_hf import load_hf_weights

TEMPERATURE = 0.7
OPTIMIZER = OptimizerConfig(lr=2e-4, weight_decay=0.1, clip_grad=0.5, beta2=0.95)
PRIOR = 0.3


def make_batch(vocab: int) -> tuple[Ragged, Ragged, torch.Tensor, torch.Tensor]:
    """(prompts, responses, rewards, values) of 12 random rows of very different lengths."""
    generator = torch.Generator().manual_seed(5)
    prompt_lengths = [3, 9, 17, 5, 30, 2, 11, 6, 24, 8, 13, 4]
    response_lengths = [7, 1, 22, 40, 5, 12, 3, 18, 9, 33, 2, 15]
    rows = [[torch.randint(2, vocab, (n,), generator=generator) for n in lengths] for lengths in (prompt_lengths, response_lengths)]
    prompts, responses = (Ragged.from_rows(r, torch.int64) for r in rows)
    rewards = torch.randint(0, 2, (12,), generator=generator).float()
    values = torch.rand(12, generator=generator)
    return prompts, responses, rewards, values


def hf_logprobs(model: torch.nn.Module, prompts: Ragged, responses: Ragged) -> list[torch.Tensor]:
    out = []
    for prompt, response in zip(prompts.rows(), responses.rows(), strict=True):
        ids = torch.cat([prompt, response])[None]
        logits = model(ids).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
        out.append(torch.log_softmax(logits, -1).gather(-1, response[:, None])[:, 0])
    return out


def adamw(parameters: list[torch.Tensor]) -> torch.optim.AdamW:
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": OPTIMIZER.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=OPTIMIZER.lr, betas=(OPTIMIZER.beta1, OPTIMIZER.beta2), eps=OPTIMIZER.eps)


class Reference:
    """Eq. 1-3 in plain PyTorch on HF models: two mini-batches of 6, one response at a time."""

    def __init__(self, path: str) -> None:
        self.policy = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.value = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.head = torch.nn.Linear(self.value.config.hidden_size, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.constant_(self.head.bias, math.log(PRIOR / (1 - PRIOR)))
        prompts, responses, rewards, values = make_batch(self.policy.config.vocab_size)
        with torch.no_grad():
            self.old = hf_logprobs(self.policy, prompts, responses)
        self._train_policy(prompts, responses, rewards - values)
        self._train_value(prompts, rewards)

    def _train_policy(self, prompts: Ragged, responses: Ragged, advantages: torch.Tensor) -> None:
        parameters = list(self.policy.parameters())
        optimizer = adamw(parameters)
        for rows in (range(0, 6), range(6, 12)):
            now = hf_logprobs(self.policy, prompts.select(rows), responses.select(rows))
            terms = []
            for i, logprobs in zip(rows, now, strict=True):
                ratio = (logprobs - self.old[i]).exp()
                terms.append(-torch.minimum(ratio * advantages[i], ratio.clamp(0.8, 1.2) * advantages[i]))
            optimizer.zero_grad()
            torch.cat(terms).mean().backward()
            self.grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, OPTIMIZER.clip_grad))
            optimizer.step()

    def _train_value(self, prompts: Ragged, rewards: torch.Tensor) -> None:
        body = self.value.model
        parameters = [*body.parameters(), *self.head.parameters()]
        optimizer = adamw(parameters)
        for rows in (range(0, 6), range(6, 12)):
            logits = torch.stack([self.head(body(prompts.rows()[i][None]).last_hidden_state[0, -1])[0] for i in rows])
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, rewards[list(rows)]).backward()
            torch.nn.utils.clip_grad_norm_(parameters, OPTIMIZER.clip_grad)
            optimizer.step()
        with torch.no_grad():
            last = torch.stack([self.head(body(row[None]).last_hidden_state[0, -1])[0] for row in prompts.rows()])
            self.values_after = last.sigmoid()


def largest_difference(engine: MegatronEngine, hf: HFModelConfig, groups: ModelGroups, want: dict[str, torch.Tensor]) -> float:
    seen, worst = set(), 0.0
    for name, tensor in iter_hf_tensors(engine.model, hf, groups):
        seen.add(name)
        worst = max(worst, float((tensor - want[name]).abs().max()))
    assert seen >= {n for n in want if not n.startswith("lm_head")}, "tensors are missing from the export"
    return worst


def run_layout(path: str, hf: HFModelConfig, case: dict, groups: ModelGroups, critic_groups: ModelGroups, reference: Reference) -> dict:
    prompts, responses, rewards, values = make_batch(hf.vocab_size)
    critic_layout = case.pop("critic", {})
    config = ActorConfig(**{"path": path, "dtype": "fp32", "mini_batch_size": 6, "logprob_chunk_tokens": 16, "optimizer": OPTIMIZER, **case})
    critic_config = CriticConfig(
        **{"path": path, "dtype": "fp32", "mini_batch_size": 6, "optimizer": OPTIMIZER, "prior": PRIOR, "micro_batch_tokens": 40, **critic_layout}
    )
    engine = MegatronEngine(hf, config, groups, "lm", total_steps=10)
    load_hf_weights(engine.model, hf, path, groups)
    engine.start_optimizer()
    actor = Actor(engine, config, TEMPERATURE)
    old = actor.logprobs(prompts, responses)
    again = actor.logprobs(prompts, responses)
    advantages = Ragged(torch.repeat_interleave(rewards - values, responses.lengths), responses.lengths)
    batch = ActorBatch(prompts, responses, advantages, old, old, old)
    algorithm = SPPO(AlgorithmConfig(), RolloutConfig(temperature=TEMPERATURE), seed=1)
    metrics = actor.update(batch, algorithm.actor_loss, seed=0)

    critic_engine = MegatronEngine(hf, critic_config, critic_groups, "value", total_steps=10, prior=PRIOR)
    load_hf_weights(critic_engine.model, hf, path, critic_groups)
    critic_engine.start_optimizer()
    critic = Critic(critic_engine, critic_config)
    before = critic.values(prompts)
    critic.update(CriticBatch(prompts, rewards, before), algorithm.critic_loss, seed=0)
    after = critic.values(prompts)
    policy = {name: p.detach() for name, p in reference.policy.named_parameters()}
    value = {name: p.detach() for name, p in reference.value.named_parameters() if name.startswith("model.")}
    return {
        "logprob_error": max(float((a - b).abs().max()) for a, b in zip(old.rows(), reference.old, strict=True)),
        "repeatable": bool(torch.equal(old.values, again.values)),
        "grad_norm_error": abs(metrics["actor/grad_norm"].value() - reference.grad_norm) if config.mini_batch_size == 12 else None,
        "actor_weight_error": largest_difference(engine, hf, groups, policy),
        "critic_weight_error": largest_difference(critic_engine, hf, critic_groups, value),
        "prior_error": float((before - PRIOR).abs().max()),
        "value_error": float((after - reference.values_after).abs().max()),
        "value_moved": float((after - before).abs().max()),
        "loss": metrics["actor/loss"].value(),
    }


def main() -> None:
    path, cases = sys.argv[1], [json.loads(arg) for arg in sys.argv[2:]]
    rank, _ = platform.start_distributed()
    platform.quiet_upstream()
    hf = read_hf_config(path)
    reference = Reference(path)
    for case in cases:
        layout = Layout(case.get("tp", 1), case.get("pp", 1))
        critic = case.get("critic", {})
        groups = build_groups([layout, Layout(critic.get("tp", 1), critic.get("pp", 1))], seed=1)
        name = json.dumps(case)
        result = run_layout(path, hf, dict(case), *groups, reference)
        if rank == 0:
            print("RESULT", json.dumps({"case": name, **result}), flush=True)


if __name__ == "__main__":
    main()
