"""How many ranks train and how many roll out, and what ``rollout.placement`` needs of the rest of the config."""

from __future__ import annotations

from megatron_sppo.config.schema import Config
from megatron_sppo.errors import UserError


def is_separate(config: Config) -> bool:
    return config.rollout.placement == "separate"


def num_rollout_ranks(config: Config) -> int:
    """Ranks that run vLLM alone; 0 = every rank does both."""
    return config.rollout.num_ranks if is_separate(config) else 0


def ranks_that_train(config: Config, world_size: int) -> int:
    """Of the launcher's ``world_size``."""
    return world_size - num_rollout_ranks(config)


def ranks_that_roll_out(config: Config, world_size: int) -> int:
    """Of the launcher's ``world_size``."""
    return num_rollout_ranks(config) or world_size


def name_of_rank(rank: int, num_train_ranks: int) -> str:
    """How a person calls a rank of the job: "rollout rank 1 (rank 3 of the job)"; 0 training ranks = each does both."""
    if not num_train_ranks:
        return f"rank {rank}"
    part = f"training rank {rank}" if rank < num_train_ranks else f"rollout rank {rank - num_train_ranks}"
    return f"{part} (rank {rank} of the job)"


def check_placement(config: Config, world_size: int) -> None:
    """UserError where the ranks cannot be cut as asked; needs no file and no model."""
    if is_separate(config):
        _check_separate(config, world_size)
        return
    rollout = config.rollout
    for key, value, off in (
        ("num_ranks", rollout.num_ranks, "0"),
        ("max_staleness", rollout.max_staleness, "0"),
        ("stream", rollout.stream, "false"),
    ):
        if value:
            raise UserError(
                f"rollout.{key}={_word(value)} needs ranks that roll out alone: "
                f"set rollout.placement=separate or rollout.{key}={off}"
            )


def _check_separate(config: Config, world_size: int) -> None:
    rollout, ranks = config.rollout, "1 rank" if world_size == 1 else f"{world_size} ranks"
    if rollout.num_ranks < 1:
        raise UserError(
            f"rollout.num_ranks={rollout.num_ranks} with rollout.placement=separate leaves no rank that rolls out: "
            "set rollout.num_ranks=1 or more"
        )
    if rollout.num_ranks >= world_size:
        raise UserError(
            f"rollout.num_ranks={rollout.num_ranks} of {ranks} leaves no rank that trains: start more ranks, "
            f"--nproc {rollout.num_ranks + 1} say, or lower rollout.num_ranks"
        )
    if rollout.num_ranks % rollout.tp:
        raise UserError(
            f"rollout.tp={rollout.tp} does not divide rollout.num_ranks={rollout.num_ranks}: "
            f"set rollout.tp=1 or rollout.num_ranks={-(-rollout.num_ranks // rollout.tp) * rollout.tp}"
        )
    behind = f"rollout.max_staleness={rollout.max_staleness}" if rollout.max_staleness else "rollout.stream=true"
    if (rollout.max_staleness or rollout.stream) and not config.algorithm.importance_sampling.truncate:
        raise UserError(
            f"{behind} trains on samples of an earlier policy, uncorrected while algorithm.importance_sampling.truncate=0: "
            "set algorithm.importance_sampling.truncate=2"
        )
    if rollout.stream:
        _check_stream(config)


def _check_stream(config: Config) -> None:
    actor, kl = config.actor, config.algorithm.kl
    if config.rollout.max_staleness:
        raise UserError(
            "rollout.stream=true and rollout.max_staleness=1 are two ways to overlap: "
            "set rollout.max_staleness=0 or rollout.stream=false"
        )
    if not 0 < actor.mini_batch_size < config.prompts_per_step:
        raise UserError(
            f"rollout.stream=true trains as soon as actor.mini_batch_size={actor.mini_batch_size} responses of "
            f"prompts_per_step={config.prompts_per_step} are there: set actor.mini_batch_size to a part of them"
        )
    if actor.epochs != 1:
        raise UserError(f"rollout.stream=true sees each response once but actor.epochs={actor.epochs}: set actor.epochs=1")
    if kl.coefficient:
        raise UserError(
            f"rollout.stream=true has no reference pass but algorithm.kl.coefficient={kl.coefficient}: "
            "set algorithm.kl.coefficient=0 or rollout.stream=false"
        )


def _word(value: object) -> str:
    return str(value).lower()
