"""Every algorithm trains the quickstart's model on its task: two ranks, real Megatron, real vLLM, three steps."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_sppo.analysis.probe_files import read_prompts, read_trajectories
from megatron_sppo.monitor.jsonl import read_jsonl
from tests.end_to_end.programs import algorithms as program
from tests.end_to_end.runs import rows
from tests.launch import ROOT

PROMPTS = 16
# name -> (what is asked beside the name, responses per prompt that are trained on, does it have a critic)
CASES: dict[str, tuple[tuple[str, ...], int, bool]] = {
    "sppo": ((), 1, True),
    "ppo": (("critic.warmup_steps=1", "actor.reuse_first_forward=true"), 1, True),
    "ppo_bce": (("critic.warmup_steps=0", "actor.tp=1", "actor.pp=2", "critic.tp=2"), 1, True),
    "grpo": ((), 8, False),
    "grpo, dynamic sampling": (
        ("algorithm.num_samples=2", "algorithm.dynamic_sampling_rounds=3", "reward.while_sampling=true"),
        2,
        False,
    ),
    "rloo": (("actor.tp=1",), 5, False),
    "remax": (("reward.while_sampling=true",), 1, False),
}


@pytest.fixture(scope="module")
def runs(torchrun: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder per case. The model is the quickstart's before its warm start, so the reward is one that chance can earn."""
    root = tmp_path_factory.mktemp("algorithms")
    assets = root / "assets"
    subprocess.run([sys.executable, "examples/quickstart/make_assets.py", "--output", assets], cwd=ROOT, check=True)
    common = [
        str(ROOT / "examples/quickstart/sppo.yaml"),
        f"actor.path={assets}/model",
        f"critic.path={assets}/critic",
        f"data.train=[{assets}/train.jsonl]",
        f"data.validation=[{assets}/arithmetic.jsonl]",
        "validation.limit=12",
        "reward.name=tests.end_to_end.reward_functions:even_sum",
        *("steps=3", f"prompts_per_step={PROMPTS}", "critic.mini_batch_size=8", "rollout.max_response_tokens=24"),
        *("validation.every=0", "validation.before_training=false", "checkpoint.every=0", "checkpoint.export_hf=false"),
        "profile.first_step=2",
    ]
    cases = {
        str(root / name): [*common, f"algorithm.name={name.split(',')[0]}", f"actor.mini_batch_size={8 * samples}", *overrides]
        for name, (overrides, samples, _) in CASES.items()
    }
    file = root / "cases.json"
    file.write_text(json.dumps(cases))
    torchrun(program.__file__, 2, [file], timeout=400)
    return {name: root / name for name in CASES}


def steps(runs: dict[str, Path], case: str) -> list[dict[str, Any]]:
    found = rows(runs[case], "train")
    assert list(found) == [1, 2, 3]
    return list(found.values())


@pytest.mark.parametrize("case", list(CASES))
def test_three_steps_are_sound(runs: dict[str, Path], case: str) -> None:
    _, _, has_critic = CASES[case]
    for number, row in enumerate(steps(runs, case), 1):
        assert all(math.isfinite(value) for name, value in row.items() if "/" in name), row
        assert row["mismatch/logprob_abs_max"] < 1e-3, "vLLM samples from the trainer's policy after every update"
        learns = not (case == "ppo" and number == 1)
        assert ("actor/grad_norm" in row) == learns
        if learns:
            assert row["actor/grad_norm"] > 0 and row["actor/lr"] > 0
        assert ("critic/grad_norm" in row) == ("critic/value_mean" in row) == has_critic
        if has_critic:
            assert row["critic/grad_norm"] > 0
    written = read_jsonl(runs[case] / "calibration.jsonl")
    assert len(written) == 3 * PROMPTS * CASES[case][1]
    assert all((row["value"] is None) != has_critic and math.isfinite(row["advantage"]) for row in written)


@pytest.mark.parametrize("case", ["sppo", "ppo", "ppo_bce"])
def test_critics_begin_at_their_prior_and_learn(runs: dict[str, Path], case: str) -> None:
    values = [row["critic/value_mean"] for row in steps(runs, case)]
    assert values[0] == pytest.approx(0.5, abs=1e-6) and values[2] != pytest.approx(0.5, abs=1e-4)
    loss = "critic/mse" if case == "ppo" else "critic/bce"
    assert steps(runs, case)[0][loss] == pytest.approx(0.25 if case == "ppo" else math.log(2), abs=0.05)


def test_credit_has_each_algorithms_mean(runs: dict[str, Path]) -> None:
    """Group baselines cancel within a prompt; whitening over all tokens does not within a response."""
    for row in steps(runs, "grpo"):
        assert row["advantage/mean"] == pytest.approx(0, abs=1e-5) and row["advantage/std"] > 0.5
    first = steps(runs, "rloo")[0]  # no KL yet: the policy is the reference
    assert first["advantage/mean"] == pytest.approx(0, abs=1e-5) and first["actor/kl_reference"] < 0.05
    remax = steps(runs, "remax")[0]
    assert remax["advantage/mean"] == pytest.approx(remax["reward/mean"] - remax["reward/greedy_mean"], abs=1e-5)


def test_every_generated_token_is_counted(runs: dict[str, Path]) -> None:
    for case, (_, samples, _) in CASES.items():
        for row in steps(runs, case):
            trained = row["response/length_mean"] * PROMPTS * samples
            if case in {"remax", "grpo, dynamic sampling"}:
                assert row["rollout/tokens"] >= trained - 0.5
            else:
                assert row["rollout/tokens"] == pytest.approx(trained)
    assert all(row["rollout/tokens"] > row["response/length_mean"] * PROMPTS for row in steps(runs, "remax")), "greedy ones too"


@pytest.mark.parametrize("case", list(CASES))
def test_work_by_phase(runs: dict[str, Path], case: str) -> None:
    """An update is three forward passes; a critic reads the prompts, or all but the last token."""
    _, samples, has_critic = CASES[case]
    row = steps(runs, case)[2]

    def total(phase: str, rate: str) -> float:
        return row.get(f"perf/{phase}/{rate}", 0.0) * row.get(f"time/{phase}", 0.0)

    assert total("critic_update", "tflops") == pytest.approx(3 * total("value", "tflops"))
    tokens, update = row["perf/tokens_per_second"] * row["time/step"], total("actor_update", "tflops")
    before = (total("old_logprobs", "tflops") / update, total("old_logprobs", "tokens_per_second") / tokens)
    if case == "ppo":  # the first of two mini-batches takes its log-probs from its own forward
        assert all(0 < share < whole for share, whole in zip(before, (1 / 3, 1), strict=True))
    else:
        assert before == pytest.approx((1 / 3, 1))
    read, responses = total("value", "tokens_per_second"), PROMPTS * samples
    if not has_critic:
        assert read == 0 and "perf/value/tflops" not in row
    elif case == "sppo":
        assert read == pytest.approx(tokens - row["response/length_mean"] * responses)
    else:
        assert read == pytest.approx(tokens - responses)


def test_a_profiled_step_leaves_a_trace_of_its_phases(runs: dict[str, Path]) -> None:
    (trace,) = (runs["sppo"] / "profile").iterdir()
    assert trace.name == "step_000002_rank_0.json.gz"
    names = {event["name"] for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert {"rollout", "value", "old_logprobs", "critic_update", "actor_update", "reshard"} <= names
    assert "aten::mm" in names


def test_dynamic_sampling_trains_on_prompts_whose_responses_differ(runs: dict[str, Path]) -> None:
    for row in steps(runs, "grpo, dynamic sampling"):
        sampled = row["dynamic_sampling/rounds"] * PROMPTS
        informative = row["dynamic_sampling/informative"] * sampled
        assert row["dynamic_sampling/surplus"] - row["dynamic_sampling/filled"] == pytest.approx(informative - PROMPTS)
        assert row["dynamic_sampling/filled"] == 0 or row["dynamic_sampling/rounds"] == 3, "no round is left out in need"
        if not row["dynamic_sampling/filled"]:
            assert row["advantage/std"] == pytest.approx(math.sqrt(0.5), abs=1e-3), "two responses, one right: +- 1 / sqrt(2)"


@pytest.mark.parametrize("case", ["sppo", "ppo", "ppo_bce"])
def test_a_trained_critic_can_be_asked(runs: dict[str, Path], case: str) -> None:
    prompts, found = read_prompts(runs[case]), read_trajectories(runs[case])
    assert len(prompts) == 12 and all(prompt.samples == 4 for prompt in prompts)
    assert len({prompt.value for prompt in prompts}) > 1, "V tells prompts apart"
    mixed = [prompt.prompt for prompt in prompts if 0 < prompt.successes < 4][:3]
    assert list(dict.fromkeys(row.prompt for row in found)) == mixed
    value_of = {prompt.prompt: prompt.value for prompt in prompts}
    for row in found:
        assert row.per_token == (case != "sppo") and row.values[0] == pytest.approx(value_of[row.prompt], abs=1e-5)
        assert len(row.values) == 1 or case != "sppo"
    for prompt in mixed:
        outcomes = [row.right for row in found if row.prompt == prompt]
        assert any(outcomes) and not all(outcomes)


def test_a_checkpoint_with_another_kind_of_critic_is_refused(runs: dict[str, Path]) -> None:
    said = {case: (runs[case] / "refusal_0.txt").read_text() for case in CASES}
    assert [case for case, sentence in said.items() if not sentence] == ["grpo, dynamic sampling", "rloo", "remax"], "as before"
    assert said["ppo"] == (
        "algorithm.name=ppo wants a critic that reads the response and gives a return but the checkpoint has a critic that reads "
        "the prompt and gives a probability: set algorithm.name to what the run began with, or checkpoint.resume=never"
    )
    assert "but the checkpoint has no critic" in said["sppo"] and said["sppo"] == (runs["sppo"] / "refusal_1.txt").read_text()


def test_the_share_that_was_graded_while_others_were_sampled_is_told(runs: dict[str, Path]) -> None:
    for case, (overrides, _, _) in CASES.items():
        early = [row.get("perf/reward_graded_early", -1) for row in steps(runs, case)]
        assert all(0 <= share <= 1 for share in early) if "reward.while_sampling=true" in overrides else set(early) == {-1}


def test_a_first_forward_that_is_reused_is_seen_in_the_metrics(runs: dict[str, Path]) -> None:
    """PPO's first step trains the critic alone and computes all log-probs; after it half of them come from the update."""
    for row in steps(runs, "ppo"):
        assert {"mismatch/logprob_abs_mean", "mismatch/logprob_abs_max", "mismatch/kl"} <= row.keys()
        assert 0 < row["mismatch/logprob_abs_mean"] <= row["mismatch/logprob_abs_max"]
