"""Bare vLLM on a run's prompts and limits: a child of bench_gpu.py, what the trainer's rollouts are measured against.

    python tools/bench_gpu_rollout.py CONFIG.yaml RESULT.json      (the config.yaml that the run left)

Nothing of ours is asked for: no log-probs, no seed per response, no weights that change; vLLM's own defaults otherwise.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from megatron_sppo.build import prepare
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config
from megatron_sppo.parallel import platform
from megatron_sppo.rollout.vllm_options import configure_environment

REPEATS = 1  # of minutes each; the run it is compared with is measured as often


def main() -> None:
    config_file, result = map(Path, sys.argv[1:])
    config = load_config(Config, [config_file], ["checkpoint.resume=never"])
    prepared, rollout = prepare(config, 1), config.rollout
    configure_environment()
    import vllm  # noqa: TID251 - what ours is measured against

    options: dict[str, Any] = {"gpu_memory_utilization": rollout.gpu_memory_utilization} if platform.is_gpu() else {}
    llm = vllm.LLM(
        model=config.actor.path,
        skip_tokenizer_init=True,
        max_model_len=rollout.max_prompt_tokens + rollout.max_response_tokens,
        max_num_seqs=rollout.max_num_seqs,
        **options,
    )
    params = vllm.SamplingParams(
        temperature=rollout.temperature, max_tokens=rollout.max_response_tokens, ignore_eos=True, detokenize=False
    )
    seconds, rates = list[float](), list[float]()
    for _ in range(REPEATS + 1):
        prompts = [{"prompt_token_ids": row.tolist()} for row in prepared.prompts.next_batch().tokens.rows()]
        started = time.monotonic()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        seconds.append(time.monotonic() - started)
        rates.append(sum(len(output.outputs[0].token_ids) for output in outputs) / seconds[-1])
    found = {"seconds": median(seconds[1:]), "tokens_per_second": median(rates[1:])}  # the first warms up
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
