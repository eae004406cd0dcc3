"""Megatron's side of a reshard: boxes from the same rules that load and export HF folders (:mod:`megatron_sppo.weights`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_sppo.models import fp8
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.reshard.boxes import Boxes, RankLayout, Shapes, matrix_shape
from megatron_sppo.weights.mapping import rule_for
from megatron_sppo.weights.rules import Rule


@dataclass(frozen=True)
class ShardedParameter:
    """One parameter of one rank: its rule, and which of how many parts it is. Experts are cut by their own TP size."""

    name: str
    rule: Rule
    tp_rank: int
    tp: int

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """That the rule gives it, padding included."""
        held = sum(piece.length for piece in self.rule.pieces(self.tp_rank, self.tp))
        length = held + self.rule.padding(self.tp_rank, self.tp)
        full = shapes[next(iter(self.rule.sizes))]
        return tuple(length if dim == self.rule.dim else size for dim, size in enumerate(full))


def source_layout(parameters: Iterable[ShardedParameter], shapes: Shapes) -> RankLayout:
    """The boxes of a rank that holds ``parameters``, in their order; rows of padding are in none."""
    numbers = {name: number for number, name in enumerate(shapes)}
    names: list[str] = []
    found: list[tuple[int, ...]] = []
    for parameter in parameters:
        rule = parameter.rule
        along_rows = rule.dim == 0 and len(shapes[next(iter(rule.sizes))]) == 2
        width = matrix_shape(parameter.shape(shapes))[1]
        at = 0
        for piece in rule.pieces(parameter.tp_rank, parameter.tp):
            rows, columns = matrix_shape(shapes[piece.hf])
            cut = (piece.start, 0, piece.length, columns) if along_rows else (0, piece.start, rows, piece.length)
            if piece.length:
                found.append((numbers[piece.hf], *cut, len(names), at * width if along_rows else at, width))
            at += piece.length
        names.append(parameter.name)
    return RankLayout(tuple(names), Boxes.of(found))


class FlatParameters:
    """A rank's parameters by their number, each as [elements]: its own memory, or new memory for one in FP8.

    Of the latter one at a time exists: the last that was asked for, until :meth:`release`.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._made: tuple[int, Tensor] | None = None

    def __getitem__(self, number: int) -> Tensor:
        parameter = self._parameters[number]
        if not fp8.is_fp8(parameter):
            return parameter.detach().view(-1)
        if self._made is None or self._made[0] != number:
            self._made = None  # its memory goes first
            self._made = (number, fp8.plain(parameter).view(-1))
        return self._made[1]

    def lies_there_as(self, number: int, dtype: torch.dtype) -> bool:
        """Whether a parameter's own memory holds elements of ``dtype``."""
        parameter = self._parameters[number]
        return parameter.dtype == dtype and not fp8.is_fp8(parameter)

    def release(self) -> None:
        """The parameters may change from here on: forget what was made of them."""
        self._made = None


def live_source(
    parameters: Mapping[str, Tensor], hf: HFModelConfig, shapes: Shapes, tp_rank: int, tp: int
) -> tuple[RankLayout, FlatParameters]:
    """Layout and elements of a live model's parameters, by global name (of all virtual pipeline chunks, where there are any).

    RuntimeError where a parameter is not what its rule says: its bytes would go to the wrong place.
    """
    sharded = [ShardedParameter(name, rule_for(name, hf), tp_rank, tp) for name in parameters]
    for parameter in sharded:
        tensor, expected = parameters[parameter.name].detach(), parameter.shape(shapes)
        if tuple(tensor.shape) != expected or not tensor.is_contiguous():
            raise RuntimeError(
                f"Megatron's {parameter.name} is {tuple(tensor.shape)} with strides {tensor.stride()}; a contiguous {expected} "
                "was expected."
            )
    return source_layout(sharded, shapes), FlatParameters(list(parameters.values()))
