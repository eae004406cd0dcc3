"""Eq. 1-3 and every option of the policy loss in plain PyTorch on HF models: one response at a time, no packing, no engine.

What Megatron must reproduce. Nothing here is shared with the package but its config values and its batch of ragged rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from megatron_sppo.config.schema import AlgorithmConfig, OptimizerConfig
from megatron_sppo.ragged import Ragged

TEMPERATURE, PRIOR, MAX_RESPONSE_TOKENS = 0.7, 0.3, 64
VALUE_CLIP = 1e-4  # so small that the first mini-batch's update reaches it
MINI_BATCHES = (range(6), range(6, 12))
# Adam divides a gradient by its own size: with eps 1e-8 an element whose gradient is rounding noise alone moves by up to lr.
OPTIMIZER = OptimizerConfig(lr=2e-4, weight_decay=0.1, clip_grad=0.5, beta2=0.95, eps=1e-6)


@dataclass(frozen=True)
class Problem:
    """12 random rows of very different lengths. ``*_shift`` are added to the policy's own log-probs before training."""

    prompts: Ragged
    responses: Ragged
    rewards_B: Tensor
    values_B: Tensor
    old_shift: Ragged  # 0: on policy
    engine_shift: Ragged
    reference_shift: Ragged
    returns: Ragged  # in [0, 1], one per response token


def make_problem(vocab: int, on_policy: bool) -> Problem:
    generator = torch.Generator().manual_seed(5)
    prompt_lengths = [3, 9, 17, 5, 30, 2, 11, 6, 24, 8, 13, 4]
    response_lengths = [7, 1, 22, 40, 5, 12, 3, 18, 9, 33, 2, 15]
    rows = [
        [torch.randint(2, vocab, (n,), generator=generator) for n in lengths] for lengths in (prompt_lengths, response_lengths)
    ]
    prompts, responses = (Ragged.from_rows(r, torch.int64) for r in rows)
    rewards = torch.randint(0, 2, (12,), generator=generator).float()
    values = torch.rand(12, generator=generator)
    old, engine, reference = (
        responses.with_values(0.3 * torch.randn(len(responses.values), generator=generator)) for _ in range(3)
    )
    if on_policy:
        old = old.with_values(torch.zeros_like(old.values))
    returns = responses.with_values(torch.rand(len(responses.values), generator=generator))
    return Problem(prompts, responses, rewards, values, old, engine, reference, returns)


def token_scores(model: torch.nn.Module, prompt: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
    """(log-probs, entropies) of the response's tokens."""
    logits = model(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
    logp = torch.log_softmax(logits, -1)
    return logp.gather(-1, response[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def adamw(parameters: list[torch.nn.Parameter]) -> torch.optim.AdamW:
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": OPTIMIZER.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=OPTIMIZER.lr, betas=(OPTIMIZER.beta1, OPTIMIZER.beta2), eps=OPTIMIZER.eps)


def step(optimizer: torch.optim.AdamW, parameters: list[torch.nn.Parameter], loss: Tensor, clip_grad: float) -> float:
    """One optimizer step; the gradient norm before clipping (0 = no clipping)."""
    optimizer.zero_grad()
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, clip_grad or math.inf))
    optimizer.step()
    return norm


def kl_estimate(policy: Tensor, reference: Tensor, kind: str) -> Tensor:
    log_r = reference - policy
    return {"k1": -log_r, "k2": log_r**2 / 2, "k3": torch.exp(log_r) - 1 - log_r}[kind]


def row_loss(
    c: AlgorithmConfig, now: Tensor, entropy: Tensor, old: Tensor, engine: Tensor, reference: Tensor, a: float
) -> Tensor:
    """[tokens] loss of one response with advantage ``a``."""
    log_ratio = now - old
    if c.ratio == "sequence":
        log_ratio = log_ratio.mean().expand_as(now)
    ratio = log_ratio.exp()
    objective = torch.minimum(ratio * a, ratio.clamp(1 - c.clip_low, 1 + c.clip_high) * a)
    if c.dual_clip and a < 0:
        objective = objective.clamp(min=c.dual_clip * a)
    gap = (old - engine).exp()
    weight = gap.clamp(max=c.importance_sampling.truncate) if c.importance_sampling.truncate else torch.ones_like(gap)
    if limit := c.importance_sampling.mask_above:
        weight = torch.where((gap > limit) | (gap < 1 / limit), 0.0, weight)
    loss = -objective * weight - c.entropy_coefficient * entropy
    if c.kl.where == "loss":
        loss = loss + c.kl.coefficient * kl_estimate(now, reference, c.kl.estimator)
    return loss


def average(c: AlgorithmConfig, rows: list[Tensor]) -> Tensor:
    if c.aggregation == "token-mean":
        return torch.cat(rows).mean()
    if c.aggregation == "seq-mean-token-mean":
        return torch.stack([row.mean() for row in rows]).mean()
    sums = torch.stack([row.sum() for row in rows])
    return sums.mean() if c.aggregation == "seq-mean-token-sum" else sums.mean() / MAX_RESPONSE_TOKENS


class TrainedPolicy:
    """Two mini-batches of 6 responses."""

    def __init__(self, path: str, c: AlgorithmConfig, on_policy: bool, clip_grad: float) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        problem = make_problem(self.model.config.vocab_size, on_policy)
        self.rows = list(zip(problem.prompts.rows(), problem.responses.rows(), strict=True))
        with torch.no_grad():
            self.first = [token_scores(self.model, *row)[0] for row in self.rows]
        before = [p.detach().clone() for p in self.model.parameters()]
        self._train(c, problem, clip_grad)
        self.moved = max(float((p.detach() - b).abs().max()) for p, b in zip(self.model.parameters(), before, strict=True))

    def _train(self, c: AlgorithmConfig, problem: Problem, clip_grad: float) -> None:
        shifts = (problem.old_shift, problem.engine_shift, problem.reference_shift)
        old, engine, reference = ([f + s for f, s in zip(self.first, shift.rows(), strict=True)] for shift in shifts)
        advantages = problem.rewards_B - problem.values_B  # eq. 1
        if c.kl.where == "reward":
            penalty = [kl_estimate(o, r, c.kl.estimator).sum() for o, r in zip(old, reference, strict=True)]
            advantages = advantages - c.kl.coefficient * torch.stack(penalty)
        parameters = list(self.model.parameters())
        optimizer = adamw(parameters)
        norms = []
        for members in MINI_BATCHES:
            scores = {i: token_scores(self.model, *self.rows[i]) for i in members}
            losses = [row_loss(c, *scores[i], old[i], engine[i], reference[i], float(advantages[i])) for i in members]
            norms.append(step(optimizer, parameters, average(c, losses), clip_grad))
        self.grad_norm = sum(norms) / len(norms)


class TrainedValue:
    """Two mini-batches of 6; V starts at the prior. ``algorithm`` says what V reads and how it learns: sppo, ppo, ppo_bce."""

    def __init__(self, path: str, algorithm: str) -> None:
        self.algorithm = algorithm
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.head = torch.nn.Linear(self.model.config.hidden_size, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.constant_(self.head.bias, PRIOR if algorithm == "ppo" else math.log(PRIOR / (1 - PRIOR)))
        problem = make_problem(self.model.config.vocab_size, on_policy=True)
        before = [p.detach().clone() for p in self.model.parameters()]
        parameters = [*self.model.model.parameters(), *self.head.parameters()]
        optimizer = adamw(parameters)
        norms = [step(optimizer, parameters, self._loss(problem, members), OPTIMIZER.clip_grad) for members in MINI_BATCHES]
        self.grad_norm = sum(norms) / len(norms)
        self.moved = max(float((p.detach() - b).abs().max()) for p, b in zip(self.model.parameters(), before, strict=True))
        with torch.no_grad():
            logits = torch.cat([self._logits(problem, i) for i in range(12)])
            self.values_after = logits if algorithm == "ppo" else logits.sigmoid()

    def _logits(self, problem: Problem, i: int) -> Tensor:
        """One at the prompt's end (eq. 2), or one before each token of the response."""
        prompt, response = problem.prompts.rows()[i], problem.responses.rows()[i]
        if self.algorithm == "sppo":
            return self.head(self.model.model(prompt[None]).last_hidden_state[0, -1])
        hidden = self.model.model(torch.cat([prompt, response])[None]).last_hidden_state[0]
        return self.head(hidden[len(prompt) - 1 : -1])[:, 0]

    def _loss(self, problem: Problem, members: range) -> Tensor:
        logits = torch.cat([self._logits(problem, i) for i in members])
        if self.algorithm == "sppo":
            return F.binary_cross_entropy_with_logits(logits, problem.rewards_B[list(members)])
        returns = torch.cat([problem.returns.rows()[i] for i in members])
        if self.algorithm == "ppo_bce":
            return F.binary_cross_entropy_with_logits(logits, returns)
        held = logits.clamp(PRIOR - VALUE_CLIP, PRIOR + VALUE_CLIP)
        return torch.maximum((logits - returns) ** 2, (held - returns) ** 2).mean() / 2
