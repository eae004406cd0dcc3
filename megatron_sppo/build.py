"""From a config to the parts of a trainer, in two stages: everything that can be the user's mistake first, models after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from megatron_sppo.actor import Actor
from megatron_sppo.algorithms import build_algorithm
from megatron_sppo.algorithms.base import Algorithm
from megatron_sppo.checkpoint.checkpointer import Checkpointer
from megatron_sppo.checkpoint.stop_file import StopFile
from megatron_sppo.checkpoint.store import CheckpointStore
from megatron_sppo.config import arithmetic
from megatron_sppo.config.algorithms import critic_form
from megatron_sppo.config.offload import LEAVING
from megatron_sppo.config.run_dir import check_run_dir
from megatron_sppo.config.schema import Config
from megatron_sppo.critic import Critic, NoCritic, ValueModel, ValuesAhead, initial_logit
from megatron_sppo.data.curriculum import Drawn, draw, everything
from megatron_sppo.data.files import unique_names
from megatron_sppo.data.prompts import PromptSet, PromptStream, render_prompts
from megatron_sppo.data.rows import read_rows
from megatron_sppo.data.tokenizer import Tokenizer, load_tokenizer
from megatron_sppo.errors import UserError
from megatron_sppo.evaluation.validation import Benchmark, Validator
from megatron_sppo.experience import Collector
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.gpt import check_layers
from megatron_sppo.models.hf_config import HFModelConfig, read_hf_config
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, ModelGroups, build_groups, is_main
from megatron_sppo.parallel.job import Job
from megatron_sppo.plan.this_machine import offload_level
from megatron_sppo.ragged import Ragged
from megatron_sppo.reshard.remote_sync import push_for_rollout, sync_for_training
from megatron_sppo.reshard.weight_sync import WeightSync, build_weight_sync
from megatron_sppo.rewards.checked import CheckedReward
from megatron_sppo.rewards.load import load_accuracy, load_reward
from megatron_sppo.rollout.engine import RolloutEngine
from megatron_sppo.rollout.remote_engine import RemoteEngine
from megatron_sppo.rollout.sampler import Elsewhere, InTurn, OneAhead
from megatron_sppo.rollout.serve import Push
from megatron_sppo.rollout.vllm_engine import VLLMEngine
from megatron_sppo.trainer import Parts
from megatron_sppo.weights.load_hf import load_hf_weights


@dataclass(frozen=True)
class Prepared:
    """Checked input: no model has been built yet."""

    config: Config
    warnings: tuple[str, ...]
    actor_hf: HFModelConfig
    critic_hf: HFModelConfig | None  # None where the algorithm has no critic
    tokenizer: Tokenizer
    train: PromptSet
    prompts: PromptStream
    benchmarks: tuple[Benchmark, ...]
    reward: CheckedReward
    algorithm: Algorithm


def prepare(config: Config, world_size: int) -> Prepared:
    """Read and check everything but weights. Raises UserError in one sentence."""
    device: arithmetic.Device = "gpu" if platform.is_gpu() else "cpu"
    arithmetic.check(config, world_size, device)  # what needs no file first
    check_run_dir(config.run_dir)
    check_checkpoint(config)
    config = with_critic_path(config)
    actor_hf = read_hf_config(config.actor.path, "actor.path")
    algorithm = build_algorithm(config)
    critic_hf = read_hf_config(config.critic.path, "critic.path") if algorithm.critic else None
    warnings = arithmetic.check(config, world_size, device, actor_hf, critic_hf)
    for name, model in (("actor", config.actor), ("critic", config.critic))[: 2 if algorithm.critic else 1]:
        check_layers(name, model)
    tokenizer = load_tokenizer(config.actor.path, "actor.path")

    def usable(paths: Sequence[str], knob: str) -> PromptSet:
        name = f"{knob} ({', '.join(Path(path).name for path in paths)})"
        return render_prompts(read_rows(paths, knob), tokenizer, config.data, config.rollout.max_prompt_tokens, name)

    held_out = config.data.validation
    train = usable(config.data.train, "data.train")
    if critic_hf is not None:
        check_vocabulary(train, actor_hf, critic_hf, config)
    benchmarks = tuple(
        Benchmark(name, usable([path], "data.validation").head(config.validation.limit).prompts)
        for name, path in zip(unique_names(held_out, "data.validation"), held_out, strict=True)
    )
    return Prepared(
        config=config,
        warnings=tuple(warnings),
        actor_hf=actor_hf,
        critic_hf=critic_hf,
        tokenizer=tokenizer,
        train=train,
        prompts=prompt_stream(train, config),
        benchmarks=benchmarks,
        reward=load_reward(config.reward, config.rollout.max_response_tokens),
        algorithm=algorithm,
    )


def prompt_stream(train: PromptSet, config: Config) -> PromptStream:
    """Batches of a step's prompts, or of the pool that a curriculum draws them from."""
    curriculum = config.data.curriculum
    if curriculum.by == "off":
        return PromptStream(train, config.prompts_per_step, config.seed, config.data.shuffle)
    pool = config.prompts_per_step * curriculum.pool
    return PromptStream(train, pool, config.seed, config.data.shuffle, "prompts_per_step x data.curriculum.pool")


def check_checkpoint(config: Config) -> None:
    """UserError where ``checkpoint.resume=must`` has nothing to resume: told here, before minutes go into building models."""
    store = CheckpointStore(Path(config.run_dir) / "checkpoints", config.checkpoint.keep_last, config.checkpoint.keep_best)
    if config.checkpoint.resume == "must" and not store.complete():
        raise UserError(
            f"checkpoint.resume=must but {store.folder} holds no complete checkpoint: "
            "point run_dir at the run to continue, or set checkpoint.resume=auto"
        )


def check_vocabulary(prompts: PromptSet, actor_hf: HFModelConfig, critic_hf: HFModelConfig, config: Config) -> None:
    """UserError where the critic lacks a token that it may have to read: of a prompt, or any that the actor can sample."""
    path, held = config.critic.path, critic_hf.vocab_size
    largest = int(prompts.prompts.tokens.values.max())
    if largest >= held:
        raise UserError(
            f"critic.path={path} has a vocabulary of {held} but the actor's tokenizer made token {largest}: "
            "choose a critic with the same tokenizer as actor.path"
        )
    form = critic_form(config)
    if form is not None and form.reads == "response" and held < actor_hf.vocab_size:
        raise UserError(
            f"critic.path={path} has a vocabulary of {held} but reads the actor's responses, of {actor_hf.vocab_size} tokens: "
            "choose a critic with the same vocabulary as actor.path"
        )


def with_critic_path(config: Config) -> Config:
    """An empty critic.path means the actor's checkpoint."""
    return config if config.critic.path else replace(config, critic=replace(config.critic, path=config.actor.path))


def optimizer_steps(rollout_steps: int, num_responses: int, mini_batch_size: int, epochs: int) -> int:
    """Over the whole run: what a linear or cosine schedule decays over."""
    return max(1, rollout_steps * epochs * -(-num_responses // (mini_batch_size or num_responses)))


def build(prepared: Prepared, job: Job) -> Parts:
    """Models, optimizers and the rollout engine of ranks that train. Collective over the job, with :func:`build_rollout`."""
    config = prepared.config
    layouts = [Layout.of(config.actor), *([Layout.of(config.critic)] if prepared.algorithm.critic else [])]
    actor_groups, *other_groups = build_groups(layouts, config.seed)
    num_responses = config.prompts_per_step * prepared.algorithm.sampling(1).num_samples
    actor_config = config.actor
    actor_steps = max(1, config.steps - config.critic.warmup_steps)
    policy = MegatronEngine(
        prepared.actor_hf,
        actor_config,
        actor_groups,
        "lm",
        optimizer_steps(actor_steps, num_responses, actor_config.mini_batch_size, actor_config.epochs),
    )
    load_hf_weights(policy.model, prepared.actor_hf, actor_config.path, actor_groups)
    policy.start_optimizer()
    critic = _critic(prepared, other_groups, num_responses)
    actor = Actor(policy, actor_config, config.rollout.temperature)
    if prepared.algorithm.needs_reference:
        actor.remember_reference()  # before a checkpoint is loaded: the reference is the initial policy
    engines = {"actor": policy, **({"critic": critic.engine} if isinstance(critic, Critic) else {})}
    _begin_offload(config, engines)  # before vLLM takes its memory
    engine, sync = _rollout_side(config, policy, job)
    accuracy = load_accuracy(config.reward)
    critic = _asked_ahead(prepared, engine, critic)
    sampler = _sampler(prepared, engine, critic)
    return Parts(
        config=config,
        algorithm=prepared.algorithm,
        actor=actor,
        critic=critic,
        engine=engine,
        sampler=sampler,
        collector=Collector(
            sampler,
            prepared.algorithm.sampling,
            prepared.reward,
            config.prompts_per_step,
            config.algorithm.dynamic_sampling_rounds,
            config.reward.while_sampling,
        ),
        sync=sync,
        prompts=prepared.prompts,
        decode=prepared.tokenizer.decode,
        reward=prepared.reward,
        validator=Validator(
            prepared.benchmarks, accuracy, config.validation, config.rollout, config.seed, config.reward.while_sampling
        ),
        checkpointer=Checkpointer(Path(config.run_dir), config.checkpoint, engines),
        stop=StopFile(config.run_dir),
    )


def _critic(prepared: Prepared, groups: list[ModelGroups], num_responses: int) -> ValueModel:
    """The value model that the algorithm asks for, or none."""
    form, hf, config = prepared.algorithm.critic, prepared.critic_hf, prepared.config.critic
    if form is None or hf is None:
        return NoCritic()
    num_steps = optimizer_steps(prepared.config.steps, num_responses, config.mini_batch_size, config.epochs)
    engine = MegatronEngine(hf, config, groups[0], "value", num_steps, initial_logit(config.prior, form))
    load_hf_weights(engine.model, hf, config.path, groups[0])
    engine.start_optimizer()
    return Critic(engine, config, form)


def _begin_offload(config: Config, engines: Mapping[str, MegatronEngine]) -> None:
    level = offload_level(config)
    for name, engine in engines.items():
        engine.residency.begin(LEAVING[level][name])
    if config.offload == "auto" and level != "none" and is_main():
        print(f"offload: auto comes to {level} in this GPU's memory", flush=True)


def _rollout_side(config: Config, policy: MegatronEngine, job: Job) -> tuple[RolloutEngine, WeightSync]:
    """What ranks that train have of vLLM: an engine of their own, or the way to those of other ranks."""
    if job.role == "train":
        remote = RemoteEngine(job)
        return remote, sync_for_training(job, config.rollout, policy, remote, rollout_dtype(config))
    engine = VLLMEngine(config.rollout, config.actor.path, rollout_dtype(config), config.seed)
    return engine, build_weight_sync(job, config.rollout, policy, engine, rollout_dtype(config))


def build_rollout(prepared: Prepared, job: Job) -> tuple[VLLMEngine, Push]:
    """The engine of ranks that roll out alone, and how its weights are pushed."""
    config = prepared.config
    rollout = replace(config.rollout, sleep=False)  # the device is its own
    with job.part_environment():
        engine = VLLMEngine(rollout, config.actor.path, rollout_dtype(config), config.seed)
    return engine, push_for_rollout(job, rollout, prepared.actor_hf, engine, rollout_dtype(config))


def rollout_dtype(config: Config) -> torch.dtype:
    """Of vLLM's weights."""
    return platform.resolve_dtype(config.actor.dtype if config.rollout.dtype == "auto" else config.rollout.dtype)


def _asked_ahead(prepared: Prepared, engine: RolloutEngine, critic: ValueModel) -> ValueModel:
    """Where other ranks sample a step's own rollouts, a critic of prompts is asked meanwhile; one response a prompt."""
    waits = isinstance(engine, RemoteEngine) and not prepared.config.rollout.max_staleness
    alone = prepared.algorithm.sampling(1).responses_per_prompt == 1
    if waits and alone and isinstance(critic, Critic) and critic.form.reads == "prompt":
        return ValuesAhead(critic)
    return critic


def _sampler(prepared: Prepared, engine: RolloutEngine, critic: ValueModel) -> InTurn:
    config, prompts, decode = prepared.config, prepared.prompts, prepared.tokenizer.decode

    def drawn(step: int) -> Drawn:
        """The next prompts in data order, or those that the critic's view of the next ones chooses."""
        batch, curriculum = prompts.next_batch(), config.data.curriculum
        if curriculum.by == "off":
            return everything(batch)
        values = critic.values(batch.tokens, Ragged.empty_rows(len(batch))).values
        return draw(batch, values, config.prompts_per_step, curriculum, config.seed, step)

    def pushes(step: int) -> bool:
        """Dynamic sampling may come back for more before the push."""
        return step > config.critic.warmup_steps and not config.algorithm.dynamic_sampling_rounds

    if config.rollout.max_staleness and isinstance(engine, RemoteEngine):
        return OneAhead(engine, drawn, prepared.algorithm.sampling, decode, pushes, config.steps)
    if isinstance(engine, RemoteEngine):
        begin_values = critic.begin if isinstance(critic, ValuesAhead) else None
        return Elsewhere(engine, drawn, prepared.algorithm.sampling, decode, pushes, begin_values)
    return InTurn(engine, drawn, prepared.algorithm.sampling, decode, pushes)
