"""What one rank sends and receives, round by round: the copies of a plan gathered into messages.

A copy whose destination is one stretch of memory is a message of its own if it is large; the others of a round and peer share
one message, end to end. Both ends derive the same messages in the same order from the same plan. Whether an end packs a message
through its arena, or sends and receives it where it lies, is that end's own affair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from megatron_sppo.reshard.boxes import Ints
from megatron_sppo.reshard.copies import Copies
from megatron_sppo.reshard.rounds import Rounds

LARGE = 1 << 16  # elements from which a copy into one stretch of memory is a message of its own


class Copy(NamedTuple):
    """One row of :class:`~megatron_sppo.reshard.copies.Copies`, as a rank at one of its ends needs it. Counts elements."""

    rows: int
    columns: int
    source_param: int
    source_offset: int
    source_stride: int
    target_param: int
    target_offset: int
    target_stride: int

    @property
    def size(self) -> int:
        return self.rows * self.columns

    @property
    def leaves_one_stretch(self) -> bool:
        """Whether the source is contiguous memory."""
        return self.rows == 1 or self.source_stride == self.columns

    @property
    def fills_one_stretch(self) -> bool:
        """Whether the destination is contiguous memory."""
        return self.rows == 1 or self.target_stride == self.columns

    def source_of(self, flat: Tensor) -> Tensor:
        """[rows, columns] of the source parameter's ``flat`` storage."""
        return _rectangle(flat, self.rows, self.columns, self.source_offset, self.source_stride)

    def target_of(self, flat: Tensor) -> Tensor:
        """[rows, columns] of the destination parameter's ``flat`` storage."""
        return _rectangle(flat, self.rows, self.columns, self.target_offset, self.target_stride)

    def packed_in(self, arena: Tensor, start: int) -> Tensor:
        """[rows, columns] end to end from element ``start`` of an arena."""
        return _rectangle(arena, self.rows, self.columns, start, self.columns)


def _rectangle(flat: Tensor, rows: int, columns: int, offset: int, stride: int) -> Tensor:
    return flat.as_strided((rows, columns), (stride, 1), flat.storage_offset() + offset)


def copy_table(copies: Copies) -> list[Copy]:
    columns = (getattr(copies, name).tolist() for name in Copy._fields)
    return [Copy(*row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Message:
    """Elements that go to or come from ``peer`` in one piece."""

    peer: int
    copies: tuple[Copy, ...]
    size: int
    start: int | None  # in the arena of its direction; None: sent from, or received into, the parameter itself


class Handover(NamedTuple):
    """A copy that its sender packs into a shared arena, where the receiver finds it."""

    sender: int
    start: int  # in the sender's slot
    copy: Copy


@dataclass(frozen=True)
class RankRound:
    sends: tuple[Message, ...]
    receives: tuple[Message, ...]
    puts: tuple[Handover, ...]
    takes: tuple[Handover, ...]


InPlace = Callable[[Copy], bool]  # whether this end can leave a copy that is a message of its own where it lies


def _messages(pairs: Sequence[tuple[int, Copy]], in_place: InPlace) -> tuple[Message, ...]:
    """Messages of one round and direction: peer by peer, copies that go alone, then the others together.

    Example: copies of 100 k, 5 and 7 elements with one peer make a message of 100 k and one of 12.
    """
    by_peer: dict[int, list[Copy]] = defaultdict(list)
    for peer, copy in pairs:
        by_peer[peer].append(copy)
    messages: list[Message] = []
    start = 0
    for peer, copies in sorted(by_peer.items()):
        alone = [(copy,) for copy in copies if copy.fills_one_stretch and copy.size >= LARGE]
        together = tuple(copy for copy in copies if not (copy.fills_one_stretch and copy.size >= LARGE))
        for group in (*alone, *([together] if together else [])):
            size, stays = sum(copy.size for copy in group), len(group) == 1 and in_place(group[0])
            messages.append(Message(peer, group, size, None if stays else start))
            start += 0 if stays else size
    return tuple(messages)


def rounds_of(rounds: Rounds, starts: Ints, rank: int, send_in_place: InPlace, receive_in_place: InPlace) -> list[RankRound]:
    """One rank's part of ``rounds``; copies whose ``starts`` [N] are not -1 are handed over in shared arenas."""
    copies = rounds.copies
    found: list[tuple[list[list[tuple[int, Copy]]], list[list[Handover]]]] = []
    for own_end, other_end in ((copies.source, copies.target), (copies.target, copies.source)):
        mine = (own_end == rank).nonzero()[0]
        columns = (rounds.round[mine], other_end[mine], copies.source[mine], starts[mine])
        sent: list[list[tuple[int, Copy]]] = [[] for _ in range(rounds.num_rounds)]
        shared: list[list[Handover]] = [[] for _ in range(rounds.num_rounds)]
        for *numbers, copy in zip(*(column.tolist() for column in columns), copy_table(copies.take(mine)), strict=True):
            number, peer, sender, start = numbers
            if start < 0:
                sent[number].append((peer, copy))
            else:
                shared[number].append(Handover(sender, start, copy))
        found.append((sent, shared))
    (sends, puts), (receives, takes) = found
    return [
        RankRound(_messages(out, send_in_place), _messages(into, receive_in_place), tuple(put), tuple(take))
        for out, into, put, take in zip(sends, receives, puts, takes, strict=True)
    ]


def arena_elements(messages: Sequence[Message]) -> int:
    """That one round needs in one direction."""
    return max((message.start + message.size for message in messages if message.start is not None), default=0)
