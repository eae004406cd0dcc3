"""What FP8 training asks of shapes, checked before anything is built.

A product of an FP8 layer is [tokens, in] x [in, out], and its gradients are products along each of the three. Every one of
the three has to be a multiple of what the recipe's kernels take; otherwise Transformer Engine refuses or, in some releases,
computes something else (TransformerEngine#2892). Tokens are ours to choose: a packed row is padded
(:mod:`megatron_sppo.models.packing`) so that each rank's part is such a multiple, and under sequence parallelism the 1/TP of it
that a rank quantises before it is gathered. The padding is a sequence of its own: attention, loss and metrics never see it.
What they share is a scale: the maximum of a tensor (or of a block) is taken over the padding's values too, a run of token 0 that
begins like any other sequence.

Widths are the model's, and :func:`check_fp8` says which one does not fit.
"""

from __future__ import annotations

from typing import Literal, Protocol

from megatron_sppo.config.schema import ModelConfig
from megatron_sppo.errors import require

# Of each dimension of a product. Per-tensor scales: what a tensor core takes at once; blockwise: the side of a block.
MULTIPLES = {"none": 1, "delayed": 16, "tensorwise": 16, "blockwise": 128}


class Widths(Protocol):
    """What ``config.json`` says about a model's matrices."""

    @property
    def num_layers(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def ffn_size(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...


def row_multiple(model: ModelConfig) -> int:
    """A rank's part of a packed row is a multiple of this many tokens."""
    return MULTIPLES[model.fp8.recipe] * (model.tp if model.sequence_parallel else 1)


def check_fp8(name: str, model: ModelConfig, device: Literal["cpu", "gpu"], shape: Widths | None) -> None:
    """UserError where the recipe does not run on this device, with these knobs or with this model; ``name`` is its section."""
    fp8 = model.fp8
    if fp8.recipe == "none":
        _check_parameters(name, model)
        return
    in_bf16 = {"bf16_first_layers": fp8.bf16_first_layers, "bf16_last_layers": fp8.bf16_last_layers}
    chosen = next((f"{name}.fp8.{end}={count}" for end, count in in_bf16.items() if count), "")
    key = f"{name}.fp8.recipe={fp8.recipe}"
    require(device == "gpu", f"{key} needs a GPU with FP8 tensor cores: set {name}.fp8.recipe=none")
    require(model.dtype != "fp32", f"{key} computes the rest in bf16: set {name}.dtype=bf16, or {name}.fp8.recipe=none")
    require(
        fp8.recipe != "delayed" or not chosen,
        f"{chosen} does not go with {key}, whose history covers all layers: set {name}.fp8.recipe=tensorwise",
    )
    _check_parameters(name, model)
    if shape is not None:
        of_stage = shape.num_layers // model.pp  # Megatron takes them from the first and from the last pipeline stage alone
        for end, count in in_bf16.items():
            fix = f"set it to {of_stage} or less"
            require(count <= of_stage, f"{name}.fp8.{end}={count} exceeds the {of_stage} layers of a pipeline stage: {fix}")
        _check_widths(name, model, shape)


def _check_parameters(name: str, model: ModelConfig) -> None:
    if not model.fp8.parameters:
        return
    key = f"{name}.fp8.parameters=true"
    require(
        model.fp8.recipe != "none",
        f"{key} goes with FP8 products alone: set {name}.fp8.recipe=tensorwise, or {name}.fp8.parameters=false",
    )
    require(
        model.fp8.recipe != "delayed",
        f"{key} needs scales from the start, and {name}.fp8.recipe=delayed has seen no weight when it is to cast them: "
        f"set {name}.fp8.recipe=tensorwise",
    )
    require(
        model.optimizer.distributed,
        f"{key} is cast from shards of the fp32 weights: set {name}.optimizer.distributed=true, or {name}.fp8.parameters=false",
    )


def check_fp8_pair(actor: ModelConfig, critic: ModelConfig) -> None:
    """UserError where both models have delayed scales and share them over other ranks: ranks would wait for each other forever.

    Transformer Engine updates the scales of all models of a process whenever one has made a pass, and replicas of one model make
    as many passes as their sequences fill.
    """
    both = actor.fp8.recipe == critic.fp8.recipe == "delayed"
    require(
        not both or (actor.tp, actor.cp) == (critic.tp, critic.cp),
        f"critic.fp8.recipe=delayed beside actor.fp8.recipe=delayed needs one layout, but critic.tp={critic.tp} and "
        f"critic.cp={critic.cp} are not actor.tp={actor.tp} and actor.cp={actor.cp}: set critic.fp8.recipe=tensorwise",
    )


def _check_widths(name: str, model: ModelConfig, shape: Widths) -> None:
    unit, tp = MULTIPLES[model.fp8.recipe], model.tp
    heads_of_rank = shape.num_heads // tp + 2 * max(shape.num_kv_heads // tp, 1)
    widths = {
        "hidden size": shape.hidden_size,
        "attention width of a rank": shape.num_heads // tp * shape.head_dim,
        "query, key and value width of a rank": heads_of_rank * shape.head_dim,
        "feed-forward width of a rank": shape.ffn_size // tp,
    }
    for what, width in widths.items():
        tensorwise = width % MULTIPLES["tensorwise"] == 0
        fix = f"set {name}.fp8.recipe={'tensorwise' if tensorwise else 'none'}" + (f" or lower {name}.tp" if tp > 1 else "")
        require(
            width % unit == 0,
            f"{name}.fp8.recipe={model.fp8.recipe} multiplies in units of {unit}, and the {name}'s {what} at {name}.tp={tp} "
            f"is {width}: {fix}",
        )
