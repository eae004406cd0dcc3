"""Wrong configurations: each ends with exit code 2 and its one sentence (the knob, its value, the fix) before anything is built.

The table is the one home of what is refused without looking at data: by ``plan``, and by ``train`` through the same checks. What
needs tokenizers, files of prompts or rewards is in tests/end_to_end/test_mistakes.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_sppo.cli import main
from megatron_sppo.config.arithmetic import check
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config
from megatron_sppo.errors import UserError
from megatron_sppo.plan.shapes import KNOWN

GOOD = """\
actor: {path: models/DeepSeek-R1-Distill-Qwen-7B, tp: 4, recompute: full}
critic: {tp: 4, recompute: full}
rollout: {tp: 4, gpu_memory_utilization: 0.15}
data: {train: [dapo.jsonl], validation: [aime.jsonl]}
"""
GPUS = 4
SEPARATE = "rollout.placement=separate rollout.num_ranks=2 rollout.tp=2"
STREAM = f"{SEPARATE} rollout.stream=true algorithm.importance_sampling.truncate=2"

# Words on the command line, apart by spaces -> what is said.
WITHOUT_MODEL = {
    "actor.tpp=8": "unknown key actor.tpp on the command line: did you mean actor.tp?",
    "criticc.tp=2": "unknown key criticc.tp on the command line: did you mean critic.tp?",
    "rollout=4": "rollout=4 on the command line is a section, not a value: set one key below it, rollout.<key>=<value>",
    "actor.path": "override 'actor.path' has no value: write key=value, for example steps=10",
    "steps=many": "steps=many on the command line is not of type int: write a whole number",
    "steps=": "steps=null on the command line is not of type int: write a whole number",
    "actor.tp=1.5": "actor.tp=1.5 on the command line is not of type int: write a whole number",
    "data.shuffle=maybe": "data.shuffle=maybe on the command line is not of type true | false: write true or false",
    "actor.dtype=fp8": "actor.dtype=fp8 on the command line is not a choice: pick one of auto, fp32, bf16",
    "algorithm.name=ppoo": (
        "algorithm.name=ppoo on the command line is not a choice: pick one of sppo, ppo, ppo_bce, grpo, rloo, remax"
    ),
    "algorithm.aggregation=mean": (
        "algorithm.aggregation=mean on the command line is not a choice: pick one of token-mean, seq-mean-token-mean, "
        "seq-mean-token-sum, fixed-length"
    ),
    "logging.wandb=yes": "logging.wandb=yes on the command line is not a choice: pick one of off, offline, online",
    "data.train=[a": "data.train=[a on the command line cannot be read as YAML: quote it, or write a list as [a,b]",
    "rollout.stop_token_ids=[a]": (
        "rollout.stop_token_ids=a on the command line is not of type list of int: write rollout.stop_token_ids: [1, 2]"
    ),
    "actor.path=": "actor.path is empty: set actor.path=<HF model folder>",
    "data.train=[]": "data.train is empty: set data.train=<file.jsonl or file.parquet>",
    "steps=0": "steps=0 must be at least 1: set steps=100",
    "prompts_per_step=0": "prompts_per_step=0 must be at least 1: set prompts_per_step=256",
    "actor.tp=0": "actor.tp=0 must be at least 1: set actor.tp=1",
    "critic.epochs=0": "critic.epochs=0 must be at least 1: set critic.epochs=1",
    "profile.first_step=5 profile.last_step=4": (
        "profile.last_step=4 leaves no step from profile.first_step=5 on: set profile.first_step=4"
    ),
    "profile.last_step=4": "profile.last_step=4 leaves no step from profile.first_step=0 on: set profile.first_step=4",
    "profile.first_step=-1": "profile.first_step=-1 must be at least 0: set profile.first_step=0",
    "collective_timeout_minutes=0": (
        "collective_timeout_minutes=0 must be from 1 to 1440 (a day): set collective_timeout_minutes=30"
    ),
    "collective_timeout_minutes=2000": (
        "collective_timeout_minutes=2000 must be from 1 to 1440 (a day): set collective_timeout_minutes=30"
    ),
    "actor.optimizer.lr=-1": "actor.optimizer.lr=-1.0 must be 0 or more: set actor.optimizer.lr=1e-6",
    "actor.optimizer.lr=.nan": "actor.optimizer.lr=nan must be 0 or more: set actor.optimizer.lr=1e-6",
    "actor.optimizer.beta2=1": "actor.optimizer.beta2=1.0 must be in [0, 1): set actor.optimizer.beta2=0.999",
    "actor.optimizer.clip_grad=-1": "actor.optimizer.clip_grad=-1.0 must be 0 (off) or more: set actor.optimizer.clip_grad=1.0",
    "actor.optimizer.min_lr=1": "actor.optimizer.min_lr=1.0 is above actor.optimizer.lr=1e-06: set actor.optimizer.min_lr=0",
    "actor.mini_batch_size=-1": "actor.mini_batch_size=-1 must be at least 0: set actor.mini_batch_size=0",
    "actor.micro_batch_tokens=0": "actor.micro_batch_tokens=0 must be at least 1: set actor.micro_batch_tokens=16384",
    "critic.prior=1": "critic.prior=1.0 must be strictly between 0 and 1: set critic.prior=0.5",
    "algorithm.clip_low=1.5": "algorithm.clip_low=1.5 must be strictly between 0 and 1: set algorithm.clip_low=0.2",
    "algorithm.clip_high=0": "algorithm.clip_high=0.0 must be above 0: set algorithm.clip_high=0.2",
    "algorithm.dual_clip=0.5": "algorithm.dual_clip=0.5 must be 0 (off) or above 1: set algorithm.dual_clip=3",
    "algorithm.entropy_coefficient=-0.1": (
        "algorithm.entropy_coefficient=-0.1 must be 0 or more: set algorithm.entropy_coefficient=0"
    ),
    "algorithm.kl.coefficient=-1": "algorithm.kl.coefficient=-1.0 must be 0 (off) or more: set algorithm.kl.coefficient=0.001",
    "algorithm.kl.coefficient=0.1 algorithm.kl.estimator=k1": (
        "algorithm.kl.estimator=k1 in the loss has a gradient of zero mean and regularises nothing: set it to k2 or k3"
    ),
    "actor.reuse_first_forward=true actor.epochs=2": (
        "actor.reuse_first_forward=true has no old log-probs for a second pass but actor.epochs=2: "
        "set actor.epochs=1 or actor.reuse_first_forward=false"
    ),
    "actor.reuse_first_forward=true algorithm.name=rloo": (
        "actor.reuse_first_forward=true has no log-probs yet when algorithm.kl.where=reward needs them: "
        "set algorithm.kl.where=loss or actor.reuse_first_forward=false"
    ),
    f"{SEPARATE} actor.tp=2 critic.tp=2 reward.while_sampling=true": (
        "reward.while_sampling=true grades beside an engine of the same rank but rollout.placement=separate: "
        "set reward.while_sampling=false (rollout.stream=true grades each mini-batch as it arrives)"
    ),
    "reward.while_sampling=true reward.name=model reward.model.path=rm": (
        "reward.while_sampling=true would run reward.model.path=rm on the device that samples: set reward.while_sampling=false"
    ),
    "algorithm.importance_sampling.mask_above=0.5": (
        "algorithm.importance_sampling.mask_above=0.5 must be 0 (off) or above 1: set algorithm.importance_sampling.mask_above=5"
    ),
    "algorithm.gamma=0": "algorithm.gamma=0.0 must be in (0, 1]: set algorithm.gamma=1.0",
    "algorithm.gae_lambda=2": "algorithm.gae_lambda=2.0 must be in [0, 1]: set algorithm.gae_lambda=1.0",
    "algorithm.name=grpo algorithm.num_samples=1": (
        "algorithm.num_samples=1 leaves algorithm.name=grpo no other response of a prompt to compare with: set "
        "algorithm.num_samples=8"
    ),
    "algorithm.name=remax critic.warmup_steps=5": (
        "critic.warmup_steps=5 keeps the actor still for a critic that algorithm.name=remax does not have: set "
        "critic.warmup_steps=0"
    ),
    "algorithm.dynamic_sampling_rounds=3": (
        "algorithm.dynamic_sampling_rounds=3 keeps prompts whose responses differ and algorithm.num_samples=1 makes one: "
        "set algorithm.num_samples=8, or data.curriculum.by=variance, which asks the critic instead"
    ),
    "algorithm.name=grpo data.curriculum.by=variance": (
        "data.curriculum.by=variance asks a critic that reads the prompt alone and algorithm.name=grpo has none: set "
        "data.curriculum.by=off or algorithm.name=sppo"
    ),
    "algorithm.name=grpo actor.mini_batch_size=100": (
        "actor.mini_batch_size=100 does not divide the 2048 responses of a step (prompts_per_step=256 x 8 samples): set "
        "actor.mini_batch_size=128"
    ),
    "rollout.temperature=0": (
        "rollout.temperature=0.0 must be above 0 (training needs samples, not the greedy text): set rollout.temperature=0.6"
    ),
    "rollout.top_p=0": "rollout.top_p=0.0 must be in (0, 1]: set rollout.top_p=1.0",
    "rollout.top_k=0": "rollout.top_k=0 must be -1 (off) or at least 1: set rollout.top_k=-1",
    "rollout.max_response_tokens=0": "rollout.max_response_tokens=0 must be at least 1: set rollout.max_response_tokens=8192",
    "rollout.gpu_memory_utilization=1.2": (
        "rollout.gpu_memory_utilization=1.2 must be in (0, 1]: set rollout.gpu_memory_utilization=0.8"
    ),
    "rollout.max_num_batched_tokens=100": (
        "rollout.max_num_batched_tokens=100 is below rollout.max_num_seqs=256, one token per sequence: set "
        "rollout.max_num_batched_tokens=0 or 256 or more"
    ),
    "rollout.reshard_cap_mib=0": "rollout.reshard_cap_mib=0.0 must be at least 1: set rollout.reshard_cap_mib=32",
    "validation.every=-1": "validation.every=-1 must be at least 0: set validation.every=10",
    "validation.temperature=-1": "validation.temperature=-1.0 must be 0 (greedy) or more: set validation.temperature=0.6",
    "checkpoint.keep_last=0": "checkpoint.keep_last=0 must be at least 1: set checkpoint.keep_last=2",
    "checkpoint.resume=always": "checkpoint.resume=always on the command line is not a choice: pick one of auto, never, must",
    "reward.overlong_buffer=4": "reward.overlong_buffer=4 has no penalty to spread: set reward.overlong_penalty (DAPO: 1.0)",
    "reward.overlong_buffer=9000 reward.overlong_penalty=1": (
        "reward.overlong_buffer=9000 is longer than rollout.max_response_tokens=8192: lower it (DAPO: a fifth)"
    ),
    "reward.code.memory_mib=1": "reward.code.memory_mib=1 must be at least 64: set reward.code.memory_mib=1024",
    "data.curriculum.by=band data.curriculum.low=0.9": (
        "data.curriculum.low=0.9 is not below data.curriculum.high=0.9: swap or change them"
    ),
    "data.curriculum.by=variance data.curriculum.pool=1": (
        "data.curriculum.pool=1 leaves nothing to choose from: set it to 2 or more"
    ),
    "actor.tp=8": (
        "actor.tp=8 x actor.pp=1 x actor.cp=1 needs a multiple of 8 ranks but there are 4: start a multiple of 8 ranks, "
        "--nproc 8 say, or lower actor.tp, actor.pp or actor.cp"
    ),
    "actor.cp=3": (
        "actor.tp=4 x actor.pp=1 x actor.cp=3 needs a multiple of 12 ranks but there are 4: start a multiple of 12 "
        "ranks, --nproc 12 say, or lower actor.tp, actor.pp or actor.cp"
    ),
    "critic.pp=3 critic.tp=1": (
        "critic.tp=1 x critic.pp=3 x critic.cp=1 needs a multiple of 3 ranks but there are 4: start a multiple of 3 "
        "ranks, --nproc 3 say, or lower critic.tp, critic.pp or critic.cp"
    ),
    "actor.sequence_parallel=true actor.tp=1": (
        "actor.sequence_parallel=true needs actor.tp above 1: set actor.sequence_parallel=false or actor.tp=2"
    ),
    "actor.cp=2 actor.tp=2 actor.dtype=fp32": (
        "actor.cp=2 with actor.dtype=fp32 does not run on a GPU, where context-parallel attention is bf16 only: set "
        "actor.dtype=bf16"
    ),
    "actor.mini_batch_size=100": (
        "actor.mini_batch_size=100 does not divide the 256 responses of a step (prompts_per_step=256 x 1 sample): set "
        "actor.mini_batch_size=128"
    ),
    "critic.tp=1 critic.mini_batch_size=2": (
        "critic.mini_batch_size=2 makes mini-batches of 2 that leave some of the 4 data-parallel ranks without a "
        "response: set critic.mini_batch_size and prompts_per_step to 4 or more"
    ),
    "prompts_per_step=2 critic.tp=1": (
        "critic.mini_batch_size=0 makes mini-batches of 2 that leave some of the 4 data-parallel ranks without a "
        "response: set critic.mini_batch_size and prompts_per_step to 4 or more"
    ),
    "rollout.tp=3": "rollout.tp=3 does not divide 4 ranks: set rollout.tp=2",
    "rollout.num_ranks=1": (
        "rollout.num_ranks=1 needs ranks that roll out alone: set rollout.placement=separate or rollout.num_ranks=0"
    ),
    "rollout.max_staleness=1": (
        "rollout.max_staleness=1 needs ranks that roll out alone: set rollout.placement=separate or rollout.max_staleness=0"
    ),
    "rollout.stream=true": (
        "rollout.stream=true needs ranks that roll out alone: set rollout.placement=separate or rollout.stream=false"
    ),
    "rollout.placement=separate": (
        "rollout.num_ranks=0 with rollout.placement=separate leaves no rank that rolls out: set rollout.num_ranks=1 or more"
    ),
    "rollout.placement=separate rollout.num_ranks=4": (
        "rollout.num_ranks=4 of 4 ranks leaves no rank that trains: start more ranks, --nproc 5 say, or lower rollout.num_ranks"
    ),
    "rollout.placement=separate rollout.num_ranks=3 rollout.tp=2": (
        "rollout.tp=2 does not divide rollout.num_ranks=3: set rollout.tp=1 or rollout.num_ranks=4"
    ),
    f"{SEPARATE} actor.tp=4": (
        "actor.tp=4 x actor.pp=1 x actor.cp=1 needs a multiple of 4 ranks but there are 2: start a multiple of 4 ranks, "
        "--nproc 4 say, or lower actor.tp, actor.pp or actor.cp"
    ),
    f"{SEPARATE} rollout.max_staleness=2": ("rollout.max_staleness=2 must be 0 or 1: set rollout.max_staleness=1"),
    f"{SEPARATE} rollout.max_staleness=1": (
        "rollout.max_staleness=1 trains on samples of an earlier policy, uncorrected while "
        "algorithm.importance_sampling.truncate=0: set algorithm.importance_sampling.truncate=2"
    ),
    STREAM: (
        "rollout.stream=true trains as soon as actor.mini_batch_size=0 responses of prompts_per_step=256 are there: set "
        "actor.mini_batch_size to a part of them"
    ),
    f"{STREAM} rollout.max_staleness=1": (
        "rollout.stream=true and rollout.max_staleness=1 are two ways to overlap: set rollout.max_staleness=0 or "
        "rollout.stream=false"
    ),
    f"{STREAM} actor.mini_batch_size=128 actor.epochs=2": (
        "rollout.stream=true sees each response once but actor.epochs=2: set actor.epochs=1"
    ),
    f"{STREAM} actor.mini_batch_size=128 algorithm.kl.coefficient=0.1": (
        "rollout.stream=true has no reference pass but algorithm.kl.coefficient=0.1: set algorithm.kl.coefficient=0 or "
        "rollout.stream=false"
    ),
    "rollout.alias_weights=true rollout.weight_sync=gather": (
        "rollout.alias_weights=true shares memory by the plan of a reshard, which rollout.weight_sync=gather has not: "
        "set rollout.weight_sync=reshard"
    ),
    "rollout.alias_weights=true actor.fp8.recipe=tensorwise actor.fp8.parameters=true": (
        "rollout.alias_weights=true needs weights of one dtype on both sides, and actor.fp8.parameters=true keeps the "
        "trainer's in FP8: set rollout.alias_weights=false"
    ),
    "rollout.alias_weights=true rollout.execution=compiled": (
        "rollout.execution=compiled captures the addresses of vLLM's own weights, which rollout.alias_weights=true "
        "replaces: set rollout.execution=eager or rollout.alias_weights=false"
    ),
    f"rollout.alias_weights=true rollout.execution=eager {SEPARATE}": (
        "rollout.alias_weights=true needs vLLM in the training ranks: set rollout.placement=colocated or "
        "rollout.alias_weights=false"
    ),
}

ONLY_ON_A_GPU = ("actor.cp=2 actor.tp=2 actor.dtype=fp32",)  # which `plan` plans for

# What is known only with the models' shapes; `--gpus-per-node` where there are not four.
WITH_MODEL = {
    "actor.path=models/nothing": (
        "actor.path=models/nothing has no config.json here and its name is none that `plan` knows: point it at an HF "
        "model folder, or end it in one of Qwen2.5-0.5B, Qwen3-0.6B, Qwen2.5-1.5B, Qwen3-1.7B, "
        "DeepSeek-R1-Distill-Qwen-1.5B, Qwen2.5-3B, Qwen3-4B, Qwen2.5-7B, DeepSeek-R1-Distill-Qwen-7B, Qwen3-8B, "
        "Qwen2.5-14B, DeepSeek-R1-Distill-Qwen-14B, Qwen3-14B, Qwen2.5-32B, DeepSeek-R1-Distill-Qwen-32B, Qwen3-32B, "
        "Qwen2.5-72B"
    ),
    "critic.path=models/nothing": (
        "critic.path=models/nothing has no config.json here and its name is none that `plan` knows: point it at an HF "
        "model folder, or end it in one of Qwen2.5-0.5B, Qwen3-0.6B, Qwen2.5-1.5B, Qwen3-1.7B, "
        "DeepSeek-R1-Distill-Qwen-1.5B, Qwen2.5-3B, Qwen3-4B, Qwen2.5-7B, DeepSeek-R1-Distill-Qwen-7B, Qwen3-8B, "
        "Qwen2.5-14B, DeepSeek-R1-Distill-Qwen-14B, Qwen3-14B, Qwen2.5-32B, DeepSeek-R1-Distill-Qwen-32B, Qwen3-32B, "
        "Qwen2.5-72B"
    ),
    "actor.path=Qwen3-30B-A3B": (
        "actor.path=Qwen3-30B-A3B is a mixture of experts, which cannot be trained yet: choose a dense Qwen2, Qwen2.5 or Qwen3"
    ),
    "reward.name=boxedd": (
        "reward.name='boxedd' is neither math nor math_reasoning360 nor boxed_exact nor boxed_numeric nor code nor model "
        "nor format nor an import path; write package.module:attribute."
    ),
    "reward.name=math*2": "reward.name='math*2' cannot be read from '*2' on; write one reward or 0.9*math + 0.1*format.",
    "reward.by_source=[taco]": "reward.by_source='taco' is not source=reward; write for example taco*=code.",
    "critic.path=models/Qwen2.5-0.5B": (
        "critic.tp=4 does not divide the 14 attention heads of the critic: set critic.tp to a divisor of 14 and 2, for "
        "example critic.tp=1"
    ),
    "actor.tp=8 rollout.tp=1 critic.tp=1 --gpus-per-node 8": (
        "actor.tp=8 does not divide the 28 attention heads of the actor: set actor.tp to a divisor of 28 and 4, for "
        "example actor.tp=1"
    ),
    "critic.tp=7 --gpus-per-node 28": (
        "critic.tp=7 neither divides nor is a multiple of the 4 KV heads of the critic: set critic.tp to a divisor of 28 "
        "and 4, for example critic.tp=1"
    ),
    "rollout.tp=8 --gpus-per-node 8": (
        "rollout.tp=8 does not divide the 28 attention heads of the actor: set rollout.tp to a divisor of 28 and 4, for "
        "example rollout.tp=1"
    ),
    "actor.pp=3 actor.tp=1 critic.tp=1 rollout.tp=1 --gpus-per-node 3": (
        "actor.pp=3 does not divide the 28 layers of the actor: set actor.pp=2"
    ),
    "rollout.max_response_tokens=200000": (
        "rollout.max_prompt_tokens=1024 + rollout.max_response_tokens=200000 exceeds the actor's 131072 positions: lower "
        "one of them"
    ),
    "rollout.max_prompt_tokens=200000": (
        "rollout.max_prompt_tokens=200000 + rollout.max_response_tokens=8192 exceeds the actor's 131072 positions: lower "
        "one of them"
    ),
    "--nodes 0": "--nodes 0 leaves nothing to run on: use --nodes 1 or more",
    "--gpus-per-node -1": "--gpus-per-node -1 leaves nothing to run on: use --gpus-per-node 1 or more",
}

# A file's content -> what is said of it. FILE is its path, FOLDER where it lies.
FILES = {
    "actor: {tpp: 2}\n": "unknown key actor.tpp in FILE: did you mean actor.tp?",
    "steps: [1\n": (
        'config file FILE is not valid YAML: while parsing a flow sequence in "<unicode string>", line 1, column 8 did '
        "not find expected ',' or ']' in \"<unicode string>\", line 2, column 1"
    ),
    "- 1\n": "config file FILE holds a list, not `key: value` lines: write a mapping",
    "defaults: gone.yaml\n": (
        "config file FOLDER/gone.yaml (named by `defaults` of FILE) does not exist: give the path of a YAML file"
    ),
    "defaults: wrong.yaml\n": "defaults=FILE in FILE leads back to itself: remove one of the two `defaults`",
    "actor: 3\n": "actor=3 in FILE is a section, not a value: write the keys below it",
    "steps: '10'\n": "steps=10 in FILE is not of type int: write a whole number",
    "steps: null\n": "steps=null in FILE is not of type int: write a whole number",
    "data: {train: 3}\n": "data.train=3 in FILE is not of type list of text: write data.train: [one.jsonl, two.jsonl]",
    "steps: 1\nsteps: 2\n": (
        'config file FILE is not valid YAML: while constructing a mapping in "<unicode string>", line 1, column 1 found '
        'duplicate key steps in "<unicode string>", line 2, column 1'
    ),
}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def said(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that must end with exit code 2."""
    assert main(command) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    return shown.err.removeprefix("megatron-sppo: error: ").removesuffix("\n")


def plan(config: Path, words: str) -> list[str]:
    machine = [] if "--gpus-per-node" in words else ["--gpus-per-node", str(GPUS)]
    return ["plan", str(config), f"run_dir={config.parent / 'run'}", *filter(None, words.split(" ")), *machine]


def test_what_the_mistakes_are_made_in_is_right(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(plan(good, "")) == 0
    assert capsys.readouterr().out.endswith("\nfits\n")


@pytest.mark.parametrize("words", [*WITHOUT_MODEL, *WITH_MODEL])
def test_plan_says_it_in_one_sentence(good: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(plan(good, words), capsys) == (WITHOUT_MODEL | WITH_MODEL)[words]
    assert [path.name for path in good.parent.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("words", [words for words in WITHOUT_MODEL if words not in ONLY_ON_A_GPU])
def test_train_says_the_same_before_it_starts_a_rank(good: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", str(good), f"run_dir={good.parent / 'run'}", *words.split(" "), "--nproc", str(GPUS)]
    assert said(command, capsys) == WITHOUT_MODEL[words]
    assert [path.name for path in good.parent.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("words", [words for words in WITH_MODEL if "--" not in words and words.startswith("rollout")])
def test_train_has_the_same_words_where_models_are_known(good: Path, words: str) -> None:
    """With the shapes read from folders; `train` calls the same function then."""
    shape = KNOWN["DeepSeek-R1-Distill-Qwen-7B"]
    with pytest.raises(UserError) as caught:
        check(load_config(Config, [good], words.split(" ")), GPUS, "gpu", shape, shape)
    assert str(caught.value) == WITH_MODEL[words]


@pytest.mark.parametrize("content", FILES)
def test_a_wrong_file(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content, encoding="utf-8")
    wanted = FILES[content].replace("FILE", str(path)).replace("FOLDER", str(tmp_path))
    assert said(["plan", str(path)], capsys) == wanted


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gone.yaml"
    assert said(["plan", str(path)], capsys) == f"config file {path} does not exist: give the path of a YAML file"
