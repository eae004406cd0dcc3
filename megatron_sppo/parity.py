"""Do HF, Megatron and vLLM agree on the log-probs of the same tokens?

The gate at the start of training and ``megatron-sppo check``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan
from megatron_sppo.config.schema import ActorConfig, RolloutConfig
from megatron_sppo.errors import ParityError, UserError
from megatron_sppo.models.hf_config import HFModelConfig, read_hf_config
from megatron_sppo.ragged import Ragged

if TYPE_CHECKING:
    from megatron_sppo.actor import Actor
    from megatron_sppo.rollout.engine import RolloutEngine

# Largest mean absolute log-prob difference that `check` calls agreement. fp32 differs by rounding alone; in bf16 the same
# model under two kernels differs by 0.01 to 0.02 on healthy checkpoints, and by whole units where a fusion is broken.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.05}


@dataclass(frozen=True)
class Difference:
    """Of log-probs of the same tokens, first minus second."""

    mean_abs: float
    max_abs: float
    kl: float  # k3 estimate of KL(first || second) over the first's samples

    @classmethod
    def of(cls, first_N: Tensor, second_N: Tensor) -> Difference:
        gap_N = (second_N - first_N).double()
        return cls(float(gap_N.abs().mean()), float(gap_N.abs().max()), float((gap_N.exp() - 1 - gap_N).mean()))

    def __str__(self) -> str:
        return f"mean {self.mean_abs:.2e}  max {self.max_abs:.2e}  KL {self.kl:.2e}"


def gate(actor: Actor, engine: RolloutEngine, prompts: Prompts, plan: SamplingPlan, max_gap: float) -> Difference:
    """Engine against trainer on a few short samples. Collective.

    Raises :class:`ParityError` where the mean absolute difference exceeds ``max_gap`` (``rollout.max_logprob_gap``).
    """
    short = replace(plan, max_response_tokens=min(64, plan.max_response_tokens))
    rollouts = engine.generate(prompts, short, decode=lambda tokens: "")
    trainer = actor.logprobs(rollouts.prompt_tokens, rollouts.response_tokens)
    difference = Difference.of(rollouts.engine_logprobs.values, trainer.values)
    if not difference.mean_abs <= max_gap:  # NaN fails too
        raise ParityError(
            f"vLLM and Megatron differ by {difference.mean_abs:.3g} per token in log-prob on the same samples, more "
            f"than rollout.max_logprob_gap={max_gap}; run `megatron-sppo check --model {actor.config.path}` to see "
            "which of them HF contradicts."
        )
    return difference


@dataclass(frozen=True)
class Report:
    model: str
    dtype: str
    tp: int
    pp: int
    num_tokens: int
    hf_megatron: Difference
    hf_vllm: Difference
    megatron_vllm: Difference
    tolerance: float

    @property
    def agrees(self) -> bool:
        return all(d.mean_abs <= self.tolerance for d in (self.hf_megatron, self.hf_vllm, self.megatron_vllm))

    def table(self) -> str:
        verdict = "agree" if self.agrees else "DISAGREE"
        layouts = f"Megatron TP{self.tp} PP{self.pp}, vLLM TP{self.tp}"
        lines = (
            f"{self.model}  {self.dtype}  {layouts}; log-probs of {self.num_tokens} sampled tokens",
            f"  HF       - Megatron   {self.hf_megatron}",
            f"  HF       - vLLM       {self.hf_vllm}",
            f"  Megatron - vLLM       {self.megatron_vllm}",
            f"  {verdict}: tolerance on the mean is {self.tolerance:g}",
        )
        return "\n".join(lines)


def main(model: str, tp: int, pp: int, dtype: str, as_json: bool) -> int:
    """``megatron-sppo check`` on tp x pp ranks: compare, print on rank 0. 0 = they agree, 1 = they do not."""
    hf = read_hf_config(model, knob="--model")
    for knob, size, whole, what in (("--tp", tp, hf.num_heads, "attention heads"), ("--pp", pp, hf.num_layers, "layers")):
        if size < 1 or whole % size:
            raise UserError(f"{knob}={size} does not divide the model's {whole} {what}; choose a divisor.")
    report = compare(model, hf, tp, pp, dtype)
    if dist.get_rank() == 0:
        print(json.dumps({**asdict(report), "agrees": report.agrees}) if as_json else report.table(), flush=True)
    return 0 if report.agrees else 1


def compare(model: str, hf: HFModelConfig, tp: int, pp: int, dtype: str) -> Report:
    """Sample from vLLM, then score the samples with Megatron and with HF transformers (on rank 0). Collective."""
    from megatron_sppo.actor import Actor
    from megatron_sppo.models.engine import MegatronEngine
    from megatron_sppo.parallel import platform
    from megatron_sppo.parallel.groups import Layout, build_groups
    from megatron_sppo.rollout.vllm_engine import VLLMEngine
    from megatron_sppo.weights.load_hf import load_hf_weights

    platform.start_distributed()
    platform.quiet_upstream()
    torch_dtype = platform.resolve_dtype(dtype)  # type: ignore[arg-type]
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[torch_dtype]
    config = ActorConfig(path=model, tp=tp, pp=pp, dtype=dtype)  # type: ignore[arg-type]
    (groups,) = build_groups([Layout.of(config)], seed=1)
    policy = MegatronEngine(hf, config, groups, "lm", total_steps=1)
    load_hf_weights(policy.model, hf, model, groups)
    rollout = RolloutConfig(tp=tp, temperature=1.0, max_prompt_tokens=64, max_response_tokens=64, max_num_seqs=32, sleep=False)
    engine = VLLMEngine(rollout, model, torch_dtype, seed=1)
    plan = SamplingPlan(1, 1.0, 1.0, -1, 64, (), seed=1)
    rollouts = engine.generate(_random_prompts(hf.vocab_size), plan, decode=lambda tokens: "")
    megatron = Actor(policy, config, temperature=1.0).logprobs(rollouts.prompt_tokens, rollouts.response_tokens).values
    reference = _hf_logprobs(model, rollouts, torch_dtype).values
    engine.close()
    vllm = rollouts.engine_logprobs.values
    return Report(
        model=model,
        dtype=name,
        tp=tp,
        pp=pp,
        num_tokens=vllm.numel(),
        hf_megatron=Difference.of(reference, megatron),
        hf_vllm=Difference.of(reference, vllm),
        megatron_vllm=Difference.of(megatron, vllm),
        tolerance=TOLERANCE[name],
    )


def _random_prompts(vocab_size: int) -> Prompts:
    """16 prompts of random tokens: parity must hold on any input, and no tokenizer is needed."""
    generator = torch.Generator().manual_seed(11)
    lengths = torch.randint(2, 48, (16,), generator=generator).tolist()
    rows = [torch.randint(0, vocab_size, (n,), generator=generator) for n in lengths]
    names = tuple(f"random:{i}" for i in range(16))
    return Prompts(ids=names, texts=names, golds=("",) * 16, sources=("",) * 16, tokens=Ragged.from_rows(rows, torch.int64))


def _hf_logprobs(model: str, rollouts: Rollouts, dtype: torch.dtype) -> Ragged:
    """Rank 0 runs HF transformers, one sequence at a time; every rank gets the result."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    from megatron_sppo.parallel import platform
    from megatron_sppo.parallel.collectives import gather_rows

    transformers_logging.disable_progress_bar()
    responses, rows = rollouts.response_tokens, dict[int, Tensor]()
    if dist.get_rank() == 0:
        reference = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, local_files_only=True).to(platform.device()).eval()
        for index, (prompt, response) in enumerate(zip(rollouts.prompt_tokens.rows(), responses.rows(), strict=True)):
            ids = torch.cat([prompt, response])[None].to(platform.device())
            with torch.no_grad():
                logits = reference(ids).logits[0, len(prompt) - 1 : -1].float()
            rows[index] = torch.log_softmax(logits, -1).gather(-1, ids[0, len(prompt) :, None])[:, 0]
    return gather_rows(rows, responses.lengths, contribute=bool(rows))
