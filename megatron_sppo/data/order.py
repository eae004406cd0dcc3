"""The order in which rows are visited: a pure function of (seed, epoch), and a cursor that resumes inside it exactly.

Epochs follow each other without a gap: a batch may take the last rows of one epoch and the first of the next. No row is
dropped, every row comes once per epoch, and no batch holds a row twice. The same on every rank: ranks play no part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_sppo.errors import UserError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EpochOrder:
    """Visiting order of ``size`` rows in batches of ``batch_size`` (at most ``size``)."""

    size: int
    batch_size: int
    seed: int
    shuffle: bool

    def shuffled(self, epoch: int) -> Indices:
        """[size] the epoch's own permutation. Sorts raw Philox bits, whose stream numpy guarantees across versions."""
        if not self.shuffle:
            return np.arange(self.size, dtype=np.int64)
        key = hashlib.blake2b(f"epoch-order:{self.seed}:{epoch}".encode(), digest_size=16).digest()
        bits = np.random.Philox(key=np.frombuffer(key, dtype="<u8")).random_raw(self.size)
        return np.argsort(bits, kind="stable").astype(np.int64)

    def following(self, epoch: int, previous: Indices) -> Indices:
        """[size] order of ``epoch``, given that of the epoch before.

        The batch across the boundary starts with the last ``tail`` rows of ``previous``; should one of them stand among the
        first rows of this epoch, it waits until just after that batch. Example with batches of 3, previous [2 0 3 1],
        shuffled [1 0 3 2]: the batch has 1 already and takes 0 and 3, so the order becomes [0 3 1 2].
        """
        rows = self.shuffled(epoch)
        tail = epoch * self.size % self.batch_size
        if tail == 0:
            return rows
        allowed = np.flatnonzero(~np.isin(rows, previous[self.size - tail :]))
        first = allowed[: self.batch_size - tail]
        return np.concatenate([rows[first], np.delete(rows, first)])

    def rows(self, epoch: int) -> Indices:
        """[size] order of any epoch.

        Waiting moves rows within the first ``batch_size`` places only, so with two batches or more per epoch it never reaches
        the tail that the next epoch looks at, and the walk can start one epoch back instead of at the first.
        """
        start = max(epoch - 1, 0) if self.size >= 2 * self.batch_size else 0
        rows = self.shuffled(start)
        for later in range(start + 1, epoch + 1):
            rows = self.following(later, rows)
        return rows


class BatchCursor:
    """Where a run stands in its :class:`EpochOrder`.

    ``batch_knob`` names the batch size in errors; ``fingerprint`` ties a saved cursor to its data.
    """

    def __init__(self, order: EpochOrder, batch_knob: str, fingerprint: str) -> None:
        if not 1 <= order.batch_size <= order.size:
            raise UserError(
                f"{batch_knob}={order.batch_size} cannot be filled from {order.size} usable rows without repeats; "
                f"set it between 1 and {order.size} or add data."
            )
        self._order = order
        self._batch_knob = batch_knob
        self._fingerprint = fingerprint
        self._epoch, self._position = 0, 0
        self._rows = order.rows(0)

    @property
    def epoch(self) -> float:
        """Epochs done, with the fraction of the present one."""
        return self._epoch + self._position / self._order.size

    def next_indices(self) -> list[int]:
        """[batch_size] the rows of the next batch."""
        picked: list[int] = []
        while len(picked) < self._order.batch_size:
            if self._position == self._order.size:
                self._epoch, self._position = self._epoch + 1, 0
                self._rows = self._order.following(self._epoch, self._rows)
            piece = self._rows[self._position : self._position + self._order.batch_size - len(picked)]
            picked += piece.tolist()
            self._position += len(piece)
        return picked

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"epoch": self._epoch, "position": self._position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved cursor; one of other data or another order is a :class:`UserError`."""
        knobs = {"fingerprint": "data", "batch_size": self._batch_knob, "seed": "seed", "shuffle": "data.shuffle"}
        for key, now in self._identity().items():
            if state[key] != now:
                raise UserError(
                    f"{knobs[key]}: the checkpoint's data cursor was made with {key}={state[key]} and this run has {now}; "
                    "restore the old setting, or start a new run_dir from the exported weights."
                )
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._rows = self._order.rows(self._epoch)

    def _identity(self) -> dict[str, Any]:
        order = self._order
        return {"fingerprint": self._fingerprint, "batch_size": order.batch_size, "seed": order.seed, "shuffle": order.shuffle}


def fingerprint(parts: Iterable[bytes]) -> str:
    """A short name for the data: the same rows in the same order with the same tokens."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
