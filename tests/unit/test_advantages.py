from __future__ import annotations

import torch

from megatron_sppo.advantages import kl_in_reward, over_tokens, sequence_level
from megatron_sppo.ragged import Ragged


def test_sequence_level_advantage_is_equation_1() -> None:
    rewards, values = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.25, 0.75, 1.0])
    assert sequence_level(rewards, values).tolist() == [0.75, -0.75, 0.0]


def test_every_token_gets_its_responses_advantage() -> None:
    responses = Ragged.from_rows([[4, 5, 6], [7], [8, 9]], torch.int64)
    spread = over_tokens(torch.tensor([0.5, -1.0, 0.25]), responses)
    assert [row.tolist() for row in spread.rows()] == [[0.5, 0.5, 0.5], [-1.0], [0.25, 0.25]]


def test_kl_in_the_reward_is_summed_over_each_response() -> None:
    logprobs = Ragged.from_rows([[-1.0, -2.0], [-0.5]], torch.float32)
    reference = Ragged.from_rows([[-1.5, -2.0], [-0.25]], torch.float32)
    rewards = torch.tensor([1.0, 0.0])
    assert kl_in_reward(rewards, logprobs, reference, 0.5, "k1").tolist() == [1.0 - 0.5 * 0.5, 0.0 - 0.5 * -0.25]
    k2 = kl_in_reward(rewards, logprobs, reference, 2.0, "k2").tolist()
    assert k2 == [1.0 - 2.0 * 0.5**2 / 2, 0.0 - 2.0 * 0.25**2 / 2]
    assert rewards.tolist() == [1.0, 0.0], "the input keeps its values"
