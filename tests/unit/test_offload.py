from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from megatron_sppo.config.offload import COPIED, LEAVING, LEVELS, PARTS, Part
from megatron_sppo.models.offload import Mirror, Residency, storages_of
from megatron_sppo.parallel.host_memory import host_bytes


class Host:
    """An allocator that counts the requests ever made."""

    def __init__(self) -> None:
        self.requests: list[int] = []

    def __call__(self, count: int) -> Tensor:
        self.requests.append(count)
        return host_bytes(count)


class Model:
    """Tensors as Megatron has them: weights and gradients on flat buffers that parameters are views of, an optimizer's own."""

    def __init__(self) -> None:
        self.flat, self.grads = torch.arange(96.0), torch.arange(96.0)
        self.weights = [self.flat[:32].view(4, 8), self.flat[32:].view(8, 8)]
        self.main_grads = [self.grads[:32].view(4, 8), self.grads[32:].view(8, 8)]
        self.main, self.moments = torch.arange(48.0) + 0.5, list[Tensor]()

    def step(self) -> None:
        """Adam's moments appear at the first."""
        self.moments = self.moments or [torch.zeros(48), torch.zeros(48)]
        for moment in self.moments:
            moment.add_(1)
        self.main += 1

    def optimizer(self) -> Iterator[Tensor]:
        yield from (self.main, self.flat, *self.moments)  # an fp32 weight is its own main parameter


def nbytes(*tensors: Tensor) -> int:
    return sum(storage.nbytes() for storage in storages_of(tensors).values())


def residency(model: Model, host: Host) -> Residency:
    weights = lambda: storages_of(model.weights)  # noqa: E731
    optimizer = lambda: {k: s for k, s in storages_of(model.optimizer()).items() if k not in weights()}  # noqa: E731
    return Residency(
        {
            "weights": Mirror(weights, copies=True, allocate=host),
            "gradients": Mirror(lambda: storages_of(model.main_grads), copies=False, allocate=host),
            "optimizer": Mirror(optimizer, copies=True, allocate=host),
        }
    )


def test_storages_are_counted_once() -> None:
    model = Model()
    assert nbytes(*model.weights, *model.weights) == 96 * 4


def test_what_leaves_is_back_bit_for_bit_where_views_look_for_it() -> None:
    model, host = Model(), Host()
    parts = residency(model, host)
    before = [weight.clone() for weight in model.weights]
    parts.begin(("weights", "optimizer"))
    assert nbytes(*model.weights) == 0 and nbytes(model.main) == 0
    assert nbytes(*model.main_grads) == 96 * 4, "gradients were not asked to leave"
    with parts.using("weights"):
        assert all(map(torch.equal, model.weights, before))
        assert nbytes(model.main) == 0
        model.weights[0][0, 0] = 99.0
    assert nbytes(model.flat) == 0
    with parts.using("weights", "optimizer"):
        assert model.flat[0] == 99.0 and torch.equal(model.flat[1:], torch.arange(1.0, 96.0))
        assert torch.equal(model.main, torch.arange(48.0) + 0.5)


def test_gradients_take_no_host_memory() -> None:
    model, host = Model(), Host()
    parts = residency(model, host)
    parts.begin(("gradients",))
    assert nbytes(model.grads) == 0 and host.requests == []
    with parts.using("gradients"):
        model.grads.zero_()
        model.main_grads[1][0, 0] = 1.0
        assert model.grads[32] == 1.0, "parameters' gradients are views of the buffer still"


def test_host_memory_is_taken_once() -> None:
    """The fp32 weights at first, the moments when they appear, and nothing in fifty steps after."""
    model, host = Model(), Host()
    parts = residency(model, host)
    parts.begin(PARTS)
    present = []
    for _ in range(50):
        with parts.using(*PARTS):
            present.append(nbytes(*model.weights, *model.main_grads, model.main, *model.moments))
            model.step()
        assert nbytes(*model.weights, *model.main_grads, model.main, *model.moments) == 0
    assert host.requests == [96 * 4, 48 * 4, 2 * 48 * 4]
    assert present == [(96 + 96 + 48) * 4] + [(96 + 96 + 3 * 48) * 4] * 49
    with parts.using("optimizer"):
        assert [float(moment[0]) for moment in model.moments] == [50.0, 50.0] and float(model.main[0]) == 50.5


def test_states_that_a_checkpoint_replaced_are_mirrored_anew() -> None:
    model, host = Model(), Host()
    parts = residency(model, host)
    parts.begin(("optimizer",))
    with parts.using("optimizer"):
        model.step()
    with parts.using("optimizer"):
        model.moments = [torch.full((48,), 7.0), torch.full((48,), 8.0)]
    with parts.using("optimizer"):
        assert [float(moment.mean()) for moment in model.moments] == [7.0, 8.0]


def test_nested_uses_move_nothing() -> None:
    model, host = Model(), Host()
    parts = residency(model, host)
    parts.begin(("weights",))
    with parts.using("weights"):
        address = model.flat.data_ptr()
        with parts.using("weights", "gradients"):
            assert model.flat.data_ptr() == address
        assert model.flat.data_ptr() == address and nbytes(model.flat)
    assert nbytes(model.flat) == 0


def test_an_error_leaves_everything_where_it_is() -> None:
    model = Model()
    parts = residency(model, Host())
    parts.begin(("weights",))
    with pytest.raises(ArithmeticError), parts.using("weights"):
        raise ArithmeticError
    assert nbytes(model.flat)


def test_without_a_level_nothing_moves() -> None:
    model, host = Model(), Host()
    parts = residency(model, host)
    address = model.flat.data_ptr()
    with parts.using(*PARTS):
        pass
    assert model.flat.data_ptr() == address and host.requests == []


def test_levels_grow_and_the_actors_weights_stay() -> None:
    for name in ("actor", "critic"):
        kept: frozenset[Part] = frozenset()
        for level in LEVELS:
            assert kept <= LEAVING[level][name]
            kept = LEAVING[level][name]
    assert all("weights" not in LEAVING[level]["actor"] for level in LEVELS)
    assert {"gradients"} == set(PARTS) - COPIED
