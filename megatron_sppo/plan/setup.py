"""What is planned: a checked config, the shapes of its models, and the machines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from megatron_sppo.algorithms import build_algorithm
from megatron_sppo.config import arithmetic
from megatron_sppo.config.algorithms import critic_form
from megatron_sppo.config.placement import is_separate, ranks_that_roll_out, ranks_that_train
from megatron_sppo.config.schema import Config
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.plan.machines import Machines
from megatron_sppo.plan.shapes import model_shape
from megatron_sppo.reshard.declared import Cluster, check_divides
from megatron_sppo.rewards.load import check_names


@dataclass(frozen=True)
class Setup:
    config: Config
    machines: Machines
    actor: HFModelConfig
    critic: HFModelConfig
    uses_critic: bool
    needs_reference: bool
    origins: tuple[str, ...]  # where the shapes were found
    warnings: tuple[str, ...]  # of the config's own check

    @classmethod
    def of(cls, config: Config, machines: Machines) -> Setup:
        """Raises UserError for what could not run, in the words that `train` would use."""
        world_size = machines.world_size
        arithmetic.check(config, world_size, "gpu")  # what needs no model first
        check_names(config.reward)
        actor, actor_origin = model_shape(config.actor.path, "actor.path")
        critic, critic_origin = model_shape(config.critic.path or config.actor.path, "critic.path")
        algorithm = build_algorithm(config)
        warnings = arithmetic.check(config, world_size, "gpu", actor, critic)
        setup = cls(
            config,
            machines,
            actor,
            critic,
            algorithm.critic is not None,
            algorithm.needs_reference,
            (f"actor: {actor_origin}", f"critic: {critic_origin}"),
            tuple(warnings),
        )
        check_divides(actor, setup.cluster)
        return setup

    @property
    def critic_reads_responses(self) -> bool:
        form = critic_form(self.config)
        return form is not None and form.reads == "response"

    @property
    def is_separate(self) -> bool:
        return is_separate(self.config)

    @property
    def train_ranks(self) -> int:
        return ranks_that_train(self.config, self.machines.world_size)

    @property
    def rollout_ranks(self) -> int:
        return ranks_that_roll_out(self.config, self.machines.world_size)

    @cached_property
    def cluster(self) -> Cluster:
        """The actor's layout and vLLM's, for the reshard planner."""
        actor, rollout_tp = self.config.actor, self.config.rollout.tp
        return Cluster(
            tp=actor.tp,
            pp=actor.pp,
            dp=self.train_ranks // (actor.tp * actor.pp),
            rollout_tp=rollout_tp,
            num_engines=self.rollout_ranks // rollout_tp,
            separate=self.is_separate,
            ranks_per_node=self.machines.gpus_per_node,
        )

    @property
    def trained(self) -> tuple[str, ...]:
        """Sections of the config whose models exist."""
        return ("actor", "critic") if self.uses_critic else ("actor",)

    @property
    def num_sampled(self) -> int:
        """Responses of a step that vLLM generates: those that are trained on, and greedy ones."""
        return self.config.prompts_per_step * build_algorithm(self.config).sampling(1).responses_per_prompt

    @property
    def num_responses(self) -> int:
        return self.config.prompts_per_step * self.config.algorithm.num_samples

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its longest response."""
        return self.config.rollout.max_prompt_tokens + self.config.rollout.max_response_tokens
