"""What must divide what: checked before anything is built, and printed in words a person can follow.

``check`` raises :class:`UserError` for what cannot run and returns warnings for what runs but may not be meant. The
model shapes are optional because they are known only once ``config.json`` has been read.
"""

from __future__ import annotations

from typing import Literal, Protocol

from megatron_sppo.config.algorithms import check_algorithm, critic_form
from megatron_sppo.config.bounds import SFT, TRAINING, check_bounds
from megatron_sppo.config.fp8 import Widths, check_fp8, check_fp8_pair
from megatron_sppo.config.knobs import REQUIRED
from megatron_sppo.config.placement import check_placement, is_separate, ranks_that_roll_out, ranks_that_train
from megatron_sppo.config.schema import ActorConfig, Config, ModelConfig, SFTConfig
from megatron_sppo.config.weight_sync import check_weight_sync
from megatron_sppo.errors import require


class ModelShape(Widths, Protocol):
    """What ``config.json`` says about a model (:class:`megatron_sppo.models.hf_config.HFModelConfig` has it)."""

    @property
    def max_positions(self) -> int: ...


Device = Literal["cpu", "gpu"]


def check(
    config: Config,
    world_size: int,
    device: Device,
    actor_shape: ModelShape | None = None,
    critic_shape: ModelShape | None = None,
) -> list[str]:
    """Warnings for the caller to print; UserError where the run cannot work on ``world_size`` ranks."""
    require(config.actor.path != REQUIRED, "actor.path is empty: set actor.path=<HF model folder>")
    require(bool(config.data.train), "data.train is empty: set data.train=<file.jsonl or file.parquet>")
    check_bounds(config, TRAINING)
    check_algorithm(config)
    check_placement(config, world_size)
    check_weight_sync(config, device)
    samples = config.algorithm.num_samples
    num_responses, train_ranks = config.prompts_per_step * samples, ranks_that_train(config, world_size)
    models = [("actor", config.actor, actor_shape), ("critic", config.critic, critic_shape)]
    for name, model, shape in models if critic_form(config) else models[:1]:
        _check_layout(name, model, train_ranks, device)
        check_fp8(name, model, device, shape)
        batch = f"prompts_per_step={config.prompts_per_step} x {_count(samples, 'sample')}"
        _check_mini_batches(name, model, train_ranks, num_responses, batch)
        if shape is not None:
            _check_shape(name, model, shape)
    if critic_form(config):
        check_fp8_pair(config.actor, config.critic)
    _check_rollout(config, ranks_that_roll_out(config, world_size), actor_shape)
    kl = config.algorithm.kl
    require(
        not (kl.coefficient and kl.where == "loss" and kl.estimator == "k1"),
        "algorithm.kl.estimator=k1 in the loss has a gradient of zero mean and regularises nothing: set it to k2 or k3",
    )
    _check_reuse(config)
    _check_length_penalty(config)
    _check_early_grading(config)
    _check_curriculum(config)
    _check_profile(config)
    _check_positions(config, actor_shape, critic_shape)
    return _warnings(config)


def _check_reuse(config: Config) -> None:
    actor, kl = config.actor, config.algorithm.kl
    if not actor.reuse_first_forward:
        return
    require(
        actor.epochs == 1,
        f"actor.reuse_first_forward=true has no old log-probs for a second pass but actor.epochs={actor.epochs}: "
        "set actor.epochs=1 or actor.reuse_first_forward=false",
    )
    require(
        not kl.is_in_reward,
        "actor.reuse_first_forward=true has no log-probs yet when algorithm.kl.where=reward needs them: "
        "set algorithm.kl.where=loss or actor.reuse_first_forward=false",
    )


def num_reused(actor: ActorConfig, num_responses: int) -> int:
    """Responses, the first of a step, whose old log-probs are those of their own training forward."""
    return min(mini_batch_size(actor, num_responses), num_responses) if actor.reuse_first_forward else 0


def _check_length_penalty(config: Config) -> None:
    penalty, buffer, limit = config.reward.overlong_penalty, config.reward.overlong_buffer, config.rollout.max_response_tokens
    require(
        buffer == 0 or penalty > 0,
        f"reward.overlong_buffer={buffer} has no penalty to spread: set reward.overlong_penalty (DAPO: 1.0)",
    )
    require(
        buffer <= limit,
        f"reward.overlong_buffer={buffer} is longer than rollout.max_response_tokens={limit}: lower it (DAPO: a fifth)",
    )


def _check_early_grading(config: Config) -> None:
    reward = config.reward
    if not reward.while_sampling:
        return
    require(
        not is_separate(config),
        "reward.while_sampling=true grades beside an engine of the same rank but rollout.placement=separate: "
        "set reward.while_sampling=false (rollout.stream=true grades each mini-batch as it arrives)",
    )
    require(
        not reward.model.path,
        f"reward.while_sampling=true would run reward.model.path={reward.model.path} on the device that samples: "
        "set reward.while_sampling=false",
    )


def _check_curriculum(config: Config) -> None:
    curriculum = config.data.curriculum
    require(
        curriculum.by != "band" or curriculum.low < curriculum.high,
        f"data.curriculum.low={curriculum.low} is not below data.curriculum.high={curriculum.high}: swap or change them",
    )
    require(
        curriculum.by == "off" or curriculum.pool > 1,
        "data.curriculum.pool=1 leaves nothing to choose from: set it to 2 or more",
    )


def _check_profile(config: Config) -> None:
    first, last = config.profile.first_step, config.profile.last_step
    require(
        not last or 0 < first <= last,
        f"profile.last_step={last} leaves no step from profile.first_step={first} on: set profile.first_step={last}",
    )


def check_sft(config: SFTConfig, world_size: int, device: Device, shape: ModelShape | None = None) -> list[str]:
    """As :func:`check`, for supervised fine-tuning."""
    require(config.model.path != REQUIRED, "model.path is empty: set model.path=<HF model folder>")
    require(bool(config.data.train), "data.train is empty: set data.train=<file.jsonl or file.parquet>")
    check_bounds(config, SFT)
    model = config.model
    _check_layout("model", model, world_size, device)
    check_fp8("model", model, device, shape)
    dp = data_parallel(model, world_size)
    require(
        model.mini_batch_size == 0,
        f"model.mini_batch_size={model.mini_batch_size} has no meaning in SFT: leave it at 0 and set batch_size",
    )
    require(
        config.batch_size >= dp,
        f"batch_size={config.batch_size} leaves some of the {dp} data-parallel ranks without an example: "
        f"set batch_size={dp} or more",
    )
    if shape is not None:
        _check_shape("model", model, shape)
        require(
            config.data.max_tokens <= shape.max_positions,
            f"data.max_tokens={config.data.max_tokens} exceeds the model's {shape.max_positions} positions: "
            f"set data.max_tokens={shape.max_positions} or less",
        )
    return _schedule_warnings("model", model, config.steps)


def data_parallel(model: ModelConfig, world_size: int) -> int:
    """Replicas of the model over the ranks."""
    return world_size // (model.tp * model.pp * model.cp)


def mini_batch_size(model: ModelConfig, num_responses: int) -> int:
    """Responses per optimizer step; 0 in the config means all of them."""
    return model.mini_batch_size or num_responses


def explain(config: Config, world_size: int) -> str:
    """The arithmetic of a step, a few lines, for the start of a run."""
    samples, form = config.algorithm.num_samples, critic_form(config)
    num_responses = config.prompts_per_step * samples
    train_ranks, rollout_ranks = ranks_that_train(config, world_size), ranks_that_roll_out(config, world_size)
    engines = rollout_ranks // config.rollout.tp
    longest = config.rollout.max_prompt_tokens + config.rollout.max_response_tokens
    batch = f"{_count(config.prompts_per_step, 'prompt')} x {_count(samples, 'sample')}"
    budgets = f"{config.actor.micro_batch_tokens} (actor)" + (f", {config.critic.micro_batch_tokens} (critic)" if form else "")
    limits = f"prompt <= {config.rollout.max_prompt_tokens} + response <= {config.rollout.max_response_tokens}"
    lines = (
        f"batch:   {batch} = {_count(num_responses, 'response')} per step, {_count(config.steps, 'step')}",
        f"actor:   {_updates(config.actor, num_responses, config.actor.epochs)}; {_layout(config.actor, train_ranks)}",
        *_critic_line(config, num_responses, train_ranks),
        f"rollout: {_count(engines, 'vLLM engine')} of TP{config.rollout.tp}, {_share(num_responses, engines)} responses each",
        f"tokens:  {limits} = {longest}; micro-batches of <= {budgets} per replica",
        *_placement(config, train_ranks, rollout_ranks),
    )
    return "\n".join(lines)


def _critic_line(config: Config, num_responses: int, train_ranks: int) -> tuple[str, ...]:
    form, critic = critic_form(config), config.critic
    if form is None:
        return (f"critic:  none, the baseline of {config.algorithm.name} is other responses to the same prompt",)
    updates = _updates(critic, num_responses, critic.epochs)
    return (f"critic:  {updates}; {_layout(critic, train_ranks)}; reads the {form.reads}",)


def _placement(config: Config, train_ranks: int, rollout_ranks: int) -> tuple[str, ...]:
    if not is_separate(config):
        return ()
    rollout = config.rollout
    when = "while the step before trains" if rollout.max_staleness else "before it trains"
    when = "while its mini-batches train" if rollout.stream else when
    return (f"ranks:   {train_ranks} train, {rollout_ranks} roll out; a step is sampled {when}",)


def explain_sft(config: SFTConfig, world_size: int) -> str:
    """The arithmetic of a supervised run."""
    return (
        f"batch:   {_count(config.batch_size, 'example')} per optimizer step, {_count(config.steps, 'step')}\n"
        f"model:   {_layout(config.model, world_size)}; examples <= {config.data.max_tokens} tokens, "
        f"micro-batches of <= {config.model.micro_batch_tokens} per replica"
    )


# --- words ------------------------------------------------------------------------------------------------------------


def _updates(model: ModelConfig, num_responses: int, epochs: int) -> str:
    size = mini_batch_size(model, num_responses)
    steps = num_responses // size
    per_epoch = f"{num_responses} / mini-batches of {size} = {_count(steps, 'optimizer step')} per epoch"
    return per_epoch if epochs == 1 else f"{per_epoch} x {epochs} epochs = {steps * epochs}"


def _layout(model: ModelConfig, world_size: int) -> str:
    return f"TP{model.tp} x PP{model.pp} x CP{model.cp} x DP{data_parallel(model, world_size)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _share(whole: int, parts: int) -> str:
    least, rest = divmod(whole, parts)
    return f"{least} or {least + 1}" if rest else str(least)


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_layout(name: str, model: ModelConfig, world_size: int, device: Device) -> None:
    ranks = model.tp * model.pp * model.cp
    sizes = f"{name}.tp={model.tp} x {name}.pp={model.pp} x {name}.cp={model.cp}"
    require(
        world_size % ranks == 0,
        f"{sizes} needs a multiple of {ranks} ranks but there {'is' if world_size == 1 else 'are'} {world_size}: "
        f"start a multiple of {ranks} ranks, --nproc {ranks} say, or lower {name}.tp, {name}.pp or {name}.cp",
    )
    require(
        not model.fuse_swiglu or device == "gpu",
        f"{name}.fuse_swiglu=true compiles a kernel for a GPU, and there is none: set {name}.fuse_swiglu=false",
    )
    require(
        not model.sequence_parallel or model.tp > 1,
        f"{name}.sequence_parallel=true needs {name}.tp above 1: set {name}.sequence_parallel=false or {name}.tp=2",
    )
    require(
        model.cp == 1 or model.dtype != "fp32" or device == "cpu",
        f"{name}.cp={model.cp} with {name}.dtype=fp32 does not run on a GPU, where context-parallel attention is bf16 only: "
        f"set {name}.dtype=bf16",
    )
    schedule = model.optimizer
    require(
        schedule.min_lr <= schedule.lr,
        f"{name}.optimizer.min_lr={schedule.min_lr} is above {name}.optimizer.lr={schedule.lr}: set {name}.optimizer.min_lr=0",
    )


def _check_mini_batches(name: str, model: ModelConfig, world_size: int, num_responses: int, batch: str) -> None:
    size, dp = mini_batch_size(model, num_responses), data_parallel(model, world_size)
    key = f"{name}.mini_batch_size={model.mini_batch_size}"
    require(
        num_responses % size == 0,
        f"{key} does not divide the {num_responses} responses of a step ({batch}): "
        f"set {name}.mini_batch_size={_nearest_divisor(num_responses, size)}",
    )
    require(
        size >= dp,
        f"{key} makes mini-batches of {size} that leave some of the {dp} data-parallel ranks without a response: "
        f"set {name}.mini_batch_size and prompts_per_step to {dp} or more",
    )


def _nearest_divisor(whole: int, wanted: int) -> int:
    return min((part for part in range(1, whole + 1) if whole % part == 0), key=lambda part: abs(part - wanted))


def _check_heads(key: str, tp: int, shape: ModelShape, who: str) -> None:
    heads, kv_heads = shape.num_heads, shape.num_kv_heads
    fix = f"set {key} to a divisor of {heads} and {kv_heads}, for example {key}=1"
    require(heads % tp == 0, f"{key}={tp} does not divide the {heads} attention heads of the {who}: {fix}")
    require(
        kv_heads % tp == 0 or tp % kv_heads == 0,
        f"{key}={tp} neither divides nor is a multiple of the {kv_heads} KV heads of the {who}: {fix}",
    )


def _check_shape(name: str, model: ModelConfig, shape: ModelShape) -> None:
    _check_heads(f"{name}.tp", model.tp, shape, name)
    require(
        shape.num_layers % model.pp == 0,
        f"{name}.pp={model.pp} does not divide the {shape.num_layers} layers of the {name}: "
        f"set {name}.pp={_nearest_divisor(shape.num_layers, model.pp)}",
    )


def _check_rollout(config: Config, world_size: int, actor_shape: ModelShape | None) -> None:
    rollout = config.rollout
    require(
        world_size % rollout.tp == 0,
        f"rollout.tp={rollout.tp} does not divide {_count(world_size, 'rank')}: "
        f"set rollout.tp={_nearest_divisor(world_size, rollout.tp)}",
    )
    if actor_shape is not None:
        _check_heads("rollout.tp", rollout.tp, actor_shape, "actor")
    budget = rollout.max_num_batched_tokens
    require(
        budget == 0 or budget >= rollout.max_num_seqs,
        f"rollout.max_num_batched_tokens={budget} is below rollout.max_num_seqs={rollout.max_num_seqs}, one token per "
        f"sequence: set rollout.max_num_batched_tokens=0 or {rollout.max_num_seqs} or more",
    )


def _check_positions(config: Config, actor_shape: ModelShape | None, critic_shape: ModelShape | None) -> None:
    prompt, response = config.rollout.max_prompt_tokens, config.rollout.max_response_tokens
    if actor_shape is not None:
        require(
            prompt + response <= actor_shape.max_positions,
            f"rollout.max_prompt_tokens={prompt} + rollout.max_response_tokens={response} exceeds the actor's "
            f"{actor_shape.max_positions} positions: lower one of them",
        )
    form = critic_form(config)
    if critic_shape is not None and form is not None:
        require(
            prompt <= critic_shape.max_positions,
            f"rollout.max_prompt_tokens={prompt} exceeds the critic's {critic_shape.max_positions} positions: lower it",
        )
        require(
            form.reads == "prompt" or prompt + response <= critic_shape.max_positions,
            f"rollout.max_prompt_tokens={prompt} + rollout.max_response_tokens={response} exceeds the critic's "
            f"{critic_shape.max_positions} positions, and algorithm.name={config.algorithm.name} lets it read both: lower one",
        )


def _schedule_warnings(name: str, model: ModelConfig, num_updates: int) -> list[str]:
    warmup = model.optimizer.warmup_steps
    if warmup < num_updates:
        return []
    too_long = f"{name}.optimizer.warmup_steps={warmup} is not below the run's {num_updates} optimizer steps"
    return [f"{too_long}: lr never reaches its peak"]


def _warnings(config: Config) -> list[str]:
    rollout, found = config.rollout, list[str]()
    for key, value, off in (("top_p", rollout.top_p, 1.0), ("top_k", rollout.top_k, -1)):
        if value != off:
            found.append(
                f"rollout.{key}={value} cuts the engine's distribution, while the trainer's log-probs are over the full "
                f"vocabulary: expect a larger mismatch, or set rollout.{key}={off}"
            )
    if config.critic.warmup_steps >= config.steps:
        found.append(f"critic.warmup_steps={config.critic.warmup_steps} covers all {config.steps} steps: the actor never learns")
    if not config.data.validation and config.validation.every:
        found.append("data.validation is empty: no held-out accuracy will be measured")
    if config.validation.temperature == 0 and config.validation.samples > 1:
        found.append(
            f"validation.temperature=0 makes the validation.samples={config.validation.samples} samples of a prompt equal"
        )
    if config.actor.fp8.recipe == "delayed":
        found.append(
            "actor.fp8.recipe=delayed moves scales between the old log-probs and the update, so that first ratios are not 1 "
            "(up to 1.2 was seen): set actor.fp8.recipe=tensorwise"
        )
    num_responses = config.prompts_per_step * config.algorithm.num_samples
    models = [("actor", config.actor, config.actor.epochs), ("critic", config.critic, config.critic.epochs)]
    for name, model, epochs in models if critic_form(config) else models[:1]:
        updates = config.steps * epochs * (num_responses // mini_batch_size(model, num_responses))
        found += _schedule_warnings(name, model, updates)
    return found
