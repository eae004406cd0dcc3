"""Credit assignment as pure functions: what the rewards and values of a step say about each response."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_sppo.losses import kl_penalty
from megatron_sppo.ragged import Ragged, expand


def sequence_level(rewards_B: Tensor, values_B: Tensor) -> Tensor:
    """Eq. 1: A = R - V(s_p), [B]; no whitening, no GAE, no group. V is taken before this step's critic update."""
    return rewards_B - values_B


def over_tokens(advantages_B: Tensor, responses: Ragged) -> Ragged:
    """Every token of a response gets its response's advantage."""
    return Ragged(expand(advantages_B, responses.lengths), responses.lengths)


def kl_in_reward(rewards_B: Tensor, logprobs: Ragged, reference: Ragged, coefficient: float, estimator: str) -> Tensor:
    """[B] rewards less ``coefficient`` x the summed KL estimate of each response to the reference policy."""
    kl_N = kl_penalty(logprobs.values, reference.values, estimator)  # type: ignore[arg-type]
    return rewards_B - coefficient * logprobs.with_values(kl_N).row_sums()


def token_rewards(rewards_B: Tensor, kl: Ragged, coefficient: float) -> Ragged:
    """The outcome at each response's last token, less ``coefficient`` x the KL estimate at every token."""
    return kl.with_values(terminal_rewards(rewards_B, kl).values - coefficient * kl.values)


def terminal_rewards(rewards_B: Tensor, rows: Ragged) -> Ragged:
    """The outcome at the last token of each of ``rows``, whose values are not read, and 0 before it."""
    rewards_N = torch.zeros_like(rows.values)
    rewards_N[rows.starts + rows.lengths - 1] += rewards_B
    return rows.with_values(rewards_N)


def gae(rewards: Ragged, values: Ragged, gamma: float, lam: float) -> tuple[Ragged, Ragged]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) -> (advantages, returns = advantages + values).

    ``rewards`` and ``values`` have a row per response and an element per token: V(s_t) is read before token t, and V is 0 after
    the last token. delta_t = r_t + gamma V(s_t+1) - V(s_t); A_t = delta_t + gamma lam A_t+1.
    """
    lengths = rewards.lengths
    longest = int(lengths.max()) if len(rewards) else 0
    rows_N, columns_N = expand(torch.arange(len(rewards)), lengths), torch.arange(rewards.values.numel())
    places = (rows_N, columns_N - expand(rewards.starts, lengths))
    reward_BT = torch.zeros(len(rewards), longest + 1, dtype=torch.float64)
    value_BT = torch.zeros_like(reward_BT)
    reward_BT[places], value_BT[places] = rewards.values.double(), values.values.double()
    delta_BT = reward_BT[:, :-1] + gamma * value_BT[:, 1:] - value_BT[:, :-1]
    advantage_BT = torch.zeros_like(reward_BT)
    for t in reversed(range(longest)):  # what lies behind a response's end is 0 and stays 0
        advantage_BT[:, t] = delta_BT[:, t] + gamma * lam * advantage_BT[:, t + 1]
    advantage_N = advantage_BT[places]
    returns_N = advantage_N + values.values.double()
    return rewards.with_values(advantage_N.float()), rewards.with_values(returns_N.float())


def whitened(advantages: Ragged) -> Ragged:
    """Mean 0 and standard deviation 1 over all tokens of the batch, as PPO's public implementations do."""
    values_N = advantages.values.double()
    spread = values_N.std(correction=0)
    return advantages.with_values(((values_N - values_N.mean()) / (spread + 1e-8)).float())


def group_normalized(rewards_B: Tensor, group_size: int, by_std: bool) -> Tensor:
    """GRPO: (R - mean of the group) / its standard deviation, [B]; responses of a prompt are adjacent.

    The deviation is the sample's (N - 1), as in the paper's eq. 4; ``by_std=False`` leaves it out (Dr.GRPO, arXiv 2503.20783). A
    group of equal rewards gets 0.
    """
    rewards_PN = rewards_B.view(-1, group_size)
    centred_PN = rewards_PN - rewards_PN.mean(1, keepdim=True)
    if by_std:
        centred_PN = centred_PN / (rewards_PN.std(1, correction=1, keepdim=True) + 1e-6)
    return centred_PN.flatten()


def leave_one_out(rewards_B: Tensor, group_size: int) -> Tensor:
    """RLOO (arXiv 2402.14740): R - mean reward of the prompt's other responses, [B]; responses of a prompt are adjacent."""
    rewards_PN = rewards_B.view(-1, group_size)
    others_PN = (rewards_PN.sum(1, keepdim=True) - rewards_PN) / (group_size - 1)
    return (rewards_PN - others_PN).flatten()


def bernoulli_grpo(solvability: Tensor, success: bool) -> Tensor:
    """GRPO's advantage of a success or failure where the prompt is solved with this probability (app. A, eq. 6; fig. 3)."""
    odds = (1 - solvability) / solvability
    return odds.sqrt() if success else -odds.rsqrt()
