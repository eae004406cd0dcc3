"""What travels, dealt into lock-step rounds: in none of them does any rank send or receive more than a cap.

Every pair of ranks that exchange something is a channel, and all channels advance at the same relative speed: of R rounds, each
takes a share of 1/R of every channel. R is set by the busiest rank, and parameters complete in nearly the order in which the
destination has them. Copies are cut where a round ends and nowhere else, between two rows: a channel exceeds its share of a round
by less than one row. That much of the cap is set aside for each channel of the rank with most channels; rows are cut where this
would take more than a quarter of the cap.

Example: a cap of 32, one rank that receives 30 in rows of 2 from each of two others: 2 x 2 are set aside,
R = ceil(60 / (32 - 4)) = 3, and each sends 5 rows = 10 per round.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from megatron_sppo.reshard.boxes import Ints
from megatron_sppo.reshard.copies import Copies, chop


@dataclass(frozen=True)
class Rounds:
    """The copies that travel, sorted by round, then target, then source, then the target's order."""

    copies: Copies
    round: Ints  # [N] of each copy
    num_rounds: int


def _channels(copies: Copies, world_size: int) -> tuple[NDArray[np.int64], Ints]:
    """The channels in use as source * world + target, and each copy's."""
    channels, channel = np.unique(copies.source * world_size + copies.target, return_inverse=True)
    return channels, channel.reshape(-1)


def _busiest(channels: Ints, weight: Ints, world_size: int) -> int:
    """Largest sum of ``weight`` over the channels of one rank in one direction."""
    source, target = np.divmod(channels, world_size)
    return int(max(np.bincount(side, weights=weight, minlength=world_size).max() for side in (source, target)))


def _narrow(copies: Copies, columns: int) -> Copies:
    """The same copies, those with wider rows in pieces of one row and at most ``columns`` columns."""
    return chop(copies, np.where(copies.columns > columns, columns, copies.size))


def _cut(copies: Copies, begin: Ints, total: Ints, num_rounds: int) -> tuple[Copies, Ints]:
    """The copies cut between rows where a round ends, and each piece's round: that in which its first row begins.

    ``begin`` [N] is each copy's position in its channel, ``total`` [N] the size of that channel, both in elements.
    """
    last_row = begin + (copies.rows - 1) * copies.columns
    first = begin * num_rounds // total
    num_pieces = last_row * num_rounds // total - first + 1
    parent = np.repeat(np.arange(len(copies)), num_pieces)
    in_round = np.arange(len(parent)) - np.repeat(np.cumsum(num_pieces) - num_pieces - first, num_pieces)
    whole = copies.take(parent)

    def first_row(of_round: Ints) -> Ints:
        """The copy's first row that begins in the round or later."""
        start = -(-of_round * total[parent] // num_rounds)
        return np.clip(-(-(start - begin[parent]) // whole.columns), 0, whole.rows)

    row, end = first_row(in_round), first_row(in_round + 1)
    pieces = replace(
        whole,
        row=whole.row + row,
        rows=end - row,
        source_offset=whole.source_offset + row * whole.source_stride,
        target_offset=whole.target_offset + row * whole.target_stride,
    )
    real = end > row  # a row longer than a round's share leaves rounds without a piece
    return pieces.take(real), in_round[real]


def make_rounds(copies: Copies, world_size: int, cap: int) -> Rounds:
    """``copies`` between different ranks, in rounds of at most ``cap`` elements sent and received per rank."""
    if not len(copies):
        return Rounds(copies, np.empty(0, dtype=np.int64), 0)
    channels, _ = _channels(copies, world_size)
    most_channels = _busiest(channels, np.ones_like(channels), world_size)
    widest = cap // (4 * most_channels)
    assert widest >= 1, f"a cap of {cap} elements is too small for {world_size} ranks"
    copies = _narrow(copies, widest)
    channels, channel = _channels(copies, world_size)
    sequence = np.lexsort((copies.order, channel))
    copies, channel = copies.take(sequence), channel[sequence]
    total = np.bincount(channel, weights=copies.size).astype(np.int64)
    set_aside = most_channels * int(copies.columns.max())
    num_rounds = -(-_busiest(channels, total, world_size) // (cap - set_aside))
    begin = np.cumsum(copies.size) - copies.size
    begin -= begin[np.searchsorted(channel, np.arange(len(channels)))][channel]
    copies, in_round = _cut(copies, begin, total[channel], num_rounds)
    sequence = np.lexsort((np.arange(len(copies)), copies.source, copies.target, in_round))
    rounds = Rounds(copies.take(sequence), in_round[sequence], num_rounds)
    check_cap(rounds, world_size, cap)
    return rounds


def check_cap(rounds: Rounds, world_size: int, cap: int) -> None:
    """AssertionError where a rank sends or receives more than ``cap`` elements in a round."""
    for rank in (rounds.copies.source, rounds.copies.target):
        load = np.bincount(rounds.round * world_size + rank, weights=rounds.copies.size)
        assert load.max(initial=0) <= cap, f"{int(load.max())} elements in one round, over the cap of {cap}"


def plan_digest(local: Copies, rounds: Rounds) -> str:
    """Equal where two plans are: what ranks compare before the first byte."""
    digest = hashlib.blake2b(digest_size=16)
    local.add_to(digest)
    rounds.copies.add_to(digest)
    digest.update(rounds.round.tobytes())
    return digest.hexdigest()
