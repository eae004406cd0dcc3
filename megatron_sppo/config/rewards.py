"""Knobs of the rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megatron_sppo.config.code_limits import CodeLimits
from megatron_sppo.config.knobs import knob, section


@dataclass(frozen=True)
class RewardModelConfig:
    """The reward `model`: a sequence classifier reads prompt and response."""

    path: str = knob("", "HF folder of a sequence classifier with safetensors, e.g. a Bradley-Terry reward model")
    scale: Literal["sigmoid", "linear", "label"] = knob(
        "sigmoid", "score to [0, 1]: sigmoid(score), (score - low) / (high - low) clipped, or the softmax probability of `label`"
    )
    low: float = knob(-5.0, "score that becomes 0 (scale=linear)")
    high: float = knob(5.0, "score that becomes 1 (scale=linear)")
    label: int = knob(1, "class that means success (scale=label)")
    answer_only: bool = knob(True, "show the model what follows the last </think> alone; a response without </think> whole")
    max_tokens: int = knob(4096, "longest prompt + response; longer ones lose tokens on the left, and are counted")
    batch_tokens: int = knob(16384, "padded tokens of one forward pass per rank")
    dtype: Literal["auto", "fp32", "bf16"] = knob("auto", "auto = bf16 on GPU, fp32 on CPU")


@dataclass(frozen=True)
class RewardConfig:
    name: str = knob(
        "math",
        "math, math_reasoning360, boxed_exact, boxed_numeric, code, model, format, an import path "
        'package.module:callable_or_class, or a weighted sum such as "0.9*math + 0.1*format"',
    )
    by_source: tuple[str, ...] = knob(
        (), 'other rewards for some data sources, first match counts: "taco*=code", "livecode=0.9*code + 0.1*format"'
    )
    overlong_penalty: float = knob(0.0, "subtracted from the reward of a truncated response")
    overlong_buffer: int = knob(
        0, "tokens before rollout.max_response_tokens over which the penalty rises from 0 (DAPO's soft punishment); 0 = none"
    )
    while_sampling: bool = knob(
        False,
        "grade each response as soon as it is there, in a thread beside the engine; false = all of a step when the last is there",
    )
    code: CodeLimits = section(CodeLimits, "the reward `code`")
    model: RewardModelConfig = section(RewardModelConfig, "the learned reward `model`")
