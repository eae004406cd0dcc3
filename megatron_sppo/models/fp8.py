"""What Transformer Engine keeps beside an FP8 model's weights. It is imported where FP8 is in use alone."""

from __future__ import annotations

from torch import nn


def update_scales() -> None:
    """Delayed scales follow the maxima seen so far. TE does so at the end of passes with gradients alone, so that the first
    log-probs of a run would be computed with scales of one, which clip.
    """
    from transformer_engine.pytorch.quantization import FP8GlobalStateManager

    FP8GlobalStateManager.reduce_and_update_fp8_tensors(forward=True)


def drop_copies(model: nn.Module) -> None:
    """Let go of the weights' FP8 copies, two bytes a parameter, which would stay while vLLM samples.

    The next pass makes them anew, as after each optimizer step: for a 7B model about 10 ms of memory traffic.
    """
    for module in model.modules():
        copies = getattr(module, "_fp8_workspaces", None)
        if copies:
            copies.clear()
