"""What travels, dealt into lock-step rounds: in none of them does any rank send or receive more than a cap.

Every pair of ranks that exchange something is a channel, and all channels advance at the same relative speed: of R rounds, each
takes a share of 1/R of every channel. R is set by the busiest rank, so the number of rounds is the least that its traffic allows,
and parameters complete in nearly the order in which the destination has them.

Example: a cap of 32, one rank that receives 30 from each of two others: R = ceil(60 / (3/4 x 32)) = 3, 10 from each per round.
A quarter of the cap is kept for what granularity adds: pieces are at most 1/4 of the cap over the largest number of channels of a
rank, and a channel exceeds its share in a round by less than a piece.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def make_rounds(copies: Copies, world_size: int, cap: int) -> Rounds:
    """``copies`` between different ranks, in rounds of at most ``cap`` elements sent and received per rank."""
    if not len(copies):
        return Rounds(copies, np.empty(0, dtype=np.int64), 0)
    channels, _ = _channels(copies, world_size)
    piece = cap // (4 * _busiest(channels, np.ones_like(channels), world_size))
    assert piece >= 1, f"a cap of {cap} elements is too small for {world_size} ranks"
    copies = chop(copies, np.full(len(copies), piece, dtype=np.int64))
    channels, channel = _channels(copies, world_size)
    sequence = np.lexsort((copies.order, channel))
    copies, channel = copies.take(sequence), channel[sequence]
    total = np.bincount(channel, weights=copies.size).astype(np.int64)
    num_rounds = max(1, -(-4 * _busiest(channels, total, world_size) // (3 * cap)))
    begin = np.cumsum(copies.size) - copies.size
    begin -= begin[np.searchsorted(channel, np.arange(len(channels)))][channel]
    in_round = begin * num_rounds // total[channel]
    sequence = np.lexsort((np.arange(len(copies)), copies.source, copies.target, in_round))
    rounds = Rounds(copies.take(sequence), in_round[sequence], num_rounds)
    check_cap(rounds, world_size, cap)
    return rounds


def check_cap(rounds: Rounds, world_size: int, cap: int) -> None:
    """AssertionError where a rank sends or receives more than ``cap`` elements in a round."""
    for rank in (rounds.copies.source, rounds.copies.target):
        load = np.bincount(rounds.round * world_size + rank, weights=rounds.copies.size)
        assert load.max(initial=0) <= cap, f"{int(load.max())} elements in one round, over the cap of {cap}"
