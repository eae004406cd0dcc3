"""One update of policy and critic, for every algorithm, from the LLM trainer's own advantages and losses.

A trajectory is a response, a step a token, the start state the prompt. Shape legend: B trajectories, N steps, D observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from megatron_sppo import advantages
from megatron_sppo.config.algorithms import CRITICS
from megatron_sppo.control.config import PPOConfig
from megatron_sppo.control.networks import Critic, Policy
from megatron_sppo.control.trajectories import Trajectories
from megatron_sppo.losses import aggregate, clipped_surrogate, log_ratio, value_bce, value_mse
from megatron_sppo.ragged import Ragged


@dataclass(frozen=True)
class Credit:
    """What an update teaches: the policy at every step, the critic at every state that it reads."""

    advantages: Ragged  # [N]
    critic_states: Ragged  # [*, D] a row per trajectory: its start state alone, or every state
    critic_targets: Ragged  # [*]
    old_values: Ragged  # [*] V before the update


class Learner:
    """A policy and a critic with their optimizers."""

    def __init__(self, algorithm: str, policy: Policy, critic: Critic, config: PPOConfig, critic_epochs: int = 0) -> None:
        self.form, self.critic_epochs = CRITICS[algorithm], critic_epochs or config.epochs
        self.policy, self.critic, self.config = policy, critic, config
        self.policy_optimizer = torch.optim.Adam(policy.parameters(), lr=config.actor_lr, eps=1e-5)
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=config.critic_lr, eps=1e-5)

    def state(self) -> dict[str, Any]:
        parts = (self.policy, self.critic, self.policy_optimizer, self.critic_optimizer)
        return {name: part.state_dict() for name, part in zip(_PARTS, parts, strict=True)}

    def restore(self, state: dict[str, Any]) -> None:
        parts = (self.policy, self.critic, self.policy_optimizer, self.critic_optimizer)
        for name, part in zip(_PARTS, parts, strict=True):
            part.load_state_dict(state[name])

    def update(self, trajectories: Trajectories, rewards: Ragged, seed: int) -> dict[str, float]:
        """Old log-probs and values, credit, then the passes of clipped steps; metrics of the update."""
        c, policy = self.config, self.policy
        with torch.no_grad():
            old_logprobs_N = policy.logprobs(trajectories.observations.values, trajectories.actions.values)
        credit = self.assign_credit(trajectories, rewards)
        order = torch.Generator().manual_seed(seed)
        clipped = steps = 0
        for epoch in range(max(c.epochs, self.critic_epochs)):
            for chosen in torch.randperm(len(trajectories.lengths), generator=order).tensor_split(c.minibatches):
                if epoch < self.critic_epochs:
                    self._step_critic(credit, chosen)
                if epoch < c.epochs:
                    clipped += self._step_policy(trajectories, old_logprobs_N, credit.advantages, chosen)
                    steps += int(trajectories.lengths[chosen].sum())
        with torch.no_grad():
            moved_N = policy.logprobs(trajectories.observations.values, trajectories.actions.values) - old_logprobs_N
        return {
            "actor/clip_fraction": clipped / steps,
            "actor/kl": float((moved_N.exp() - 1 - moved_N).mean()),
            "critic/value_mean": float(credit.old_values.values.mean()),
            "advantage/mean": float(credit.advantages.values.mean()),
            "advantage/std": float(credit.advantages.values.std(correction=0)),
        }

    def assign_credit(self, trajectories: Trajectories, rewards: Ragged) -> Credit:
        """Eq. 1 from V(s_0), or GAE from V(s_t)."""
        c = self.config
        if self.form.reads == "prompt":
            one_each = torch.ones(len(rewards), dtype=torch.int64)
            outcomes_B = rewards.row_sums()
            values_B = self._values(trajectories.start_states)
            advantages_B = advantages.sequence_level(outcomes_B, values_B)
            spread = advantages.over_tokens(advantages_B, rewards)
            return Credit(
                spread,
                Ragged(trajectories.start_states, one_each),
                Ragged(outcomes_B, one_each),
                Ragged(values_B, one_each),
            )
        values = rewards.with_values(self._values(trajectories.observations.values))
        step_advantages, returns = advantages.gae(rewards, values, c.gamma, c.gae_lambda)
        if c.whiten_advantages:
            step_advantages = advantages.whitened(step_advantages)
        return Credit(step_advantages, trajectories.observations, returns, values)

    @torch.no_grad()
    def _values(self, states_ND: Tensor) -> Tensor:
        outputs_N: Tensor = self.critic(states_ND)
        return outputs_N.sigmoid() if self.form.output == "probability" else outputs_N

    def _step_critic(self, credit: Credit, chosen: Tensor) -> None:
        at, lengths = _steps_of(credit.critic_targets, chosen)
        outputs_N, targets_N = self.critic(credit.critic_states.values[at]), credit.critic_targets.values[at]
        if self.form.output == "probability":
            loss_N = value_bce(outputs_N, targets_N)
        else:
            loss_N = value_mse(outputs_N, targets_N, credit.old_values.values[at], self.config.value_clip)
        self._descend(loss_N, lengths, self.critic, self.critic_optimizer)

    def _step_policy(self, trajectories: Trajectories, old_logprobs_N: Tensor, credit: Ragged, chosen: Tensor) -> int:
        """Returns how many steps the clip held."""
        c = self.config
        at, lengths = _steps_of(credit, chosen)
        logprobs_N = self.policy.logprobs(trajectories.observations.values[at], trajectories.actions.values[at])
        log_ratio_N = log_ratio(logprobs_N, old_logprobs_N[at], lengths, "token")
        terms = clipped_surrogate(log_ratio_N, credit.values[at], c.clip, c.clip)
        self._descend(terms.loss_N, lengths, self.policy, self.policy_optimizer)
        return int((terms.clipped_low_N | terms.clipped_high_N).sum())

    def _descend(self, loss_N: Tensor, lengths: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        total, weight = aggregate(loss_N, lengths, "token-mean", fixed_length=0)
        optimizer.zero_grad()
        (total / weight).backward()
        nn.utils.clip_grad_norm_(network.parameters(), self.config.max_grad_norm)
        optimizer.step()


_PARTS = ("policy", "critic", "policy_optimizer", "critic_optimizer")


def terminal_rewards(trajectories: Trajectories) -> Ragged:
    """[N] 0 at every step but a trajectory's last, which has its outcome."""
    return advantages.terminal_rewards(trajectories.successes_B, trajectories.dense)


def _steps_of(rows: Ragged, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Places in ``values`` of the chosen rows' elements, and the rows' lengths."""
    places = rows.with_values(torch.arange(rows.values.shape[0])).select(chosen.tolist())
    return places.values, places.lengths
