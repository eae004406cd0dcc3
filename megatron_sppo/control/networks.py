"""Policies and critics: small MLPs. Shape legend: B trajectories, N steps, D observation, A kinds of action or its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from megatron_sppo.control.config import NetworkConfig
from megatron_sppo.control.tasks import Floats, Task

_LAYER = ("weight", "bias")
LOG_STD_RANGE = (-3.0, 0.5)
Sampler = Callable[[Floats, Floats], NDArray[Any]]  # (observations [B, D], noise [B, A]) -> actions


class MLP(nn.Module):
    """Tanh layers with orthogonal weights; the last layer's are small: a new policy is nearly uniform and a new V flat."""

    scale_D: Tensor

    def __init__(self, task: Task, hidden: Sequence[int], num_outputs: int) -> None:
        super().__init__()
        self.register_buffer("scale_D", torch.tensor(task.scale_D))
        inner = [_linear(*sizes, math.sqrt(2)) for sizes in pairwise((len(task.scale_D), *hidden))]
        self.layers = nn.ModuleList([*inner, _linear(hidden[-1], num_outputs, 0.01)])

    def forward(self, observations_ND: Tensor) -> Tensor:
        x = observations_ND / self.scale_D
        *inner, last = self.layers
        for layer in inner:
            x = layer(x).tanh()
        outputs: Tensor = last(x)
        return outputs

    def frozen(self) -> Callable[[Floats], Floats]:
        """The same function of arrays with the weights as they are now: a step of a few rows costs a third of torch's."""
        scale_D = self.scale_D.numpy()
        *inner, last = [tuple(layer.get_parameter(name).detach().numpy().T.copy() for name in _LAYER) for layer in self.layers]

        def outputs(observations_BD: Floats) -> Floats:
            x = observations_BD / scale_D
            for weight, bias in inner:
                x = np.tanh(x @ weight + bias)
            found: Floats = x @ last[0] + last[1]
            return found

        return outputs


def _linear(size_in: int, size_out: int, gain: float) -> nn.Linear:
    layer = nn.Linear(size_in, size_out)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class CategoricalPolicy(nn.Module):
    def __init__(self, task: Task, config: NetworkConfig) -> None:
        super().__init__()
        self.num_actions = task.actions.kinds
        self.body = MLP(task, config.hidden, task.actions.kinds)

    def noise(self, num_steps: int, num_rows: int, generator: torch.Generator) -> Floats:
        """[steps, B, A] Gumbel noise: logits plus it are largest at a sample."""
        uniform = torch.rand(num_steps, num_rows, self.num_actions, generator=generator)
        return (-(-uniform.clamp_min(1e-20).log()).log()).numpy()

    def sampler(self) -> Sampler:
        logits = self.body.frozen()
        return lambda observations_BD, noise_BA: (logits(observations_BD) + noise_BA).argmax(-1)

    def logprobs(self, observations_ND: Tensor, actions_N: Tensor) -> Tensor:
        logprobs_NA: Tensor = self.body(observations_ND).log_softmax(-1)
        return logprobs_NA.gather(1, actions_N[:, None]).squeeze(1)


class GaussianPolicy(nn.Module):
    """Actions in units of their bound, so that an environment clips what lies outside [-1, 1]; one deviation for all states."""

    def __init__(self, task: Task, config: NetworkConfig) -> None:
        super().__init__()
        self.body = MLP(task, config.hidden, task.actions.size)
        self.log_std_A = nn.Parameter(torch.full((task.actions.size,), config.initial_log_std))

    def noise(self, num_steps: int, num_rows: int, generator: torch.Generator) -> Floats:
        """[steps, B, A] of unit deviation."""
        return torch.randn(num_steps, num_rows, self.log_std_A.numel(), generator=generator).numpy()

    def sampler(self) -> Sampler:
        mean, std_A = self.body.frozen(), self._log_std().detach().exp().numpy()
        return lambda observations_BD, noise_BA: mean(observations_BD) + std_A * noise_BA

    def logprobs(self, observations_ND: Tensor, actions_NA: Tensor) -> Tensor:
        log_std_A = self._log_std()
        z_NA: Tensor = (actions_NA - self.body(observations_ND)) * (-log_std_A).exp()
        return -(z_NA.square() / 2 + log_std_A + math.log(2 * math.pi) / 2).sum(-1)

    def _log_std(self) -> Tensor:
        return self.log_std_A.clamp(*LOG_STD_RANGE)


Policy = CategoricalPolicy | GaussianPolicy


class Critic(nn.Module):
    """[N] V, or its logit."""

    def __init__(self, task: Task, config: NetworkConfig) -> None:
        super().__init__()
        self.body = MLP(task, config.hidden, 1)

    def forward(self, observations_ND: Tensor) -> Tensor:
        values_N1: Tensor = self.body(observations_ND)
        return values_N1.squeeze(-1)


def new_policy(task: Task, config: NetworkConfig, seed: int) -> Policy:
    """Its initial weights are a function of the seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CategoricalPolicy(task, config) if task.actions.kinds else GaussianPolicy(task, config)


def new_critic(task: Task, config: NetworkConfig, seed: int) -> Critic:
    """Likewise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Critic(task, config)
