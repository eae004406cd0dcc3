"""PyTorch's AdamW with Transformer Engine FusedAdam's constructor and state layout, where neither TE nor apex is installed.

Megatron's optimizers and their checkpoints expect ``step`` in the parameter group and ``exp_avg``/``exp_avg_sq`` per
parameter, as TE and apex keep them; PyTorch's own AdamW keeps ``step`` per parameter and takes another branch of the
distributed optimizer, which cannot load a checkpoint. The arithmetic is PyTorch's fused kernel.
"""

from __future__ import annotations

from typing import Any

import torch


class TorchFusedAdam(torch.optim.Optimizer):
    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        adam_w_mode: bool = True,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        capturable: bool = False,
    ) -> None:
        assert bias_correction and not amsgrad and not capturable
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.adam_w_mode = adam_w_mode

    def initialize_state(self, param: torch.Tensor) -> None:
        """Called by the distributed optimizer when it prepares to load a checkpoint."""
        self.state[param].update(exp_avg=torch.zeros_like(param.data), exp_avg_sq=torch.zeros_like(param.data))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        kernel = torch._fused_adamw_ if self.adam_w_mode else torch._fused_adam_
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:  # as TE does: an empty group does not advance
                continue
            group["step"] = int(group.get("step", 0)) + 1
            for param in params:
                if not self.state[param]:
                    self.initialize_state(param)
            states = [self.state[p] for p in params]
            kernel(
                params,
                [p.grad for p in params],
                [s["exp_avg"] for s in states],
                [s["exp_avg_sq"] for s in states],
                [],
                [torch.tensor(float(group["step"]), device=params[0].device)] * len(params),
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=None,
                found_inf=None,
            )


def install() -> None:
    """Make Megatron's optimizer factory use :class:`TorchFusedAdam` where neither TE nor apex exists."""
    import megatron.core.optimizer.distrib_optimizer as distributed
    from megatron.core import optimizer

    if not optimizer.USING_PYTORCH_OPTIMIZER:
        return
    optimizer.Adam, optimizer.USING_PYTORCH_OPTIMIZER = TorchFusedAdam, False
    distributed.Adam, distributed.HAVE_APEX_OR_TE, distributed.USING_TE_OPTIMIZER = TorchFusedAdam, True, True
