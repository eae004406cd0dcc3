"""What of a model is on its device, and when: a part comes when it is used and leaves when nothing uses it any more.

    part        used by                                      offload=optimizer    offload=all
    weights     every forward and backward pass              stay                 leave (critic)
    gradients   an update                                    stay                 leave
    optimizer   an update: fp32 weights and Adam's moments   leave                leave

A part is a set of storages. One leaves by being copied to host memory and resized to nothing, and comes back by being resized and
filled: the tensors on it (parameters in Megatron's flat buffers, ``main_grad``) stay what they are and are usable again. Host
memory is taken once for each storage and kept. On a CPU, where the device is the host, the same is done and gains nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, UntypedStorage

from megatron_sppo.config.offload import Part
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.device_memory import give_back_cached
from megatron_sppo.parallel.host_memory import host_bytes

Storages = dict[int, UntypedStorage]  # by identity


def storages_of(tensors: Iterable[Tensor]) -> Storages:
    """On this rank's device; those that are away too. Several tensors may share one."""
    kind = platform.device().type
    found = (tensor.untyped_storage() for tensor in tensors if tensor.device.type == kind)
    return {_identity(storage): storage for storage in found}


def _identity(storage: UntypedStorage) -> int:
    """Of the memory: each call of ``untyped_storage()`` makes a new Python object, and ``data_ptr()`` is 0 while it is away."""
    identity: int = storage._cdata  # noqa: SLF001
    return identity


class Mirror:
    """One part of a model: on the device, or away. Not collective."""

    def __init__(self, storages: Callable[[], Storages], *, copies: bool, allocate: Callable[[int], Tensor] = host_bytes) -> None:
        """``storages`` is asked at each :meth:`leave`: an optimizer's appear at its first step, a loaded one has others.

        ``copies=False``: the content is lost, and is arbitrary after :meth:`come`.
        """
        self._find, self._copies, self._allocate = storages, copies, allocate
        self._away: list[tuple[UntypedStorage, int]] = []
        self._host: dict[int, Tensor] = {}

    def leave(self) -> int:
        """Give the device memory back; returns how many bytes."""
        assert not self._away, "it has left already"
        present = {key: storage for key, storage in self._find().items() if storage.nbytes()}
        if self._copies:
            self._make_room(present)
            for key, storage in present.items():
                self._host[key].copy_(_bytes(storage), non_blocking=True)
            platform.synchronize()
        self._away = [(storage, storage.nbytes()) for storage in present.values()]
        for storage, _ in self._away:
            storage.resize_(0)
        return sum(size for _, size in self._away)

    def come(self) -> None:
        """Take device memory again, with the content that left."""
        for storage, size in self._away:
            storage.resize_(size)
            if self._copies:
                _bytes(storage).copy_(self._host[_identity(storage)], non_blocking=True)
        if self._copies:
            platform.synchronize()
        self._away = []

    def _make_room(self, present: Mapping[int, UntypedStorage]) -> None:
        """Host memory for what has none yet, in one piece; that of storages which are no more is given back first."""
        self._host = {key: held for key, held in self._host.items() if key in present and held.numel() == present[key].nbytes()}
        sizes = {key: storage.nbytes() for key, storage in present.items() if key not in self._host}
        if sizes:
            self._host |= dict(zip(sizes, self._allocate(sum(sizes.values())).split(list(sizes.values())), strict=True))


def _bytes(storage: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


class Residency:
    """Which parts of one model are used now; those that leave are on the device just then."""

    def __init__(self, mirrors: Mapping[Part, Mirror]) -> None:
        self._mirrors, self._leaving = mirrors, tuple[Part, ...]()
        self._uses: Counter[Part] = Counter()

    def begin(self, leaving: Collection[Part]) -> None:
        """From here on ``leaving`` are away while unused."""
        assert not self._leaving and not self._uses.total(), "begin once, while nothing is used"
        self._leaving = tuple(part for part in self._mirrors if part in leaving)  # in one order on every rank
        self._leave(self._leaving)

    @contextmanager
    def using(self, *parts: Part) -> Iterator[None]:
        """``parts`` are on the device while inside. Nested uses cost nothing."""
        coming = [part for part in parts if part in self._leaving and not self._uses[part]]
        self._uses.update(parts)
        for part in coming:
            self._mirrors[part].come()
        try:
            yield
        finally:
            self._uses.subtract(parts)
        self._leave(coming)  # not after an error, which ends the run: it may have left nothing to copy with

    def _leave(self, parts: Collection[Part]) -> None:
        freed = sum(self._mirrors[part].leave() for part in parts)
        if freed:
            give_back_cached()
