"""Arenas in memory that the ranks of one machine share: what one packs, another unpacks, and no socket carries it.

A byte through a socket of the same machine is copied twice by the kernel, on both ends' cores. Here the sender copies its
rectangles into its arena and the receiver copies them out of it.

Each rank owns an arena of two slots. Round by round it fills one and tells its partners by a token; a partner's token means
that its own slot is filled, and that it has read all of the round before, so that the other slot may be overwritten. Slots
alternate over pushes too, for the same reason.

A token is a byte through a Unix socket, which ends when a partner dies: over gloo, whose thread has to wake up at both ends, it
takes ten times as long. The memory has no name in the file system: it is handed over through the same sockets.
"""

from __future__ import annotations

import mmap
import os
import secrets
import socket
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.reshard.boxes import Ints
from megatron_sppo.reshard.rounds import Rounds

_TIMEOUT = 1800.0  # seconds to wait for a partner


def shared_starts(rounds: Rounds, nodes: Sequence[int]) -> Ints:
    """[N] where each copy begins in its sender's slot of the round; -1 where its ends are on different ``nodes``."""
    copies, node = rounds.copies, np.asarray(nodes)
    is_near = node[copies.source] == node[copies.target]
    slot = rounds.round * len(node) + copies.source
    sequence = np.argsort(slot, kind="stable")
    size = np.where(is_near, copies.size, 0)[sequence]
    begin = np.cumsum(size) - size
    begin -= begin[np.searchsorted(slot[sequence], slot[sequence])]
    starts = np.empty_like(begin)
    starts[sequence] = begin
    return np.where(is_near, starts, -1)


class SharedArenas:
    """Of this rank and of those that it exchanges something with on its machine."""

    def __init__(self, starts: Ints, rank: int, slots: dict[int, Tensor], partners: dict[int, socket.socket]) -> None:
        """``starts`` as of :func:`shared_starts`; ``slots``: [2, elements] of ``rank`` and its partners, where not empty."""
        self.starts = starts
        self._rank, self._slots, self._partners, self._turn = rank, slots, partners, 0

    @classmethod
    def open(
        cls, rounds: Rounds, nodes: Sequence[int], wire: torch.dtype, rank: int, group: dist.ProcessGroup | None
    ) -> SharedArenas | None:
        """None on all ranks where one of them cannot share (no room, or ranks of one host name in containers that do not reach
        each other), and where there is nothing to share. Collective over ``group``, which works on host memory.
        """
        starts = shared_starts(rounds, nodes)
        is_shared = starts >= 0
        if not is_shared.any():
            return None
        shared = rounds.copies.take(is_shared)
        elements = np.zeros(len(nodes), dtype=np.int64)  # that a slot of each rank needs
        np.maximum.at(elements, shared.source, starts[is_shared] + shared.size)
        near = np.unique(np.concatenate([shared.target[shared.source == rank], shared.source[shared.target == rank]])).tolist()
        memory = _allocate(2 * int(elements[rank]) * wire.itemsize)
        partners = _meet(near if memory is not None else None, rank, group)
        if memory is None or partners is None:
            return None
        files = {rank: memory, **_swap(memory, partners)}
        slots = {other: _map(file, 2 * int(elements[other]), wire) for other, file in files.items() if elements[other]}
        for file in files.values():
            os.close(file)
        return cls(starts, rank, slots, partners)

    @property
    def nbytes(self) -> int:
        """Of this rank's own slots."""
        return self._slots[self._rank].nbytes if self._rank in self._slots else 0

    def begin_round(self) -> None:
        """Turn to the other slot."""
        self._turn ^= 1

    def slot(self, rank: int) -> Tensor:
        """[elements] of this round's slot of this rank or a partner."""
        return self._slots[rank][self._turn]

    def signal(self) -> None:
        """Tell the partners that this rank's slot is filled."""
        for partner in self._partners.values():
            partner.sendall(b"f")

    def wait(self) -> None:
        """Until the partners' slots are filled. ConnectionError where one of them has died."""
        for rank, partner in self._partners.items():
            if not partner.recv(1):
                raise ConnectionError(f"rank {rank} ended in the middle of a push of weights")


def _allocate(num_bytes: int) -> int | None:
    """File without a name, its memory allocated: without room, writing to it later would kill the process."""
    file = os.memfd_create("sppo-reshard")
    try:
        os.posix_fallocate(file, 0, max(1, num_bytes))
    except OSError:
        os.close(file)
        return None
    return file


def _map(file: int, elements: int, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(mmap.mmap(file, elements * dtype.itemsize), dtype=dtype).view(2, -1)


def _meet(near: list[int] | None, rank: int, group: dist.ProcessGroup | None) -> dict[int, socket.socket] | None:
    """A connection with each rank in ``near``; None on all ranks where one cannot have them or gave None. Collective."""
    name = f"\0sppo-reshard-{secrets.token_hex(8)}"  # in no folder
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(_TIMEOUT)
        server.bind(name)
        server.listen(dist.get_world_size(group))
        names: list[str | None] = [None] * dist.get_world_size(group)
        dist.all_gather_object(names, name if near is not None else None, group=group)
        partners = _call({other: names[other] for other in near or () if other > rank}, rank) if all(names) else None
        able = [False] * len(names)
        dist.all_gather_object(able, partners is not None, group=group)
        if near is None or partners is None or not all(able):
            return None
        for _ in range(sum(other < rank for other in near)):
            caller, _address = server.accept()
            caller.settimeout(_TIMEOUT)
            partners[int.from_bytes(caller.recv(8), "big")] = caller
    return dict(sorted(partners.items()))


def _call(names: dict[int, str | None], rank: int) -> dict[int, socket.socket] | None:
    """Connections to other ranks, each told who calls; None where one is not to be reached."""
    called = {}
    for other, name in names.items():
        called[other] = socket.socket(socket.AF_UNIX)
        called[other].settimeout(_TIMEOUT)
        try:
            called[other].connect(name or "")
        except OSError:
            return None
        called[other].sendall(rank.to_bytes(8, "big"))
    return called


def _swap(file: int, partners: dict[int, socket.socket]) -> dict[int, int]:
    """The partners' files for this rank's."""
    for partner in partners.values():
        socket.send_fds(partner, [b"m"], [file])
    return {rank: socket.recv_fds(partner, 1, 1)[1][0] for rank, partner in partners.items()}
