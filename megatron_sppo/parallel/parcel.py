"""A line of JSON and host tensors from one rank to all others of a group: nothing is pickled, every bit arrives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.ragged import Ragged


@dataclass(frozen=True)
class Parcel:
    note: dict[str, Any]  # what it is, and plain numbers: must survive JSON
    tensors: tuple[Tensor, ...] = ()  # on the host


def send_parcel(parcel: Parcel, rank: int, group: dist.ProcessGroup | None) -> None:
    """To all ranks of ``group`` (host memory); ``rank`` is this rank's there. Each other one calls :func:`receive_parcel`."""
    kinds = [(str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for tensor in parcel.tensors]
    letter = torch.frombuffer(bytearray(json.dumps([parcel.note, kinds]).encode()), dtype=torch.uint8)
    _broadcast(torch.tensor([letter.numel()]), rank, group)
    _broadcast(letter, rank, group)
    for tensor in parcel.tensors:
        _broadcast(_as_bytes(tensor.contiguous()), rank, group)


def receive_parcel(source: int, group: dist.ProcessGroup | None) -> Parcel:
    """What rank ``source`` of ``group`` sends; waits for it as long as the group's timeout."""
    size = torch.empty(1, dtype=torch.int64)
    _broadcast(size, source, group)
    letter = torch.empty(int(size), dtype=torch.uint8)
    _broadcast(letter, source, group)
    note, kinds = json.loads(bytes(letter.tolist()))
    tensors = tuple(torch.empty(shape, dtype=getattr(torch, dtype)) for dtype, shape in kinds)
    for tensor in tensors:
        _broadcast(_as_bytes(tensor), source, group)
    return Parcel(note, tensors)


def _as_bytes(tensor: Tensor) -> Tensor:
    """A view: gloo knows few dtypes, and bytes are what must arrive."""
    return tensor.view(-1).view(torch.uint8)


def _broadcast(tensor: Tensor, source: int, group: dist.ProcessGroup | None) -> None:
    if tensor.numel():
        dist.broadcast(tensor, group_src=source, group=group)


def ragged_of_texts(texts: Sequence[str]) -> Ragged:
    """UTF-8 bytes of each text."""
    return Ragged.from_rows([torch.tensor(list(text.encode()), dtype=torch.uint8) for text in texts], torch.uint8)


def texts_of_ragged(ragged: Ragged) -> tuple[str, ...]:
    return tuple(row.numpy().tobytes().decode() for row in ragged.rows())
