"""The critic's head: one logit per token, read by SPPO at the last prompt token (eq. 1: V = sigmoid(logit))."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.distributed import ProcessGroup


class ValueHead(nn.Linear):
    """hidden [T, 1, h] -> logits [T, 1, 1] fp32, replicated over TP.

    The weight starts at zero and the bias at ``initial_logit``: V is the same everywhere until the first update. Under sequence
    parallelism the input is gathered first and every TP rank computes the same gradient of the head from the whole sequence, so
    head weight and bias stay equal without a reduction (they must not be marked ``sequence_parallel``).
    """

    def __init__(self, config: TransformerConfig, tp_group: ProcessGroup, initial_logit: float) -> None:
        device = torch.device("cpu") if config.use_cpu_initialization else torch.device("cuda", torch.cuda.current_device())
        super().__init__(config.hidden_size, 1, bias=True, dtype=config.params_dtype, device=device)
        self.sequence_parallel = config.sequence_parallel
        self.tp_group = tp_group
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, initial_logit)

    def forward(self, input_: Tensor, weight: None = None, runtime_gather_output: None = None) -> tuple[Tensor, None]:  # type: ignore[override]
        if self.sequence_parallel:
            input_ = gather_from_sequence_parallel_region(input_, tensor_parallel_output_grad=False, group=self.tp_group)
        return F.linear(input_.float(), self.weight.float(), self.bias.float()), None
