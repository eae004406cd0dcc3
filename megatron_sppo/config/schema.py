"""Every knob, its default and its meaning: frozen values, one home each.

A config is built once by :mod:`megatron_sppo.config.load`, checked once by
:mod:`megatron_sppo.config.arithmetic`, and never written to afterwards. ``knob`` keeps the one-line meaning beside the
default so that ``--help`` and the documentation are generated from here and cannot drift.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from megatron_sppo.config.algorithms import PRESETS
from megatron_sppo.config.knobs import REQUIRED, knob, section
from megatron_sppo.config.rewards import RewardConfig


@dataclass(frozen=True)
class OptimizerConfig:
    lr: float = knob(1e-6, "peak learning rate")
    schedule: Literal["constant", "linear", "cosine"] = knob("constant", "decay after warm-up, down to min_lr at the last step")
    warmup_steps: int = knob(0, "optimizer steps of linear warm-up from 0")
    min_lr: float = knob(0.0, "learning rate at the end of a linear or cosine decay")
    weight_decay: float = knob(0.01, "AdamW decay; biases and norms are exempt")
    beta1: float = knob(0.9, "AdamW first-moment decay")
    beta2: float = knob(0.999, "AdamW second-moment decay")
    eps: float = knob(1e-8, "AdamW epsilon")
    clip_grad: float = knob(1.0, "global gradient-norm clip; 0 turns it off")
    distributed: bool = knob(True, "shard optimizer states over data-parallel ranks (Megatron's distributed optimizer)")
    overlap: bool = knob(False, "sum gradients and gather weights over data-parallel ranks while others are still computed with")


@dataclass(frozen=True)
class FP8Config:
    """Matrix products of the layers in FP8, by Transformer Engine; norms, attention and heads stay in bf16."""

    recipe: Literal["none", "delayed", "tensorwise", "blockwise"] = knob(
        "none",
        "scales: none = no FP8; delayed = from recent maxima; tensorwise = from a tensor's own; blockwise = from a block's (GPU)",
    )
    bf16_first_layers: int = knob(0, "layers at the start that stay in bf16 (not with delayed)")
    bf16_last_layers: int = knob(0, "layers at the end that stay in bf16 (not with delayed)")
    parameters: bool = knob(
        False, "keep and gather the layers' matrices in FP8 alone; vLLM is given the numbers that the trainer multiplies by"
    )


@dataclass(frozen=True)
class ModelConfig:
    """What actor, critic and SFT share: where the weights come from and how the model is laid out over the ranks."""

    path: str = knob(REQUIRED, "HF folder (config.json, *.safetensors, tokenizer) of a Qwen2, Qwen2.5 or Qwen3 dense model")
    dtype: Literal["auto", "fp32", "bf16"] = knob("auto", "parameter dtype; auto = bf16 on GPU, fp32 on CPU")
    tp: int = knob(1, "tensor-parallel size")
    pp: int = knob(1, "pipeline-parallel size")
    cp: int = knob(1, "context-parallel size: ranks that share the tokens of each sequence")
    sequence_parallel: bool = knob(False, "shard norms and residuals over the TP group (needs tp > 1)")
    recompute: Literal["none", "selective", "full"] = knob("none", "activation recomputation")
    fp8: FP8Config = section(FP8Config, "FP8 training")
    fuse_swiglu: bool = knob(
        False, "SwiGLU in one kernel (GPU), which rounds once where HF rounds twice: rollout.max_logprob_gap decides at the start"
    )
    micro_batch_tokens: int = knob(
        16384,
        "token budget of one packed micro-batch per data-parallel replica, shared by its cp ranks; longer sequences are alone",
    )
    logprob_chunk_tokens: int = knob(
        1024, "tokens whose logits exist at once (memory = chunk x vocab/TP x 2 bytes; in fp32 on a CPU x 8)"
    )
    mini_batch_size: int = knob(0, "responses per optimizer step over all ranks; 0 = the whole rollout batch")
    optimizer: OptimizerConfig = section(OptimizerConfig, "AdamW and its schedule")


@dataclass(frozen=True)
class ActorConfig(ModelConfig):
    epochs: int = knob(1, "passes over each rollout batch")
    reuse_first_forward: bool = knob(
        False, "old log-probs of a step's first mini-batch are those of its own training forward: saves its part of the pass"
    )


@dataclass(frozen=True)
class CriticConfig(ModelConfig):
    """Of algorithms with a critic: SPPO's reads the prompt alone. An empty `path` starts from the actor's checkpoint."""

    prior: float = knob(0.5, "V before the first update")
    warmup_steps: int = knob(0, "steps in which only the critic learns")
    epochs: int = knob(1, "critic passes over each rollout batch per actor update")
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=5e-6), metadata={"meaning": "AdamW and its schedule"}
    )


@dataclass(frozen=True)
class KLConfig:
    coefficient: float = knob(0.0, "weight of the KL to the initial policy; 0 = none and no reference pass")
    where: Literal["loss", "reward"] = knob("loss", "add the KL to the loss per token, or subtract its sum from the reward")
    estimator: Literal["k1", "k2", "k3"] = knob(
        "k3", "k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r (r = reference/policy)"
    )

    @property
    def is_in_reward(self) -> bool:
        return self.coefficient != 0 and self.where == "reward"


@dataclass(frozen=True)
class ImportanceSamplingConfig:
    """Correction of the gap between the rollout engine's distribution and the trainer's (diagnostics are always on)."""

    truncate: float = knob(0.0, "upper bound C of the per-token weight min(C, pi_trainer/pi_engine); 0 = no correction")
    mask_above: float = knob(0.0, "drop tokens whose pi_trainer/pi_engine or its inverse exceeds this; 0 = keep all")


@dataclass(frozen=True)
class AlgorithmConfig:
    name: Literal["sppo", "ppo", "ppo_bce", "grpo", "rloo", "remax"] = knob(
        "sppo", "which algorithm: sampling plan, credit assignment and losses; it sets the paper's defaults of other knobs"
    )
    num_samples: int = knob(1, "responses per prompt (grpo: 8, rloo: 5)")
    dynamic_sampling_rounds: int = knob(
        0, "sample prompts up to N times a step until enough have responses with different rewards (DAPO); 0 = off"
    )
    normalize_std: bool = knob(True, "divide by the group's standard deviation (grpo; false = Dr.GRPO)")
    gamma: float = knob(1.0, "discount per token (ppo, ppo_bce)")
    gae_lambda: float = knob(1.0, "GAE's lambda (ppo, ppo_bce)")
    whiten_advantages: bool = knob(False, "advantages of mean 0 and deviation 1 over the step's tokens (ppo, ppo_bce: true)")
    value_clip: float = knob(0.5, "clip of V around its value before the update (ppo); 0 = off")
    clip_low: float = knob(0.2, "PPO clip: ratio >= 1 - clip_low")
    clip_high: float = knob(0.2, "PPO clip: ratio <= 1 + clip_high")
    dual_clip: float = knob(0.0, "lower bound c > 1 on the objective of negative advantages (c * A); 0 = off")
    ratio: Literal["token", "sequence"] = knob("token", "token = paper; sequence = length-normalised sequence ratio as in GSPO")
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "fixed-length"] = knob(
        "token-mean", "how token losses become one number over the global mini-batch"
    )
    entropy_coefficient: float = knob(0.0, "bonus on the token entropy")
    kl: KLConfig = section(KLConfig, "KL to the initial policy")
    importance_sampling: ImportanceSamplingConfig = section(ImportanceSamplingConfig, "trainer/engine mismatch correction")


@dataclass(frozen=True)
class RolloutConfig:
    tp: int = knob(1, "tensor-parallel size of one vLLM engine; ranks / tp engines share the prompts")
    placement: Literal["colocated", "separate"] = knob(
        "colocated", "colocated = every rank trains and rolls out; separate = the last num_ranks ranks run vLLM alone"
    )
    num_ranks: int = knob(0, "ranks that roll out (separate only); the others train")
    max_staleness: int = knob(
        0, "policy updates that a rollout may be behind (separate only): 1 = step k+1 is sampled while step k trains"
    )
    stream: bool = knob(False, "train on responses as they finish, a mini-batch at a time in order of arrival (separate only)")
    temperature: float = knob(0.6, "sampling temperature; the trainer's logits are divided by it too")
    top_p: float = knob(1.0, "nucleus sampling; anything below 1 makes the engine's distribution differ from the trainer's")
    top_k: int = knob(-1, "top-k sampling; -1 = off")
    max_prompt_tokens: int = knob(1024, "longest prompt")
    max_response_tokens: int = knob(8192, "longest response; reaching it marks the response as truncated")
    dtype: Literal["auto", "fp32", "bf16"] = knob("auto", "vLLM weights; auto = the actor's")
    max_num_seqs: int = knob(256, "sequences decoded at once per engine")
    max_num_batched_tokens: int = knob(0, "vLLM scheduler budget; 0 = vLLM's default")
    gpu_memory_utilization: float = knob(0.8, "share of GPU memory given to vLLM")
    cpu_kv_cache_gib: float = knob(1.0, "KV cache per rank on CPU, GiB")
    cpu_packed_weights: bool = knob(
        False, "let vLLM's CPU backend pack its weights: faster where the CPU has AMX, but each push packs them anew"
    )
    execution: Literal["auto", "eager", "compiled"] = knob(
        "auto",
        "compiled = torch.compile and CUDA graphs in vLLM; auto = compiled on GPU, eager on CPU (where compiling needs g++)",
    )
    sleep: bool = knob(True, "free vLLM's GPU memory while training")
    stop_token_ids: tuple[int, ...] = knob((), "stop tokens beside the model's end-of-sequence tokens")
    weight_sync: Literal["reshard", "gather"] = knob(
        "reshard", "reshard = each rank receives just the bytes it lacks; gather = every rank sees the whole model (the oracle)"
    )
    reshard_cap_mib: float = knob(32.0, "most MiB that a rank sends or receives at once; staging takes at most four times that")
    alias_weights: bool = knob(
        False, "vLLM's parameters are the trainer's own memory where both lay them out alike (equal TP): no copy, no second copy"
    )
    quantization: Literal["none", "fp8"] = knob("none", "fp8 = vLLM quantises each pushed weight to FP8 (GPU only)")
    verify_weights_every: int = knob(
        25, "prove by checksums, each Nth step and at start, that vLLM holds the trainer's weights; 0 = only at start"
    )
    max_logprob_gap: float = knob(0.5, "start-up gate: mean |log pi_trainer - log pi_engine| above this stops the run")


@dataclass(frozen=True)
class CurriculumConfig:
    """Prompts chosen by the critic's V(s_p) before any rollout."""

    by: Literal["off", "variance", "band"] = knob(
        "off",
        "variance = prefer uncertain prompts, weight V(1 - V); band = prompts with V in [low, high] alike; off = data order",
    )
    pool: int = knob(4, "prompts looked at for each one that is rolled out; the others wait for the next epoch")
    low: float = knob(0.1, "smallest V of the band")
    high: float = knob(0.9, "largest V of the band")
    uniform: float = knob(0.1, "share of the draws that ignores V, so that a wrong critic cannot lock a prompt out")


@dataclass(frozen=True)
class DataConfig:
    train: tuple[str, ...] = knob((), "jsonl or parquet files")
    validation: tuple[str, ...] = knob((), "jsonl or parquet files, one benchmark each; may be empty")
    chat_template: Literal["auto", "none"] = knob(
        "auto", "auto = the tokenizer's HF chat template where it has one; none = plain prompt text"
    )
    system_prompt: str = knob("", "system message put before each prompt (chat template only)")
    prompt_suffix: str = knob("", "text appended to each user prompt")
    overlong: Literal["filter", "truncate_left"] = knob("filter", "prompts longer than rollout.max_prompt_tokens")
    shuffle: bool = knob(True, "a new seeded order each epoch")
    curriculum: CurriculumConfig = section(CurriculumConfig, "prompts by difficulty")


@dataclass(frozen=True)
class ValidationConfig:
    every: int = knob(10, "validate every N steps and after the last; 0 = never")
    before_training: bool = knob(True, "validate at step 0 too")
    samples: int = knob(1, "k of avg@k")
    temperature: float = knob(0.6, "sampling temperature of validation")
    top_p: float = knob(1.0, "nucleus sampling of validation")
    limit: int = knob(0, "first N problems of each benchmark; 0 = all")
    dump_samples: int = knob(8, "responses written out per benchmark and validation")


@dataclass(frozen=True)
class CheckpointConfig:
    every: int = knob(0, "save every N steps; 0 = only at the end")
    keep_last: int = knob(2, "older checkpoints are deleted, never the newest complete one")
    keep_best: bool = knob(True, "save whenever the mean validation accuracy is the best so far, and keep that checkpoint")
    asynchronous: bool = knob(True, "write in the background while training goes on")
    resume: Literal["auto", "never", "must"] = knob(
        "auto", "auto = continue from the run folder's latest checkpoint if there is one"
    )
    export_hf: bool = knob(True, "write the policy as an HF folder at the end")


@dataclass(frozen=True)
class LoggingConfig:
    wandb: Literal["off", "offline", "online"] = knob("off", "Weights & Biases")
    wandb_project: str = knob("megatron-sppo", "W&B project")
    tensorboard: bool = knob(False, "TensorBoard event files in the run folder")


@dataclass(frozen=True)
class ProfileConfig:
    first_step: int = knob(0, "first step of which <run_dir>/profile gets a trace and, on a GPU, a memory snapshot; 0 = none")
    last_step: int = knob(0, "last such step; 0 = first_step alone")
    all_ranks: bool = knob(False, "of every rank, not of rank 0 alone")


@dataclass(frozen=True)
class Config:
    """One training run."""

    # A choice that sets other defaults: the knob, and what each of its values sets where nobody has written anything.
    PRESETS: ClassVar = ("algorithm.name", PRESETS)

    run_dir: str = knob("runs/default", "where metrics, checkpoints, samples and the resolved config go")
    seed: int = knob(1, "seed of data order, sampling and initialisation")
    collective_timeout_minutes: int = knob(30, "minutes that a rank waits for others within a collective before the run ends")
    steps: int = knob(100, "rollout steps")
    prompts_per_step: int = knob(256, "prompts per rollout step")
    actor: ActorConfig = section(ActorConfig, "the policy in Megatron-core")
    critic: CriticConfig = section(CriticConfig, "the value model in Megatron-core, with its own layout")
    algorithm: AlgorithmConfig = section(AlgorithmConfig, "what is optimised")
    rollout: RolloutConfig = section(RolloutConfig, "vLLM")
    reward: RewardConfig = section(RewardConfig, "what counts as success")
    offload: Literal["none", "optimizer", "all", "auto"] = knob(
        "none",
        "what leaves the GPU while unused: optimizer = optimizer states; all = gradients and the critic's weights too; "
        "auto = the least of these with which `plan` finds the run to fit",
    )
    data: DataConfig = section(DataConfig, "prompts")
    validation: ValidationConfig = section(ValidationConfig, "held-out accuracy during training")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "save, resume, export")
    logging: LoggingConfig = section(LoggingConfig, "metric sinks beside metrics.jsonl and the console")
    profile: ProfileConfig = section(ProfileConfig, "where a step's time and memory go; a profiled step is slower")


@dataclass(frozen=True)
class SFTDataConfig:
    train: tuple[str, ...] = knob((), "jsonl or parquet files with `prompt` and `response`")
    validation: tuple[str, ...] = knob((), "held-out files of the same form; may be empty")
    chat_template: Literal["auto", "none"] = knob(
        "auto", "as data.chat_template of training: the prompt must look the same in RL"
    )
    max_tokens: int = knob(2048, "longest prompt + response; longer rows are dropped and counted")
    shuffle: bool = knob(True, "a new seeded order each epoch")


@dataclass(frozen=True)
class SFTConfig:
    """One supervised fine-tuning run: loss on the response tokens alone."""

    run_dir: str = knob("runs/sft", "where metrics and the resulting HF folder (`hf/`) go")
    seed: int = knob(1, "seed of the data order")
    steps: int = knob(1000, "optimizer steps")
    batch_size: int = knob(64, "examples per optimizer step over all ranks")
    validate_every: int = knob(0, "held-out loss every N steps; 0 = only at the end")
    model: ModelConfig = section(ModelConfig, "the model in Megatron-core")
    data: SFTDataConfig = section(SFTDataConfig, "examples")
    logging: LoggingConfig = section(LoggingConfig, "metric sinks beside metrics.jsonl and the console")


@dataclass(frozen=True)
class EvalConfig:
    """One evaluation of one model; each key is an option of `megatron-sppo eval`."""

    model: str = knob(REQUIRED, "HF folder, run folder (its hf/, else its latest checkpoint), or a checkpoint")
    benchmarks: tuple[str, ...] = knob((), "prepared sets (aime24,amc23) or name=path, comma-separated")
    data: str = knob("data", "folder of the prepared sets")
    output: str = knob("eval", "folder for samples, scores and tables; an interrupted evaluation goes on from it")
    samples: int = knob(16, "responses per problem")
    temperature: float = knob(0.6, "sampling temperature; 0 = greedy")
    top_p: float = knob(1.0, "nucleus sampling")
    max_tokens: int = knob(8192, "longest response")
    seed: int = knob(1, "fixes every response")
    limit: int = knob(0, "first N problems of each benchmark; 0 = all")
    graders: tuple[str, ...] = knob((), "reward names or import paths, comma-separated; default: every math grader there is")
    baseline: str = knob("", "another model, or the output folder of its evaluation, for a paired comparison")
    overlap: str = knob("", "overlap report of `data prepare`; benchmarks are also scored without the problems it names")
    chat_template: Literal["auto", "none"] = knob("auto", "as data.chat_template of training")
    system_prompt: str = knob("", "system message put before each prompt (chat template only)")
    prompt_suffix: str = knob("", "text appended to each user prompt")
    tp: int = knob(1, "tensor-parallel size; ranks / tp engines share the problems")
    dtype: Literal["auto", "fp32", "bf16"] = knob("auto", "auto = bf16 on GPU, fp32 on CPU")
    chunk: int = knob(128, "problems sampled between two saves")
    max_num_seqs: int = knob(256, "sequences decoded at once per engine")
    gpu_memory_utilization: float = knob(0.9, "share of GPU memory given to vLLM")
    cpu_kv_cache_gib: float = knob(1.0, "KV cache per rank on CPU, GiB")
