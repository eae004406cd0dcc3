"""A loader that does more than copy slices is refused with the parameter's name: nothing may be planned from a guess."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megatron_sppo.rollout.vllm_options import configure_environment

configure_environment()
from megatron_sppo.rollout.vllm_trace import UntraceableLoader, _Recorder  # noqa: E402 - vLLM reads the environment first

Load = Callable[[Tensor, Tensor], object]


def record(load: Load) -> _Recorder:
    tensor, param = torch.empty(4, 8, device="meta"), torch.empty(4, 8, device="meta")
    with _Recorder({"hf": tensor}, {"weight": param}) as recorder:
        load(param, tensor)
    return recorder


def test_slices_views_and_contiguous_clones_are_followed() -> None:
    (region,) = record(lambda param, tensor: param[2:].copy_(tensor.narrow(0, 1, 2).contiguous().clone())).regions
    assert (region.tensor, region.tensor_offset, region.shape, region.param_offset) == ("hf", 8, (2, 8), 16)


COMPUTED: dict[str, Load] = {
    "scaled": lambda param, tensor: param.copy_(tensor * 2),
    "a transposed copy": lambda param, tensor: param.copy_(tensor.t().contiguous().view(4, 8)),
    "another dtype": lambda param, tensor: param.copy_(tensor.bfloat16()),
    "concatenated": lambda param, tensor: param.copy_(torch.cat([tensor[2:], tensor[:2]])),
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_a_computed_tensor_is_refused(kind: str) -> None:
    with pytest.raises(UntraceableLoader, match="vLLM loads weight from a computed tensor"):
        record(COMPUTED[kind])


def test_a_broadcast_is_refused() -> None:
    with pytest.raises(UntraceableLoader, match="by broadcasting"):
        record(lambda param, tensor: param.copy_(tensor[0]))
